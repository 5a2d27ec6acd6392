"""Waking: the lease, what waits at the gateway, and how many replicas are asked for meanwhile."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from keda_scaler.core.addresses import AddressRules
from keda_scaler.core.decision import (
    MAX_STUCK_NAMED,
    Decision,
    Held,
    Reason,
    Reported,
    State,
    Unavailable,
)
from keda_scaler.core.readings import Engine
from keda_scaler.core.signals import Signal
from keda_scaler.core.snapshot import ReplicaReadings, Snapshot, Spans, absorb
from keda_scaler.core.trigger import Accepts, Trigger, parse_trigger
from readings_for_tests import asked, decided, replica, snapshot, trigger

WAKE = {"wakeFrom": "epp", "wakeService": "epp"}
Events = Sequence[tuple[float, Snapshot]]


def at_zero(now: float, requests: float = 0.0, *, arrived: bool = False) -> tuple[float, Snapshot]:
    """Say what the gateway says while no replica is listed."""
    return now, snapshot(listed_at=now, demand=asked(requests, now, arrived=arrived))


def loading(now: float, requests: float = 0.0, count: int = 1) -> tuple[float, Snapshot]:
    """Say what the gateway says while replicas load."""
    pods = [replica(f"pod-{i}", None, ready=False) for i in range(count)]
    return now, snapshot(*pods, listed_at=now, demand=asked(requests, now))


def queue(decision: Decision) -> float:
    answer = decision.answers[Signal.QUEUE_DEPTH]
    assert isinstance(answer, Reported)
    return answer.number


def test_a_request_at_the_gateway_wakes() -> None:
    """One request is enough, and asks for one replica at least."""
    decision = decided(trigger(**WAKE), [at_zero(0), at_zero(1, 1)], 1.0)

    assert (decision.state, decision.reason) == (State.ACTIVE, Reason.WAKING)
    assert decision.text == "epp has requests; no replica answers yet"
    assert decision.wanted == 1
    assert decision.answers == {
        Signal.QUEUE_DEPTH: Reported(5.0, "while no replica answers"),
        Signal.GPU_MEMORY_PRESSURE: Reported(0.85, "while no replica answers"),
    }


def test_a_silent_gateway_is_idle_at_zero() -> None:
    """No replica, and the wake source says that there is no request."""
    assert decided(trigger(**WAKE), [at_zero(0)], 0.0).state is State.IDLE


def test_a_request_wakes_although_the_replicas_are_unknown() -> None:
    """Kubernetes may be away: the gateway has a request all the same."""
    known = snapshot(listed_at=None, demand=asked(1, 5.0))

    assert decided(trigger(**WAKE), [(5.0, known)], 5.0).reason is Reason.WAKING


def test_activation_requests_apply_at_the_gateway_too() -> None:
    """Who wants more than two requests for a replica does not wake for two."""
    asks = trigger(**WAKE, activationRequests="2")

    assert decided(asks, [at_zero(0, 2)], 0.0).state is State.IDLE
    assert decided(asks, [at_zero(0, 3)], 0.0).state is State.ACTIVE


def test_an_unknown_gateway_proves_nothing() -> None:
    """With replicas they are held; without, it is an error that names the wake source."""
    asks = trigger(**WAKE)
    times = (0.0, 10.0, 20.0, 30.0)
    idle = [(t, snapshot(replica(at=t), listed_at=t)) for t in times]
    unread = decided(asks, idle, 30.0)
    assert (unread.state, unread.reason) == (State.ACTIVE, Reason.HOLD)
    assert unread.text == "activity was never known: epp: not read yet"

    proven = [(t, snapshot(replica(at=t), listed_at=t, demand=asked(0, t))) for t in times]
    assert decided(asks, proven, 30.0).state is State.IDLE
    later = snapshot(replica(at=50.0), listed_at=50.0, demand=asked(0, 30.0))
    assert decided(asks, [*proven, (50.0, later)], 50.0).reason is Reason.HOLD
    refused = Snapshot((), 50.0, None, asked(0, 30.0), "cannot connect: refused")
    away = decided(asks, [*proven, (50.0, refused)], 50.0)
    assert away.reason is Reason.NO_HOLD
    assert away.text.endswith("epp: cannot connect: refused")


def test_the_lease_outlives_the_request() -> None:
    """The impatient client is gone, a counter rose once: the model is awaited all the same."""
    asks = trigger(**WAKE, coldStartSeconds="120")
    events = [at_zero(0), at_zero(1, arrived=True), *(at_zero(t) for t in range(2, 120, 10))]

    for now in (2.0, 60.0, 120.9):
        decision = decided(asks, [event for event in events if event[0] <= now], now)
        assert (decision.state, decision.reason) == (State.ACTIVE, Reason.WAKING)
        assert queue(decision) == 5.0
    over = decided(asks, [*events, at_zero(121)], 121.0)
    assert over.state is State.IDLE
    assert queue(over) == 0.0


def test_a_replica_that_loads_does_not_end_the_lease() -> None:
    """Listed is not ready, and ready is not answering."""
    asks = trigger(**WAKE)
    ready = (61.0, snapshot(replica(waiting=None), listed_at=61.0, demand=asked(0, 61.0)))
    events = [at_zero(0, 1), loading(30), loading(60)]

    assert decided(asks, events, 60.0).reason is Reason.WAKING
    assert decided(asks, [*events, ready], 61.0).reason is Reason.WAKING


def test_a_replica_that_answers_ends_the_lease() -> None:
    """From then on its readings decide: idle after idleSeconds, not after the lease."""
    asks = trigger(**WAKE)
    answers = [
        (t, snapshot(replica(at=t), listed_at=t, demand=asked(0, t)))
        for t in (61.0, 71.0, 81.0, 91.0)
    ]
    events = [at_zero(0, 1), loading(60), *answers]

    assert decided(asks, events[:3], 61.0).reason is Reason.SETTLING
    assert decided(asks, events, 91.0).state is State.IDLE


def test_a_lease_does_not_come_back_after_an_answer() -> None:
    """The replica was there: when it falls silent within the time of the lease, it is held."""
    asks = trigger(**WAKE)
    answered = (61.0, snapshot(replica(at=61.0), listed_at=61.0, demand=asked(0, 61.0)))
    silent = (80.0, snapshot(replica(at=61.0), listed_at=80.0, demand=asked(0, 80.0)))

    assert decided(asks, [at_zero(0, 1), answered, silent], 80.0).reason is Reason.HOLD


def test_a_replica_that_answers_too_early_does_not_end_the_lease() -> None:
    """A page may be there before the model is: Kubernetes says when it is ready."""
    early = snapshot(replica(ready=False, at=9.0), listed_at=9.0, demand=asked(0, 9.0))

    assert decided(trigger(**WAKE), [at_zero(0, 1), (9.0, early)], 9.0).reason is Reason.WAKING


def test_a_lease_that_ran_out_leaves_loading_replicas_alone() -> None:
    """They are known to run and do not answer: the hold, as for any other replica."""
    asks = trigger(**WAKE, coldStartSeconds="60")

    assert decided(asks, [at_zero(0, 1), loading(61)], 61.0).reason is Reason.HOLD


def test_a_start_of_ours_while_replicas_load_is_a_lease() -> None:
    """Whoever woke them, and whatever for: they are left alone, and nothing is asked for."""
    asks = trigger(**WAKE, coldStartSeconds="60")
    events = [loading(t, count=3) for t in (0, 30, 59)]
    decision = decided(asks, events, 59.0)

    assert (decision.state, decision.reason) == (State.ACTIVE, Reason.WAKING)
    assert isinstance(decision.answers[Signal.QUEUE_DEPTH], Held)
    assert decision.wanted == 1
    assert decided(asks, [*events, loading(61, count=3)], 61.0).reason is Reason.HOLD
    waiting = [loading(t, 14, count=3) for t in (0, 30)]
    assert queue(decided(asks, waiting, 30.0)) == 14.0
    assert isinstance(decided(trigger(), [loading(0)], 0.0).answers[Signal.QUEUE_DEPTH], Held)


def test_a_start_of_ours_beside_a_ready_replica_is_none() -> None:
    """A ready replica that was never read is held."""
    known = snapshot(replica("a", None), replica("b", None, ready=False))

    assert decided(trigger(), [(0.0, known)], 1.0).reason is Reason.HOLD


def test_a_start_of_ours_while_the_last_replica_leaves_is_none() -> None:
    """It has been put to sleep and does not load: nobody waits for it."""
    for asks in (trigger(), trigger(**WAKE)):
        known = snapshot(replica(ready=False, terminating=True), demand=asked())
        decision = decided(asks, [(0.0, known)], 0.0)

        assert (decision.state, decision.reason) == (State.ACTIVE, Reason.SETTLING)


def test_what_waits_at_the_gateway_is_reported_while_replicas_load() -> None:
    """Eight requests want two replicas; forty want more, but two is what one may become."""
    asks = trigger(**WAKE)

    assert queue(decided(asks, [at_zero(0, 8)], 0.0)) == 8.0
    capped = decided(asks, [at_zero(0, 40)], 0.0)
    assert capped.answers[Signal.QUEUE_DEPTH] == Reported(
        10.0, "capped: would be 40, but replicas that were asked for still load"
    )
    assert capped.wanted == 2
    assert queue(decided(trigger(**WAKE, maxPendingFactor="4"), [at_zero(0, 40)], 0.0)) == 20.0


def test_with_value_the_mean_is_reported_while_replicas_load() -> None:
    """The HPA multiplies it with its replicas."""
    asks = trigger(**WAKE, metricType="Value")

    assert queue(decided(asks, [at_zero(0)], 0.0)) == 0.0
    assert queue(decided(asks, [at_zero(0, 1)], 0.0)) == 5.0
    assert queue(decided(asks, [at_zero(0, 40)], 0.0)) == 10.0
    assert queue(decided(asks, [loading(0, 40, count=4)], 0.0)) == 5.0


def busy(now: float, waiting: float, ready: int, pending: int = 0) -> tuple[float, Snapshot]:
    serving = [replica(f"r{i}", waiting / ready, 1, at=now) for i in range(ready)]
    pods = [replica(f"z{i}", None, ready=False) for i in range(pending)]
    return now, snapshot(*serving, *pods, listed_at=now)


def test_demand_grows_by_a_factor_while_replicas_load() -> None:
    """A queue that grows during a cold start does not ask for the maximum."""
    asks = trigger()
    first = busy(0, 10, ready=1)
    assert queue(decided(asks, [first], 0.0)) == 10.0

    grown = [first, busy(5, 100, ready=1, pending=1)]
    assert queue(decided(asks, grown, 5.0)) == 10.0
    unlisted = [first, busy(5, 100, ready=1)]  # the second has not been placed on a node yet
    assert queue(decided(asks, unlisted, 5.0)) == 10.0

    loaded = [*grown, busy(60, 100, ready=2)]
    assert queue(decided(asks, loaded, 60.0)) == 100.0


def test_what_was_asked_for_at_once_stays_asked_for() -> None:
    """The ceiling holds growth back, it never takes back what loads already."""
    asks = trigger()
    burst = [busy(0, 40, ready=1), busy(5, 40, ready=1, pending=3)]
    assert queue(decided(asks, burst, 5.0)) == 40.0

    more = [*burst, busy(10, 400, ready=2, pending=6)]
    assert queue(decided(asks, more, 10.0)) == 40.0
    listed = [*burst, busy(10, 400, ready=2, pending=10)]
    assert queue(decided(asks, listed, 10.0)) == 12 * 5.0


def test_the_ceiling_outlasts_a_cold_start() -> None:
    """Replicas that never come, for want of GPUs or by maxReplicaCount, are no reason for more."""
    asks = trigger(coldStartSeconds="60")
    events = [busy(0, 20, ready=1), busy(30, 100, ready=1)]
    assert queue(decided(asks, events, 30.0)) == 20.0
    events.append(busy(61, 100, ready=1))
    assert queue(decided(asks, events, 61.0)) == 20.0
    less = [*events, busy(130, 5, ready=1), busy(135, 100, ready=1)]
    assert queue(decided(asks, less, 135.0)) == 100.0  # nothing is awaited any more


def test_endpoints_do_not_tell_what_loads() -> None:
    """A list in the trigger never gets longer: what was asked for is not waited for."""
    rules = AddressRules.parse(["10.0.0.0/8"])
    asks = parse_trigger({"endpoints": "http://10.0.0.1/metrics"}, Accepts(addresses=rules))

    assert queue(decided(asks, [busy(0, 10, ready=1), busy(5, 100, ready=1)], 5.0)) == 100.0
    some = [busy(0, 10, ready=1, pending=3), busy(5, 100, ready=1, pending=3)]
    assert queue(decided(asks, some, 5.0)) == 20.0


def test_a_replica_that_hangs_is_not_one_that_loads() -> None:
    """It served before: those that are left may ask for more at once."""
    known = snapshot(replica("a", 20, at=30.0), replica("b", 0, at=0.0), listed_at=30.0)

    assert queue(decided(trigger(), [(30.0, known)], 30.0)) == 20.0


def test_requests_that_the_gateway_holds_back_wait_too() -> None:
    """A gateway with a queue of its own sends no more than the engines take."""
    asks = trigger(**WAKE, targetQueueDepth="5", targetGpuMemoryPressure="0.8")
    known = snapshot(replica(waiting=1, running=4), demand=asked(7))
    decision = decided(asks, [(0.0, known)], 0.0)

    assert decision.reason is Reason.WORK
    assert queue(decision) == 8.0
    assert decision.answers[Signal.GPU_MEMORY_PRESSURE] == Reported(0.0)


def test_leaving_replicas_do_not_serve_who_wakes() -> None:
    """A request that comes while the last replica shuts down wakes."""
    known = snapshot(replica(terminating=True, running=1), demand=asked(1))
    decision = decided(trigger(**WAKE), [(0.0, known)], 0.0)

    assert decision.reason is Reason.WAKING
    assert queue(decision) == 5.0


@given(
    requests=st.floats(0, 1e6),
    ready=st.integers(0, 5),
    pending=st.integers(0, 5),
    factor=st.sampled_from(["1", "2", "7.5"]),
)
def test_waking_asks_for_one_at_least_and_never_for_more_than_the_factor(
    requests: float, ready: int, pending: int, factor: str
) -> None:
    """Whatever waits, while anything loads."""
    asks = trigger(**WAKE, maxPendingFactor=factor, activationRequests="0")
    pods = [replica(f"r{i}") for i in range(ready)]
    pods += [replica(f"z{i}", None, ready=False) for i in range(pending)]
    known = snapshot(*pods, demand=asked(requests))
    decision = decided(asks, [at_zero(0, 1), (0.0, known)], 0.0)

    assert decision.state is State.ACTIVE
    if pending or not ready:
        most = max(float(factor) * max(ready, 1), ready + pending)
        assert decision.wanted >= 1 or ready
        assert decision.wanted <= -(-most // 1)


# Reports as the only source


def reports(waiting: float | None, running: float = 0, at: float = 0.0) -> tuple[float, Snapshot]:
    return at, snapshot(replica("reports", waiting, running, at=at), listed_at=at)


BY_REPORTS: Trigger = parse_trigger(
    {"engine": "reports", "targetQueueDepth": "2"}, Accepts(reports=True)
)


def test_reports_alone_wake_and_are_the_whole_queue() -> None:
    """Nobody knows which replicas load; a request that runs shows that one answers."""
    waking = decided(BY_REPORTS, [reports(9)], 0.0)
    assert (waking.state, waking.reason) == (State.ACTIVE, Reason.WAKING)
    assert queue(waking) == 9.0

    serving = decided(BY_REPORTS, [reports(9), reports(9, 1, at=5.0)], 5.0)
    assert serving.reason is Reason.WORK
    assert queue(serving) == 9.0


def test_a_worker_that_took_its_requests_is_waited_for() -> None:
    """Its report says none waits and none runs; the lease of the last one goes on."""
    asks = parse_trigger({"engine": "reports", "coldStartSeconds": "60"}, Accepts(reports=True))
    events = [reports(7), *(reports(0, at=float(t)) for t in range(10, 61, 10))]

    assert decided(asks, events[:6], 59.0).reason is Reason.WAKING
    assert queue(decided(asks, events[:6], 59.0)) == 5.0
    assert decided(asks, events, 60.0).state is State.IDLE


def test_reports_of_no_work_after_a_start_wake_nothing() -> None:
    """Whether replicas run is not known: not idle yet, and not active either."""
    events = [reports(0, at=float(t)) for t in range(0, 40, 10)]
    started = decided(BY_REPORTS, events[:2], 10.0)

    assert (started.state, started.reason) == (State.UNKNOWN, Reason.SETTLING)
    assert isinstance(started.answers[Signal.QUEUE_DEPTH], Unavailable)
    assert decided(BY_REPORTS, events, 30.0).state is State.IDLE


def test_reports_of_no_work_after_work_settle() -> None:
    """Replicas run, so they stay for idleSeconds."""
    events = [reports(0, 3), *(reports(0, at=float(t)) for t in range(10, 41, 10))]

    assert decided(BY_REPORTS, events[:3], 20.0).reason is Reason.SETTLING
    assert decided(BY_REPORTS, events[:3], 20.0).state is State.ACTIVE
    assert decided(BY_REPORTS, events, 40.0).state is State.IDLE


def test_reports_that_end_are_held_after_work_and_an_error_after_idleness() -> None:
    """After work replicas are known to run; after proof of idleness none is."""
    after_work = [reports(0, 3), reports(None, at=20.0)]
    held = decided(BY_REPORTS, after_work, 20.0)
    assert held.reason is Reason.HOLD
    assert isinstance(held.answers[Signal.QUEUE_DEPTH], Held)

    idle = [reports(0, 1), *(reports(0, at=float(t)) for t in range(10, 41, 10))]
    ended = decided(BY_REPORTS, [*idle, reports(None, at=60.0)], 60.0)
    assert (ended.state, ended.reason) == (State.UNKNOWN, Reason.NO_HOLD)
    unproven = [reports(0, 1), reports(0, at=10.0), reports(None, at=20.0)]
    assert decided(BY_REPORTS, unproven, 20.0).reason is Reason.HOLD


# Replicas that stand still, and replicas that sleep


SLEEPS = Engine("vllm", reserves_memory=True, asleep=True)


def engine(progress: float | None) -> Engine:
    return Engine("vllm", reserves_memory=True, progress=progress)


def polled(
    times: Sequence[float], progress: Sequence[float | None], waiting: float = 2, running: float = 1
) -> Events:
    """Poll a replica whose gauges stay as they are."""
    known = ReplicaReadings(replica("a").replica)
    events = []
    for now, moved in zip(times, progress, strict=True):
        values = replica("a", waiting, running, at=now).values
        known = absorb(known, values, engine(moved), Spans(120.0))
        events.append((now, snapshot(known, listed_at=now)))
    return events


TIMES = [float(t) for t in range(0, 101, 10)]
STILL = [7.0] * len(TIMES)


def test_requests_that_stand_still_are_stuck() -> None:
    """Gauges that freeze are neither work nor idleness: replicas are left alone, and it is said."""
    asks = trigger(stuckSeconds="60")
    events = polled(TIMES, STILL)

    assert decided(asks, events[:6], 59.0).reason is Reason.WORK
    stuck = decided(asks, events, 100.0)
    assert (stuck.state, stuck.reason) == (State.ACTIVE, Reason.STUCK)
    assert stuck.stuck == ("a",)
    assert [text.partition(" for ")[0] for text in stuck.warnings] == [
        "a is stuck: its requests and its counters have not moved"
    ]
    assert isinstance(stuck.answers[Signal.QUEUE_DEPTH], Held)


def test_ten_of_many_that_are_stuck_are_named() -> None:
    """The others are counted: what is said of a target stays short."""
    names = [f"pod-{number:02}" for number in range(MAX_STUCK_NAMED + 3)]
    known = snapshot(*(replace(replica(name, running=1), still_since=0.0) for name in names))
    decision = decided(trigger(stuckSeconds="10"), [(0.0, known)], 10.0)

    assert decision.stuck == tuple(names)
    assert [text.partition(" ")[0] for text in decision.warnings[:-1]] == names[:MAX_STUCK_NAMED]
    assert decision.warnings[-1] == "3 more replicas are stuck"


def test_who_takes_stuck_for_idle_gets_idle() -> None:
    """A model that freezes over night is not worth a GPU."""
    asks = trigger(stuckSeconds="60", onStuck="idle", idleSeconds="10")
    decision = decided(asks, polled(TIMES, STILL), 100.0)

    assert decision.state is State.IDLE
    assert decision.stuck == ("a",)
    assert queue(decision) == 0.0


@pytest.mark.parametrize(
    "progress",
    [
        [float(i) for i in range(len(TIMES))],
        [None] * len(TIMES),
        [7.0] * 9 + [8.0] * 2,
    ],
    ids=["moves", "not counted", "moved lately"],
)
def test_requests_that_get_on_are_work(progress: list[float | None]) -> None:
    """A counter that moves, or none at all, leaves the gauges their word."""
    asks = trigger(stuckSeconds="60")

    assert decided(asks, polled(TIMES, progress), 100.0).reason is Reason.WORK


def test_no_request_is_never_stuck() -> None:
    """An idle engine counts nothing either."""
    asks = trigger(stuckSeconds="60")

    assert decided(asks, polled(TIMES, STILL, 0, 0), 100.0).state is State.IDLE


def test_a_poll_that_fails_neither_starts_nor_ends_it() -> None:
    """What stood still before and after stood still."""
    asks = trigger(stuckSeconds="60")
    known = polled(TIMES[:4], STILL[:4])[-1][1].replicas[0]
    failed = absorb(known, {}, None, Spans(120.0))
    assert (failed.still_since, failed.progress) == (known.still_since, 7.0)

    later = absorb(
        failed, replica("a", 2, 1, at=70.0).values, engine(7.0), Spans(120.0)
    )  # as the dialects say it
    assert decided(asks, [(70.0, snapshot(later, listed_at=70.0))], 70.0).reason is Reason.STUCK


def test_another_replica_at_work_is_work() -> None:
    """The stuck one counts as one that does not answer."""
    asks = trigger(stuckSeconds="60")
    now, known = polled(TIMES, STILL)[-1]
    both = snapshot(*known.replicas, replica("b", 1, 1, at=now), listed_at=now)
    decision = decided(asks, [(now, both)], now)

    assert decision.reason is Reason.WORK
    assert decision.answers[Signal.QUEUE_DEPTH] == Held(
        "queue-depth asks for no change: a: its requests stand still", is_partial=True
    )


def test_a_sleeping_replica_is_neither_busy_nor_able_to_answer() -> None:
    """Sleep mode is not zero and not busy: it is proof of no work, and no end of a lease."""
    asks = trigger(**WAKE)
    times = (0.0, 10.0, 20.0, 30.0)
    asleep = [absorb(replica("a"), replica("a", at=t).values, SLEEPS, Spans(120.0)) for t in times]
    quiet = [
        (t, snapshot(each, listed_at=t, demand=asked(0, t)))
        for t, each in zip(times, asleep, strict=True)
    ]
    assert decided(asks, quiet, 30.0).state is State.IDLE

    woken = (31.0, snapshot(asleep[-1], listed_at=31.0, demand=asked(1, 31.0)))
    decision = decided(asks, [*quiet, woken], 31.0)
    assert (decision.reason, decision.answering) == (Reason.WAKING, 0)


@pytest.mark.parametrize(
    ("events", "asks_for"),
    [
        ([at_zero(0, 1)], 1),
        ([at_zero(0, 40)], 2),
        ([at_zero(0, 40), busy(60, 40, ready=2)], 8),
        ([busy(0, 40, ready=2), busy(60, 200, ready=4, pending=4)], 8),
    ],
)
def test_the_table_of_the_document(events: Events, asks_for: int) -> None:
    """docs/waking.md, "No overshoot"."""
    assert decided(trigger(**WAKE), events, events[-1][0]).wanted == asks_for
