"""A client for unary gRPC calls that is much faster than the servers it measures.

It speaks just enough HTTP/2 over one blocking socket: headers are encoded once, answers are looked
at frame by frame and never decoded. Numbers are those of RFC 9113 (frames) and RFC 7541 (headers).

A call is good when one DATA frame that the caller's check accepts came before the HEADERS frame
that ends the stream. gRPC's status is in those last headers, encoded; a unary call that failed has
no data, so the check tells failures too.
"""

import socket
import struct
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle

ANSWER_SECONDS = 10
"""Longest silence of the server."""

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING = 0, 1, 3, 4, 6
_GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 7, 8, 9
_END_STREAM, _ACK, _END_HEADERS = 0x1, 0x1, 0x4
_MAX_CONCURRENT_STREAMS, _INITIAL_WINDOW_SIZE = 3, 4

_FRAME = struct.Struct(">HBBBI")
"""Length (in two parts), type, flags, stream."""

_FIRST_WINDOW = 65_535
"""Bytes that either side may send before the other allows more."""

_LARGEST_WINDOW = (1 << 31) - 1
_CREDIT = 1 << 20
"""Bytes received after which the server is allowed as many more."""

_READ = 1 << 18
_SHOWN_FAILURES = 3


class ProtocolError(Exception):
    """The server ended the connection, or did what this client does not understand."""


@dataclass(slots=True)
class Load:
    """What came of calls in a closed loop."""

    seconds: float = 0.0
    """How long calls were begun."""

    answered: int = 0
    """Good calls that ended within that time."""

    calls: int = 0
    """All calls, also those that ended after it."""

    failed: int = 0
    failures: list[str] = field(default_factory=list)
    """The first few, for people."""

    latencies: "array[float]" = field(default_factory=lambda: array("d"))
    """Of good calls, in seconds."""

    client_cpu: float = 0.0
    """CPU seconds of this process."""


class UnaryClient:
    """One connection, on which the given requests are sent in turn."""

    def __init__(
        self, port: int, path: str, requests: Sequence[bytes], is_good: Callable[[bytes], bool]
    ) -> None:
        self._is_good = is_good
        self._calls = _call_frames(requests)
        self._next_stream = 1
        self._window = _FIRST_WINDOW
        """Bytes of DATA that we may send."""
        self._received = 0
        """Bytes of DATA since the server was last allowed more."""
        self._buffer = b""
        self._began: dict[int, float] = {}
        """Calls under way: when each was sent."""
        self._good: set[int] = set()
        """Calls under way whose data came."""
        self._largest = max(map(len, requests)) + 5
        self._max_streams = _LARGEST_WINDOW
        self._first_block, self._block = _header_blocks(path, f"127.0.0.1:{port}")
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Timeouts of Python cost a poll(2) for every read, those of the kernel cost nothing.
        limit = struct.pack("ll", ANSWER_SECONDS, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        more = struct.pack(">I", _LARGEST_WINDOW - _FIRST_WINDOW)
        self._socket.sendall(
            _PREFACE + _frame(_SETTINGS, 0, 0, b"") + _frame(_WINDOW_UPDATE, 0, 0, more)
        )

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def run(self, in_flight: int, seconds: float) -> Load:
        """Keep so many calls in flight for so long, then wait for the last ones.

        Raises:
            ProtocolError: the server ended the connection, or was silent for too long.

        """
        load = Load(seconds)
        cpu = time.process_time()
        now = time.perf_counter()
        deadline = now + seconds
        free = self._begin(in_flight, now)
        while self._began or free:
            self._read()
            now = time.perf_counter()
            free += self._take(load, now)
            if now < deadline:
                load.answered = len(load.latencies)
                if free:
                    free = self._begin(free, now)
            else:
                free = 0
        load.client_cpu = time.process_time() - cpu
        return load

    def _begin(self, calls: int, now: float) -> int:
        """Begin calls; give how many could not be, for want of window."""
        frames: list[bytes] = []
        stream = self._next_stream
        while calls and self._window >= self._largest and len(self._began) < self._max_streams:
            head, middle, tail, size = next(self._calls)
            if stream == 1:  # the first one teaches the server the headers
                block = self._first_block
                head = _frame(_HEADERS, _END_HEADERS, 0, block)[:5]
            else:
                block = self._block
            number = stream.to_bytes(4, "big")
            frames += (head, number, block, middle, number, tail)
            self._window -= size
            self._began[stream] = now
            stream += 2
            calls -= 1
        self._next_stream = stream
        if frames:
            self._socket.sendall(b"".join(frames))
        return calls

    def _read(self) -> None:
        try:
            received = self._socket.recv(_READ)
        except BlockingIOError:
            raise ProtocolError(f"no answer for {ANSWER_SECONDS} s") from None
        if not received:
            raise ProtocolError("the server closed the connection")
        self._buffer += received

    def _take(self, load: Load, now: float) -> int:
        """Look at the frames that have come; give how many calls ended."""
        buffer, at, ended = self._buffer, 0, load.calls
        unpack, is_good, good = _FRAME.unpack_from, self._is_good, self._good
        size = len(buffer)
        while size - at >= _FRAME.size:
            high, low, kind, flags, stream = unpack(buffer, at)
            begin = at + _FRAME.size
            end = begin + (high << 8 | low)
            if end > size:
                break
            if kind == _DATA:
                self._received += end - begin
                if is_good(buffer[begin:end]):
                    good.add(stream)
            elif kind == _RST_STREAM or (kind == _HEADERS and flags & _END_STREAM):
                self._end(load, stream, now, buffer[at:end])
            elif kind != _HEADERS:
                self._control(kind, flags, buffer[begin:end], stream)
            at = end
        self._buffer = buffer[at:]
        self._allow_more()
        return load.calls - ended

    def _end(self, load: Load, stream: int, now: float, frame: bytes) -> None:
        """Take the end of a call in."""
        load.calls += 1
        began = self._began.pop(stream)
        good = stream in self._good
        self._good.discard(stream)
        if good and frame[3] == _HEADERS:
            load.latencies.append(now - began)
            return
        load.failed += 1
        if len(load.failures) < _SHOWN_FAILURES:
            load.failures.append(f"ended by the frame {frame!r}")

    def _allow_more(self) -> None:
        """Let the server send as many bytes as it has sent."""
        if self._received > _CREDIT:
            more = struct.pack(">I", self._received)
            self._socket.sendall(_frame(_WINDOW_UPDATE, 0, 0, more))
            self._received = 0

    def _control(self, kind: int, flags: int, payload: bytes, stream: int) -> None:
        """Take a frame in that is of no call."""
        if kind == _PING and not flags & _ACK:
            self._socket.sendall(_frame(_PING, _ACK, 0, payload))
        elif kind == _SETTINGS and not flags & _ACK:
            self._obey(dict(struct.iter_unpack(">HI", payload)))
            self._socket.sendall(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload, "big")
        elif kind == _GOAWAY:
            raise ProtocolError(f"the server goes away: {payload[8:].decode(errors='replace')}")
        elif kind == _CONTINUATION:
            raise ProtocolError("headers longer than a frame")

    def _obey(self, settings: dict[int, int]) -> None:
        self._max_streams = settings.get(_MAX_CONCURRENT_STREAMS, self._max_streams)
        if settings.get(_INITIAL_WINDOW_SIZE, _FIRST_WINDOW) < self._largest:
            raise ProtocolError("the server's window of a stream is smaller than a request")


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    length = len(payload)
    return _FRAME.pack(length >> 8, length & 0xFF, kind, flags, stream) + payload


def _call_frames(requests: Sequence[bytes]) -> Iterator[tuple[bytes, bytes, bytes, int]]:
    """Give, for each call: what stands before its stream number, between the two, and after.

    The last is how many bytes count against the window. The first does not fit the first call.
    """
    parts = []
    for request in requests:
        message = b"\0" + struct.pack(">I", len(request)) + request
        data = _frame(_DATA, _END_STREAM, 0, message)
        head = _frame(_HEADERS, _END_HEADERS, 0, bytes(_BLOCK_LENGTH))[:5]
        parts.append((head, data[:5], data[9:], len(message)))
    return cycle(parts)


_BLOCK_LENGTH = 7
"""Headers of a call, each a byte once the server knows them."""


def _header_blocks(path: str, authority: str) -> tuple[bytes, bytes]:
    """Encode the headers as grpc-go sends them: the first call's, and every later one's.

    The first call has them spelled out, to be remembered; from then on each is an index. The newest
    remembered one has index 62.
    """
    known = bytes([0x80 | 3, 0x80 | 6])  # :method POST, :scheme http
    remembered = (
        _literal(4, path),
        _literal(1, authority),
        _literal(31, "application/grpc"),  # content-type
        _literal(58, "grpc-go/1.80.0"),  # user-agent
        b"\x40" + _text("te") + _text("trailers"),
    )
    first = known + b"".join(remembered)
    newest = 62
    indexed = [0x80 | newest + age for age in reversed(range(len(remembered)))]
    later = known + bytes(indexed)
    assert len(later) == _BLOCK_LENGTH
    return first, later


def _literal(name_index: int, value: str) -> bytes:
    return bytes([0x40 | name_index]) + _text(value)


def _text(value: str) -> bytes:
    assert len(value) < 0x7F  # longer ones need more than a byte of length
    return bytes([len(value)]) + value.encode()
