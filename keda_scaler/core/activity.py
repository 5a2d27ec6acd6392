"""Activity: is there work, is there proof that there is none, or is it unknown?

Rules
1. Evidence of work is positive: one threshold exceeded by what fresh readings add up to is enough,
   whatever is missing beside them, because requests that we cannot see only add to those we see.
2. Proof of idleness is complete: the list of replicas is fresh, every replica on it answered for
   every signal that could show work, and none did.
3. Everything else is unknown. Nothing here turns a missing reading into a number.

Theory of operation: `judge` looks at one snapshot at one instant. As time passes without news,
what is known can only lapse into unknown, and a verdict says when it does (`until`). `remember` is
called once for every change of the snapshot and keeps what a snapshot cannot tell: since when proof
of idleness has held without a gap, and until when activity was last known. Being asked changes
nothing.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import assert_never

from keda_scaler.core.readings import Value
from keda_scaler.core.signals import RATIOS, Signal
from keda_scaler.core.snapshot import Snapshot
from keda_scaler.core.trigger import Trigger


@dataclass(frozen=True, slots=True)
class Work:
    """Evidence of work."""

    text: str
    until: float
    """When the readings behind it go stale, in monotonic seconds."""


@dataclass(frozen=True, slots=True)
class Quiet:
    """Proof that there is no work, at this instant."""

    until: float
    """When the first reading behind it goes stale, in monotonic seconds."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Neither evidence of work nor proof that there is none."""

    text: str
    """What is missing; short and free of times."""


Verdict = Work | Quiet | Unknown


@dataclass(frozen=True, slots=True)
class Memory:
    """What one snapshot cannot tell."""

    known_until: float | None = None
    """Until when activity is known, or was: then since when it is not. None: it never was."""

    idle_since: float | None = None
    """Since when proof of idleness has held without a gap; None: it does not hold."""

    at_zero: bool = False
    """Whether no replica has been listed since activity was last known."""


def judge(trigger: Trigger, snapshot: Snapshot, now: float) -> Verdict:
    """Look at one snapshot at one instant."""
    if snapshot.listed_at is None:
        return Unknown(snapshot.problem or "nothing was read yet")
    stale_after = trigger.stale_after
    proven_at = snapshot.listed_at
    missing: str | None = None
    evidence: Work | None = None
    for signal, above in trigger.activations:
        fresh: list[Value] = []
        for replica in snapshot.replicas:
            value = replica.fresh(signal, now, stale_after)
            if value is not None:
                fresh.append(value)
                proven_at = min(proven_at, value.at)
            elif signal is Signal.CONCURRENCY or signal not in replica.lacking:
                missing = missing or replica.problem(signal)
        last = _exceeded_until(signal, fresh, above)
        if last is not None and (evidence is None or last + stale_after > evidence.until):
            evidence = Work(f"{signal} is above {above:g}", last + stale_after)
    if evidence is not None:
        return evidence
    if now >= snapshot.listed_at + stale_after:
        return Unknown(snapshot.problem or "the list of replicas is not confirmed")
    if missing is not None:
        return Unknown(missing)
    return Quiet(proven_at + stale_after)


def _exceeded_until(signal: Signal, values: Iterable[Value], above: float) -> float | None:
    """Say when the oldest reading that it takes to exceed a threshold was measured.

    None: it is not exceeded.

    Requests of all replicas add up; of ratios, one replica above the threshold is enough.

    Worked example: 2 requests measured at 10 s and 3 at 12 s exceed 4 as of 10 s, and exceed 2 as
    of 12 s (tests/core/test_activity.py, test_evidence_lasts_as_long_as_the_readings_it_needs).
    """
    total = 0.0
    for value in sorted(values, key=lambda value: -value.at):
        total = value.number if signal in RATIOS else total + value.number
        if total > above:
            return value.at
    return None


def remember(memory: Memory, trigger: Trigger, snapshot: Snapshot, now: float) -> Memory:
    """Carry on what a snapshot cannot tell, at a change of it.

    Call it once for every change, in the order of time. Several changes at one instant may come in
    any order.
    """
    lapsed = memory.known_until is None or now >= memory.known_until
    verdict = judge(trigger, snapshot, now)
    match verdict:
        case Work(until=until):
            return Memory(until)
        case Quiet(until=until):
            at_zero = not snapshot.replicas
            if memory.idle_since is not None and not lapsed:
                return Memory(until, memory.idle_since, at_zero)
            # With no replica before and none now there is nothing to put to sleep too early, and
            # nothing to stay awake for: neither a start of ours nor a gap in the list is work.
            asleep = at_zero and (memory.at_zero or memory.known_until is None)
            return Memory(until, -math.inf if asleep else now, at_zero)
        case Unknown():
            at_zero = memory.at_zero and not snapshot.replicas
            return Memory(memory.known_until if lapsed else now, at_zero=at_zero)
        case _:
            assert_never(verdict)
