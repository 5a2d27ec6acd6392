"""A fake driver for tests of GPUs."""

import ctypes
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fake_kubelet import Kubelet, listening
from fake_nvml import FakeDriver, build


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def driver(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    """The fake library; whoever loads one of its name later gets the one that is loaded."""
    ctypes.CDLL(str(library))
    fake = FakeDriver(tmp_path)
    fake.play()
    monkeypatch.setenv("FAKE_NVML", str(fake.script))
    return fake


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kubelet.sock"


@pytest.fixture
async def kubelet(path: Path) -> AsyncIterator[Kubelet]:
    async with listening(path) as servicer:
        yield servicer
