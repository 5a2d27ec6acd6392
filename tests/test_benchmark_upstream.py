"""The benchmark of what is read upstream, for a moment: all is read, with a number of queries."""

import json
import subprocess
from pathlib import Path

import pytest

from benchmark_process import run_benchmark

pytestmark = pytest.mark.xdist_group("benchmarks")  # one at a time, on their cores


def benchmark(*arguments: str) -> "subprocess.CompletedProcess[str]":
    small = ("--pods", "100", "--rounds", "2", "--poll-seconds", "2", "--seconds", "2")
    return run_benchmark("upstream.py", *small, "--pages", "20", *arguments)


def test_a_hundred_targets_take_as_many_queries_as_ten(tmp_path: Path) -> None:
    """Each has its own numbers; the JSON has what the table shows."""
    results = tmp_path / "results.json"

    done = benchmark("--targets", "10", "100", "--limit", "2", "--json", str(results))

    assert done.returncode == 0, done.stderr
    found = json.loads(results.read_text())["results"]
    if "no prometheus" not in done.stderr:
        few, many, _ = found
        assert (few["targets"], many["targets"]) == (10, 100)
        assert few["queries"] == many["queries"] > 0
        assert many["keda_queries_per_minute"] == 600
    pages = found[-1]
    assert (pages["what"], pages["targets"], pages["queries"]) == ("pages", 20, None)
    assert pages["reads_per_minute"] > 20
    for each in found:
        assert 0 < each["p50_ms"] <= each["p99_ms"] <= each["highest_ms"]
        assert each["what"] in done.stdout


def test_pages_above_the_limit_fail() -> None:
    """Exit code 1, and it says why."""
    done = benchmark("--targets", "1", "--limit", "0.0001")

    assert done.returncode == 1
    assert "failed: 20 pages take" in done.stderr
    assert "above the limit of 0.0001" in done.stderr
