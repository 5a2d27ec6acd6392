"""Reads a world as `prometheus` does: a Prometheus that scrapes every pod, and rounds that ask it.

The rounds are the scaler's own (`promrounds.Target`): only the answers of Prometheus are made up,
by its rules. A target that is gone, or a scrape that fails, ends its series at once; where nobody
scrapes any more, `up` stands for five minutes.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from adversary_plan import Hit
from adversary_pods import Role
from adversary_source import Source, monotonic
from adversary_world import World
from keda_scaler.core.readings import Replica, Value
from keda_scaler.core.signals import Signal
from keda_scaler.core.trigger import Trigger
from keda_scaler.engines.spaces import Space
from keda_scaler.errors import SourceError
from keda_scaler.sources.promapi import SETTLED_SECONDS, Pin
from keda_scaler.sources.promnames import LOOK_SECONDS
from keda_scaler.sources.promrounds import Target as Reader
from keda_scaler.sources.promrounds import longest_pause, window_of
from keda_scaler.sources.sink import Answer
from keda_scaler.store import Target
from prometheus_samples import LOOKBACK_SECONDS, NAMESPACE, series, up, up_elsewhere

FIRST_SCRAPE, FIRST_ROUND = 0.4, 0.5
"""Scrapes are a little before the rounds."""


@dataclass(slots=True)
class _Scraped:
    """What Prometheus has of one pod."""

    up: bool
    at: float
    """When it was scraped last."""

    samples: dict[str, tuple[float, float]] = field(default_factory=dict)
    """The newest number of each family, and when it was scraped."""


class _Sink:
    """Passes on what a round tells, and writes down the list."""

    def __init__(self, source: "PrometheusSource", target: Target) -> None:
        self._source = source
        self._target = target

    def polled(
        self, answers: Mapping[Replica, Answer], at: float, doubt: str | None = None
    ) -> None:
        """See `Sink.polled`."""
        self._source.heard(answers, doubt)
        self._target.polled(answers, at, doubt)

    def unlisted(self, reason: str) -> None:
        """See `Sink.unlisted`."""
        self._target.unlisted(reason)


class PrometheusSource(Source):
    """See `Source`."""

    def __init__(self, world: World, trigger: Trigger, log: Callable[[str], None]) -> None:
        super().__init__(world, trigger, log)
        self._every = world.plan.scraped_every or math.inf
        self._scrape_at = FIRST_SCRAPE
        self._scraped: dict[str, _Scraped] = {}
        self._was_right = False
        """Whether it ever had series of the engine."""
        settled = int((SETTLED_SECONDS + LOOKBACK_SECONDS) / self._every) + 2
        self._alive: deque[float] = deque(
            (FIRST_SCRAPE - each * self._every for each in range(settled, 0, -1)), maxlen=settled
        )
        """When it scraped anything, lately."""
        self._lost: set[object] = set()
        self._reader: Reader | None = None
        self._round_at = math.inf
        self._failures = 0
        self._now = 0.0

    def begin(self, target: Target, now: float) -> None:
        """See `Source.begin`."""
        super().begin(target, now)
        self._reader = Reader(NAMESPACE, self._trigger, _Sink(self, target))  # type: ignore[arg-type]  # all that it uses
        self._round_at, self._failures = now + FIRST_ROUND, 0

    def end(self) -> None:
        """See `Source.end`."""
        super().end()
        self._reader, self._round_at = None, math.inf

    def changed(self, now: float) -> None:
        """See `Source.changed`: lose the disk."""
        event = self._world.find(Hit.DISK)
        if event is not None and event not in self._lost:
            self._lost.add(event)
            self._scraped.clear()
            self._alive.clear()
            self._was_right = False
            self._log("Prometheus has lost its disk")

    def next_at(self) -> float:
        """See `Source.next_at`."""
        return min(self._scrape_at, self._round_at)

    def read(self, now: float) -> bool:
        """See `Source.read`."""
        self._now = now
        if now >= self._scrape_at:
            self._scrape_at += self._every
            self._scrape(now)
        if now < self._round_at or self._reader is None or self._target is None:
            return False
        try:
            self._round(self._reader, now)
        except SourceError as error:
            self._failures += 1
            pause = longest_pause(self._failures)
            self._target.unlisted(str(error))
        else:
            self._failures, pause = 0, self._trigger.poll_seconds
        self._round_at = now + pause
        return True

    def heard(self, answers: Mapping[Replica, Answer], doubt: str | None) -> None:
        """Take note of what a round told."""
        self._tell(frozenset(replica.name for replica in answers))
        self.has_listed = True
        if doubt is None:
            self.confirmed_at = self._now
        read = {metric.signal for metric in self._trigger.metrics} | {Signal.CONCURRENCY}
        for replica, (readings, _) in answers.items():
            scraped = self._scraped.get(replica.name)
            at = self._now if scraped is None else scraped.at
            wanted = {signal: readings[signal] for signal in read}
            self.pages[replica.name].heard(wanted, self._now, at)

    def _scrape(self, now: float) -> None:
        """Be Prometheus: scrape what there is."""
        world = self._world
        if world.find(Hit.PROMETHEUS):
            return
        self._alive.append(now)
        if world.find(Hit.AGENT) or world.find(Hit.DISK):
            return
        pods = {
            pod.name: pod
            for pod in world.workload.pods
            if pod.role is Role.SERVER and pod.listed_at <= now < pod.gone_at
        }
        for name in [name for name in self._scraped if name not in pods]:
            if world.find(Hit.API) is None:
                del self._scraped[name]
        for name, pod in pods.items():
            answer = world.page(pod, now)
            readings = {} if answer is None else answer[0]
            known = self._scraped.setdefault(name, _Scraped(up=False, at=now))
            known.at = now
            known.up = any(isinstance(reading, Value) for reading in readings.values())
            if known.up and world.find(Hit.FAMILIES, pod) is None:
                known.samples |= {family: (number, now) for family, number in _families(readings)}
                served = None if answer is None or answer[1] is None else answer[1].served
                known.samples["vllm:prompt_tokens_total"] = (served or 0.0, now)
                self._was_right = True

    def _round(self, reader: Reader, now: float) -> None:
        """Be one round.

        Raises:
            SourceError: when Prometheus is not there, or cannot be believed.

        """
        if self._world.find(Hit.PROMETHEUS):
            raise SourceError("Prometheus cannot be reached")
        pin, at = self._pin(now), monotonic(now)
        trigger = self._trigger
        pin.check(trigger.stale_after, at)
        window = window_of(trigger)
        if at - reader.listed_at > window:
            reader.roster.remember(self._space(now, math.inf, past=True), at)
        space = self._space(now, window)
        if at - reader.looked_at >= LOOK_SECONDS and reader.shows_nothing(space, at):
            reader.looked_at = at
            reader.wrong = "" if self._was_right else "no series of vllm within a week"
            reader.had_replicas |= not reader.wrong
        reader.take(space, {}, pin, at)

    def _pin(self, now: float) -> Pin:
        if not self._alive:
            raise SourceError("Prometheus has scraped nothing yet")
        settled = now - SETTLED_SECONDS
        before = [at for at in self._alive if settled - LOOKBACK_SECONDS < at <= settled]
        return Pin(
            unix=monotonic(now),
            at=monotonic(now),
            newest=monotonic(self._alive[-1]),
            skew=0.0,
            before=monotonic(before[-1]) if before else None,
        )

    def _space(self, now: float, window: float, *, past: bool = False) -> Space:
        """Give what Prometheus has of the last seconds, of what is scraped; or of a week."""
        space = Space(NAMESPACE, [self._trigger.engine])
        space.add_scrape(up_elsewhere(monotonic(now)))
        for name, scraped in self._scraped.items():
            is_there = now - scraped.at < LOOKBACK_SECONDS
            if is_there:
                space.add_scrape(up(name, monotonic(scraped.at), succeeded=scraped.up))
            if not past or is_there:
                for family, (number, at) in scraped.samples.items():
                    if now - at <= window:
                        space.add(series(name, family, number, monotonic(at)))
        return space


def _families(readings: Mapping[Signal, object]) -> Iterator[tuple[str, float]]:
    """Give the families of a page, as far as it has them."""
    waiting, work = readings[Signal.QUEUE_DEPTH], readings[Signal.CONCURRENCY]
    kv_cache = readings[Signal.GPU_MEMORY_PRESSURE]
    if isinstance(waiting, Value):
        yield "vllm:num_requests_waiting", waiting.number
        if isinstance(work, Value):
            yield "vllm:num_requests_running", work.number - waiting.number
    if isinstance(kv_cache, Value):
        yield "vllm:kv_cache_usage_perc", kv_cache.number
