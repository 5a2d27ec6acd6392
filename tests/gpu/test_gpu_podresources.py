"""PodResources: a real gRPC server on a Unix socket, in the kubelet's place."""

import asyncio
import socket
from pathlib import Path

import grpc
import grpc.aio
import pytest

from fake_kubelet import Kubelet, listening, pod
from keda_scaler.errors import SourceError
from keda_scaler.gpu import podresources
from keda_scaler.gpu.podresources import MAX_LIST_BYTES, Holder, read_holders, to_holders
from keda_scaler.pb import podresources_pb2 as pb


async def test_devices_are_matched_by_uuid(kubelet: Kubelet, path: Path) -> None:
    """Whole GPUs and MIG devices; what is no GPU of NVIDIA's plugin is left out."""
    kubelet.pods = [
        pod("llama-0", "GPU-a", "GPU-b"),
        pod("qwen-0", "MIG-c"),
        pod("network", "0000:3b:00.1", "nvidia0", "0", ""),
        pod("none"),
    ]

    llama, qwen = (Holder("models", name, "engine") for name in ("llama-0", "qwen-0"))
    assert await read_holders(path) == {"GPU-a": (llama,), "GPU-b": (llama,), "MIG-c": (qwen,)}


def test_shares_of_a_gpu() -> None:
    """Every container that has a share holds the GPU; once, however many shares it has."""
    listing = pb.ListPodResourcesResponse(
        pod_resources=[pod("b", "GPU-a::3", "GPU-a::1"), pod("a", "GPU-a::0")]
    )

    holders = to_holders(listing)

    assert holders == {"GPU-a": (Holder("models", "a", "engine"), Holder("models", "b", "engine"))}


@pytest.mark.parametrize("name", ["absent", "absent/below", "file", "file/below"])
async def test_no_kubelet_is_no_error(tmp_path: Path, name: str) -> None:
    """Outside Kubernetes, or without the mount, there is just nobody who could say."""
    (tmp_path / "file").touch()

    assert await read_holders(tmp_path / name) is None


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (grpc.StatusCode.UNIMPLEMENTED, "the kubelet answers UNIMPLEMENTED"),
        (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "the kubelet refuses for now, or its list is too long",
        ),
    ],
)
async def test_a_kubelet_that_refuses(
    kubelet: Kubelet, path: Path, status: grpc.StatusCode, text: str
) -> None:
    """The reason is said, without the kubelet's own words."""
    kubelet.status = status

    with pytest.raises(SourceError) as raised:
        await read_holders(path)

    assert str(raised.value) == text


async def test_a_kubelet_that_hangs(
    kubelet: Kubelet, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bounded in time."""
    monkeypatch.setattr(podresources, "LIST_SECONDS", 0.2)
    kubelet.hangs = True

    with pytest.raises(SourceError, match=r"the kubelet does not answer within 0\.2 s"):
        await read_holders(path)


async def test_a_list_that_is_too_long(kubelet: Kubelet, path: Path) -> None:
    """Bounded in size."""
    kubelet.pods = [pod("x" * MAX_LIST_BYTES)]

    with pytest.raises(SourceError, match="its list is too long"):
        await read_holders(path)


async def test_a_socket_that_nobody_listens_on(path: Path) -> None:
    """As a kubelet leaves it behind: an error, not an empty answer; one that is back is asked."""
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    with pytest.raises(SourceError, match="cannot connect to the kubelet's socket"):
        await read_holders(path)

    await asyncio.to_thread(path.unlink)
    async with listening(path):
        assert await read_holders(path) == {}


async def test_a_path_that_cannot_be_looked_at(path: Path) -> None:
    """Said as what it is."""
    with pytest.raises(SourceError, match="cannot reach the kubelet's socket: File name too long"):
        await read_holders(path.with_name("x" * 300))
