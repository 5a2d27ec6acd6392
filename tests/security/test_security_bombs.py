"""Answers that mean harm: whatever they unpack to, memory and time stay bounded."""

import asyncio
import tracemalloc

import pytest

from hostile_servers import ALLOWED, answer, bomb, listening, reader
from keda_scaler.sources import pages, promapi
from keda_scaler.sources.pages import Fetched

GZIP, ZLIB = 31, 15
MEBIBYTE = 2**20
CLIENTS = pytest.mark.parametrize("kind", ["page", "prometheus"])


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", bomb(GZIP)),
        ("deflate", bomb(ZLIB)),
        ("gzip, gzip", bomb(GZIP, times=2)),
        ("gzip, deflate, gzip, deflate, gzip, deflate, gzip", bomb(GZIP, mebibytes=16)),
    ],
)
@CLIENTS
async def test_a_bomb_is_not_unpacked(kind: str, encoding: str, packed: bytes) -> None:
    """128 MiB that travel as an eighth of one, or as next to nothing; no more is unpacked of it."""
    limit = pages.MAX_PAGE_BYTES if kind == "page" else 32 * MEBIBYTE
    async with (
        listening(answer(packed, f"Content-Encoding: {encoding}"), ALLOWED) as (port, _),
        reader(kind, ALLOWED, port) as client,
    ):
        await client.read()  # what a first request loads does not count
        tracemalloc.start()
        try:
            found = await client.read()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    # A page that is packed twice is taken as it came, and is no page of metrics then.
    assert isinstance(found, str) or (isinstance(found, Fetched) and found.body == packed)
    assert peak < 3 * limit


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: y\r\n" % each for each in range(200_000)),
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 4 * MEBIBYTE,
        b"HTTP/1.1 200 " + b"y" * 4 * MEBIBYTE,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 4 * MEBIBYTE,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * 4 * MEBIBYTE,
        b"HTTP/1.1 200 OK\r\nContent-Length: 9" + b"9" * 5000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\n\x1f\x8b\x08+++++",
        b"\x00\xff" * MEBIBYTE,
    ],
    ids=["headers", "header", "status", "chunk", "extension", "length", "gzip", "noise"],
)
@CLIENTS
async def test_an_answer_that_is_none_is_an_error(kind: str, head: bytes) -> None:
    """Of HTTP that nobody would write; and the reader is told so within its time."""
    async with (
        listening(head, ALLOWED) as (port, _),
        reader(kind, ALLOWED, port) as client,
        asyncio.timeout(pages.PAGE_SECONDS + promapi.QUERY_SECONDS),
    ):
        text = await client.read()

    assert isinstance(text, str)
    assert len(text) < 200
