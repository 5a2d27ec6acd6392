"""Pages to samples: formats, numbers, what is broken, what is hostile."""

import contextlib
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

import pytest

from keda_scaler.engines.exposition import (
    MAX_LINES,
    MAX_SAMPLES,
    MAX_SERIES_BYTES,
    parse_page,
)
from keda_scaler.errors import PageError

CASES = Path(__file__).parent.parent / "cases"
TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

WANTED = frozenset({"queue", "queue_total", "q:bucket"})
"""One begins with another."""

Plain = list[tuple[str, dict[str, str], str]]
"""Names, labels and numbers; these as text, so that NaN equals itself."""


def ours(page: str | bytes, content_type: str = TEXT, names: Iterable[str] = WANTED) -> Plain:
    body = page if isinstance(page, bytes) else page.encode()
    samples = parse_page(body, content_type, frozenset(names), at=7.0)
    return [(s.name, dict(s.labels), repr(s.number)) for s in samples]


# Numbers, and what follows them


@pytest.mark.parametrize("stamp", ["", " 1700000000", " 1700000000.123", "\t-1e3"])
@pytest.mark.parametrize("exemplar", ["", ' # {a="\\"} 9"} 0.5 1.5', " # {", " #"])
def test_timestamps_and_exemplars_do_not_change_the_number(stamp: str, exemplar: str) -> None:
    """Neither does, whatever it looks like."""
    page = f'queue{{a="b"}} 1{stamp}{exemplar}\n'

    assert ours(page) == ours(f"{page}# EOF\n", OPEN_METRICS) == [("queue", {"a": "b"}, "1.0")]


@pytest.mark.parametrize(
    "spelled",
    ["-nan(ind)", "1.#IND", "-nan", "nan(snan)", "0,5", "<nil>", "null", "0x1p3", "1e", "\u0661"],
)
def test_a_number_that_is_none_is_nan(spelled: str) -> None:
    """It costs its own family, not the page."""
    page = f'queue{{a="b"}} {spelled}\nq:bucket 2\n'

    assert ours(page) == [("queue", {"a": "b"}, "nan"), ("q:bucket", {}, "2.0")]


def test_a_series_that_stands_twice_gives_two_samples() -> None:
    """What that means is for the dialect to say."""
    assert ours('queue{a="b"} 1\nqueue{a="b"} 1\n') == [("queue", {"a": "b"}, "1.0")] * 2


@pytest.mark.parametrize(
    ("content_type", "stamp", "age"),
    [
        (TEXT, "1700000000000", 0),
        (TEXT, "1699999940000", 60),
        (TEXT, "1699999999500", 0.5),
        (TEXT, "1700000002000", 0),
        (TEXT, "1e999", 0),
        (TEXT, "-1e999", 1.7e9),
        (TEXT, "0", 1.7e9),
        (OPEN_METRICS, "1699999940", 60),
        (OPEN_METRICS, "1699999999.5", 0.5),
        (OPEN_METRICS, "1700000000.9", 0),
    ],
)
def test_a_sample_is_as_old_as_its_timestamp_says(
    content_type: str, stamp: str, age: float
) -> None:
    """By the page's own clock, in whose seconds it is dated; what is of its future is new."""
    page = f"queue 1 {stamp}\nqueue_total 2\n# EOF\n".encode()

    old, new = parse_page(page, content_type, WANTED, at=7.0, dated=1.7e9)
    assert (old.at, new.at) == (7.0 - age, 7.0)
    undated, _ = parse_page(page, content_type, WANTED, at=7.0)
    assert undated.at == 7.0, "whoever has no date compares nothing"


def test_labels_cannot_be_changed() -> None:
    """They are shared with other samples of the same series."""
    (sample,) = parse_page(b'queue{a="b"} 1\n', TEXT, WANTED, at=7.0)

    with pytest.raises(TypeError):
        cast("dict[str, str]", sample.labels)["a"] = "c"


# What a page may be


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "Text/Plain;version=1.0.0", "text/plain; charset=utf-8", ";"]
)
def test_text_needs_no_end(content_type: str) -> None:
    """A page without a type is text."""
    assert ours("queue 1\n", content_type) == [("queue", {}, "1.0")]


@pytest.mark.parametrize("end", ["# EOF", "# EOF\n", "# EOF\r\n"])
def test_open_metrics_ends_with_its_mark(end: str) -> None:
    """The mark is the last line, with or without a line feed."""
    assert ours(f"queue 1\n{end}", OPEN_METRICS) == [("queue", {}, "1.0")]
    assert ours(end, OPEN_METRICS) == []


@pytest.mark.parametrize(
    "page", ["", "queue 1\n", "queue 1\n# EO", "queue 1\n# EOF\nqueue 2\n", "x# EOF\n"]
)
def test_open_metrics_without_its_mark_was_cut_off(page: str) -> None:
    """A family that is not there may have been on the rest."""
    with pytest.raises(PageError, match="the page was cut off: it does not end with # EOF"):
        ours(page, OPEN_METRICS)


@pytest.mark.parametrize("page", ["queue{} 1", "queue 1\nother 1", "queue 1\n# EO", "queue 1\n#"])
def test_a_line_that_does_not_end_is_not_the_last(page: str) -> None:
    """It may have lost digits, and the page all that came after it, whatever the line is."""
    with pytest.raises(PageError, match="the page was cut off: its last line does not end"):
        ours(page)


def test_a_page_that_is_one_json_string_is_said_to_be_that() -> None:
    """Some builds of llama.cpp escape their page; "no series" would be no help."""
    page = (CASES / "llamacpp-json-escaped.txt").read_bytes()

    for content_type in ("", TEXT, "application/json; charset=utf-8"):
        with pytest.raises(PageError, match="the page is one JSON string, not lines"):
            ours(page, content_type)


@pytest.mark.parametrize(
    ("content_type", "says"),
    [
        ("text/html; charset=utf-8", "the page is text/html, not metrics"),
        ("application/vnd.google.protobuf", "the page is application/vnd.google.protobuf, not"),
        ("a\udcff" + "b" * 200, r"the page is a\?b{58}, not metrics"),
    ],
)
def test_another_type_is_named(content_type: str, says: str) -> None:
    """In letters that every log and wire can carry."""
    with pytest.raises(PageError, match=says):
        ours("queue 1\n", content_type)


# Broken lines


@pytest.mark.parametrize(
    "line",
    [
        b"queue",
        b"queue one two",
        b"queue=1",
        b"queue.depth 1",
        b"queue{} ",
        b"queue 1 2 3",
        b"queue 1 nan",
        b"queue 1_000",
        b'queue{a="b} 1',
        b'queue{a="b"c="d"} 1',
        b'queue{a="b",,c="d"} 1',
        b'queue{,a="b"} 1',
        b"queue{a='b'} 1",
        b"queue{a=1} 1",
        b'queue{a:b="c"} 1',
        b'queue{a="b",a="c"} 1',
        b'queue{__name__="queue"} 1',
        b'queue{"__name__"="queue"} 1',
        b'queue{""="a"} 1',
        b'queue{a="\xff"} 1',
        b'queue {a="b 1',
        b'queue", a="b"} 1',
        b'{"queue" 1',
        b'{"queue" a="b"} 1',
        b'{"queue",a="b} 1',
    ],
)
def test_a_wanted_line_that_cannot_be_read_is_an_error(line: bytes) -> None:
    """Its family would otherwise look as if it were not there. The error shows how it begins."""
    with pytest.raises(PageError, match="has a line that is not an exposition: ") as raised:
        ours(b"other 1\n" + line + b"\nqueue 5\n")
    assert str(raised.value).isprintable()
    assert "queue" in str(raised.value)
    assert len(str(raised.value)) < 150


@pytest.mark.parametrize(
    "line",
    [
        b"<html>\x00\xff\xfe",
        b'other{a="b} 1',
        b"# HELP queue \xb5s\n# TYPE queue nothing\n#queue 1",
        b"queue_by_reason oops",
        b'{"queue_by_reason oops',
        b'{a="b","queue"} 1',
        b"1queue 1",
        b"\n\r\n \t",
    ],
)
def test_other_lines_may_be_as_broken_as_they_like(line: bytes) -> None:
    """Not even what is no UTF-8 costs the page."""
    assert ours(line + b"\nqueue 5\n") == [("queue", {}, "5.0")]


def test_no_names_no_samples() -> None:
    """Nothing is wanted, not everything."""
    assert ours('queue 1\n{"queue"} 1\n 1\n', TEXT, []) == []


# Bounds


def test_too_many_samples() -> None:
    """A page with more wanted series than any engine has is refused."""
    assert len(ours("queue 1\n" * MAX_SAMPLES)) == MAX_SAMPLES
    with pytest.raises(PageError, match="the page has more than 10000 wanted series"):
        ours("queue 1\n" * (MAX_SAMPLES + 1))


def test_too_many_lines() -> None:
    """So is one of next to nothing but line feeds."""
    assert ours("\n" * (MAX_LINES - 1) + "queue 1\n") == [("queue", {}, "1.0")]
    with pytest.raises(PageError, match="the page has more than 250000 lines"):
        ours("\n" * MAX_LINES + "queue 1\n")


def test_long_series() -> None:
    """Series have a bound; below it, length changes nothing."""
    value = "v" * (MAX_SERIES_BYTES - len('queue{a=""}'))

    assert ours(f'queue{{a="{value}"}} 1\n') == [("queue", {"a": value}, "1.0")]
    with pytest.raises(PageError, match="the page has a series of more than 4096 bytes"):
        ours(f'queue{{a="{value}v"}} 1\n')


HOSTILE: Mapping[str, bytes] = {
    "nothing wanted": b'other{a="b",c="d"} 1\n',
    "almost wanted": b'queue_totaq{a="b"} 1\n',
    "open quotes": b'\nother{"',
    "blanks": b" \t",
    "escapes": b"\\n",
    "digits": b"9",
    "labels": b'a="",',
    "braces": b"{",
}


@pytest.mark.parametrize("start", [b"", b"queue", b'queue{a="', b"queue{", b'{"queue",', b"queue "])
@pytest.mark.parametrize("repeated", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_pages_take_time_in_proportion_to_their_length(
    start: bytes, repeated: bytes
) -> None:
    """A megabyte of anything takes milliseconds; what is quadratic would take minutes."""
    page = start + repeated * (2**20 // len(repeated)) + b"\n"
    began = time.process_time()

    with contextlib.suppress(PageError):
        assert len(ours(page)) <= 1

    assert time.process_time() - began < 2.0
