"""KEDA's fallback."""

import grpc
import pytest

from keda_scaler.keda.client import Failure, Measured, MetricResult, TriggerResult
from keda_scaler.keda.fallback import Failures, substitute
from keda_scaler.keda.hpa import MetricType, Pods
from keda_scaler.keda.scaledobject import Fallback, FallbackBehavior, KedaTrigger

BROKEN = Failure("GetMetrics", grpc.StatusCode.UNAVAILABLE, "broken")
FOUR = Fallback(3, 4)


def result(answer: Measured | Failure, metric_type: MetricType = "AverageValue") -> TriggerResult:
    """Give a trigger's result with one metric."""
    trigger = KedaTrigger(0, "external", {}, metric_type)
    return TriggerResult(trigger, (MetricResult("a", "s0-a", 5.0, answer),))


def answer_of(result: TriggerResult) -> Measured | Failure:
    """Give the answer for the one metric."""
    assert not isinstance(result.metrics, Failure)
    return result.metrics[0].answer


def test_the_failure_above_the_threshold_activates() -> None:
    """With a threshold of 3 the fourth failure in a row counts as active: target * replicas."""
    failures: Failures = {}
    for expected in (BROKEN, BROKEN, BROKEN, Measured((20.0,), is_active=True)):
        after = substitute(FOUR, failures, result(BROKEN), Pods.all_ready(1))
        failures = after.failures
        assert answer_of(after.result) == expected
    assert failures == {"s0-a": 4}
    assert after.result.is_active
    assert not after.result.is_error


def test_any_success_resets_the_count() -> None:
    """Also one without values."""
    after = substitute(FOUR, {"s0-a": 9}, result(Measured((), is_active=True)), Pods.all_ready(1))
    assert after.failures == {"s0-a": 0}


def test_failing_specs_are_not_counted() -> None:
    """An unreachable scaler never brings the fallback about."""
    unreachable = TriggerResult(KedaTrigger(0, "external", {}), BROKEN)
    after = substitute(FOUR, {}, unreachable, Pods.all_ready(1))
    assert (after.result, after.failures) == (unreachable, {})


def test_without_fallback_failures_stay() -> None:
    """There is nothing to replace them with."""
    after = substitute(None, {"s0-a": 9}, result(BROKEN), Pods.all_ready(1))
    assert answer_of(after.result) == BROKEN


@pytest.mark.parametrize(
    ("ready", "expected"), [(2, Measured((10.0,), is_active=True)), (0, BROKEN)]
)
def test_value(ready: int, expected: Measured | Failure) -> None:
    """A Value is divided by the ready replicas; with none of them there can be no fallback."""
    after = substitute(FOUR, {"s0-a": 3}, result(BROKEN, "Value"), Pods(2, 2, ready))
    assert answer_of(after.result) == expected


@pytest.mark.parametrize(
    ("behavior", "wanted", "expected"),
    [
        ("static", 6, Measured((20.0,), is_active=True)),
        ("currentReplicas", 6, Measured((30.0,), is_active=True)),
        ("currentReplicas", 0, Measured((0.0,), is_active=True)),
        ("currentReplicasIfHigher", 6, Measured((30.0,), is_active=True)),
        ("currentReplicasIfHigher", 2, Measured((20.0,), is_active=True)),
        ("currentReplicasIfLower", 6, Measured((20.0,), is_active=True)),
        ("currentReplicasIfLower", 2, Measured((10.0,), is_active=True)),
        ("scalingModifiers", 6, BROKEN),
    ],
)
def test_behaviors(behavior: FallbackBehavior, wanted: int, expected: Measured | Failure) -> None:
    """The replicas are the fallback's or the current ones, as the behavior says."""
    fallback = Fallback(0, 4, behavior)
    after = substitute(fallback, {}, result(BROKEN), Pods.all_ready(wanted))
    assert answer_of(after.result) == expected
