"""Servers that mean harm, and what they are read with."""

import asyncio
import contextlib
import socket
import time
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from keda_scaler.core.addresses import AddressRules
from keda_scaler.errors import SourceError
from keda_scaler.sources.pages import Fetched, Pages
from keda_scaler.sources.promanswer import Series
from keda_scaler.sources.promapi import Prometheus, PrometheusServer

ALLOWED = "127.0.0.1"
FORBIDDEN = "127.0.0.2"
"""An address of this host too: a connection to it would succeed."""

NAME = "engine.example"
RULES = AddressRules.parse([NAME, ALLOWED])


class Listener:
    """Counts the connections to an address, and answers each request with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.requests: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(self.answer)
            await writer.drain()
        writer.close()


def answer(body: bytes, *headers: str) -> bytes:
    """Write an answer after which the connection is closed."""
    lines = ["HTTP/1.1 200 OK", "Content-Type: text/plain", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


@contextlib.asynccontextmanager
async def listening(answer: bytes, *hosts: str) -> AsyncIterator[tuple[int, list[Listener]]]:
    """Listen at the same port of several addresses."""
    listeners = [Listener(answer) for _ in hosts]
    async with contextlib.AsyncExitStack() as servers:
        port = 0
        for host, listener in zip(hosts, listeners, strict=True):
            server = await asyncio.start_server(listener.serve, host, port)
            await servers.enter_async_context(server)
            port = server.sockets[0].getsockname()[1]
        yield port, listeners


@contextlib.contextmanager
def resolving(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> Iterator[list[str]]:
    """Resolve `NAME` to each of these in turn, and to the last for ever; gives who was asked."""
    real, asked = socket.getaddrinfo, list[str]()

    def lie(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host != NAME:
            return real(host, port, *args, **kwargs)
        asked.append(host)
        found = answers[min(len(asked), len(answers)) - 1]
        return [
            (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (each, int(port)))
            for each in found
        ]

    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", lie)
        yield asked


class Reader:
    """What a trigger makes us read, by each of the two clients that there are."""

    def __init__(self, kind: str, host: str, port: int, rules: AddressRules | None = RULES) -> None:
        self._pages = Pages(rules or AddressRules(), time.monotonic) if kind == "page" else None
        self._url = f"http://{host}:{port}"
        self._prometheus = Prometheus(PrometheusServer(self._url), rules)

    async def read(self) -> Fetched | list[Series] | str:
        """Read once; the text of the error where that fails."""
        try:
            if self._pages is not None:
                return await self._pages.fetch(f"{self._url}/metrics")
            return await self._prometheus.query("up")
        except SourceError as error:
            return str(error)

    async def close(self) -> None:
        self._prometheus.close()
        if self._pages is not None:
            await self._pages.close()


@contextlib.asynccontextmanager
async def reader(
    kind: str, host: str, port: int, rules: AddressRules | None = RULES
) -> AsyncIterator[Reader]:
    made = Reader(kind, host, port, rules)
    try:
        yield made
    finally:
        await made.close()


def bomb(wbits: int, times: int = 1, mebibytes: int = 128) -> bytes:
    """Pack zeros, each time by a factor of a thousand or so."""
    packer = zlib.compressobj(9, zlib.DEFLATED, wbits)
    packed = b"".join(packer.compress(bytes(2**20)) for _ in range(mebibytes)) + packer.flush()
    for _ in range(times - 1):
        packer = zlib.compressobj(9, zlib.DEFLATED, wbits)
        packed = packer.compress(packed) + packer.flush()
    return packed
