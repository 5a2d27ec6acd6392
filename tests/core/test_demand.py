"""Demand: sums, means and missing replicas."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_scaler.core.demand import MAX_VALUE, report, with_missing
from keda_scaler.core.readings import Missing
from keda_scaler.core.signals import Signal
from keda_scaler.core.trigger import Metric
from readings_for_tests import replica, snapshot, trigger

QUEUE = Metric(Signal.QUEUE_DEPTH, 5.0)
MEMORY = Metric(Signal.GPU_MEMORY_PRESSURE, 0.8)

counts = st.floats(0, 1e6)
targets = st.floats(0.001, 1e6)


@pytest.mark.parametrize(
    ("total", "becomes"),
    [
        (12, 12),  # scales up even if the missing one is idle
        (10, 10),
        (7, 10),  # no change
        (5, 10),
        (2, 7),  # scales down even if the missing one is at target
        (0, 5),
    ],
)
def test_missing_replicas_count_as_the_hpa_counts_missing_pods(
    total: float, becomes: float
) -> None:
    """Two replicas, one missing, target 5."""
    assert with_missing(total, known=1, listed=2, target=5.0) == becomes


def test_requests_and_ratios_are_summed_for_average_value() -> None:
    """The HPA divides by the target and not by the replicas, so ratios are summed too."""
    known = snapshot(replica("a", waiting=12, kv=0.9), replica("b", waiting=3, kv=0.5))

    assert report(QUEUE, trigger(), known, 1.0) == 15
    assert report(MEMORY, trigger(), known, 1.0) == pytest.approx(1.4)


def test_means_are_reported_for_value() -> None:
    """With Value the HPA multiplies by its replicas itself."""
    known = snapshot(replica("a", waiting=12, kv=0.9), replica("b", waiting=3, kv=0.5))

    assert report(QUEUE, trigger(metricType="Value"), known, 1.0) == 7.5
    assert report(MEMORY, trigger(metricType="Value"), known, 1.0) == pytest.approx(0.7)


def test_no_replicas_is_zero() -> None:
    """At zero replicas there is no load on the engine, and that is known."""
    assert report(QUEUE, trigger(), snapshot(), 1.0) == 0.0


def test_no_answer_from_any_replica_is_missing() -> None:
    """If no replica answers, nothing is known, and nothing is made up."""
    reported = report(QUEUE, trigger(), snapshot(replica("a", None), replica("b", None)), 1.0)

    assert reported == Missing("a: no answer within 5 s")


def test_a_stale_reading_counts_as_missing() -> None:
    """A reading is replayed until it is stale, then it is missing."""
    old_and_new = snapshot(replica("a", waiting=2, at=0.0), replica("b", waiting=2, at=10.0))

    assert report(QUEUE, trigger(), old_and_new, 14.9) == 4
    assert report(QUEUE, trigger(), old_and_new, 15.0) == 7
    assert isinstance(report(QUEUE, trigger(), old_and_new, 25.0), Missing)


def test_terminating_replicas_ask_for_nothing() -> None:
    """The HPA does not count them, and new replicas do not get their requests."""
    known = snapshot(replica("a", waiting=3), replica("b", waiting=50, terminating=True))

    assert report(QUEUE, trigger(), known, 1.0) == 3


@given(counts, counts, st.integers(1, 20), st.integers(0, 20), targets)
def test_demand_is_monotone_in_load(
    one: float, other: float, known: int, missing: int, target: float
) -> None:
    """More load never reports less."""
    low, high = sorted((one, other))
    listed = known + missing

    assert with_missing(low, known, listed, target) <= with_missing(high, known, listed, target)


@given(st.lists(counts, min_size=1, max_size=8), st.data(), targets)
def test_unknown_never_lowers(numbers: list[float], data: st.DataObject, target: float) -> None:
    """A missing reading counts for at least zero, and never makes a rise of its own."""
    hidden = data.draw(st.integers(0, len(numbers) - 1))
    listed = len(numbers)
    known = sum(numbers) - numbers[hidden]

    reported = with_missing(known, listed - 1, listed, target)

    assert reported >= known
    assert reported <= max(known, listed * target)


@given(
    st.lists(st.tuples(counts, st.booleans()), max_size=8),
    st.sampled_from(["AverageValue", "Value"]),
)
def test_what_is_reported_is_finite_and_bounded(
    replicas: list[tuple[float, bool]], metric_type: str
) -> None:
    """Only finite, non-negative numbers below 1e12 are reported."""
    known = snapshot(
        *(replica(str(i), n if answers else None) for i, (n, answers) in enumerate(replicas))
    )

    reported = report(QUEUE, trigger(metricType=metric_type), known, 1.0)

    if not isinstance(reported, Missing):
        assert math.isfinite(reported)
        assert 0 <= reported < MAX_VALUE
