"""Streams: what they tell, and how they end."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from keda_scaler.core.readings import Replica, Value
from keda_scaler.core.signals import Signal
from keda_scaler.core.trigger import Accepts
from keda_scaler.pb import externalscaler_pb2 as pb
from keda_scaler.pb.externalscaler_pb2_grpc import ExternalScalerStub
from keda_scaler.rpc import servicer
from keda_scaler.rpc.server import Server
from keda_scaler.rpc.servicer import Servicer
from keda_scaler.rpc.streams import OpenStreams
from keda_scaler.store import Store, Target
from keda_scaler.telemetry import Telemetry

if TYPE_CHECKING:  # the stubs have it, the generated module does not
    from keda_scaler.pb.externalscaler_pb2_grpc import ExternalScalerAsyncStub

METADATA = {"service": "llama", "idleSeconds": "0"}
REF = pb.ScaledObjectRef(name="llama", namespace="default", scalerMetadata=METADATA)
THROUGH = pb.ScaledObjectRef(name="llama", scalerMetadata={"prometheus": "main"})


def ignore(_: Target) -> Callable[[], None]:
    return lambda: None


class Watched(Servicer):
    """A servicer over a store of its own, whose callers are noted."""

    def __init__(self, accepts: Accepts | None = None, age: float = 0.0) -> None:
        telemetry = Telemetry()
        self.targets: list[Target] = []
        self.store = Store(self._follow, telemetry.decided, time.monotonic)
        self.peers: set[str] = set()
        super().__init__(self.store, accepts or Accepts(), telemetry, age)

    def _follow(self, target: Target) -> Callable[[], None]:
        self.targets.append(target)
        target.listed([], time.monotonic())
        return lambda: None

    async def GetMetricSpec(  # noqa: N802
        self, request: pb.ScaledObjectRef, context: Any
    ) -> pb.GetMetricSpecResponse:
        self.peers.add(context.peer())
        return await super().GetMetricSpec(request, context)


@contextlib.asynccontextmanager
async def served(watched: Watched) -> AsyncIterator["ExternalScalerAsyncStub"]:
    server = Server(watched, "127.0.0.1:0", None)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield ExternalScalerStub(channel)
    await server.drain()
    watched.store.close()


def tell(target: Target, waiting: float) -> None:
    """Let the target's only replica have so many requests."""
    now = time.monotonic()
    target.listed([Replica("a")], now)
    target.read("a", dict.fromkeys(Signal, Value(waiting, now)))


async def read(stream: Any) -> Any:
    async with asyncio.timeout(10):
        return await stream.read()


async def test_every_stream_of_a_target_hears_of_an_edge() -> None:
    """KEDA may hold two for one ScaledObject; none takes the news from the other."""
    watched = Watched()
    async with served(watched) as stub:
        streams = [stub.StreamIsActive(REF) for _ in range(2)]
        assert [(await read(stream)).result for stream in streams] == [False, False]
        assert len(watched.targets) == 1
        assert watched.targets[0].streams == 2

        tell(watched.targets[0], 1)

        assert [(await read(stream)).result for stream in streams] == [True, True]
        for stream in streams:
            stream.cancel()


async def test_a_reader_that_does_not_read_misses_all_but_the_newest_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is queued for it, however often the state changes meanwhile."""
    monkeypatch.setattr(servicer, "PUSH_SECONDS", 0.001)
    watched = Watched()
    context: Any = None
    stream = watched.StreamIsActive(REF, context)
    assert not (await anext(stream)).result
    (target,) = watched.targets
    for newest in (True, False, True):
        for _ in range(100):
            tell(target, 1)
            tell(target, 0)
        tell(target, newest)
        async with asyncio.timeout(10):
            assert (await anext(stream)).result is newest
    await stream.aclose()
    watched.store.close()
    assert target.streams == 0


async def test_a_stream_that_has_nothing_to_repeat_rests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As many replicas answer as are wanted: it looks again after pushRepeatSeconds, not before."""
    looks = []

    def least(low: float, _: float) -> float:
        looks.append(low)
        return low

    monkeypatch.setattr(random, "uniform", least)
    watched = Watched()
    metadata = {"service": "llama", "targetQueueDepth": "5", "pushRepeatSeconds": "1"}
    context: Any = None
    stream = watched.StreamIsActive(pb.ScaledObjectRef(scalerMetadata=metadata), context)
    assert not (await anext(stream)).result
    (target,) = watched.targets
    tell(target, 1)
    assert (await anext(stream)).result

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(servicer.PUSH_SECONDS + 0.5):
            await anext(stream)
    assert len(looks) <= 3
    watched.store.close()


async def test_streams_end_with_ok_before_their_connection_is_too_old() -> None:
    """A client connects anew after the age, loses no call, and sees no stream end with an error."""
    age = 1.0
    watched = Watched(age=age)
    async with served(watched) as stub:
        began = time.monotonic()
        streams: list[Any] = [stub.StreamIsActive(REF), stub.StreamMetricSpec(REF)]
        for stream in streams:
            assert await read(stream) is not grpc.aio.EOF
        asked = 0
        async with asyncio.timeout(20):
            while len(watched.peers) < 2:
                await stub.GetMetricSpec(REF, timeout=5)
                asked += 1
                await asyncio.sleep(0.02)
        assert time.monotonic() - began > 0.8 * age
        for stream in streams:
            assert await read(stream) is grpc.aio.EOF
            assert await stream.code() is grpc.StatusCode.OK
        assert asked > 2


async def test_without_a_longest_age_connections_and_streams_stay() -> None:
    """0 is off."""
    streams = OpenStreams(0)
    with streams.opened(lambda: None) as stream:
        assert not stream.ended
    watched = Watched(age=0)
    async with served(watched) as stub:
        await stub.GetMetricSpec(REF)
        await stub.GetMetricSpec(REF)
    assert len(watched.peers) == 1


@pytest.mark.looptime
async def test_streams_of_one_moment_end_apart() -> None:
    """Each lives 80 to 95 percent of the age, so that KEDA does not reopen all of them at once."""
    loop = asyncio.get_running_loop()
    streams = OpenStreams(3600)

    async def lived() -> float:
        began, woken = loop.time(), asyncio.Event()
        with streams.opened(woken.set) as stream:
            await woken.wait()
            assert stream.ended
        return loop.time() - began

    ages = sorted(await asyncio.gather(*(lived() for _ in range(50))))

    assert 0.8 * 3600 <= ages[0] < ages[-1] <= 0.95 * 3600
    assert ages[-1] - ages[0] > 60


@pytest.mark.looptime
async def test_a_stream_that_is_over_leaves_nothing_behind() -> None:
    """Its client went away long before it was too old."""
    woken: list[bool] = []
    streams = OpenStreams(3600)
    with streams.opened(lambda: woken.append(True)):
        pass
    await asyncio.sleep(3600)
    streams.wake()
    streams.end()

    assert not woken


async def test_a_stream_that_is_opened_at_shutdown_ends_at_once() -> None:
    """Also one that comes after the others were ended."""
    watched = Watched()
    async with served(watched) as stub:
        watched.end_streams()
        for stream in (stub.StreamIsActive(REF), stub.StreamMetricSpec(REF)):
            assert await read(stream) is grpc.aio.EOF
            assert await stream.code() is grpc.StatusCode.OK


async def test_specs_are_sent_again_when_they_change_and_only_then() -> None:
    """The message equals what GetMetricSpec gives from then on."""
    watched = Watched()
    async with served(watched) as stub:
        stream = stub.StreamMetricSpec(REF)
        first = await read(stream)

        await watched.accept(Accepts(defaults={"pollSeconds": "2"}), ignore)
        await watched.accept(Accepts(defaults={"targetQueueDepth": "8"}), ignore)
        second = await read(stream)

        assert first != second == await stub.GetMetricSpec(REF)
        assert [spec.targetSizeFloat for spec in second.metricSpecs] == [8.0]
        watched.end_streams()
        assert await read(stream) is grpc.aio.EOF


async def test_a_trigger_that_is_refused_ends_its_streams_with_the_problem() -> None:
    """As a new call would get it, and the call after it is accepted again works."""
    main = Accepts(prometheus=frozenset({"main"}))
    watched = Watched(main)
    async with served(watched) as stub:
        streams: list[Any] = [stub.StreamIsActive(THROUGH), stub.StreamMetricSpec(THROUGH)]
        other = stub.StreamIsActive(REF)
        for stream in (*streams, other):
            await read(stream)

        (dropped,) = (target for target in watched.targets if target.trigger.prometheus)
        await watched.accept(Accepts(), ignore)

        for call in (*(stream.read() for stream in streams), stub.IsActive(THROUGH)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "prometheus: got 'main'" in (caught.value.details() or "")
        assert len(watched.store) == 1
        await watched.accept(main, watched._follow)
        assert not (await stub.IsActive(THROUGH)).result
        tell(dropped, 0)
        assert dropped._timer is None  # a late reading does not make it tick again
        other.cancel()


async def test_a_call_that_waits_for_a_reading_hears_that_its_trigger_is_refused() -> None:
    """It does not answer about a target that is gone."""
    watched = Watched(Accepts(prometheus=frozenset({"main"})))
    watched.store._follow = ignore
    async with served(watched) as stub:
        call = asyncio.ensure_future(stub.IsActive(THROUGH))
        async with asyncio.timeout(10):
            while not len(watched.store):
                await asyncio.sleep(0.001)
        await watched.accept(Accepts(), ignore)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_answers_of_the_old_trigger_are_not_given_by_the_new_one() -> None:
    """What was made of a decision does not outlive the trigger that it was made for."""
    watched = Watched()
    async with served(watched) as stub:
        memory = pb.GetMetricsRequest(scaledObjectRef=REF, metricName="gpu-memory-pressure")
        queue = pb.GetMetricsRequest(scaledObjectRef=REF, metricName="queue-depth")
        await stub.GetMetrics(memory)
        await stub.IsActive(REF)
        tell(watched.targets[0], 3)

        await watched.accept(Accepts(defaults={"targetQueueDepth": "8"}), ignore)

        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetMetrics(memory)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert (await stub.GetMetrics(queue)).metricValues[0].metricValueFloat == 3.0
        assert (await stub.IsActive(REF)).result
