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

MAX_EXPRESSION_BYTES = 256 * 2**10
"""Memory of one regular expression; one that needs more is refused. What RE2 learns while it
matches is within this too, and is forgotten at the limit."""

TEXT = r"""#[^\r\n]*+|"(?:\\.|[^"\\])*+"|'(?:\\.|[^'\\])*+'|`[^`]*+`"""
"""A comment or a string of PromQL, as a regular expression with `re.DOTALL`."""

_MARK = "~\x01"
_MARKED = {"=": "=~", "!=": "!~"}
_PLAIN = {matching: plain for plain, matching in _MARKED.items()}
_IS_MARKED = re.compile(f'(!?=)"{_MARK}')
_MATCHING = re.compile(rf"""([=!]~)(?=(?:\s|#[^\r\n]*+)*+["'`])|{TEXT}""", re.DOTALL)

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


def plain(promql: str) -> str:
    """Write regular expressions as texts with a mark.

    The parser would compile each of them, and takes seconds for some: what it parses is this.

    Raises:
        ValueError: where the parser sees the end of a string elsewhere than Prometheus does.

    """
    is_next = False

    def mark(found: re.Match[str]) -> str:
        nonlocal is_next
        token = found[0]
        if found[1]:
            is_next = True
            return _PLAIN[token]
        if token[0] == "`" and token[-2] == "\\":
            raise ValueError("a backslash before the end of a string in backticks")
        if token[0] == "#" or not is_next:
            return token
        is_next = False
        return token[0] + _MARK + token[1:]

    return _MATCHING.sub(mark, promql)


def unplain(promql: str) -> str:
    """Write texts with a mark as the regular expressions that they were, in what is printed."""
    return _IS_MARKED.sub(lambda found: f'{_MARKED[found[1]]}"', promql)


def _compile(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = MAX_EXPRESSION_BYTES
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
        parsed = promql_parser.parse(plain(f"up{{{given}}}"))
    except ValueError as error:
        raise ValueError(f"{_ACCEPTED} ({unplain(str(error))})") from None
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
    """Take a matcher of the parser over, also one that is marked by `plain`.

    Raises:
        re2.error: when it has no regular expression that Prometheus takes.

    """
    operator = _OPERATORS[str(matcher.op).rpartition(".")[2]]
    value = matcher.value
    if value.startswith(_MARK):
        operator, value = _MARKED[operator], value.removeprefix(_MARK)
    _compile(value if operator in {"=~", "!~"} else "")
    return Matcher(matcher.name, operator, value)


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
