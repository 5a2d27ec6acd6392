"""Endpoints: metrics pages read directly, from a static list or from behind a Service.

Every page has a reader of its own, so one that hangs delays no other. A reader polls with jitter
and backs off when its page fails; a replica that becomes ready is read at once.
"""

import asyncio
import contextlib
import os
import random
import socket
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from keda_scaler import engines
from keda_scaler.core.addresses import AddressRules
from keda_scaler.core.readings import Engine, Lacking, Missing, Readings, Replica
from keda_scaler.core.signals import Signal
from keda_scaler.core.trigger import Trigger
from keda_scaler.engines.devices import device_readings
from keda_scaler.engines.exposition import parse_page
from keda_scaler.engines.samples import Sample
from keda_scaler.errors import PageError, SourceError
from keda_scaler.sources.kubernetes import Endpoint, Listing, ServiceDirectory, judged
from keda_scaler.sources.localgpus import LocalGpus
from keda_scaler.sources.sink import Clock, Recorder, Sink

PAGE_SECONDS = 5.0
"""Longest time for one page. A busy engine answers late; a reading older than this is of no use."""

CONNECT_SECONDS = 2.0
"""Longest time for name resolution and connection."""

MAX_PAGE_BYTES = 8 << 20
"""Longest page, unpacked; a vLLM page has 51 kB."""

MAX_BACKOFF_SECONDS = 15.0
"""Longest pause after failures: a replica that answers again is noticed within this."""

_CHUNK = 1 << 16


class CheckedResolver(AbstractResolver):
    """Resolves names, and refuses addresses that the settings do not allow."""

    def __init__(self, rules: AddressRules) -> None:
        self._rules = rules
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Resolve a name to the addresses that may be connected to."""
        found = await self._resolver.resolve(host, port, family)
        allowed = [entry for entry in found if self._rules.allows_resolved(host, entry["host"])]
        if not allowed:
            raise OSError(None, f"{host} resolves to an address that is not allowed")
        return allowed

    async def close(self) -> None:
        """Close the resolver."""
        await self._resolver.close()


class Pages:
    """Fetches metrics pages within bounds."""

    def __init__(self, rules: AddressRules, record: Recorder, clock: Clock) -> None:
        self._record = record
        self._clock = clock
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=CheckedResolver(rules), limit=256),
            timeout=aiohttp.ClientTimeout(total=PAGE_SECONDS, connect=CONNECT_SECONDS),
            headers={"Accept": "text/plain;version=0.0.4,*/*;q=0.1"},
            auto_decompress=True,
        )

    async def samples(self, url: str, trigger: Trigger) -> tuple[Sample, ...]:
        """Read the samples of one page that matter to a trigger.

        Raises:
            SourceError: when it could not be read.

        """
        began = self._clock()
        result = "error"
        try:
            body, content_type = await self.fetch(url)
            names = engines.names(
                trigger.engine, latencies=trigger.reads_latencies, gpus=trigger.reads_devices
            )
            samples = parse_page(body, content_type, names, began)
            result = "ok"
        finally:
            self._record("endpoints", result, self._clock() - began)
        return samples

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def fetch(self, url: str) -> tuple[bytes, str]:
        """Fetch a page as it is: its body, and its content type.

        Raises:
            SourceError: when it could not be read.

        """
        try:
            async with self._session.get(url, allow_redirects=False) as response:
                if response.status != 200:
                    raise PageError(f"the page answers HTTP {response.status}")
                return await _body(response), response.headers.get("Content-Type", "")
        except TimeoutError:
            raise SourceError(f"no answer within {PAGE_SECONDS:g} s") from None
        except aiohttp.ClientConnectorError as error:
            raise SourceError(f"cannot connect: {_why(error)}") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise SourceError(f"cannot read the page: {type(error).__name__}") from error


def _why(error: aiohttp.ClientConnectorError) -> str:
    """Say why there is no connection; the system's own text names the address, ours does not."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return error.os_error.strerror or "the name cannot be resolved"
    number = error.os_error.errno
    return os.strerror(number) if number else "no address answers"


async def _body(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK):
        body += chunk
        if len(body) > MAX_PAGE_BYTES:
            raise PageError(f"the page is longer than {MAX_PAGE_BYTES >> 20} MiB")
    return bytes(body)


@dataclass(frozen=True, slots=True)
class Reach:
    """What readers read with; shared by all of them."""

    pages: Pages
    gpus: LocalGpus


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
        self._reach = Reach(Pages(rules, record, clock), LocalGpus(clock))

    async def run(self, namespace: str, trigger: Trigger, sink: Sink) -> None:
        """Read for one target until cancelled."""
        readers: dict[str, _Reader] = {}

        def start(endpoint: Endpoint) -> _Reader:
            reader = _Reader(endpoint, self._reach, namespace, trigger, sink)
            reader.start(group)
            return reader

        async with (
            asyncio.TaskGroup() as group,
            contextlib.aclosing(self._listings(namespace, trigger)) as listings,
        ):
            async for listing in listings:
                if isinstance(listing, Missing):
                    sink.unlisted(listing.reason)
                    continue
                sink.listed([endpoint.replica for endpoint in listing.endpoints], listing.at)
                _follow(listing.endpoints, readers, start)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._reach.pages.close()
        await self._reach.gpus.aclose()

    async def _listings(
        self, namespace: str, trigger: Trigger
    ) -> AsyncGenerator[Listing | Missing, None]:
        """Give the list of replicas: at once, when it changes, and at every poll."""
        if trigger.service is None:
            endpoints = tuple(Endpoint(Replica(url), url) for url in trigger.endpoints)
            while True:
                yield Listing(endpoints, self._clock())
                await asyncio.sleep(trigger.poll_seconds)
        path = trigger.path or engines.path(trigger.engine)
        async with self._directory.follow(namespace) as view:
            while True:
                if view.was_tried:
                    listing = view.endpoints(trigger.service, trigger.port, path)
                    yield judged(listing, self._rules.allows_listed)
                await view.changed(trigger.poll_seconds)


def _follow(
    endpoints: Iterable[Endpoint],
    readers: "dict[str, _Reader]",
    start: "Callable[[Endpoint], _Reader]",
) -> None:
    """Start readers of new endpoints, stop those of endpoints that are gone."""
    wanted = {endpoint.replica.name: endpoint for endpoint in endpoints}
    for name, reader in list(readers.items()):
        if name not in wanted or wanted[name].url != reader.endpoint.url:
            readers.pop(name).stop()
    for name, endpoint in wanted.items():
        if name not in readers:
            readers[name] = start(endpoint)
        readers[name].update(endpoint)


class _Reader:
    """Polls one page."""

    def __init__(
        self,
        endpoint: Endpoint,
        reach: Reach,
        namespace: str,
        trigger: Trigger,
        sink: Sink,
    ) -> None:
        self.endpoint = endpoint
        self._pages = reach.pages
        self._gpus = reach.gpus
        self._namespace = namespace
        self._trigger = trigger
        self._sink = sink
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self, group: asyncio.TaskGroup) -> None:
        self._task = group.create_task(self._run(), name=f"page {self.endpoint.url}")

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def update(self, endpoint: Endpoint) -> None:
        """Take a new state of the endpoint; one that becomes ready is read at once."""
        if endpoint.replica.ready and not self.endpoint.replica.ready:
            self._wake.set()
        self.endpoint = endpoint

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                readings, engine = await self._read()
                failures = 0
            except SourceError as error:
                readings, engine = engines.missing(str(error)), None
                failures += 1
            self._sink.read(self.endpoint.replica.name, readings, engine)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause(self._trigger.poll_seconds, failures)):
                    await self._wake.wait()
            self._wake.clear()

    async def _read(self) -> tuple[Readings, Engine | None]:
        trigger = self._trigger
        samples = await self._pages.samples(self.endpoint.url, trigger)
        # What a replica's own page says of GPUs is of its own GPUs, whatever their labels.
        gpus = device_readings(samples)
        readings, engine = engines.read(samples, trigger, gpus)
        if trigger.reads_devices and isinstance(gpus.memory, Missing):
            lacking = isinstance(readings[Signal.GPU_MEMORY_PRESSURE], Lacking)
            keeps = engine is not None and engine.reserves_memory
            if not trigger.prefers_engine_memory or (lacking and not keeps):
                gpus = await self._gpus.of(self._namespace, self.endpoint)
                readings, engine = engines.read(samples, trigger, gpus)
        return readings, engine


def pause(poll_seconds: float, failures: int) -> float:
    """Say how long to wait before the next poll, in seconds: with jitter, longer after failures.

    The first two failures change nothing: a page that fails once must not go stale for it.
    """
    longest = max(poll_seconds, MAX_BACKOFF_SECONDS)
    doublings = min(max(0, failures - 2), 10)
    return min(longest, poll_seconds * 2.0**doublings) * random.uniform(0.8, 1.0)
