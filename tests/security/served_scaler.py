"""A scaler on a real port, whose targets all have no replica; and who asks it."""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from keda_scaler.core.trigger import Accepts
from keda_scaler.pb import externalscaler_pb2 as pb
from keda_scaler.pb.externalscaler_pb2_grpc import ExternalScalerStub
from keda_scaler.rpc.server import Server
from keda_scaler.rpc.servicer import Servicer
from keda_scaler.store import Store, Target
from keda_scaler.telemetry import Telemetry

if TYPE_CHECKING:  # the stubs have it, the generated module does not
    from keda_scaler.pb.externalscaler_pb2_grpc import ExternalScalerAsyncStub

REF = pb.ScaledObjectRef(name="llama", namespace="models", scalerMetadata={"service": "llama"})


@dataclass
class Served:
    """A scaler, and a client that behaves."""

    port: int
    channel: grpc.aio.Channel
    stub: "ExternalScalerAsyncStub"
    worst: float = 0.0
    """The longest that a call of the client has taken, in seconds."""

    async def call(self) -> None:
        began = time.monotonic()
        assert not (await self.stub.IsActive(REF, timeout=10)).result
        self.worst = max(self.worst, time.monotonic() - began)

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Go on calling, from the client's one connection, while inside and once after."""

        async def watch() -> None:
            while True:
                await self.call()
                await asyncio.sleep(0.01)

        self.worst = 0.0
        watching = asyncio.create_task(watch())
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await self.call()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)


def _without_replicas(target: Target) -> Callable[[], None]:
    target.listed([], math.inf)
    return lambda: None


@contextlib.asynccontextmanager
async def scaler() -> AsyncIterator[Served]:
    """Serve while inside."""
    telemetry = Telemetry()
    store = Store(_without_replicas, telemetry.decided, time.monotonic)
    accepts = Accepts(prometheus=frozenset({"main"}))
    server = Server(Servicer(store, accepts, telemetry), "127.0.0.1:0", None)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        served = Served(server.port, channel, ExternalScalerStub(channel))
        await served.call()
        yield served
    await server.drain()
    store.close()
