"""Readings through Prometheus.

One poll asks three things of one instant: when the newest scrape of all was (whether this
Prometheus is alive), the engine's samples of the last seconds, and the scrape targets of the
namespace. The samples are asked for with a range, because only so do they keep their own times. The
namespace of the ScaledObject is in every query about replicas, and no trigger can take it out.

A Prometheus that cannot be read, whose clock is off or whose newest scrape is old lists nothing:
what was read before goes stale by itself. A new target asks once for the last hour, and does so
again after a gap in its polls, because a replica may have come and gone silent in between.
"""

import asyncio
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from keda_scaler import engines
from keda_scaler.core.addresses import AddressRules
from keda_scaler.core.matchers import quote
from keda_scaler.core.readings import Lacking, Replica
from keda_scaler.core.signals import Signal
from keda_scaler.core.trigger import Trigger
from keda_scaler.engines import devices
from keda_scaler.engines.devices import DeviceReadings
from keda_scaler.engines.samples import Sample
from keda_scaler.errors import SourceError
from keda_scaler.sources.promapi import Pin, Prometheus, PrometheusServer, Series
from keda_scaler.sources.promreplicas import REMEMBERED_SECONDS, Part, Roster, Scrape
from keda_scaler.sources.sink import Clock, Recorder, Sink

__all__ = ["PrometheusServer", "PrometheusSource", "pause"]

MAX_BACKOFF_SECONDS = 15.0
"""Longest pause after failures."""

_log = structlog.get_logger(__name__)


class PrometheusSource:
    """Reads targets through the Prometheus that each one's trigger names."""

    def __init__(
        self,
        servers: Mapping[str, PrometheusServer],
        rules: AddressRules,
        *,
        clock: Clock = time.monotonic,
        wall: Callable[[], float] = time.time,
        record: Recorder | None = None,
    ) -> None:
        """Take the servers by the names that triggers use, and the rules for `serverAddress`.

        `record` is told of every poll: `prometheus`, `ok` or `error`, and its seconds.
        """
        self._servers = servers
        self._rules = rules
        self._clock = clock
        self._wall = wall
        self._record = record
        self._shared: dict[tuple[PrometheusServer, AddressRules | None], _Shared] = {}

    async def run(self, namespace: str, trigger: Trigger, sink: Sink) -> None:
        """Poll for one target until cancelled. Failures are told to the sink."""
        with self.borrow(trigger) as prometheus:
            target = _Target(namespace, trigger, sink, prometheus, self._clock)
            failures = 0
            while True:
                began = self._clock()
                failures = 0 if await target.poll() else failures + 1
                if self._record is not None:
                    result = "error" if failures else "ok"
                    self._record("prometheus", result, self._clock() - began)
                await asyncio.sleep(pause(trigger.poll_seconds, failures))

    async def aclose(self) -> None:
        """End all queries. Runs that are not cancelled yet fail from now on."""
        for shared in self._shared.values():
            shared.prometheus.close()

    @contextmanager
    def borrow(self, trigger: Trigger) -> Iterator[Prometheus]:
        """Lend the Prometheus of a trigger. Targets share it; the last one closes it."""
        if trigger.prometheus is not None:
            server, rules = self._servers[trigger.prometheus], None
        else:
            assert trigger.server_address is not None, "a trigger has one place to read from"
            server, rules = PrometheusServer(trigger.server_address), self._rules
        key = (server, rules)
        shared = self._shared.get(key)
        if shared is None:
            shared = _Shared(Prometheus(server, rules, clock=self._clock, wall=self._wall))
            self._shared[key] = shared
        shared.borrowers += 1
        try:
            yield shared.prometheus
        finally:
            shared.borrowers -= 1
            if not shared.borrowers:
                del self._shared[key]
                shared.prometheus.close()


def pause(poll_seconds: float, failures: int) -> float:
    """Say how long to wait before the next poll, in seconds, after that many failures in a row.

    Without one it is a poll; after failures 1, 2, 4, 8, then 15 seconds, whatever a poll is,
    because nothing is known meanwhile. Either has jitter, so that targets spread.
    """
    if not failures:
        return poll_seconds * random.uniform(0.9, 1.1)
    longest = min(MAX_BACKOFF_SECONDS, 2.0 ** min(failures - 1, 10))
    return longest * random.uniform(0.5, 1.0)


@dataclass(slots=True)
class _Shared:
    prometheus: Prometheus
    borrowers: int = 0


class _Target:
    """The polls of one target."""

    def __init__(
        self,
        namespace: str,
        trigger: Trigger,
        sink: Sink,
        prometheus: Prometheus,
        clock: Clock,
    ) -> None:
        self._trigger = trigger
        self._sink = sink
        self._prometheus = prometheus
        self._clock = clock
        self._roster = Roster(trigger)
        self._listed_at = -math.inf
        self._failing = False
        self._log = _log.bind(
            namespace=namespace, prometheus=trigger.prometheus or trigger.server_address
        )
        wanted = engines.names(trigger.engine, latencies=trigger.reads_latencies)
        names = quote("|".join(sorted(wanted)))
        bound = f"namespace={quote(namespace)}"
        self._engine_series = "{" + ",".join([f"__name__=~{names}", bound, *trigger.selector]) + "}"
        self._up_series = f"up{{{bound}}}"
        self._namespace = namespace
        self._needs_gpus = trigger.reads_devices and not trigger.prefers_engine_memory
        # An exporter's own namespace is in `namespace`, and the pod's in `exported_namespace`,
        # unless it honours labels or runs beside the engine.
        gpu_names = quote("|".join(sorted(devices.NAMES)))
        self._gpu_series = [
            f"{{__name__=~{gpu_names},{label}={quote(namespace)}}}"
            for label in devices.NAMESPACE_LABELS
        ]
        self._window = math.ceil(max(trigger.stale_after, 2 * trigger.poll_seconds))

    async def poll(self) -> bool:
        """Read once and tell the sink; whether it could be read."""
        try:
            await self._read()
        except SourceError as error:
            self._fail(str(error), getattr(error, "__notes__", []))
            return False
        if self._failing:
            self._log.info("Prometheus is read again")
        self._failing = False
        return True

    def _fail(self, reason: str, notes: list[str]) -> None:
        self._sink.unlisted(reason)
        if not self._failing:
            self._log.warning(
                "Prometheus cannot be read; what was read before goes stale, then is unknown",
                reason=reason,
                detail="; ".join(notes) or None,
            )
        self._failing = True

    async def _read(self) -> None:
        pin = await self._prometheus.pin()
        pin.check(self._trigger.stale_after, self._clock())
        if self._clock() - self._listed_at > self._window:
            hour = f"last_over_time({self._engine_series}[{REMEMBERED_SECONDS:.0f}s])"
            found = await self._prometheus.query(hour, pin.unix)
            self._roster.remember((sample_of(series, pin) for series in found), self._clock())
        found = await self._prometheus.query(f"{self._engine_series}[{self._window}s]", pin.unix)
        up = await self._prometheus.query(self._up_series, pin.unix)
        replicas = self._roster.replicas(
            [sample_of(series, pin) for series in found],
            [_scrape(series) for series in up],
            self._clock(),
            await self._gpus(pin),
        )
        self._listed_at = self._clock()
        self._sink.listed([Replica(name) for name in replicas], pin.to_monotonic(pin.newest))
        for name, (readings, engine) in replicas.items():
            self._sink.read(name, readings, engine)
            if isinstance(readings[Signal.GPU_MEMORY_PRESSURE], Lacking):
                self._needs_gpus = self._trigger.reads_devices  # from the next poll on

    async def _gpus(self, pin: Pin) -> dict[str, DeviceReadings]:
        """Ask for the GPUs of the namespace's pods, by pod; none where the trigger needs none."""
        if not self._needs_gpus:
            return {}
        samples: list[Sample] = []
        for matchers in self._gpu_series:
            found = await self._prometheus.query(f"{matchers}[{self._window}s]", pin.unix)
            samples += [sample_of(series, pin) for series in found]
        return devices.by_pod(samples, self._namespace)


def sample_of(series: Series, pin: Pin) -> Sample:
    """Make a sample of a series."""
    labels = {name: value for name, value in series.labels.items() if name != "__name__"}
    name = series.labels.get("__name__", "")
    return Sample(name, labels, series.number, pin.to_monotonic(series.unix))


def _scrape(series: Series) -> Scrape:
    return Scrape(Part.of(series.labels), series.labels.get("job", ""), series.number == 1)
