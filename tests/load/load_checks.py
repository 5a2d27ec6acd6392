"""What a verification promises, and whether what was seen keeps it.

Plain functions over what was seen; times are seconds of one clock.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from keda_scaler.demo.plan import StackPlan
from keda_scaler.sim.model import EngineModel

SLACK_SECONDS = 5.0
"""What a cold start, or the end of the last pod, may take beyond what the plan says it must."""

_LEAST_AT_ONCE = 0.9
"""Of the users: how many must have had a request under way at once. Between two they have none."""

_ALONE = 1
"""Requests under way that are not the load yet: the one that keeps the replica."""


@dataclass(frozen=True, slots=True)
class LoadPlan(StackPlan):
    """How a verification goes. The defaults take three and a half minutes."""

    model: EngineModel = field(
        default_factory=lambda: EngineModel(max_num_seqs=16, num_blocks=384, step_seconds=0.04)
    )
    places: int = 24
    load_seconds: float = 15.0
    target_queue_depth: int = 5
    polling_interval: int = 5
    sync_seconds: float = 15.0
    idle_seconds: int = 30
    cooldown_period: int = 60
    cold_start_seconds: int = 60
    up_period: int = 15
    down_stabilization: int = 30
    down_period: int = 15
    limit_seconds: float = 600.0

    users: int = 100
    seconds: int = 60
    """How long they ask."""

    prompt_tokens: int = 200
    max_tokens: int = 100
    up_seconds: float = 60.0
    """From the first request of the load: when more replicas than before must be ready."""

    @property
    def cold_start_budget(self) -> float:
        """From a request at zero to its first token."""
        return self.load_seconds + SLACK_SECONDS

    @property
    def least_down(self) -> float:
        """From the last answer until no replica is wanted, as docs/keda.md adds it up."""
        return self.idle_seconds + self.cooldown_period - self.polling_interval

    @property
    def down_budget(self) -> float:
        """From the last answer until no pod is left, by the same sum: pollSeconds is 1 here."""
        most = self.idle_seconds + self.cooldown_period + self.polling_interval + 2
        return most + self.stop_seconds + SLACK_SECONDS


@dataclass(frozen=True, slots=True)
class Look:
    """What there was at one instant."""

    at: float
    wanted: int
    """Replicas, by KEDA and the HPA."""

    ready: int
    pods: int
    """Those that load or end included."""

    arrived: int
    """Requests at the gateway, since the beginning."""

    under_way: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """What clients saw: rows of locust's statistics."""

    statuses: Mapping[str, int]
    """Answers by status; 0: there was none."""

    problems: Mapping[str, int]
    """Requests that failed, by what was wrong."""

    ttft: Mapping[float, int]
    """Times to the first token in milliseconds, as locust rounds them, and how many had each."""

    itl: Mapping[float, int]
    """Between two tokens, on average, of so many answers."""

    @property
    def is_good(self) -> bool:
        """Whether there were answers, and all were whole."""
        return bool(self.statuses) and set(self.statuses) == {"200"} and not self.problems

    def __str__(self) -> str:
        """Say how many answers had which status, and what was wrong."""
        parts = [f"{count} x {status}" for status, count in sorted(self.statuses.items())]
        parts += [f"{count} x {problem}" for problem, count in self.problems.items()]
        return ", ".join(parts) or "no request"


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a verification: what clients saw, and what there was meanwhile."""

    loaded: Loaded
    looks: Sequence[Look]
    """At least one; the first is from just before."""


@dataclass(frozen=True, slots=True)
class Check:
    """A promise, and whether it was kept."""

    name: str
    is_kept: bool
    numbers: str

    def __str__(self) -> str:
        """Write it as a line."""
        return f"{'PASS' if self.is_kept else 'FAIL'}  {self.name:<12} {self.numbers}"


def quantile(times: Mapping[float, int], share: float) -> float:
    """Give the smallest time that this share of all does not exceed; NaN without any.

    Example: the 0.5-quantile of {10: 1, 20: 2} is 20.
    """
    left = math.ceil(sum(times.values()) * share)
    for time, count in sorted(times.items()):
        left -= count
        if left <= 0:
            return time
    return math.nan


def baseline(phase: Phase) -> Check:
    """One request, one replica."""
    most = max(max(look.wanted, look.ready) for look in phase.looks)
    least = min(look.ready for look in phase.looks)
    numbers = f"{phase.loaded}; {_count(most)}; {_times(phase.loaded)}"
    return Check("baseline", phase.loaded.is_good and most == least == 1, numbers)


def scale_up(phase: Phase, plan: LoadPlan) -> Check:
    """Everybody asks at once: more replicas are ready in time."""
    before = phase.looks[0]
    began = _first(look for look in phase.looks if look.under_way > _ALONE)
    peak = max(look.ready for look in phase.looks)
    at_once = max(look.under_way for look in phase.looks)
    more = _first(look for look in phase.looks if look.ready > max(1, before.ready))
    if began is None or more is None:
        return Check("scale up", is_kept=False, numbers=f"{before.ready} -> {peak} replicas")
    after = more.at - began.at
    reached = next(look.at for look in phase.looks if look.ready == peak) - began.at
    numbers = (
        f"{before.ready} -> {peak} replicas, {more.ready} ready after {after:.1f} s "
        f"(limit {plan.up_seconds:g} s), {peak} after {reached:.1f} s; {at_once} requests at once"
    )
    is_kept = after <= plan.up_seconds and at_once >= plan.users * _LEAST_AT_ONCE
    return Check("scale up", is_kept, numbers)


def no_errors(phase: Phase) -> Check:
    """Nobody gets an error, or half an answer, while replicas come."""
    return Check("no 5xx", phase.loaded.is_good, f"{phase.loaded}; {_times(phase.loaded)}")


def scale_down(looks: Sequence[Look], plan: LoadPlan) -> Check:
    """Down to the minimum, not before idle window and cooldown are over, and soon after.

    The looks begin with the load, and go on until no pod is left, or nobody waited any longer. What
    was before a replica had the load does not count: clients may be slow to begin.
    """
    served = (n for n, look in enumerate(looks) if look.ready and look.under_way > _ALONE)
    looks = looks[next(served, 0) :]
    peak = max(look.ready for look in looks)
    busy = max((look.under_way for look in looks if not look.wanted), default=0)
    answered = max((look.at for look in looks if look.under_way), default=looks[0].at)
    wanted = next((look.at for look in looks if not look.wanted), math.inf) - answered
    gone = next((look.at for look in looks if not look.pods), math.inf) - answered
    limit = f"(limit {plan.down_budget:g} s)"
    if gone == math.inf:
        late = looks[-1].at - answered
        numbers = f"{_count(looks[-1].pods)} left {late:.1f} s after the last answer {limit}"
        return Check("scale down", is_kept=False, numbers=numbers)
    numbers = (
        f"{peak} -> 0 replicas, none wanted {wanted:.1f} s after the last answer "
        f"(at least {plan.least_down:g} s), none left after {gone:.1f} s {limit}; "
        f"{busy} requests under way at zero"
    )
    is_kept = plan.least_down <= wanted and gone <= plan.down_budget and not busy
    return Check("scale down", is_kept, numbers)


def cold_start(phase: Phase, plan: LoadPlan) -> Check:
    """From zero, one request: a replica is wanted at once, and its first token is in time."""
    before = phase.looks[0]
    asked = next((look.at for look in phase.looks if look.arrived > before.arrived), math.nan)
    woken = next((look.at for look in phase.looks if look.wanted), math.inf)
    ttft = quantile(phase.loaded.ttft, 1.0) / 1000
    numbers = (
        f"{phase.loaded}; woken after {woken - asked:.1f} s, first token after {ttft:.2g} s "
        f"(limit {plan.cold_start_budget:g} s), of which {plan.load_seconds:g} s load the model"
    )
    is_kept = not before.pods and asked <= woken < math.inf and ttft <= plan.cold_start_budget
    return Check("cold start", phase.loaded.is_good and is_kept, numbers)


def _first(looks: Iterator[Look]) -> Look | None:
    return next(looks, None)


def _count(replicas: int) -> str:
    return f"{replicas} replica{'' if replicas == 1 else 's'}"


def _times(loaded: Loaded) -> str:
    """Write the times that readers felt; locust rounds them to two digits."""
    ttft, itl = loaded.ttft, loaded.itl
    return (
        f"TTFT median {quantile(ttft, 0.5):g} ms, p95 {quantile(ttft, 0.95):g} ms; "
        f"ITL median {quantile(itl, 0.5):g} ms"
    )
