"""What a check says. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

_SHOWN = 400
"""Characters of a text; most of them are foreign."""


class Status(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARN = "warn"
    """It works, and will not always, or not as one may think."""

    FAIL = "fail"
    SKIPPED = "skipped"
    """It could not be made, or there is nothing to look at."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor's."""

    name: str
    status: Status
    says: str
    """What was found."""

    then: str = ""
    """What to do next; empty: nothing."""

    models: Sequence[str] = field(default=(), kw_only=True)
    """Served models that were seen."""

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON; what is empty is left out."""
        given: Mapping[str, Any] = {
            "check": self.name,
            "status": self.status.value,
            "says": self.says,
            "then": self.then,
            "models": list(self.models),
        }
        return {key: value for key, value in given.items() if value}


def ok(name: str, says: str) -> Check:
    """Say that something is as it should be."""
    return Check(name, Status.OK, plain(says))


def warn(name: str, says: str, then: str) -> Check:
    """Say that something may go wrong."""
    return Check(name, Status.WARN, plain(says), plain(then))


def fail(name: str, says: str, then: str) -> Check:
    """Say that something is wrong."""
    return Check(name, Status.FAIL, plain(says), plain(then))


def skipped(name: str, says: str) -> Check:
    """Say why something was not looked at."""
    return Check(name, Status.SKIPPED, plain(says))


def plain(text: str) -> str:
    """Keep a foreign text from steering a terminal, and to one line."""
    shown = "".join(char if char.isprintable() else " " for char in text)
    words = " ".join(shown.split())
    return words if len(words) <= _SHOWN else words[: _SHOWN - 3] + "..."


def some(names: Iterable[str], most: int = 5) -> str:
    """List names, and say how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def exit_code(checks: Iterable[Check]) -> int:
    """0 when nothing failed, else 1."""
    return int(any(check.status is Status.FAIL for check in checks))
