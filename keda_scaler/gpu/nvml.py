"""NVML: memory and utilization of this node's NVIDIA GPUs.

Rules. NVML is C, and a call into a driver in trouble may hang for good. So every call is made by
one worker thread, never by the event loop's; a reading that takes too long is an error, and until
it comes back no other is begun, nor is a second thread. The thread is a daemon: a hanging call does
not keep the process from ending. One GPU in trouble is that GPU's problem; only a driver that
cannot be asked at all makes the reading fail.

Memory. NVML's second version of the call tells used, free and reserved apart, and their sum is the
total: what the driver reserves for itself is in the total and not in used, as in nvidia-smi. Older
drivers know the first version only, which counts what is reserved as used.
"""

import asyncio
import contextlib
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from keda_scaler.errors import SourceError

READ_SECONDS = 3.0
"""Longest time for one reading of all GPUs; a healthy driver takes milliseconds."""

MAX_GPUS = 64
"""GPUs of one node that are read; four times as many as the largest servers have."""

MAX_MIG_DEVICES = 16
"""MIG devices of one GPU that are read; today's GPUs have 7 at most."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU, or a MIG device of one, and what could be read of it."""

    index: str
    """As NVIDIA's device plugin numbers it: `0`; for a MIG device `0:1`, its GPU's first."""

    uuid: str | None
    """`GPU-...` or `MIG-...`; None: the GPU was lost before it could be asked."""

    name: str | None
    """The product's name; None as for `uuid`."""

    used_bytes: int | None
    """Memory that is allocated; see the module for what the driver reserves."""

    total_bytes: int | None
    """All memory: used, free and reserved."""

    utilization_ratio: float | None
    """Share of the last sample period (up to 1 s) in which a kernel ran, 0 to 1; MIG devices and
    some products have none."""

    parent_uuid: str | None = None
    """The GPU that a MIG device is a part of; None: it is a whole GPU, or the parent is lost."""

    problem: str | None = None
    """Why memory or utilization is missing; None: all that the product has was read."""


class Nvml:
    """Reads the GPUs of this node. Use it from one event loop."""

    def __init__(self, timeout_seconds: float = READ_SECONDS) -> None:
        self._timeout_seconds = timeout_seconds
        self._jobs: SimpleQueue[Future[tuple[Gpu, ...]] | None] = SimpleQueue()
        self._worker: threading.Thread | None = None
        self._ended: Future[None] = Future()
        self._job: Future[tuple[Gpu, ...]] | None = None
        self._overdue: Future[tuple[Gpu, ...]] | None = None

    async def read(self) -> tuple[Gpu, ...]:
        """Read every GPU, in the order of their indexes. Concurrent callers share one reading.

        Raises:
            SourceError: when the driver is absent, fails as a whole, or does not answer in time.

        """
        if self._job is None or self._job.done():
            self._job = self._begin()
        job = self._job
        if job is not self._overdue:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timeout_seconds):
                    return await asyncio.wrap_future(job)
            self._overdue = job
        raise SourceError(f"NVML does not answer within {self._timeout_seconds:g} s")

    async def aclose(self) -> None:
        """Let go of the driver; a call that hangs is left behind."""
        self._jobs.put(None)
        if self._worker is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timeout_seconds):
                    await asyncio.wrap_future(self._ended)

    def _begin(self) -> Future[tuple[Gpu, ...]]:
        if self._worker is None:
            self._worker = threading.Thread(target=self._work, name="nvml", daemon=True)
            self._worker.start()
        job: Future[tuple[Gpu, ...]] = Future()
        job.set_running_or_notify_cancel()  # from now on, a reader that goes away cancels nothing
        self._jobs.put(job)
        return job

    def _work(self) -> None:
        """Serve readings until told to end; runs in the worker thread."""
        self._ended.set_running_or_notify_cancel()
        driver = _Driver()
        while (job := self._jobs.get()) is not None:
            try:
                job.set_result(driver.read())
            except Exception as error:  # noqa: BLE001  # the thread must live, the reader is told
                job.set_exception(error)
        driver.let_go()
        self._ended.set_result(None)


class _Driver:
    """The connection to the driver; the only user of pynvml. Lives in the worker thread."""

    def __init__(self) -> None:
        self._nvml: Any = None  # None: not connected
        self._identities: dict[int, tuple[str, str]] = {}
        """UUID and name by index, as last seen: a lost GPU cannot be asked for its own."""

    def read(self) -> tuple[Gpu, ...]:
        """Read every GPU; connect first where need be.

        Raises:
            SourceError: when the driver is absent or fails as a whole.

        """
        import pynvml  # noqa: PLC0415  # only where GPUs are read

        try:
            return self._read(pynvml)
        except pynvml.NVMLError as error:
            was_connected = self._nvml is not None
            self.let_go()
            if error.value != pynvml.NVML_ERROR_UNINITIALIZED or not was_connected:
                raise SourceError(_explain(pynvml, error)) from error
        try:
            return self._read(pynvml)  # the driver was restarted below us
        except pynvml.NVMLError as error:
            self.let_go()
            raise SourceError(_explain(pynvml, error)) from error

    def let_go(self) -> None:
        """Disconnect; the next reading connects anew."""
        nvml, self._nvml = self._nvml, None
        if nvml is not None:
            with contextlib.suppress(nvml.NVMLError):
                nvml.nvmlShutdown()

    def _read(self, nvml: Any) -> tuple[Gpu, ...]:
        if self._nvml is None:
            nvml.nvmlInit()
            self._nvml = nvml
        count = min(nvml.nvmlDeviceGetCount(), MAX_GPUS)
        if count < len(self._identities):
            self._identities.clear()  # a GPU is gone, and the others may have moved up
        gpus = tuple(gpu for index in range(count) for gpu in self._gpus(nvml, index))
        if gpus and all(gpu.total_bytes is gpu.utilization_ratio is None for gpu in gpus):
            self.let_go()  # perhaps it is not they but the connection
        return gpus

    def _gpus(self, nvml: Any, index: int) -> list[Gpu]:
        """Read one GPU, or its MIG devices when it is split into them."""
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            uuid, name = nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetName(handle)
            self._identities[index] = (uuid, name)
            if not _is_split(nvml, handle):
                return [_whole(nvml, handle, str(index), uuid, name)]
            return _parts(nvml, handle, str(index), uuid)
        except nvml.NVMLError as error:
            seen_uuid, seen_name = self._identities.get(index, (None, None))
            return [_unread(str(index), seen_uuid, seen_name, _text(nvml, error))]


def _whole(nvml: Any, handle: Any, index: str, uuid: str, name: str) -> Gpu:
    used, total, problem = _memory(nvml, handle)
    ratio, why_not = _utilization(nvml, handle)
    return Gpu(index, uuid, name, used, total, ratio, problem=problem or why_not)


def _is_split(nvml: Any, handle: Any) -> bool:
    """Whether MIG is on; most products and old drivers do not know it."""
    try:
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0] == nvml.NVML_DEVICE_MIG_ENABLE)
    except nvml.NVMLError as error:
        if error.value in {nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_FUNCTION_NOT_FOUND}:
            return False
        raise


def _parts(nvml: Any, handle: Any, index: str, parent_uuid: str) -> list[Gpu]:
    """Read the MIG devices of a GPU; not every place has one."""
    places = min(nvml.nvmlDeviceGetMaxMigDeviceCount(handle), MAX_MIG_DEVICES)
    found = []
    for place in range(places):
        own = f"{index}:{place}"
        try:
            part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)
            uuid, name = nvml.nvmlDeviceGetUUID(part), nvml.nvmlDeviceGetName(part)
        except nvml.NVMLError as error:
            if error.value != nvml.NVML_ERROR_NOT_FOUND:
                found.append(_unread(own, None, None, _text(nvml, error), parent_uuid))
            continue
        used, total, problem = _memory(nvml, part)
        found.append(Gpu(own, uuid, name, used, total, None, parent_uuid, problem))
    return found


def _unread(
    index: str, uuid: str | None, name: str | None, problem: str, parent_uuid: str | None = None
) -> Gpu:
    return Gpu(index, uuid, name, None, None, None, parent_uuid, problem)


def _memory(nvml: Any, handle: Any) -> tuple[int | None, int | None, str | None]:
    """Give used and total bytes, or neither and the reason why not."""
    try:
        used, total = _used_and_total(nvml, handle)
    except nvml.NVMLError as error:
        return None, None, f"memory: {_text(nvml, error)}"
    if not 0 <= used <= total:
        return None, None, f"memory: {used} of {total} bytes used makes no sense"
    return used, total, None


def _used_and_total(nvml: Any, handle: Any) -> tuple[int, int]:
    """Ask for the memory in the second version of the call, else the first.

    Used is reckoned from what is not: NVML's manuals disagree on whether used holds what is
    reserved, and free and reserved are the same in both readings.
    """
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle, nvml.nvmlMemory_v2)
    except nvml.NVMLError as error:
        if error.value not in {
            nvml.NVML_ERROR_FUNCTION_NOT_FOUND,
            nvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
        }:
            raise
    else:
        return memory.total - memory.free - memory.reserved, memory.total
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return memory.total - memory.free, memory.total


def _utilization(nvml: Any, handle: Any) -> tuple[float | None, str | None]:
    """Give the ratio, or the reason why there is none; neither where the product has none."""
    try:
        percent: int = nvml.nvmlDeviceGetUtilizationRates(handle).gpu
    except nvml.NVMLError as error:
        if error.value == nvml.NVML_ERROR_NOT_SUPPORTED:
            return None, None
        return None, f"utilization: {_text(nvml, error)}"
    if percent > 100:
        return None, f"utilization: {percent} % makes no sense"
    return percent / 100, None


def _text(nvml: Any, error: Any) -> str:
    """Say what is wrong with one GPU.

    Raises:
        NVMLError: the same error, when it is not the GPU's but the whole driver's.

    """
    if error.value in {
        nvml.NVML_ERROR_UNINITIALIZED,
        nvml.NVML_ERROR_DRIVER_NOT_LOADED,
        nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
    }:
        raise error
    return f"NVML: {error}"


def _explain(nvml: Any, error: Any) -> str:
    """Say why the driver cannot be asked."""
    match error.value:
        case nvml.NVML_ERROR_LIBRARY_NOT_FOUND:
            return "no NVIDIA driver here: libnvidia-ml.so.1 is not found"
        case nvml.NVML_ERROR_DRIVER_NOT_LOADED:
            return "the NVIDIA driver is not loaded"
        case nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
            return "the NVIDIA driver was replaced: restart this container to get its new library"
        case _:
            return f"NVML: {error}"
