"""Just enough HTTP/2 to be much faster than the servers we measure.

Headers are encoded once, answers are looked at frame by frame and never decoded. Numbers are those
of RFC 9113 (frames) and RFC 7541 (headers).
"""

import struct
from collections.abc import Iterator

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING = 0, 1, 3, 4, 6
GOAWAY, WINDOW_UPDATE, CONTINUATION = 7, 8, 9
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 3, 4

HEADER = struct.Struct(">HBBBI")
"""Of a frame: length (in two parts), type, flags, stream."""

FIRST_WINDOW = 65_535
"""Bytes that either side may send before the other allows more."""

LARGEST_WINDOW = (1 << 31) - 1
CREDIT = 1 << 20
"""Bytes received after which the server is allowed as many more."""

NEWEST = 62
"""Index of the header that was remembered last."""


class ProtocolError(Exception):
    """The server ended the connection, or did what this client does not understand."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Put a frame together."""
    length = len(payload)
    return HEADER.pack(length >> 8, length & 0xFF, kind, flags, stream) + payload


def message(payload: bytes) -> bytes:
    """Put a message of gRPC together, uncompressed."""
    return b"\0" + struct.pack(">I", len(payload)) + payload


def opening() -> bytes:
    """Give what a client says first; the server may send as much as it likes."""
    more = struct.pack(">I", LARGEST_WINDOW - FIRST_WINDOW)
    return PREFACE + frame(SETTINGS, 0, 0, b"") + frame(WINDOW_UPDATE, 0, 0, more)


def credit(received: int) -> bytes:
    """Let the server send so many bytes more."""
    return frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", received))


def settings(payload: bytes) -> dict[int, int]:
    """Read what a server wants."""
    return dict(struct.iter_unpack(">HI", payload))


def frames(buffer: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """Give the whole frames of a buffer: type, flags, stream, begin and end of the payload."""
    unpack, at, size = HEADER.unpack_from, 0, len(buffer)
    while size - at >= HEADER.size:
        high, low, kind, flags, stream = unpack(buffer, at)
        begin = at + HEADER.size
        at = begin + (high << 8 | low)
        if at > size:
            return
        yield kind, flags, stream, begin, at


def remembered(authority: str) -> list[bytes]:
    """Give the headers that every call has, as grpc-go sends them, to be remembered."""
    return [
        literal(1, authority),
        literal(31, "application/grpc"),  # content-type
        literal(58, "grpc-go/1.81.1"),  # user-agent
        b"\x40" + text("te") + text("trailers"),
    ]


KNOWN = bytes([0x80 | 3, 0x80 | 6])
""":method POST, :scheme http"""


def indexed(count: int) -> bytes:
    """Refer to the headers that were remembered last, the oldest of them first."""
    return bytes([0x80 | NEWEST + age for age in reversed(range(count))])


def literal(name_index: int, value: str, *, remember: bool = True) -> bytes:
    """Write a header whose name has an index; for names above 14 it must be remembered."""
    assert remember or name_index < 0x0F
    return bytes([(0x40 if remember else 0) | name_index]) + text(value)


def text(value: str) -> bytes:
    """Write a short text as it is."""
    assert len(value) < 0x7F  # longer ones need more than a byte of length
    return bytes([len(value)]) + value.encode()
