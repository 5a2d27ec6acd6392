"""The store: what sources write is what handlers read."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from keda_scaler import engines, store
from keda_scaler.core.decision import Decision, Reason, Reported, State, decide
from keda_scaler.core.readings import Demand, Engine, Missing, Readings, Replica, Value
from keda_scaler.core.signals import Signal
from keda_scaler.core.trigger import Accepts, Trigger, parse_trigger
from keda_scaler.errors import TooManyTargetsError, TriggerError
from keda_scaler.store import FORGET_SECONDS, PAIR_SECONDS, Store, Target
from keda_scaler.telemetry import Telemetry

METADATA = {"service": "llama", "idleSeconds": "10"}
TRIGGER = parse_trigger(METADATA, Accepts())


class Clock:
    """Time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Fleet:
    """A store, and what it did."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.observed: list[Decision] = []
        self.stopped: list[str] = []
        self.store = Store(self._follow, self._observe, self.clock)

    def _follow(self, target: Target) -> Callable[[], None]:
        return lambda: self.stopped.append(target.name)

    def _observe(self, _: Target, __: Decision | None, decision: Decision) -> None:
        self.observed.append(decision)

    def target(self, name: str = "llama", namespace: str = "default") -> Target:
        key = name.encode()
        return self.store.find(key) or self.store.follow(key, namespace, name, TRIGGER)


@pytest.fixture
async def fleet() -> Fleet:
    return Fleet()


def reading(waiting: float, at: float) -> Readings:
    return dict.fromkeys(Signal, Value(waiting, at))


async def test_a_reading_becomes_a_decision(fleet: Fleet) -> None:
    """What a source reads is what the next call gets."""
    target = fleet.target()
    assert target.decision().reason is Reason.NEVER_KNOWN

    target.listed([Replica("a")], fleet.clock.now)
    target.read("a", reading(0.5, fleet.clock.now))

    decision = target.decision()
    assert decision.reason is Reason.WORK
    assert decision.answers[Signal.QUEUE_DEPTH] == Reported(0.5)


async def test_the_same_question_finds_the_same_target(fleet: Fleet) -> None:
    """State belongs to what is asked about, not to a call or a stream."""
    assert fleet.target() is fleet.target()
    assert fleet.target("other") is not fleet.target()
    assert len(fleet.store) == 2


async def test_time_alone_changes_the_decision(fleet: Fleet) -> None:
    """Idle seconds pass and readings go stale without anything being read."""
    target = fleet.target()
    for seconds in (0, 10):
        fleet.clock.now = 1000.0 + seconds
        target.listed([Replica("a")], fleet.clock.now)
        target.read("a", reading(0, fleet.clock.now))
    assert target.decision().state is State.IDLE

    fleet.clock.now += TRIGGER.stale_after
    assert target.decision().reason is Reason.HOLD


async def test_asking_changes_nothing(fleet: Fleet) -> None:
    """One target is asked all the time, one never; both decide the same."""
    asked, quiet = fleet.target("asked"), fleet.target("quiet")
    for _ in range(30):
        fleet.clock.now += 1.0
        for target in (asked, quiet):
            if int(fleet.clock.now) % 5 == 0:
                target.listed([Replica("a")], fleet.clock.now)
                target.read("a", reading(0, fleet.clock.now))
        asked.decision_for_metrics()
        asked.decision_for_activity()

    assert asked.decision() == quiet.decision()


async def test_replicas_may_answer_in_any_order(fleet: Fleet) -> None:
    """The order in which readings come does not matter."""
    one, other = fleet.target("one"), fleet.target("other")
    for target, order in ((one, "ab"), (other, "ba")):
        target.listed([Replica(name) for name in order], fleet.clock.now)
        for name in order:
            target.read(name, reading({"a": 1.0, "b": 0.25}[name], fleet.clock.now))

    assert one.decision() == other.decision()


async def test_an_older_reading_never_replaces_a_newer_one(fleet: Fleet) -> None:
    """Prometheus may answer late."""
    target = fleet.target()
    target.listed([Replica("a")], fleet.clock.now)
    target.read("a", reading(7, fleet.clock.now))
    target.read("a", reading(0, fleet.clock.now - 1))

    assert target.decision().answers[Signal.QUEUE_DEPTH] == Reported(7.0)


async def test_a_replica_keeps_its_reading_until_stale(fleet: Fleet) -> None:
    """A replica that does not answer once replays what it said before."""
    target = fleet.target()
    target.listed([Replica("a")], fleet.clock.now)
    target.read("a", reading(7, fleet.clock.now))
    fleet.clock.now += 5
    target.listed([Replica("a")], fleet.clock.now)
    target.read("a", engines.missing("no answer within 5 s"))

    assert target.decision().answers[Signal.QUEUE_DEPTH] == Reported(7.0, is_repeated=True)


async def test_what_a_page_lost_is_unknown_until_the_hold_is_over(fleet: Fleet) -> None:
    """Not zero: then its sum is believed, for a server may have been set up anew."""
    target = fleet.target()
    target.listed([Replica("a")], fleet.clock.now)
    target.read("a", dict.fromkeys(Signal, Value(8, fleet.clock.now, series=2)))
    reasons: list[Reason] = []
    for seconds in (5, 20, 860, 20, 10):
        fleet.clock.now += seconds
        target.listed([Replica("a")], fleet.clock.now)
        target.read("a", reading(0, fleet.clock.now))
        reasons.append(target.decision().reason)

    assert reasons == [
        *(Reason.WORK, Reason.HOLD, Reason.HOLD),
        *(Reason.SETTLING, Reason.PROVEN_IDLE),
    ]


async def test_what_is_no_longer_listed_no_longer_counts(fleet: Fleet) -> None:
    """A replica that is gone takes its readings with it, and a late one is ignored."""
    target = fleet.target()
    target.listed([Replica("a"), Replica("b")], fleet.clock.now)
    target.read("a", reading(1, fleet.clock.now))
    target.read("b", reading(1, fleet.clock.now))
    target.listed([Replica("a")], fleet.clock.now)
    target.read("b", reading(9, fleet.clock.now))

    assert target.decision().answers[Signal.QUEUE_DEPTH] == Reported(1.0)


async def test_is_active_repeats_the_decision_of_get_metrics(fleet: Fleet) -> None:
    """KEDA asks the two one after the other; they answer as one, whatever happens in between."""
    target = fleet.target()
    target.listed([Replica("a")], fleet.clock.now)
    target.read("a", reading(0, fleet.clock.now))
    told = target.decision_for_metrics()
    target.read("a", reading(3, fleet.clock.now))

    assert target.decision_for_activity() is told
    fleet.clock.now += PAIR_SECONDS
    assert target.decision_for_activity().reason is Reason.WORK


async def test_only_new_decisions_are_observed(fleet: Fleet) -> None:
    """One line per change in the log, not one per poll."""
    target = fleet.target()
    for _ in range(5):
        fleet.clock.now += 5
        target.listed([Replica("a")], fleet.clock.now)
        target.read("a", reading(3, fleet.clock.now))

    assert [decision.reason for decision in fleet.observed] == [Reason.WORK]


async def test_those_who_wait_hear_of_a_change(fleet: Fleet) -> None:
    """A stream wakes up when the decision is new."""
    target = fleet.target()
    woken: list[State] = []
    with target.streamed(lambda: woken.append(target.decision().state)):
        assert target.streams == 1
        target.listed([Replica("a")], fleet.clock.now)
        target.read("a", reading(3, fleet.clock.now))
    target.read("a", reading(0, fleet.clock.now))

    assert woken == [State.ACTIVE]
    assert target.streams == 0


@pytest.mark.looptime
async def test_those_who_wait_hear_of_what_time_alone_does() -> None:
    """The timer of a decision rings: idle seconds pass without a call."""
    loop = asyncio.get_running_loop()
    fleet = Fleet()
    fleet.store = Store(fleet._follow, fleet._observe, loop.time)
    target = fleet.target()
    began = loop.time()
    target.listed([Replica("a")], began)
    target.read("a", reading(0, began))
    assert target.decision().reason is Reason.SETTLING

    woken = asyncio.Event()
    with target.streamed(woken.set):
        await woken.wait()

    assert target.decision().state is State.IDLE
    assert loop.time() == pytest.approx(began + 10)
    fleet.store.close()


async def test_the_first_reading_is_there_when_waiting_is_pointless(fleet: Fleet) -> None:
    """All replicas failed, or activity is known: nobody waits any longer."""
    failing, working = fleet.target("failing"), fleet.target("working")
    both = [Replica("a"), Replica("b")]
    failing.listed(both, fleet.clock.now)
    failing.read("a", engines.missing("refused"))
    assert not failing.first_reading.is_set()
    failing.read("b", engines.missing("refused"))
    assert failing.first_reading.is_set()

    working.listed(both, fleet.clock.now)
    assert not working.first_reading.is_set()
    working.read("a", reading(1, fleet.clock.now))
    assert working.first_reading.is_set()


async def test_targets_nobody_asks_about_are_forgotten(fleet: Fleet) -> None:
    """KEDA never says goodbye; an open stream counts as asking."""
    fleet.target("asked")
    fleet.target("gone")
    with fleet.target("streamed").streamed(lambda: None):
        fleet.clock.now += FORGET_SECONDS - 1
        fleet.target("asked").decision_for_activity()
        fleet.clock.now += 1
        fleet.store.forget()

    assert fleet.stopped == ["gone"]
    assert len(fleet.store) == 2


async def test_targets_are_bounded(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who invents metadata cannot fill the memory."""
    monkeypatch.setattr(store, "MAX_TARGETS", 1)
    fleet.target("one")

    with pytest.raises(TooManyTargetsError):
        fleet.target("two")
    fleet.target("one")


async def test_one_namespace_leaves_the_others_room(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own targets go on, and those that are forgotten or refused make room."""
    monkeypatch.setattr(store, "MAX_TARGETS_OF_NAMESPACE", 2)
    fleet.target("one")
    fleet.target("two")
    with pytest.raises(TooManyTargetsError, match="2 targets of namespace default"):
        fleet.target("three")
    fleet.target("other", "other")

    fleet.clock.now += FORGET_SECONDS
    fleet.target("two").decision_for_activity()
    fleet.store.forget()
    fleet.target("three")
    with pytest.raises(TooManyTargetsError):
        fleet.target("four")

    def refuse(_: bytes) -> Trigger:
        raise TriggerError(["not any more"])

    fleet.store.follow_anew(refuse, fleet._follow)
    fleet.target("four")
    fleet.target("five")


async def test_closing_stops_everything(fleet: Fleet) -> None:
    """No source and no timer is left behind."""
    fleet.target("one")
    fleet.store.close()

    assert fleet.stopped == ["one"]
    assert len(fleet.store) == 0


async def test_what_the_gateway_says_is_part_of_the_decision(fleet: Fleet) -> None:
    """A request there wakes; what it fails to say is unknown, and named."""
    trigger = parse_trigger(METADATA | {"wakeFrom": "epp", "wakeService": "epp"}, Accepts())
    target = fleet.store.follow(b"w", "default", "llama", trigger)
    target.listed([], fleet.clock.now)
    assert not target.first_reading.is_set()
    target.demanded(Missing("cannot connect: refused"))
    assert target.decision().text.endswith("epp: cannot connect: refused")
    assert target.is_waking

    target.demanded(Demand(0.0, 0.0, arrived=True, at=fleet.clock.now))
    assert target.decision().reason is Reason.WAKING
    target.listed([Replica("a")], fleet.clock.now)
    target.read("a", reading(0, fleet.clock.now))
    assert target.decision().reason is Reason.WORK  # a request has just arrived
    assert not target.is_waking


async def test_a_stuck_replica_is_counted_and_named_in_the_log(fleet: Fleet) -> None:
    """Somebody has to restart it."""
    telemetry = Telemetry(fleet.clock)
    store = Store(lambda _: lambda: None, telemetry.decided, fleet.clock)
    telemetry.watch(store)
    trigger = parse_trigger(METADATA | {"stuckSeconds": "60"}, Accepts())
    target = store.follow(b"s", "default", "llama", trigger)
    engine = Engine("vllm", reserves_memory=True, progress=7.0)
    with capture_logs() as lines:
        for _ in range(8):
            target.listed([Replica("a")], fleet.clock.now)
            target.read("a", reading(2, fleet.clock.now), engine)
            fleet.clock.now += 10

    assert target.decision().reason is Reason.STUCK
    page = b"".join([piece async for piece in telemetry.exposition()])
    assert b"keda_scaler_stuck_replicas 1\n" in page
    assert sum("a is stuck" in str(line.get("text")) for line in lines) == 1
    store.close()


async def test_a_gateway_that_says_the_same_costs_nothing_each_second(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is taken in as often as replicas are read, so that nothing lapses; a change is at once."""
    decided = 0

    def counting(*given: Any) -> Decision:
        nonlocal decided
        decided += 1
        return decide(*given)

    monkeypatch.setattr(store, "decide", counting)
    trigger = parse_trigger(METADATA | {"wakeFrom": "epp", "wakeService": "epp"}, Accepts())
    target = fleet.store.follow(b"w", "default", "llama", trigger)
    target.listed([], fleet.clock.now)
    target.demanded(Demand(0.0, 0.0, arrived=False, at=fleet.clock.now))
    assert target.decision().state is State.IDLE
    decided = 0
    for _ in range(60):
        fleet.clock.now += 1
        if fleet.clock.now % 5 == 0:
            target.listed([], fleet.clock.now)
        target.demanded(Demand(0.0, 0.0, arrived=False, at=fleet.clock.now))
        assert target.decision().state is State.IDLE
    assert decided <= 30

    fleet.clock.now += 1
    target.demanded(Demand(0.0, 0.0, arrived=True, at=fleet.clock.now))
    assert target.decision().reason is Reason.WAKING


@pytest.fixture
def decided(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Write down when decisions are made."""
    times: list[float] = []

    def counting(*given: Any) -> Decision:
        times.append(given[0].now)
        return decide(*given)

    monkeypatch.setattr(store, "decide", counting)
    return times


async def test_a_poll_of_everything_is_one_decision(fleet: Fleet, decided: list[float]) -> None:
    """However many replicas it read; and it is the one that reading them in turns leads to."""
    together, apart = fleet.target("together"), fleet.target("apart")
    decided.clear()
    numbers: list[dict[str, float]] = [{}, {"a": 3}, {"a": 0}, {"a": 0, "b": 0}, {"b": 2}, {}]
    for number, found in enumerate(numbers * 3):
        fleet.clock.now += 5
        at = fleet.clock.now
        answers = {Replica(name): (reading(n, at), None) for name, n in found.items()}
        before = len(decided)
        together.polled(answers, at)
        assert len(decided) - before <= 2
        if number and found.keys() == numbers[(number - 1) % 6].keys():
            assert len(decided) - before == 1
        apart.listed(list(answers), at)
        for replica, (readings, _) in answers.items():
            apart.read(replica.name, readings)
        assert together.decision() == apart.decision()
        assert together._memory == apart._memory


async def test_a_list_that_is_only_confirmed_costs_nothing(
    fleet: Fleet, decided: list[float]
) -> None:
    """It is taken in with the readings beside it, or in time by itself."""
    target = fleet.target()
    replicas = [Replica("a")]
    target.listed(replicas, fleet.clock.now)
    target.read("a", reading(1, fleet.clock.now))
    decided.clear()
    for _ in range(20):
        fleet.clock.now += 2.5
        target.listed(replicas, fleet.clock.now)
        fleet.clock.now += 2.4
        target.read("a", reading(1, fleet.clock.now))
    assert len(decided) == 20

    target.listed([Replica("a", terminating=True)], fleet.clock.now)
    assert len(decided) == 21
    target.unlisted("away")
    target.listed([Replica("a", terminating=True)], fleet.clock.now)
    assert len(decided) == 23
    for _ in range(4):
        fleet.clock.now += 5
        target.listed([Replica("a", terminating=True)], fleet.clock.now)
    assert target.snapshot.listed_at == fleet.clock.now
    assert len(decided) == 27


@pytest.mark.looptime
async def test_a_target_with_many_replicas_is_decided_about_now_and_then(
    decided: list[float],
) -> None:
    """Its readings come all the time; whoever asks is told by the newest of them."""
    loop = asyncio.get_running_loop()
    fleet = Fleet()
    fleet.store = Store(fleet._follow, fleet._observe, loop.time)
    target = fleet.target()
    names = [f"pod-{number:03}" for number in range(408)]
    target.listed([Replica(name) for name in names], loop.time())
    decided.clear()
    for name in names:
        await asyncio.sleep(0.01)
        target.read(name, reading(1, loop.time()))
    assert 18 <= len(decided) <= 24  # 4.08 s, every 0.2 s

    target.read(names[0], reading(5, loop.time()))
    target.read(names[1], reading(5, loop.time()))
    assert target.decision().answers[Signal.QUEUE_DEPTH] == Reported(416.0)
    target.read(names[2], reading(5, loop.time()))
    told = len(decided)
    await asyncio.sleep(0.25)
    assert len(decided) == told + 1
    fleet.store.close()
