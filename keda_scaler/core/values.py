"""Values of trigger keys: text to numbers, names, URLs and label matchers.

A parser raises ValueError with what is accepted; the caller adds the key and what was given.
"""

import re
from collections.abc import Collection
from ipaddress import ip_address
from typing import Any
from urllib.parse import SplitResult, urlsplit

from pydantic import BeforeValidator

from keda_scaler.core.promql import bind

MAX_ENDPOINTS = 64
"""Static endpoints in one trigger."""

MAX_PORTS = 64
"""Ports of one replica in one trigger."""

MAX_QUERY = 4096
"""Characters of a query in a trigger."""

MAX_URL = 2048
"""Characters of a URL in a trigger; replicas are told apart by it, in every answer about them."""

SHOWN = 80
"""Characters of a wrong value that an error repeats."""


def shown(given: Any) -> str:
    """Shorten a value for an error, without what may be secret: a URL's credentials and query."""
    bare, mark, query = str(given).partition("?")
    _, at, rest = bare.rpartition("@")
    if mark and "@" in query:
        return "..."  # which of the two it is, only the writer knows
    return f"{'...@' if at else ''}{rest[:SHOWN]}{'?...' if mark else ''}"


def without_query(url: str) -> str:
    """Shorten a URL for the log and for answers: its query may hold a token."""
    bare, mark, _ = url.partition("?")
    return f"{bare}?..." if mark else bare


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


def choice(*accepted: str) -> BeforeValidator:
    """Accept one of a few words."""

    def parse(raw: Any) -> str:
        if raw not in accepted:
            raise ValueError(one_of(accepted))
        return str(raw)

    return BeforeValidator(parse)


def one_of(accepted: Collection[str]) -> str:
    """Write a list of choices: `a, b or c`."""
    *others, last = accepted
    return f"{', '.join(others)} or {last}" if others else last


def parse_path(raw: Any) -> str:
    """Accept the path of a page, with or without a query."""
    given = str(raw).strip()
    if not given.startswith("/") or not _is_plain(given) or len(given) > 1024:
        raise ValueError("a path that starts with /, such as /metrics")
    return given


def _is_plain(given: str) -> bool:
    """Whether a text has no fragment, and nothing that URL parsers are known to disagree about."""
    return given.isascii() and given.isprintable() and not set(given) & set('# \\"<>')


_PORT = "the name of a port of the Service, or a number from 1 to 65535"


def parse_port(raw: Any) -> str:
    """Accept the name or the number of a port."""
    given = str(raw).strip()
    if not _is_port(given):
        raise ValueError(_PORT)
    return given


def _is_port(given: str) -> bool:
    if given.isdecimal():
        return len(given) <= 5 and 1 <= int(given) <= 65535
    is_name = not set(given) <= set("0123456789-") and not set(given) & set(", ")
    return is_name and len(given) <= 63


def parse_ports(raw: Any) -> str:
    """Accept one port, or those of all engines of one replica."""
    given = str(raw).strip()
    ports = ports_of(given)
    if len(ports) > MAX_PORTS or not all(map(_is_port, ports)):
        raise ValueError(f"{_PORT}; several with commas or as FIRST-LAST, at most {MAX_PORTS}")
    return given


def ports_of(given: str) -> tuple[str, ...]:
    """Give each port that a trigger's `port` names, once; of a range no more than one too many."""
    found: list[str] = []
    for part in given.split(","):
        span = _RANGE.fullmatch(part.strip())
        first, last = map(int, span.groups()) if span else (1, 0)
        if first <= last:
            found += map(str, range(first, min(last, first + MAX_PORTS) + 1))
        else:
            found.append(part.strip())
    return tuple(dict.fromkeys(found))


_RANGE = re.compile(r"([0-9]{1,5})\s*-\s*([0-9]{1,5})")


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
    if len(text) > MAX_URL:
        raise ValueError(f"URLs of at most {MAX_URL} characters")
    if not usable or not _is_plain(text) or "@" in url.netloc:
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
    parse_url(given)
    if "?" in given:  # an empty one too: what is asked stands behind it
        raise ValueError("the URL of a Prometheus, without a query")
    return given


def is_address(text: str) -> bool:
    """Whether a text is an IP address, in brackets or not."""
    try:
        ip_address(text.strip().strip("[]"))
    except ValueError:
        return False
    return True


def parse_wake_service(raw: Any) -> str:
    """Accept the name of a Service, alone or with its namespace, or an IP address."""
    given = str(raw).strip()
    if is_address(given):
        return str(ip_address(given.strip("[]")))
    if _SERVICE.fullmatch(given) and len(given) <= 253:
        return given
    raise ValueError("the name of a Service, NAME.NAMESPACE, or an IP address")


_SERVICE = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)?")


def parse_query(raw: Any) -> str:
    """Accept a PromQL query that gives numbers."""
    given = str(raw).strip()
    if not given or len(given) > MAX_QUERY:
        raise ValueError(f"PromQL of at most {MAX_QUERY} characters")
    bind(given, "any")
    return given
