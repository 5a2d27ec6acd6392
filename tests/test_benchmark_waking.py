"""The benchmark of waking, for a moment: every edge comes, and the limits are held against it."""

import json
from pathlib import Path

import pytest

from benchmark_process import run_benchmark

pytestmark = pytest.mark.xdist_group("benchmarks")  # one at a time, on their cores


def test_every_edge_reaches_its_stream(tmp_path: Path) -> None:
    """Of reports and of a gateway; the JSON has what the table shows, and what is late fails."""
    results = tmp_path / "results.json"
    small = ("--edges", "4", "--targets", "4", "--limit-ms", "0.001")

    done = run_benchmark("waking.py", *small, "--json", str(results))

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
    assert found["gateway"]["limit_ms"] == 1000.001
    assert done.returncode == 1
    assert done.stderr.count("above the limit of 0.001 ms") == 1 + len(by_redis)
    assert "failed: gateway:" not in done.stderr
