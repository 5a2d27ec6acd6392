"""All rules over all ScaledObjects of an input. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from keda_scaler.core.words import plain
from keda_scaler.keda.secrets import is_secret
from keda_scaler.lint.documents import Document
from keda_scaler.lint.findings import Finding, Hit, Rule, Severity
from keda_scaler.lint.rules import RULES
from keda_scaler.lint.rules.wiring import SCALED_JOB
from keda_scaler.lint.subject import Neighbours, Subject, subject_of


@dataclass(frozen=True, slots=True)
class Result:
    """What a run found."""

    findings: tuple[Finding, ...]
    """By place and line, the worst first."""

    scaled_objects: int
    """How many were looked at."""

    ignored: int
    """Findings that annotations switch off."""

    def count(self, severity: Severity) -> int:
        """Count the findings of one severity."""
        return sum(finding.rule.severity is severity for finding in self.findings)

    def reaches(self, severity: Severity) -> bool:
        """Whether anything is as bad as that, or worse."""
        return any(finding.rule.severity.rank <= severity.rank for finding in self.findings)


def check(documents: Sequence[Document]) -> Result:
    """Look at every ScaledObject.

    Raises:
        ScaledObjectError: when one is too large.

    """
    neighbours = Neighbours.of(documents)
    findings: list[Finding] = []
    seen = ignored = 0
    for document in documents:
        if document.kind == "ScaledJob":
            target = f"{document.namespace}/{document.name}"
            findings.append(_finding(SCALED_JOB, document, target, Hit("kind", "not looked at")))
        elif document.kind == "ScaledObject":
            seen += 1
            subject = subject_of(document, neighbours)
            found = list(_check_one(subject))
            kept = [finding for finding in found if finding.rule.id not in subject.ignored]
            ignored += len(found) - len(kept)
            findings += kept
    places = {place: at for at, place in enumerate(dict.fromkeys(d.place for d in documents))}
    findings.sort(key=lambda it: (places[it.place], it.line or 0, it.rule.severity.rank))
    return Result(tuple(findings), seen, ignored)


def _check_one(subject: Subject) -> Iterable[Finding]:
    for rule in RULES:
        if subject.ours or rule.is_general:
            for hit in rule.check(subject):
                yield _finding(rule, subject.document, subject.target, hit)


def _finding(rule: Rule, document: Document, target: str, hit: Hit) -> Finding:
    hidden = hit.value is None or is_secret(hit.path, hit.value)
    shown = None if hidden or hit.value is None else _plain(hit.value)
    line = document.line_of(hit.path)
    hit = Hit(_plain(hit.path), _plain(hit.says), shown)
    return Finding(rule, document.place, line, _plain(target), hit)


def _plain(text: str) -> str:
    """Make a text of the input fit for one line of a terminal."""
    return plain(text[:400])
