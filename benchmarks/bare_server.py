"""What ours is measured beside: a grpc.aio server that does nothing but send the same bytes back.

It runs on the same event loop and with the same options, takes requests as bytes and never parses
them. What is between it and ours is our code, protobuf included.
"""

import asyncio

import grpc
import uvloop
from keda_calls import METHOD, SERVICE, Context, constant_response

from keda_scaler.rpc.server import OPTIONS  # the same options, so that ours are not an advantage

_RESPONSE = constant_response()


async def _answer(request: bytes, context: Context) -> bytes:  # noqa: ARG001  # of gRPC
    return _RESPONSE


async def _serve() -> None:
    server = grpc.aio.server(options=OPTIONS)
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        METHOD: grpc.unary_unary_rpc_method_handler(_answer)
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"bare server      127.0.0.1:{port}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve())
