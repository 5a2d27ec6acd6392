"""PodResources: which pods hold which GPUs, as the kubelet of this node says.

Device ids are matched by UUID, as NVIDIA's device plugin writes them: `GPU-...`, `MIG-...`, and
`GPU-...::3` for one share of a GPU that is time-sliced or under MPS. Others (numbered devices,
Google's `nvidia0`, network cards) are of no use here and are left out.
"""

import asyncio
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio

from keda_scaler.errors import SourceError
from keda_scaler.pb import podresources_pb2 as pb
from keda_scaler.pb.podresources_pb2_grpc import PodResourcesListerStub

SOCKET = Path("/var/lib/kubelet/pod-resources/kubelet.sock")
"""Where the kubelet listens; it belongs to root."""

LIST_SECONDS = 3.0
"""Longest time for one list; the kubelet answers from memory."""

MAX_LIST_BYTES = 16 << 20
"""Longest list; the kubelet's own limit."""

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_LIST_BYTES),
    ("grpc.use_local_subchannel_pool", 1),  # a kubelet that was away is dialled again at once
)


@dataclass(frozen=True, slots=True, order=True)
class Holder:
    """A container that a device is given to."""

    namespace: str
    pod: str
    container: str


Holders = Mapping[str, tuple[Holder, ...]]
"""By the UUID of a GPU or a MIG device, the containers that hold it or a share of it, in order."""


async def read_holders(socket: Path = SOCKET) -> Holders | None:
    """Ask the kubelet who holds which GPU; None when there is no kubelet's socket.

    Raises:
        SourceError: when it cannot be asked.

    """
    try:
        if not await asyncio.to_thread(_is_socket, socket):
            return None
        async with grpc.aio.insecure_channel(f"unix:{socket}", options=_OPTIONS) as channel:
            listing = await PodResourcesListerStub(channel).List(
                pb.ListPodResourcesRequest(), timeout=LIST_SECONDS
            )
    except OSError as error:
        raise SourceError(f"cannot reach the kubelet's socket: {error.strerror}") from error
    except grpc.aio.AioRpcError as error:
        raise SourceError(_explain(error.code())) from error
    return to_holders(listing)


def to_holders(listing: pb.ListPodResourcesResponse) -> Holders:
    """Turn the kubelet's list around: from devices to those who hold them."""
    holders: dict[str, set[Holder]] = {}
    for pod in listing.pod_resources:
        for container in pod.containers:
            holder = Holder(pod.namespace, pod.name, container.name)
            for device in container.devices:
                for uuid in filter(None, map(_uuid, device.device_ids)):
                    holders.setdefault(uuid, set()).add(holder)
    return {uuid: tuple(sorted(found)) for uuid, found in holders.items()}


def _uuid(device_id: str) -> str | None:
    uuid = device_id.partition("::")[0]
    return uuid if uuid.startswith(("GPU-", "MIG-")) else None


def _is_socket(path: Path) -> bool:
    """Whether there is a socket.

    Raises:
        OSError: when one may not even look.

    """
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _explain(code: grpc.StatusCode) -> str:
    """Say why there is no list. The status' own text is left out: it names paths and times."""
    match code:
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"the kubelet does not answer within {LIST_SECONDS:g} s"
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return "the kubelet refuses for now, or its list is too long"
        case grpc.StatusCode.UNAVAILABLE:
            return "cannot connect to the kubelet's socket: is this process root's?"
        case _:
            return f"the kubelet answers {code.name}"
