"""docs/reasons.md is what the table says, and the table says something of every reason."""

from pathlib import Path

import pytest

from keda_scaler.core.decision import Reason, State
from keda_scaler.core.reasons import REASONS, render

ROOT = Path(__file__).parents[2]


def test_the_document_is_up_to_date() -> None:
    """`tools/render-reasons` writes it anew."""
    written = (ROOT / "docs" / "reasons.md").read_text()

    assert written == render().rstrip("\n") + "\n", "run tools/render-reasons"


def test_every_reason_says_what_to_do() -> None:
    """Whoever is called at night reads it."""
    assert list(REASONS) == list(Reason)
    assert {state for meaning in REASONS.values() for state in meaning.states} == set(State)
    for meaning in REASONS.values():
        assert all(text.endswith(".") for text in (meaning.when, meaning.keda, meaning.to_do))


@pytest.mark.parametrize("reason", Reason)
def test_states_are_those_of_the_architecture(reason: Reason) -> None:
    """The two documents tell the same of each reason."""
    text = (ROOT / "docs" / "architecture.md").read_text()

    (row,) = (line for line in text.splitlines() if line.startswith(f"| `{reason}` |"))
    assert row.split("|")[2].strip() == REASONS[reason].states[0]
