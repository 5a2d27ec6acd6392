"""Exposition text to samples: the few wanted lines of a page, parsed.

A vLLM page has 591 lines, of which a handful matter. One regular expression per set of wanted names
runs over the page as it came: it passes over other lines at their first letters, and takes wanted
ones apart. So a page costs a fraction of what a whole parser costs (`benchmarks/parsing.py`), and a
line of no interest may be as broken as it likes.

Both formats are read by one grammar, that of the text format, which has more room for blanks. It
differs from prometheus_client's parsers, against which it is tested, on purpose:

- A number that is none (`-nan(ind)`, `1.#IND`, `0,5`) is NaN: its family is unknown, and the others
  are read.
- What follows the number must be a timestamp, or stand behind ` #` as OpenMetrics' exemplars do,
  which are not read.
- A page whose last line has no line feed was cut off: there may have been more of it.
- Label lists have no leading comma, and unquoted names in them no colon. A metric's name in quotes
  stands first, or the line is of no interest.
- Rules about families, such as rising buckets, are not the parser's to check.
"""

import math
import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from types import MappingProxyType

from keda_scaler.engines.samples import Sample
from keda_scaler.errors import PageError

MAX_SAMPLES = 10_000
"""Wanted lines of one page; a hundred models with a hundred data-parallel engines each."""

MAX_LINES = 250_000
"""Of one page. vLLM's lines have 85 bytes on average: 8 MiB of them are 100,000 lines."""

MAX_SERIES_BYTES = 4096
"""Name and labels of one wanted line; vLLM's have less than 100."""

_CACHED_SERIES = 4096
"""A vLLM replica has 69, and replicas of one model have the same."""

_CACHED_SERIES_BYTES = 512
"""Longer ones are parsed every time, so that hostile pages cannot fill more than some 40 MB."""

_OPEN_METRICS = "application/openmetrics-text"
_CONTENT_TYPES = ("text/plain", _OPEN_METRICS)

_END = re.compile(rb"(?:\A|\n)# EOF\r?\n?\Z")
_END_BYTES = len(b"\n# EOF\r\n")

_QUOTED = r'"[^"\\\n]*+(?:\\[^\n][^"\\\n]*+)*+"'
_BRACES = rf'[^"}}\n]*+(?:{_QUOTED}[^"}}\n]*+)*+\}}'
"""Everything up to the closing brace. Whether it is a list of labels is checked later."""

_BLANKS = r"[ \t]*+"
_NAME = r"[a-zA-Z_][a-zA-Z0-9_]*+"
_LABEL = rf'(?!"?__|"")({_NAME}|{_QUOTED}){_BLANKS}={_BLANKS}({_QUOTED})'  # __ is reserved
_LABELS = rf"(?:{_BLANKS}{_LABEL}{_BLANKS}(?:,|(?=\}})))*+{_BLANKS}"
_SERIES = re.compile(
    rf'(?P<name>[^ \t{{"]++){_BLANKS}(?:\{{(?P<labels>{_LABELS})\}})?+'
    rf'|\{{{_BLANKS}"(?P<quoted>[^"]++)"{_BLANKS}(?:,(?P<others>{_LABELS}))?+\}}'
)
_ONE_LABEL = re.compile(_LABEL)
_ESCAPE = re.compile(r'\\([\\"n])')
_TIMESTAMP = r"[-+]?\d++(?:\.\d*+)?+(?:[eE][-+]?\d++)?+"


def parse_page(
    body: bytes, content_type: str, names: Collection[str], at: float, dated: float | None = None
) -> tuple[Sample, ...]:
    """Parse the samples with the given names, measured at `at` (monotonic seconds).

    `dated` is the same instant by the page's own clock, in Unix seconds: a sample with an older
    timestamp was measured earlier by as much. None: timestamps are not looked at.

    A number that cannot be read is NaN. A series that stands twice gives two samples.

    Raises:
        PageError: when the body is not an exposition, or a wanted line of it cannot be read.

    """
    kind = content_type.partition(";")[0].strip().lower()
    _check(body, kind)
    ticks = 1.0 if kind == _OPEN_METRICS else 1000.0
    samples: list[Sample] = []
    for match in _wanted(frozenset(names)).finditer(b"\n" + body):
        series, text, stamp, unreadable = match.groups()
        if unreadable is not None:
            raise _error(match[0].strip())
        if len(samples) == MAX_SAMPLES:
            raise PageError(f"the page has more than {MAX_SAMPLES} wanted series")
        name, labels = _series(series) if len(series) <= _CACHED_SERIES_BYTES else _parsed(series)
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        age = 0.0 if stamp is None or dated is None else _age(float(stamp) / ticks, dated)
        samples.append(Sample(name, labels, number, at - age))
    return tuple(samples)


def _age(stamp: float, dated: float) -> float:
    """Say how old a sample was on a page, in seconds. One of the future is new, none is negative.

    A date has no parts of seconds, so that what was just measured may seem to be of the future.
    """
    return max(0.0, dated - max(0.0, stamp))


def _check(body: bytes, kind: str) -> None:
    """Refuse what is no page of metrics, or not all of one."""
    if body.startswith(b'"'):
        raise PageError("the page is one JSON string, not lines (llama.cpp b7010 to b7170 do that)")
    if kind and kind not in _CONTENT_TYPES:
        shown = kind[:60].encode("ascii", "replace").decode()
        raise PageError(f"the page is {shown}, not metrics")
    if kind == _OPEN_METRICS and not _END.search(body, max(0, len(body) - _END_BYTES)):
        raise PageError("the page was cut off: it does not end with # EOF")
    if body and not body.endswith((b"\n", b"# EOF")):
        raise PageError("the page was cut off: its last line does not end")
    if len(body) > MAX_LINES and body.count(b"\n") > MAX_LINES:
        raise PageError(f"the page has more than {MAX_LINES} lines")


@lru_cache(maxsize=64)
def _wanted(names: frozenset[str]) -> re.Pattern[bytes]:
    """Match lines with these names: the series, its number and timestamp; or the unreadable rest.

    Nothing here backtracks far: a page takes time in proportion to its length.
    """
    name = _any_of(names) if names else "(?!)"
    series = (
        rf"{name}(?![a-zA-Z0-9_:])(?:{_BLANKS}\{{{_BRACES})?+"
        rf'|\{{{_BLANKS}"{name}"(?:{_BRACES})?+'  # as in Prometheus 3: {"name", label="value"}
    )
    number = r'(?<=[} \t])([^ \t\r\n_{}"]++)'
    rest = rf"(?:[ \t]++({_TIMESTAMP}))?+(?:[ \t]++#[^\n]*+)?+[ \t\r]*+(?=\n)"
    return re.compile(rf"\n{_BLANKS}({series})(?:{_BLANKS}{number}{rest}|([^\n]*+))".encode())


def _any_of(names: Collection[str]) -> str:
    """Give a pattern for any of these names that tries what several begin with only once."""
    rests: dict[str, list[str]] = {}
    for name in sorted(names):
        rests.setdefault(name[:1], []).append(name[1:])
    is_whole = bool(rests.pop("", None))
    choices = [re.escape(first) + _any_of(rest) for first, rest in rests.items()]
    if len(choices) == 1 and not is_whole:
        return choices[0]
    return f"(?:{'|'.join(choices)}){'?' if is_whole else ''}" if choices else ""


def _parsed(text: bytes) -> tuple[str, Mapping[str, str]]:
    """Give the name and the labels of a series."""
    if len(text) > MAX_SERIES_BYTES:
        raise PageError(f"the page has a series of more than {MAX_SERIES_BYTES} bytes")
    try:
        match = _SERIES.fullmatch(text.decode())
    except UnicodeDecodeError:
        match = None
    if match is None:
        raise _error(text)
    found = _ONE_LABEL.findall(match["labels"] or match["others"] or "")
    labels = {_unquoted(label): _unquoted(value) for label, value in found}
    if len(labels) < len(found):
        raise _error(text)  # a label stands twice
    return match["name"] or match["quoted"], MappingProxyType(labels)


_series = lru_cache(maxsize=_CACHED_SERIES)(_parsed)
"""Pages repeat their series from poll to poll, and replicas repeat each other's."""


def _unquoted(text: str) -> str:
    """Take off quotes and escapes. Escapes that the formats do not have stay as they are."""
    if text[0] != '"':
        return text
    if "\\" not in text:
        return text[1:-1]
    return _ESCAPE.sub(lambda match: "\n" if match[1] == "n" else match[1], text[1:-1])


def _error(text: bytes) -> PageError:
    shown = text[:60].decode(errors="replace")
    return PageError(f"the page has a line that is not an exposition: {shown!r}")
