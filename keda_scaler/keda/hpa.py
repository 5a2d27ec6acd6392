"""What the Horizontal Pod Autoscaler makes of the values that KEDA hands on.

Source: Kubernetes 1.36, `replica_calculator.go` and `horizontal.go`. Pure functions: `now` and the
`History` come in, a replica count and a new `History` go out. KEDA creates the HPA with
minReplicas of at least 1, so at zero replicas it is disabled and only KEDA can wake the workload.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from keda_scaler.keda.behavior import (
    MAX_INT32,
    Behavior,
    History,
    Wish,
    limit,
    with_change,
    with_recommendation,
)

MetricType = Literal["AverageValue", "Value"]


@dataclass(frozen=True, slots=True)
class NoValue:
    """The HPA could not get a metric."""

    reason: str


@dataclass(frozen=True, slots=True)
class Metric:
    """One external metric of the HPA."""

    name: str
    """As the HPA knows it, with KEDA's prefix: `s0-queue-depth`."""

    metric_type: MetricType
    target: float
    """At least 0.001, else the API server refuses the whole HPA."""

    value: float | NoValue
    """The sum of the values that the scaler gave; at least 0."""


@dataclass(frozen=True, slots=True)
class Pods:
    """The scale target's replicas, counted in three ways."""

    wanted: int
    """`spec.replicas`."""

    created: int
    """`status.replicas`: pods that exist, ready or not."""

    ready: int
    """Pods that are ready."""

    @classmethod
    def all_ready(cls, count: int) -> "Pods":
        """Give a workload at rest."""
        return cls(count, count, count)


@dataclass(frozen=True, slots=True)
class Hpa:
    """The HPA's own settings."""

    low: int
    """minReplicas, at least 1."""

    high: int
    """maxReplicas."""

    behavior: Behavior | None = None
    """None: the HPA has none, which is not the same as one of defaults (see `behavior`)."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What the metrics ask for, before any limit."""

    replicas: int
    metric: str
    """The metric that asked for the most."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """The metrics allow no change."""

    reason: str


@dataclass(frozen=True, slots=True)
class Sync:
    """The outcome of one sync."""

    replicas: int
    """What `spec.replicas` is afterwards."""

    reason: str


def desired(metric: Metric, pods: Pods, behavior: Behavior | None = None) -> int | NoValue:
    """Give the replicas that one metric asks for.

    AverageValue: ceil(value / target); Value: ceil(value / target * ready). The current count when
    the ratio of usage to target is within the tolerance of 1.

    Example: 12 requests, target 5, 3 replicas: 12 / 15 = 0.8 is outside 0.9 to 1.1, so
    ceil(12 / 5) = 3 (test_keda_hpa.py, `test_average_value`).
    """
    if isinstance(metric.value, NoValue):
        return metric.value
    # Quantities travel in thousandths, which also keeps 0.3 / 0.1 from being a little above 3.
    value, target = round(metric.value * 1000), round(metric.target * 1000)
    if target <= 0:
        return NoValue("the API server refuses an HPA whose target is not positive")
    if metric.metric_type == "AverageValue":
        # With no pod the ratio is infinite or undefined, which is in no tolerance.
        if pods.created and _is_tolerated(value / (target * pods.created), behavior):
            return pods.created
        return min(MAX_INT32, math.ceil(value / target))
    if _is_tolerated(value / target, behavior):
        return pods.wanted
    if not pods.created:
        return NoValue("no pods to calculate a replica count from")
    return min(MAX_INT32, math.ceil(value / target * pods.ready))


def _is_tolerated(ratio: float, behavior: Behavior | None) -> bool:
    rules = behavior or Behavior()
    return 1.0 - rules.down.tolerance <= ratio <= 1.0 + rules.up.tolerance


def recommend(
    metrics: Sequence[Metric], pods: Pods, behavior: Behavior | None = None
) -> Recommendation | Blocked:
    """Give the maximum over the metrics.

    A metric without a value blocks scaling in and not scaling out; with no value at all nothing
    changes.
    """
    best: Recommendation | None = None
    missing: list[str] = []
    for metric in metrics:
        count = desired(metric, pods, behavior)
        if isinstance(count, NoValue):
            missing.append(f"{metric.name}: {count.reason}")
        elif best is None or count > best.replicas:
            best = Recommendation(count, metric.name)
    if best is None:
        return Blocked(missing[0] if missing else "no metrics")
    if missing and best.replicas < pods.wanted:
        return Blocked(f"{missing[0]}; no scaling in while a metric is missing")
    return best


def sync(
    hpa: Hpa, history: History, metrics: Sequence[Metric], pods: Pods, now: float
) -> tuple[Sync, History]:
    """Do what the HPA controller does every 15 s."""
    current = pods.wanted
    if not history.recommended:
        # A controller that has just started takes the current count for its first recommendation.
        history = replace(history, recommended=((now, current),))
    if current == 0:
        return Sync(0, "disabled: at zero replicas only KEDA can wake it"), history
    # Bounds are restored at once, whatever the metrics and the behavior say.
    if not hpa.low <= current <= hpa.high:
        bound = min(max(current, hpa.low), hpa.high)
        name = "maxReplicas" if current > hpa.high else "minReplicas"
        return (
            Sync(bound, f"{name} is {bound}"),
            with_change(history, bound - current, hpa.behavior, now),
        )
    recommendation = recommend(metrics, pods, hpa.behavior)
    if isinstance(recommendation, Blocked):
        return Sync(current, f"no change: {recommendation.reason}"), history
    wish = Wish(current, recommendation.replicas, hpa.low, hpa.high)
    limited = limit(wish, hpa.behavior, history, now)
    history = with_recommendation(history, recommendation.replicas, hpa.behavior, now)
    history = with_change(history, limited.replicas - current, hpa.behavior, now)
    reason = f"{recommendation.metric} asks for {recommendation.replicas}"
    return Sync(limited.replicas, "; ".join(filter(None, (reason, limited.reason)))), history
