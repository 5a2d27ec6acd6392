"""KEDA's one connection for a whole fleet: unary calls that begin when they are due, and streams.

What is due begins whether or not earlier calls have ended, and a call's time counts from when it
was due: a server that falls behind cannot hide it. Within a chain each call begins when the one
before it has ended, as KEDA's do.
"""

import select
import socket
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import http2
from http2 import ProtocolError

DRAIN_SECONDS = 15.0
"""Longest wait for what is under way at the end."""

_READ = 1 << 18
_WAIT_SECONDS = 0.1
_SHOWN_FAILURES = 3


@dataclass(frozen=True, slots=True)
class Request:
    """One call to make."""

    method: str
    payload: bytes
    """The message."""


@dataclass(frozen=True, slots=True)
class Chain:
    """Calls that follow each other."""

    due: float
    """When the first of them begins, in seconds after the start."""

    requests: Sequence[Request]


@dataclass(slots=True)
class Stream:
    """A stream that stays open."""

    messages: int = 0
    first_at: float | None = None
    """When its first message came; None: none did."""

    last_at: float | None = None
    """When its newest message came."""


@dataclass(slots=True)
class _Call:
    chain: Chain
    index: int
    due: float
    answered: bool = False


@dataclass(slots=True)
class Played:
    """What came of a schedule."""

    seconds: float = 0.0
    calls: int = 0
    """Calls that have ended, in whatever way."""

    failed: int = 0
    missed: int = 0
    """Calls that did not end in time, or never began."""

    failed_by: "Counter[str]" = field(default_factory=Counter)
    """The same by method."""

    failures: list[str] = field(default_factory=list)
    """The first few, for people."""

    latencies: "dict[str, array[float]]" = field(default_factory=dict)
    """Of calls that were answered, by method, in seconds."""


class FleetClient:
    """One connection."""

    def __init__(self, port: int, service: str) -> None:
        self._prefix = f"/{service}/"
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(0.0)
        self._common = http2.remembered(f"127.0.0.1:{port}")
        self._heads: dict[str, bytes] = {}
        self._next_stream = 1
        self._window = http2.FIRST_WINDOW
        self._waiting: deque[tuple[bytes, int]] = deque()
        """Frames that are not sent yet, and what they count against the window."""
        self._out = bytearray(http2.opening())
        self._in = b""
        self._received = 0
        self._calls: dict[int, _Call] = {}
        self._played = Played()
        self.streams: dict[int, Stream] = {}
        """Streams that are open."""
        self.lost: list[str] = []
        """Streams that have ended, and how."""

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def open(self, requests: Sequence[Request]) -> list[Stream]:
        """Open streams; they are sent when the connection is next looked at."""
        opened = []
        for request in requests:
            stream = Stream()
            self.streams[self._send(request)] = stream
            opened.append(stream)
        return opened

    def wait_for(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Look at the connection until something is so; say whether it came in time."""
        end = time.perf_counter() + seconds
        while not condition():
            if time.perf_counter() > end:
                return False
            self._look(_WAIT_SECONDS)
        return True

    def play(self, schedule: Sequence[Chain], seconds: float) -> Played:
        """Make all calls of a schedule, ordered by when they are due, and wait for the last.

        Raises:
            ProtocolError: the server ended the connection.

        """
        self._played = played = Played(seconds)
        begin = time.perf_counter() + _WAIT_SECONDS
        at, end = 0, begin + seconds + DRAIN_SECONDS
        while (now := time.perf_counter()) < end:
            while at < len(schedule) and begin + schedule[at].due <= now:
                self._begin(_Call(schedule[at], 0, begin + schedule[at].due))
                at += 1
            if at == len(schedule) and not self._calls:
                break
            due = begin + schedule[at].due - now if at < len(schedule) else _WAIT_SECONDS
            self._look(min(due, _WAIT_SECONDS))
        left = [*self._calls.values(), *(_Call(chain, 0, 0.0) for chain in schedule[at:])]
        played.missed = sum(len(call.chain.requests) - call.index for call in left)
        self._calls.clear()
        return played

    def _begin(self, call: _Call) -> None:
        self._calls[self._send(call.chain.requests[call.index])] = call

    def _send(self, request: Request) -> int:
        """Have a request sent; give its stream."""
        number, self._next_stream = self._next_stream, self._next_stream + 2
        message = http2.message(request.payload)
        self._waiting.append(
            (
                http2.frame(http2.HEADERS, http2.END_HEADERS, number, self._head(request.method))
                + http2.frame(http2.DATA, http2.END_STREAM, number, message),
                len(message),
            )
        )
        return number

    def _head(self, method: str) -> bytes:
        head = self._heads.get(method)
        if head is None:
            path = http2.literal(4, self._prefix + method, remember=False)
            head = self._heads[method] = http2.KNOWN + path + http2.indexed(len(self._common))
            if len(self._heads) == 1:  # the first call teaches the server the headers
                return http2.KNOWN + path + b"".join(self._common)
        return head

    def _look(self, seconds: float) -> None:
        """Send and receive what can be, or wait for so long."""
        while self._waiting and self._waiting[0][1] <= self._window:
            frames, size = self._waiting.popleft()
            self._out += frames
            self._window -= size
        if self._out:
            self._write()
        writers = [self._socket] if self._out else []
        readable, _, _ = select.select([self._socket], writers, [], max(0.0, seconds))
        if readable:
            self._read()

    def _write(self) -> None:
        try:
            sent = self._socket.send(self._out)
        except BlockingIOError:
            return
        del self._out[:sent]

    def _read(self) -> None:
        received = self._socket.recv(_READ)
        if not received:
            raise ProtocolError("the server closed the connection")
        now = time.perf_counter()
        buffer = self._in + received
        at = 0
        for kind, flags, number, begin, end in http2.frames(buffer):
            at = end
            if kind == http2.DATA:
                self._received += end - begin
                self._take(number, now)
            elif kind == http2.RST_STREAM or (kind == http2.HEADERS and flags & http2.END_STREAM):
                self._end(number, now, buffer[begin - http2.HEADER.size : end])
            elif kind != http2.HEADERS:
                self._control(kind, flags, buffer[begin:end], number)
        self._in = buffer[at:]
        if self._received > http2.CREDIT:
            self._out += http2.credit(self._received)
            self._received = 0

    def _take(self, number: int, now: float) -> None:
        """Take a message in."""
        call = self._calls.get(number)
        if call is not None:
            call.answered = True
            return
        stream = self.streams.get(number)
        if stream is not None:
            stream.messages += 1
            stream.last_at = now
            stream.first_at = stream.first_at or now

    def _end(self, number: int, now: float, last: bytes) -> None:
        """Take the end of a call or of a stream in."""
        call = self._calls.pop(number, None)
        if call is None:
            if self.streams.pop(number, None) is not None:
                self.lost.append(f"{last!r}")
            return
        played, request = self._played, call.chain.requests[call.index]
        played.calls += 1
        if call.answered and last[3] == http2.HEADERS:
            played.latencies.setdefault(request.method, array("d")).append(now - call.due)
        else:
            played.failed += 1
            played.failed_by[request.method] += 1
            if len(played.failures) < _SHOWN_FAILURES:
                played.failures.append(f"{request.method} ended by the frame {last!r}")
        if call.index + 1 < len(call.chain.requests):
            self._begin(_Call(call.chain, call.index + 1, now))

    def _control(self, kind: int, flags: int, payload: bytes, stream: int) -> None:
        """Take a frame in that is of no call."""
        if kind == http2.PING and not flags & http2.ACK:
            self._out += http2.frame(http2.PING, http2.ACK, 0, payload)
        elif kind == http2.SETTINGS and not flags & http2.ACK:
            self._out += http2.frame(http2.SETTINGS, http2.ACK, 0, b"")
        elif kind == http2.WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload, "big")
        elif kind == http2.GOAWAY:
            raise ProtocolError(f"the server goes away: {payload[8:].decode(errors='replace')}")
        elif kind == http2.CONTINUATION:
            raise ProtocolError("headers longer than a frame")
