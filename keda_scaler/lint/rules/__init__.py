"""All rules: pure functions of one subject, in tables. A rule has a reason, or is not here."""

import difflib
from collections.abc import Iterator

from keda_scaler.lint.findings import Hit, Rule, Severity
from keda_scaler.lint.rules import neighbours, scaling, sleeping, wiring
from keda_scaler.lint.subject import IGNORE, Subject


def _unknown_ignore(subject: Subject) -> Iterator[Hit]:
    for name in subject.ignored:
        if name not in BY_ID:
            near = difflib.get_close_matches(name[:80], BY_ID, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            yield Hit(f"metadata.annotations.{IGNORE}", f"no rule {name[:80]}{hint}", name[:80])


_IGNORING = Rule(
    "unknown-ignore",
    Severity.WARNING,
    "An annotation that names no rule ignores nothing.",
    "Give ids of this page, separated by commas.",
    _unknown_ignore,
    is_general=True,
)

GROUPS: dict[str, tuple[Rule, ...]] = {
    "What is refused, and wiring": (*wiring.RULES, _IGNORING, wiring.SCALED_JOB),
    "Sleeping and waking": sleeping.RULES,
    "Scaling": scaling.RULES,
    "What stands beside it": neighbours.RULES,
}
"""The rules, by what they are about."""

RULES = tuple(rule for rules in GROUPS.values() for rule in rules)
BY_ID = {rule.id: rule for rule in RULES}
