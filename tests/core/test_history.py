"""History: few bytes, the last changes and an hour of samples."""

import math
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_scaler.core.decision import Decision, Reason, State
from keda_scaler.core.history import (
    MAX_CHANGES,
    MAX_SAMPLES,
    MAX_TEXT,
    SAMPLE_SECONDS,
    History,
    per_replica,
)
from keda_scaler.core.memory import Memory
from keda_scaler.core.signals import Signal
from keda_scaler.core.snapshot import Snapshot
from keda_scaler.core.trigger import Accepts, Trigger, parse_trigger
from keda_scaler.core.view import View
from readings_for_tests import asked, decision_of, remembered, replica, snapshot, trigger

ASKS = trigger(idleSeconds="0", wakeFrom="epp", wakeService="epp")


def busy(at: float, waiting: float = 2, count: int = 1) -> Snapshot:
    pods = [replica(f"pod-{i}", waiting, at=at) for i in range(count)]
    return snapshot(*pods, listed_at=at, demand=asked(waiting, at))


def seen(known: Snapshot, now: float, asks: Trigger = ASKS) -> tuple[View, Decision]:
    memory = remembered(Memory(), asks, known, now)
    return View(asks, known, now), decision_of(asks, known, memory, now)


def recorded(
    snapshots: Iterable[tuple[float, Snapshot]], history: History | None = None
) -> History:
    history = history or History()
    for now, known in snapshots:
        history.record(*seen(known, now))
    return history


def test_nothing_is_known_before_anything_was_recorded() -> None:
    """And it takes next to no memory."""
    history = History()

    assert (history.since, history.changes, history.samples) == (None, [], [])
    assert history.size < 256


def test_another_state_or_reason_is_a_change() -> None:
    """What repeats is none; the newest says since when it has been so."""
    times = [(0.0, busy(0)), (5.0, busy(5)), (10.0, busy(10, 0)), (15.0, busy(15, 3, count=2))]
    history = recorded(times)

    found = [(c.at, c.state, c.reason, c.text, c.answering) for c in history.changes]
    assert found == [
        (0.0, State.ACTIVE, Reason.WORK, "epp has requests", 1),
        (10.0, State.IDLE, Reason.PROVEN_IDLE, "no work", 1),
        (15.0, State.ACTIVE, Reason.WORK, "epp has requests", 2),
    ]
    assert history.since == 15.0


def test_a_blink_is_not_kept() -> None:
    """A list that changes is taken in just before the readings of what is new on it."""
    new = snapshot(replica("pod-0", 0, at=60), replica("pod-1", None), listed_at=60.0)
    history = recorded([(0.0, busy(0)), (60.0, new), (60.001, busy(60, 2, count=2))])

    assert [change.at for change in history.changes] == [0.0]
    assert [sample.answering for sample in history.samples] == [1, 2]
    recorded([(61.0, new), (61.001, busy(61, 0))], history)
    assert [(c.at, c.reason) for c in history.changes] == [
        (0.0, Reason.WORK),
        (61.001, Reason.PROVEN_IDLE),
    ]
    recorded([(120.0, busy(120)), (120.01, busy(120, 0)), (130.0, busy(130, 0))], history)
    assert [change.at for change in history.changes] == [0.0, 61.001]


def test_a_target_may_blink_when_it_is_new() -> None:
    """Then what it became is its first change."""
    history = recorded([(0.0, snapshot(replica("a", None))), (0.001, busy(0))])

    assert [(change.at, change.reason) for change in history.changes] == [(0.001, Reason.WORK)]


def test_only_the_last_changes_are_kept() -> None:
    """However often a target flaps."""
    history = recorded((float(i), busy(i, i % 2)) for i in range(3 * MAX_CHANGES))

    assert [change.at for change in history.changes] == [
        float(i) for i in range(2 * MAX_CHANGES, 3 * MAX_CHANGES)
    ]


def test_a_long_text_is_cut() -> None:
    """A text may name replicas, whose names are long."""
    known = snapshot(replica("x" * 1000, None), listed_at=0.0)

    (change,) = recorded([(0.0, known)]).changes
    assert len(change.text) == MAX_TEXT


def test_texts_are_shared() -> None:
    """Thousands of targets say the same."""
    (one,), (other,) = (
        recorded([(0.0, snapshot(replica("a", None), listed_at=0.0))]).changes for _ in range(2)
    )
    assert one.text is other.text


def test_a_minute_is_one_sample() -> None:
    """Of its first decision: what is read meanwhile costs nothing."""
    times = [(60.0 + 5 * i, busy(60 + 5 * i, 2 + i, count=2)) for i in range(13)]

    first, second = recorded(times).samples
    assert (first.at, second.at) == (60.0, 120.0)
    assert (first.state, first.wanted, first.answering) == (State.ACTIVE, 2, 2)
    assert first.demand == 2.0
    assert first.values[Signal.QUEUE_DEPTH] == pytest.approx(3.0)  # 2 each, and 2 at the gateway
    assert second.demand == 14.0


def test_what_was_not_known_is_none_in_a_sample() -> None:
    """Never zero: neither a metric nor what the wake source says."""
    known = snapshot(replica("a", None), listed_at=0.0)

    (sample,) = recorded([(0.0, known)]).samples
    assert (sample.state, sample.reason) == (State.ACTIVE, Reason.HOLD)
    assert sample.demand is None
    assert set(sample.values.values()) == {None}


def test_minutes_without_a_decision_are_left_out() -> None:
    """A gap of minutes is a gap, one of hours is all that there is."""
    history = recorded([(0.0, busy(0)), (250.0, busy(250))])
    assert [sample.at for sample in history.samples] == [0.0, 250.0]

    recorded([(86_401.0, busy(86_401))], history)
    assert [sample.at for sample in history.samples] == [86_401.0]


def test_other_signals_begin_anew() -> None:
    """A reload may give a trigger other metrics; changes stay."""
    history = recorded([(0.0, busy(0))])
    other = trigger(targetConcurrency="4")
    history.record(*seen(busy(60), 60.0, other))

    assert [list(sample.values) for sample in history.samples] == [[Signal.CONCURRENCY]]
    assert len(history.changes) == 1


@given(st.lists(st.floats(0.1, 4000), min_size=1, max_size=80))
def test_samples_are_those_of_the_last_hour_in_order(steps: list[float]) -> None:
    """Whatever the pauses between decisions."""
    history, now, minutes = History(), 0.0, []
    for step in steps:
        now += step
        recorded([(now, busy(now))], history)
        minutes.append(math.floor(now / SAMPLE_SECONDS))

    expected = sorted(m for m in set(minutes) if m > minutes[-1] - MAX_SAMPLES)
    assert [math.floor(s.at / SAMPLE_SECONDS) for s in history.samples] == expected


def test_a_full_history_takes_about_two_kibibytes() -> None:
    """Five thousand of them take 11 MiB."""
    history = recorded((30.0 * i, busy(30 * i, i % 2)) for i in range(400))

    assert len(history.samples) == MAX_SAMPLES
    assert len(history.changes) == MAX_CHANGES
    assert history.size <= 2200


def test_more_replicas_than_a_sample_can_tell() -> None:
    """A made-up page may say a billion requests."""
    (sample,) = recorded([(0.0, busy(0, 1e9))]).samples

    assert sample.wanted == 0xFFFF


def test_what_a_target_is_compared_with() -> None:
    """The mean over replicas; of a latency over those that are ready; of a mean itself."""
    known = snapshot(replica("a"), replica("b"), replica("c", ready=False))

    def compared(signal: Signal, asks: Trigger = ASKS, known: Snapshot = known) -> float:
        return per_replica(View(asks, known, 0.0), signal, 6.0)

    assert compared(Signal.QUEUE_DEPTH) == 2.0
    assert compared(Signal.TTFT) == 3.0
    assert compared(Signal.QUEUE_DEPTH, trigger(metricType="Value")) == 6.0
    assert compared(Signal.QUEUE_DEPTH, known=snapshot()) == 6.0
    reports = parse_trigger({"engine": "reports"}, Accepts(reports=True))
    assert compared(Signal.QUEUE_DEPTH, reports) == 6.0
