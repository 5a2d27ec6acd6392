"""docs/operations.md and docs/migrating.md: an alert leads to its section, and what is quoted is said."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
ALERTS: list[Any] = yaml.safe_load(
    (ROOT / "manifests" / "chart" / "keda-scaler" / "files" / "alerts.yaml").read_text()
)["groups"][0]["rules"]
HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)


def sections(text: str, level: int) -> dict[str, str]:
    """Give the text below every heading of a level, up to the next one of that level or above."""
    heads = [head for head in HEADING.finditer(text) if len(head[1]) <= level]
    ends = [head.start() for head in heads[1:]] + [len(text)]
    return {
        head[2]: text[head.end() : end].strip()
        for head, end in zip(heads, ends, strict=True)
        if len(head[1]) == level
    }


def test_every_alert_has_a_section_and_every_section_an_alert() -> None:
    """Whoever is called by an alert finds it, and nothing is explained that cannot fire."""
    explained = sections(sections(OPERATIONS, 2)["Alerts"], 3)

    assert list(explained) == [alert["alert"] for alert in ALERTS], "in the order of the file"
    assert all(explained.values())


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_a_runbook_leads_to_its_section(alert: Any) -> None:
    """The link that an alert carries is the anchor of its own heading."""
    assert alert["annotations"]["runbook"] == f"docs/operations.md#{alert['alert'].lower()}"
