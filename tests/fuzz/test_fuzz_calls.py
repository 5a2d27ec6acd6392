"""Whatever KEDA, reporters or anybody else send is answered or refused, and is never our fault.

`make fuzz` runs these for longer.
"""

import contextlib
import http.client
import json
import socket
import struct
from collections.abc import Iterator

import grpc
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz_scaler import TOKEN, Running, running
from keda_scaler.core.trigger import (
    KEDA_KEYS,
    MAX_PROBLEMS,
    Accepts,
    Trigger,
    parse_trigger,
)
from keda_scaler.errors import TriggerError
from keda_scaler.pb import externalscaler_pb2 as pb
from keda_scaler.rpc import servicer
from keda_scaler.rpc.convert import MAX_TEXT, to_metric_specs

SERVICE = "/externalscaler.ExternalScaler/"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
ACCEPTS = Accepts(prometheus=frozenset({"main"}), reports=True)


@pytest.fixture(scope="module")
def scaler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Run a scaler that waits for no first reading: most targets here never have one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(servicer, "FIRST_READING_SECONDS", 0.001)
        with running(tmp_path_factory.mktemp("scaler")) as scaler:
            yield scaler


@pytest.fixture(scope="module")
def channel(scaler: Running) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{scaler.grpc_port}") as channel:
        yield channel


keys = st.sampled_from([*Trigger.keys(), *KEDA_KEYS]) | st.text(max_size=20)
values = st.sampled_from(
    [
        *(
            "0",
            "1",
            "5",
            "-1",
            "nan",
            "inf",
            "1e400",
            "85%",
            "9" * 400,
            "1" * 5000,
            "²",
            "٣",
            "0x1",
        ),
        *("auto", "vllm", "reports", "epp", "query", "main", "llama", "llama.other", "127.0.0.1"),
        *("http://127.0.0.1:9/metrics", "http://127.0.0.1:9/?a=b", "http://[::1]:9/", "http://[::"),
        *(
            "http://127.0.0.1:99999/",
            "http://a@b",
            "//x",
            "/metrics",
            "/a b",
            "\x00",
            "\u202e",
            ",",
        ),
        *('job="x"', 'job=~"["', 'namespace="x"', "up", "up[5m]", "sum(", "-" * 99, "vector(0)"),
    ]
) | st.text(max_size=30)
metadata = st.dictionaries(keys, values, max_size=8)
names = st.sampled_from(["models", "llama", "", "..", "a/b", "A"]) | st.text(max_size=9)


@given(metadata, st.none() | names)
def test_fuzz_a_trigger(metadata: dict[str, str], namespace: str | None) -> None:
    """It is parsed, or refused with a few problems of which each is one short line."""
    try:
        trigger = parse_trigger(metadata, ACCEPTS, namespace)
    except TriggerError as error:
        problems = error.problems
        assert 0 < len(problems) <= MAX_PROBLEMS + 1
        assert max(map(len, problems)) < 1000
    else:
        assert len(to_metric_specs(trigger).metricSpecs) == len(trigger.metrics) > 0


references = st.builds(
    lambda name, namespace, given: pb.ScaledObjectRef(
        name=name, namespace=namespace, scalerMetadata=given
    ),
    names,
    names,
    metadata,
)
messages = references | st.builds(
    lambda reference, metric: pb.GetMetricsRequest(scaledObjectRef=reference, metricName=metric),
    references,
    st.sampled_from(["queue-depth", "gpu-memory-pressure"]) | st.text(max_size=9),
)


@st.composite
def wire(draw: st.DrawFn) -> bytes:
    """Write a message, and perhaps damage it."""
    raw = bytearray(draw(messages).SerializeToString())
    for place in draw(st.lists(st.integers(0, max(0, len(raw) - 1)), max_size=3)):
        raw[place : place + 1] = draw(st.binary(max_size=3))
    return bytes(raw)


def is_message(kind: type[pb.ScaledObjectRef | pb.GetMetricsRequest], raw: bytes) -> bool:
    try:
        kind.FromString(raw)
    except DecodeError:
        return False
    return True


@given(st.sampled_from(["GetMetricSpec", "GetMetrics", "IsActive"]), wire() | st.binary())
def test_fuzz_a_message(channel: grpc.Channel, method: str, raw: bytes) -> None:
    """An answer or an error that says why; never INTERNAL, which would be a fault of ours."""
    call = channel.unary_unary(SERVICE + method, bytes, bytes)
    kind = pb.GetMetricsRequest if method == "GetMetrics" else pb.ScaledObjectRef
    try:
        call(raw, timeout=10)
    except grpc.RpcError as error:
        code, details = error.code(), error.details() or ""
        assert code.name in {
            *("INVALID_ARGUMENT", "UNAVAILABLE", "NOT_FOUND"),
            *([] if is_message(kind, raw) else ["UNKNOWN"]),
        }, details
        assert len(details) <= MAX_TEXT + 3


kinds = st.integers(0, 12)
frames = st.builds(
    lambda kind, flags, stream, payload: (
        struct.pack(">IBBI", len(payload), kind, flags, stream)[1:] + payload
    ),
    kinds,
    st.integers(0, 255),
    st.sampled_from([0, 1, 2, 3, 2**31 - 1, 2**31]),
    st.binary(max_size=60),
)


@given(st.lists(frames, max_size=12).map(b"".join) | st.binary(max_size=100), st.booleans())
@settings(max_examples=settings().max_examples // 2)
def test_fuzz_a_connection(
    scaler: Running,
    channel: grpc.Channel,
    sent: bytes,
    with_preface: bool,  # noqa: FBT001  # drawn
) -> None:
    """Bytes at the gRPC port: whatever becomes of their sender, others are answered."""
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", scaler.grpc_port), timeout=0.005) as connection,
    ):
        connection.sendall((PREFACE if with_preface else b"") + sent)
        while connection.recv(4096):
            pass
    reference = pb.ScaledObjectRef(name="x", namespace="models", scalerMetadata={"service": "x"})
    specs = channel.unary_unary(SERVICE + "GetMetricSpec", bytes, bytes)
    assert specs(reference.SerializeToString(), timeout=10)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
entries = st.dictionaries(
    st.sampled_from(["namespace", "name", "waiting", "running", "ttlSeconds", "reporter", "x"]),
    scalars | st.sampled_from(["models", "llama", 1, 10**9, [], {}]),
)
bodies = (
    (entries | st.lists(entries, max_size=4) | scalars).map(json.dumps).map(str.encode)
    | st.binary(max_size=60)
    | st.integers(1, 3000).map(lambda depth: b"[" * depth)
)
headers = st.dictionaries(
    st.sampled_from(["Content-Encoding", "Content-Type", "Accept", "X"]),
    st.sampled_from(["gzip", "identity", "100-continue", "application/json; charset=x", "\xff"]),
    max_size=3,
)
tokens = st.sampled_from([TOKEN, TOKEN, TOKEN, "", "x" * 5000, f"{TOKEN} {TOKEN}", "\xe9"])


@given(bodies, headers, tokens)
def test_fuzz_a_report(scaler: Running, body: bytes, headers: dict[str, str], token: str) -> None:
    """Taken, or refused in JSON; never 500, which would be a fault of ours."""
    connection = http.client.HTTPConnection("127.0.0.1", scaler.http_port, timeout=10)
    with contextlib.closing(connection):
        connection.request(
            "POST", "/v1/reports", body, headers | {"Authorization": f"Bearer {token}"}
        )
        answer = connection.getresponse()
        text = answer.read()
    assert answer.status in {200, 400, 401, 403, 417, 422, 429}, text
    if answer.getheader("Content-Type", "").startswith("application/json"):
        json.loads(text)
