"""The GPUs of the scaler's own node, matched to replicas."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fake_kubelet import Kubelet, pod
from fake_nvml import FakeDriver
from keda_scaler.core.readings import Replica, Value
from keda_scaler.engines.devices import DeviceReadings
from keda_scaler.sources.kubernetes import Endpoint
from keda_scaler.sources.localgpus import FRESH_SECONDS, RETRY_SECONDS, LocalGpus

NEAR = Endpoint(Replica("http://127.0.0.1:8000"), "http://127.0.0.1:8000/metrics")
FAR = Endpoint(Replica("llama-0"), "http://10.0.0.1:8000/metrics")


class Node:
    """A node whose clock the test moves."""

    def __init__(self, socket: Path) -> None:
        self.now = 1000.0
        self.gpus = LocalGpus(lambda: self.now, socket)

    async def memory(self, endpoint: Endpoint) -> float | str:
        found = (await self.gpus.of("models", endpoint)).memory
        return found.number if isinstance(found, Value) else found.reason


@pytest.fixture
async def node(path: Path) -> AsyncIterator[Node]:
    made = Node(path)
    yield made
    await made.gpus.aclose()


async def test_a_replica_on_this_host_has_all_of_its_gpus(driver: FakeDriver, node: Node) -> None:
    """Without a kubelet there is one machine, and what serves on loopback is on it."""
    driver.play("gpus 2", "used 0 250", "utilization 0 50", "used 1 750")

    found = await node.gpus.of("models", NEAR)

    assert found == DeviceReadings(Value(0.5, 1000.0, 2), Value(0.25, 1000.0, 2))
    assert "no GPU of the scaler's own node is the replica's" in str(await node.memory(FAR))


async def test_the_kubelet_says_which_gpus_are_a_pods(
    driver: FakeDriver, node: Node, kubelet: Kubelet
) -> None:
    """A pod's pressure is that of its own GPUs, whoever else is on the node."""
    driver.play("gpus 2", "used 0 250", "used 1 750")
    kubelet.pods = [pod("llama-0", "GPU-00000001"), pod("other", "GPU-00000000")]

    assert await node.memory(FAR) == 0.75


async def test_one_reading_serves_all_for_a_moment(driver: FakeDriver, node: Node) -> None:
    """However many replicas ask, the driver is asked once a second."""
    driver.play("gpus 1", "used 0 250")
    assert await node.memory(NEAR) == 0.25
    driver.play("gpus 1", "used 0 500")

    assert await node.memory(NEAR) == 0.25
    node.now += FRESH_SECONDS
    assert await node.memory(NEAR) == 0.5


async def test_a_gpu_that_is_lost_makes_its_replica_unknown(driver: FakeDriver, node: Node) -> None:
    """What cannot be read is not left out of a sum."""
    driver.play("gpus 2", "used 0 250", "lost 1")

    assert "GPU 1" in str(await node.memory(NEAR))


async def test_without_a_driver_it_is_unknown_and_tried_again_later(
    driver: FakeDriver, node: Node
) -> None:
    """A node without NVIDIA's driver costs one look a minute."""
    driver.play("fail init 9")
    assert "the scaler's own node neither" in str(await node.memory(NEAR))
    driver.play("gpus 1", "used 0 250")

    assert isinstance(await node.memory(NEAR), str)
    node.now += RETRY_SECONDS
    assert await node.memory(NEAR) == 0.25
