"""The fake NVML: built from fake_nvml.c, and told what to play."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("fake_nvml.c")
LIBRARY = "libnvidia-ml.so.1"


def build(folder: Path) -> Path:
    """Compile the library into a folder; without a compiler skip, or fail in CI."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        assert not os.environ.get("CI"), "the fake NVML needs gcc"
        pytest.skip("the fake NVML needs gcc")
    library = folder / LIBRARY
    flags = ("-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", f"-Wl,-soname,{LIBRARY}")
    subprocess.run([compiler, *flags, "-o", library, SOURCE], check=True)
    return library


@dataclass(frozen=True, slots=True)
class FakeDriver:
    """What the library plays, in a file that it reads at every call."""

    folder: Path

    @property
    def script(self) -> Path:
        """The file; the environment variable FAKE_NVML names it."""
        return self.folder / "script"

    @property
    def calls(self) -> list[str]:
        """Every `init` and `shutdown` so far."""
        log = self.folder / "calls"
        return log.read_text().split() if log.exists() else []

    def play(self, *lines: str) -> None:
        """Play this from now on; `fake_nvml.c` lists what there is."""
        new = self.folder / "new"
        new.write_text("\n".join([*lines, f"log {self.folder / 'calls'}"]) + "\n")
        new.replace(self.script)  # the library never sees half of it
