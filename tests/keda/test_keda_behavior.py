"""How fast an HPA may go, without and with a behavior."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_scaler.keda.behavior import (
    DEFAULT_DOWN,
    DEFAULT_UP,
    Behavior,
    History,
    Policy,
    Rules,
    Wish,
    limit,
    with_change,
    with_recommendation,
)

NOW = 10_000.0
FREE = Behavior(DEFAULT_UP, Rules(DEFAULT_DOWN.policies))
"""The defaults without the stabilization of scaling in."""


@pytest.mark.parametrize(
    ("current", "desired", "replicas"),
    [(1, 50, 4), (2, 50, 4), (3, 50, 6), (10, 50, 20), (10, 15, 15), (60, 500, 100), (5, 0, 2)],
)
def test_without_behavior_one_sync_doubles_or_reaches_four(
    current: int, desired: int, replicas: int
) -> None:
    """An HPA without behavior at most doubles in a sync, but always reaches 4; bounds hold."""
    assert limit(Wish(current, desired, 2, 100), None, History(), NOW).replicas == replicas


@pytest.mark.parametrize(
    ("current", "desired", "replicas"),
    [(1, 50, 5), (4, 50, 8), (5, 50, 10), (10, 12, 12), (90, 200, 100), (10, 1, 2), (10, 9, 9)],
)
def test_default_policies(current: int, desired: int, replicas: int) -> None:
    """With a behavior of defaults: 4 pods or 100 % per 15 s up, 100 % per 15 s down."""
    assert limit(Wish(current, desired, 2, 100), FREE, History(), NOW).replicas == replicas


def up(*policies: Policy, **more: object) -> Behavior:
    """Give a behavior with these rules for scaling out."""
    return Behavior(Rules(policies, **more), FREE.down)  # type: ignore[arg-type]  # checked by Rules' users


def down(*policies: Policy, **more: object) -> Behavior:
    """Give a behavior with these rules for scaling in."""
    return Behavior(FREE.up, Rules(policies, **more))  # type: ignore[arg-type]  # as above


POD, HALF = Policy("Pods", 1, 60), Policy("Percent", 50, 60)


@pytest.mark.parametrize(
    ("behavior", "current", "desired", "replicas"),
    [
        (up(HALF), 3, 50, 5),  # ceil(4.5)
        (up(Policy("Percent", 10, 60)), 1, 50, 2),  # ceil(1.1): always makes progress
        (down(HALF), 5, 1, 2),  # int(2.5)
        (down(Policy("Percent", 10, 60)), 5, 1, 4),  # int(4.5)
        (down(Policy("Percent", 200, 60)), 5, 1, 1),
    ],
)
def test_percentages_round_up_and_down(
    behavior: Behavior, current: int, desired: int, replicas: int
) -> None:
    """A percentage rounds up on the way up and is truncated on the way down, as in Kubernetes."""
    assert limit(Wish(current, desired, 1, 100), behavior, History(), NOW).replicas == replicas


@pytest.mark.parametrize(
    ("behavior", "desired", "replicas"),
    [
        (up(POD, HALF, select="Max"), 50, 15),
        (up(POD, HALF, select="Min"), 50, 11),
        (up(POD, HALF, select="Disabled"), 50, 10),
        (down(POD, HALF, select="Max"), 1, 5),
        (down(POD, HALF, select="Min"), 1, 9),
        (down(POD, HALF, select="Disabled"), 1, 10),
    ],
)
def test_select_policy(behavior: Behavior, desired: int, replicas: int) -> None:
    """Max takes the policy of the largest change, Min that of the smallest, Disabled none."""
    assert limit(Wish(10, desired, 1, 100), behavior, History(), NOW).replicas == replicas


def test_changes_of_the_period_count() -> None:
    """What was added within the period is taken off what may still be added."""
    behavior = up(Policy("Pods", 4, 60))
    history = with_change(History(), 3, behavior, NOW - 59)
    assert limit(Wish(10, 50, 1, 100), behavior, history, NOW).replicas == 11
    assert limit(Wish(10, 50, 1, 100), behavior, history, NOW + 1).replicas == 14
    # Above the allowance is no reason to go back.
    history = with_change(history, 3, behavior, NOW)
    assert limit(Wish(13, 50, 1, 100), behavior, history, NOW).replicas == 13


def test_changes_the_other_way_count_against() -> None:
    """What was removed within the period may be added again, and the reverse."""
    behavior = Behavior(Rules((Policy("Pods", 2, 60),)), Rules((Policy("Pods", 2, 60),)))
    removed = with_change(History(), -2, behavior, NOW - 10)
    assert limit(Wish(8, 50, 1, 100), behavior, removed, NOW).replicas == 12
    added = with_change(History(), 2, behavior, NOW - 10)
    assert limit(Wish(12, 1, 1, 100), behavior, added, NOW).replicas == 8


@pytest.mark.parametrize(("age", "replicas"), [(299, 9), (300, 9), (301, 3)])
def test_scaling_in_waits_for_the_highest_recommendation(age: float, replicas: int) -> None:
    """Without a behavior the highest recommendation of 300 s holds, the 300th included."""
    history = History(recommended=((NOW - age, 9),))
    assert limit(Wish(10, 3, 1, 100), None, history, NOW).replicas == replicas


@pytest.mark.parametrize(("age", "replicas"), [(299, 9), (300, 3)])
def test_scaling_in_with_a_behavior_waits_too(age: float, replicas: int) -> None:
    """With a behavior the window is its own, and its end is exclusive."""
    history = History(recommended=((NOW - age, 9),))
    assert limit(Wish(10, 3, 1, 100), Behavior(), history, NOW).replicas == replicas


def test_scaling_out_waits_for_the_lowest_recommendation() -> None:
    """A window for scaling out takes the lowest recommendation in it."""
    behavior = up(*DEFAULT_UP.policies, stabilization_seconds=60)
    history = History(recommended=((NOW - 59, 12),))
    assert limit(Wish(10, 20, 1, 100), behavior, history, NOW).replicas == 12
    assert limit(Wish(10, 20, 1, 100), behavior, history, NOW + 1).replicas == 20


def test_a_limit_says_what_limited() -> None:
    """The reason names the rule, for the line that people read."""
    assert limit(Wish(10, 12, 1, 100), None, History(), NOW).reason is None
    assert limit(Wish(10, 50, 1, 100), None, History(), NOW).reason == "at most 20 in one sync"
    assert limit(Wish(10, 50, 1, 15), None, History(), NOW).reason == "at most 15 (maxReplicas)"
    assert limit(Wish(10, 1, 2, 15), None, History(), NOW).reason == "at least 2 (minReplicas)"
    reason = limit(Wish(10, 3, 1, 100), None, History(((NOW, 9),)), NOW).reason
    assert reason == "a recent recommendation was closer to the current count"
    assert limit(Wish(10, 1, 1, 15), down(POD), History(), NOW).reason == (
        "at least 9 now (behavior.scaleDown)"
    )
    assert limit(Wish(10, 15, 1, 15), up(POD), History(), NOW).reason == (
        "at most 11 now (behavior.scaleUp)"
    )
    assert limit(Wish(10, 1, 2, 15), FREE, History(), NOW).reason == "at least 2 (minReplicas)"
    assert limit(Wish(10, 20, 2, 15), FREE, History(), NOW).reason == "at most 15 (maxReplicas)"


def test_the_past_is_forgotten() -> None:
    """What no window or period reaches any more is dropped, so a history stays bounded."""
    history = History()
    for second in range(0, 2000, 15):
        history = with_recommendation(history, 3, Behavior(), float(second))
        history = with_change(history, 1 if second % 2 else -1, Behavior(), float(second))
    assert len(history.recommended) <= 300 / 15 + 1
    assert len(history.added) + len(history.removed) <= 2


def test_without_behavior_changes_are_not_remembered() -> None:
    """No rule asks for them."""
    assert with_change(History(), 3, None, NOW) == History()


RULES = st.builds(
    Rules,
    st.lists(
        st.builds(
            Policy,
            st.sampled_from(("Pods", "Percent")),
            st.integers(1, 300),
            st.integers(1, 1800),
        ),
        min_size=1,
        max_size=3,
    ).map(tuple),
    st.sampled_from(("Max", "Min", "Disabled")),
    st.integers(0, 3600),
)
PAST = st.lists(st.tuples(st.floats(NOW - 4000, NOW), st.integers(1, 50)), max_size=5).map(tuple)


@given(
    behavior=st.none() | st.builds(Behavior, RULES, RULES),
    history=st.builds(History, PAST, PAST, PAST),
    bounds=st.tuples(st.integers(1, 50), st.integers(1, 50)).map(sorted),
    current=st.integers(1, 50),
    desired=st.integers(0, 200),
)
def test_limits_keep_between_the_current_count_and_the_wish(
    *,
    behavior: Behavior | None,
    history: History,
    bounds: list[int],
    current: int,
    desired: int,
) -> None:
    """Whatever the rules: within the bounds, and never beyond the wish or away from it."""
    low, high = bounds
    current = min(max(current, low), high)  # other counts never get here
    replicas = limit(Wish(current, desired, low, high), behavior, history, NOW).replicas
    assert low <= replicas <= high
    if behavior is not None:
        wished = min(max(desired, low), high)
        assert min(current, wished) <= replicas <= max(current, wished)


@given(current=st.integers(1, 100), one=st.integers(0, 300), other=st.integers(0, 300))
def test_limits_are_monotone(current: int, one: int, other: int) -> None:
    """Who wishes for more gets no less."""
    for behavior in (None, Behavior(), FREE):
        less, more = (
            limit(Wish(current, wish, 1, 100), behavior, History(), NOW).replicas
            for wish in sorted((one, other))
        )
        assert less <= more
