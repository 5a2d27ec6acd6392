"""KEDA's decision table, row by row."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_scaler.keda.scaling import (
    ACTIVE,
    COOLING_DOWN,
    INACTIVE,
    READY,
    TABLE,
    Condition,
    Situation,
    decide,
)

NOW = 10_000.7
LONG_AGO = NOW - 301


def situation(**more: Any) -> Situation:
    """Give an inactive workload of 3 whose cooldown is over, but for what is said."""
    usual = {
        "is_active": False,
        "is_error": False,
        "current": 3,
        "now": NOW,
        "created": 0.0,
        "last_active": LONG_AGO,
    }
    return Situation(**{**usual, **more})


T, F = True, False
TRIGGER_ERROR = Condition("False", "TriggerError")
PARTIAL = Condition("Unknown", "PartialTriggerError")
UNREADABLE = Condition("False", "ErrorGettingCurrentReplicas")

ROWS = [
    # what, row, replicas, Ready, Active, whether lastActiveTime becomes now
    ({"current": None}, 0, None, UNREADABLE, None, F),
    ({"paused": T, "is_active": T, "current": 0}, 1, None, None, None, F),
    ({"is_active": T, "minimum": 2, "idle": 0, "current": 0}, 2, 2, READY, ACTIVE, T),
    ({"is_active": T, "minimum": 2, "idle": 0, "current": 1}, 2, 2, READY, ACTIVE, T),
    (
        {"is_active": T, "is_error": T, "minimum": 2, "idle": 0, "current": 1},
        2,
        2,
        READY,
        ACTIVE,
        T,
    ),
    (
        {"is_active": T, "minimum": 2, "idle": 0, "current": 1, "paused_scale_out": T},
        *(2, None, READY, ACTIVE, F),
    ),
    ({"is_active": T, "current": 0}, 3, 1, READY, ACTIVE, T),
    ({"is_active": T, "current": 0, "minimum": 4}, 3, 4, READY, ACTIVE, T),
    ({"is_active": T, "is_error": T, "current": 0}, 3, 1, READY, ACTIVE, T),
    ({"is_active": T, "current": 0, "paused_scale_out": T}, 3, None, READY, ACTIVE, F),
    ({"force_activation": T, "current": 0}, 3, 1, READY, ACTIVE, T),
    ({"is_active": T, "is_error": T}, 4, None, PARTIAL, ACTIVE, F),
    ({"is_active": T}, 5, None, READY, ACTIVE, T),
    ({"force_activation": T}, 5, None, READY, ACTIVE, T),
    ({"is_error": T, "fallback_replicas": 2}, 6, None, READY, INACTIVE, F),
    ({"is_error": T}, 7, None, TRIGGER_ERROR, INACTIVE, F),
    ({}, 8, 0, READY, INACTIVE, F),
    ({"minimum": 2, "idle": 0}, 8, 0, READY, INACTIVE, F),
    ({"minimum": 3, "idle": 1}, 8, 1, READY, INACTIVE, F),
    ({"is_error": T, "fallback_replicas": 0}, 8, 0, READY, INACTIVE, F),
    ({"last_active": NOW - 299}, 8, None, READY, COOLING_DOWN, F),
    ({"paused_scale_in": T}, 8, None, READY, INACTIVE, F),
    ({"minimum": 5}, 9, 5, READY, INACTIVE, F),
    ({"minimum": 1, "current": 0, "last_active": NOW}, 9, 1, READY, INACTIVE, F),
    ({"minimum": 1}, 10, None, READY, INACTIVE, F),
    ({"current": 0}, 10, None, READY, INACTIVE, F),
    ({"minimum": 2, "idle": 0, "current": 0}, 10, None, READY, INACTIVE, F),
]


@pytest.mark.parametrize(
    ("what", "row", "replicas", "ready", "active", "renewed"),
    ROWS,
    ids=[f"{row[1]} {row[0]}" for row in ROWS],
)
def test_row(  # one column each
    what: dict[str, Any],
    row: int,
    replicas: int | None,
    ready: Condition | None,
    active: Condition | None,
    *,
    renewed: bool,
) -> None:
    """Each row holds for its condition, does its action, and sets its conditions."""
    decision = decide(situation(**what))
    assert (decision.row, decision.replicas) == (row, replicas)
    assert (decision.ready, decision.active) == (ready, active)
    assert decision.last_active == (10_000 if renewed else what.get("last_active", LONG_AGO))
    assert decision.words


def test_rows_are_complete_and_in_order() -> None:
    """The table has the rows 0 to 10, each tested above, and the last one always holds."""
    assert [row for row, _, _ in TABLE] == list(range(11)) == sorted({row[1] for row in ROWS})
    assert TABLE[-1][1](situation())


EXPANDED = [
    # active, error, min, idle, fallback.replicas, current -> replicas (None: left alone), row
    (T, F, 0, None, None, 0, 1, 3),
    (T, F, 0, None, 2, 0, 1, 3),
    (T, F, 0, None, None, 1, None, 5),
    (T, F, 2, 0, None, 0, 2, 2),
    (T, F, 2, 0, None, 1, 2, 2),
    (T, T, 0, None, None, 0, 1, 3),
    (T, T, 0, None, 0, 4, None, 4),
    (F, F, 0, None, 2, 4, 0, 8),
    (F, F, 0, None, None, 0, None, 10),
    (F, F, 1, None, None, 4, None, 10),
    (F, F, 1, None, None, 0, 1, 9),
    (F, F, 1, 0, None, 4, 0, 8),
    (F, T, 0, None, None, 4, None, 7),
    (F, T, 0, None, None, 0, None, 7),
    (F, T, 0, None, 2, 4, None, 6),
    (F, T, 0, None, 2, 0, None, 6),
    (F, T, 0, None, 0, 4, 0, 8),
    (F, T, 1, 0, 0, 4, 0, 8),
    (F, T, 1, None, None, 0, None, 7),  # row 7 comes before row 9
    (F, T, 1, None, 0, 0, 1, 9),
]


@pytest.mark.parametrize(
    ("active", "error", "minimum", "idle", "fallback", "current", "replicas", "row"), EXPANDED
)
def test_expanded_table(
    *,
    active: bool,
    error: bool,
    minimum: int,
    idle: int | None,
    fallback: int | None,
    current: int,
    replicas: int | None,
    row: int,
) -> None:
    """The usual shapes of model servers, with the cooldown over."""
    decision = decide(
        situation(
            is_active=active,
            is_error=error,
            minimum=minimum,
            idle=idle,
            fallback_replicas=fallback,
            current=current,
        )
    )
    assert (decision.replicas, decision.row) == (replicas, row)


@pytest.mark.parametrize(
    ("what", "sleeps"),
    [
        ({"last_active": NOW - 300}, False),  # only after it, not at it
        ({"last_active": NOW - 300.1}, True),
        ({"last_active": NOW, "cooldown": 0.0}, False),
        ({"last_active": NOW - 1, "cooldown": 0.0}, True),
        ({"last_active": None}, True),  # never active: the initial cooldown of 0 s is over
        ({"last_active": None, "created": NOW - 60, "initial_cooldown": 60.0}, False),
        ({"last_active": None, "created": NOW - 61, "initial_cooldown": 60.0}, True),
        ({"last_active": LONG_AGO, "initial_cooldown": 1e6}, True),  # it was active since
    ],
)
def test_cooldown(what: dict[str, Any], *, sleeps: bool) -> None:
    """Zero comes after the cooldown since the last activity, or the initial one since creation."""
    assert decide(situation(**what)).replicas == (0 if sleeps else None)


@pytest.mark.parametrize(
    ("window", "interval", "cooldown", "shortest", "longest"),
    [
        (0, 30, 300, 270, 300),
        (30, 30, 300, 300, 330),
        (0, 7, 300, 294, 301),
        (0, 15, 0, 0, 15),
        (60, 5, 60, 115, 120),
    ],
)
def test_total_idle_time_until_zero(
    window: int, interval: int, cooldown: int, shortest: int, longest: int
) -> None:
    """The scaler's own window adds to the cooldown: W + ceil(C/P) P - P < total <= W + ceil(C/P) P.

    R is the last request; polls are at 0.4 s past, because KEDA stores whole seconds.
    """
    for last_request in range(100, 100 + interval):
        last_active, now = None, 0.4
        while True:
            decision = decide(
                situation(
                    is_active=now <= last_request + window,
                    now=now,
                    cooldown=cooldown,
                    last_active=last_active,
                )
            )
            last_active = decision.last_active
            if decision.replicas == 0:
                break
            now += interval
        assert shortest < now - last_request <= longest


SITUATIONS = st.builds(
    Situation,
    is_active=st.booleans(),
    is_error=st.booleans(),
    current=st.none() | st.integers(0, 20),
    now=st.just(NOW),
    created=st.floats(0, NOW),
    last_active=st.none() | st.floats(0, NOW),
    minimum=st.integers(0, 5),
    idle=st.none() | st.integers(0, 5),
    fallback_replicas=st.none() | st.integers(0, 5),
    cooldown=st.floats(0, 600),
    initial_cooldown=st.floats(0, 600),
    paused=st.booleans(),
    paused_scale_in=st.booleans(),
    paused_scale_out=st.booleans(),
    force_activation=st.booleans(),
)


@given(SITUATIONS)
def test_every_situation_is_decided(s: Situation) -> None:
    """Some row always holds; an error without fallback never lowers; pausing means nothing."""
    decision = decide(s)
    assert 0 <= decision.row <= 10
    assert decision.replicas is None or decision.replicas >= 0
    if s.paused or s.current is None:
        assert decision.replicas is None
    elif s.counts_as_active or (s.is_error and s.fallback_replicas is None):
        assert decision.replicas is None or decision.replicas > s.current
