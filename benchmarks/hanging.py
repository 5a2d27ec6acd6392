"""What a fleet's answers cost while everything that is read hangs: it accepts, and never answers.

A quarter of the ScaledObjects each read pages, pages and the gateway in front, a Prometheus, and
reports in a Redis. All of those are real processes, and are stopped in their tracks (SIGSTOP): the
kernel goes on accepting connections for them. KEDA's calls go on as before. Half of the time in
which everything answers lies before, half after.

Exit code 1: a call failed or was missed, or a stream ended; with --strict also a p99 above its
limit.
"""

import argparse
import contextlib
import gc
import json
import os
import re
import signal
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import keda_calls
from fleet import BenchmarkError, Result, Side, environment, opened, servers
from fleet_calls import NAMESPACES, PAGES, ScaledObject, fleet_of
from http2 import ProtocolError
from processes import Cores, Server, StartError, free_port, process, running
from tables import lay_out
from unary_results import OURS

from keda_scaler.web.reports import MAX_REPORTS

LIMIT_P99 = 1.2
"""Highest p99 while everything hangs, as a multiple of that while it answers."""

KINDS = 4
READY_SECONDS = 60.0
POLLED = {"endpoints", "gateway", "prometheus"}
"""Sources as the scaler's own metrics name them; that Redis hangs shows at a report."""

ANSWERING, HANGING, ALL = "answering", "hanging", "all"
_HOST = "127.0.0.1"
_TOKEN = "a-token-of-this-benchmark"
_HERE = Path(__file__).parent


def measure(objects: int, seconds: float, hang_seconds: float, cores: Cores) -> list[Result]:
    """Measure while everything answers, while it hangs, and while it answers again.

    Raises:
        BenchmarkError: when a call failed or was missed, or a stream ended.
        ProtocolError: when the server ended the connection.
        StartError: when something did not start.

    """
    answering, hanging = Result(ANSWERING), Result(HANGING)
    os.sched_setaffinity(0, {cores.client})
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pages = [sys.executable, str(_HERE / "fleet_pages.py")]
        page = stack.enter_context(running("pages", pages, cores.client))
        prometheus = stack.enter_context(_prometheus(folder, page.port))
        redis = stack.enter_context(_redis(folder))
        command = [*servers()[OURS], *_settings(folder, prometheus.port, redis.port)]
        env = environment()
        server = stack.enter_context(running(OURS, command, cores.server, env, ports=2))
        asked = fleet_of(objects, lambda number: _metadata(number, page.port))
        by_reports = asked[KINDS - 1 :: KINDS]
        for first in range(0, len(by_reports), MAX_REPORTS):
            status = _report(server.ports[1], by_reports[first : first + MAX_REPORTS])
            if status != 200:
                raise BenchmarkError(f"reports are answered {status}")
        side = stack.enter_context(opened(answering, server, asked, hang_seconds / 4))
        side.load(asked, seconds / 2, 1)
        if failing := _failing(server.ports[1]):
            raise BenchmarkError(f"while everything answers these failed: {failing}")
        for upstream in (page, prometheus, redis):
            upstream.pause()
        side.client.wait_for(lambda: False, hang_seconds)
        port = server.ports[1]
        _wait_until(lambda: _failing(port) == POLLED, "a poll of every source has failed")
        Side(server, side.client, hanging).load(asked, seconds, 2)
        if (status := _report(port, by_reports[:1])) != 503:
            raise BenchmarkError(f"while Redis hangs reports are answered {status}")
        for upstream in (page, prometheus, redis):
            upstream.resume()
        side.client.wait_for(lambda: False, hang_seconds / 4)
        side.load(asked, seconds / 2, 3)
    return [answering, hanging]


def _metadata(number: int, port: int) -> Mapping[str, str]:
    """Give the trigger of a ScaledObject, of one of the kinds."""
    page = number % PAGES
    given = keda_calls.metadata(f"http://{_HOST}:{port}/{page}/metrics", 5)
    kind = number % KINDS
    if kind == 1:
        given |= {"wakeFrom": "epp", "wakeService": _HOST, "wakePort": f"{port}"}
        given["wakePath"] = f"/gateway/{page}"
    elif kind == 2:
        del given["endpoints"]
        given["prometheus"] = "main"
    elif kind == 3:
        for key in ("endpoints", "model", "targetGpuMemoryPressure"):
            del given[key]
        return {**given, "engine": "reports"}
    del given["targetConcurrency"]  # two metrics each
    return given


def _settings(folder: Path, prometheus_port: int, redis_port: int) -> list[str]:
    tokens = folder / "tokens"
    tokens.write_text(f"* {_TOKEN}\n")
    return [
        *("--prometheus", f"main=http://{_HOST}:{prometheus_port}"),
        *("--redis-url", f"redis://{_HOST}:{redis_port}", "--report-tokens", str(tokens)),
    ]


@contextlib.contextmanager
def _prometheus(folder: Path, page_port: int) -> Iterator[Server]:
    """Run a Prometheus that has scraped a pod in each namespace."""
    pods = [
        {
            "targets": [f"{_HOST}:{page_port}"],
            "labels": {
                "__metrics_path__": f"/{number}/metrics",
                "namespace": f"team-{number}",
                "pod": f"llama-{number}",
            },
        }
        for number in range(NAMESPACES)
    ]
    jobs = [{"job_name": "engines", "static_configs": pods}]
    config = folder / "prometheus.yml"
    config.write_text(json.dumps({"global": {"scrape_interval": "5s"}, "scrape_configs": jobs}))
    port = free_port()
    data = f"--storage.tsdb.path={folder / 'data'}"
    command = [f"--config.file={config}", data, f"--web.listen-address={_HOST}:{port}"]
    query = f"http://{_HOST}:{port}/api/v1/query?query=count(vllm:num_requests_waiting)"
    with process("prometheus", command, port) as server:
        _wait_until(lambda: f'"{NAMESPACES}"' in _get(query), "Prometheus has scraped everything")
        yield server


@contextlib.contextmanager
def _redis(folder: Path) -> Iterator[Server]:
    port = free_port()
    command = ["--bind", _HOST, "--port", f"{port}", "--save", "", "--dir", str(folder)]
    with process("redis-server", command, port) as server:
        yield server


def _get(url: str) -> str:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())
    return ""


def _wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + READY_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise StartError(f"not within {READY_SECONDS:g} s: {what}")
        time.sleep(0.1)


def _report(port: int, about: Sequence[ScaledObject]) -> int:
    """Report requests that outlast the benchmark; give the status of the answer."""
    reports = [
        {"namespace": each.namespace, "name": each.name, "waiting": 3, "ttlSeconds": 3600}
        for each in about
    ]
    request = urllib.request.Request(
        f"http://{_HOST}:{port}/v1/reports",
        json.dumps(reports).encode(),
        {"Authorization": f"Bearer {_TOKEN}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=READY_SECONDS) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def _failing(port: int) -> set[str]:
    """Give the sources of which a poll has failed."""
    counted = re.findall(
        r'^keda_scaler_read_seconds_count{result="error",source="(\w+)"} [^0]',
        _get(f"http://{_HOST}:{port}/metrics"),
        re.MULTILINE,
    )
    return set(counted)


def table(results: Sequence[Result]) -> str:
    """Lay the results out for people."""
    lines = [("everything is", "calls/s", "p50 ms", "p99 ms", "p99.9 ms", "cores", "RSS MiB")]
    for each in results:
        p50, p99, p999 = (f"{ms:.2f}" for ms in each.percentiles_ms(ALL))
        rate, cores = f"{each.calls / each.seconds:,.0f}", f"{each.cpu_seconds / each.seconds:.2f}"
        lines.append((each.server, rate, p50, p99, p999, cores, f"{each.rss_mib:.0f}"))
    return lay_out(lines, 1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, judge; give the exit code."""
    parser = argparse.ArgumentParser(
        description="A fleet's answers while everything that is read hangs.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--objects", type=int, default=2000, help="ScaledObjects, each with two streams")
    add("--seconds", type=float, default=40.0, help="of load, answering and hanging")
    add("--hang-seconds", type=float, default=20.0, help="from hanging to measuring")
    add("--limit-p99", type=float, default=LIMIT_P99, help="highest p99, times answering")
    add("--strict", action="store_true", help="fail also for a p99 above its limit")
    given = parser.parse_args(arguments)
    cores = Cores.pick()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing is left behind
    gc.disable()  # a collection would be measured as latency
    try:
        results = measure(given.objects, given.seconds, given.hang_seconds, cores)
    except (BenchmarkError, ProtocolError, StartError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    print(f"{given.objects} ScaledObjects, a quarter each by {KINDS} kinds of source")
    print(table(results))
    p99 = [each.percentiles_ms(ALL)[1] for each in results]
    ratio = p99[1] / p99[0]
    print(f"p99 hanging / answering: {ratio:.2f}")
    if ratio > given.limit_p99:
        print(f"missed: {ratio:.2f} is above {given.limit_p99:g}", file=sys.stderr)
    return 1 if ratio > given.limit_p99 and given.strict else 0


if __name__ == "__main__":
    sys.exit(main())
