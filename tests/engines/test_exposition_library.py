"""Pages to samples, beside prometheus_client's parsers."""

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    Exemplar,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.openmetrics.exposition import generate_latest as generate_open_metrics
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as families_of_open_metrics,
)
from prometheus_client.parser import text_string_to_metric_families as families_of_text
from prometheus_client.registry import CollectorRegistry

from keda_scaler.engines.exposition import parse_page
from keda_scaler.errors import PageError

CAPTURES = Path(__file__).parent.parent / "captures"
TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

WANTED = frozenset({"queue", "queue_total", "q:bucket", "_x"})
"""One begins with another."""

Plain = list[tuple[str, dict[str, str], str]]
"""Names, labels and numbers; these as text, so that NaN equals itself. -0 is 0."""


def ours(page: str, content_type: str = TEXT, names: Iterable[str] = WANTED) -> Plain:
    samples = parse_page(page.encode(), content_type, frozenset(names), at=7.0)
    return [(s.name, dict(s.labels), repr(s.number + 0.0)) for s in samples]


def theirs(families: Iterable[Metric], names: Iterable[str] = WANTED) -> Plain:
    return [
        (sample.name, sample.labels, repr(sample.value + 0.0))
        for family in families
        for sample in family.samples
        if sample.name in names
    ]


# Whole pages, as prometheus_client prints them

label_names = st.from_regex(r"[a-zA-Z][a-zA-Z0-9_]{0,5}", fullmatch=True).filter(
    lambda name: name != "le"
)
anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
tricky = st.text('"\\n\n\r\t{},= #\u2028\x85\x0b', max_size=8)
labels_of_a_series = st.dictionaries(label_names, anything | tricky, max_size=4)
numbers = st.floats() | st.integers(-(10**20), 10**20).map(float) | st.just(1e5)
timestamps = st.none() | st.integers(0, 2_000_000_000)


@st.composite
def gauges(draw: st.DrawFn, name: str) -> Metric:
    family = GaugeMetricFamily(name, draw(anything))
    at = draw(timestamps)
    for labels in draw(st.lists(labels_of_a_series, max_size=3, unique_by=repr)):
        family.add_sample(name, labels, draw(numbers), at)
    return family


@st.composite
def counters(draw: st.DrawFn, name: str) -> Metric:
    family = CounterMetricFamily(name, draw(anything))
    count = st.floats(0, allow_nan=False)
    exemplar = Exemplar({"trace": "} 9 # {,="}, draw(count)) if draw(st.booleans()) else None
    labels = draw(labels_of_a_series)
    family.add_sample(f"{name}_total", labels, draw(count), draw(timestamps), exemplar)
    return family


@st.composite
def histograms(draw: st.DrawFn, name: str) -> Metric:
    labels = draw(labels_of_a_series)
    family = HistogramMetricFamily(name, draw(anything), labels=list(labels))
    counts = sorted(draw(st.lists(st.integers(0, 1000), min_size=3, max_size=3)))
    buckets = list(zip(("0.1", "10.0", "+Inf"), map(float, counts), strict=True))
    family.add_metric(list(labels.values()), cast("Any", buckets), draw(st.floats(0, 1e9)))
    return family


@st.composite
def pages(draw: st.DrawFn) -> CollectorRegistry:
    families = [
        draw(family)
        for family in (gauges("noise"), gauges("queue"), counters("served"), histograms("wait"))
    ]
    return cast("CollectorRegistry", SimpleNamespace(collect=lambda: iter(families)))


NAMES = {"queue", "served_total", "wait_bucket", "wait_count"}


@given(pages())
def test_a_page_of_text_is_what_the_library_reads(page: CollectorRegistry) -> None:
    """All escapes, line separators within values, NaN and infinities, timestamps."""
    text = generate_latest(page).decode()

    assert ours(text, TEXT, NAMES) == theirs(families_of_text(text), NAMES)


@given(pages())
def test_a_page_of_open_metrics_is_what_the_library_reads(page: CollectorRegistry) -> None:
    """Exemplars, which may look like anything, and timestamps in seconds are passed over."""
    text = generate_open_metrics(page).decode()  # type: ignore[no-untyped-call]  # has no types
    families = families_of_open_metrics(text)  # type: ignore[no-untyped-call]  # has no types

    assert ours(text, OPEN_METRICS, NAMES) == theirs(families, NAMES)


@pytest.mark.parametrize("capture", sorted(path.name for path in CAPTURES.glob("*.prom")))
def test_recorded_pages_in_full(capture: str) -> None:
    """Every sample of a recorded page, not only those that we want."""
    text = (CAPTURES / capture).read_text()
    # Told that a family is a counter, the library adds _total where the page has none.
    untyped = "".join(line for line in text.splitlines(keepends=True) if line[0] != "#")
    families = list(families_of_text(untyped))
    names = {sample.name for family in families for sample in family.samples}

    assert ours(text, TEXT, names) == theirs(families, names)


# Single lines, with all the room that the text format leaves

blanks = st.text(" \t", max_size=2)
gaps = st.text(" \t", min_size=1, max_size=2)
escapes = st.sampled_from(
    ["\\\\", '\\"', "\\n", "\\t", "\\é", "{", "}", ",", "=", "#", " ", "\r", "\u2028"]
)
escaped = st.lists(
    escapes | st.characters(exclude_categories=["Cs"], exclude_characters='"\\\n'),
    max_size=6,
).map("".join)
spelled_numbers = st.sampled_from(
    [
        "0",
        "-0.0",
        "12",
        "+3",
        "1.",
        ".5",
        "1e5",
        "1E-3",
        "NaN",
        "nan",
        "+Inf",
        "-Inf",
        "inf",
        "1e999",
    ]
)


@st.composite
def lines(draw: st.DrawFn) -> str:
    name = draw(st.sampled_from([*sorted(WANTED), "queue_by_reason", "que"]))
    keys = draw(st.lists(label_names, max_size=3, unique=True))
    quoted = draw(st.booleans())
    parts = [f'"{name}"'] if quoted else []
    for key in keys:
        spelled = f'"{key}.{draw(escaped)}"' if draw(st.booleans()) else key
        parts.append(f'{spelled}{draw(blanks)}={draw(blanks)}"{draw(escaped)}"')
    inner = ",".join(f"{draw(blanks)}{part}{draw(blanks)}" for part in parts)
    inner += draw(st.sampled_from(["", ","])) if parts else ""
    series = "" if quoted else name
    has_empty_braces = draw(st.booleans())
    if parts or has_empty_braces:
        series += f"{'' if quoted else draw(blanks)}{{{inner}}}{draw(blanks)}"
    else:
        series += draw(gaps)
    stamp = draw(gaps) + draw(st.sampled_from(["0", "-1", "1700000000000"]))
    end = draw(st.sampled_from(["", stamp])) + draw(blanks) + draw(st.sampled_from(["", "\r"]))
    return f"{draw(blanks)}{series}{draw(spelled_numbers)}{end}\n"


@given(st.lists(lines(), max_size=4))
def test_lines_are_what_the_library_reads(page: list[str]) -> None:
    """Blanks anywhere, trailing commas, quoted names, escapes that do not exist, CRLF."""
    text = "".join(page)

    assert ours(text) == theirs(families_of_text(text))


@st.composite
def edited(draw: st.DrawFn) -> str:
    line = draw(lines()).strip()
    for _ in range(draw(st.integers(1, 2))):
        at, cut = draw(st.integers(0, len(line))), draw(st.integers(0, 2))
        line = line[:at] + draw(st.text(' \t{}",=\\_.:-1aq', max_size=2)) + line[at + cut :]
    return line + "\n"


@given(edited())
@example('queue{a="b"} 1 2 3\n')
@example("queue 1_0\n")
@example('queue {a="b 1\n')
@example('queue{a="1",a="2"} 1\n')
@example('queue{__name__="queue"} 1\n')
def test_nothing_is_read_that_the_library_rejects(line: str) -> None:
    """Of a damaged line comes what the library reads, or NaN, or an error; and never silence.

    But for one with its name in quotes and not at the start of the braces, which no format has.
    """
    try:
        expected = theirs(families_of_text(line))
    except (ValueError, IndexError):
        expected = []
    try:
        found = ours(line)
    except PageError:
        return
    if found or not line.lstrip().startswith("{"):
        assert found == expected or [number for *_, number in found] == ["nan"]
