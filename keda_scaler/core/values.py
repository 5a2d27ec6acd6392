"""Values of trigger keys: text to numbers, names, URLs and label matchers.

A parser raises ValueError with what is accepted; the caller adds the key and what was given.
"""

from collections.abc import Collection
from typing import Any
from urllib.parse import SplitResult, urlsplit

import promql_parser
from pydantic import BeforeValidator

MAX_ENDPOINTS = 64
"""Static endpoints in one trigger."""

SHOWN = 80
"""Characters of a wrong value that an error repeats."""


def number(low: float, high: float, what: str) -> BeforeValidator:
    """Accept a finite number between the bounds, which are included."""
    accepted = f"{what} from {low:g} to {high:g}"

    def parse(raw: Any) -> float:
        try:
            parsed = float(raw)
        except (TypeError, ValueError):
            raise ValueError(accepted) from None
        if not low <= parsed <= high:  # NaN is not
            raise ValueError(accepted)
        return parsed

    return BeforeValidator(parse)


def ratio(low: float) -> BeforeValidator:
    """Accept a ratio up to 1, written as a ratio or in percent; it becomes a ratio."""
    accepted = f"a ratio from {low:g} to 1, or a percentage such as 85%"

    def parse(raw: Any) -> float:
        given = str(raw).strip()
        try:
            parsed = float(given[:-1]) / 100 if given.endswith("%") else float(given)
        except ValueError:
            raise ValueError(accepted) from None
        if not low <= parsed <= 1:
            raise ValueError(accepted)
        return parsed

    return BeforeValidator(parse)


def text(accepted: str, *, longest: int = 253) -> BeforeValidator:
    """Accept a text that is neither empty nor too long."""

    def parse(raw: Any) -> str:
        given = str(raw).strip()
        if not given or len(given) > longest:
            raise ValueError(accepted)
        return given

    return BeforeValidator(parse)


def choice(*accepted: str, not_yet: Collection[str] = ()) -> BeforeValidator:
    """Accept one of a few words; name those of the public contract that this version lacks."""

    def parse(raw: Any) -> str:
        if raw in not_yet:
            raise ValueError(f"{one_of(accepted)} ({raw} is not supported yet)")
        if raw not in accepted:
            raise ValueError(one_of(accepted))
        return str(raw)

    return BeforeValidator(parse)


def one_of(accepted: Collection[str]) -> str:
    """Write a list of choices: `a, b or c`."""
    return ", ".join(list(accepted)[:-1]) + " or " + list(accepted)[-1]


def parse_path(raw: Any) -> str:
    """Accept the path of a page, with or without a query."""
    given = str(raw).strip()
    if not given.startswith("/") or not _is_plain(given) or "#" in given or len(given) > 1024:
        raise ValueError("a path that starts with /, such as /metrics")
    return given


def _is_plain(given: str) -> bool:
    """Whether a text has nothing in it that URL parsers are known to disagree about."""
    return given.isascii() and given.isprintable() and not set(given) & set(' \\"<>')


def parse_port(raw: Any) -> str:
    """Accept the name or the number of a port."""
    given = str(raw).strip()
    if given.isdecimal():
        if 1 <= int(given) <= 65535:
            return given
    elif given and len(given) <= 63:
        return given
    raise ValueError("the name of a port of the Service, or a number from 1 to 65535")


def parse_url(text: str) -> SplitResult:
    """Take an http or https URL apart.

    Raises:
        ValueError: when it is not one, or carries credentials.

    """
    try:
        url = urlsplit(text)
        usable = url.scheme in {"http", "https"} and url.hostname and url.port != 0
    except ValueError:
        usable = False
    if not usable or not _is_plain(text) or url.username or url.password or url.fragment:
        raise ValueError("http or https URLs without credentials")
    return url


def parse_endpoints(raw: Any) -> tuple[str, ...]:
    """Accept a comma-separated list of URLs; one that stands twice counts once."""
    urls = tuple(dict.fromkeys(part.strip() for part in str(raw).split(",") if part.strip()))
    if not urls or len(urls) > MAX_ENDPOINTS:
        raise ValueError(f"1 to {MAX_ENDPOINTS} comma-separated URLs")
    for url in urls:
        parse_url(url)
    return urls


def parse_server_address(raw: Any) -> str:
    """Accept the URL of a Prometheus, and cut the slash at its end off."""
    given = str(raw).strip().rstrip("/")
    if parse_url(given).query:
        raise ValueError("the URL of a Prometheus, without a query")
    return given


_MATCH_OPERATORS = {"Equal": "=", "NotEqual": "!=", "Re": "=~", "NotRe": "!~"}


def parse_selector(raw: Any) -> tuple[str, ...]:
    """Take label matchers apart and write them anew: a query never holds a trigger's own text."""
    accepted = 'label matchers such as job="vllm",cluster=~"a|b"'
    given = str(raw).strip()
    if len(given) > 1024:
        raise ValueError(f"{accepted}; at most 1024 characters")
    try:
        parsed = promql_parser.parse(f"up{{{given}}}")
    except ValueError as error:
        raise ValueError(f"{accepted} ({error})") from None
    if (
        not isinstance(parsed, promql_parser.VectorSelector)
        or parsed.offset is not None
        or parsed.at is not None
        or parsed.matchers.or_matchers
    ):
        raise ValueError(f"{accepted}, joined by commas")
    matchers = []
    for matcher in parsed.matchers.matchers:
        if matcher.name in {"namespace", "__name__"}:
            raise ValueError(f"{accepted}; {matcher.name} is always set by the scaler")
        operator = _MATCH_OPERATORS[str(matcher.op).rpartition(".")[2]]
        matchers.append(f"{matcher.name}{operator}{quote(matcher.value)}")
    return tuple(matchers)


def quote(value: str) -> str:
    r"""Write a PromQL string: `a"b` becomes `"a\"b"`."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
