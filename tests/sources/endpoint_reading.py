"""What tests of pages share: a sink that writes down, a target being read, a page being served."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from aiohttp import web

from keda_scaler.core.addresses import AddressRules
from keda_scaler.core.readings import Engine, Missing, Readings, Replica, Value
from keda_scaler.core.signals import Signal
from keda_scaler.core.trigger import Accepts, parse_trigger
from keda_scaler.sources.endpoints import EndpointsSource
from keda_scaler.sources.kubernetes import ServiceDirectory
from keda_scaler.sources.sink import Answer

LOOPBACK = AddressRules.parse(["127.0.0.0/8"])


@dataclass
class Notebook:
    """A sink that writes down what it is told."""

    listings: list[tuple[Replica, ...]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    readings: dict[str, Readings] = field(default_factory=dict)
    engines: list[Engine | None] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def listed(self, replicas: Sequence[Replica], at: float) -> None:
        self.listings.append(tuple(replicas))
        self.news.set()

    def polled(
        self, answers: Mapping[Replica, Answer], at: float, doubt: str | None = None
    ) -> None:
        raise AssertionError("pages are polled one by one")

    def unlisted(self, reason: str) -> None:
        self.problems.append(reason)
        self.news.set()

    def read(self, replica: str, readings: Readings, engine: Engine | None = None) -> None:
        self.readings[replica] = readings
        self.engines.append(engine)
        self.news.set()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(15):
            while not condition():
                self.news.clear()
                await self.news.wait()

    def queue(self, replica: str) -> float | str | None:
        reading = self.readings.get(replica, {}).get(Signal.QUEUE_DEPTH)
        if isinstance(reading, Value):
            return reading.number
        return reading.reason if isinstance(reading, Missing) else None


@contextlib.asynccontextmanager
async def reading(
    metadata: dict[str, str],
    rules: AddressRules = LOOPBACK,
    directory: ServiceDirectory | None = None,
) -> AsyncIterator[Notebook]:
    """Read a target as the scaler does."""
    directory = directory or ServiceDirectory()
    source = EndpointsSource(rules, directory, lambda *_: None)
    trigger = parse_trigger(metadata, Accepts(addresses=rules))
    notebook = Notebook()
    task = asyncio.create_task(source.run("default", trigger, notebook))
    try:
        yield notebook
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await source.aclose()
        await directory.aclose()


@contextlib.asynccontextmanager
async def serving(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/metrics", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/metrics"
    finally:
        await runner.cleanup()
