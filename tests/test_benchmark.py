"""The benchmark, for a moment: whether it runs and no call fails, not how fast anything was."""

import contextlib
import importlib
import json
import math
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from benchmark_process import BENCHMARKS, run_benchmark

pytestmark = pytest.mark.xdist_group("benchmarks")  # one at a time, on their cores


def benchmark(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return run_benchmark("unary.py", "--seconds", "0.3", "--rounds", "1", *arguments)


@contextlib.contextmanager
def echoing() -> Iterator[int]:
    """Serve a method that sends a request back, but refuses the one that says so."""

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        if request == b"refuse":
            context.abort(grpc.StatusCode.UNAVAILABLE, "as asked")
        return request

    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "m": grpc.unary_unary_rpc_method_handler(answer)
    }
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("s", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


def numbers(found: dict[str, Any]) -> list[float]:
    return [value for value in found.values() if isinstance(value, int | float)]


def test_benchmark_measures_both_servers_and_no_call_fails(tmp_path: Path) -> None:
    """Both servers answer every call at every number in flight, and the JSON has it all."""
    results = tmp_path / "results.json"
    done = benchmark("--in-flight", "1", "16", "--floor", "0", "--json", str(results))
    assert done.returncode == 0, done.stderr
    document = json.loads(results.read_text())
    assert document["options"]["in_flight"] == [1, 16]
    comparisons = document["comparisons"]
    assert [each["in_flight"] for each in comparisons] == [1, 16]
    for each in comparisons:
        for server in ("bare", "ours"):
            measured = each[server]
            assert measured["server"] == server
            assert measured["calls"] > 0
            assert 0 < measured["p50_ms"] <= measured["p99_ms"]
            assert all(math.isfinite(number) and number > 0 for number in numbers(measured))
        for ratio in ("throughput", "p99", "server_cpu"):
            lowest, highest = each[ratio]["lowest"], each[ratio]["highest"]
            assert 0 < lowest <= each[ratio]["of_medians"] <= highest
    assert "ours/bare" in done.stdout


def test_benchmark_fails_below_the_floor() -> None:
    """With --strict a throughput below the floor at 16 in flight is exit code 1, and it says so."""
    done = benchmark("--in-flight", "16", "--floor", "1000", "--strict")
    assert done.returncode == 1
    assert "below the floor of 1000" in done.stderr
    assert "ours/bare" in done.stdout


def test_client_tells_failed_calls_from_good_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused call and one with the wrong answer are failures; what is good is still measured.

    The good answer is long, so that either side has to let the other send more.
    """
    monkeypatch.syspath_prepend(BENCHMARKS)
    unary_client = importlib.import_module("unary_client")
    good = bytes(9_000)
    with echoing() as port:
        client = unary_client.UnaryClient(
            port, "/s/m", [good, b"refuse", b"wrong"], lambda payload: payload[5:] == good
        )
        with contextlib.closing(client):
            load = client.run(in_flight=12, seconds=2.0)
    assert load.calls > 600, "too few for either side to let the other send more"
    assert load.failed == load.calls - len(load.latencies)
    assert abs(load.failed - load.calls * 2 / 3) < 2
    assert any("as asked" in why for why in load.failures)
    assert load.answered <= len(load.latencies)
