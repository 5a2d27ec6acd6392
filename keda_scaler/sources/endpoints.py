"""Endpoints: metrics pages read directly, from a list of URLs or from behind a Service.

Every page has a reader of its own, so one that hangs delays no other; all targets share it. It
polls with jitter and backs off when its page fails; a replica that becomes ready is read at once.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass

from keda_scaler import engines
from keda_scaler.core.addresses import AddressRules
from keda_scaler.core.readings import Engine, Lacking, Missing, Readings
from keda_scaler.core.signals import Signal
from keda_scaler.core.trigger import Trigger
from keda_scaler.engines.samples import Sample
from keda_scaler.errors import SourceError
from keda_scaler.sources.enginepages import EnginePages, Seen, pause
from keda_scaler.sources.kubernetes import Endpoint, Listing, ServiceDirectory, judged
from keda_scaler.sources.localgpus import LocalGpus
from keda_scaler.sources.names import NamedPages, Names
from keda_scaler.sources.sink import Clock, Recorder, Sink


@dataclass(frozen=True, slots=True)
class _Reach:
    """What the replicas of one target are read with, and for."""

    pages: EnginePages
    gpus: LocalGpus
    namespace: str
    trigger: Trigger
    sink: Sink
    tasks: asyncio.TaskGroup


class EndpointsSource:
    """Reads the pages that triggers with `endpoints` or `service` name."""

    def __init__(
        self,
        rules: AddressRules,
        directory: ServiceDirectory,
        record: Recorder,
        clock: Clock = time.monotonic,
    ) -> None:
        self._rules = rules
        self._directory = directory
        self._clock = clock
        self._pages = EnginePages(rules, record, clock)
        self._gpus = LocalGpus(clock)
        self._names = Names(rules)

    async def run(self, namespace: str, trigger: Trigger, sink: Sink) -> None:
        """Read for one target until cancelled."""
        replicas: dict[str, _Replica] = {}
        async with (
            asyncio.TaskGroup() as tasks,
            contextlib.aclosing(self._listings(namespace, trigger)) as listings,
        ):
            reach = _Reach(self._pages, self._gpus, namespace, trigger, sink, tasks)
            try:
                async for listing in listings:
                    if isinstance(listing, Missing):
                        sink.unlisted(listing.reason)
                        continue
                    sink.listed([endpoint.replica for endpoint in listing.endpoints], listing.at)
                    _follow(listing.endpoints, replicas, reach)
            finally:
                for replica in replicas.values():
                    replica.stop()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pages.aclose()
        await self._names.close()
        await self._gpus.aclose()

    def _listings(
        self, namespace: str, trigger: Trigger
    ) -> AsyncGenerator[Listing | Missing, None]:
        """Give the list of replicas when it changes, and at every poll."""
        if trigger.service is None:
            return self._named(trigger)
        return self._behind(trigger.service, namespace, trigger)

    async def _named(self, trigger: Trigger) -> AsyncGenerator[Listing | Missing, None]:
        pages, failures = NamedPages(self._names, trigger, self._clock), 0
        while True:
            listing = await pages.listing()
            yield listing
            if pages.is_fixed:
                await asyncio.Event().wait()
            failures = failures + 1 if isinstance(listing, Missing) else 0
            await asyncio.sleep(pause(trigger.poll_seconds, failures))

    async def _behind(
        self, service: str, namespace: str, trigger: Trigger
    ) -> AsyncGenerator[Listing | Missing, None]:
        path = trigger.path or engines.path(trigger.engine)
        async with self._directory.follow(namespace, trigger.stale_after) as view:
            while True:
                if view.was_tried:
                    listing = view.endpoints(service, trigger.port, path)
                    yield judged(listing, self._rules.allows_listed)
                await view.changed(min(trigger.poll_seconds, trigger.stale_after / 3))


def _follow(endpoints: Iterable[Endpoint], replicas: "dict[str, _Replica]", reach: _Reach) -> None:
    """Start to read new endpoints, stop to read those that are gone."""
    wanted = {endpoint.replica.name: endpoint for endpoint in endpoints}
    for name, replica in list(replicas.items()):
        if name not in wanted or not _is_at_same_place(wanted[name], replica.endpoint):
            replicas.pop(name).stop()
    for name, endpoint in wanted.items():
        if name not in replicas:
            replicas[name] = _Replica(endpoint, reach)
        replicas[name].update(endpoint)


def _is_at_same_place(one: Endpoint, other: Endpoint) -> bool:
    return (one.urls, one.host) == (other.urls, other.host)


class _Replica:
    """One replica of one target, from one poll of its pages to the next."""

    def __init__(self, endpoint: Endpoint, reach: _Reach) -> None:
        self.endpoint = endpoint
        self._reach = reach
        self._trigger = trigger = reach.trigger
        self._sink = reach.sink
        self._asking: asyncio.Task[None] | None = None
        """Asks for the GPUs of the scaler's own node; None: that was never needed."""
        self._leave = contextlib.ExitStack()
        self._leave.enter_context(reach.pages.follow(endpoint, trigger, self._take))

    def stop(self) -> None:
        """Read it no more."""
        self._leave.close()
        if self._asking is not None:
            self._asking.cancel()

    def update(self, endpoint: Endpoint) -> None:
        """Take a new state of the endpoint; one that becomes ready is read at once."""
        if endpoint.replica.ready and not self.endpoint.replica.ready:
            self._reach.pages.hurry(endpoint)
        self.endpoint = endpoint

    def _take(self, seen: Seen | SourceError) -> None:
        """Tell the sink what the page says."""
        name = self.endpoint.replica.name
        if isinstance(seen, SourceError):
            self._sink.read(name, engines.missing(str(seen)), None)
        elif not (
            isinstance(seen.gpus.memory, Missing) and self._needs_node(seen.readings, seen.engine)
        ):
            self._sink.read(name, seen.readings, seen.engine)
        elif self._asking is None or self._asking.done():
            asking = self._ask_node(seen.samples)
            self._asking = self._reach.tasks.create_task(asking, name=f"GPUs of {name}")

    def _needs_node(self, readings: Readings, engine: Engine | None) -> bool:
        """Whether the GPUs of the scaler's own node matter, if the page names none."""
        if not self._trigger.reads_devices:
            return False
        lacking = isinstance(readings[Signal.GPU_MEMORY_PRESSURE], Lacking)
        keeps = engine is not None and engine.reserves_memory
        return not self._trigger.prefers_engine_memory or (lacking and not keeps)

    async def _ask_node(self, samples: tuple[Sample, ...]) -> None:
        """Tell the sink what the page and the GPUs of the scaler's own node say."""
        gpus = await self._reach.gpus.of(self._reach.namespace, self.endpoint)
        readings, engine = engines.read(samples, self._trigger, gpus)
        self._sink.read(self.endpoint.replica.name, readings, engine)
