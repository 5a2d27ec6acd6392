"""Waking: the lease, and how many replicas may be asked for while others load.

The lease: from the last request that the wake source saw while no replica answered, until one does,
at most `coldStartSeconds`. A replica that is listed and not ready does not end it. A scaler that
starts while replicas load begins one as well: it cannot know what they were woken for.

The ceiling: a queue grows while replicas load, and not because they are too few. So while those
that were asked for do not answer yet, however long that takes, no more are asked for than
`maxPendingFactor` times those that do (at least one), than are listed, or than were asked for
before they began to load. A list of `endpoints` never gets longer, so that only those on it are
waited for.
"""

import math
from collections.abc import Mapping

from msgspec.structs import replace

from keda_scaler.core.memory import Memory
from keda_scaler.core.readings import Demand
from keda_scaler.core.signals import Signal
from keda_scaler.core.snapshot import Snapshot
from keda_scaler.core.trigger import Trigger
from keda_scaler.core.view import View


def is_demanded(trigger: Trigger, demand: Demand) -> bool:
    """Whether what a wake source says is a request for a replica."""
    return demand.arrived or demand.in_flight > trigger.activation_requests


def lease_until(memory: Memory, view: View) -> float | None:
    """Say when the lease ends, at a change of the snapshot."""
    if view.answering:
        return None
    trigger = view.trigger
    if trigger.by_reports:
        wanted = any(
            (value := view.value(replica, Signal.CONCURRENCY)) is not None
            and value.number > trigger.activation_requests
            for replica in view.snapshot.replicas
        )
    else:
        wanted = view.demand is not None and is_demanded(trigger, view.demand)
    if wanted:
        return view.now + trigger.cold_start_seconds
    starts = memory.known_until is None and memory.lease_until is None
    if starts and view.counted and not any(each.replica.ready for each in view.counted):
        return view.now + trigger.cold_start_seconds
    return memory.lease_until


def ceiling(view: View, memory: Memory) -> float:
    """Say how many replicas may be asked for: infinite when none of those asked for is missing.

    Worked example: one of two replicas answers, the other loads, and 2 were asked for. With a
    factor of 2 no more than 2 are asked for until the second answers, then 4 while those load
    (tests/core/test_waking.py, test_demand_grows_by_a_factor_while_replicas_load).
    """
    trigger = view.trigger
    if trigger.by_reports:
        return math.inf  # which replicas load is not known
    ready = loaded(view.snapshot)
    listed = len(view.counted)
    asked = 0 if trigger.endpoints else memory.asked
    if ready and max(listed, asked) <= ready:
        return math.inf
    return max(trigger.max_pending_factor * max(ready, 1), listed, asked)


def loaded(snapshot: Snapshot) -> int:
    """Count the replicas that serve or have served: one that hangs has not to be waited for."""
    return sum(r.is_serving and Signal.CONCURRENCY in r.values for r in snapshot.replicas)


def ask(memory: Memory, view: View, wanted: int, totals: Mapping[Signal, float]) -> Memory:
    """Remember what a decision asks for: how many replicas, and the sum of each metric.

    Replicas that did not come within `coldStartSeconds` are asked for no longer than they are
    wanted. That lifts no ceiling: nothing that was asked for has come.
    """
    lapsed = view.now >= memory.asked_at + view.trigger.cold_start_seconds
    given, given_at = given_away(memory, view)
    memory = replace(
        memory,
        totals={**memory.totals, **totals},
        held=memory.held if view.demand is None else view.demand.held,
        given=given,
        given_at=given_at,
    )
    if wanted > memory.asked or lapsed or memory.asked <= loaded(view.snapshot):
        return replace(memory, asked=wanted, asked_at=view.now)
    return memory


def given_away(memory: Memory, view: View) -> tuple[float, float]:
    """Say how many requests the gateway gave away that no replica can have told of yet, and when.

    All replicas told of theirs since then, or one of them may have them.
    """
    given, at = memory.given, memory.given_at
    if view.demand is not None and view.demand.held < memory.held:
        given, at = max(given, memory.held - view.demand.held), view.demand.at
    signal = Signal.CONCURRENCY
    if given and not any(
        view.is_missing(each, signal)
        or ((value := each.values.get(signal)) is not None and value.at < at)
        for each in view.counted
    ):
        given = 0.0
    return given, at
