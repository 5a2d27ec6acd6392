"""Activity: is there work, is there proof that there is none, or is it unknown?

Rules
1. Evidence of work is positive: one threshold exceeded by what fresh readings add up to is enough,
   or one request that the wake source has seen, whatever is missing beside them, because requests
   that we cannot see only add to those we see.
2. Proof of idleness is complete: the list of replicas is fresh, every replica on it answered for
   every signal that could show work, none did, and the wake source said the same.
3. Everything else is unknown. Nothing here turns a missing reading into a number.
4. A replica that is stuck tells of requests that do not get on. That is neither evidence nor proof,
   unless `onStuck` says that it is idle.

Theory of operation: `judge` looks at one snapshot at one instant. As time passes without news,
what is known can only lapse into unknown or stuck, and a verdict says when it does (`until`).
`remember` is called once for every change of the snapshot and keeps what a snapshot cannot tell:
since when proof of idleness has held without a gap, until when activity was last known, and until
when the lease runs. Being asked changes nothing.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from keda_scaler.core.memory import Memory
from keda_scaler.core.readings import Value
from keda_scaler.core.signals import RATIOS, Signal
from keda_scaler.core.snapshot import ReplicaReadings, Snapshot
from keda_scaler.core.trigger import Trigger
from keda_scaler.core.waking import is_demanded, lease_until


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


@dataclass(frozen=True, slots=True)
class Stuck:
    """Nothing but replicas that are stuck shows work."""

    text: str
    until: float
    """When the readings behind it go stale, in monotonic seconds."""


Verdict = Work | Quiet | Unknown | Stuck


def judge(trigger: Trigger, snapshot: Snapshot, now: float) -> Verdict:
    """Look at one snapshot at one instant."""
    stale_after = trigger.stale_after
    stuck = [r for r in snapshot.replicas if r.is_stuck(now, stale_after, trigger.stuck_seconds)]
    at_gateway = _at_gateway(trigger, snapshot, now)
    on_replicas = _on_replicas(trigger, snapshot, stuck, now)
    evidence = [found.work for found in (at_gateway, on_replicas) if found.work is not None]
    if evidence:
        return max(evidence, key=lambda work: work.until)
    if snapshot.listed_at is None:
        return Unknown(snapshot.problem or "nothing was read yet")
    if now >= snapshot.listed_at + stale_after:
        return Unknown(snapshot.problem or "the list of replicas is not confirmed")
    if stuck and trigger.on_stuck == "hold":
        until = min(replica.values[Signal.CONCURRENCY].at for replica in stuck) + stale_after
        names = ", ".join(replica.replica.name for replica in stuck[:3])
        return Stuck(f"requests stand still for stuckSeconds on {names}", until)
    missing = on_replicas.missing or at_gateway.missing
    if missing is not None:
        return Unknown(missing)
    proven_at = min(snapshot.listed_at, at_gateway.proven_at, on_replicas.proven_at)
    return Quiet(proven_at + stale_after)


@dataclass(frozen=True, slots=True)
class _Found:
    """What one place has to say."""

    work: Work | None = None
    missing: str | None = None
    """What keeps it from proving idleness; None: nothing."""

    proven_at: float = math.inf
    """When the oldest of its readings was measured, in monotonic seconds."""


def _on_replicas(
    trigger: Trigger, snapshot: Snapshot, stuck: Sequence[ReplicaReadings], now: float
) -> _Found:
    """Look at what replicas say. Those that are stuck are no evidence."""
    stale_after = trigger.stale_after
    silent = {replica.replica.name for replica in stuck}
    evidence: Work | None = None
    missing: str | None = None
    proven_at = math.inf
    for signal, above in trigger.activations:
        fresh: list[Value] = []
        for replica in snapshot.replicas:
            value = replica.fresh(signal, now, stale_after)
            if value is not None:
                proven_at = min(proven_at, value.at)
                if replica.replica.name not in silent:
                    fresh.append(value)
            elif signal is Signal.CONCURRENCY or signal not in replica.lacking:
                missing = missing or replica.problem(signal)
        last = _exceeded_until(signal, fresh, above)
        if last is not None and (evidence is None or last + stale_after > evidence.until):
            evidence = Work(f"{signal} is above {above:g}", last + stale_after)
    return _Found(evidence, missing, proven_at)


def _at_gateway(trigger: Trigger, snapshot: Snapshot, now: float) -> _Found:
    """Look at what the wake source says; without one there is nothing to say."""
    if trigger.wake_from is None:
        return _Found()
    demand = snapshot.fresh_demand(now, trigger.stale_after)
    if demand is None:
        why = snapshot.demand_problem or ("no news" if snapshot.demand else "not read yet")
        return _Found(missing=f"{trigger.wake_from}: {why}")
    if is_demanded(trigger, demand):
        until = demand.at + trigger.stale_after
        return _Found(Work(f"{trigger.wake_from} has requests", until))
    return _Found(proven_at=demand.at)


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
    memory = replace(memory, lease_until=lease_until(memory, trigger, snapshot, now))
    if _was_idle(memory, trigger, now):
        memory = replace(memory, worked=False, rested=True)
    match verdict:
        case Work(until=until) | Stuck(until=until):
            return replace(
                memory,
                known_until=until,
                idle_since=None,
                at_zero=False,
                worked=True,
                rested=False,
            )
        case Quiet(until=until):
            at_zero = not snapshot.replicas
            if memory.idle_since is None or lapsed:
                # With no replica before and none now there is nothing to put to sleep too early,
                # and nothing to stay awake for: a start of ours or a gap in the list is no work.
                since = -math.inf if at_zero and memory.at_zero else now
            else:
                since = memory.idle_since
            proven = now >= since + trigger.idle_seconds
            return replace(
                memory,
                known_until=until,
                idle_since=since,
                at_zero=at_zero,
                worked=memory.worked and not proven,
                rested=memory.rested or proven,
            )
        case Unknown():
            return replace(
                memory,
                known_until=memory.known_until if lapsed else now,
                idle_since=None,
                at_zero=memory.at_zero and not snapshot.replicas,
            )
        case _:
            assert_never(verdict)


def _was_idle(memory: Memory, trigger: Trigger, now: float) -> bool:
    """Whether idleness was proven for `idleSeconds` before it became unknown."""
    if memory.idle_since is None or memory.known_until is None:
        return False
    return min(now, memory.known_until) >= memory.idle_since + trigger.idle_seconds
