"""Whoever reaches the HTTP port: nothing that is sent there keeps others from its answers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from keda_scaler.sources.reports import MemoryReports
from keda_scaler.telemetry import Telemetry
from keda_scaler.web.reports import ReportsApi
from keda_scaler.web.server import WebServer
from keda_scaler.web.tokens import Tokens

SECONDS = 5.0
"""Longest that an answer may take meanwhile, on a busy machine."""

POST = b"POST /v1/reports HTTP/1.1\r\nHost: x\r\n"
TOKEN = "models-0123456789abcdef"
TRUSTED = POST + f"Authorization: Bearer {TOKEN}\r\n".encode()


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[int]:
    """Serve what takes reports."""
    file = tmp_path / "tokens"
    await asyncio.to_thread(file.write_text, f"models {TOKEN}\n")
    reports = ReportsApi(MemoryReports(), await asyncio.to_thread(Tokens, file))
    server = WebServer("127.0.0.1:0", Telemetry(), lambda: True, reports)
    await server.start()
    yield server.port
    await server.stop()


@contextlib.asynccontextmanager
async def sent(port: int, *parts: bytes) -> AsyncIterator[asyncio.StreamReader]:
    """Send something, and leave the connection open while inside."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        with contextlib.suppress(OSError):
            for part in parts:
                writer.write(part)
                await writer.drain()
        yield reader
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def status(reader: asyncio.StreamReader) -> int:
    async with asyncio.timeout(SECONDS):
        return int((await reader.readline()).split()[1])


async def healthy(port: int) -> bool:
    async with sent(port, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") as reader:
        return await status(reader) == 200


@pytest.mark.parametrize(
    "parts",
    {
        "noise": (b"\x00\xff" * 100_000,),
        "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",),
        "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", bytes(100)),
        "line without end": (b"GET /" + b"x" * 2_000_000,),
        "header without end": (b"GET / HTTP/1.1\r\nX: " + b"y" * 2_000_000,),
        "headers without end": (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100_000,),
        "half a header": (b"GET / HTTP/1.1\r\nHost",),
        "chunk of any length": (TRUSTED + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 99_999,),
        "two lengths": (TRUSTED + b"Content-Length: 2\r\nContent-Length: 9\r\n\r\n[]",),
        "length and chunks": (
            TRUSTED + b"Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        "negative length": (TRUSTED + b"Content-Length: -1\r\n\r\n",),
        "body that does not come": (TRUSTED + b"Content-Length: 9\r\n\r\n[",),
        "body that never ends": (TRUSTED + b"Content-Length: 99999999\r\n\r\n", bytes(2_000_000)),
    }.items(),
    ids=lambda parts: parts[0],
)
async def test_what_is_no_request_harms_nobody(port: int, parts: tuple[str, list[bytes]]) -> None:
    """Others are answered while its sender is connected, and after it."""
    async with sent(port, *parts[1]):
        assert await healthy(port)
    assert await healthy(port)


@pytest.mark.parametrize("header", [b"", b"Authorization: Bearer wrong-0123456789abcdef\r\n"])
async def test_nothing_is_read_of_who_has_no_token(port: int, header: bytes) -> None:
    """401 comes before the body does."""
    async with sent(port, POST + header + b"Content-Length: 99999\r\n\r\n") as reader:
        assert await status(reader) == 401


async def test_connections_that_say_nothing(port: int) -> None:
    """Two hundred that are opened and left open take nothing from the others."""
    async with contextlib.AsyncExitStack() as idle:
        for _ in range(200):
            await idle.enter_async_context(sent(port, b"GET"))
        assert await healthy(port)
