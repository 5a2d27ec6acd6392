"""Demand: what one metric reports, given what its replicas say and what they do not.

The HPA computes `ceil(value / target)` for AverageValue, so the value is a sum over replicas; for
Value it scales its replicas by `value / target`, so the value is a mean. Terminating replicas are
left out: the HPA does not count them either, and new replicas do not get their requests.
"""

from collections.abc import Sequence

from msgspec import Struct

from keda_scaler.core.memory import Memory
from keda_scaler.core.readings import Missing
from keda_scaler.core.signals import LATENCIES, Signal
from keda_scaler.core.snapshot import ReplicaReadings
from keda_scaler.core.trigger import Metric, Trigger
from keda_scaler.core.view import View
from keda_scaler.core.waking import ceiling
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


class Report(Struct, frozen=True, gc=False):
    """What a metric reports."""

    number: float
    """Finite, from 0 to just below `MAX_VALUE`."""

    text: str = ""
    """What is noteworthy about it, for people; empty: nothing."""


def report(metric: Metric, view: View, memory: Memory) -> Report | Missing:
    """Compute what a metric reports.

    A list of replicas that is empty is zero. One on which no replica answers is missing, but for
    the time of the lease: then it is what the wake source has seen, or no change, at least one
    replica's worth. Replicas whose engine lacks the signal have no say in it.
    """
    trigger = view.trigger
    listed = view.answering if trigger.by_reports else len(view.counted)
    if not view.answering and memory.leases(view.now):
        reported: Report | Missing = _while_waking(metric, view, listed)
    else:
        reported = _of_replicas(metric, view)
    if isinstance(reported, Missing):
        return reported
    most = ceiling(view, memory) * metric.target
    most = most if trigger.metric_type == "AverageValue" else most / max(1, listed)
    if reported.number <= most:
        return Report(min(reported.number, MAX_VALUE * 0.999), reported.text)
    text = f"{CAPPED}: would be {reported.number:.3g}, but replicas that were asked for still load"
    return Report(min(most, MAX_VALUE * 0.999), text)


def replicas_for(metric: Metric, trigger: Trigger, listed: int, number: float) -> float:
    """Say how many replicas a metric asks for, as the HPA computes it; not rounded yet."""
    share = number / metric.target
    return share if trigger.metric_type == "AverageValue" else share * max(1, listed)


def _while_waking(metric: Metric, view: View, listed: int) -> Report:
    """Report what waits for the replicas that load: no less than would keep those."""
    floor = max(1, listed) * metric.target
    requests = _waiting(view) if metric.signal in _REQUESTS else 0.0
    number = max(floor, requests)
    number = number if view.trigger.metric_type == "AverageValue" else number / max(1, listed)
    return Report(number, "while no replica answers")


def _waiting(view: View) -> float:
    """Add up the requests that wait although no replica answers, wherever that is known."""
    values = [view.value(replica, Signal.CONCURRENCY) for replica in view.snapshot.replicas]
    engines = sum(value.number for value in values if value is not None)
    return max(engines, view.demand.in_flight if view.demand is not None else 0.0)


def _of_replicas(metric: Metric, view: View) -> Report | Missing:
    """Report what the replicas say, and beside it what the gateway holds back from them."""
    signal = metric.signal
    concerned = [replica for replica in view.counted if signal not in replica.lacking]
    if view.counted and not concerned:
        return Report(0.0, view.counted[0].lacking[signal].reason)
    if not concerned:
        return Report(0.0)
    if signal in LATENCIES:
        return _latency(metric, view, concerned)
    values = [_number(signal, view, replica) for replica in concerned]
    known = [number for number in values if number is not None]
    if not known:
        return Missing(concerned[0].problem(signal))
    held = view.demand.held if view.demand is not None and signal in _REQUESTS else 0.0
    total = with_missing(sum(known) + held, len(known), len(concerned), metric.target)
    is_sum = view.trigger.metric_type == "AverageValue"
    return Report(total if is_sum else total / len(concerned))


def _number(signal: Signal, view: View, replica: ReplicaReadings) -> float | None:
    """Give a replica's fresh value. Of one that is stuck nothing is known, or it is idle."""
    value = view.value(replica, signal)
    if value is None or not view.is_stuck(replica):
        return None if value is None else value.number
    return 0.0 if view.trigger.on_stuck == "idle" else None


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


def _latency(metric: Metric, view: View, replicas: Sequence[ReplicaReadings]) -> Report | Missing:
    """Report a quantile over all replicas' requests of the window.

    With AverageValue it is multiplied by the ready replicas, so that the HPA shows the quantile.
    """
    trigger = view.trigger
    found = _observed(metric.signal, view, replicas)
    if isinstance(found, Missing):
        return found
    ready = max(1, sum(replica.replica.ready for replica in replicas))
    factor = ready if trigger.metric_type == "AverageValue" else 1
    if found is None:
        text = f"fewer than {MIN_OBSERVATIONS} observed in {trigger.latency_window_seconds:g} s"
        if metric.signal in trigger.queries:
            text = "latencyQuery gives NaN: nothing observed"
        return Report(metric.target * factor if _may_work(view, replicas) else 0.0, text)
    seconds = min(found.seconds, MAX_LATENCY_RATIO * metric.target)
    text = f"{'at least ' if found.is_bound else ''}{found.seconds:.3g} s"
    return Report(seconds * factor, text)


def _observed(
    signal: Signal, view: View, replicas: Sequence[ReplicaReadings]
) -> Quantile | Missing | None:
    """Find the quantile of what all replicas observed; None: that is too little."""
    share = view.trigger.latency_quantile
    windows = [view.window(replica, signal) for replica in replicas]
    known = [window for window in windows if window is not None]
    if known:
        buckets = merged(growth(window) for window in known)
        enough = bool(buckets) and buckets[-1][1] >= MIN_OBSERVATIONS
        return quantile(share, buckets) if enough else None
    summaries = [replica.quantiles.get(signal) for replica in replicas]
    fresh = [each for each in summaries if each is not None and view.is_fresh(each.at)]
    return slowest(share, fresh) if fresh else Missing(replicas[0].problem(signal))


def _may_work(view: View, replicas: Sequence[ReplicaReadings]) -> bool:
    """Whether requests wait or run, or that is not known."""
    values = (view.value(replica, Signal.CONCURRENCY) for replica in replicas)
    return any(value is None or value.number > 0 for value in values)
