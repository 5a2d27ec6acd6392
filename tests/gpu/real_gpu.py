"""NVML beside nvidia-smi on a node that has a GPU, while its memory is taken and it is kept busy.

For `make gpu` alone: the file's name keeps it out of every other run. Nothing else should use the
first GPU meanwhile, and it must not be split into MIG devices.
"""

import asyncio
import contextlib
import csv
import os
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import aiohttp
import pytest

from engine_pages import capture
from keda_scaler.gpu.nvml import READ_SECONDS, Gpu, Nvml
from metrics_page import Page
from test_exporter import Client, process
from test_serve import FAST, serving

GIB = 2**30
TAKEN = 8 * GIB
SLACK = GIB
"""Most that a CUDA context takes beside what is asked for."""

SETTLE_SECONDS = 15.0
"""For the driver to free what a process had, and for utilization, a mean of up to a second."""

TRITON = capture("triton__ensemble-busy")


@dataclass(frozen=True, slots=True)
class Shown:
    """A GPU by nvidia-smi; memory in MiB, utilization in percent."""

    index: str
    uuid: str
    name: str
    used: int
    total: int


async def shown() -> list[Shown]:
    fields = "index,uuid,name,memory.used,memory.total"
    smi = await asyncio.create_subprocess_exec(
        *("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await smi.communicate()
    rows = csv.reader(output.decode().splitlines(), skipinitialspace=True)
    return [
        Shown(index, uuid, name, int(used), int(total)) for index, uuid, name, used, total in rows
    ]


@contextlib.asynccontextmanager
async def load(*flags: str) -> AsyncIterator[None]:
    """Have a process use the GPU that NVML calls the first."""
    script = str(Path(__file__).with_name("cuda_load.py"))
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, script, str(TAKEN), *flags),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
    )
    assert running.stdin
    assert running.stdout
    try:
        assert await running.stdout.readline() == b"taken\n"
        yield
    finally:
        running.stdin.close()
        await running.wait()


@pytest.fixture
async def nvml() -> AsyncIterator[Nvml]:
    reader = Nvml()
    yield reader
    await reader.aclose()


async def until(nvml: Nvml, is_so: Callable[[Gpu], bool]) -> Gpu:
    """Read the first GPU until it is as wanted; what it was last is in the failure."""
    gpu = (await nvml.read())[0]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_SECONDS):
            while not is_so(gpu):
                await asyncio.sleep(0.2)
                gpu = (await nvml.read())[0]
    assert is_so(gpu), gpu
    return gpu


async def test_it_is_what_nvidia_smi_shows(nvml: Nvml) -> None:
    """Every GPU, its names and its memory, reserved memory included."""
    gpus, expected = await nvml.read(), await shown()
    assert [(gpu.index, gpu.uuid, gpu.name) for gpu in gpus] == [
        (each.index, each.uuid, each.name) for each in expected
    ]
    for gpu, each in zip(gpus, expected, strict=True):
        assert gpu.problem is None
        assert gpu.total_bytes is not None
        assert gpu.used_bytes is not None
        assert gpu.total_bytes // 2**20 == each.total
        assert gpu.used_bytes / 2**20 == pytest.approx(each.used, abs=16)


async def test_a_reading_takes_milliseconds(nvml: Nvml) -> None:
    """Once connected, far below what a reading may take."""
    await nvml.read()
    began = perf_counter()
    for _ in range(20):
        await nvml.read()
    took = (perf_counter() - began) / 20
    print(f"one reading takes {took * 1e3:.1f} ms")  # noqa: T201  # for docs/exporter.md
    assert took < READ_SECONDS / 30


async def test_memory_that_a_process_takes_and_gives_back(nvml: Nvml) -> None:
    """It is seen as soon as it is taken, and no longer when the process has ended."""
    before = (await nvml.read())[0].used_bytes
    assert before is not None
    async with load():
        (gpu, *_), (each, *_) = await nvml.read(), await shown()
        assert gpu.used_bytes is not None
        assert TAKEN <= gpu.used_bytes - before <= TAKEN + SLACK
        assert gpu.used_bytes / 2**20 == pytest.approx(each.used, abs=16)
    await until(nvml, lambda gpu: gpu.used_bytes is not None and gpu.used_bytes < before + SLACK)


async def test_kernels_that_run_are_utilization(nvml: Nvml) -> None:
    """All the time while they do, and none without."""
    await until(nvml, lambda gpu: gpu.utilization_ratio == 0.0)
    async with load("--busy"):
        await until(nvml, lambda gpu: (gpu.utilization_ratio or 0.0) > 0.9)
    await until(nvml, lambda gpu: gpu.utilization_ratio == 0.0)


async def test_the_exporter_publishes_it(nvml: Nvml) -> None:
    """The command, as a process."""
    (gpu, *_) = await nvml.read()
    async with (
        process("--gpu", "--pod-resources", "/none") as (_, port),
        aiohttp.ClientSession() as session,
        load("--busy"),
    ):
        client = Client(session, port)
        series = await client.until(nvidia_driver_up=1, nvidia_gpu_utilization_ratio=1)
    own = f'{{"gpu": "0", "uuid": "{gpu.uuid}"}}'
    assert series[f"nvidia_gpu_up{own}"] == 1
    assert series[f"nvidia_gpu_memory_total_bytes{own}"] == gpu.total_bytes
    assert series[f"nvidia_gpu_memory_used_bytes{own}"] >= TAKEN


async def test_the_scaler_scales_on_it(nvml: Nvml) -> None:
    """A Triton on this node whose page says nothing of GPUs has them read by NVML."""
    total = (await nvml.read())[0].total_bytes
    assert total is not None
    page = Page("".join(line for line in TRITON.splitlines(keepends=True) if "nv_gpu" not in line))
    await page.start()
    metadata = {"endpoints": page.url, "engine": "triton", "gpuMemorySource": "device", **FAST}
    metadata |= {"targetGpuMemoryPressure": "50%", "targetGpuUtilization": "80%"}
    try:
        async with serving() as scaler, load("--busy"):
            async with asyncio.timeout(SETTLE_SECONDS):
                answer = await scaler.ask("models", metadata)
                while answer.values["gpu-utilization"] != 1.0:
                    await asyncio.sleep(0.5)
                    answer = await scaler.ask("models", metadata)
    finally:
        await page.stop()
    expected = pytest.approx((TAKEN + SLACK / 2) / total, abs=SLACK / total)
    assert answer.values["gpu-memory-pressure"] == expected
