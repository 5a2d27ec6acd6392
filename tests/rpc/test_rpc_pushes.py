"""What a stream says, and when: at one instant, by a clock of the test's."""

import math
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_scaler.core.decision import State
from keda_scaler.errors import TriggerError
from keda_scaler.pb import externalscaler_pb2 as pb
from keda_scaler.rpc.pushes import PUSH_SECONDS, ActivityPushes, SpecPushes

REPEAT_SECONDS = 5.0


class Target:
    """What a target's decision is, at the test's will."""

    def __init__(self) -> None:
        self.trigger = SimpleNamespace(push_repeat_seconds=REPEAT_SECONDS)
        self.closed = False
        self.state, self.is_short = State.IDLE, False

    def decision(self) -> SimpleNamespace:
        return SimpleNamespace(state=self.state, is_short=self.is_short)


def pushes_of(target: Target) -> ActivityPushes:
    substitute: Any = target
    return ActivityPushes(substitute)


def said(pushes: ActivityPushes, now: float) -> bool | None:
    message, _ = pushes.next(now)
    return None if message is None else message.result  # type: ignore[attr-defined]


def test_the_state_is_told_at_once_and_every_change() -> None:
    """Idle, then active, then idle: each once."""
    target = Target()
    pushes = pushes_of(target)
    assert said(pushes, 0) is False
    assert said(pushes, 10) is None
    target.state = State.ACTIVE
    assert said(pushes, 20) is True
    assert said(pushes, 30) is None
    target.state = State.IDLE
    assert said(pushes, 40) is False


def test_a_change_right_after_a_message_waits_for_its_second() -> None:
    """And says when to ask again."""
    target = Target()
    pushes = pushes_of(target)
    assert said(pushes, 7) is False
    target.state = State.ACTIVE
    assert pushes.next(7.25) == (None, 7 + PUSH_SECONDS)
    assert said(pushes, 7 + PUSH_SECONDS) is True


def test_active_is_repeated_while_fewer_replicas_serve_than_are_wanted() -> None:
    """Every pushRepeatSeconds, give or take a tenth; and at once when it was too long ago."""
    target = Target()
    target.state, target.is_short = State.ACTIVE, True
    pushes = pushes_of(target)
    message, again_at = pushes.next(0)
    assert message is not None
    assert 0.9 * REPEAT_SECONDS <= again_at <= 1.1 * REPEAT_SECONDS
    assert pushes.next(again_at - 0.01) == (None, again_at)
    assert said(pushes, again_at) is True

    target.is_short = False
    assert pushes.next(again_at + 60) == (None, math.inf)
    target.is_short = True
    assert said(pushes, again_at + 61) is True


def test_idle_is_never_repeated() -> None:
    """KEDA ignores it."""
    target = Target()
    target.is_short = True
    pushes = pushes_of(target)
    assert said(pushes, 0) is False
    assert pushes.next(1000) == (None, math.inf)


def test_unknown_is_silent_and_active_after_it_is_told_again() -> None:
    """KEDA may have forgotten."""
    target = Target()
    target.state = State.UNKNOWN
    pushes = pushes_of(target)
    assert pushes.next(0) == (None, math.inf)
    target.state = State.ACTIVE
    assert said(pushes, 1) is True
    target.state = State.UNKNOWN
    assert said(pushes, 2) is None
    target.state = State.ACTIVE
    assert said(pushes, 3) is True


def test_a_closed_target_has_nothing_more_to_say() -> None:
    """Its stream ends."""
    target = Target()
    assert not pushes_of(target).is_over
    target.closed = True
    assert pushes_of(target).is_over


@given(
    st.lists(
        st.tuples(
            st.floats(min_value=0, max_value=7),
            st.sampled_from(State),
            st.booleans(),
        ),
        max_size=60,
    )
)
def test_whatever_happens_messages_keep_their_distance_and_the_last_state_is_told(
    changes: list[tuple[float, State, bool]],
) -> None:
    """At most one a second, no state that is not; who asks when it was told to misses nothing."""
    target = Target()
    pushes = pushes_of(target)
    now, again_at, told = 0.0, 0.0, list[tuple[float, bool]]()

    def ask(at: float) -> float:
        message, next_at = pushes.next(at)
        if message is not None:
            assert message.result is (target.state is State.ACTIVE)  # type: ignore[attr-defined]
            told.append((at, message.result))  # type: ignore[attr-defined]
        assert next_at > at
        return next_at

    for seconds, state, is_short in changes:
        until = now + seconds
        while again_at <= until:
            now = max(now, again_at)
            again_at = ask(now)
        now = until
        target.state, target.is_short = state, is_short
        again_at = ask(now)
    while again_at < now + 2 * PUSH_SECONDS:
        again_at = ask(again_at)

    assert all(b - a >= PUSH_SECONDS - 1e-9 for (a, _), (b, _) in pairwise(told))
    if changes and target.state is not State.UNKNOWN:
        assert told[-1][1] is (target.state is State.ACTIVE)


def test_specs_are_told_when_they_are_new() -> None:
    """And what is wrong with the trigger ends the stream."""
    specs = pb.GetMetricSpecResponse(metricSpecs=[pb.MetricSpec(metricName="a")])
    found: list[pb.GetMetricSpecResponse | TriggerError] = [specs]

    def give() -> pb.GetMetricSpecResponse:
        if isinstance(found[0], TriggerError):
            raise found[0]
        return found[0]

    pushes = SpecPushes(give)
    assert pushes.next(0) == (specs, math.inf)
    assert pushes.next(1) == (None, math.inf)
    found[0] = pb.GetMetricSpecResponse(metricSpecs=[pb.MetricSpec(metricName="b")])
    assert pushes.next(1) == (found[0], math.inf)
    found[0] = TriggerError(["wrong"])
    with pytest.raises(TriggerError):
        pushes.next(2)
    assert not pushes.is_over
