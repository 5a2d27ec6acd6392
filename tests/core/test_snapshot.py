"""Snapshots: how the readings of a poll are taken in."""

import math

from keda_scaler.core.activity import Quiet, Unknown, Work
from keda_scaler.core.readings import (
    Distribution,
    Engine,
    Flow,
    Lacking,
    Missing,
    Quantiles,
    Reading,
    Replica,
    Value,
)
from keda_scaler.core.signals import Signal
from keda_scaler.core.snapshot import ReplicaReadings, Snapshot, Spans, absorb, listed
from keda_scaler.core.view import View
from readings_for_tests import judged, trigger

QUEUE, WORK, MEMORY, TTFT = (
    Signal.QUEUE_DEPTH,
    Signal.CONCURRENCY,
    Signal.GPU_MEMORY_PRESSURE,
    Signal.TTFT,
)
ENGINE = Engine("triton", reserves_memory=False)


def absorbed(*polls: dict[Signal, Reading]) -> ReplicaReadings:
    known = ReplicaReadings(Replica("a"))
    for readings in polls:
        known = absorb(known, readings, ENGINE, Spans(120.0))
    return known


def look(count: float, at: float) -> Distribution:
    return Distribution(((1.0, count), (math.inf, count)), at, None)


def test_a_value_is_kept_when_a_poll_fails() -> None:
    """It stands until it is stale; why the poll failed stands beside it."""
    known = absorbed({QUEUE: Value(3, 1.0)}, {QUEUE: Missing("refused")})

    assert known.values == {QUEUE: Value(3, 1.0)}
    assert known.problems == {QUEUE: Missing("refused")}
    assert known.was_tried
    assert not ReplicaReadings(Replica("a")).was_tried


def test_an_older_value_changes_nothing() -> None:
    """Prometheus may answer with an older sample."""
    assert absorbed({QUEUE: Value(3, 2.0)}, {QUEUE: Value(0, 1.0)}).values[QUEUE].number == 3


def test_an_engine_that_lacks_a_signal_has_no_value_of_it() -> None:
    """What another engine at the same address said before is gone."""
    known = absorbed({MEMORY: Value(0.5, 1.0)}, {MEMORY: Lacking("not exposed")})

    assert MEMORY not in known.values
    assert known.lacking == {MEMORY: Lacking("not exposed")}
    assert known.engine == ENGINE


def test_looks_at_a_histogram_add_up() -> None:
    """A latency is measured when its histogram was looked at."""
    known = absorbed({TTFT: look(1, 1.0)}, {TTFT: look(4, 6.0)})

    assert len(known.windows[TTFT].points) == 2
    assert known.measured_at(TTFT) == 6.0
    assert known.measured_at(QUEUE) is None
    for now, is_fresh in ((20.9, True), (21.0, False)):
        view = View(trigger(staleSeconds="15"), Snapshot((known,)), now)
        assert (view.window(known, TTFT) is not None) is is_fresh


def test_a_counter_that_moves_is_a_request_that_ran() -> None:
    """Of an engine that does not say how many run, one ran at least when the counter moved."""
    first = absorbed({WORK: Flow(0, 100, 1.0)})
    still = absorb(first, {WORK: Flow(0, 100, 6.0)}, ENGINE, Spans(120.0))
    moved = absorb(still, {WORK: Flow(2, 101, 11.0)}, ENGINE, Spans(120.0))
    restarted = absorb(moved, {WORK: Flow(0, 0, 16.0)}, ENGINE, Spans(120.0))

    assert first.values[WORK] == Value(0, 1.0)
    assert still.values[WORK] == Value(0, 6.0)
    assert moved.values[WORK] == Value(3, 11.0)
    assert restarted.values[WORK] == Value(1, 16.0)


def test_a_threshold_on_what_the_engine_lacks_hinders_no_proof() -> None:
    """What does not exist cannot show work; what counts requests must exist."""
    asks = trigger(activationGpuMemoryPressure="10%")
    known = absorbed({WORK: Value(0, 1.0), MEMORY: Lacking("not exposed")})
    uncounted = absorbed({WORK: Lacking("not exposed"), MEMORY: Value(0.0, 1.0)})

    assert isinstance(judged(asks, Snapshot((known,), 1.0), 2.0), Quiet)
    assert isinstance(judged(asks, Snapshot((uncounted,), 1.0), 2.0), Unknown)


def test_how_busy_a_gpu_is_may_be_work() -> None:
    """activationGpuUtilization is a threshold like the others, and no sum over replicas."""
    asks = trigger(activationGpuUtilization="50%")
    known = absorbed({WORK: Value(0, 1.0), Signal.GPU_UTILIZATION: Value(0.6, 1.0)})

    assert isinstance(judged(asks, Snapshot((known,), 1.0), 2.0), Work)


def test_a_summary_is_the_newest() -> None:
    """A process computes its quantiles over a window of its own."""
    known = absorbed({TTFT: Quantiles(((0.5, 1.0),), 1.0)}, {TTFT: Quantiles(((0.5, 2.0),), 6.0)})

    assert known.quantiles == {TTFT: Quantiles(((0.5, 2.0),), 6.0)}
    assert known.measured_at(TTFT) == 6.0


def test_a_window_never_spans_an_outage_of_its_page() -> None:
    """What a histogram gained meanwhile may be as old as the last look."""
    known = absorbed({TTFT: look(1, 1.0)})

    near = absorb(known, {TTFT: look(4, 15.9)}, ENGINE, Spans(120.0, outage=15.0))
    assert len(near.windows[TTFT].points) == 2
    far = absorb(known, {TTFT: look(4, 16.0)}, ENGINE, Spans(120.0, outage=15.0))
    assert [point.at for point in far.windows[TTFT].points] == [16.0]


def test_it_is_known_since_when_a_replica_is_ready() -> None:
    """A replica that becomes unready begins anew; one that is listed again does not."""
    loading = listed(None, Replica("a", ready=False), 1.0)
    assert loading.ready_since is None
    ready = listed(loading, Replica("a"), 2.0)
    again = listed(absorb(ready, {QUEUE: Value(1, 3.0)}, ENGINE, Spans(120.0)), Replica("a"), 4.0)
    assert ready.ready_since == again.ready_since == 2.0
    assert again.values[QUEUE].number == 1
    assert listed(again, Replica("a", ready=False), 5.0).ready_since is None


def test_a_value_of_fewer_series_than_before_is_missing() -> None:
    """A page that lost an engine sums too small; what was known stands until it is stale."""
    known = absorbed({WORK: Value(40, 1.0, series=4)})
    lost = absorb(known, {WORK: Value(0, 6.0, series=3)}, ENGINE, Spans(120.0, held_since=0.0))
    gone = absorb(lost, {WORK: Lacking("not exposed")}, ENGINE, Spans(120.0, held_since=0.0))
    back = absorb(gone, {WORK: Value(2, 16.0, series=4)}, ENGINE, Spans(120.0, held_since=0.0))

    assert lost.problems == {WORK: Missing("1 of 4 series that it had are gone")}
    assert gone.problems == {WORK: Missing("4 of 4 series that it had are gone")}
    assert lost.values == gone.values == {WORK: Value(40, 1.0, series=4)}
    assert not gone.lacking
    assert (back.values, back.problems) == ({WORK: Value(2, 16.0, series=4)}, {})


def test_series_that_stay_away_are_waited_for_no_longer_than_the_hold() -> None:
    """A server may have been set up anew; one with more series than before is believed at once."""
    known = absorbed({WORK: Value(40, 1.0, series=2)})
    more = absorb(known, {WORK: Value(9, 6.0, series=3)}, ENGINE, Spans(120.0, held_since=0.0))
    over = absorb(known, {WORK: Value(0, 902.0)}, ENGINE, Spans(120.0, held_since=2.0))

    assert more.values == {WORK: Value(9, 6.0, series=3)}
    assert (over.values, over.problems) == ({WORK: Value(0, 902.0)}, {})


def test_requests_of_fewer_series_are_missing_whoever_counts_them() -> None:
    """Of an engine that says only how many wait, and of a histogram."""
    known = absorbed({WORK: Flow(3, 100, 1.0, series=2), TTFT: look(4, 1.0)})
    none = Distribution(((math.inf, 0.0),), 6.0, None, series=0)
    fewer: dict[Signal, Reading] = {WORK: Flow(0, 100, 6.0), TTFT: none}
    lost = absorb(known, fewer, ENGINE, Spans(120.0, held_since=0.0))

    assert lost.problems.keys() == {WORK, TTFT}
    assert (lost.values, lost.windows, lost.ever) == (known.values, known.windows, 100)
