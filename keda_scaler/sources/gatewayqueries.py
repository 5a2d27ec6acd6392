"""Gateways and own queries read through Prometheus.

One poll asks for the time of the newest scrape of all (whether this Prometheus is alive), and for
the gateway's samples of the last seconds, of all targets of a namespace at once. A series that is
not there tells of no requests only if it was not there for an hour, or if what it was scraped from
is up: a gateway that cannot be scraped is unknown. The first poll asks once for the last hour.
"""

import contextlib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from keda_scaler.core.matchers import any_of
from keda_scaler.core.promql import bind
from keda_scaler.core.readings import Demand, Missing
from keda_scaler.core.trigger import Trigger
from keda_scaler.core.waking import is_demanded
from keda_scaler.engines.dialect import LARGEST_COUNT
from keda_scaler.engines.samples import Sample
from keda_scaler.errors import SourceError
from keda_scaler.gateways.counters import Series, rose
from keda_scaler.gateways.gateway import Gateway, Scope
from keda_scaler.sources.polls import Follower, Polls
from keda_scaler.sources.promanswer import MAX_SERIES
from keda_scaler.sources.promapi import Pin, Prometheus, sample_of
from keda_scaler.sources.promreplicas import REMEMBERED_SECONDS
from keda_scaler.sources.sink import Clock, Recorder, WakeSink

UNSCRAPED = Missing("Prometheus cannot scrape the gateway (up is 0, gone, or too old)")

Scraped = tuple[str, str]
"""A job and an instance of it: what an `up` series is about."""


@dataclass(frozen=True, slots=True)
class Found:
    """What one poll found of a gateway."""

    pin: Pin
    samples: tuple[Sample, ...]
    """The newest of each series within the window; each has its own time."""

    gone: tuple[Sample, ...]
    """The last of each series of the last hour that is not there now, and that may come back as it
    was: what it was scraped from is not up, or was not scraped within the window."""

    lost: tuple[Sample, ...]
    """Those of them that may be there, unseen: Prometheus still tries to scrape it, or scrapes
    nothing else of the same job."""


class Queries:
    """The queries of all targets."""

    def __init__(self, record: Recorder, clock: Clock) -> None:
        self._clock = clock
        self._found: Polls[Found] = Polls(record, clock)
        self._sums: Polls[tuple[Pin, Demand | Missing]] = Polls(record, clock)

    @contextlib.contextmanager
    def gateway(
        self,
        prometheus: Prometheus,
        gateway: Gateway,
        scope: Scope,
        trigger: Trigger,
        sink: WakeSink,
    ) -> Iterator[None]:
        """Read a gateway for one target while inside."""
        window = math.ceil(max(trigger.stale_after, 2 * trigger.poll_seconds))
        reader = _GatewayReader(prometheus, gateway, scope.namespace, window, self._clock)
        target = _GatewayTarget(gateway, scope, trigger, sink, self._clock)
        follower = Follower(sink, trigger.poll_seconds, target.take)
        key = (prometheus, gateway.name, scope.namespace, window)
        what = f"{gateway.title} of {scope.namespace} through Prometheus"
        with self._found.follow(key, what, reader.read, follower):
            yield

    @contextlib.contextmanager
    def query(
        self, prometheus: Prometheus, namespace: str, trigger: Trigger, sink: WakeSink
    ) -> Iterator[None]:
        """Ask a trigger's own query while inside."""
        promql = bind(str(trigger.wake_query), namespace)

        async def read() -> tuple[Pin, Demand | Missing]:
            pin = await prometheus.pin()
            found = await prometheus.query_own(promql, pin.unix, namespace, wakes=True)
            return pin, _total([series.number for series in found], pin)

        def take(answer: tuple[Pin, Demand | Missing] | SourceError) -> None:
            try:
                if isinstance(answer, SourceError):
                    raise answer
                answer[0].check(trigger.stale_after, self._clock())
                sink.demanded(answer[1])
            except SourceError as error:
                sink.demanded(Missing(str(error)))

        follower = Follower(sink, trigger.poll_seconds, take)
        with self._sums.follow((prometheus, promql), f"query of {namespace}", read, follower):
            yield

    async def aclose(self) -> None:
        """End all polls."""
        await self._found.aclose()
        await self._sums.aclose()


def _total(numbers: Iterable[float], pin: Pin) -> Demand | Missing:
    numbers = list(numbers)
    if not numbers:
        return Missing("the query gives no series; `or vector(0)` says that this means none")
    total = math.fsum(numbers) if all(map(math.isfinite, numbers)) else math.nan
    if not 0 <= total <= LARGEST_COUNT:
        return Missing("the query gives a number that is not one of requests")
    return Demand(total, total, arrived=False, at=pin.to_monotonic(pin.newest))


class _GatewayReader:
    """Reads the series of a gateway that concern one namespace."""

    def __init__(
        self, prometheus: Prometheus, gateway: Gateway, namespace: str, window: int, clock: Clock
    ) -> None:
        self._prometheus = prometheus
        self._selectors = gateway.promql(namespace)
        self._window = window
        self._clock = clock
        self._known: dict[Series, Sample] = {}
        """Series of the last hour, by when they were seen last. Not those that are gone for
        good."""
        self._read_at = -math.inf

    async def read(self) -> Found:
        pin = await self._prometheus.pin()
        if self._clock() - self._read_at > self._window:
            # New, or after a gap in which something may have come and gone silent.
            hour = [
                f"last_over_time({each}[{REMEMBERED_SECONDS:.0f}s])" for each in self._selectors
            ]
            self._remember(await self._ask(pin, hour), pin)
        samples = await self._ask(pin, [f"{each}[{self._window}s]" for each in self._selectors])
        self._remember(samples, pin)
        present = {_series(sample) for sample in samples}
        absent = [sample for series, sample in self._known.items() if series not in present]
        up = await self._up({_scraped(sample.labels) for sample in absent}, pin)
        gone = []
        for sample in absent:
            if up.get(_scraped(sample.labels)):
                del self._known[_series(sample)]
            else:
                gone.append(sample)
        self._read_at = self._clock()
        lost = [
            sample
            for sample in gone
            if _scraped(sample.labels) in up or not up.get((_scraped(sample.labels)[0], ""))
        ]
        return Found(pin, tuple(samples), tuple(gone), tuple(lost))

    async def _ask(self, pin: Pin, queries: Iterable[str]) -> list[Sample]:
        answers = [await self._prometheus.query(promql, pin.unix) for promql in queries]
        return [sample_of(series, pin) for found in answers for series in found]

    def _remember(self, samples: Iterable[Sample], pin: Pin) -> None:
        for sample in samples:
            self._known.pop(_series(sample), None)
            self._known[_series(sample)] = sample
        for series, sample in list(self._known.items()):
            if pin.at - sample.at > REMEMBERED_SECONDS or len(self._known) > MAX_SERIES:
                del self._known[series]

    async def _up(self, scraped: Collection[Scraped], pin: Pin) -> dict[Scraped, bool]:
        """Ask which of these are up, and with an empty instance, which jobs are anywhere.

        One that was last scraped before the window is not: it may have its series still.
        """
        if not scraped:
            return {}
        of_jobs = f"job=~{any_of({job for job, _ in scraped})}"
        of_those = f"{of_jobs},instance=~{any_of({instance for _, instance in scraped})}"
        is_new = f"(timestamp(up{{{of_those}}}) >= bool {pin.unix - self._window:.3f})"
        found = await self._prometheus.query(
            f"max by (job, instance) (up{{{of_those}}} * {is_new}) "
            f"or max by (job) (up{{{of_jobs}}})",
            pin.unix,
        )
        return {_scraped(series.labels): series.number == 1 for series in found}


class _GatewayTarget:
    """What a gateway says of one target, from one poll to the next."""

    def __init__(
        self, gateway: Gateway, scope: Scope, trigger: Trigger, sink: WakeSink, clock: Clock
    ) -> None:
        self._gateway = gateway
        self._scope = scope
        self._trigger = trigger
        self._sink = sink
        self._clock = clock
        self._counters: dict[Series, float] | None = None

    def take(self, answer: Found | SourceError) -> None:
        """Tell the sink what was found."""
        try:
            if isinstance(answer, SourceError):
                raise answer
            answer.pin.check(self._trigger.stale_after, self._clock())
            self._sink.demanded(self._read(answer))
        except SourceError as error:
            self._sink.demanded(Missing(str(error)))

    def _read(self, found: Found) -> Demand | Missing:
        now, pin = self._clock(), found.pin
        fresh = _once([s for s in found.samples if now - s.at <= self._trigger.stale_after])
        lost = any(self._gateway.concerns(sample, self._scope) for sample in found.lost)
        seen = self._gateway.seen(fresh, self._scope, pin.to_monotonic(pin.newest))
        if isinstance(seen, Missing):
            return UNSCRAPED if lost else seen
        arrived = rose(self._counters, seen.counters)
        self._counters = self._kept(found) | dict(seen.counters)
        demand = Demand(seen.held, seen.in_flight, arrived=arrived, at=seen.at)
        return UNSCRAPED if lost and not is_demanded(self._trigger, demand) else demand

    def _kept(self, found: Found) -> dict[Series, float]:
        """Give the counters that are not seen now, and may come back as they were."""
        kept = {_series(s): s.number for s in found.gone if self._gateway.concerns(s, self._scope)}
        returning = kept.keys() | {_series(sample) for sample in found.samples}
        before = self._counters or {}
        return kept | {series: before[series] for series in before.keys() & returning}


def _once(samples: Iterable[Sample]) -> list[Sample]:
    """Leave out what a second job scrapes from the same instance."""
    samples = list(samples)
    jobs: dict[str, str] = {}
    for sample in samples:
        job, instance = _scraped(sample.labels)
        jobs[instance] = min(job, jobs.get(instance, job))
    return [s for s in samples if _scraped(s.labels)[0] == jobs[_scraped(s.labels)[1]]]


def _series(sample: Sample) -> Series:
    return sample.name, frozenset(sample.labels.items())


def _scraped(labels: Mapping[str, str]) -> Scraped:
    return labels.get("job", ""), labels.get("instance", "")
