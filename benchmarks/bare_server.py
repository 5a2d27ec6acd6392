"""What ours is measured beside: a grpc.aio server that does nothing but send the same bytes back.

It runs on the same event loop and with the same options, takes requests as bytes and never parses
them. Its streams send one message at once, and one to all whenever it gets SIGUSR1, a few at a time
as ours do. What is between it and ours is our code, protobuf included.
"""

import asyncio
import signal
from collections.abc import AsyncGenerator

import grpc
import uvloop
from keda_calls import SERVICE, Context, constant_responses

from keda_scaler.rpc.server import OPTIONS  # the same options, so that ours are not an advantage
from keda_scaler.rpc.streams import MAX_WRITERS

_RESPONSES = constant_responses()


class _Pushes:
    """What wakes all streams."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.writes = asyncio.Semaphore(MAX_WRITERS)

    def push(self) -> None:
        """Have every stream send its message again."""
        event, self.event = self.event, asyncio.Event()
        event.set()


def _unary(response: bytes) -> "grpc.RpcMethodHandler[bytes, bytes]":
    async def answer(request: bytes, context: Context) -> bytes:  # noqa: ARG001  # of gRPC
        return response

    return grpc.unary_unary_rpc_method_handler(answer)


def _stream(response: bytes, pushes: _Pushes) -> "grpc.RpcMethodHandler[bytes, bytes]":
    async def stream(request: bytes, context: Context) -> AsyncGenerator[bytes, None]:  # noqa: ARG001  # of gRPC
        while True:
            event = pushes.event
            async with pushes.writes:
                yield response
            await event.wait()

    return grpc.unary_stream_rpc_method_handler(stream)


async def _serve() -> None:
    pushes = _Pushes()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, pushes.push)
    server = grpc.aio.server(options=OPTIONS)
    handlers = {
        method: _stream(response, pushes) if method.startswith("Stream") else _unary(response)
        for method, response in _RESPONSES.items()
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"bare server      127.0.0.1:{port}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve())
