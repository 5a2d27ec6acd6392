"""The decision: the table of the three answers, and what must hold whatever the readings are."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from keda_scaler.core.addresses import AddressRules
from keda_scaler.core.decision import (
    Held,
    Reason,
    Reported,
    State,
    Unavailable,
)
from keda_scaler.core.readings import Demand, Engine, Missing, Value
from keda_scaler.core.signals import Signal
from keda_scaler.core.snapshot import Snapshot
from keda_scaler.core.trigger import Accepts, Trigger, parse_trigger
from readings_for_tests import decided, replica, snapshot, trigger

Events = list[tuple[float, Snapshot]]
History = list[tuple[float, list[tuple[str, int | None, int, bool]], bool]]


def polls(
    *, until: float, since: float = 0.0, waiting: float = 0.0, running: float = 0.0
) -> Events:
    """Poll one replica every 5 seconds."""
    times = [since + 5.0 * i for i in range(int((until - since) / 5) + 1)]
    return [(t, snapshot(replica("a", waiting, running, at=t), listed_at=t)) for t in times]


def test_work_is_active_with_values() -> None:
    """The recorded busy page: 12 waiting, 4 running."""
    asks = trigger(targetQueueDepth="5", targetConcurrency="16")
    decision = decided(asks, polls(until=0, waiting=12, running=4), 1.0)

    assert (decision.state, decision.reason) == (State.ACTIVE, Reason.WORK)
    assert decision.answers == {
        Signal.QUEUE_DEPTH: Reported(12.0),
        Signal.CONCURRENCY: Reported(16.0),
    }


def test_too_few_replicas_are_short() -> None:
    """Three are wanted for 12 that wait, and one serves; for 4 one is enough."""
    asks = trigger(targetQueueDepth="5")

    assert decided(asks, polls(until=0, waiting=12), 1.0).is_short
    assert not decided(asks, polls(until=0, waiting=4), 1.0).is_short


def test_idle_takes_proof_for_idle_seconds() -> None:
    """A fresh idle page reports 0 at once, and inactive after idleSeconds."""
    events = polls(until=30)

    early = decided(trigger(), events, 29.9)
    late = decided(trigger(), events, 30.0)

    assert (early.state, early.reason) == (State.ACTIVE, Reason.SETTLING)
    assert (late.state, late.reason) == (State.IDLE, Reason.PROVEN_IDLE)
    assert early.answers[Signal.QUEUE_DEPTH] == late.answers[Signal.QUEUE_DEPTH] == Reported(0.0)


def test_the_last_work_starts_the_wait_anew() -> None:
    """A model stays active for idleSeconds after its last request."""
    events = polls(until=30) + polls(since=31, until=31, running=1) + polls(since=36, until=66)

    assert decided(trigger(), events, 65.9).state is State.ACTIVE
    assert decided(trigger(), events, 66.0).state is State.IDLE


def test_zero_replicas_are_idle() -> None:
    """At zero, nothing is an error and nothing is woken."""
    decision = decided(trigger(), [(0.0, snapshot())], 1.0)

    assert decision.state is State.IDLE
    assert set(decision.answers.values()) == {Reported(0.0)}


def test_a_killed_engine_is_held() -> None:
    """Last values until stale, then active without values, then an error; never 0 or inactive."""
    events = polls(until=100, waiting=12, running=4)

    fresh = decided(trigger(), events, 114.9)
    held = decided(trigger(), events, 115.0)
    over = decided(trigger(), events, 1015.0)

    assert fresh.answers[Signal.QUEUE_DEPTH] == Reported(12.0)
    assert (held.state, held.reason) == (State.ACTIVE, Reason.HOLD)
    assert all(isinstance(answer, Held) for answer in held.answers.values())
    assert (over.state, over.reason) == (State.UNKNOWN, Reason.HOLD_OVER)
    assert all(isinstance(answer, Unavailable) for answer in over.answers.values())


def test_an_idle_engine_that_is_killed_is_held_too() -> None:
    """What was idle is unknown once it cannot be read, and unknown is not idle."""
    events = polls(until=60)

    assert decided(trigger(), events, 74.9).state is State.IDLE
    assert decided(trigger(), events, 75.0).reason is Reason.HOLD


def test_on_unknown_error_does_not_hold() -> None:
    """For those who set KEDA's fallback."""
    decision = decided(trigger(onUnknown="error"), polls(until=60, running=1), 75.0)

    assert (decision.state, decision.reason) == (State.UNKNOWN, Reason.NO_HOLD)


def test_unknown_at_zero_is_an_error() -> None:
    """There is nothing to hold."""
    events = [(0.0, snapshot()), (60.0, Snapshot((), 0.0, "the API server does not answer"))]
    decision = decided(trigger(), events, 60.0)

    assert (decision.state, decision.reason) == (State.UNKNOWN, Reason.NO_HOLD)
    assert decision.text == (
        "activity unknown for less than a minute: the API server does not answer"
    )


def test_what_is_not_there_is_not_held() -> None:
    """There was work and then no replica: a hold would wake what somebody took away."""
    asks = trigger(wakeFrom="epp", wakeService="epp")
    quiet = Demand(0, 0, arrived=False, at=0.0)
    worked = snapshot(replica(running=1), demand=quiet)
    gone = snapshot(listed_at=20.0, demand=quiet)
    decision = decided(asks, [(0.0, worked), (20.0, gone)], 20.0)

    assert (decision.state, decision.reason) == (State.UNKNOWN, Reason.NO_HOLD)


def test_never_read_is_an_error() -> None:
    """After a restart there is no inactive answer without new proof."""
    rules = AddressRules.parse(["10.0.0.0/8"])
    static = parse_trigger({"endpoints": "http://10.0.0.1/metrics"}, Accepts(addresses=rules))
    nothing = decided(trigger(), [], 1.0)
    unread = [(0.0, snapshot(replica("a", None)))]
    leaving = [(0.0, snapshot(replica("a", None, terminating=True)))]

    for decision in (
        nothing,
        decided(static, unread, 1.0),  # may stand before a Deployment at zero
        decided(trigger(), leaving, 1.0),
        decided(trigger(onUnknown="error"), unread, 1.0),
    ):
        assert (decision.state, decision.reason) == (State.UNKNOWN, Reason.NEVER_KNOWN)
        assert all(isinstance(answer, Unavailable) for answer in decision.answers.values())


def test_never_read_is_the_hold_while_replicas_are_listed() -> None:
    """KEDA's race turns an error into inactive: after a long outage of ours that is the end."""
    asks = trigger(holdSeconds="60")
    events = [(t, snapshot(replica("a", None), listed_at=t)) for t in (0.0, 30.0, 59.0, 60.0)]
    held = decided(asks, events[:3], 59.0)

    assert (held.state, held.reason) == (State.ACTIVE, Reason.HOLD)
    assert held.text == "activity was never known: a: no answer within 5 s"
    assert all(isinstance(answer, Held) for answer in held.answers.values())
    assert decided(asks, events[:1], 1.0).until == 15.0
    over = decided(asks, events, 60.0)
    assert (over.state, over.reason) == (State.UNKNOWN, Reason.HOLD_OVER)
    partly = [(t, snapshot(replica("a", at=t), replica("b", None), listed_at=t)) for t in (0, 50)]
    assert decided(asks, partly, 50.0).reason is Reason.HOLD


def test_a_poll_that_fails_voids_the_proof_at_once() -> None:
    """Work may have come since the poll before; the clock of idleness begins anew."""
    asks = trigger(wakeFrom="epp", wakeService="epp")

    def at(t: float, **problems: str) -> tuple[float, Snapshot]:
        one = replica("a", at=t)
        if "page" in problems:
            refused = dict.fromkeys(Signal, Missing("refused"))
            one = replace(replica("a", at=30.0), problems=refused)
        demand = Demand(0, 0, arrived=False, at=t)
        return t, Snapshot((one,), t, problems.get("list"), demand, problems.get("gateway"))

    idle = [at(float(t)) for t in range(0, 31, 5)]
    assert decided(asks, idle, 30.0).state is State.IDLE
    for problem in ("page", "list", "gateway"):
        failed = [*idle, at(31.0, **{problem: "refused"})]
        decision = decided(asks, failed, 31.0)
        assert (decision.state, decision.reason) == (State.ACTIVE, Reason.HOLD)
        assert decision.answers[Signal.QUEUE_DEPTH] == Reported(0.0)
        assert decided(asks, [*failed, at(32.0)], 32.0).reason is Reason.SETTLING

    zero = [(t, replace(known, replicas=())) for t, known in idle]
    gone = (31.0, replace(zero[-1][1], problem="refused", demand_problem="refused"))
    assert decided(asks, [*zero, gone], 31.0).state is State.IDLE  # nothing is put to sleep


def test_a_ready_replica_that_never_answers_is_warned_of() -> None:
    """Such as the worker of a LeaderWorkerSet, or a pod of another workload."""
    asks = trigger(holdSeconds="60")
    workers = [replace(replica(f"w{i:02}", None), ready_since=0.0) for i in range(12)]
    known = snapshot(replica("leader", 1, at=60.0), *workers, listed_at=60.0)

    assert decided(asks, [(0.0, known)], 59.0).warnings == ()
    assert decided(asks, [(0.0, known)], 1.0).until == 60.0
    warnings = decided(asks, [(60.0, known)], 60.0).warnings
    assert warnings[0].startswith("w00 is ready and has never answered for holdSeconds (60)")
    assert warnings[-1] == "2 more replicas have never answered"


def test_one_of_two_hanging_keeps_the_model_awake() -> None:
    """The one that answers idle proves nothing; the other counts as exactly at target."""
    both = snapshot(replica("a"), replica("b"))
    one = replace(both, replicas=(replica("a", at=20.0), replica("b")), listed_at=20.0)
    decision = decided(trigger(), [(0.0, both), (20.0, one)], 20.0)

    assert (decision.state, decision.reason) == (State.ACTIVE, Reason.HOLD)
    assert decision.answers[Signal.QUEUE_DEPTH] == Reported(5.0)


def leaving(since: int, until: int, *, read_at: float) -> Events:
    """The last replica shuts down: still listed, and its page answers no more."""
    gone = replica(at=read_at, ready=False, terminating=True)
    return [(float(t), snapshot(gone, listed_at=float(t))) for t in range(since, until)]


def gone(since: int, until: int) -> Events:
    return [(float(t), snapshot(listed_at=float(t))) for t in range(since, until)]


def test_a_replica_that_was_put_to_sleep_and_leaves_silently_wakes_nothing() -> None:
    """KEDA has scaled to zero already: active, for whatever reason, would wake it again."""
    events = polls(until=60) + leaving(61, 90, read_at=60.0) + gone(90, 121)
    for now in range(30, 121):
        decision = decided(trigger(), [each for each in events if each[0] <= now], float(now))
        assert decision.state is not State.ACTIVE, (now, decision.text)

    assert decided(trigger(), events[:-31], 89.0).reason is Reason.NO_HOLD
    assert decided(trigger(), events[:-1], 119.0).reason is Reason.SETTLING
    assert decided(trigger(), events, 120.0).state is State.IDLE


def test_a_replica_that_worked_and_leaves_silently_is_held() -> None:
    """A rollout, or an eviction: KEDA still wants replicas, and nothing was proven."""
    events = polls(until=60, running=1) + leaving(61, 90, read_at=60.0)
    assert decided(trigger(), events, 89.0).reason is Reason.HOLD

    settling = decided(trigger(), events + gone(90, 100), 99.0)
    assert (settling.state, settling.reason) == (State.ACTIVE, Reason.SETTLING)


def test_idleness_that_was_not_proven_before_silence_is_held() -> None:
    """The readings went stale before idleSeconds were over, and nothing was read since."""
    events = [(0.0, snapshot(replica(running=1))), (1.0, snapshot(replica(at=1.0), listed_at=1.0))]
    events += leaving(40, 41, read_at=1.0)

    assert decided(trigger(), events, 40.0).reason is Reason.HOLD


def test_a_replica_that_loads_after_zero_is_held() -> None:
    """A cold start is not idle, and an error would freeze KEDA's clock."""
    loading = snapshot(replica("a", None, ready=False), listed_at=10.0)
    decision = decided(trigger(), [(0.0, snapshot()), (10.0, loading)], 20.0)

    assert decision.reason is Reason.HOLD


def test_a_family_that_is_absent_is_unknown_and_no_other_signal_is() -> None:
    """A page without cache usage still reports its queue."""
    without = replica("a", waiting=12)
    values: dict[Signal, Value] = {
        s: v for s, v in without.values.items() if s is not Signal.GPU_MEMORY_PRESSURE
    }
    decision = decided(trigger(), [(0.0, snapshot(replace(without, values=values)))], 1.0)

    assert decision.state is State.ACTIVE
    assert decision.answers[Signal.QUEUE_DEPTH] == Reported(12.0)
    assert isinstance(decision.answers[Signal.GPU_MEMORY_PRESSURE], Unavailable)


def test_a_signal_that_goes_missing_is_held_and_then_an_error() -> None:
    """Work is still seen; the one signal that is not blocks scale-in for holdSeconds."""
    full = replica("a", waiting=1, kv=0.9, at=0.0)
    later = {s: replace(v, at=600.0) for s, v in full.values.items()}
    later[Signal.GPU_MEMORY_PRESSURE] = full.values[Signal.GPU_MEMORY_PRESSURE]
    events = [
        (0.0, snapshot(full)),
        (600.0, snapshot(replace(full, values=later), listed_at=600.0)),
    ]
    events.append((1000.0, events[1][1]))

    assert isinstance(
        decided(trigger(), events[:2], 601.0).answers[Signal.GPU_MEMORY_PRESSURE], Held
    )
    asks = trigger(holdSeconds="300")
    answer = decided(asks, events[:2], 601.0).answers[Signal.GPU_MEMORY_PRESSURE]
    assert isinstance(answer, Unavailable)
    assert "unknown for over 5 minutes" in answer.text


@pytest.mark.parametrize(
    ("seconds", "says"),
    [
        (1, "less than a minute"),
        (60, "over a minute"),
        (301, "over 5 minutes"),
        (4000, "over an hour"),
    ],
)
def test_errors_say_since_when_in_few_steps(seconds: float, says: str) -> None:
    """Kubernetes counts Events with one text as one, so the text seldom changes."""
    decision = decided(trigger(onUnknown="error"), polls(until=0), 15.0 + seconds)

    assert decision.text == f"activity unknown for {says}: the list of replicas is not confirmed"


replicas = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.one_of(st.none(), st.integers(0, 20)),
        st.integers(0, 8),
        st.booleans(),
    ),
    max_size=3,
    unique_by=lambda known: known[0],
)
histories = st.lists(
    st.tuples(st.floats(0.1, 40), replicas, st.booleans()), min_size=1, max_size=12
)
triggers = st.sampled_from(
    [
        trigger(),
        trigger(idleSeconds="0"),
        trigger(activationRequests="3", activationGpuMemoryPressure="10%"),
        trigger(onUnknown="error"),
        trigger(holdSeconds="20", metricType="Value"),
    ]
)


def replay(history: History) -> Events:
    """Turn drawn steps into snapshots; a list that was not confirmed keeps its age."""
    events: Events = []
    now = listed_at = 0.0
    for step, known, confirmed in history:
        now += step
        listed_at = now if confirmed or not events else listed_at
        ordered = (
            replica(name, waiting, running, kv=running / 10, at=now, terminating=leaving)
            for name, waiting, running, leaving in sorted(known)
        )
        events.append((now, Snapshot(tuple(ordered), listed_at)))
    return events


@given(triggers, histories, st.floats(0, 2000))
def test_idle_is_never_said_without_proof(asks: Trigger, history: History, later: float) -> None:
    """Idle means: every listed replica answered freshly, without work, and the list is fresh."""
    events = replay(history)
    now = events[-1][0] + later
    decision = decided(asks, events, now)

    if decision.state is State.IDLE:
        known = events[-1][1]
        assert known.listed_at is not None
        assert now < known.listed_at + asks.stale_after
        values = [each.values[Signal.CONCURRENCY] for each in known.replicas]
        assert all(now < value.at + asks.stale_after for value in values)
        assert sum(value.number for value in values) <= asks.activation_requests


@given(triggers, histories, st.floats(0, 2000))
def test_a_missing_page_never_turns_into_zero(
    asks: Trigger, history: History, later: float
) -> None:
    """A zero is reported only when a replica said so, or when there is none."""
    events = replay(history)
    decision = decided(asks, events, events[-1][0] + later)

    counted = [each for each in events[-1][1].replicas if not each.replica.terminating]
    for answer in decision.answers.values():
        if counted and not any(each.values for each in counted):
            assert not isinstance(answer, Reported)
        if isinstance(answer, Reported):
            assert math.isfinite(answer.number)
            assert 0 <= answer.number < 1e12


@given(triggers, histories, st.floats(0, 2000), st.floats(0, 1))
def test_a_decision_stands_until_it_says(
    asks: Trigger,
    history: History,
    later: float,
    share: float,
) -> None:
    """Between two instants at which time matters, the answer is the same however often asked."""
    events = replay(history)
    now = events[-1][0] + later
    decision = decided(asks, events, now)

    then = now + share * (min(decision.until, now + 5000) - now)
    if now <= then < decision.until:
        assert decided(asks, events, then) == decision


@given(triggers, histories, st.floats(0, 2000), st.integers(0, 11), st.sampled_from("abc"))
def test_hiding_a_reading_never_makes_idle(
    asks: Trigger,
    history: History,
    later: float,
    step: int,
    name: str,
) -> None:
    """Unknown never lowers the state: what is not idle with a reading is not idle without it."""
    full = replay(history)
    hidden = list(full)
    if step < len(full):
        at, known = full[step]
        silent = tuple(
            replace(each, values={}) if each.replica.name == name else each
            for each in known.replicas
        )
        hidden[step] = (at, replace(known, replicas=silent))
    now = full[-1][0] + later

    if decided(asks, full, now).state is not State.IDLE:
        assert decided(asks, hidden, now).state is not State.IDLE


def test_a_target_on_memory_that_is_kept_is_warned_of() -> None:
    """It is accepted, and said why it never scales in."""
    kept = replace(replica("a"), engine=Engine("vllm", reserves_memory=True))
    decision = decided(trigger(gpuMemorySource="device"), [(0.0, snapshot(kept))], 1.0)

    assert decision.engines == ("vllm",)
    assert decision.warnings[0].startswith("vllm takes its GPU memory at start and keeps it")
    assert decided(trigger(), [(0.0, snapshot(kept))], 1.0).warnings == ()
    asks = trigger(gpuMemorySource="device", targetQueueDepth="5")
    assert decided(asks, [(0.0, snapshot(kept))], 1.0).warnings == ()


def test_a_target_on_utilization_is_warned_of() -> None:
    """One request keeps a GPU busy."""
    decision = decided(trigger(targetGpuUtilization="80%"), [(0.0, snapshot(replica()))], 1.0)

    assert decision.warnings[0].startswith("one request is enough to keep a GPU busy")
