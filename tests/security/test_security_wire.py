"""Whoever reaches the gRPC port: nothing that is sent there keeps KEDA from its answers."""

import asyncio
import contextlib
import random
import struct
from collections.abc import AsyncIterator

import grpc
import pytest

from keda_scaler.core.trigger import MAX_PROBLEMS
from keda_scaler.pb import externalscaler_pb2 as pb
from keda_scaler.rpc.convert import MAX_TEXT
from keda_scaler.rpc.servicer import MAX_REFERENCE_BYTES
from served_scaler import REF, Served, scaler

SECONDS = 5.0
"""Longest that a call of another client may take meanwhile, on a busy machine."""

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    *range(2),
    *range(3, 10),
)
END_STREAM, END_HEADERS = 1, 4
PATH = b"/externalscaler.ExternalScaler/IsActive"


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    return struct.pack(">IBBI", len(payload), kind, flags, stream)[1:] + payload


def literal(name: bytes, value: bytes) -> bytes:
    """Write a header that HPACK neither indexes nor packs; below 127 bytes each."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


REQUEST = b"".join(
    literal(name, value)
    for name, value in (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", PATH),
        (b":authority", b"x"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    )
)
START = PREFACE + frame(SETTINGS)
NOISE = random.Random(7).randbytes(100_000)


def opened(stream: int, flags: int = END_HEADERS) -> bytes:
    return frame(HEADERS, REQUEST, flags, stream)


MESSAGE = REF.SerializeToString()
CALL = opened(1) + frame(DATA, struct.pack(">BI", 0, len(MESSAGE)) + MESSAGE, END_STREAM, 1)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with scaler() as running:
        yield running


async def flood(served: Served, sent: bytes, wanted: bytes = b"") -> bytes:
    """Send all of this over a connection, which may be cut off at any time; give what came.

    `wanted` is waited for.
    """
    reader, writer = await served.connect()
    received = bytearray()

    async def drain() -> None:
        while wanted not in received if wanted else True:
            chunk = await reader.read(2**16)
            if not chunk:
                return
            received.extend(chunk)

    reading = asyncio.create_task(drain())
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(3):
            for start in range(0, len(sent), 2**16):
                writer.write(sent[start : start + 2**16])
                await writer.drain()
                await asyncio.sleep(0)
    await asyncio.wait([reading], timeout=5 if wanted else 0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return bytes(received)


async def test_these_frames_are_frames(served: Served) -> None:
    """What the floods below are made of is understood: a ping and a call are answered."""
    pong = frame(PING, b"12345678", 1)

    assert pong in await flood(served, START + frame(PING, b"12345678"), pong)
    assert b"proven-idle" in await flood(served, START + CALL, b"proven-idle")


@pytest.mark.parametrize(
    "sent",
    {
        "HTTP/1.1": b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + NOISE[:500],
        "noise": NOISE,
        "noise after the preface": START + NOISE,
        "nothing but a preface": PREFACE,
        "longest frame": START + b"\xff\xff\xff" + bytes([DATA, 0]) + bytes(4) + NOISE,
        "unknown frames": START + frame(0xEE, NOISE[:16000], 0xFF, 7) * 50,
        "data on no stream": START + frame(DATA, b"x", 0, 0) + frame(DATA, b"x", 0, 9),
        "bad HPACK": START + frame(HEADERS, b"\xff" * 200, END_HEADERS, 1),
        "index of HPACK beyond": START + frame(HEADERS, b"\xbf\xff\xff\xff", END_HEADERS, 1),
        "table of HPACK": START + frame(HEADERS, b"\x3f\xe1\xff\xff\xff\x7f", END_HEADERS, 1),
        "continuation of nothing": START + frame(CONTINUATION, REQUEST, END_HEADERS, 1),
        "promise": START + frame(PUSH_PROMISE, bytes(8), END_HEADERS, 1),
        "window of nothing": START + frame(WINDOW_UPDATE, bytes(4)),
        "window beyond": START + frame(WINDOW_UPDATE, b"\x7f\xff\xff\xff") * 3,
        "settings of odd length": START + frame(SETTINGS, b"abcde"),
        "even stream": START + opened(2),
        "header in capitals": START
        + frame(HEADERS, REQUEST + literal(b"BAD", b"\x00\n"), END_HEADERS, 1),
        "going away": START + frame(GOAWAY, bytes(8)) * 100,
        "message without end": START
        + opened(1)
        + frame(DATA, b"\x00\x7f\xff\xff\xff" + NOISE[:99]),
        "message that is none": START + opened(1) + frame(DATA, b"\x02\x00\x00\x00\x09ABC", 1, 1),
    }.items(),
    ids=lambda sent: sent[0],
)
async def test_what_is_no_call_harms_nobody(served: Served, sent: tuple[str, bytes]) -> None:
    """Its sender may be cut off; others are answered meanwhile, and after it."""
    async with served.watched():
        await flood(served, sent[1])

    assert served.worst < SECONDS


@pytest.mark.parametrize(
    "sent",
    {
        "pings": frame(PING, bytes(8)) * 50_000,
        "settings": frame(SETTINGS, bytes(6)) * 20_000,
        "empty data": opened(1) + frame(DATA, b"", 0, 1) * 50_000,
        "rapid resets": b"".join(
            opened(each) + frame(RST_STREAM, bytes(4), 0, each) for each in range(1, 20_001, 2)
        ),
        "streams that say nothing": b"".join(opened(each) for each in range(1, 10_001, 2)),
        "headers without end": frame(HEADERS, REQUEST, 0, 1)
        + frame(CONTINUATION, literal(b"x", b"y" * 100) * 100, 0, 1) * 300,
        "headers that unpack": frame(
            HEADERS, REQUEST + b"\x40\x01a\x7e" + b"b" * 126 + b"\xbe" * 15_000, END_HEADERS, 1
        )
        * 20,
    }.items(),
    ids=lambda sent: sent[0],
)
async def test_a_flood_of_frames_starves_nobody(served: Served, sent: tuple[str, bytes]) -> None:
    """Its sender may be cut off; others are answered meanwhile, and after it."""
    async with served.watched():
        await flood(served, START + sent[1])

    assert served.worst < SECONDS


async def test_whoever_pings_much_is_not_cut_off(served: Served) -> None:
    """KEDA has one connection for all ScaledObjects; whatever pings on it must not end it."""
    pings = frame(PING, bytes(8)) * 10_000

    assert b"proven-idle" in await flood(served, START + pings + CALL, b"proven-idle")


async def test_connections_that_say_nothing(served: Served) -> None:
    """Two hundred that are opened and left open take nothing from the others."""
    idle = [await served.connect() for _ in range(200)]
    async with served.watched():
        await asyncio.sleep(0.1)
    for _, writer in idle:
        writer.close()

    assert served.worst < SECONDS


def _as_it_is(message: bytes) -> bytes:
    return message


async def status(
    served: Served, message: bytes, compression: grpc.Compression | None = None
) -> tuple[grpc.StatusCode, str]:
    """Send bytes as a message, and give what the call ended with."""
    options = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{served.port}", options) as channel:
        call = channel.unary_unary(PATH.decode(), _as_it_is, _as_it_is)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(message, timeout=10, compression=compression)
    return caught.value.code(), caught.value.details() or ""


@pytest.mark.parametrize(
    "message", [b"\xff" * 100, b"\x0a\x7fs3cret", b"\x1a\x04\x0a\x02\xff\xfe", NOISE[:5000]]
)
async def test_what_is_no_message_is_refused(served: Served, message: bytes) -> None:
    """Protobuf that is none; nothing of it is repeated."""
    code, details = await status(served, message)
    await served.call()

    assert code is grpc.StatusCode.UNKNOWN  # gRPC's own answer
    assert "s3cret" not in details


@pytest.mark.parametrize(
    ("compression", "mebibytes"),
    [(None, 1), (grpc.Compression.Gzip, 1), (grpc.Compression.Gzip, 30)],
)
async def test_a_message_has_a_bound(
    served: Served, compression: grpc.Compression | None, mebibytes: int
) -> None:
    """1 MiB, also if it is packed into a few kilobytes."""
    bomb = pb.ScaledObjectRef(name="x" * (mebibytes << 20)).SerializeToString()
    async with served.watched():
        code, _ = await status(served, bomb, compression)

    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert served.worst < SECONDS


@pytest.mark.parametrize(
    "metadata",
    [
        {f"key{number}": "x" for number in range(1000)},
        {f"pollSecond{number}": "x" for number in range(5000)},
        {"service": "x" * 1_000_000},
        {"k" * 1_000_000: "x"},
        {"engine": "\U0001f4a9\u202e%\u0301" * 5000},
        {"\u202e" * 1000 + "\U000e0041" * number: "\x00" for number in range(9)},
        {f"%{number}%%%%%%%%%%": "%" * 80 for number in range(100)},
        {"endpoints": ",".join(f"http://{'%25' * 70}{number}/" for number in range(64))},
        {"scalerAddress": "x:6000", "caCert": "x" * 900_000},
    ],
    ids=[
        "keys",
        "more keys",
        "value",
        "key",
        "unicode",
        "keys of it",
        "percents",
        "URLs",
        "KEDA's",
    ],
)
@pytest.mark.parametrize("method", ["GetMetricSpec", "IsActive", "StreamIsActive"])
async def test_a_bomb_of_metadata_is_an_error_like_any_other(
    served: Served, method: str, metadata: dict[str, str]
) -> None:
    """INVALID_ARGUMENT, in one piece that every client takes, and nobody waits for it."""
    ref = pb.ScaledObjectRef(name="bomb", namespace="models", scalerMetadata=metadata)
    async with served.watched():
        call = getattr(served.stub, method)(ref, timeout=5)
        code, details = await call.code(), await call.details()

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert len(details) <= MAX_TEXT + 3
    assert details.count("; ") <= 2 * MAX_PROBLEMS
    assert details.isascii()
    assert details.isprintable()
    assert served.worst < SECONDS


@pytest.mark.parametrize(
    ("namespace", "query"),
    [("..", "up"), ("models", 'up{namespace="other"} or vector(0)'), ("other/models", "up")],
)
@pytest.mark.parametrize("method", ["GetMetricSpec", "IsActive", "StreamIsActive"])
async def test_the_namespace_of_the_call_is_the_one_that_counts(
    served: Served, method: str, namespace: str, query: str
) -> None:
    """One that is none, and a query about another, get INVALID_ARGUMENT; the right one does not."""
    metadata = {"prometheus": "main", "wakeFrom": "query", "wakeQuery": query}
    ref = pb.ScaledObjectRef(name="llama", namespace=namespace, scalerMetadata=metadata)
    assert await getattr(served.stub, method)(ref, timeout=5).code() is (
        grpc.StatusCode.INVALID_ARGUMENT
    )
    ref.namespace = "models" if query == "up" else "other"
    assert (await served.stub.GetMetricSpec(ref, timeout=5)).metricSpecs


async def test_long_names_are_refused(served: Served) -> None:
    """Of a ScaledObject, which would be kept; and of a metric, which is repeated in part."""
    for ref in (
        pb.ScaledObjectRef(name="x" * MAX_REFERENCE_BYTES, namespace="models"),
        pb.ScaledObjectRef(name="x", namespace="x" * MAX_REFERENCE_BYTES),
    ):
        ref.scalerMetadata["service"] = "llama"
        code, _ = await status(served, ref.SerializeToString())
        assert code is grpc.StatusCode.INVALID_ARGUMENT
    request = pb.GetMetricsRequest(scaledObjectRef=REF, metricName="é" * 500_000)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.stub.GetMetrics(request, timeout=5)

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert len(caught.value.details() or "") < 1000
