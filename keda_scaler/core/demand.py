"""Demand: what one metric reports, given what its replicas say and what they do not.

The HPA computes `ceil(value / target)` for AverageValue, so the value is a sum over replicas; for
Value it scales its replicas by `value / target`, so the value is a mean. Terminating replicas are
left out: the HPA does not count them either, and new replicas do not get their requests.
"""

from keda_scaler.core.readings import Missing, Snapshot
from keda_scaler.core.trigger import Metric, Trigger

MAX_VALUE = 1e12
"""The HPA computes with thousandths in 64 bits and wraps above about 9e15."""


def report(metric: Metric, trigger: Trigger, snapshot: Snapshot, now: float) -> float | Missing:
    """Compute what a metric reports; finite, from 0 to just below `MAX_VALUE`.

    A list of replicas that is empty is zero. One on which no replica answers is missing.
    """
    counted = [replica for replica in snapshot.replicas if not replica.replica.terminating]
    if not counted:
        return 0.0
    values = [replica.fresh(metric.signal, now, trigger.stale_after) for replica in counted]
    known = [value.number for value in values if value is not None]
    if not known:
        return Missing(counted[0].problem(metric.signal))
    total = with_missing(sum(known), len(known), len(counted), metric.target)
    number = total if trigger.metric_type == "AverageValue" else total / len(counted)
    return min(number, MAX_VALUE * 0.999)


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
