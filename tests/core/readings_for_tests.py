"""Snapshots in few words."""

from keda_scaler.core.readings import Missing, Replica, Value
from keda_scaler.core.signals import Signal
from keda_scaler.core.snapshot import ReplicaReadings, Snapshot
from keda_scaler.core.trigger import Accepts, Trigger, parse_trigger


def trigger(**keys: str) -> Trigger:
    return parse_trigger({"service": "llama", **keys}, Accepts())


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


def snapshot(*replicas: ReplicaReadings, listed_at: float | None = 0.0) -> Snapshot:
    return Snapshot(replicas, listed_at)
