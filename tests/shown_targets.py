"""Targets in a real store, shown by a real HTTP server, for tests of what shows them."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp

from keda_scaler.core.readings import Demand, Engine, Missing, Reading, Replica, Value
from keda_scaler.core.signals import Signal
from keda_scaler.core.trigger import Accepts, parse_trigger
from keda_scaler.store import Store, Target
from keda_scaler.telemetry import Telemetry
from keda_scaler.web.access import Access
from keda_scaler.web.page import Pages
from keda_scaler.web.server import WebServer
from keda_scaler.web.targets import TargetsApi

ENGINE = Engine("vllm", reserves_memory=True)
ACCEPTS = Accepts(prometheus=frozenset({"main"}))


class Clock:
    """Time that stands still until it is moved."""

    now = 100_000.0

    def __call__(self) -> float:
        return self.now


class Shown:
    """A store, and the server that shows it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = Store(lambda _: lambda: None, lambda *_: None, self.clock)
        self.url = ""

    def target(self, namespace: str = "models", name: str = "llama", **keys: str) -> Target:
        """Follow a target that is read from a Service, unless the keys say otherwise."""
        places = {"service", "prometheus"} & keys.keys()
        metadata = keys if places else {"service": "llama", **keys}
        key = repr((namespace, name, metadata)).encode()
        trigger = parse_trigger(metadata, ACCEPTS)
        return self.store.find(key) or self.store.follow(key, namespace, name, trigger)

    def poll(
        self, target: Target, *waiting: float | None, kv: float = 0.4, prefix: str = "pod"
    ) -> None:
        """Have replicas tell how much waits, now; None: one does not answer."""
        now = self.clock.now
        answers: dict[Replica, tuple[Mapping[Signal, Reading], Engine | None]] = {}
        for index, number in enumerate(waiting):
            readings: Mapping[Signal, Reading]
            if number is None:
                readings = dict.fromkeys(Signal, Missing("no answer within 5 s"))
            else:
                readings = {
                    Signal.QUEUE_DEPTH: Value(number, now),
                    Signal.CONCURRENCY: Value(number * 2, now),
                    Signal.GPU_MEMORY_PRESSURE: Value(kv, now),
                }
            answers[Replica(f"{prefix}-{index}")] = (readings, ENGINE)
        if answers:
            target.polled(answers, now)
        else:
            target.listed([], now)
        if target.trigger.wake_from is not None:
            in_flight = sum(number for number in waiting if number is not None)
            target.demanded(Demand(0.0, in_flight, arrived=False, at=now))


@contextlib.asynccontextmanager
async def showing(access: Access | None = None) -> AsyncIterator[Shown]:
    """Show the targets of an empty store, on loopback."""
    shown = Shown()
    api = TargetsApi(shown.store, access or Access("127.0.0.1:0"), shown.clock)
    server = WebServer("127.0.0.1:0", Telemetry(), lambda: True, None, Pages(api).routes())
    await server.start()
    shown.url = f"http://127.0.0.1:{server.port}"
    try:
        yield shown
    finally:
        shown.store.close()
        await server.stop()


async def get(url: str, status: int = 200, **options: Any) -> tuple[str, Mapping[str, str]]:
    """Give the text and the headers of an answer that has the status."""
    async with aiohttp.ClientSession() as session, session.get(url, **options) as answer:
        text = await answer.text()
        assert answer.status == status, text
        return text, answer.headers
