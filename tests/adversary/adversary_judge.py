"""The judge: it knows what is true, and when the scaler could have known it.

Two invariants, each with the least mercy that is fair.

I1. No replica that has work is scaled away because something was not known.

- When KEDA goes to zero, nobody may have worked within the last `idleSeconds`, as far as it could
  have been seen: work counts that one pod (or the gateway) had for longer than a poll takes (and
  the time that it takes to notice that a page hangs), and a pod counts once the list has told of
  it, or has had `staleSeconds` and a poll to do so. Nobody may work whose latest poll failed, if
  only since a moment ago. A Prometheus that began to scrape nobody while there was no pod need not
  know of those that come: docs/faults.md has that as a row.
- Where it was an error of the scaler that KEDA's race took for "inactive", two things excuse it:
  that nothing was known (neither of work, nor that there is none) for `holdSeconds`, and that the
  list could not be read since the scaler began. A scaler that is not there is never raced: nothing
  that we write can help it then.
- When the HPA asks and every metric has a value, so that it may scale in, they must not ask for
  fewer replicas than there are and than the work needs, see below, at its least. Of a pod that
  cannot be read counts what it last said, or its target if that is more, for `holdSeconds`: what
  came to it since is not known. While `maxPendingFactor` caps a value there may be more replicas
  than it asks for: the HPA goes by what it heard before the last sleep, or before the scaler began
  anew.

I2. No value asks for more while work does not grow: a value that asks for more replicas than at the
reading before (and for more than one) must be made of work that was there, see below, at its most.
What the HPA makes of values within its tolerance is not looked at.

What work was there: each pod that is listed counts with what it had since its page was due last, at
least and at most, and if it could not be read or listed meanwhile, with what it had within
`staleSeconds`, since its last reading counts for so long; likewise the gateway. So requests that
move from one pod to another may be seen twice, or not at all, for no longer than that.
"""

import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from adversary_plan import LIST_HITS, PROMETHEUS_HITS, Event, Hit, Plan, Work
from adversary_pods import Pod
from adversary_source import Page, Source
from adversary_world import World
from keda_scaler.core.demand import whole
from keda_scaler.core.signals import Signal
from keda_scaler.sources.pages import PAGE_SECONDS

PRECISION = 1e-6
_UNLISTED = LIST_HITS | PROMETHEUS_HITS | {Hit.API, Hit.SCALER}
GATEWAY = "the gateway"


@dataclass(frozen=True, slots=True)
class _Entry:
    """What was true from an instant on."""

    at: float
    loads: Mapping[Pod, Work]
    kept: Mapping[Pod, Work]
    held: int
    told: frozenset[str]


@dataclass(frozen=True, slots=True)
class Fault:
    """An invariant that did not hold."""

    at: float
    what: str

    def __str__(self) -> str:
        """Say it in a line."""
        return f"at {self.at:g}: {self.what}"


class Judge:
    """Keeps what was true lately, and looks at what is made of it."""

    def __init__(self, plan: Plan) -> None:
        trigger = self._trigger = plan.trigger
        self._plan = plan
        hangs = any(event.hit is Hit.HANG for event in plan.events)
        late = PAGE_SECONDS if hangs else 0.0
        self._poll = trigger.poll_seconds + (plan.scraped_every or late) + 1.0
        """How old the newest reading of a page may be that is read all the time."""
        self._stale = trigger.stale_after + self._poll
        self._entries: deque[_Entry] = deque()
        self._decided: dict[Signal, int] = {}
        """How many replicas each metric asked for at the last reading that gave it a value."""
        self._list_failed_at = self._gateway_failed_at = -math.inf
        self._blind_until = -math.inf
        """Until when a Prometheus that scrapes nobody may show no pod that has come since."""
        self._unscraped: set[Event] = set()
        self.news_at = 0.0
        """When it was last known that there is work, or that there is none."""

    def note(self, now: float, world: World, told: frozenset[str]) -> None:
        """Write down what is true from now on."""
        self._entries.append(_Entry(now, world.loads, world.kept, world.held, told))
        oldest = now - max(self._trigger.idle_seconds, self._stale) - 2 * self._stale
        while len(self._entries) > 1 and self._entries[1].at <= oldest:
            self._entries.popleft()
        self.look(now, world)

    def look(self, now: float, world: World) -> None:
        """Write down what cannot be read now."""
        for event in world.active:
            if event.hit in {Hit.AGENT, Hit.DISK} and event not in self._unscraped:
                self._unscraped.add(event)
                if not self._entries[-1].told:
                    self._blind_until = event.until + self._stale
            if event.hit in _UNLISTED:
                self._list_failed_at = now
            if event.hit in {Hit.GATEWAY, Hit.SCALER}:
                self._gateway_failed_at = now

    def sleep(self, now: float, source: Source, *, was_error: bool) -> Fault | None:
        """Look at a step of KEDA's to zero."""
        if was_error:
            is_silent = now - self.news_at >= self._trigger.hold_seconds
            if is_silent or not source.has_listed:
                return None
        who = self._worked(now - self._trigger.idle_seconds, now)
        if who is None:
            failing = {name for name, page in source.pages.items() if page.failures}
            who = next(iter(failing & self._busy(self._entries[-1], now)), None)
        if who is None or (who != GATEWAY and now < self._blind_until):
            return None
        why = "an error that KEDA's race took for inactive" if was_error else "inactive"
        return Fault(now, f"KEDA scaled to zero, by {why}, and {who} had work")

    def _worked(self, since: float, until: float) -> str | None:
        """Name one who could be seen to work within that time."""
        begun: dict[str, float] = {}
        for entry, ends in self._during(-math.inf, until):
            there = {name: at for name, at in begun.items() if name in self._busy(entry, ends)}
            for name in self._busy(entry, ends):
                there.setdefault(name, entry.at)
            begun = there
            for name, at in begun.items():
                if ends > since and ends - max(at, 0.0) >= self._poll:
                    return name
        return None

    def _busy(self, entry: _Entry, ends: float) -> set[str]:
        busy = {
            pod.name
            for loads in (entry.loads, entry.kept)
            for pod, work in loads.items()
            if work.requests and self._is_visible(entry, pod, ends)
        }
        return busy | ({GATEWAY} if entry.held else set())

    def _is_visible(self, entry: _Entry, pod: Pod, ends: float) -> bool:
        return pod.name in entry.told or ends >= pod.listed_at + self._stale

    def _during(self, since: float, until: float) -> Iterator[tuple[_Entry, float]]:
        """Give what was true within that time, and until when."""
        entries = self._entries
        for index, entry in enumerate(entries):
            ends = entries[index + 1].at if index + 1 < len(entries) else math.inf
            if ends > since and entry.at < until:
                yield entry, min(ends, until)

    def decided(
        self, now: float, values: Mapping[Signal, float | None], pages: Mapping[str, Page]
    ) -> Fault | None:
        """Look at what the metrics would tell, after every reading; None: no value."""
        fault = None
        for metric in self._trigger.metrics:
            value = values.get(metric.signal)
            if value is None:
                continue
            ask = whole(value / metric.target)
            before = self._decided.get(metric.signal, 0)
            self._decided[metric.signal] = ask
            if ask <= max(1, before):
                continue
            most = self._most(now, metric.signal, pages)
            if ask > whole(most / metric.target):
                fault = Fault(
                    now,
                    f"{metric.signal} asks for {ask} replicas after {before}, "
                    f"and all work that it can know of is {most:g}, of {metric.target:g} each",
                )
        return fault

    def asked(
        self,
        now: float,
        values: Mapping[Signal, float | None],
        replicas: int,
        pages: Mapping[str, Page],
    ) -> Fault | None:
        """Look at what the HPA is told, of which no value stands for a metric that has none.

        `replicas` are those that must not be given up: none while a cap holds values back.
        """
        asks = []
        for metric in self._trigger.metrics:
            value = values.get(metric.signal)
            if value is None:
                return None
            asks.append(whole(value / metric.target))
        least = min(self._least(now, pages), replicas)
        if max(asks) >= least:
            return None
        return Fault(now, f"the metrics ask for {max(asks)} replicas where the work needs {least}")

    def _most(self, now: float, signal: Signal, pages: Mapping[str, Page]) -> float:
        """Give the most that the newest readings of what is listed may add up to."""
        seen = self._seen(now, signal, pages, with_kept=True)
        return sum(max(loads) for loads in seen.values())

    def _least(self, now: float, pages: Mapping[str, Page]) -> int:
        """Give the fewest replicas that they may need."""
        hold, needs = self._trigger.hold_seconds, [0]
        for metric in self._trigger.metrics:
            seen = self._seen(now, metric.signal, pages, with_kept=False)
            least = 0.0
            for name, loads in seen.items():
                page = pages.get(name)
                if page is None or not page.failures:
                    least += min(loads)
                elif now - page.heard_at < hold:
                    least += min(*loads, max(metric.target, page.said.get(metric.signal, 0.0)))
            needs.append(whole(least / metric.target))
        return min(max(needs), self._plan.maximum)

    def _seen(
        self, now: float, signal: Signal, pages: Mapping[str, Page], *, with_kept: bool
    ) -> dict[str, list[float]]:
        """Give all that the newest reading of each pod that is listed, and of the gateway, may be.

        That of a pod which could not be read or listed lately may be old. What pods have that are
        ended does not count in values, as soon as it is known that they are.
        """
        list_fails = now - self._list_failed_at < self._stale
        gateway_fails = now - self._gateway_failed_at < self._stale
        seen: dict[str, list[float]] = {name: [] for name in pages}
        if signal is not Signal.GPU_MEMORY_PRESSURE:
            seen[GATEWAY] = []
        for entry, ends in self._during(now - self._stale, now + PRECISION):
            is_new = ends >= now - self._poll
            if GATEWAY in seen and (is_new or gateway_fails):
                seen[GATEWAY].append(entry.held)
            kept = entry.kept if with_kept else {}
            loads = {pod.name: work.of(signal) for pod, work in kept.items()}
            loads |= {pod.name: work.of(signal) for pod, work in entry.loads.items()}
            for name, page in pages.items():
                if is_new or list_fails or now - page.failed_at < self._stale:
                    seen[name].append(loads.get(name, 0.0))
        return seen
