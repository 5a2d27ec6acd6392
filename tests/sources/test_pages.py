"""Pages over real HTTP: what was cut off, what a cache kept, what is packed."""

import asyncio
import contextlib
import gzip
import zlib
from collections.abc import AsyncIterator

import pytest

from endpoint_reading import LOOPBACK
from keda_scaler.core.readings import Missing, Readings, Value
from keda_scaler.core.signals import Signal
from keda_scaler.core.trigger import Accepts, parse_trigger
from keda_scaler.errors import SourceError
from keda_scaler.sources.enginepages import Page, names_of
from keda_scaler.sources.pages import MAX_PAGE_BYTES, Fetched, Pages

BODY = b"# TYPE up gauge\nup 1\n"
ASKED, UNIX = 5000.0, 1_700_000_000.0
DATE = "Date: Tue, 14 Nov 2023 22:13:20 GMT"
"""The same instant as `UNIX`."""
OLD_DATE = "Date: Tue, 14 Nov 2023 22:03:20 GMT"
"""Ten minutes before."""


class Server:
    """Answers every connection with the same bytes, and closes it."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.request = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            self.request = await reader.readuntil(b"\r\n\r\n")
            writer.write(self.answer)
            await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def reading(*answers: bytes) -> AsyncIterator[list[tuple[Fetched | str, Server]]]:
    """Fetch each of these answers as it is; what came of it, or why nothing did."""
    pages = Pages(LOOPBACK, lambda: ASKED, lambda: UNIX)
    found: list[tuple[Fetched | str, Server]] = []
    try:
        for answer in answers:
            server = Server(answer)
            async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listener:
                port = listener.sockets[0].getsockname()[1]
                try:
                    found.append((await pages.fetch(f"http://127.0.0.1:{port}/"), server))
                except SourceError as error:
                    found.append((str(error), server))
        yield found
    finally:
        await pages.close()


def answer(body: bytes, *headers: str, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    lines = ["HTTP/1.1 200 OK", "Content-Type: text/plain", f"Content-Length: {size}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def fetched(body: bytes, *headers: str, length: int | None = None) -> Fetched | str:
    async with reading(answer(body, *headers, length=length)) as ((found, _),):
        return found


# What is cut off


def packed(how: str, body: bytes = BODY) -> bytes:
    if how == "gzip":
        return gzip.compress(body, mtime=0)
    squeeze = zlib.compressobj(wbits=-15 if how == "bare deflate" else 15)
    return squeeze.compress(body) + squeeze.flush()


PACKED = pytest.mark.parametrize("how", ["gzip", "deflate", "bare deflate"])


@PACKED
async def test_what_is_packed_is_unpacked(how: str) -> None:
    """Once, in parts, and in several streams one after the other."""
    stream = packed(how)
    encoding = f"Content-Encoding: {how.removeprefix('bare ')}"

    for body in (stream, stream + stream):
        found = await fetched(body, encoding)
        assert isinstance(found, Fetched)
        assert found.body == BODY * (len(body) // len(stream))


@PACKED
async def test_a_packed_page_is_whole_or_an_error(how: str) -> None:
    """Wherever its stream ends, HTTP calls it whole: only the stream itself can tell."""
    stream, encoding = packed(how), f"Content-Encoding: {how.removeprefix('bare ')}"
    cuts = [answer(stream[:end], encoding) for end in range(len(stream))]

    async with reading(*cuts) as answers:
        assert len(answers) == len(stream)
        says = f"the page was cut off: its {how.removeprefix('bare ')} stream does not end"
        assert {str(found) for found, _ in answers} == {says}


async def test_a_page_that_unpacks_to_too_much_is_given_up() -> None:
    """A small answer must not become a large one."""
    bomb = packed("gzip", bytes(MAX_PAGE_BYTES + 1))

    assert await fetched(bomb, "Content-Encoding: gzip") == "the page is longer than 8 MiB"


@pytest.mark.parametrize(
    ("body", "encoding", "says"),
    [
        (BODY, "gzip", "the page cannot be unpacked: it is no gzip"),
        (packed("gzip") + b"xx", "gzip", "the page cannot be unpacked: it is no gzip"),
        (BODY, "br", "the page is packed in a way that was not asked for"),
    ],
    ids=["text", "more behind it", "brotli"],
)
async def test_what_is_packed_otherwise_is_an_error(body: bytes, encoding: str, says: str) -> None:
    """It is never read as if it were text."""
    assert await fetched(body, f"Content-Encoding: {encoding}") == says


async def test_a_page_shorter_than_it_says_is_an_error() -> None:
    """Of its length, or of the chunks that were to come."""
    chunk = f"{len(BODY):x}\r\n{BODY.decode()}\r\n".encode()
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

    async with reading(
        answer(BODY, length=len(BODY) + 1), head + chunk, head + chunk + b"0\r\n\r\n"
    ) as ((short, _), (unended, _), (whole, _)):
        assert short == unended == "cannot read the page: ClientPayloadError"
        assert isinstance(whole, Fetched)
        assert whole.body == BODY


# What is old


async def test_a_page_is_asked_of_its_server() -> None:
    """A cache on the way is to pass it on, and nothing is packed in a way that we cannot unpack."""
    async with reading(answer(BODY)) as ((found, server),):
        assert isinstance(found, Fetched)
        assert b"\r\nCache-Control: no-cache\r\n" in server.request
        assert b"\r\nAccept-Encoding: gzip\r\n" in server.request


@pytest.mark.parametrize(
    ("headers", "age", "dated"),
    [
        ([], 0, UNIX),
        ([DATE], 0, UNIX),
        ([OLD_DATE], 0, UNIX - 600),  # a clock that is wrong is no cache
        (["Date: yesterday"], 0, UNIX),
        (["Date: Mon, 01 Jan 2024 00:00:00 +99999999999999"], 0, UNIX),
        (["Age: 0", "X-Cache: HIT from squid"], 0, UNIX),
        (["Age: 600"], 600, UNIX - 600),
        (["Age: 600", OLD_DATE, 'Warning: 110 - "Response is Stale"'], 600, UNIX - 600),
        (["Age: 5", "Age: 600"], 600, UNIX - 600),
        (["Age: 99999999999999999999"], 2**31, UNIX - 2**31),
        (["X-Cache: MISS"], 0, UNIX),
    ],
)
async def test_an_answer_of_a_cache_is_as_old_as_it_says(
    headers: list[str], age: float, dated: float
) -> None:
    """So that it goes stale by itself, and one that is too old never was fresh."""
    found = await fetched(BODY, *headers)

    assert found == Fetched(BODY, "text/plain", ASKED, age, dated)
    assert isinstance(found, Fetched)
    assert found.at == ASKED - age


@pytest.mark.parametrize(
    "header",
    [
        "X-Cache: HIT",
        "X-Cache: Hit from cdn",
        "X-Cache-Status: STALE",
        "CF-Cache-Status: HIT",
        'Warning: 110 - "Response is Stale"',
        "Age: old",
        "Age: -1",
    ],
)
async def test_an_answer_of_a_cache_without_an_age_is_unknown(header: str) -> None:
    """It may be of any time."""
    says = "the page is a cache's, which does not say how old it is"

    assert await fetched(BODY, header) == says


TRIGGER = parse_trigger({"service": "a", "engine": "vllm", "staleSeconds": "30"}, Accepts())
OLD = Missing("older than staleSeconds (30) when it came: a cache, or old timestamps")


def read(page: Fetched) -> Readings:
    return Page(page, [names_of(TRIGGER)]).seen(TRIGGER).readings


def test_timestamps_on_a_page_are_compared_with_its_own_date() -> None:
    """The clocks of servers differ; a sample that was ten minutes old there is so here."""
    lines = (
        b'vllm:num_requests_waiting{model_name="m"} 0 1699999400000\n'
        b'vllm:num_requests_running{model_name="m"} 0\n'
    )
    for dated, at in ((UNIX - 580, ASKED - 20), (UNIX - 600, ASKED), (UNIX - 900, ASKED)):
        found = read(Fetched(lines, "text/plain", ASKED, dated=dated))
        assert found[Signal.QUEUE_DEPTH] == Value(0, at)
        assert found[Signal.CONCURRENCY] == Value(0, at, series=2)
    found = read(Fetched(lines, "text/plain", ASKED, dated=UNIX))
    assert found[Signal.QUEUE_DEPTH] == found[Signal.CONCURRENCY] == OLD


def test_what_a_cache_kept_for_too_long_is_missing_and_says_so() -> None:
    """It is not what the engine does now; what it keeps for a moment is as old as that."""
    line = b'vllm:num_requests_waiting{model_name="m"} 0\n'

    assert read(Fetched(line, "text/plain", ASKED, 29.0))[Signal.QUEUE_DEPTH] == Value(0, 4971.0)
    found = read(Fetched(line, "text/plain", ASKED, 30.0))
    assert found[Signal.QUEUE_DEPTH] == OLD
    absent = Missing("no series of vllm:num_requests_running")
    assert found[Signal.CONCURRENCY] == absent, "what is missing for another reason says that"
