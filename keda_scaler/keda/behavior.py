"""How fast an HPA may change the replica count: `spec.behavior`, and what it remembers.

Source: Kubernetes 1.36, `pkg/controller/podautoscaler/horizontal.go`. Two regimes exist. Without a
`behavior` the HPA grows to at most twice the replicas (but always to 4) in one sync and shrinks to
the highest recommendation of the last 300 s. With one, even an empty one, the policies below rule,
and a recommendation must also outlast the stabilization window of its own direction.

Nothing here reads a clock or keeps state: `now` and the `History` come in, a new `History` goes
out.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

DOWN_STABILIZATION_SECONDS = 300
"""kube-controller-manager's `--horizontal-pod-autoscaler-downscale-stabilization` default."""

DEFAULT_TOLERANCE = 0.1
"""kube-controller-manager's `--horizontal-pod-autoscaler-tolerance` default."""

MAX_INT32 = 2**31 - 1
"""Replica counts are int32; what would not fit is capped here (Go leaves it undefined)."""

Change = tuple[float, int]
"""When, in seconds, and how many replicas."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How much one direction may change in one period."""

    type: Literal["Pods", "Percent"]
    value: int
    """Replicas, or percent of the replicas at the start of the period; above 0."""

    period_seconds: int
    """1 to 1800."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What one direction, up or down, may do."""

    policies: tuple[Policy, ...]
    select: Literal["Max", "Min", "Disabled"] = "Max"
    """Which policy counts: that of the largest change, of the smallest, or no change at all."""

    stabilization_seconds: int = 0
    """How long a recommendation must hold; 0 to 3600."""

    tolerance: float = DEFAULT_TOLERANCE
    """How far the ratio of value to target may be from 1 before this direction acts."""


DEFAULT_UP = Rules((Policy("Pods", 4, 15), Policy("Percent", 100, 15)))
DEFAULT_DOWN = Rules(
    (Policy("Percent", 100, 15),), stabilization_seconds=DOWN_STABILIZATION_SECONDS
)


@dataclass(frozen=True, slots=True)
class Behavior:
    """The `behavior` of an HPA, its defaults filled in."""

    up: Rules = DEFAULT_UP
    down: Rules = DEFAULT_DOWN


@dataclass(frozen=True, slots=True)
class History:
    """What an HPA remembers between syncs."""

    recommended: tuple[Change, ...] = ()
    """What the metrics asked for, before any limit."""

    added: tuple[Change, ...] = ()
    """Replicas that this HPA added."""

    removed: tuple[Change, ...] = ()
    """Replicas that this HPA removed."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be brought within limits."""

    current: int
    desired: int
    """What the metrics ask for."""

    low: int
    """The HPA's minReplicas, at least 1."""

    high: int
    """The HPA's maxReplicas."""


@dataclass(frozen=True, slots=True)
class Limited:
    """What is left of a wish."""

    replicas: int
    reason: str | None = field(default=None)
    """What limited it; None when nothing did."""


def limit(wish: Wish, behavior: Behavior | None, history: History, now: float) -> Limited:
    """Say how far towards the wish an HPA goes at `now`.

    Example: 10 replicas, a wish of 50, no behavior: 20, because one sync doubles at most
    (test_keda_behavior.py, `test_without_behavior_one_sync_doubles_or_reaches_four`).
    """
    stable = _stabilized(wish, behavior, history, now)
    if behavior is None:
        limited = _limited_by_factor(stable)
    else:
        limited = _limited_by_policies(stable, behavior, history, now)
    if limited.reason is None and stable.desired != wish.desired:
        return replace(limited, reason="a recent recommendation was closer to the current count")
    return limited


def with_recommendation(
    history: History, desired: int, behavior: Behavior | None, now: float
) -> History:
    """Add what the metrics asked for; forget what no window can reach any more."""
    rules = behavior or Behavior()
    window = max(rules.up.stabilization_seconds, rules.down.stabilization_seconds)
    recent = _since(history.recommended, now - window)
    return replace(history, recommended=(*recent, (now, desired)))


def with_change(history: History, change: int, behavior: Behavior | None, now: float) -> History:
    """Add what the HPA did; forget what no period can reach any more."""
    if behavior is None or not change:
        return history  # without a behavior no rule asks for it
    period = max(p.period_seconds for p in (*behavior.up.policies, *behavior.down.policies))
    added = _since(history.added, now - period)
    removed = _since(history.removed, now - period)
    if change > 0:
        added = (*added, (now, change))
    else:
        removed = (*removed, (now, -change))
    return replace(history, added=added, removed=removed)


def _since(changes: Iterable[Change], start: float) -> tuple[Change, ...]:
    return tuple(change for change in changes if change[0] >= start)


def _stabilized(wish: Wish, behavior: Behavior | None, history: History, now: float) -> Wish:
    if behavior is None:
        recent = _since(history.recommended, now - DOWN_STABILIZATION_SECONDS)
        return replace(wish, desired=max([wish.desired, *(count for _, count in recent)]))
    up_start = now - behavior.up.stabilization_seconds
    down_start = now - behavior.down.stabilization_seconds
    # The lowest recent recommendation may be climbed to, the highest may be descended to. The start
    # is exclusive here and inclusive above, as in Kubernetes.
    up = min([wish.desired, *(count for at, count in history.recommended if at > up_start)])
    down = max([wish.desired, *(count for at, count in history.recommended if at > down_start)])
    return replace(wish, desired=min(max(wish.current, up), down))


def _limited_by_factor(wish: Wish) -> Limited:
    ceiling = max(2 * wish.current, 4)
    if wish.desired < wish.low:
        return Limited(wish.low, f"at least {wish.low} (minReplicas)")
    if wish.desired > min(wish.high, ceiling):
        if wish.high > ceiling:
            return Limited(ceiling, f"at most {ceiling} in one sync")
        return Limited(wish.high, f"at most {wish.high} (maxReplicas)")
    return Limited(wish.desired)


def _limited_by_policies(wish: Wish, behavior: Behavior, history: History, now: float) -> Limited:
    if wish.desired > wish.current:
        ceiling = max(_up_limit(wish.current, behavior.up, history, now), wish.current)
        if wish.desired > min(wish.high, ceiling):
            if wish.high > ceiling:
                return Limited(ceiling, f"at most {ceiling} now (behavior.scaleUp)")
            return Limited(wish.high, f"at most {wish.high} (maxReplicas)")
    if wish.desired < wish.current:
        floor = min(_down_limit(wish.current, behavior.down, history, now), wish.current)
        if wish.desired < max(wish.low, floor):
            if wish.low < floor:
                return Limited(floor, f"at least {floor} now (behavior.scaleDown)")
            return Limited(wish.low, f"at least {wish.low} (minReplicas)")
    return Limited(wish.desired)


def _up_limit(current: int, rules: Rules, history: History, now: float) -> int:
    """Give the most replicas that the policies allow; percentages round up.

    Example: 3 replicas and 50 percent: ceil(3 * 1.5) = 5 (`test_percentages_round_up_and_down`).
    """
    if rules.select == "Disabled":
        return current

    def allowed(policy: Policy) -> int:
        start = _at_start_of_period(current, policy, history, now)
        if policy.type == "Pods":
            return start + policy.value
        return min(MAX_INT32, math.ceil(start * (1 + policy.value / 100)))

    select: Callable[[Iterable[int]], int] = min if rules.select == "Min" else max
    return select([allowed(policy) for policy in rules.policies])


def _down_limit(current: int, rules: Rules, history: History, now: float) -> int:
    """Give the fewest replicas that the policies allow; the rest of a percentage is truncated.

    Example: 5 replicas and 50 percent: int(5 * 0.5) = 2 (`test_percentages_round_up_and_down`).
    """
    if rules.select == "Disabled":
        return current

    def allowed(policy: Policy) -> int:
        start = _at_start_of_period(current, policy, history, now)
        if policy.type == "Pods":
            return start - policy.value
        return int(start * (1 - policy.value / 100))

    # The smallest change downwards leaves the most replicas.
    select: Callable[[Iterable[int]], int] = max if rules.select == "Min" else min
    return select([allowed(policy) for policy in rules.policies])


def _at_start_of_period(current: int, policy: Policy, history: History, now: float) -> int:
    start = now - policy.period_seconds
    added = sum(count for at, count in history.added if at > start)
    removed = sum(count for at, count in history.removed if at > start)
    return current - added + removed
