"""A real gRPC server on a Unix socket, in the kubelet's place."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from keda_scaler.pb import podresources_pb2 as pb
from keda_scaler.pb.podresources_pb2_grpc import (
    PodResourcesListerServicer,
    add_PodResourcesListerServicer_to_server,
)


def pod(name: str, *device_ids: str, container: str = "engine") -> pb.PodResources:
    devices = [
        pb.ContainerDevices(resource_name="nvidia.com/gpu", device_ids=[i]) for i in device_ids
    ]
    return pb.PodResources(
        name=name,
        namespace="models",
        containers=[pb.ContainerResources(name=container, devices=devices)],
    )


class Kubelet(PodResourcesListerServicer):
    """Answers with the pods it is given."""

    def __init__(self) -> None:
        self.pods: list[pb.PodResources] = []
        self.status: grpc.StatusCode | None = None
        self.hangs = False

    async def List(self, request: pb.ListPodResourcesRequest, context: Any) -> Any:  # noqa: N802  # gRPC's name
        if self.hangs:
            await asyncio.Event().wait()
        if self.status:
            await context.abort(self.status, "at /var/lib/secret")
        return pb.ListPodResourcesResponse(pod_resources=self.pods)


@contextlib.asynccontextmanager
async def listening(path: Path) -> AsyncIterator[Kubelet]:
    server = grpc.aio.server()
    servicer = Kubelet()
    add_PodResourcesListerServicer_to_server(servicer, server)
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    yield servicer
    await server.stop(None)
