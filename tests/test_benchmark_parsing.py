"""The benchmark of the parser runs and says what it measured; how fast it is, CI's own run says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("benchmarks")  # one at a time, on their cores

ROOT = Path(__file__).parent.parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "benchmarks/parsing.py", "--rounds", "1", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_what_is_measured(tmp_path: Path) -> None:
    """A table for people, and the same numbers for machines."""
    numbers = tmp_path / "parsing.json"

    finished = run("--floor", "0", "--json", str(numbers))

    assert finished.returncode == 0, finished.stderr
    assert "prometheus_client" in finished.stdout
    assert "8 MiB without a wanted line" in finished.stdout
    report = json.loads(numbers.read_text())
    assert report["page_lines"] == 614
    assert report["big_page_ms"] > 0
    costs = {cost["name"]: cost for cost in report["costs"]}
    assert list(costs) == ["library", "gauges", "all", "auto", "models"]
    assert costs["library"]["times_cheaper"] == 1.0
    for cost in costs.values():
        assert cost["cpu_us"] > 0
        assert cost["lowest"] <= cost["times_cheaper"] <= cost["highest"]


def test_too_slow_is_a_failure() -> None:
    """The exit code says so, for CI."""
    finished = run("--floor", "1000000")

    assert finished.returncode == 1
    assert "times cheaper is below the floor of 1e+06" in finished.stderr
