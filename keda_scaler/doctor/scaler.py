"""Whether the scaler can be called as KEDA calls it: connection, TLS, health, reflection."""

import re
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from keda_scaler import KEDA_PROTO
from keda_scaler.doctor.checks import Check, fail, ok, skipped, warn
from keda_scaler.pb import externalscaler_pb2 as pb

CALL_SECONDS = 5.0
"""One call; KEDA's own polls wait without end."""

_SERVICE = pb.DESCRIPTOR.services_by_name["ExternalScaler"].full_name
_SERVING = health_pb2.HealthCheckResponse.SERVING
_Code = grpc.StatusCode


async def check_scaler(
    channel: grpc.aio.Channel, address: str, *, tls: bool
) -> AsyncGenerator[Check, None]:
    """Call a scaler: the first of the checks tells whether it can be reached at all."""
    how = "TLS" if tls else "plain text"
    health: Any = health_pb2_grpc.HealthStub(channel)
    error: grpc.aio.AioRpcError | None = None
    answer = None
    try:
        request = health_pb2.HealthCheckRequest(service=_SERVICE)
        answer = await health.Check(request, timeout=CALL_SECONDS)
    except grpc.aio.AioRpcError as failed:
        error = failed
    if error is not None and error.code() in {_Code.UNAVAILABLE, _Code.DEADLINE_EXCEEDED}:
        yield fail("scaler", f"{address} ({how}): {_why(error)}", _what_then(error, tls=tls))
        for name in ("health", "reflection"):
            yield skipped(name, "the scaler is not reached")
        return
    yield ok("scaler", f"{address} answers ({how}{', certificate accepted' if tls else ''})")
    if answer is not None and answer.status == _SERVING:
        yield ok("health", "SERVING")
    elif answer is not None:
        status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        yield fail("health", status, "it starts or drains; see its log and /readyz")
    else:
        yield warn("health", _why(error), "is this keda-scaler? Kubernetes' gRPC probes need it")
    yield await _reflection(channel)


def _why(error: grpc.aio.AioRpcError | None) -> str:
    """Say what went wrong, without gRPC's own list of addresses and times."""
    if error is None:
        return "no answer"
    if error.code() is _Code.DEADLINE_EXCEEDED:
        return f"no answer within {CALL_SECONDS:g} s"
    details = error.details() or "no details"
    found = re.search(r"(Ssl handshake failed.*|certificate verify failed.*)", details)
    return f"{error.code().name}: {found[1] if found else details}"


def _what_then(error: grpc.aio.AioRpcError, *, tls: bool) -> str:
    details = (error.details() or "").lower()
    if "certificate" in details or "ssl" in details or "handshake" in details:
        return (
            "give --ca-file the CA of its certificate, --cert-file and --key-file where it asks "
            "for one; without --tls-cert it serves plain text: then leave enableTLS out"
        )
    if "name resolution" in details or "dns" in details or "domain name" in details:
        return "from outside the cluster: kubectl port-forward, and --address localhost:6000"
    if not tls and ("socket closed" in details or "reset" in details or "goaway" in details):
        return "does it serve TLS? then the trigger needs enableTLS, and --ca-file here"
    return "does it run, and does its Service or NetworkPolicy let you in? --address says where"


async def _reflection(channel: grpc.aio.Channel) -> Check:
    asked = (
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=_SERVICE),
    )
    try:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[arg-type]  # as aio
        call = stub.ServerReflectionInfo(iter(asked), timeout=CALL_SECONDS)
        services, answer = await call.read(), await call.read()
    except grpc.aio.AioRpcError as error:
        return warn("reflection", _why(error), "grpcurl needs the proto then; KEDA does not ask")
    methods = _methods(answer)
    if _SERVICE not in _services(services):
        return fail("reflection", f"no service {_SERVICE}", "this is no external scaler: --address")
    level = KEDA_PROTO if "StreamMetricSpec" in methods else "2.20"
    return ok("reflection", f"{_SERVICE} with {len(methods)} calls, KEDA {level}")


def _services(answer: Any) -> list[str]:
    listed = getattr(answer, "list_services_response", None)  # none of EOF
    return [service.name for service in listed.service] if listed else []


def _methods(answer: Any) -> list[str]:
    found = getattr(answer, "file_descriptor_response", None)
    for content in found.file_descriptor_proto if found else ():
        for service in FileDescriptorProto.FromString(content).service:
            if service.name == _SERVICE.rpartition(".")[2]:
                return [method.name for method in service.method]
    return []
