"""A real gRPC server that answers as it is told, for tests of KEDA's side."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Never

import grpc
import grpc.aio

from keda_scaler.pb import externalscaler_pb2 as pb
from keda_scaler.pb.externalscaler_pb2_grpc import (
    ExternalScalerServicer,
    add_ExternalScalerServicer_to_server,
)


@dataclass(frozen=True)
class Refusal:
    """An error status in place of an answer."""

    code: grpc.StatusCode
    detail: str = "scripted"


class Hang:
    """No answer at all."""


def spec(name: str, target: float, whole: int = 0) -> pb.MetricSpec:
    """Give a metric spec."""
    return pb.MetricSpec(metricName=name, targetSizeFloat=target, targetSize=whole)


def specs(*given: pb.MetricSpec) -> pb.GetMetricSpecResponse:
    """Give an answer to GetMetricSpec."""
    return pb.GetMetricSpecResponse(metricSpecs=given)


def values(*numbers: float) -> pb.GetMetricsResponse:
    """Give an answer to GetMetrics."""
    given = [pb.MetricValue(metricName="any", metricValueFloat=number) for number in numbers]
    return pb.GetMetricsResponse(metricValues=given)


ACTIVE = pb.IsActiveResponse(result=True)
INACTIVE = pb.IsActiveResponse(result=False)


@dataclass
class ScriptedScaler(ExternalScalerServicer):
    """Answers each call with the next entry of its script; the last entry repeats."""

    spec_script: list[Any] = field(default_factory=lambda: [specs(spec("queue-depth", 5))])
    metrics_script: list[Any] = field(default_factory=lambda: [values(12)])
    active_script: list[Any] = field(default_factory=lambda: [ACTIVE])
    trailers: tuple[tuple[str, str], ...] = ()
    """What stands beside every answer to IsActive."""

    calls: list[str] = field(default_factory=list)
    references: list[pb.ScaledObjectRef] = field(default_factory=list)
    remaining: list[float | None] = field(default_factory=list)

    async def _play(
        self, call: str, script: list[Any], context: grpc.aio.ServicerContext[Any, Any]
    ) -> Any:
        self.calls.append(call)
        self.remaining.append(context.time_remaining())
        answer = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(answer, Refusal):
            await context.abort(answer.code, answer.detail)
        if isinstance(answer, Hang):
            await asyncio.Event().wait()
        return answer

    async def GetMetricSpec(self, request: pb.ScaledObjectRef, context: Any) -> Any:  # noqa: N802  # gRPC's name
        """Answer from the script."""
        self.references.append(request)
        return await self._play("GetMetricSpec", self.spec_script, context)

    async def GetMetrics(self, request: pb.GetMetricsRequest, context: Any) -> Any:  # noqa: N802  # gRPC's name
        """Answer from the script."""
        self.references.append(request.scaledObjectRef)
        return await self._play(f"GetMetrics {request.metricName}", self.metrics_script, context)

    async def IsActive(self, request: pb.ScaledObjectRef, context: Any) -> Any:  # noqa: N802  # gRPC's name
        """Answer from the script."""
        self.references.append(request)
        context.set_trailing_metadata(self.trailers)
        return await self._play("IsActive", self.active_script, context)

    def StreamIsActive(self, request: pb.ScaledObjectRef, context: Any) -> Never:  # noqa: N802  # gRPC's name
        """Fail: no test asks for it."""
        raise NotImplementedError

    def StreamMetricSpec(self, request: pb.ScaledObjectRef, context: Any) -> Never:  # noqa: N802  # gRPC's name
        """Fail: no test asks for it."""
        raise NotImplementedError


@asynccontextmanager
async def serving(
    scaler: ScriptedScaler, credentials: grpc.ServerCredentials | None = None
) -> AsyncIterator[str]:
    """Serve on a free port of loopback; give the address."""
    server = grpc.aio.server()
    add_ExternalScalerServicer_to_server(scaler, server)
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def manifest(address: str = "127.0.0.1:1", more: Iterable[str] = ()) -> str:
    """Give a ScaledObject with one external trigger."""
    lines = (
        "apiVersion: keda.sh/v1alpha1",
        "kind: ScaledObject",
        "metadata: {name: llm, namespace: models}",
        "spec:",
        "  scaleTargetRef: {name: llm}",
        *(f"  {line}" for line in more),
        "  triggers:",
        "  - type: external",
        f'    metadata: {{scalerAddress: "{address}", service: llm}}',
    )
    return "\n".join(lines) + "\n"
