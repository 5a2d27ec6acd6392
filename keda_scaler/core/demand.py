"""Demand: what one metric reports, given what its replicas say and what they do not.

The HPA computes `ceil(value / target)` for AverageValue, so the value is a sum over replicas; for
Value it scales its replicas by `value / target`, so the value is a mean. Terminating replicas are
left out: the HPA does not count them either, and new replicas do not get their requests.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from keda_scaler.core.memory import Memory
from keda_scaler.core.readings import Missing
from keda_scaler.core.signals import LATENCIES, Signal
from keda_scaler.core.snapshot import ReplicaReadings, Snapshot
from keda_scaler.core.trigger import Metric, Trigger
from keda_scaler.core.waking import answering, ceiling
from keda_scaler.core.windows import Quantile, growth, merged, quantile, slowest

MAX_VALUE = 1e12
"""The HPA computes with thousandths in 64 bits and wraps above about 9e15."""

MIN_OBSERVATIONS = 10
"""Fewer requests (or tokens) than this in a window have no opinion: the 0.95 quantile of nine is
just the slowest of them."""

MAX_LATENCY_RATIO = 2.0
"""A latency asks for at most this many times the ready replicas at once: twice the replicas seldom
means half the latency, and the next window shows what they did."""

CAPPED = "capped"
"""What the text begins with of a metric that reports less than it would, because replicas load."""

_REQUESTS = frozenset({Signal.QUEUE_DEPTH, Signal.CONCURRENCY})
"""Signals that what a gateway holds adds to."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a metric reports."""

    number: float
    """Finite, from 0 to just below `MAX_VALUE`."""

    text: str = ""
    """What is noteworthy about it, for people; empty: nothing."""


def report(
    metric: Metric, trigger: Trigger, snapshot: Snapshot, memory: Memory, now: float
) -> Report | Missing:
    """Compute what a metric reports.

    A list of replicas that is empty is zero. One on which no replica answers is missing, but for
    the time of the lease: then it is what the wake source has seen, or no change, at least one
    replica's worth. Replicas whose engine lacks the signal have no say in it.
    """
    counted = snapshot.counted
    serving = answering(trigger, snapshot, now)
    listed = serving if trigger.by_reports else len(counted)
    if not serving and memory.leases(now):
        reported: Report | Missing = _while_waking(metric, trigger, snapshot, listed, now)
    else:
        reported = _of_replicas(metric, trigger, snapshot, counted, now)
    if isinstance(reported, Missing):
        return reported
    most = ceiling(trigger, snapshot, memory, now) * metric.target
    most = most if trigger.metric_type == "AverageValue" else most / max(1, listed)
    if reported.number <= most:
        return Report(min(reported.number, MAX_VALUE * 0.999), reported.text)
    text = f"{CAPPED}: would be {reported.number:.3g}, but replicas that were asked for still load"
    return Report(min(most, MAX_VALUE * 0.999), text)


def replicas_for(metric: Metric, trigger: Trigger, listed: int, number: float) -> float:
    """Say how many replicas a metric asks for, as the HPA computes it; not rounded yet."""
    share = number / metric.target
    return share if trigger.metric_type == "AverageValue" else share * max(1, listed)


def _while_waking(
    metric: Metric, trigger: Trigger, snapshot: Snapshot, listed: int, now: float
) -> Report:
    """Report what waits for the replicas that load: no less than would keep those."""
    floor = max(1, listed) * metric.target
    requests = 0.0
    if metric.signal in _REQUESTS:
        requests = _waiting(trigger, snapshot, now)
    number = max(floor, requests)
    number = number if trigger.metric_type == "AverageValue" else number / max(1, listed)
    return Report(number, "while no replica answers")


def _waiting(trigger: Trigger, snapshot: Snapshot, now: float) -> float:
    """Add up the requests that wait although no replica answers, wherever that is known."""
    stale_after = trigger.stale_after
    values = [replica.fresh(Signal.CONCURRENCY, now, stale_after) for replica in snapshot.replicas]
    engines = sum(value.number for value in values if value is not None)
    demand = snapshot.fresh_demand(now, stale_after)
    return max(engines, demand.in_flight if demand is not None else 0.0)


def _of_replicas(
    metric: Metric,
    trigger: Trigger,
    snapshot: Snapshot,
    counted: Sequence[ReplicaReadings],
    now: float,
) -> Report | Missing:
    """Report what the replicas say, and beside it what the gateway holds back from them."""
    concerned = [replica for replica in counted if metric.signal not in replica.lacking]
    if counted and not concerned:
        return Report(0.0, counted[0].lacking[metric.signal].reason)
    if not concerned:
        return Report(0.0)
    if metric.signal in LATENCIES:
        return _latency(metric, trigger, concerned, now)
    values = [_number(metric.signal, trigger, replica, now) for replica in concerned]
    known = [number for number in values if number is not None]
    if not known:
        return Missing(concerned[0].problem(metric.signal))
    demand = snapshot.fresh_demand(now, trigger.stale_after)
    held = demand.held if demand is not None and metric.signal in _REQUESTS else 0.0
    total = with_missing(sum(known) + held, len(known), len(concerned), metric.target)
    return Report(total if trigger.metric_type == "AverageValue" else total / len(concerned))


def _number(signal: Signal, trigger: Trigger, replica: ReplicaReadings, now: float) -> float | None:
    """Give a replica's fresh value. Of one that is stuck nothing is known, or it is idle."""
    value = replica.fresh(signal, now, trigger.stale_after)
    if value is None or not replica.is_stuck(now, trigger.stale_after, trigger.stuck_seconds):
        return None if value is None else value.number
    return 0.0 if trigger.on_stuck == "idle" else None


def with_missing(total: float, known: int, listed: int, target: float) -> float:
    """Complete a sum over `known` replicas to one over `listed`, as the HPA does for missing pods.

    Missing replicas count as zero when that would still scale up, as exactly at target when that
    would still scale down, and as "no change" in between. Source: Kubernetes'
    `replica_calculator.go`, `GetMetricReplicas`.

    Worked examples, two replicas listed and one known, target 5: a total of 12 stays 12 (asks for
    3), 7 becomes 10 (no change), 2 becomes 7 (asks for 2), 0 becomes 5 (asks for 1). See
    tests/core/test_demand.py, test_missing_replicas_count_as_the_hpa_counts_missing_pods.
    """
    if total > listed * target:
        return total
    return min(total + (listed - known) * target, listed * target)


def _latency(
    metric: Metric, trigger: Trigger, replicas: Sequence[ReplicaReadings], now: float
) -> Report | Missing:
    """Report a quantile over all replicas' requests of the window.

    With AverageValue it is multiplied by the ready replicas, so that the HPA shows the quantile.
    """
    found = _observed(metric.signal, trigger, replicas, now)
    if isinstance(found, Missing):
        return found
    ready = max(1, sum(replica.replica.ready for replica in replicas))
    factor = ready if trigger.metric_type == "AverageValue" else 1
    if found is None:
        text = f"fewer than {MIN_OBSERVATIONS} observed in {trigger.latency_window_seconds:g} s"
        busy = _may_work(replicas, now, trigger.stale_after)
        return Report(metric.target * factor if busy else 0.0, text)
    seconds = min(found.seconds, MAX_LATENCY_RATIO * metric.target)
    text = f"{'at least ' if found.is_bound else ''}{found.seconds:.3g} s"
    return Report(seconds * factor, text)


def _observed(
    signal: Signal, trigger: Trigger, replicas: Sequence[ReplicaReadings], now: float
) -> Quantile | Missing | None:
    """Find the quantile of what all replicas observed; None: that is too little."""
    stale_after, share = trigger.stale_after, trigger.latency_quantile
    windows = [replica.fresh_window(signal, now, stale_after) for replica in replicas]
    known = [window for window in windows if window is not None]
    if known:
        buckets = merged(growth(window) for window in known)
        enough = bool(buckets) and buckets[-1][1] >= MIN_OBSERVATIONS
        return quantile(share, buckets) if enough else None
    summaries = [replica.quantiles.get(signal) for replica in replicas]
    fresh = [each for each in summaries if each is not None and now < each.at + stale_after]
    return slowest(share, fresh) if fresh else Missing(replicas[0].problem(signal))


def _may_work(replicas: Sequence[ReplicaReadings], now: float, stale_after: float) -> bool:
    """Whether requests wait or run, or that is not known."""
    values = (replica.fresh(Signal.CONCURRENCY, now, stale_after) for replica in replicas)
    return any(value is None or value.number > 0 for value in values)
