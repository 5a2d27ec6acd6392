"""Snapshots in few words."""

from collections.abc import Sequence

from keda_scaler.core import demand, readings
from keda_scaler.core.activity import Verdict, judge, remember
from keda_scaler.core.decision import Decision, ask, decide
from keda_scaler.core.memory import Memory
from keda_scaler.core.readings import Missing, Replica, Value
from keda_scaler.core.signals import Signal
from keda_scaler.core.snapshot import ReplicaReadings, Snapshot
from keda_scaler.core.trigger import Accepts, Metric, Trigger, parse_trigger
from keda_scaler.core.view import View


def trigger(**keys: str) -> Trigger:
    return parse_trigger({"service": "llama", **keys}, Accepts(reports=True))


def replica(
    name: str = "a",
    waiting: float | None = 0,
    running: float = 0,
    kv: float = 0.0,
    at: float = 0.0,
    *,
    ready: bool = True,
    terminating: bool = False,
) -> ReplicaReadings:
    """Build a replica; one whose `waiting` is None has never answered."""
    listed = Replica(name, ready=ready, terminating=terminating)
    if waiting is None:
        absent = Missing("no answer within 5 s")
        return ReplicaReadings(listed, problems=dict.fromkeys(Signal, absent))
    values = {
        Signal.QUEUE_DEPTH: Value(waiting, at),
        Signal.CONCURRENCY: Value(waiting + running, at),
        Signal.GPU_MEMORY_PRESSURE: Value(kv, at),
    }
    return ReplicaReadings(listed, values)


def snapshot(
    *replicas: ReplicaReadings,
    listed_at: float | None = 0.0,
    demand: readings.Demand | None = None,
) -> Snapshot:
    return Snapshot(replicas, listed_at, demand=demand)


def asked(requests: float = 0.0, at: float = 0.0, *, arrived: bool = False) -> readings.Demand:
    """Build what a wake source says of requests that it holds."""
    return readings.Demand(requests, requests, arrived, at)


def judged(asks: Trigger, known: Snapshot, now: float) -> Verdict:
    return judge(View(asks, known, now))


def remembered(memory: Memory, asks: Trigger, known: Snapshot, now: float) -> Memory:
    """Take a change of the snapshot in, as the store does."""
    seen = View(asks, known, now)
    return remember(memory, seen, judge(seen))


def decision_of(asks: Trigger, known: Snapshot, memory: Memory, now: float) -> Decision:
    seen = View(asks, known, now)
    return decide(seen, memory, judge(seen))


def decided(asks: Trigger, events: Sequence[tuple[float, Snapshot]], now: float) -> Decision:
    """Replay changes of the snapshot as the store does, then decide."""
    memory = Memory()
    known = Snapshot()
    for at, known in events:
        memory = remembered(memory, asks, known, at)
        memory = ask(memory, View(asks, known, at), decision_of(asks, known, memory, at))
    return decision_of(asks, known, memory, now)


def reported(
    metric: Metric, asks: Trigger, known: Snapshot, now: float, memory: Memory | None = None
) -> demand.Report | demand.Unmoved | Missing:
    return demand.report(metric, View(asks, known, now), memory or Memory())
