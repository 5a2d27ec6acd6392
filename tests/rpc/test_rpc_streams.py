"""Streams: what they tell, and how they end."""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from keda_scaler.core.readings import Replica, Value
from keda_scaler.core.signals import Signal
from keda_scaler.core.trigger import Accepts
from keda_scaler.pb import externalscaler_pb2 as pb
from keda_scaler.pb.externalscaler_pb2_grpc import ExternalScalerStub
from keda_scaler.rpc import pushes, streams
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


class Peer:
    """Stands for the context of a call: takes messages, when it wants to."""

    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self.is_written = asyncio.Event()

    async def write(self, message: Any) -> None:
        assert not self.is_written.is_set(), "one message at a time"
        self.is_written.set()
        await self.reads.wait()
        self.is_written.clear()
        self.taken.append(message)


class Script:
    """Says what it is given next."""

    method = "StreamIsActive"

    def __init__(self, *messages: Any) -> None:
        self.messages = list(messages)
        self.is_over = False
        self.asked = 0

    def next(self, now: float) -> tuple[Any, float]:
        self.asked += 1
        message = self.messages.pop(0) if self.messages else None
        if isinstance(message, Exception):
            raise message
        return message, now + 60 if message == "again in a minute" else math.inf


class Line:
    """Streams that are served, each to a peer of its own."""

    def __init__(self, age: float = 0.0) -> None:
        self.streams = OpenStreams(age)
        self.wakes: list[Callable[[], None]] = []
        self.tasks: list[asyncio.Task[None]] = []

    def open(self, script: Any) -> Peer:
        peer = Peer()
        context: Any = peer

        @contextlib.contextmanager
        def listen(wake: Callable[[], None]) -> Iterator[None]:
            self.wakes.append(wake)
            yield

        self.tasks.append(asyncio.create_task(self.streams.serve(context, script, listen)))
        return peer


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_reader_that_does_not_read_misses_all_but_the_newest_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is queued for it, however often the state changes meanwhile."""
    monkeypatch.setattr(pushes, "PUSH_SECONDS", 0)
    watched = Watched()
    peer = Peer()
    context: Any = peer
    stream = asyncio.create_task(watched.StreamIsActive(REF, context))
    await turns()
    (target,) = watched.targets
    for newest in (True, False, True):
        peer.reads.clear()
        tell(target, newest)
        await peer.is_written.wait()
        for _ in range(100):
            tell(target, 0)
            tell(target, 1)
        tell(target, newest)
        peer.reads.set()
        await turns()
    stream.cancel()
    watched.store.close()
    await asyncio.gather(stream, return_exceptions=True)

    assert [message.result for message in peer.taken] == [False, True, False, True]
    assert target.streams == 0


@pytest.mark.looptime
async def test_readers_that_do_not_read_keep_others_waiting_for_a_moment_only() -> None:
    """However many of them there are: each takes a writer, and is replaced."""
    line = Line()
    loop = asyncio.get_running_loop()
    stuck = [line.open(Script("message")) for _ in range(5 * streams.MAX_WRITERS)]
    for peer in stuck:
        peer.reads.clear()
    began = loop.time()
    peer = line.open(Script("message"))

    while not peer.taken:
        await asyncio.sleep(0.01)

    assert loop.time() - began <= 6 * streams.WRITE_SECONDS
    assert len(line.streams._writers) <= len(stuck) + streams.MAX_WRITERS
    for task in line.tasks:
        task.cancel()
    for peer in stuck:
        peer.reads.set()
    await asyncio.gather(*line.tasks, return_exceptions=True)
    await turns()
    assert not line.streams._writers


async def test_calls_have_their_turn_while_all_streams_are_told() -> None:
    """Not more than a few messages are under way, and a look at all streams is no long one."""
    line = Line()
    scripts = [Script("first", "second") for _ in range(300)]
    peers = [line.open(script) for script in scripts]
    while not all(peer.taken for peer in peers):
        await asyncio.sleep(0)
    for script in scripts[:200]:
        script.messages.clear()

    line.streams.wake()
    rounds, most, before = 0, 0, sum(script.asked for script in scripts)
    while sum(len(peer.taken) for peer in peers) < 400:
        await asyncio.sleep(0)
        rounds += 1
        asked = sum(script.asked for script in scripts)
        most, before = max(most, asked - before), asked
        assert sum(peer.is_written.is_set() for peer in peers) <= streams.MAX_WRITERS

    assert rounds >= 10
    assert most <= streams.MAX_WRITERS
    line.streams.end()
    await asyncio.gather(*line.tasks)


async def test_a_stream_that_fails_ends_with_that_and_alone() -> None:
    """Whatever its pushes raise."""
    line = Line()
    line.open(Script(ValueError("by our fault")))
    peer = line.open(Script("message"))

    with pytest.raises(ValueError, match="by our fault"):
        await line.tasks[0]
    await turns()

    assert peer.taken == ["message"]
    line.streams.end()
    await line.tasks[1]


@pytest.mark.looptime
async def test_a_stream_is_asked_again_when_it_said_so() -> None:
    """And not before, unless it is woken."""
    line = Line()
    peer = line.open(Script("again in a minute", "second", "third"))
    await asyncio.sleep(59)
    assert peer.taken == ["again in a minute"]
    await asyncio.sleep(2)
    assert peer.taken == ["again in a minute", "second"]
    await asyncio.sleep(3600)
    assert len(peer.taken) == 2
    line.wakes[0]()
    await asyncio.sleep(0.1)
    assert len(peer.taken) == 3
    line.streams.end()
    await line.tasks[0]


async def test_a_message_that_is_under_way_comes_before_the_end() -> None:
    """A stream that is to end does so after it, with OK."""
    line = Line()
    peer = line.open(Script("message"))
    peer.reads.clear()
    await peer.is_written.wait()

    line.streams.end()
    await turns()
    assert not line.tasks[0].done()
    peer.reads.set()
    await line.tasks[0]

    assert peer.taken == ["message"]


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


@pytest.mark.looptime
async def test_without_a_longest_age_streams_stay() -> None:
    """0 is off."""
    line = Line(0)
    line.open(Script("message"))
    await asyncio.sleep(7 * 86400)
    assert not line.tasks[0].done()
    line.streams.end()
    await line.tasks[0]


async def test_without_a_longest_age_connections_stay() -> None:
    """0 is off there too."""
    watched = Watched(age=0)
    async with served(watched) as stub:
        await stub.GetMetricSpec(REF)
        await stub.GetMetricSpec(REF)
    assert len(watched.peers) == 1


@pytest.mark.looptime
async def test_streams_of_one_moment_end_apart() -> None:
    """Each lives 80 to 95 percent of the age, so that KEDA does not reopen all of them at once."""
    loop = asyncio.get_running_loop()
    line = Line(3600)
    began = loop.time()

    async def lived(task: asyncio.Task[None]) -> float:
        await task
        return loop.time() - began

    for _ in range(50):
        line.open(Script("message"))
    ages = sorted(await asyncio.gather(*map(lived, line.tasks)))

    assert 0.8 * 3600 <= ages[0] < ages[-1] <= 0.95 * 3600
    assert ages[-1] - ages[0] > 60


@pytest.mark.looptime
async def test_a_stream_that_is_over_leaves_nothing_behind() -> None:
    """Its client went away long before it was too old."""
    line = Line(3600)
    script = Script("again in a minute", "second")
    line.open(script)
    await asyncio.sleep(1)
    line.tasks[0].cancel()
    await asyncio.sleep(3600)
    line.wakes[0]()
    line.streams.wake()
    line.streams.end()
    await asyncio.sleep(1)

    assert script.messages == ["second"]
    assert not line.streams._open
    assert not line.streams._due


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
