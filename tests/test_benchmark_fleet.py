"""The benchmarks of a fleet, for a moment: whether they run and nothing fails, not how fast."""

import json
import re
from pathlib import Path

from benchmark_process import run_benchmark
from prometheus_server import tool_binary

METHODS = {"GetMetricSpec", "GetMetrics", "IsActive", "all"}


def test_a_small_fleet_is_answered_without_an_error(tmp_path: Path) -> None:
    """Every call is made and answered; a limit is held against it."""
    results = tmp_path / "results.json"
    done = run_benchmark(
        *("fleet.py", "--objects", "60", "--seconds", "2"),
        *("--settle-seconds", "1", "--json", str(results)),
        *("--strict", "--limit-p99", "0.001"),
    )

    assert "failed:" not in done.stderr
    assert done.returncode == 1
    assert "missed: p99 of ours is" in done.stderr
    assert "times that of bare, above 0.001" in done.stderr
    assert "60 ScaledObjects, 120 streams, 34 calls a second are due" in done.stdout
    found = {each["server"]: each for each in json.loads(results.read_text())["results"]}
    assert set(found) == {"bare", "ours"}
    for each in found.values():
        assert each["calls"] > 20
        assert set(each["ms"]) == METHODS
        assert each["rss_mib"] > 0
        for p50, p99, p999 in each["ms"].values():
            assert 0 < p50 <= p99 <= p999


def test_streams_are_opened_again_and_all_told(tmp_path: Path) -> None:
    """No stream is refused or lost, and each hears of the wave."""
    results = tmp_path / "results.json"

    done = run_benchmark(
        *("streams.py", "--objects", "100", "--settle-seconds", "0.7"),
        *("--json", str(results)),
    )

    assert done.returncode == 0, done.stderr
    found = json.loads(results.read_text())
    assert set(found) == {"bare", "ours"}
    for each in found.values():
        assert each["reopen_seconds"] > 0
        assert each["push_seconds"] > 0
        assert each["streams_mib"] > each["idle_mib"]
    assert "RSS of a stream, KiB" in done.stdout


def test_a_fleet_is_answered_while_everything_hangs() -> None:
    """Pages, a gateway, Prometheus and Redis: each is seen to hang, and no call is missed."""
    tool_binary("prometheus"), tool_binary("redis-server")

    done = run_benchmark(
        *("hanging.py", "--objects", "40", "--seconds", "2", "--hang-seconds", "4"),
        *("--strict", "--limit-p99", "0.001"),
    )

    assert "failed:" not in done.stderr
    assert done.returncode == 1
    assert "is above 0.001" in done.stderr
    assert re.search(r"^answering +\d+ ", done.stdout, re.MULTILINE)
    assert re.search(r"^hanging +\d+ ", done.stdout, re.MULTILINE)


def test_starts_are_measured(tmp_path: Path) -> None:
    """Also one that has answered about a Service."""
    results = tmp_path / "results.json"

    done = run_benchmark("start.py", "--rounds", "1", "--json", str(results))

    assert done.returncode == 0, done.stderr
    names = [each["name"] for each in json.loads(results.read_text())]
    assert names == ["bare", "ours", "ours, with Kubernetes"]
    assert "ours, with Kubernetes" in done.stdout
