"""Demand: what one metric reports, given what its replicas say and what they do not.

The HPA computes `ceil(value / target)` for AverageValue, so the value is a sum over replicas; for
Value it scales its replicas by `value / target`, so the value is a mean. Terminating replicas are
left out: the HPA does not count them either, and new replicas do not get their requests.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from keda_scaler.core.readings import Missing
from keda_scaler.core.signals import LATENCIES, Signal
from keda_scaler.core.snapshot import ReplicaReadings, Snapshot
from keda_scaler.core.trigger import Metric, Trigger
from keda_scaler.core.windows import Quantile, growth, merged, quantile, slowest

MAX_VALUE = 1e12
"""The HPA computes with thousandths in 64 bits and wraps above about 9e15."""

MIN_OBSERVATIONS = 10
"""Fewer requests (or tokens) than this in a window have no opinion: the 0.95 quantile of nine is
just the slowest of them."""

MAX_LATENCY_RATIO = 2.0
"""A latency asks for at most this many times the ready replicas at once: twice the replicas seldom
means half the latency, and the next window shows what they did."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a metric reports."""

    number: float
    """Finite, from 0 to just below `MAX_VALUE`."""

    text: str = ""
    """What is noteworthy about it, for people; empty: nothing."""


def report(metric: Metric, trigger: Trigger, snapshot: Snapshot, now: float) -> Report | Missing:
    """Compute what a metric reports.

    A list of replicas that is empty is zero. One on which no replica answers is missing. Replicas
    whose engine lacks the signal have no say in it.
    """
    counted = [replica for replica in snapshot.replicas if not replica.replica.terminating]
    concerned = [replica for replica in counted if metric.signal not in replica.lacking]
    if counted and not concerned:
        return Report(0.0, counted[0].lacking[metric.signal].reason)
    if not concerned:
        return Report(0.0)
    if metric.signal in LATENCIES:
        return _latency(metric, trigger, concerned, now)
    values = [replica.fresh(metric.signal, now, trigger.stale_after) for replica in concerned]
    known = [value.number for value in values if value is not None]
    if not known:
        return Missing(concerned[0].problem(metric.signal))
    total = with_missing(sum(known), len(known), len(concerned), metric.target)
    number = total if trigger.metric_type == "AverageValue" else total / len(concerned)
    return Report(min(number, MAX_VALUE * 0.999))


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
