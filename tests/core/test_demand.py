"""Demand: sums, means and missing replicas."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from keda_scaler.core import waking
from keda_scaler.core.demand import (
    MAX_VALUE,
    MIN_OBSERVATIONS,
    Report,
    Unmoved,
    replicas_for,
    report,
    total_of,
    whole,
)
from keda_scaler.core.memory import Memory
from keda_scaler.core.readings import Demand, Distribution, Lacking, Missing, Quantiles, Replica
from keda_scaler.core.signals import Signal
from keda_scaler.core.snapshot import ReplicaReadings, Snapshot
from keda_scaler.core.trigger import Accepts, Metric, Trigger, parse_trigger
from keda_scaler.core.view import View
from keda_scaler.core.windows import Window
from readings_for_tests import asked, replica, reported, snapshot, trigger

QUEUE = Metric(Signal.QUEUE_DEPTH, 5.0)
MEMORY = Metric(Signal.GPU_MEMORY_PRESSURE, 0.8)


def number(metric: Metric, asks: Trigger, known: Snapshot, now: float = 1.0) -> float:
    found = reported(metric, asks, known, now)
    assert isinstance(found, Report)
    return found.number


counts = st.floats(0, 1e6)
targets = st.floats(0.001, 1e6)


def failing(name: str, waiting: float, *, at: float = 0.0, ready: bool = True) -> ReplicaReadings:
    """Build a replica that answered once, and fails since."""
    refused = Missing("cannot connect: refused")
    return replace(
        replica(name, waiting, at=at, ready=ready), problems=dict.fromkeys(Signal, refused)
    )


def before(total: float, signal: Signal = Signal.QUEUE_DEPTH, at: float = 1000.0) -> Memory:
    """Remember what was reported before, and `at` which time."""
    return Memory(totals={signal: total}, reported_at={signal: at})


UNKNOWN = 20.0
"""When what was read at 0 is stale."""


@pytest.mark.parametrize(
    ("waiting", "total", "becomes"),
    [
        (16, 10, 16),  # the known one alone asks for more than there are
        (12, 20, None),  # but for fewer than before
        (16, 20, 16),
        (10, 10, None),
        (7, 10, None),
        (0, 10, 5),  # even with the missing one at target it asks for fewer
        (6, 0, None),  # not for more than before
    ],
)
def test_what_is_missing_moves_nothing(waiting: float, total: float, becomes: float | None) -> None:
    """Two replicas, one missing, target 5, and what was reported before."""
    pods = snapshot(replica("a", waiting, at=UNKNOWN), failing("b", 1))

    found = reported(QUEUE, trigger(), pods, UNKNOWN, before(total))

    if becomes is None:
        assert found == Unmoved("b: cannot connect: refused")
    else:
        assert found == Report(becomes)


@pytest.mark.parametrize(("waiting", "becomes"), [(0, 12), (7, 12), (14, 14), (16, 16)])
def test_until_it_is_stale_what_was_reported_before_is_repeated(
    waiting: float, becomes: float
) -> None:
    """One poll that fails is no reason to tell the HPA nothing, or less."""
    pods = snapshot(replica("a", waiting), failing("b", 4))

    found = reported(QUEUE, trigger(), pods, 1.0, before(12))
    assert found == Report(becomes, is_repeated=waiting < 12)
    alone = reported(QUEUE, trigger(), snapshot(failing("b", 4)), 1.0, before(4))
    assert alone == Report(4, is_repeated=True)


def test_what_was_reported_long_before_is_not_repeated() -> None:
    """Between two questions of the HPA it may have been told of requests that were seen twice."""
    pods = snapshot(replica("a", 5, at=12.0), failing("b", 4, at=11.0))
    lately, long_since = before(12, at=2.0), before(12, at=1.0)

    assert reported(QUEUE, trigger(), pods, 16.0, lately) == Report(12, is_repeated=True)
    assert isinstance(reported(QUEUE, trigger(), pods, 16.0, long_since), Unmoved)


def test_a_missing_replica_counts_what_it_last_said() -> None:
    """It had more than its target: it is not assumed to have less."""
    idle = [replica(name, 0, at=UNKNOWN) for name in "abc"]

    one = reported(QUEUE, trigger(), snapshot(*idle, failing("d", 11)), UNKNOWN, before(11))
    assert one == Report(11)
    one = reported(QUEUE, trigger(), snapshot(*idle, failing("d", 26)), UNKNOWN, before(26))
    assert isinstance(one, Unmoved)


def test_replicas_that_load_count_as_nothing() -> None:
    """Neither what loads nor a surge pod of a rolling update asks for itself, or for others."""
    pods = [replica(name, 5) for name in "abcd"]
    loading = [replica(name, None, ready=False) for name in "efgh"]

    assert number(QUEUE, trigger(), snapshot(*pods, *loading)) == 20
    none = reported(QUEUE, trigger(), snapshot(*loading), 1.0)
    assert none == Missing("e: no answer within 5 s")


def silent(name: str, since: float) -> ReplicaReadings:
    return replace(replica(name, None), ready_since=since)


def test_a_ready_replica_that_never_answered_keeps_a_value_from_falling() -> None:
    """It may have the requests that the others have lost. For holdSeconds, then it is left out."""
    asks = trigger(holdSeconds="60", maxPendingFactor="9")
    for waiting, told, becomes in [(2, 20, None), (6, 6, None), (10, 0, None), (11, 0, 11)]:
        pods = snapshot(replica("a", waiting, at=10.0), silent("b", 0.0))
        found = reported(QUEUE, asks, pods, 10.0, before(told))
        assert found == (Unmoved("b: no answer within 5 s") if becomes is None else Report(becomes))

    pods = snapshot(replica("a", 2, at=60.0), silent("b", 0.0))
    assert reported(QUEUE, asks, pods, 60.0, before(20)) == Report(2)


def test_a_pod_that_crashes_and_never_comes_back_is_left_out_after_a_while() -> None:
    """While it is ready it may work all the same, and nobody can tell."""
    asks = trigger(holdSeconds="60")

    def after(seconds: float, *, ready: bool) -> Report | Missing | Unmoved:
        pods = snapshot(replica("a", 2, at=seconds), failing("b", 8, ready=ready))
        return reported(QUEUE, asks, pods, seconds, before(10))

    assert isinstance(after(74.9, ready=False), Unmoved)
    assert after(75.0, ready=False) == Report(2)
    assert isinstance(after(1000.0, ready=True), Unmoved)


def test_nothing_was_reported_before() -> None:
    """After a start of ours only a rise is sure."""
    asks = trigger()

    def told(waiting: float, at: float) -> Report | Missing | Unmoved:
        return reported(QUEUE, asks, snapshot(replica("a", waiting, at=at), failing("b", 1)), at)

    assert told(11, UNKNOWN) == Report(11)
    assert isinstance(told(0, UNKNOWN), Unmoved)
    assert isinstance(told(7, 1.0), Unmoved)


def test_replicas_are_whole() -> None:
    """What rounding adds to a whole number asks for nothing."""
    assert whole(15 / 5) == 3
    assert whole(3 + 1e-9) == 3
    assert whole(3.01) == 4


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
    assert isinstance(reported(QUEUE, trigger(), old_and_new, 15.0, before(4)), Unmoved)
    assert isinstance(reported(QUEUE, trigger(), old_and_new, 25.0, before(4)), Missing)


def test_terminating_replicas_ask_for_nothing() -> None:
    """The HPA does not count them, and new replicas do not get their requests."""
    known = snapshot(replica("a", waiting=3), replica("b", waiting=50, terminating=True))

    assert number(QUEUE, trigger(), known) == 3


@given(
    st.lists(st.tuples(counts, st.booleans()), min_size=1, max_size=8),
    st.sampled_from(["AverageValue", "Value"]),
    st.sampled_from([1.0, UNKNOWN]),
)
def test_hiding_replicas_never_asks_for_more_nor_for_fewer(
    pods: list[tuple[float, bool]], metric_type: str, now: float
) -> None:
    """At a steady load no failure of pages moves what is asked for, whatever each replica has."""
    asks = trigger(metricType=metric_type)
    seen = snapshot(*(replica(str(i), n) for i, (n, _) in enumerate(pods)))
    all_of_it = View(asks, seen, 1.0)
    first = report(QUEUE, all_of_it, Memory())
    assert isinstance(first, Report)
    memory = before(total_of(all_of_it, first.number))
    some = snapshot(
        *(
            replica(str(i), n, at=now) if answers else failing(str(i), n)
            for i, (n, answers) in enumerate(pods)
        )
    )

    found = report(QUEUE, View(asks, some, now), memory)

    if isinstance(found, Report):
        asked = whole(replicas_for(QUEUE, all_of_it, first.number))
        least = whole(sum(n for n, _ in pods) / QUEUE.target)
        wanted = whole(replicas_for(QUEUE, View(asks, some, now), found.number))
        assert least <= wanted <= max(1, asked)


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
    name: str, *, finished: int, seconds: float = 1.5, running: float = 1, ready: bool = True
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


def ttft(*replicas: ReplicaReadings, **keys: str) -> Report | Missing | Unmoved:
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


IDLE = Report(0.0, "no request waits or runs")


@pytest.mark.parametrize(
    ("running", "says"), [(1, Unmoved("fewer than 10 observed in 120 s")), (0, IDLE)]
)
def test_too_few_requests_have_no_opinion(running: float, says: Report | Unmoved) -> None:
    """No change while there is work, else 0, so that a latency never keeps idle replicas."""
    assert ttft(slow("a", finished=MIN_OBSERVATIONS - 1, running=running)) == says


@pytest.mark.parametrize(
    ("running", "says"), [(1, Unmoved("latencyQuery gives NaN: nothing observed")), (0, IDLE)]
)
def test_a_latency_query_without_requests_has_no_opinion(
    running: float, says: Report | Unmoved
) -> None:
    """NaN is no number and no error: no change while there is work, else 0."""
    keys = {"prometheus": "main", "engine": "vllm", "targetLatencySeconds": "2"}
    asks = parse_trigger(keys | {"latencyQuery": "x"}, Accepts(frozenset({"main"})))
    one = replace(
        replica("a", running=running), quantiles={Signal.LATENCY: Quantiles(((0.95, math.nan),), 0)}
    )

    assert reported(Metric(Signal.LATENCY, 2.0), asks, snapshot(one), 1.0) == says


def test_a_latency_never_keeps_idle_replicas() -> None:
    """What its window has from before says nothing, but for requests that no gauge has seen."""
    idle = slow("a", finished=20, seconds=9.5, running=0)

    assert ttft(idle) == IDLE
    assert ttft(replace(idle, has_served=True)) == Report(4.0, "9.95 s")


def test_a_latency_of_some_replicas_moves_nothing() -> None:
    """The one that is missing may be the slow one."""
    some = snapshot(
        replace(slow("a", finished=20), problems={}),
        replace(slow("b", finished=20), problems={Signal.TTFT: Missing("refused")}),
    )
    asks = trigger(targetTtftSeconds="2")

    assert reported(TTFT, asks, some, 11.0, before(6.0, Signal.TTFT)) == Report(
        6.0, "1.95 s", is_repeated=True
    )
    assert reported(TTFT, asks, some, 11.0) == Unmoved("b: refused")


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
    known = replace(replica("a", running=1, at=10.0), quantiles={Signal.TTFT: points})

    assert ttft(known) == Report(1.5, "1.5 s")
    old = reported(TTFT, trigger(targetTtftSeconds="2"), snapshot(known), now=25.0)
    assert isinstance(old, Missing)


WAKES = {"wakeFrom": "epp", "wakeService": "epp", "maxPendingFactor": "9"}


def at_gateway(
    *pods: ReplicaReadings, held: float, at: float, problem: str | None = None
) -> Snapshot:
    return Snapshot(pods, 0.0, None, asked(held, at), problem)


def told_after(
    known: Snapshot, now: float, *, total: float, held: float
) -> Report | Missing | Unmoved:
    """Report after a sum of which the gateway held a part."""
    memory = replace(before(total), held=held)
    return reported(QUEUE, trigger(**WAKES), known, now, memory)


def test_a_request_that_moves_on_between_two_readings_counts_once() -> None:
    """The gateway was read before the replica that has it now, or after."""
    ahead = at_gateway(replica("a", 14, at=1.0), held=14, at=0.0)
    assert told_after(replace(ahead, beside={}), 1.0, total=14, held=14) == Report(14)
    assert told_after(replace(ahead, beside={"a": 14}), 1.0, total=28, held=14) == Report(28)
    crashed = at_gateway(replica("b", 2, at=1.0), replica("a", 14, at=1.0), held=14, at=0.0)
    crashed = replace(crashed, beside={"b": 16, "gone": 9})
    assert told_after(crashed, 1.0, total=14, held=14) == Report(16), "fewer elsewhere hide none"
    behind = at_gateway(replica("a", 0, at=0.0), held=0, at=1.0)
    assert told_after(behind, 1.0, total=14, held=14) == Report(14, is_repeated=True)
    both = at_gateway(replica("a", 4, at=1.0), held=3, at=1.0)
    assert told_after(both, 1.0, total=14, held=14) == Report(7)


def test_a_gateway_that_handed_its_queue_to_a_silent_replica_takes_nothing_back() -> None:
    """Whether the page fails at that moment, or was never read: somebody has the requests."""
    asks = trigger(**WAKES)
    for pod in (failing("a", 0), silent("a", 0.0)):
        found = told_after(at_gateway(pod, held=0, at=1.0), 1.0, total=14, held=14)
        assert found == Report(14, is_repeated=True) or not isinstance(found, Report)

    idle = [replica(name, 0, at=UNKNOWN) for name in "bc"]
    late = at_gateway(*idle, failing("a", 0), held=0, at=UNKNOWN)
    assert isinstance(told_after(late, UNKNOWN, total=14, held=14), Unmoved)
    assert told_after(late, UNKNOWN, total=14, held=0) == Report(5)
    given = waking.ask(replace(before(14), held=14), View(asks, late, UNKNOWN), 3, {})
    assert (given.given, given.given_at, given.held) == (14, UNKNOWN, 0)
    assert isinstance(reported(QUEUE, asks, late, UNKNOWN, given), Unmoved)
    told = at_gateway(*idle, replica("a", 4, at=UNKNOWN), held=0, at=UNKNOWN)
    assert waking.ask(given, View(asks, told, UNKNOWN), 3, {}).given == 0
    assert reported(QUEUE, asks, told, UNKNOWN, given) == Report(4)


def test_a_gateway_that_says_no_more_what_it_holds_moves_nothing() -> None:
    """What it held is still asked for, for holdSeconds; one that held nothing is not missed."""
    pod = replica("a", 2, at=UNKNOWN)
    fails = at_gateway(pod, held=8, at=10.0, problem="refused")
    assert told_after(fails, UNKNOWN, total=10, held=8) == Report(10, is_repeated=True)
    stale = at_gateway(pod, held=8, at=0.0)
    assert isinstance(told_after(stale, UNKNOWN, total=10, held=8), Unmoved)
    assert told_after(stale, UNKNOWN, total=10, held=0) == Report(2)
    over = at_gateway(replica("a", 2, at=915.0), held=8, at=0.0)
    assert told_after(over, 915.0, total=10, held=8) == Report(2)


def test_while_waking_what_was_asked_for_stays_asked_for() -> None:
    """However many replicas are listed; until the gateway says less."""
    loading = [replica(name, None, ready=False) for name in "abcd"]

    def woken(known: Snapshot, total: float | None) -> Report | Missing | Unmoved:
        memory = Memory() if total is None else before(total)
        return reported(QUEUE, trigger(**WAKES), known, 1.0, replace(memory, lease_until=99.0))

    some = at_gateway(*loading, held=14, at=1.0)
    assert woken(some, None) == Report(14, "while no replica answers")
    assert woken(some, 14) == woken(some, 20) == woken(some, None)
    none = at_gateway(*loading, held=0, at=1.0)
    assert woken(none, 14) == Report(5, "while no replica answers")
    assert isinstance(woken(none, None), Unmoved)
    unread = snapshot(*loading)
    assert isinstance(woken(unread, 14), Unmoved)
    assert woken(unread, 4) == Report(5, "while no replica answers")
    handed = at_gateway(silent("e", 0.0), held=0, at=1.0)
    assert isinstance(woken(handed, 14), Unmoved)
    assert isinstance(woken(snapshot(), 14), Unmoved)


def test_what_is_in_flight_may_be_with_replicas_that_cannot_be_read() -> None:
    """Of 17 in flight they work on most; only those that the gateway holds are known to wait."""
    asks = trigger(**WAKES)

    def woken(held: float, *pods: ReplicaReadings, asks: Trigger = asks) -> object:
        known = Snapshot(pods, UNKNOWN, None, Demand(held, 17, arrived=False, at=UNKNOWN), None)
        memory = replace(before(7), lease_until=99.0)
        return reported(QUEUE, asks, known, UNKNOWN, memory)

    loading = replica("b", None, ready=False)
    waking = "while no replica answers"
    assert woken(17) == woken(0) == woken(0, loading) == Report(17, waking)
    assert woken(9, failing("a", 7)) == Report(9, waking)
    assert isinstance(woken(0, failing("a", 7)), Unmoved)
    assert isinstance(woken(0, silent("a", 0.0)), Unmoved)
    unlisted = Snapshot((), None, None, Demand(0, 17, arrived=False, at=UNKNOWN), None)
    unread = [unlisted, replace(unlisted, listed_at=0.0), replace(unlisted, problem="refused")]
    for known in unread:
        memory = replace(Memory(), lease_until=99.0)
        assert isinstance(reported(QUEUE, asks, known, UNKNOWN, memory), Unmoved)
    keys = {"prometheus": "main", "wakeFrom": "epp", "wakeService": "epp"}
    scraped = parse_trigger(keys, Accepts(frozenset({"main"})))
    assert isinstance(woken(0, loading, asks=scraped), Unmoved)
    twice = [failing(name, 7, at=UNKNOWN - 1, ready=False) for name in "cd"]
    assert woken(12, *twice) == Report(12, waking), "what they said last is with the gateway by now"
    assert isinstance(woken(7, *twice), Unmoved), "no more than there are, and they may have some"


def test_while_waking_what_replicas_run_does_not_wait() -> None:
    """One that is listed as not ready may serve: the list is late, or cannot be read."""
    serves = at_gateway(replica("a", 3, running=4, at=1.0, ready=False), held=0, at=1.0)
    memory = replace(before(5), lease_until=99.0)
    assert reported(QUEUE, trigger(**WAKES), serves, 1.0, memory) == Report(
        5, "while no replica answers"
    )
