"""What the tests of the Prometheus source share: a sink that remembers, and waiting for it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from keda_scaler.core.addresses import AddressRules
from keda_scaler.core.readings import Engine, Missing, Reading, Readings, Replica, Value
from keda_scaler.core.signals import Signal
from keda_scaler.core.trigger import Accepts, Trigger, parse_trigger
from keda_scaler.sources.prometheus import PrometheusSource
from keda_scaler.sources.sink import Answer

RULES = AddressRules.parse(["localhost", "127.0.0.0/8"])


class RememberingSink:
    """A sink that keeps the latest of everything."""

    def __init__(self) -> None:
        self.names: list[str] | None = None
        """The replicas that are listed; None: never listed, or not any more."""

        self.at = 0.0
        self.listings = 0
        self.reasons: list[str] = []
        self.readings: dict[str, Readings] = {}
        self.doubt: str | None = None

    def listed(self, replicas: Sequence[Replica], at: float) -> None:
        """Keep the list."""
        self.names = [replica.name for replica in replicas]
        self.at = at
        self.listings += 1

    def polled(
        self, answers: Mapping[Replica, Answer], at: float, doubt: str | None = None
    ) -> None:
        """Keep the list, all readings and the doubt."""
        self.listed(list(answers), at)
        self.doubt = doubt
        for replica, (readings, engine) in answers.items():
            self.read(replica.name, readings, engine)

    def unlisted(self, reason: str) -> None:
        """Keep the reason."""
        self.names = None
        self.reasons.append(reason)

    def read(self, replica: str, readings: Readings, engine: Engine | None = None) -> None:
        """Keep the readings."""
        assert replica in (self.names or []), "a replica is listed before it is read"
        self.readings[replica] = readings

    def number(self, replica: str, signal: Signal) -> float | None:
        """Give what a signal of a replica was last; None: nothing was measured."""
        reading = self.readings.get(replica, {}).get(signal)
        return reading.number if isinstance(reading, Value) else None

    def problem(self, replica: str) -> str:
        """Say why the queue depth of a replica is missing; empty when it is not."""
        reading: Reading | None = self.readings.get(replica, {}).get(Signal.QUEUE_DEPTH)
        return reading.reason if isinstance(reading, Missing) else ""


def trigger_of(**keys: str) -> Trigger:
    """Parse a trigger that reads from the Prometheus `main`, once a second."""
    given = {"pollSeconds": "1", "staleSeconds": "5"} | keys
    if "serverAddress" not in given:
        given["prometheus"] = "main"
    return parse_trigger(given, Accepts(frozenset({"main"}), RULES))


@contextlib.asynccontextmanager
async def reading(
    source: PrometheusSource, namespace: str, trigger: Trigger
) -> AsyncIterator[RememberingSink]:
    """Run the source for one target."""
    sink = RememberingSink()
    task = asyncio.create_task(source.run(namespace, trigger, sink))
    try:
        yield sink
        assert not task.done(), "the source runs until it is cancelled"
    finally:
        task.cancel()
        await asyncio.wait([task], timeout=1)
        assert task.cancelled(), "the source ends at once when it is cancelled"


async def until(condition: Callable[[], object], seconds: float = 15) -> None:
    """Wait for something that takes real time: Prometheus scrapes by the clock on the wall."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.03)
