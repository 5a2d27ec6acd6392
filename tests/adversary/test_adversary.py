"""Random worlds against the two invariants: pods, pages, rollouts, restarts, KEDA and the HPA.

`ADVERSARY_WORLDS` says how many; `make fuzz` plays thousands. A seed that ever failed is kept.
"""

import os
from collections.abc import Callable
from typing import Any

import pytest

from adversary_draw import draw
from adversary_play import Play
from keda_scaler.core import decision, demand
from keda_scaler.core.decision import Reason, State

WORLDS = int(os.environ.get("ADVERSARY_WORLDS", "40"))
PARTS = 4
"""Tests that share them, to be run at the same time."""

FAILED_ONCE = (120, 153, 174, 244, 311, 328, 378, 389, 390, 405, 606, 673, 893)
"""Seeds of worlds in which the scaler was wrong once."""

ENOUGH = 60
"""Worlds in which a scaler that is wrong is found out."""


def faults(seed: int) -> str:
    """Play the world of a seed, and write down what went wrong; empty: nothing."""
    plan = draw(seed)
    played = Play(plan).run()
    if not played.faults:
        return ""
    traced = Play(plan, traced=True).run()
    return "\n".join([f"seed {seed}", *map(str, traced.faults), *plan.lines(), *traced.trace])


@pytest.mark.timeout(0)
@pytest.mark.parametrize("part", range(PARTS))
def test_no_world_makes_it_wrong(part: int) -> None:
    """Nothing unknown scales work away, and no value asks for more while work does not grow."""
    for seed in (*FAILED_ONCE, *range(WORLDS))[part::PARTS]:
        found = faults(seed)
        assert not found, found


def _counts_missing_as_at_target(*args: Any) -> Any:
    metric, *_, found = args
    missing = found.told + found.awaited - found.known
    return demand.Report(found.low + missing * metric.target)


def _takes_unknown_for_idle(*_: Any) -> Any:
    return State.IDLE, Reason.PROVEN_IDLE, "nothing is known"


@pytest.mark.parametrize(
    ("module", "name", "wrong"),
    [
        (demand, "_in_spite_of", _counts_missing_as_at_target),
        (decision, "_unknown", _takes_unknown_for_idle),
    ],
)
def test_a_scaler_that_is_wrong_is_found_out(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, wrong: Callable[..., Any]
) -> None:
    """The adversary is strong enough: old faults of ours do not get past it."""
    monkeypatch.setattr(module, name, wrong)

    assert any(Play(draw(seed)).run().faults for seed in range(ENOUGH))
