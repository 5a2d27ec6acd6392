"""docs/lint.md is what the rules say, and what the documents show is clean."""

import re
from pathlib import Path
from typing import Any

import pytest

from keda_scaler.lint import catalogue
from keda_scaler.lint.findings import Severity
from keda_scaler.lint.rules import RULES
from lint_manifests import lint

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "manifests" / "examples").rglob("*.yaml"))
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
YAML_BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SCALED_OBJECT = re.compile(r"^kind: ScaledObject$", re.MULTILINE)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def shown() -> list[Any]:
    """Give every ScaledObject that users may copy."""
    texts = [(name_of(path), path.read_text()) for path in EXAMPLES]
    texts += [
        (f"{name_of(document)}-{number}", block)
        for document in DOCUMENTS
        for number, block in enumerate(YAML_BLOCK.findall(document.read_text()))
    ]
    return [pytest.param(text, id=name) for name, text in texts if SCALED_OBJECT.search(text)]


def test_the_document_is_up_to_date() -> None:
    """`tools/render-lint` writes it anew."""
    written = (ROOT / "docs" / "lint.md").read_text()

    assert written == catalogue.render().rstrip("\n") + "\n", "run tools/render-lint"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_every_rule_is_explained(rule: Any) -> None:
    """Under its anchor, in whole sentences."""
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", rule.id)
    assert f'<a id="{rule.id}"></a>`{rule.id}` | {rule.severity} | ' in catalogue.render()
    assert rule.reason.endswith(".")
    assert rule.fix.endswith(".")
    assert "|" not in rule.reason + rule.fix


@pytest.mark.parametrize("text", shown())
def test_what_users_copy_has_no_error_and_no_warning(text: str) -> None:
    """Examples follow our own advice."""
    findings = lint(text).findings

    assert not [(it.rule.id, it.hit) for it in findings if it.rule.severity is not Severity.NOTE]
