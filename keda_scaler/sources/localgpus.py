"""The GPUs of the scaler's own node, for replicas that run on it.

For people with one machine, and for a scaler that runs as a DaemonSet. Which GPUs are a pod's is
said by the kubelet where its PodResources socket is mounted; a replica at a loopback address has
all GPUs of the node. Everything else is on another node, and has its GPUs read through Prometheus.
"""

import asyncio
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from keda_scaler.core.readings import Missing, Value
from keda_scaler.engines.devices import Device, DeviceReadings, combined
from keda_scaler.errors import SourceError
from keda_scaler.gpu.nvml import Gpu, Nvml
from keda_scaler.gpu.podresources import SOCKET, Holder, read_holders
from keda_scaler.sources.kubernetes import Endpoint
from keda_scaler.sources.sink import Clock

FRESH_SECONDS = 1.0
"""For this long one reading of the node serves every replica on it."""

RETRY_SECONDS = 60.0
"""Pause after NVML could not be used: a driver does not appear often."""

_Node = tuple[tuple[Gpu, ...], dict[str, tuple[Holder, ...]], float]


class LocalGpus:
    """Reads the node's GPUs when a trigger needs them, and not before."""

    def __init__(self, clock: Clock, socket: Path = SOCKET) -> None:
        self._clock = clock
        self._socket = socket
        self._nvml = Nvml()
        self._lock = asyncio.Lock()
        self._node: _Node | None = None
        self._failed: tuple[str, float] | None = None

    async def of(self, namespace: str, endpoint: Endpoint) -> DeviceReadings:
        """Read the GPUs of one replica."""
        try:
            gpus, holders, at = await self._read()
        except SourceError as error:
            return _unknown(f"no page says it, and the scaler's own node neither: {error}")
        if not holders and _is_loopback(endpoint.url):
            return _readings(gpus, at)
        held = [
            gpu
            for gpu in gpus
            if any(
                (holder.namespace, holder.pod) == (namespace, endpoint.replica.name)
                for holder in holders.get(gpu.uuid or "", ())
            )
        ]
        if not held:
            return _unknown("no page says it, and no GPU of the scaler's own node is the replica's")
        return _readings(held, at)

    async def aclose(self) -> None:
        """Let the driver go."""
        await self._nvml.aclose()

    async def _read(self) -> _Node:
        async with self._lock:
            now = self._clock()
            if self._node is not None and now < self._node[2] + FRESH_SECONDS:
                return self._node
            if self._failed is not None and now < self._failed[1]:
                raise SourceError(self._failed[0])
            try:
                gpus = await self._nvml.read()
                holders = await read_holders(self._socket)
            except SourceError as error:
                self._failed = (str(error), now + RETRY_SECONDS)
                raise
            self._node = (gpus, dict(holders or {}), now)
            return self._node


def _readings(gpus: tuple[Gpu, ...] | list[Gpu], at: float) -> DeviceReadings:
    """Combine GPUs; one that cannot be read makes the replica unknown, never smaller."""
    devices = []
    for gpu in gpus:
        if gpu.used_bytes is None or not gpu.total_bytes:
            return _unknown(f"GPU {gpu.index}: {gpu.problem or 'its memory cannot be read'}")
        devices.append(Device(gpu.used_bytes, gpu.total_bytes, gpu.utilization_ratio, at))
    return combined(devices) if devices else _unknown("the scaler's own node has no GPU")


def _unknown(reason: str) -> DeviceReadings:
    absent: Value | Missing = Missing(reason)
    return DeviceReadings(absent, absent)


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
