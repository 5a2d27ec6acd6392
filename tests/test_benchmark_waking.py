"""The benchmark of waking, for a moment: every edge comes, and the limits are held against it."""

import json
import subprocess
from pathlib import Path

import pytest

from benchmark_process import run_benchmark

pytestmark = pytest.mark.xdist_group("benchmarks")  # one at a time, on their cores


def benchmark(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return run_benchmark("waking.py", "--edges", "4", "--targets", "4", *arguments)


def test_every_edge_reaches_its_stream(tmp_path: Path) -> None:
    """Of reports and of a gateway, and the JSON has what the table shows."""
    results = tmp_path / "results.json"

    done = benchmark("--limit-ms", "60000", "--json", str(results))

    assert done.returncode == 0, done.stderr
    document = json.loads(results.read_text())
    assert document["poll_seconds"] == 1
    found = {each["what"]: each for each in document["results"]}
    by_redis = set() if "no redis-server" in done.stderr else {"report, by Redis"}
    assert set(found) == {
        *("bare server, report", "report", "gateway", "gateway, from the poll"),
        *by_redis,
    }
    for what, each in found.items():
        assert each["edges"] == 4
        assert 0 < each["p50_ms"] <= each["p99_ms"] <= each["highest_ms"]
        assert what in done.stdout
    assert found["gateway"]["p50_ms"] > found["gateway, from the poll"]["p50_ms"]
    assert found["gateway"]["limit_ms"] == 61000


def test_a_latency_above_its_limit_fails() -> None:
    """Exit code 1, and it says which."""
    done = benchmark("--limit-ms", "0.001")

    assert done.returncode == 1
    assert "failed: report: p99 of" in done.stderr
    assert "above the limit of 0.001 ms" in done.stderr
