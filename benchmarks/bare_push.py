"""What waking is measured beside: a bare handler that pushes what is posted to an open stream.

The same two servers as ours, on the same event loop and with the same options: aiohttp takes
reports, grpc.aio has StreamIsActive. Between them is nothing but a queue for each target: no token,
no check, no decision.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator

import grpc
import uvloop
from aiohttp import web
from keda_calls import SERVICE, Context

from keda_scaler.pb import externalscaler_pb2 as pb
from keda_scaler.rpc.server import OPTIONS  # the same options, so that ours are not an advantage

HOST = "127.0.0.1"


class Pushes:
    """What is posted, by the name of the ScaledObject."""

    def __init__(self) -> None:
        self._queues: defaultdict[str, asyncio.Queue[bool]] = defaultdict(asyncio.Queue)

    async def post(self, request: web.Request) -> web.Response:
        """Take one report, or several."""
        stated = await request.json()
        for report in stated if isinstance(stated, list) else [stated]:
            self._queues[report["name"]].put_nowait(report["waiting"] > 0)
        return web.json_response({})

    async def stream(self, request: bytes, context: Context) -> AsyncGenerator[bytes, None]:  # noqa: ARG002  # of gRPC
        """Say it on the stream."""
        queue = self._queues[pb.ScaledObjectRef.FromString(request).name]
        while True:
            yield pb.IsActiveResponse(result=await queue.get()).SerializeToString()


async def _serve() -> None:
    pushes = Pushes()
    server = grpc.aio.server(options=OPTIONS)
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "StreamIsActive": grpc.unary_stream_rpc_method_handler(pushes.stream)
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    grpc_port = server.add_insecure_port(f"{HOST}:0")
    await server.start()
    app = web.Application()
    app.router.add_post("/v1/reports", pushes.post)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0).start()
    print(f"streams          {HOST}:{grpc_port}", flush=True)
    print(f"reports          {HOST}:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve())
