"""The gRPC surface, over a real connection."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs

from keda_scaler import engines
from keda_scaler.core.readings import Engine, Readings, Replica, Value
from keda_scaler.core.signals import Signal
from keda_scaler.core.trigger import Accepts
from keda_scaler.errors import SettingsError
from keda_scaler.pb import externalscaler_pb2 as pb
from keda_scaler.pb.externalscaler_pb2_grpc import ExternalScalerStub
from keda_scaler.rpc import pushes, server, servicer
from keda_scaler.rpc.server import Server
from keda_scaler.rpc.servicer import Servicer
from keda_scaler.settings import Tls
from keda_scaler.store import Store, Target
from keda_scaler.telemetry import Telemetry

if TYPE_CHECKING:  # the stubs have it, the generated module does not
    from keda_scaler.pb.externalscaler_pb2_grpc import ExternalScalerAsyncStub

METADATA = {"service": "llama", "scalerAddress": "keda-scaler:6000"}
REF = pb.ScaledObjectRef(name="llama", namespace="default", scalerMetadata=METADATA)


@dataclass
class Harness:
    """A real server whose readings the test writes."""

    follow: Callable[[Target], None] = lambda _: None
    targets: list[Target] = field(default_factory=list)
    store: Store = field(init=False)
    server: Server = field(init=False)
    channel: grpc.aio.Channel = field(init=False)
    stub: "ExternalScalerAsyncStub" = field(init=False)

    def __post_init__(self) -> None:
        telemetry = Telemetry()
        self.store = Store(self._follow, telemetry.decided, time.monotonic)
        servicer = Servicer(self.store, Accepts(), telemetry)
        self.server = Server(servicer, "127.0.0.1:0", None)

    def _follow(self, target: Target) -> Callable[[], None]:
        self.targets.append(target)
        self.follow(target)
        return lambda: None


def answers(waiting: float, running: float = 0, kv: float = 0) -> Callable[[Target], None]:
    """Write one replica's readings as soon as a target is new."""

    def follow(target: Target) -> None:
        now = time.monotonic()
        target.listed([Replica("a")], now)
        target.read("a", reading(waiting, running, kv))

    return follow


def reading(waiting: float, running: float = 0, kv: float = 0) -> Readings:
    now = time.monotonic()
    return {
        Signal.QUEUE_DEPTH: Value(waiting, now),
        Signal.CONCURRENCY: Value(waiting + running, now),
        Signal.GPU_MEMORY_PRESSURE: Value(kv, now),
    }


def empty(target: Target) -> None:
    target.listed([], time.monotonic())


@contextlib.asynccontextmanager
async def serving(follow: Callable[[Target], None]) -> AsyncIterator[Harness]:
    harness = Harness(follow)
    await harness.server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{harness.server.port}") as channel:
        harness.channel = channel
        harness.stub = ExternalScalerStub(channel)
        yield harness
    await harness.server.drain()
    harness.store.close()


def metrics_of(name: str) -> pb.GetMetricsRequest:
    return pb.GetMetricsRequest(scaledObjectRef=REF, metricName=name)


async def next_result(stream: "grpc.aio.UnaryStreamCall[Any, pb.IsActiveResponse]") -> bool:
    message = await stream.read()
    assert isinstance(message, pb.IsActiveResponse)
    return message.result


async def status_of(call: object) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]  # a call of any response
    return caught.value.code(), caught.value.details() or ""


async def test_specs_are_a_function_of_the_metadata() -> None:
    """Names, both target fields, and no target is followed for it."""
    async with serving(empty) as harness:
        answer = await harness.stub.GetMetricSpec(REF)

        assert harness.targets == []
    assert [
        (spec.metricName, spec.targetSize, spec.targetSizeFloat) for spec in answer.metricSpecs
    ] == [
        ("queue-depth", 5, 5.0),
        ("gpu-memory-pressure", 1, 0.85),
    ]


async def test_one_value_for_the_name_asked_with_both_numbers() -> None:
    """KEDA sums what it gets and takes the float only when it is above 0."""
    async with serving(answers(12, 4, 0.25)) as harness:
        queue = await harness.stub.GetMetrics(metrics_of("queue-depth"))
        memory = await harness.stub.GetMetrics(metrics_of("gpu-memory-pressure"))

    assert [(v.metricName, v.metricValue, v.metricValueFloat) for v in queue.metricValues] == [
        ("queue-depth", 12, 12.0)
    ]
    assert [(v.metricValue, v.metricValueFloat) for v in memory.metricValues] == [(1, 0.25)]


async def test_zero_is_zero_in_both_numbers() -> None:
    """A stale integer beside a float of 0 would win."""
    async with serving(empty) as harness:
        answer = await harness.stub.GetMetrics(metrics_of("queue-depth"))

        assert not (await harness.stub.IsActive(REF)).result
    assert [(v.metricValue, v.metricValueFloat) for v in answer.metricValues] == [(0, 0.0)]


async def test_a_name_that_was_not_returned_is_not_found() -> None:
    """The error says which names there are."""
    async with serving(answers(1)) as harness:
        code, text = await status_of(harness.stub.GetMetrics(metrics_of("concurrency")))

    assert code is grpc.StatusCode.NOT_FOUND
    assert text == (
        "no metric 'concurrency' in this trigger; it has: queue-depth, gpu-memory-pressure"
    )


@pytest.mark.parametrize(
    "method", ["IsActive", "GetMetricSpec", "GetMetrics", "StreamIsActive", "StreamMetricSpec"]
)
async def test_every_call_lists_all_problems_of_a_trigger(method: str) -> None:
    """INVALID_ARGUMENT, with every problem at once."""
    wrong = pb.ScaledObjectRef(name="x", namespace="y", scalerMetadata={"engin": "a", "port": "b"})
    request = pb.GetMetricsRequest(scaledObjectRef=wrong) if method == "GetMetrics" else wrong
    async with serving(empty) as harness:
        call = getattr(harness.stub, method)(request)
        code, text = await status_of(call.read() if method.startswith("Stream") else call)

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "engin: unknown key; did you mean engine?" in text
    assert "no place to read from" in text
    assert "port: only with service" in text


@pytest.mark.parametrize("method", ["GetMetricSpec", "IsActive", "StreamIsActive"])
async def test_a_fault_of_ours_is_called_one(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its code, and in words that tell nobody what our code is about."""

    def fail(*_: object) -> None:
        raise RuntimeError("a detail of ours")

    monkeypatch.setattr(servicer, "parse_trigger", fail)
    with capture_logs() as logs:
        async with serving(empty) as harness:
            call = getattr(harness.stub, method)(REF)
            code, text = await status_of(call.read() if method.startswith("Stream") else call)

    assert code is grpc.StatusCode.INTERNAL
    assert text == "internal error, see the scaler's log"
    assert [line["rpc"] for line in logs] == [method]


async def test_many_stuck_replicas_do_not_break_the_answer() -> None:
    """What is said beside it stays below what clients take."""
    names = [f"{'a-long-name-of-a-pod' * 6}-{number}" for number in range(500)]

    def follow(target: Target) -> None:
        engine = Engine("vllm", reserves_memory=True, progress=7.0)
        now = time.monotonic()
        for at in (now - 10, now):
            told = dict.fromkeys((Signal.CONCURRENCY, Signal.QUEUE_DEPTH), Value(2, at))
            target.polled({Replica(name): (told, engine) for name in names}, at)

    reference = pb.ScaledObjectRef(name="llama", namespace="default", scalerMetadata=METADATA)
    reference.scalerMetadata["stuckSeconds"] = "10"
    async with serving(follow) as harness:
        call = harness.stub.IsActive(reference)
        assert (await call).result
        told = await call.trailing_metadata()
        warnings = [str(value) for key, value in told if key == "keda-scaler-warning"]

    assert warnings[0].startswith(f"{min(names)} is stuck")
    assert warnings[-1] == "490 more replicas are stuck"


async def test_what_is_unknown_is_said_at_once() -> None:
    """A new target whose source has failed is answered without waiting, with the reason."""

    def refuse(target: Target) -> None:
        target.unlisted("the API server refused the connection")

    async with serving(refuse) as harness:
        began = time.monotonic()
        for call in (
            harness.stub.IsActive(REF),
            harness.stub.GetMetrics(metrics_of("queue-depth")),
        ):
            assert await status_of(call) == (
                grpc.StatusCode.UNAVAILABLE,
                "activity was never known: the API server refused the connection",
            )
        assert time.monotonic() - began < 0.9 * servicer.FIRST_READING_SECONDS


async def test_what_was_never_read_is_held_at_once() -> None:
    """While replicas are listed: KEDA's race could take an error for inactive."""

    def refuse(target: Target) -> None:
        target.listed([Replica("a")], time.monotonic())
        target.read("a", engines.missing("cannot connect: refused"))

    async with serving(refuse) as harness:
        began = time.monotonic()
        assert (await harness.stub.IsActive(REF)).result
        assert not (await harness.stub.GetMetrics(metrics_of("queue-depth"))).metricValues
        assert time.monotonic() - began < 0.9 * servicer.FIRST_READING_SECONDS


async def test_a_new_target_waits_for_its_first_reading() -> None:
    """The one wait there is, and it ends with the reading."""

    def late(target: Target) -> None:
        asyncio.get_running_loop().call_later(0.05, answers(3), target)

    async with serving(late) as harness:
        assert (await harness.stub.IsActive(REF)).result


async def test_the_wait_for_a_first_reading_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that hangs costs a call one second, once KEDA holds its lock."""
    monkeypatch.setattr(servicer, "FIRST_READING_SECONDS", 0.05)
    async with serving(lambda _: None) as harness:
        code, text = await status_of(harness.stub.IsActive(REF))

    assert code is grpc.StatusCode.UNAVAILABLE
    assert text == "activity was never known: nothing was read yet"


async def test_the_hold_is_active_without_values() -> None:
    """KEDA and the HPA leave the replicas alone."""

    def held(target: Target) -> None:
        now = time.monotonic()
        target.listed([], now)
        target.listed([Replica("a", ready=False)], now)

    async with serving(held) as harness:
        values = await harness.stub.GetMetrics(metrics_of("queue-depth"))

        assert (await harness.stub.IsActive(REF)).result
    assert list(values.metricValues) == []


async def test_get_metrics_and_is_active_agree_across_a_change() -> None:
    """Two calls of one poll answer from one decision."""
    async with serving(empty) as harness:
        await harness.stub.GetMetrics(metrics_of("queue-depth"))
        answers(5)(harness.targets[0])

        assert not (await harness.stub.IsActive(REF)).result
        value = await harness.stub.GetMetrics(metrics_of("queue-depth"))
        assert value.metricValues[0].metricValueFloat == 5.0
        assert (await harness.stub.IsActive(REF)).result


async def test_a_stream_tells_the_state_at_once_and_every_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Open: the state. Idle to active: pushed. The same again: from time to time while active."""
    monkeypatch.setattr(pushes, "PUSH_SECONDS", 0.95)
    metadata = METADATA | {"pushRepeatSeconds": "1"}
    ref = pb.ScaledObjectRef(name="llama", namespace="default", scalerMetadata=metadata)
    async with serving(empty) as harness:
        stream = harness.stub.StreamIsActive(ref)
        assert not await next_result(stream)
        answers(12)(harness.targets[0])
        assert await next_result(stream)
        assert await next_result(stream)  # three are wanted, and one answers
        stream.cancel()


async def test_a_stream_repeats_nothing_once_enough_replicas_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every message keeps KEDA's cooldown from running."""
    monkeypatch.setattr(pushes, "PUSH_SECONDS", 0.95)
    metadata = METADATA | {"pushRepeatSeconds": "1", "idleSeconds": "0"}
    ref = pb.ScaledObjectRef(name="llama", namespace="default", scalerMetadata=metadata)
    async with serving(empty) as harness:
        stream = harness.stub.StreamIsActive(ref)
        assert not await next_result(stream)
        answers(1)(harness.targets[0])
        assert await next_result(stream)
        waited = asyncio.create_task(next_result(stream))
        done, _ = await asyncio.wait({waited}, timeout=1.5)
        assert not done
        answers(0)(harness.targets[0])
        assert not await waited
        stream.cancel()


async def test_a_stream_is_never_faster_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many changes become one message: only the latest state matters."""
    monkeypatch.setattr(pushes, "PUSH_SECONDS", 0.2)
    metadata = METADATA | {"idleSeconds": "0"}
    ref = pb.ScaledObjectRef(name="llama", namespace="default", scalerMetadata=metadata)
    async with serving(empty) as harness:
        stream = harness.stub.StreamIsActive(ref)
        assert not await next_result(stream)
        target = harness.targets[0]
        target.listed([Replica("a")], time.monotonic())
        for waiting in (1, 0) * 50 + (1,):
            target.read("a", reading(waiting))
        began = time.monotonic()
        assert await next_result(stream)
        assert time.monotonic() - began > 0.05
        stream.cancel()


async def test_two_streams_of_one_name_are_independent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """KEDA keeps the old stream open for a while when a ScaledObject changes."""
    monkeypatch.setattr(pushes, "PUSH_SECONDS", 0.01)
    other = pb.ScaledObjectRef(
        name="llama", namespace="default", scalerMetadata=METADATA | {"model": "m"}
    )
    async with serving(empty) as harness:
        one, two = harness.stub.StreamIsActive(REF), harness.stub.StreamIsActive(other)
        assert not await next_result(one)
        assert not await next_result(two)
        assert len(harness.targets) == 2
        changed = [each for each in harness.targets if each.trigger.model]
        answers(1)(changed[0])
        assert await next_result(two)
        one.cancel()
        two.cancel()


async def test_a_cancelled_stream_is_let_go() -> None:
    """Nothing is left of a stream whose client is gone."""
    async with serving(empty) as harness:
        stream = harness.stub.StreamIsActive(REF)
        await stream.read()
        assert harness.targets[0].streams == 1
        stream.cancel()
        async with asyncio.timeout(5):
            while harness.targets[0].streams:
                await asyncio.sleep(0.01)


async def test_specs_are_streamed_on_open() -> None:
    """StreamMetricSpec equals GetMetricSpec, and ends with OK."""
    async with serving(empty) as harness:
        stream = harness.stub.StreamMetricSpec(REF)
        assert await stream.read() == await harness.stub.GetMetricSpec(REF)
        await harness.server.drain()
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK


async def test_a_drain_says_so_ends_streams_with_ok_and_finishes_calls() -> None:
    """NOT_SERVING, then streams end with OK: KEDA comes back after 2 s and not after 60."""
    async with serving(lambda _: None) as harness:
        health: Any = health_pb2_grpc.HealthStub(harness.channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        idle = pb.ScaledObjectRef(name="idle", scalerMetadata=METADATA)
        stream = harness.stub.StreamIsActive(idle)
        await asyncio.wait_for(until(lambda: len(harness.targets) == 1), 5)
        empty(harness.targets[0])
        assert not await next_result(stream)
        under_way = asyncio.ensure_future(harness.stub.IsActive(REF))
        await asyncio.wait_for(until(lambda: len(harness.targets) == 2), 5)

        drained = asyncio.create_task(harness.server.drain())

        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK
        answers(1)(harness.targets[1])
        assert (await under_way).result
        await drained


async def test_calls_that_gRPC_has_not_handed_over_yet_finish_too() -> None:  # noqa: N802
    """Whoever got no answer asks on, elsewhere; a call that was sent before is never cancelled."""
    async with serving(answers(3)) as harness:
        codes: Counter[grpc.StatusCode] = Counter()

        async def ask_again_and_again() -> None:
            while True:
                call = harness.stub.GetMetrics(metrics_of("queue-depth"))
                code = await call.code()
                codes[code] += 1
                if code is not grpc.StatusCode.OK:
                    return

        asking = [asyncio.create_task(ask_again_and_again()) for _ in range(300)]
        await asyncio.wait_for(until(lambda: codes[grpc.StatusCode.OK] > 300), 10)

        await harness.server.drain()

        await asyncio.wait_for(asyncio.gather(*asking), 10)
        assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
        assert codes[grpc.StatusCode.UNAVAILABLE] == len(asking)


async def test_a_drain_ends_although_somebody_asks_without_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Answers are held back so that the line becomes empty, but not for ever."""
    monkeypatch.setattr(server, "HOLD_SECONDS", 0.2)
    async with serving(answers(3)) as harness:
        calls: list[Any] = []

        async def ask() -> None:
            while True:
                calls.append(harness.stub.IsActive(REF))
                await asyncio.sleep(0.005)

        asking = asyncio.create_task(ask())
        await asyncio.wait_for(until(lambda: len(calls) > 3), 5)

        await asyncio.wait_for(harness.server.drain(), 5)

        asking.cancel()
        codes = [await call.code() for call in calls]
        assert codes.count(grpc.StatusCode.OK) >= 10
        assert codes[0] is grpc.StatusCode.OK


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


async def test_all_methods_share_one_wait_for_the_next_call() -> None:
    """grpc.aio has one task for each wait, and looks at all of them for every call."""
    async with serving(empty) as harness:
        await harness.stub.GetMetricSpec(REF)
        waits = [
            name
            for task in asyncio.all_tasks()
            if "_request_" in (name := getattr(task.get_coro(), "__qualname__", ""))
        ]
    assert waits == ["AioServer._request_call"]


async def test_health_names_the_service() -> None:
    """Kubernetes probes ask for the whole server or for the service."""
    async with serving(empty) as harness:
        health: Any = health_pb2_grpc.HealthStub(harness.channel)
        for name in ("", "externalscaler.ExternalScaler"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_port_that_is_taken_is_an_error() -> None:
    """Two servers never share a port silently."""
    async with serving(empty) as harness:
        servicer = Servicer(harness.store, Accepts(), Telemetry())
        second = Server(servicer, f"127.0.0.1:{harness.server.port}", None)
        with pytest.raises(SettingsError, match="cannot listen"):
            await second.start()


@pytest.mark.blocks("certificates are read at start, and when a handshake finds them changed")
async def test_tls_mutual_tls_and_a_renewed_certificate(tmp_path: Path) -> None:
    """A client without a certificate is refused; a changed certificate is read again."""
    ca, client_ca = trustme.CA(), trustme.CA()
    files = Tls(tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "ca.pem")

    def write(authority: trustme.CA) -> None:
        issued = authority.issue_cert("localhost")
        issued.private_key_pem.write_to_path(files.key)
        files.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))

    write(ca)
    assert files.client_ca
    client_ca.cert_pem.write_to_path(files.client_ca)
    client = client_ca.issue_cert("keda")
    telemetry = Telemetry()
    store = Store(lambda _: lambda: None, telemetry.decided, time.monotonic)
    server = Server(Servicer(store, Accepts(), telemetry), "localhost:0", files)
    await server.start()

    async def specs(authority: trustme.CA, *, with_certificate: bool = True) -> int:
        credentials = grpc.ssl_channel_credentials(
            authority.cert_pem.bytes(),
            client.private_key_pem.bytes() if with_certificate else None,
            client.cert_chain_pems[0].bytes() if with_certificate else None,
        )
        async with grpc.aio.secure_channel(f"localhost:{server.port}", credentials) as channel:
            answer = await ExternalScalerStub(channel).GetMetricSpec(REF, timeout=5)
            return len(answer.metricSpecs)

    assert await specs(ca) == 2
    with pytest.raises(grpc.aio.AioRpcError):
        await specs(ca, with_certificate=False)
    renewed = trustme.CA()
    write(renewed)
    assert await specs(renewed) == 2
    await server.drain()


async def test_a_certificate_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """The error names the file."""
    files = Tls(tmp_path / "cert.pem", tmp_path / "key.pem", None)
    store = Store(lambda _: lambda: None, lambda *_: None, time.monotonic)
    server = Server(Servicer(store, Accepts(), Telemetry()), "127.0.0.1:0", files)

    with pytest.raises(SettingsError, match=r"key\.pem"):
        await server.start()
