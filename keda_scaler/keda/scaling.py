"""KEDA's decision at every poll, as the table that it is.

Two rules. All of KEDA's scaling between zero and one (and idle) is in `TABLE`: the first row whose
condition holds decides. And nothing here knows where its input comes from, what time it is or what
became of earlier decisions: the `Situation` says all of it.

Source: `RequestScale` in `pkg/scaling/executor/scale_scaledobjects.go`, KEDA 2.20.2. Times are
seconds of any one clock; KEDA stores the last activity in whole seconds, rounded down.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What KEDA knows at a poll."""

    is_active: bool
    """Any trigger is active."""

    is_error: bool
    """Any trigger could not be asked."""

    current: int | None
    """`spec.replicas` of the scale target; None when it cannot be read."""

    now: float
    created: float
    """When the ScaledObject was created."""

    last_active: float | None
    """When it was last seen active without an error; None: never."""

    minimum: int = 0
    idle: int | None = None
    """None: not set."""

    fallback_replicas: int | None = None
    """None: there is no fallback."""

    cooldown: float = 300.0
    initial_cooldown: float = 0.0
    paused: bool = False
    paused_scale_in: bool = False
    paused_scale_out: bool = False
    force_activation: bool = False

    @property
    def counts_as_active(self) -> bool:
        """Whether the upper half of the table applies."""
        return self.is_active or self.force_activation

    @property
    def replicas(self) -> int:
        """The current count, for the rows that row 0 guards."""
        assert self.current is not None
        return self.current

    @property
    def cooldown_ends(self) -> float:
        """When scaling to zero (or idle) becomes possible; it is so only after this instant."""
        if self.last_active is None:
            return self.created + self.initial_cooldown
        return self.last_active + self.cooldown


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition in the ScaledObject's status."""

    status: Literal["True", "False", "Unknown"]
    reason: str


READY = Condition("True", "ScaledObjectReady")
ACTIVE = Condition("True", "ScalerActive")
INACTIVE = Condition("False", "ScalerNotActive")
COOLING_DOWN = Condition("False", "ScalerCooldown")


@dataclass(frozen=True, slots=True)
class Decision:
    """What KEDA does."""

    row: int
    """Which row of the table decided, 0 to 10."""

    replicas: int | None
    """The count that KEDA sets; None: it leaves the count alone."""

    words: str
    """The same for people."""

    ready: Condition | None
    """None: left as it was."""

    active: Condition | None
    """None: left as it was."""

    last_active: float | None
    """The new time of the last activity."""


Act = Callable[[Situation, int], Decision]
Row = tuple[int, Callable[[Situation], bool], Act]


def _leave(words: str, *, ready: Condition | None, active: Condition | None) -> Act:
    def act(s: Situation, row: int) -> Decision:
        return Decision(row, None, words, ready, active, s.last_active)

    return act


def _wake(s: Situation, row: int) -> Decision:
    count = max(s.minimum, 1)
    if s.paused_scale_out:
        words = f"active, stays at {s.replicas}: paused-scale-out"
        return Decision(row, None, words, READY, ACTIVE, s.last_active)
    words = f"active: from {s.replicas} to {count}"
    return Decision(row, count, words, READY, ACTIVE, math.floor(s.now))


def _stay_active(s: Situation, row: int) -> Decision:
    words = "active: the HPA decides"
    return Decision(row, None, words, READY, ACTIVE, math.floor(s.now))


def _sleep(s: Situation, row: int) -> Decision:
    count = s.minimum if s.idle is None else s.idle
    step = Decision(row, None, "", READY, INACTIVE, s.last_active)
    if not s.cooldown_ends < s.now:
        name = "initialCooldownPeriod" if s.last_active is None else "cooldownPeriod"
        seconds = s.initial_cooldown if s.last_active is None else s.cooldown
        words = f"inactive: to {count} once the {name} of {seconds:g} s is over"
        return replace(step, words=words, active=COOLING_DOWN)
    if s.paused_scale_in:
        return replace(step, words=f"inactive, stays at {s.replicas}: paused-scale-in")
    return replace(step, replicas=count, words=f"inactive: from {s.replicas} to {count}")


def _restore(s: Situation, row: int) -> Decision:
    words = f"inactive, and {s.replicas} is below minReplicaCount: to {s.minimum}"
    return Decision(row, s.minimum, words, READY, INACTIVE, s.last_active)


TABLE: tuple[Row, ...] = (
    (
        0,
        lambda s: s.current is None,
        _leave(
            "nothing: the current replicas cannot be read",
            ready=Condition("False", "ErrorGettingCurrentReplicas"),
            active=None,
        ),
    ),
    (1, lambda s: s.paused, _leave("nothing: paused", ready=None, active=None)),
    (2, lambda s: s.counts_as_active and s.idle is not None and s.replicas < s.minimum, _wake),
    (3, lambda s: s.counts_as_active and s.replicas == 0, _wake),
    (
        4,
        lambda s: s.counts_as_active and s.is_error,
        _leave(
            "active with an error: holds, and the cooldown is not renewed",
            ready=Condition("Unknown", "PartialTriggerError"),
            active=ACTIVE,
        ),
    ),
    (5, lambda s: s.counts_as_active, _stay_active),
    (
        6,
        lambda s: s.is_error and bool(s.fallback_replicas),
        _leave("error: holds until the fallback takes over", ready=READY, active=INACTIVE),
    ),
    (
        7,
        lambda s: s.is_error and s.fallback_replicas is None,
        _leave("error: holds", ready=Condition("False", "TriggerError"), active=INACTIVE),
    ),
    (
        8,
        lambda s: (
            (s.idle is not None and s.replicas > s.idle) or (s.replicas > 0 and s.minimum == 0)
        ),
        _sleep,
    ),
    (9, lambda s: s.idle is None and s.replicas < s.minimum, _restore),
    (10, lambda _: True, _leave("inactive: nothing to do", ready=READY, active=INACTIVE)),
)
"""Number, condition, action; the first row whose condition holds decides."""


def decide(situation: Situation) -> Decision:
    """Give what KEDA does at this poll.

    Example: inactive, no error, 3 replicas, minimum 0, last active 301 s ago, cooldown 300 s: row
    8, to 0 in one step (test_keda_scaling.py, `test_expanded_table`).
    """
    return next(act(situation, row) for row, holds, act in TABLE if holds(situation))
