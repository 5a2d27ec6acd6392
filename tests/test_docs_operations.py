"""docs/operations.md and docs/migrating.md: alerts lead to sections, and what is quoted is said."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from keda_scaler.core.trigger import Accepts, parse_trigger

ROOT = Path(__file__).parent.parent
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
MIGRATING = (ROOT / "docs" / "migrating.md").read_text()
ALERTS: list[Any] = yaml.safe_load(
    (ROOT / "manifests" / "chart" / "keda-scaler" / "files" / "alerts.yaml").read_text()
)["groups"][0]["rules"]
OF_PROMETHEUS_TRIGGER = {
    *("serverAddress", "query", "queryParameters", "threshold", "activationThreshold"),
    *("namespace", "customHeaders", "ignoreNullValues", "unsafeSsl", "timeout", "authModes"),
    *("awsRegion", "identityOwner"),
}
"""The metadata of KEDA's prometheus trigger, by `prometheusMetadata` in its source."""

TELLING = 10
"""Characters that a text with values in it must have beside them, to be told from others."""

YAML_BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.DOTALL | re.MULTILINE)
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


def said() -> Iterator[re.Pattern[str]]:
    """Give a pattern for every text in the package; what is put into it may be anything."""
    for path in sorted((ROOT / "keda_scaler").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant):
                yield re.compile(re.escape(str(node.value)))
            elif isinstance(node, ast.JoinedStr):
                texts = [str(n.value) if isinstance(n, ast.Constant) else "" for n in node.values]
                if len("".join(texts)) >= TELLING:
                    yield re.compile("".join(re.escape(text) or ".*" for text in texts))


def test_messages_of_ours_are_said() -> None:
    """Whoever searches the page for a text that the scaler says finds it."""
    tables = re.findall(r"^\| (?:text|reason) \| .*\n.*\n((?:\|.*\n)+)", OPERATIONS, re.MULTILINE)
    firsts = [row.split(" | ")[0] for row in "".join(tables).splitlines()]
    quoted = {text for first in firsts for text in re.findall(r"`([^`]+)`", first)}
    patterns = list(said())

    assert len(quoted) > 10
    assert not {text for text in quoted if not any(each.fullmatch(text) for each in patterns)}


def test_every_field_of_kedas_prometheus_trigger_has_a_row() -> None:
    """Whoever translates a trigger field by field misses none."""
    table = sections(MIGRATING, 2)["From KEDA's prometheus trigger"]
    named = {
        field
        for row in re.findall(r"^\| (`.+?) \| ", table, re.MULTILINE)
        for field in re.findall(r"`(\w+)", row)
    }

    assert not OF_PROMETHEUS_TRIGGER - named


def test_the_trigger_after_has_the_numbers_of_the_one_before() -> None:
    """The pair scales alike; that the second one is taken is tested in test_manifests.py."""
    text = sections(MIGRATING, 2)["From KEDA's prometheus trigger"]
    before, after = map(
        yaml.safe_load, re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    )
    (ours,) = after["spec"].pop("triggers")
    theirs = before["spec"].pop("triggers")

    assert before == after
    trigger = parse_trigger(ours["metadata"], Accepts(frozenset({"main"})))
    assert {float(each["metadata"]["threshold"]) for each in theirs} == {
        metric.target for metric in trigger.metrics
    }
