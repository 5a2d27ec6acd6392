"""KEDA's fallback: what stands in for a metric that keeps failing.

Source: `pkg/fallback/fallback.go`, KEDA 2.20.2. Failures are counted per metric name and any
success resets the count; the fallback is active while the count is *above* the threshold. Only
GetMetrics and IsActive count: a scaler whose GetMetricSpec fails, or which cannot be reached, never
brings it about.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import assert_never

from keda_scaler.keda.client import Failure, Measured, MetricResult, TriggerResult
from keda_scaler.keda.hpa import Pods
from keda_scaler.keda.scaledobject import Fallback

Failures = Mapping[str, int]
"""Consecutive failures by the metric's name in the HPA."""


@dataclass(frozen=True, slots=True)
class Substituted:
    """A trigger's result after the fallback."""

    result: TriggerResult
    failures: Failures


def substitute(
    fallback: Fallback | None, failures: Failures, result: TriggerResult, pods: Pods
) -> Substituted:
    """Count this result's failures and replace those above the threshold.

    Example: threshold 3, the fourth failure in a row, target 5, 4 replicas: the metric becomes 20
    and active (test_keda_fallback.py, `test_the_failure_above_the_threshold_activates`).
    """
    if isinstance(result.metrics, Failure):
        return Substituted(result, failures)
    counts = dict(failures)
    metrics: list[MetricResult] = []
    for metric in result.metrics:
        failed = isinstance(metric.answer, Failure)
        counts[metric.hpa_name] = counts.get(metric.hpa_name, 0) + 1 if failed else 0
        stand_in = None
        if failed and fallback and counts[metric.hpa_name] > fallback.failure_threshold:
            stand_in = _stand_in(fallback, metric.target, result, pods)
        metrics.append(metric if stand_in is None else replace(metric, answer=stand_in))
    return Substituted(replace(result, metrics=tuple(metrics)), counts)


def _stand_in(
    fallback: Fallback, target: float, result: TriggerResult, pods: Pods
) -> Measured | None:
    replicas = _replicas(fallback, pods)
    if replicas is None:
        return None
    if result.metric_type == "AverageValue":
        return Measured((target * replicas,), is_active=True)
    if pods.ready == 0:
        return None  # so a Value metric can never wake a workload from zero
    return Measured((target * replicas / pods.ready,), is_active=True)


def _replicas(fallback: Fallback, pods: Pods) -> int | None:
    match fallback.behavior:
        case "static":
            return fallback.replicas
        case "currentReplicas":
            return pods.wanted
        case "currentReplicasIfHigher":
            return max(pods.wanted, fallback.replicas)
        case "currentReplicasIfLower":
            return min(pods.wanted, fallback.replicas)
        case "scalingModifiers":
            return None  # the formula decides, which is not modelled
        case _:
            assert_never(fallback.behavior)
