"""The benchmark of what is read upstream, for a moment: all is read, with a number of queries."""

import json
from pathlib import Path

import pytest

from benchmark_process import run_benchmark

pytestmark = pytest.mark.xdist_group("benchmarks")  # one at a time, on their cores


def test_a_hundred_targets_take_as_many_queries_as_ten(tmp_path: Path) -> None:
    """Each has its own numbers, the JSON has what is shown, and pages that cost much fail."""
    results = tmp_path / "results.json"

    small = ("--pods", "100", "--rounds", "2", "--poll-seconds", "2", "--seconds", "2")
    asked = ("--pages", "20", "--targets", "10", "100", "--limit", "0.0001")

    done = run_benchmark("upstream.py", *small, *asked, "--json", str(results))

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
    assert done.returncode == 1
    (failed,) = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert failed.startswith("failed: 20 pages take ")
    assert failed.endswith("above the limit of 0.0001")
