"""The wheel: what the image installs and others may. It holds the package, and runs on its own."""

import email
import re
import shutil
import signal
import subprocess
import sys
import tomllib
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from keda_scaler import __version__

ROOT = Path(__file__).parent.parent
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")

RUN = """\
import pathlib, runpy, sys
target, script = sys.argv[1:3]
others = [path for path in sys.path if not (pathlib.Path(path) / "keda_scaler").exists()]
sys.path[:] = [target, *others]
sys.argv = sys.argv[2:]
runpy.run_path(script, run_name="__main__")
"""
"""Runs a script with one package of ours on the path, and that is the wheel's."""

pytestmark = pytest.mark.xdist_group("wheel")  # which is built once


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build it as the Dockerfile does, from a copy of what that copies."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "keda_scaler", source / "keda_scaler", ignore=ignored)
    flags = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", built)
    subprocess.run([*PIP, "wheel", *flags, source], check=True, timeout=60)
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install it and nothing else into a folder."""
    target = tmp_path_factory.mktemp("installed")
    flags = ("--no-deps", "--no-index", "--no-compile", "--target", target)
    subprocess.run([*PIP, "install", *flags, wheel], check=True, timeout=60)
    return target


def command(installed: Path, *arguments: str) -> list[str]:
    """Give the command line of the installed keda-scaler."""
    script = installed / "bin" / "keda-scaler"
    return [sys.executable, "-c", RUN, str(installed), str(script), *arguments]


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    """Every module, the generated ones and the marker of types among them; no tests."""
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "keda_scaler").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    files = set(zipfile.ZipFile(wheel).namelist())
    info = f"keda_scaler-{__version__}.dist-info"

    assert wheel.name == f"keda_scaler-{__version__}-py3-none-any.whl"
    assert {name for name in files if not name.startswith(f"{info}/")} == package
    assert {"keda_scaler/py.typed", "keda_scaler/pb/externalscaler_pb2.pyi"} <= package
    assert f"{info}/licenses/LICENSE" in files


def test_the_wheel_says_what_it_needs(wheel: Path) -> None:
    """The dependencies of pyproject.toml, and its Python."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    name = f"keda_scaler-{__version__}.dist-info/METADATA"
    metadata = email.message_from_bytes(zipfile.ZipFile(wheel).read(name))
    required = metadata.get_all("Requires-Dist") or []

    def normal(requirements: list[str]) -> list[str]:
        return sorted(re.sub(r"\[.*?\]", "", each).lower() for each in requirements)

    assert metadata["Requires-Python"] == project["requires-python"]
    runtime = [each for each in required if "extra ==" not in each]
    assert normal(runtime) == normal(project["dependencies"])


def test_the_version_is_printed(installed: Path, tmp_path: Path) -> None:
    """By the wheel's own command, without the repository on the path."""
    ran = subprocess.run(
        command(installed, "version"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"{__version__}\n", "")


@pytest.fixture
def served(installed: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """Serve from the wheel; give the process, its gRPC port and its HTTP port."""
    flags = ("--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0")
    with subprocess.Popen(
        command(installed, "serve", *flags),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout
        try:
            said = "".join(process.stdout.readline() for _ in range(3))
            ports = re.findall(r"^(?:KEDA calls|metrics, health) .*:(\d+)$", said, re.MULTILINE)
            yield process, [int(port) for port in ports]
        finally:
            process.kill()


def test_it_serves_and_is_healthy(served: tuple[subprocess.Popen[str], list[int]]) -> None:
    """gRPC health, HTTP readiness, and a clean end on SIGTERM."""
    process, (grpc_port, http_port) = served
    with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=20, wait_for_ready=True)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with urllib.request.urlopen(f"http://127.0.0.1:{http_port}/readyz", timeout=20) as ready:
        assert ready.status == 200
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
