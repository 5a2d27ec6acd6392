"""Rules and what they find."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from keda_scaler.lint.subject import Subject

DOCUMENT = "docs/lint.md"


class Severity(StrEnum):
    """How bad it is."""

    ERROR = "error"
    """It does not work, or does what nobody wants."""

    WARNING = "warning"
    """It works, and hurts sooner or later."""

    NOTE = "note"
    """Worth knowing; may be meant."""

    @property
    def rank(self) -> int:
        """0 for the worst."""
        return list(Severity).index(self)


@dataclass(frozen=True, slots=True)
class Hit:
    """One place where a rule does not hold."""

    path: str
    """The field, from the root of the object."""

    says: str
    """What is wrong there."""

    value: str | None = None
    """What is given; None: nothing is, or it is not to be shown."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What is looked for, and why."""

    id: str
    severity: Severity
    reason: str
    """Why it hurts; one sentence."""

    fix: str
    """What to do instead; one sentence. Both are Markdown, links relative to `docs`."""

    check: Callable[[Subject], Iterable[Hit]]
    is_general: bool = False
    """Whether it is also about ScaledObjects without a trigger of ours."""

    @property
    def link(self) -> str:
        """Where it is explained."""
        return f"{DOCUMENT}#{self.id}"


@dataclass(frozen=True, slots=True)
class Finding:
    """A hit, and where it is."""

    rule: Rule
    place: str
    line: int | None
    """From 1; None: in no file."""

    target: str
    """NAMESPACE/NAME."""

    hit: Hit
