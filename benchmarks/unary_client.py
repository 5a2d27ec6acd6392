"""A client for unary gRPC calls that is much faster than the servers it measures.

It speaks just enough HTTP/2 over one blocking socket.

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

import http2

ANSWER_SECONDS = 10
"""Longest silence of the server."""

_READ = 1 << 18
_SHOWN_FAILURES = 3


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
        self._window = http2.FIRST_WINDOW
        """Bytes of DATA that we may send."""
        self._received = 0
        """Bytes of DATA since the server was last allowed more."""
        self._buffer = b""
        self._began: dict[int, float] = {}
        """Calls under way: when each was sent."""
        self._good: set[int] = set()
        """Calls under way whose data came."""
        self._largest = max(map(len, requests)) + 5
        self._max_streams = http2.LARGEST_WINDOW
        self._first_block, self._block = _header_blocks(path, f"127.0.0.1:{port}")
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Timeouts of Python cost a poll(2) for every read, those of the kernel cost nothing.
        limit = struct.pack("ll", ANSWER_SECONDS, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        self._socket.sendall(http2.opening())

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
                head = http2.frame(http2.HEADERS, http2.END_HEADERS, 0, block)[:5]
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
            raise http2.ProtocolError(f"no answer for {ANSWER_SECONDS} s") from None
        if not received:
            raise http2.ProtocolError("the server closed the connection")
        self._buffer += received

    def _take(self, load: Load, now: float) -> int:
        """Look at the frames that have come; give how many calls ended."""
        buffer, at, ended = self._buffer, 0, load.calls
        unpack, is_good, good = http2.HEADER.unpack_from, self._is_good, self._good
        size = len(buffer)
        while size - at >= http2.HEADER.size:
            high, low, kind, flags, stream = unpack(buffer, at)
            begin = at + http2.HEADER.size
            end = begin + (high << 8 | low)
            if end > size:
                break
            if kind == http2.DATA:
                self._received += end - begin
                if is_good(buffer[begin:end]):
                    good.add(stream)
            elif kind == http2.RST_STREAM or (kind == http2.HEADERS and flags & http2.END_STREAM):
                self._end(load, stream, now, buffer[at:end])
            elif kind != http2.HEADERS:
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
        if good and frame[3] == http2.HEADERS:
            load.latencies.append(now - began)
            return
        load.failed += 1
        if len(load.failures) < _SHOWN_FAILURES:
            load.failures.append(f"ended by the frame {frame!r}")

    def _allow_more(self) -> None:
        """Let the server send as many bytes as it has sent."""
        if self._received > http2.CREDIT:
            self._socket.sendall(http2.credit(self._received))
            self._received = 0

    def _control(self, kind: int, flags: int, payload: bytes, stream: int) -> None:
        """Take a frame in that is of no call."""
        if kind == http2.PING and not flags & http2.ACK:
            self._socket.sendall(http2.frame(http2.PING, http2.ACK, 0, payload))
        elif kind == http2.SETTINGS and not flags & http2.ACK:
            self._obey(http2.settings(payload))
            self._socket.sendall(http2.frame(http2.SETTINGS, http2.ACK, 0, b""))
        elif kind == http2.WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload, "big")
        elif kind == http2.GOAWAY:
            raise http2.ProtocolError(
                f"the server goes away: {payload[8:].decode(errors='replace')}"
            )
        elif kind == http2.CONTINUATION:
            raise http2.ProtocolError("headers longer than a frame")

    def _obey(self, settings: dict[int, int]) -> None:
        self._max_streams = settings.get(http2.MAX_CONCURRENT_STREAMS, self._max_streams)
        if settings.get(http2.INITIAL_WINDOW_SIZE, http2.FIRST_WINDOW) < self._largest:
            raise http2.ProtocolError("the server's window of a stream is smaller than a request")


def _call_frames(requests: Sequence[bytes]) -> Iterator[tuple[bytes, bytes, bytes, int]]:
    """Give, for each call: what stands before its stream number, between the two, and after.

    The last is how many bytes count against the window. The first does not fit the first call.
    """
    parts = []
    for request in requests:
        message = http2.message(request)
        data = http2.frame(http2.DATA, http2.END_STREAM, 0, message)
        head = http2.frame(http2.HEADERS, http2.END_HEADERS, 0, bytes(_BLOCK_LENGTH))[:5]
        parts.append((head, data[:5], data[9:], len(message)))
    return cycle(parts)


_BLOCK_LENGTH = 7
"""Headers of a call, each a byte once the server knows them."""


def _header_blocks(path: str, authority: str) -> tuple[bytes, bytes]:
    """Encode the headers as grpc-go sends them: the first call's, and every later one's.

    The first call has them spelled out, to be remembered; from then on each is an index. The newest
    remembered one has index 62.
    """
    first = [http2.literal(4, path), *http2.remembered(authority)]
    later = http2.KNOWN + http2.indexed(len(first))
    assert len(later) == _BLOCK_LENGTH
    return http2.KNOWN + b"".join(first), later
