"""Triton's dialect: ensembles, versions, milliseconds, and requests that nobody counts."""

import pytest

from engine_pages import buckets, capture, numbers, read, without
from keda_scaler.core.readings import Flow, Lacking, Missing, Quantiles, Replica, Value
from keda_scaler.core.signals import Signal
from keda_scaler.core.snapshot import ReplicaReadings, Spans, absorb

BUSY = capture("triton__ensemble-busy")


def test_an_ensemble_counts_once() -> None:
    """Its members count its requests, and its own count stays 0: the sum is right."""
    pipeline = without(BUSY, 'nv_inference_pending_request_count{model="classify"')

    assert numbers(read(pipeline), Signal.QUEUE_DEPTH) == (12.0,)


def test_versions_of_a_model_add_up() -> None:
    """Every version has a queue of its own."""
    assert numbers(read(BUSY), Signal.QUEUE_DEPTH) == (17.0,)
    assert numbers(read(BUSY, model="classify"), Signal.QUEUE_DEPTH) == (5.0,)


def test_requests_that_end_show_that_others_ran() -> None:
    """Successes and failures of whatever reason are what moves."""
    assert read(BUSY)[Signal.CONCURRENCY] == Flow(17.0, 183.0, 7.0, series=6)

    before = absorb(ReplicaReadings(Replica("a")), read(BUSY), None, Spans(60.0))
    assert before.values[Signal.CONCURRENCY] == Value(17.0, 7.0, series=6)
    failed = BUSY.replace('reason="CANCELED",version="1"} 1', 'reason="CANCELED",version="1"} 2')
    after = absorb(before, read(failed), None, Spans(60.0))
    assert after.values[Signal.CONCURRENCY] == Value(18.0, 7.0, series=6)


def test_a_missing_count_is_not_zero() -> None:
    """Servers before 23.09 have no pending requests; one without counters proves nothing."""
    old = read(without(BUSY, "nv_inference_pending"))
    assert old[Signal.QUEUE_DEPTH] == Missing("no series of nv_inference_pending_request_count")
    assert old[Signal.CONCURRENCY] == old[Signal.QUEUE_DEPTH]

    uncounted = read(without(BUSY, "nv_inference_request_failure"))
    assert uncounted[Signal.CONCURRENCY] == Missing("no series of nv_inference_request_failure")


def test_first_response_is_in_milliseconds() -> None:
    """The bounds are those of the page by a thousand; the name without a bound is not a bound."""
    inf = float("inf")

    assert buckets(read(BUSY)[Signal.TTFT]) == {0.1: 5, 0.5: 20, 2.0: 35, 5.0: 40, inf: 41}


def test_cumulative_durations_are_no_depth() -> None:
    """Sums of microseconds are not read."""
    assert read(without(BUSY, "nv_inference_queue_duration_us")) == read(BUSY)


def test_summaries_in_microseconds_become_seconds() -> None:
    """Of several models' quantiles the slowest counts; one without traffic is NaN."""
    page = BUSY + "".join(
        f'nv_inference_request_summary_us{{model="x",version="1",quantile="{share}"}} {micros}\n'
        for share, micros in (("0.5", "2000000"), ("0.95", "nan"))
    )
    found = read(page)[Signal.LATENCY]

    assert isinstance(found, Quantiles)
    assert dict(found.points)[0.5] == 2.0
    assert found.points[-1][1] == pytest.approx(0.00531)


def test_a_histogram_that_is_off_is_missing_and_says_its_name() -> None:
    """It is off by default, which a trigger that asks for it should hear."""
    assert read(without(BUSY, "nv_inference_first"))[Signal.TTFT] == Missing(
        "no series of nv_inference_first_response_histogram_ms_bucket"
    )


def test_what_is_lacking() -> None:
    """Memory is that of the GPUs, which other code reads; nothing says how long tokens take."""
    found = read(BUSY)

    for signal in (Signal.GPU_MEMORY_PRESSURE, Signal.ITL):
        assert found[signal] == Lacking(f"Triton does not expose {signal}")


@pytest.mark.parametrize(
    ("labels", "micros", "says"),
    [
        ('quantile="x"', "1", "nv_inference_request_summary_us has a quantile that is none"),
        ('quantile="0.5"', "-1", "nv_inference_request_summary_us is -1"),
    ],
)
def test_a_summary_that_is_none_is_missing(labels: str, micros: str, says: str) -> None:
    """What cannot be read is said."""
    bare = without(BUSY, "nv_inference_request_summary_us")
    page = f'{bare}nv_inference_request_summary_us{{model="x",version="1",{labels}}} {micros}\n'

    assert read(page)[Signal.LATENCY] == Missing(says)
