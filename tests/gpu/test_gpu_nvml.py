"""NVML: the real pynvml on a fake library."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fake_nvml import LIBRARY, FakeDriver
from keda_scaler.errors import SourceError
from keda_scaler.gpu.nvml import MAX_GPUS, Gpu, Nvml

LOST = "NVML: GPU is lost"


@pytest.fixture
async def nvml() -> AsyncIterator[Nvml]:
    reader = Nvml()
    yield reader
    await reader.aclose()


def gpu(number: int, used: int = 0, utilization: float = 0.0) -> Gpu:
    return Gpu(str(number), f"GPU-0000000{number}", "Fake H100", used, 1000, utilization)


def lost(number: int, uuid: str | None = None, name: str | None = None) -> Gpu:
    return Gpu(str(number), uuid, name, None, None, None, problem=LOST)


async def test_gpus_are_read(driver: FakeDriver, nvml: Nvml) -> None:
    """Identity, used and total bytes and the utilization of every GPU, anew at every reading."""
    driver.play("gpus 2", "used 0 250", "utilization 0 50")
    assert await nvml.read() == (gpu(0, 250, 0.5), gpu(1))

    driver.play("gpus 2", "used 0 300", "utilization 0 100", "used 1 1000")
    assert await nvml.read() == (gpu(0, 300, 1.0), gpu(1, 1000))
    assert driver.calls == ["init"]


async def test_no_gpu_is_an_answer(driver: FakeDriver, nvml: Nvml) -> None:
    """A driver without GPUs answers with none."""
    assert await nvml.read() == ()


async def test_gpus_are_bounded(driver: FakeDriver, nvml: Nvml) -> None:
    """However many the driver counts."""
    driver.play("gpus 100000")

    assert len(await nvml.read()) == MAX_GPUS


async def test_reserved_memory_is_in_the_total_and_not_in_used(
    driver: FakeDriver, nvml: Nvml
) -> None:
    """As nvidia-smi shows it; a driver that knows only the first version counts it as used."""
    driver.play("gpus 1", "used 0 250", "reserved 0 30")
    assert await nvml.read() == (gpu(0, 250),)

    for code in (13, 25):  # function not found, version mismatch
        driver.play("gpus 1", "used 0 250", "reserved 0 30", f"fail memory2 {code}")
        assert await nvml.read() == (gpu(0, 280),)


@pytest.mark.parametrize("line", ["used 0 2000", "used 0 -1"])
async def test_memory_that_makes_no_sense(driver: FakeDriver, nvml: Nvml, line: str) -> None:
    """More than there is, or less than nothing, is unknown."""
    driver.play("gpus 1", line)

    (found,) = await nvml.read()

    assert (found.used_bytes, found.total_bytes) == (None, None)
    assert "makes no sense" in (found.problem or "")


async def test_utilization_that_makes_no_sense(driver: FakeDriver, nvml: Nvml) -> None:
    """More than 100 % is unknown; the memory is known."""
    driver.play("gpus 1", "utilization 0 101")

    (found,) = await nvml.read()

    assert (found.used_bytes, found.utilization_ratio) == (0, None)
    assert found.problem == "utilization: 101 % makes no sense"


async def test_what_a_product_does_not_have_is_absent(driver: FakeDriver, nvml: Nvml) -> None:
    """Utilization that is not supported is no problem; memory that is not is one."""
    driver.play("gpus 1", "fail utilization 3")
    (found,) = await nvml.read()
    assert (found.utilization_ratio, found.used_bytes, found.problem) == (None, 0, None)

    driver.play("gpus 1", "fail memory 3", "utilization 0 50")
    (found,) = await nvml.read()
    assert (found.utilization_ratio, found.used_bytes) == (0.5, None)
    assert found.problem == "memory: NVML: Not Supported"


async def test_a_utilization_that_fails_is_said(driver: FakeDriver, nvml: Nvml) -> None:
    """The memory is read none the less."""
    driver.play("gpus 1", "fail utilization 999", "used 0 5")

    (found,) = await nvml.read()

    assert (found.used_bytes, found.utilization_ratio) == (5, None)
    assert found.problem == "utilization: NVML: Unknown Error"


async def test_a_lost_gpu_is_its_own_problem(driver: FakeDriver, nvml: Nvml) -> None:
    """The others are read; it keeps the identity that it had, and has none if never seen."""
    driver.play("gpus 2", "lost 0")
    assert await nvml.read() == (lost(0), gpu(1))

    driver.play("gpus 2")
    assert await nvml.read() == (gpu(0), gpu(1))
    driver.play("gpus 2", "lost 0", "fallen 1")
    assert await nvml.read() == (
        lost(0, "GPU-00000000", "Fake H100"),
        lost(1, "GPU-00000001", "Fake H100"),
    )


async def test_when_all_gpus_are_lost_the_driver_is_asked_anew(
    driver: FakeDriver, nvml: Nvml
) -> None:
    """A reset GPU comes back only to those who connect again."""
    driver.play("gpus 1", "lost 0")
    await nvml.read()
    driver.play("gpus 1")

    assert await nvml.read() == (gpu(0),)
    assert driver.calls == ["init", "shutdown", "init"]


async def test_a_gpu_that_is_gone_lends_its_identity_to_no_other(
    driver: FakeDriver, nvml: Nvml
) -> None:
    """Fewer GPUs than before: the indexes may mean others now."""
    driver.play("gpus 2")
    await nvml.read()
    driver.play("gpus 1", "lost 0")

    assert await nvml.read() == (lost(0),)


async def test_mig_devices_take_their_gpus_place(driver: FakeDriver, nvml: Nvml) -> None:
    """Each with its own memory, without utilization; empty places and the parent are not listed."""
    driver.play("gpus 2", "mig 0 3", "used 1 7")

    parent, name = "GPU-00000000", "Fake H100 MIG 1g"
    assert await nvml.read() == (
        Gpu("0:0", "MIG-00000000-0", name, 50, 100, None, parent),
        Gpu("0:2", "MIG-00000000-2", name, 150, 300, None, parent),
        gpu(1, 7),
    )


@pytest.mark.parametrize("code", [3, 13])
async def test_products_and_drivers_without_mig(driver: FakeDriver, nvml: Nvml, code: int) -> None:
    """That MIG is not supported, or not known, means that the GPU is whole."""
    driver.play("gpus 1", f"fail mig {code}")

    assert await nvml.read() == (gpu(0),)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (9, "the NVIDIA driver is not loaded"),
        (18, "the NVIDIA driver was replaced: restart this container to get its new library"),
        (4, "NVML: Insufficient Permissions"),
    ],
)
async def test_a_driver_that_cannot_be_asked(
    driver: FakeDriver, nvml: Nvml, code: int, text: str
) -> None:
    """The reason is said, and the next reading tries again."""
    driver.play(f"fail init {code}")
    with pytest.raises(SourceError) as raised:
        await nvml.read()
    assert str(raised.value) == text

    driver.play("gpus 1")
    assert await nvml.read() == (gpu(0),)


@pytest.mark.parametrize("function", ["count", "handle", "memory", "utilization", "mig"])
async def test_a_driver_that_goes_away_is_no_gpus_problem(
    driver: FakeDriver, nvml: Nvml, function: str
) -> None:
    """Whichever call finds out: the reading fails as a whole, until the driver is back."""
    driver.play("gpus 1")
    await nvml.read()
    driver.play("gpus 1", f"fail {function} 9")
    with pytest.raises(SourceError, match="the NVIDIA driver is not loaded"):
        await nvml.read()

    driver.play("gpus 1")
    assert await nvml.read() == (gpu(0),)
    assert driver.calls == ["init", "shutdown", "init"]


async def test_a_restarted_driver_is_connected_to_again(driver: FakeDriver, nvml: Nvml) -> None:
    """Within the same reading, once."""
    driver.play("gpus 1")
    await nvml.read()
    driver.play("gpus 1", "restart 1")
    assert await nvml.read() == (gpu(0),)

    driver.play("gpus 1", "restart 1", "fail memory 1")
    with pytest.raises(SourceError, match="NVML: Uninitialized"):
        await nvml.read()


async def test_a_call_that_hangs_is_an_error_and_begins_no_second(driver: FakeDriver) -> None:
    """In time, then at once, from one thread only; when the call comes back, readings are too."""
    nvml = Nvml(timeout_seconds=0.2)
    loop = asyncio.get_running_loop()
    driver.play("gpus 1", "hang memory")
    with pytest.raises(SourceError, match=r"NVML does not answer within 0\.2 s"):
        await nvml.read()
    began = loop.time()
    for _ in range(20):
        with pytest.raises(SourceError, match=r"NVML does not answer within 0\.2 s"):
            await nvml.read()
    assert loop.time() - began < 0.2
    assert [thread.name for thread in threading.enumerate()].count("nvml") == 1

    driver.play("gpus 1", "used 0 77")
    async with asyncio.timeout(10):
        while True:
            try:
                found = await nvml.read()
                break
            except SourceError:
                await asyncio.sleep(0.01)
    assert found == (gpu(0, 77),)
    await nvml.aclose()


async def test_concurrent_readers_share_a_reading(driver: FakeDriver, nvml: Nvml) -> None:
    """One of them that goes away does not take it from the other."""
    driver.play("gpus 1", "hang memory")
    first, second = asyncio.create_task(nvml.read()), asyncio.create_task(nvml.read())
    await asyncio.sleep(0.05)
    first.cancel()
    driver.play("gpus 1")

    assert await second == (gpu(0),)
    assert first.cancelled()


async def test_closing_lets_go_of_the_driver(driver: FakeDriver) -> None:
    """The thread ends; one that never read has nothing to end."""
    nvml = Nvml()
    await nvml.read()
    await nvml.aclose()
    await Nvml().aclose()

    assert driver.calls == ["init", "shutdown"]


READ = """
import asyncio
from keda_scaler.errors import SourceError
from keda_scaler.gpu.nvml import Nvml

async def main():
    try:
        print(await Nvml(timeout_seconds=1.0).read())
    except SourceError as error:
        print(error)

asyncio.run(main())
"""


def read_elsewhere(library_path: Path, script: Path) -> str:
    """Read once in a process of its own, which finds the library on its path."""
    env = os.environ | {"LD_LIBRARY_PATH": str(library_path), "FAKE_NVML": str(script)}
    ran = subprocess.run(
        [sys.executable, "-c", READ],
        env=env,
        capture_output=True,
        text=True,
        timeout=15,
        check=True,
    )
    return ran.stdout.strip()


def test_the_library_is_not_found(tmp_path: Path) -> None:
    """A node without a driver says so."""
    (tmp_path / LIBRARY).write_text("no library")

    text = read_elsewhere(tmp_path, tmp_path / "script")

    assert text == "no NVIDIA driver here: libnvidia-ml.so.1 is not found"


def test_a_hanging_call_does_not_keep_the_process(library: Path, tmp_path: Path) -> None:
    """It ends while the driver still hangs (20 s)."""
    fake = FakeDriver(tmp_path)
    fake.play("gpus 1", "hang count")

    assert read_elsewhere(library.parent, fake.script) == "NVML does not answer within 1 s"
