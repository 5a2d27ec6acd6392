"""Demand: sums, means and missing replicas."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from keda_scaler.core.demand import MAX_VALUE, MIN_OBSERVATIONS, Report, with_missing
from keda_scaler.core.readings import Distribution, Lacking, Missing, Quantiles, Replica
from keda_scaler.core.signals import Signal
from keda_scaler.core.snapshot import ReplicaReadings, Snapshot
from keda_scaler.core.trigger import Accepts, Metric, Trigger, parse_trigger
from keda_scaler.core.windows import Window
from readings_for_tests import replica, reported, snapshot, trigger

QUEUE = Metric(Signal.QUEUE_DEPTH, 5.0)
MEMORY = Metric(Signal.GPU_MEMORY_PRESSURE, 0.8)


def number(metric: Metric, asks: Trigger, known: Snapshot, now: float = 1.0) -> float:
    found = reported(metric, asks, known, now)
    assert isinstance(found, Report)
    return found.number


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

    assert number(QUEUE, trigger(), known) == 15
    assert number(MEMORY, trigger(), known) == pytest.approx(1.4)


def test_means_are_reported_for_value() -> None:
    """With Value the HPA multiplies by its replicas itself."""
    known = snapshot(replica("a", waiting=12, kv=0.9), replica("b", waiting=3, kv=0.5))

    assert number(QUEUE, trigger(metricType="Value"), known) == 7.5
    assert number(MEMORY, trigger(metricType="Value"), known) == pytest.approx(0.7)


def test_no_replicas_is_zero() -> None:
    """At zero replicas there is no load on the engine, and that is known."""
    assert number(QUEUE, trigger(), snapshot()) == 0.0


def test_no_answer_from_any_replica_is_missing() -> None:
    """If no replica answers, nothing is known, and nothing is made up."""
    found = reported(QUEUE, trigger(), snapshot(replica("a", None), replica("b", None)), 1.0)

    assert found == Missing("a: no answer within 5 s")


def test_a_stale_reading_counts_as_missing() -> None:
    """A reading is replayed until it is stale, then it is missing."""
    old_and_new = snapshot(replica("a", waiting=2, at=0.0), replica("b", waiting=2, at=10.0))

    assert number(QUEUE, trigger(), old_and_new, 14.9) == 4
    assert number(QUEUE, trigger(), old_and_new, 15.0) == 7
    assert isinstance(reported(QUEUE, trigger(), old_and_new, 25.0), Missing)


def test_terminating_replicas_ask_for_nothing() -> None:
    """The HPA does not count them, and new replicas do not get their requests."""
    known = snapshot(replica("a", waiting=3), replica("b", waiting=50, terminating=True))

    assert number(QUEUE, trigger(), known) == 3


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

    total = with_missing(known, listed - 1, listed, target)

    assert total >= known
    assert total <= max(known, listed * target)


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

    found = reported(QUEUE, trigger(metricType=metric_type), known, 1.0)

    if isinstance(found, Report):
        assert math.isfinite(found.number)
        assert 0 <= found.number < MAX_VALUE


TTFT = Metric(Signal.TTFT, 2.0)


def slow(
    name: str, *, finished: int, seconds: float = 1.5, running: float = 0, ready: bool = True
) -> ReplicaReadings:
    """Build a replica that finished requests within the window, all in one bucket of 1 second."""
    bounds = (*range(1, 11), math.inf)

    def look(count: int, at: float) -> Distribution:
        return Distribution(
            tuple((bound, float(count if bound >= seconds else 0)) for bound in bounds), at, None
        )

    known = replica(name, running=running, at=10.0, ready=ready)
    window = Window((look(5, 0.0), look(5 + finished, 10.0)))
    return replace(known, windows={Signal.TTFT: window})


def ttft(*replicas: ReplicaReadings, **keys: str) -> Report | Missing:
    return reported(TTFT, trigger(targetTtftSeconds="2", **keys), snapshot(*replicas), 11.0)


def test_a_latency_is_the_quantile_times_the_ready_replicas() -> None:
    """The HPA divides by the target and by its replicas, and shows the quantile."""
    loading = replica("c", None, ready=False)
    found = ttft(slow("a", finished=20), slow("b", finished=20), loading)

    assert isinstance(found, Report)
    assert found.number == pytest.approx(2 * 1.95)
    by_value = ttft(slow("a", finished=20), slow("b", finished=20), metricType="Value")
    assert isinstance(by_value, Report)
    assert by_value.number == pytest.approx(1.95)


def test_the_quantile_is_over_the_requests_of_all_replicas() -> None:
    """It is not a mean of quantiles: twenty slow ones among two hundred are the slowest tenth."""
    found = ttft(
        slow("a", finished=180), slow("b", finished=20, seconds=2.5), latencyQuantile="0.9"
    )

    assert isinstance(found, Report)
    assert found.number == pytest.approx(2 * 2.0)


def test_a_latency_asks_for_at_most_twice_the_replicas() -> None:
    """Latency is not linear in replicas."""
    found = ttft(slow("a", finished=20, seconds=9.5), slow("b", finished=20, seconds=9.5))

    assert isinstance(found, Report)
    assert found.number == 2 * 2 * 2.0


def test_a_latency_beyond_the_last_bound_is_at_least_that() -> None:
    """The overflow bucket has no upper bound, and the text says so."""
    found = ttft(slow("a", finished=20, seconds=11))

    assert found == Report(4.0, "at least 10 s")


@pytest.mark.parametrize(("running", "value"), [(1, 2.0), (0, 0.0)])
def test_too_few_requests_have_no_opinion(running: float, value: float) -> None:
    """No change while there is work, else 0, so that a latency never keeps idle replicas."""
    found = ttft(slow("a", finished=MIN_OBSERVATIONS - 1, running=running))

    assert isinstance(found, Report)
    assert found.number == value
    assert found.text == "fewer than 10 observed in 120 s"


@pytest.mark.parametrize(("running", "value"), [(1, 2.0), (0, 0.0)])
def test_a_latency_query_without_requests_has_no_opinion(running: float, value: float) -> None:
    """NaN is no number and no error: no change while there is work, else 0."""
    keys = {"prometheus": "main", "engine": "vllm", "targetLatencySeconds": "2"}
    asks = parse_trigger(keys | {"latencyQuery": "x"}, Accepts(frozenset({"main"})))
    one = replace(
        replica("a", running=running), quantiles={Signal.LATENCY: Quantiles(((0.95, math.nan),), 0)}
    )

    found = reported(Metric(Signal.LATENCY, 2.0), asks, snapshot(one), 1.0)

    assert found == Report(value, "latencyQuery gives NaN: nothing observed")


def test_a_latency_nobody_measures_is_missing() -> None:
    """Stale looks are as good as none."""
    assert isinstance(ttft(replica("a", None)), Missing)
    old = reported(TTFT, trigger(targetTtftSeconds="2"), snapshot(slow("a", finished=20)), now=25.0)
    assert isinstance(old, Missing)


def test_an_engine_that_lacks_a_signal_abstains() -> None:
    """It is no error and no pressure: 0, and the reason."""
    lacking = Lacking("llama.cpp does not expose gpu-memory-pressure")
    one = ReplicaReadings(Replica("a"), lacking={Signal.GPU_MEMORY_PRESSURE: lacking})

    assert reported(MEMORY, trigger(), snapshot(one), 1.0) == Report(0.0, lacking.reason)
    both = snapshot(one, replica("b", kv=0.5))
    assert reported(MEMORY, trigger(), both, 1.0) == Report(0.5)


def test_a_summary_stands_for_a_histogram() -> None:
    """Of an engine that computes its quantiles itself, the slowest replica's is reported."""
    points = Quantiles(((0.5, 0.1), (0.95, 1.5)), 10.0)
    known = replace(replica("a", at=10.0), quantiles={Signal.TTFT: points})

    assert ttft(known) == Report(1.5, "1.5 s")
    old = reported(TTFT, trigger(targetTtftSeconds="2"), snapshot(known), now=25.0)
    assert isinstance(old, Missing)
