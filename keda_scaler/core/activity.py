"""Activity: is there work, is there proof that there is none, or is it unknown?

Rules
1. Evidence of work is positive: one threshold exceeded by what fresh readings add up to is enough,
   or one request that the wake source has seen, whatever is missing beside them, because requests
   that we cannot see only add to those we see. A request that came and went between two polls is
   in no gauge, and is evidence by the counters of the engine.
2. Proof of idleness is complete: the list of replicas is fresh, every replica on it answered for
   every signal that could show work, none did, and the wake source said the same. While replicas
   are listed, one poll that fails voids it at once: work may have come since the poll before.
3. Everything else is unknown. Nothing here turns a missing reading into a number.
4. A replica that is stuck tells of requests that do not get on. That is neither evidence nor proof,
   unless `onStuck` says that it is idle.

Theory of operation: `judge` looks at one snapshot at one instant. As time passes without news,
what is known can only lapse into unknown or stuck, and a verdict says when it does (`until`).
`remember` takes that verdict in once for every change of the snapshot, and keeps what a snapshot
cannot tell: since when proof of idleness has held without a gap, until when activity was last
known, and until when the lease runs. Being asked changes nothing.
"""

import math
from collections.abc import Iterable
from typing import assert_never

from msgspec import Struct
from msgspec.structs import replace

from keda_scaler.core.memory import Memory
from keda_scaler.core.readings import Value
from keda_scaler.core.signals import RATIOS, Signal
from keda_scaler.core.view import View
from keda_scaler.core.waking import is_demanded, lease_until


class Work(Struct, frozen=True, gc=False):
    """Evidence of work."""

    text: str
    until: float
    """When the readings behind it go stale, in monotonic seconds."""


class Quiet(Struct, frozen=True, gc=False):
    """Proof that there is no work, at this instant."""

    until: float
    """When the first reading behind it goes stale, in monotonic seconds."""


class Unknown(Struct, frozen=True, gc=False):
    """Neither evidence of work nor proof that there is none."""

    text: str
    """What is missing; short and free of times."""


class Stuck(Struct, frozen=True, gc=False):
    """Nothing but replicas that are stuck shows work."""

    text: str
    until: float
    """When the readings behind it go stale, in monotonic seconds."""


Verdict = Work | Quiet | Unknown | Stuck


def judge(view: View) -> Verdict:
    """Look at one snapshot at one instant."""
    snapshot, stale_after = view.snapshot, view.trigger.stale_after
    at_gateway, on_replicas = _at_gateway(view), _on_replicas(view)
    evidence = [found.work for found in (at_gateway, on_replicas) if found.work is not None]
    if evidence:
        return max(evidence, key=lambda work: work.until)
    if snapshot.listed_at is None:
        return Unknown(snapshot.problem or "nothing was read yet")
    is_void = snapshot.problem is not None and bool(snapshot.replicas)
    if is_void or not view.is_fresh(snapshot.listed_at):
        return Unknown(snapshot.problem or "the list of replicas is not confirmed")
    if view.stuck and view.trigger.on_stuck == "hold":
        until = min(replica.values[Signal.CONCURRENCY].at for replica in view.stuck) + stale_after
        names = ", ".join(replica.replica.name for replica in view.stuck[:3])
        return Stuck(f"requests stand still for stuckSeconds on {names}", until)
    missing = on_replicas.missing or at_gateway.missing
    if missing is not None:
        return Unknown(missing)
    proven_at = min(snapshot.listed_at, at_gateway.proven_at, on_replicas.proven_at)
    return Quiet(proven_at + stale_after)


class _Found(Struct, frozen=True, gc=False):
    """What one place has to say."""

    work: Work | None = None
    missing: str | None = None
    """What keeps it from proving idleness; None: nothing."""

    proven_at: float = math.inf
    """When the oldest of its readings was measured, in monotonic seconds."""


def _on_replicas(view: View) -> _Found:
    """Look at what replicas say. Those that are stuck are no evidence."""
    stale_after = view.trigger.stale_after
    evidence: Work | None = None
    missing: str | None = None
    proven_at = math.inf
    for signal, above in view.trigger.activations:
        fresh: list[Value] = []
        for replica in view.snapshot.replicas:
            value = view.value(replica, signal)
            if value is not None:
                proven_at = min(proven_at, value.at)
                if not view.is_stuck(replica):
                    fresh.append(value)
                if signal in replica.problems:
                    missing = missing or replica.problem(signal)
            elif signal is Signal.CONCURRENCY or signal not in replica.lacking:
                missing = missing or replica.problem(signal)
        last = _exceeded_until(signal, fresh, above)
        if last is not None and (evidence is None or last + stale_after > evidence.until):
            evidence = Work(f"{signal} is above {above:g}", last + stale_after)
    return _Found(evidence or _between_polls(view), missing, proven_at)


def _between_polls(view: View) -> Work | None:
    """Look for requests that no gauge has seen: how many at a time is not known, but that one."""
    trigger = view.trigger
    if trigger.activation_requests >= 1:
        return None
    served_at = [
        value.at
        for replica in view.snapshot.replicas
        if replica.has_served
        for signal, _ in trigger.activations
        if (value := view.value(replica, signal)) is not None
    ]
    if not served_at:
        return None
    until = max(served_at) + trigger.stale_after
    return Work("requests were served since the poll before", until)


def _at_gateway(view: View) -> _Found:
    """Look at what the wake source says; without one there is nothing to say."""
    trigger, demand = view.trigger, view.demand
    if trigger.wake_from is None:
        return _Found()
    if demand is None:
        known = view.snapshot.demand is not None
        why = view.snapshot.demand_problem or ("no news" if known else "not read yet")
        return _Found(missing=f"{trigger.wake_from}: {why}")
    if is_demanded(trigger, demand):
        until = demand.at + trigger.stale_after
        return _Found(Work(f"{trigger.wake_from} has requests", until))
    problem = view.snapshot.demand_problem
    if problem is not None and view.snapshot.replicas:
        return _Found(missing=f"{trigger.wake_from}: {problem}")
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


def remember(memory: Memory, view: View, verdict: Verdict) -> Memory:
    """Carry on what a snapshot cannot tell, at a change of it.

    Call it once for every change, in the order of time. Several changes at one instant may come in
    any order.
    """
    now, at_zero = view.now, not view.snapshot.replicas
    lapsed = memory.known_until is None or now >= memory.known_until
    is_waited = memory.known_until is None and memory.listed_since is None and view.counted
    if is_waited and isinstance(verdict, Unknown):
        memory = replace(memory, listed_since=now)
    lease = lease_until(memory, view)
    was_idle = _was_idle(memory, view)
    worked, rested = memory.worked and not was_idle, memory.rested or was_idle
    match verdict:
        case Work(until=until) | Stuck(until=until):
            return replace(
                memory,
                known_until=until,
                idle_since=None,
                at_zero=False,
                worked=True,
                rested=False,
                lease_until=lease,
            )
        case Quiet(until=until):
            if memory.idle_since is None or lapsed:
                # With no replica before and none now there is nothing to put to sleep too early,
                # and nothing to stay awake for: a start of ours or a gap in the list is no work.
                since = -math.inf if at_zero and memory.at_zero else now
            else:
                since = memory.idle_since
            proven = now >= since + view.trigger.idle_seconds
            return replace(
                memory,
                known_until=until,
                idle_since=since,
                at_zero=at_zero,
                worked=worked and not proven,
                rested=rested or proven,
                lease_until=lease,
            )
        case Unknown():
            return replace(
                memory,
                known_until=memory.known_until if lapsed else now,
                idle_since=None,
                at_zero=memory.at_zero and at_zero,
                worked=worked,
                rested=rested,
                lease_until=lease,
            )
        case _:
            assert_never(verdict)


def _was_idle(memory: Memory, view: View) -> bool:
    """Whether idleness was proven for `idleSeconds` before it became unknown."""
    if memory.idle_since is None or memory.known_until is None:
        return False
    return min(view.now, memory.known_until) >= memory.idle_since + view.trigger.idle_seconds
