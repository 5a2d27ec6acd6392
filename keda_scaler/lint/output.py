"""How findings are said: as text, as JSON and as SARIF 2.1.0."""

import re
from typing import Any
from urllib.parse import quote

from rich.text import Text

from keda_scaler import __version__
from keda_scaler.lint.check import Result
from keda_scaler.lint.findings import Finding, Severity
from keda_scaler.lint.rules import RULES

SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"

_COLOURS = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}
_LINK = r"\[[^\]]+\]\(([^)]+)\)"


def to_text(result: Result) -> Text:
    """Write findings, three lines each, and a summary."""
    text = Text()
    for finding in result.findings:
        severity = finding.rule.severity
        text.append(f"{_where(finding)}: ")
        text.append(severity.value, _COLOURS[severity])
        text.append(f": {finding.rule.id}: ", "bold")
        text.append(f"{_said(finding)}\n")
        text.append(f"    {without_markup(finding.rule.reason)}\n", "dim")
        text.append(f"    {without_markup(finding.rule.fix)} See {finding.rule.link}\n", "dim")
    text.append(summary(result))
    return text


def summary(result: Result) -> str:
    """Count what was found."""
    counts = [_counted(result.count(severity), severity.value) for severity in Severity]
    of = _counted(result.scaled_objects, "ScaledObject")
    ignored = f"; {result.ignored} ignored by annotation" if result.ignored else ""
    return f"{', '.join(counts)} in {of}{ignored}"


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _where(finding: Finding) -> str:
    line = "" if finding.line is None else f":{finding.line}"
    return f"{finding.place}{line}: {finding.target}"


def _said(finding: Finding) -> str:
    value = "" if finding.hit.value is None else f" = {finding.hit.value}"
    return f"{finding.hit.path}{value}: {finding.hit.says}"


def without_markup(markdown: str) -> str:
    """Give Markdown of a rule as plain text, its links as what they lead to."""
    linked = re.sub(f": {_LINK}", r" (docs/\1)", markdown)
    return re.sub(_LINK, r"docs/\1", linked).replace("`", "")


def to_json(result: Result) -> dict[str, Any]:
    """Give one JSON document."""
    return {
        "findings": [
            {
                "rule": finding.rule.id,
                "severity": finding.rule.severity.value,
                "file": finding.place,
                "line": finding.line,
                "scaledObject": finding.target,
                "path": finding.hit.path,
                "value": finding.hit.value,
                "message": finding.hit.says,
                "reason": without_markup(finding.rule.reason),
                "fix": without_markup(finding.rule.fix),
                "docs": finding.rule.link,
            }
            for finding in result.findings
        ],
        "summary": {
            "scaledObjects": result.scaled_objects,
            "ignored": result.ignored,
            **{f"{severity}s": result.count(severity) for severity in Severity},
        },
    }


def to_sarif(result: Result) -> dict[str, Any]:
    """Give a SARIF log of one run; rules that found nothing are in it too."""
    index = {rule.id: number for number, rule in enumerate(RULES)}
    rules = [
        {
            "id": rule.id,
            "shortDescription": {"text": without_markup(rule.reason)},
            "help": {"text": f"{without_markup(rule.fix)} See {rule.link}"},
            "defaultConfiguration": {"level": rule.severity.value},
        }
        for rule in RULES
    ]
    driver = {"name": "keda-scaler lint", "version": __version__, "rules": rules}
    results = [
        {
            "ruleId": finding.rule.id,
            "ruleIndex": index[finding.rule.id],
            "level": finding.rule.severity.value,
            "message": {"text": f"{_said(finding)}. {without_markup(finding.rule.fix)}"},
            "locations": [_location(finding)],
        }
        for finding in result.findings
    ]
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return {"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}


def _location(finding: Finding) -> dict[str, Any]:
    name = f"{finding.target}/{finding.hit.path}"
    location: dict[str, Any] = {"logicalLocations": [{"fullyQualifiedName": name}]}
    if finding.line is not None:
        location["physicalLocation"] = {
            "artifactLocation": {"uri": quote(finding.place.removeprefix("./"))},
            "region": {"startLine": finding.line},
        }
    return location
