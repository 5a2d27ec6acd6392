"""Our metrics: what each is called, which labels it has, and what it says. Pure.

`docs/metrics.md` is written from this table, and the page at /metrics by it.

KEDA's operator has metrics of its own that begin with `keda_scaler_`, such as
`keda_scaler_metrics_value`: none of ours may have a name of those.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Family:
    """One metric."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    text: str
    """What it says: one line for people, with its unit unless the name has it."""

    series: str
    """How many series of it there are at most."""


BUILD = Family(
    "keda_scaler_build_info",
    "gauge",
    ("version", "python", "grpcio", "keda_proto"),
    "What runs; always 1. keda_proto is the newest KEDA whose calls are all served.",
    "1",
)
RPCS = Family(
    "keda_scaler_rpcs_total",
    "counter",
    ("method", "code"),
    "Calls that ended, by method and gRPC status code. RESOURCE_EXHAUSTED: a new target was refused"
    " because the cap is reached. INTERNAL: our fault.",
    "5 methods x 6 codes",
)
RPC_DURATIONS = Family(
    "keda_scaler_rpc_seconds",
    "histogram",
    ("method", "code"),
    "Time from a unary call to its answer within the scaler, the wait for the first reading of a"
    " new target included.",
    "3 methods x 6 codes x 13",
)
STREAMS = Family(
    "keda_scaler_streams",
    "gauge",
    ("method",),
    "Streams that are open.",
    "2",
)
PUSHES = Family(
    "keda_scaler_pushes_total",
    "counter",
    ("method",),
    "Messages that were written to streams.",
    "2",
)
READS = Family(
    "keda_scaler_read_seconds",
    "histogram",
    ("source", "result"),
    "Polls of pages (endpoints), of Prometheus and of wake sources (gateway), and their time."
    " The result is ok or error.",
    "3 sources x 2 results x 10",
)
DECISIONS = Family(
    "keda_scaler_decisions_total",
    "counter",
    ("state", "reason"),
    "Changes of a target's state or reason, by what they became.",
    "10",
)
RELOADS = Family(
    "keda_scaler_settings_reloads_total",
    "counter",
    ("result",),
    "Settings that changed while the scaler ran, by whether they were taken up: ok or error.",
    "2",
)
RELOAD_OK = Family(
    "keda_scaler_settings_last_reload_ok",
    "gauge",
    (),
    "0: the settings file is wrong, and the settings before it are in use. Else 1.",
    "1",
)
FORGOTTEN = Family(
    "keda_scaler_targets_forgotten_total",
    "counter",
    (),
    "Targets that were dropped because nobody asked about them for ten minutes.",
    "1",
)
TARGETS = Family(
    "keda_scaler_targets",
    "gauge",
    ("state",),
    "Targets that are followed now, by their state.",
    "3",
)
STUCK = Family(
    "keda_scaler_stuck_replicas",
    "gauge",
    (),
    "Replicas whose requests and counters stand still (stuckSeconds), of all targets.",
    "1",
)
NOT_SHOWN = Family(
    "keda_scaler_targets_not_shown",
    "gauge",
    (),
    "Targets without series of their own, because there are too many.",
    "1",
)

OF_TARGET = ("namespace", "name", "trigger")
"""The labels of a target: its ScaledObject, and which trigger of that."""

STATE = Family(
    "keda_scaler_target_state",
    "gauge",
    (*OF_TARGET, "state", "reason"),
    "The state and its reason, in the labels; always 1.",
    "1 a target",
)
SIGNAL = Family(
    "keda_scaler_target_signal",
    "gauge",
    (*OF_TARGET, "signal"),
    "What KEDA is told of a signal, in its own unit: with AverageValue the sum over replicas."
    " Absent: no value is told.",
    "1 a signal",
)
SIGNAL_TARGET = Family(
    "keda_scaler_target_signal_target",
    "gauge",
    (*OF_TARGET, "signal"),
    "What the trigger aims at: with AverageValue for each replica.",
    "1 a signal",
)
HELD = Family(
    "keda_scaler_target_held_signals",
    "gauge",
    OF_TARGET,
    "Signals without a value and without an error: KEDA and the HPA leave the replicas alone.",
    "1 a target",
)
UNKNOWN = Family(
    "keda_scaler_target_unknown_signals",
    "gauge",
    OF_TARGET,
    "Signals that are answered with UNAVAILABLE.",
    "1 a target",
)
CAPPED = Family(
    "keda_scaler_target_capped_signals",
    "gauge",
    OF_TARGET,
    "Signals that ask for less than they would, because replicas still load (maxPendingFactor).",
    "1 a target",
)
WANTED = Family(
    "keda_scaler_target_wanted_replicas",
    "gauge",
    OF_TARGET,
    "Replicas that the signals ask for; at least 1 while active.",
    "1 a target",
)
ANSWERING = Family(
    "keda_scaler_target_answering_replicas",
    "gauge",
    OF_TARGET,
    "Replicas that serve, by a fresh reading.",
    "1 a target",
)
STUCK_OF_TARGET = Family(
    "keda_scaler_target_stuck_replicas",
    "gauge",
    OF_TARGET,
    "Replicas whose requests and counters stand still (stuckSeconds).",
    "1 a target",
)
IDLE_IN = Family(
    "keda_scaler_target_idle_in_seconds",
    "gauge",
    OF_TARGET,
    "Time until KEDA is told that the target is idle, if no work comes; KEDA's cooldownPeriod"
    " follows. Absent: there is no proof of idleness.",
    "1 a target",
)
READING_AGE = Family(
    "keda_scaler_target_reading_age_seconds",
    "gauge",
    OF_TARGET,
    "Age of the oldest of: the newest reading of each replica that was ever read, the list of"
    " replicas, what the wake source said. Absent: nothing was read yet.",
    "1 a target",
)
DEMAND = Family(
    "keda_scaler_target_demand_requests",
    "gauge",
    OF_TARGET,
    "Requests that the wake source has taken and not answered. Absent: there is no wake source, or"
    " it says nothing.",
    "1 a target",
)
STALE_AFTER = Family(
    "keda_scaler_target_stale_after_seconds",
    "gauge",
    OF_TARGET,
    "The age at which that is no longer believed (staleSeconds).",
    "1 a target",
)
ASKED_AGE = Family(
    "keda_scaler_target_asked_age_seconds",
    "gauge",
    OF_TARGET,
    "Time since GetMetrics or IsActive asked about the target last, or since it is followed.",
    "1 a target",
)

OF_TARGETS = (
    STATE,
    SIGNAL,
    SIGNAL_TARGET,
    HELD,
    UNKNOWN,
    CAPPED,
    WANTED,
    ANSWERING,
    STUCK_OF_TARGET,
    IDLE_IN,
    DEMAND,
    READING_AGE,
    STALE_AFTER,
    ASKED_AGE,
)
"""Metrics with series for each target."""

DEATHS = Family(
    "keda_scaler_task_deaths_total",
    "counter",
    ("task",),
    "Tasks that died by our fault and began again, by what they do. Any is worth a report.",
    "9",
)

OF_SCALER = (
    BUILD,
    RPCS,
    RPC_DURATIONS,
    STREAMS,
    PUSHES,
    READS,
    DECISIONS,
    RELOADS,
    RELOAD_OK,
    FORGOTTEN,
    TARGETS,
    STUCK,
    NOT_SHOWN,
    DEATHS,
)
"""Metrics of the scaler as a whole."""
