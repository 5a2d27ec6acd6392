"""The HPA's arithmetic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_scaler.keda.behavior import Behavior, History, Policy, Rules
from keda_scaler.keda.hpa import (
    Blocked,
    Hpa,
    Metric,
    MetricType,
    NoValue,
    Pods,
    Recommendation,
    desired,
    recommend,
    sync,
)


def metric(
    value: float | NoValue,
    target: float = 5,
    metric_type: MetricType = "AverageValue",
    name: str = "s0-a",
) -> Metric:
    """Give a metric."""
    return Metric(name, metric_type, target, value)


MISSING = metric(NoValue("no answer"), name="s0-b")


@pytest.mark.parametrize(
    ("value", "target", "created", "replicas"),
    [
        (12, 5, 3, 3),  # ceil(2.4)
        (12, 5, 1, 3),
        (0, 5, 3, 0),
        (15, 5, 3, 3),
        (16.5, 5, 3, 3),  # ratio 1.1: still tolerated
        (16.6, 5, 3, 4),
        (13.5, 5, 3, 3),  # ratio 0.9: still tolerated
        (9, 5, 3, 2),
        (1.1, 0.25, 1, 5),  # ceil(4.4)
        (0.3, 0.1, 2, 3),  # thousandths: 0.3 / 0.1 is not a little above 3
        (7, 5, 0, 2),  # no pod yet
        (0, 5, 0, 0),
        (1e12, 0.001, 1, 2**31 - 1),
    ],
)
def test_average_value(value: float, target: float, created: int, replicas: int) -> None:
    """AverageValue: ceil(value / target), or what exists when the ratio is tolerated."""
    assert desired(metric(value, target), Pods(3, created, 1)) == replicas


@pytest.mark.parametrize(
    ("value", "target", "pods", "replicas"),
    [
        (2, 1, Pods.all_ready(3), 6),
        (1.5, 1, Pods.all_ready(3), 5),  # ceil(4.5)
        (1.5, 1, Pods(3, 3, 1), 2),  # only one is ready
        (1.5, 1, Pods(3, 3, 0), 0),
        (1.1, 1, Pods.all_ready(3), 3),  # tolerated
        (1.1, 1, Pods(4, 3, 2), 4),  # tolerated: what is wanted stays
        (0.9, 1, Pods.all_ready(3), 3),
        (0.5, 1, Pods.all_ready(3), 2),
        (0, 1, Pods.all_ready(3), 0),
    ],
)
def test_value(value: float, target: float, pods: Pods, replicas: int) -> None:
    """Value: ceil(value / target * ready pods), or what is wanted when the ratio is tolerated."""
    assert desired(metric(value, target, "Value"), pods) == replicas


def test_value_without_pods() -> None:
    """With no pod at all there is nothing to multiply with."""
    assert isinstance(desired(metric(2, 1, "Value"), Pods(1, 0, 0)), NoValue)


@pytest.mark.parametrize("target", [0.0, -1.0, 0.0004])
def test_a_target_that_is_not_positive(target: float) -> None:
    """The API server refuses such an HPA, so it asks for nothing."""
    assert isinstance(desired(metric(5, target), Pods.all_ready(1)), NoValue)


@pytest.mark.parametrize(("value", "replicas"), [(16, 4), (15.4, 3), (14, 3), (11, 3), (7.4, 2)])
def test_tolerances_of_a_behavior(value: float, replicas: int) -> None:
    """Each direction may have its own tolerance."""
    behavior = Behavior(
        Rules((Policy("Pods", 4, 15),), tolerance=0.03),
        Rules((Policy("Pods", 4, 15),), tolerance=0.5),
    )
    assert desired(metric(value), Pods.all_ready(3), behavior) == replicas


@pytest.mark.parametrize(
    ("metrics", "replicas", "outcome"),
    [
        ([metric(12), metric(20, name="s0-c")], 1, Recommendation(4, "s0-c")),
        ([metric(12), metric(12, name="s0-c")], 1, Recommendation(3, "s0-a")),
        ([metric(30), MISSING], 2, Recommendation(6, "s0-a")),  # scaling out goes on
        ([MISSING, metric(15)], 3, Recommendation(3, "s0-a")),
        (
            [metric(5), MISSING],
            3,
            Blocked("s0-b: no answer; no scaling in while a metric is missing"),
        ),
        ([MISSING], 3, Blocked("s0-b: no answer")),
        ([], 3, Blocked("no metrics")),
    ],
)
def test_maximum_over_metrics(
    metrics: list[Metric], replicas: int, outcome: Recommendation | Blocked
) -> None:
    """The metric that asks for most decides; one without a value only blocks scaling in."""
    assert recommend(metrics, Pods.all_ready(replicas)) == outcome


@pytest.mark.parametrize(
    ("wanted", "value", "replicas", "reason"),
    [
        (0, 50, 0, "disabled: at zero replicas only KEDA can wake it"),
        (12, 50, 10, "maxReplicas is 10"),
        (1, 0, 2, "minReplicas is 2"),
        (2, 20, 4, "s0-a asks for 4"),
        (2, 100, 4, "s0-a asks for 20; at most 4 in one sync"),
        (8, 100, 10, "s0-a asks for 20; at most 10 (maxReplicas)"),
        (2, 10, 2, "s0-a asks for 2"),
        (8, 0, 8, "s0-a asks for 0; a recent recommendation was closer to the current count"),
    ],
)
def test_sync(wanted: int, value: float, replicas: int, reason: str) -> None:
    """One sync: disabled at zero, bounds at once, then the metrics within the limits."""
    outcome, _ = sync(Hpa(2, 10), History(), [metric(value)], Pods.all_ready(wanted), 0.0)
    assert (outcome.replicas, outcome.reason) == (replicas, reason)


def test_no_metric_no_change() -> None:
    """When no metric has a value, nothing changes and nothing is remembered as a wish."""
    outcome, history = sync(Hpa(1, 10), History(), [MISSING], Pods.all_ready(3), 0.0)
    assert outcome.replicas == 3
    assert history.recommended == ((0.0, 3),)


def test_scaling_in_takes_the_stabilization_window() -> None:
    """Load that ends is scaled in at the first sync after 300 s, not before."""
    hpa, history, count, counts = Hpa(1, 10), History(), 4, {}
    for second in range(0, 600, 15):
        value = 20 if second <= 60 else 0
        outcome, history = sync(hpa, history, [metric(value)], Pods.all_ready(count), float(second))
        count = counts[second] = outcome.replicas
    assert [counts[60], counts[360], counts[375]] == [4, 4, 1]


def test_growth_with_a_behavior_is_per_period() -> None:
    """4 pods or double per 15 s, however often the HPA syncs within them."""
    hpa, history, count, counts = Hpa(1, 100, Behavior()), History(), 1, []
    for second in range(0, 50, 5):
        outcome, history = sync(hpa, history, [metric(500)], Pods.all_ready(count), float(second))
        count = outcome.replicas
        counts.append(count)
    assert counts == [5, 5, 5, 10, 10, 10, 20, 20, 20, 40]


VALUES = st.floats(0, 1e6)
TARGETS = st.floats(0.001, 1e4)
TYPES = st.sampled_from(("AverageValue", "Value"))
COUNTS = st.integers(1, 1000)


@given(VALUES, VALUES, TARGETS, TYPES, COUNTS)
def test_more_value_never_asks_for_less_outside_the_tolerance(
    one: float, other: float, target: float, metric_type: MetricType, count: int
) -> None:
    """Monotone in the value, but for the tolerance, which may keep one count more or less."""
    less, more = (
        desired(metric(value, target, metric_type), Pods.all_ready(count))
        for value in sorted((one, other))
    )
    assert isinstance(less, int)
    assert isinstance(more, int)
    assert less <= more or count in (less, more)


@given(TARGETS, TYPES, COUNTS, st.floats(0.902, 1.098))
def test_no_change_within_the_tolerance(
    target: float, metric_type: MetricType, count: int, ratio: float
) -> None:
    """A ratio near 1 leaves the count alone."""
    target = max(target, 1.0)  # below, a thousandth is more than the margin left here
    value = target * ratio * (count if metric_type == "AverageValue" else 1)
    assert desired(metric(value, target, metric_type), Pods.all_ready(count)) == count


@given(
    st.lists(st.builds(metric, VALUES | st.just(NoValue("no")), TARGETS, TYPES), max_size=4),
    st.integers(0, 200),
    st.tuples(st.integers(1, 100), st.integers(1, 100)).map(sorted),
    st.none() | st.just(Behavior()),
)
def test_a_sync_keeps_the_bounds(
    metrics: list[Metric], wanted: int, bounds: list[int], behavior: Behavior | None
) -> None:
    """Whatever the metrics say: zero stays zero, all else ends up within the bounds."""
    hpa = Hpa(bounds[0], bounds[1], behavior)
    outcome, _ = sync(hpa, History(), metrics, Pods.all_ready(wanted), 0.0)
    if wanted == 0:
        assert outcome.replicas == 0
    else:
        assert hpa.low <= outcome.replicas <= hpa.high
