"""Label matchers, as PromQL writes them: taken apart once, written anew or applied by ourselves."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import promql_parser
import re2

MAX_SELECTOR = 1024
"""Characters of a selector."""

_OPERATORS = {"Equal": "=", "NotEqual": "!=", "Re": "=~", "NotRe": "!~"}
_ACCEPTED = 'label matchers such as job="vllm",cluster=~"a|b"'


@dataclass(frozen=True)
class Matcher:
    """One condition on one label."""

    name: str
    operator: str
    """One of `=`, `!=`, `=~` and `!~`."""

    value: str

    @property
    def promql(self) -> str:
        """Write it as PromQL does."""
        return f"{self.name}{self.operator}{quote(self.value)}"

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Apply it to the labels of a series; one that is absent is empty."""
        given = labels.get(self.name, "")
        if self.operator in {"=", "!="}:
            return (given == self.value) is (self.operator == "=")
        return (self._regex.fullmatch(given) is not None) is (self.operator == "=~")

    @cached_property
    def _regex(self) -> Any:
        """Compile with RE2, as Prometheus does: its time is linear, whatever a trigger says."""
        return _compile(self.value)


def _compile(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    return re2.compile(pattern, options)


def parse_matchers(
    raw: Any, reserved: frozenset[str] = frozenset({"__name__"})
) -> tuple[Matcher, ...]:
    """Take comma-separated label matchers apart.

    Raises:
        ValueError: with what is accepted; `reserved` labels are not.

    """
    given = str(raw).strip()
    if len(given) > MAX_SELECTOR:
        raise ValueError(f"{_ACCEPTED}; at most {MAX_SELECTOR} characters")
    try:
        parsed = promql_parser.parse(f"up{{{given}}}")
    except ValueError as error:
        raise ValueError(f"{_ACCEPTED} ({error})") from None
    if (
        not isinstance(parsed, promql_parser.VectorSelector)
        or parsed.offset is not None
        or parsed.at is not None
        or parsed.matchers.or_matchers
    ):
        raise ValueError(f"{_ACCEPTED}, joined by commas")
    matchers = []
    for matcher in parsed.matchers.matchers:
        if matcher.name in reserved:
            raise ValueError(f"{_ACCEPTED}; {matcher.name} is always set by the scaler")
        try:
            matchers.append(taken(matcher))
        except re2.error:
            raise ValueError(f"{_ACCEPTED}; {matcher.name} has no regular expression") from None
    return tuple(matchers)


def taken(matcher: promql_parser.Matcher) -> Matcher:
    """Take a matcher of the parser over.

    Raises:
        re2.error: when it has no regular expression that Prometheus takes.

    """
    operator = _OPERATORS[str(matcher.op).rpartition(".")[2]]
    _compile(matcher.value if operator in {"=~", "!~"} else "")
    return Matcher(matcher.name, operator, matcher.value)


def parse_selector(raw: Any) -> tuple[Matcher, ...]:
    """Take the label matchers of a target apart, whose namespace is none of its own choice."""
    return parse_matchers(raw, frozenset({"namespace", "__name__"}))


def quote(value: str) -> str:
    r"""Write a PromQL string: `a"b` becomes `"a\"b"`."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def any_of(names: Iterable[str]) -> str:
    r"""Write a PromQL string for `=~` that only these match: `a.b` and `c` become `"a\\.b|c"`."""
    return quote("|".join(map(_literal, sorted(names))))


def _literal(name: str) -> str:
    """Write a regular expression that only one text matches."""
    return "".join(re.escape(c) if c.isprintable() else f"\\x{{{ord(c):x}}}" for c in name)
