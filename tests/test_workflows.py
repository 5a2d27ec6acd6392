"""The workflows of GitHub Actions: what can be told of them without running them."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from keda_scaler import __version__

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))

every = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: str(path.name))


def steps(path: Path) -> list[dict[str, Any]]:
    jobs = yaml.safe_load(path.read_text())["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


def scripts(path: Path) -> str:
    return "\n".join(step["run"] for step in steps(path) if "run" in step)


@every
def test_a_workflow_is_bounded_and_may_do_little(path: Path) -> None:
    """It reads the repository, ends by itself, and uses actions of a version."""
    workflow = yaml.safe_load(path.read_text())

    assert workflow["permissions"] == {"contents": "read"}
    assert all(0 < job["timeout-minutes"] <= 60 for job in workflow["jobs"].values())
    actions = [step["uses"] for step in steps(path) if "uses" in step]
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", action) for action in actions)
    assert "never run" in path.read_text().lower()


@every
def test_what_a_workflow_calls_is_there(path: Path) -> None:
    """Verbs of the Makefile, the chart's folder, and scripts that the shell can read."""
    verbs = set(re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = re.findall(r"\bmake (?:--silent )?([a-z0-9]+)", scripts(path))

    assert called
    assert set(called) <= verbs
    for chart in re.findall(r"helm package (\S+)", scripts(path)):
        assert (ROOT / chart / "Chart.yaml").exists()
    subprocess.run(["bash", "-n"], input=scripts(path), text=True, check=True, timeout=10)


@every
def test_no_secret_is_pasted_into_a_script(path: Path) -> None:
    """Secrets and names that others choose reach the shell as variables only."""
    assert "${{" not in scripts(path)


def test_every_python_that_is_promised_is_tested() -> None:
    """The matrix has the classifiers of the package."""
    test = yaml.safe_load((ROOT / ".github/workflows/test.yaml").read_text())["jobs"]["test"]
    promised = re.findall(r":: Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())

    assert test["strategy"]["matrix"]["python"] == promised


def test_the_version_is_that_of_the_package() -> None:
    """`make version`, which names the image and the chart."""
    ran = subprocess.run(
        ["make", "--silent", "version"], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert ran.stdout == f"{__version__}\n"
