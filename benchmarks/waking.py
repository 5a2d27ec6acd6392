"""How long a request takes to reach KEDA: from a report, or a gateway's page, to an open stream.

The scaler is the command that users run, as a process of its own on one core, with targets that
have no replica; the client, on another core, has a stream open for each of them, posts reports, and
serves the gateway's page and the API server that lists nothing. The floor is a bare server in the
same run: it pushes what is posted, and decides nothing.

Exit code 1: an edge did not come, or a p99 is above its limit: --limit-ms for a report, one poll
more than that for a gateway.
"""

import argparse
import contextlib
import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp
import uvloop
from processes import Cores, Server, StartError, running
from tables import lay_out
from unary_results import percentile
from waking_edges import (
    HOST,
    NAMESPACE,
    TOKEN,
    EdgeError,
    GatewayPage,
    Reporter,
    Targets,
    by_page,
    by_reports,
)

from keda_scaler.settings import ENVIRONMENT
from keda_scaler.sim.kubernetes import SimulatedCluster
from keda_scaler.sources.polls import WAKE_SECONDS

LIMIT_MS = 20.0
"""For the 99th percentile of reports; for gateways one poll more."""

SERVICE = "llama"
"""Of the replicas, of which there is none."""

REDIS_SECONDS = 10.0
"""Longest wait for Redis to start."""

_HERE = Path(__file__).parent
_BARE, _REPORT, _REDIS = "bare server, report", "report", "report, by Redis"
_GATEWAY, _POLLED = "gateway", "gateway, from the poll"


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure."""

    edges: int
    """Of each kind."""

    targets: int
    limit_ms: float


@dataclass(frozen=True, slots=True)
class Result:
    """One kind of edge, in milliseconds."""

    what: str
    edges: int
    p50_ms: float
    p99_ms: float
    highest_ms: float
    limit_ms: float | None
    """Highest p99 that is accepted; None: any."""

    @property
    def is_too_slow(self) -> bool:
        """Whether it is above its limit."""
        return self.limit_ms is not None and self.p99_ms > self.limit_ms


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run is at home."""

    cores: Cores
    folder: Path
    """For files of this run alone."""

    env: Mapping[str, str]
    """For servers."""


async def measure(options: Options, place: Place) -> list[Result]:
    """Measure one kind after the other.

    Raises:
        EdgeError: when an edge did not come.
        StartError: when a server did not start.

    """
    async with no_replicas() as api, aiohttp.ClientSession() as session:
        kubeconfig = write_kubeconfig(place.folder, api.url)
        here = Place(place.cores, place.folder, {**place.env, "KUBECONFIG": str(kubeconfig)})
        results = [await _measure_bare(options, here, session)]
        results.append(await _measure_reports(_REPORT, options, here, session))
        redis = _find_redis()
        if redis is None:
            print("no redis-server, try `make tools`: left out", file=sys.stderr)
        else:
            with _redis(redis, place.folder) as url:
                flags = ("--redis-url", url)
                results.append(await _measure_reports(_REDIS, options, here, session, flags))
        results += await _measure_gateway(options, here)
    return results


async def _measure_bare(options: Options, place: Place, session: aiohttp.ClientSession) -> Result:
    command = [sys.executable, str(_HERE / "bare_push.py")]
    with running("bare", command, place.cores.server, place.env, ports=2) as server:
        seconds = await _reported(server, options, session)
    return _result(_BARE, seconds, None)


async def _measure_reports(
    what: str,
    options: Options,
    place: Place,
    session: aiohttp.ClientSession,
    flags: Sequence[str] = (),
) -> Result:
    with _scaler(place, *flags) as server:
        seconds = await _reported(server, options, session)
    return _result(what, seconds, options.limit_ms)


async def _reported(
    server: Server, options: Options, session: aiohttp.ClientSession
) -> list[float]:
    metadata = {name: _metadata(wakeFrom="reports") for name in _names(options)}
    reporter = Reporter(session, server.ports[1])
    await reporter.state(0, *metadata)
    async with Targets(server.port, metadata) as targets:
        return await by_reports(targets, reporter, options.edges)


async def _measure_gateway(options: Options, place: Place) -> list[Result]:
    names = _names(options)
    async with GatewayPage(names).serving() as page:
        keys = {"wakeFrom": "epp", "wakeService": HOST, "wakePort": f"{page.port}"}
        metadata = {name: _metadata(**keys, model=name) for name in names}
        with _scaler(place) as server:
            async with Targets(server.port, metadata) as targets:
                from_change, from_poll = await by_page(targets, page, options.edges)
    limit = WAKE_SECONDS * 1e3 + options.limit_ms
    return [_result(_GATEWAY, from_change, limit), _result(_POLLED, from_poll, None)]


def _names(options: Options) -> list[str]:
    return [f"llama-{number}" for number in range(options.targets)]


def _metadata(**keys: str) -> dict[str, str]:
    """Give the metadata of a target that has no replica, and is soon idle again."""
    return {
        "service": SERVICE,
        "idleSeconds": "0",
        "coldStartSeconds": "1",
        "pushRepeatSeconds": "3600",
        **keys,
    }


def _result(what: str, seconds: Sequence[float], limit_ms: float | None) -> Result:
    ordered = sorted(each * 1e3 for each in seconds)
    p50, p99 = percentile(ordered, 50), percentile(ordered, 99)
    return Result(what, len(ordered), p50, p99, ordered[-1], limit_ms)


@contextlib.asynccontextmanager
async def no_replicas() -> AsyncIterator[SimulatedCluster]:
    """Run an API server whose only Service has no pod."""
    async with SimulatedCluster(host=HOST) as api:
        api.put_service(NAMESPACE, SERVICE, [])
        yield api


def write_kubeconfig(folder: Path, url: str) -> Path:
    """Write what makes the scaler use an API server."""
    named = {"name": "benchmark"}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "benchmark",
        "clusters": [{**named, "cluster": {"server": url}}],
        "users": [{**named, "user": {}}],
        "contexts": [{**named, "context": {"cluster": "benchmark", "user": "benchmark"}}],
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(content))  # YAML as well
    return path


def _scaler(place: Place, *flags: str) -> contextlib.AbstractContextManager[Server]:
    tokens = place.folder / "tokens"
    tokens.write_text(f"{NAMESPACE} {TOKEN}\n")
    command = [
        *(str(Path(sys.executable).with_name("keda-scaler")), "serve"),
        *("--grpc-address", f"{HOST}:0", "--http-address", f"{HOST}:0"),
        *("--allow-address", HOST, "--report-tokens", str(tokens), *flags),
    ]
    return running("ours", command, place.cores.server, place.env, ports=2)


def _find_redis() -> str | None:
    local = _HERE.parent / ".cache" / "tools" / "bin" / "redis-server"
    return str(local) if local.exists() else shutil.which("redis-server")


@contextlib.contextmanager
def _redis(binary: str, folder: Path) -> Iterator[str]:
    """Run Redis, and give its URL.

    Raises:
        StartError: when it cannot be reached in time.

    """
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    command = [binary, "--bind", HOST, "--port", f"{port}", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port)
        yield f"redis://{HOST}:{port}"
    finally:
        process.terminate()
        process.wait()


def _wait_for(port: int) -> None:
    """Wait until something listens."""
    end = time.monotonic() + REDIS_SECONDS
    while True:
        try:
            with socket.create_connection((HOST, port), timeout=1):
                return
        except OSError as error:
            if time.monotonic() >= end:
                raise StartError(f"Redis did not start: {error}") from error
        time.sleep(0.05)


def table(results: Sequence[Result]) -> str:
    """Lay the results out for people."""
    times = ("p50 ms", "p99 ms", "highest")
    head = ("edge", "edges", *times, "limit ms", "p99/limit", "p50/bare", "p99/bare")
    bare = results[0]
    rows = [head]
    for each in results:
        limit = ("", "")
        if each.limit_ms is not None:
            limit = (f"{each.limit_ms:g}", f"{each.p99_ms / each.limit_ms:.2f}")
        numbers = (f"{each.p50_ms:.2f}", f"{each.p99_ms:.2f}", f"{each.highest_ms:.2f}")
        against = ("", "")
        if each.what in {_REPORT, _REDIS}:
            against = (f"{each.p50_ms / bare.p50_ms:.1f}", f"{each.p99_ms / bare.p99_ms:.1f}")
        rows.append((each.what, f"{each.edges}", *numbers, *limit, *against))
    return lay_out(rows, 1)


def _too_slow(results: Sequence[Result]) -> list[str]:
    """Say what is above its limit."""
    return [
        f"{each.what}: p99 of {each.p99_ms:.1f} ms is above the limit of {each.limit_ms:g} ms"
        for each in results
        if each.is_too_slow
    ]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="From a report, or a gateway's page, to the message on an open stream.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--edges", type=int, default=300, help="edges of each kind")
    add("--targets", type=int, default=50, help="targets, each with a stream open")
    add("--limit-ms", type=float, default=LIMIT_MS, help="highest p99; a poll more for gateways")
    add("--json", type=Path, default=None, help="file to write the results to")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, judge; give the exit code."""
    given = _parse(arguments)
    options = Options(given.edges, given.targets, given.limit_ms)
    cores = Cores.pick()
    if cores.shared:
        print("only one core: the client takes time from the servers, latencies are too high")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server is left behind
    # Settings of whoever runs this must not change what is measured.
    env = {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT)}
    os.sched_setaffinity(0, {cores.client})
    gc.disable()  # a collection would be measured as latency
    try:
        with tempfile.TemporaryDirectory() as folder:
            results = uvloop.run(measure(options, Place(cores, Path(folder), env)))
    except (EdgeError, StartError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    print(f"{options.targets} targets at zero; gateways are polled every {WAKE_SECONDS:g} s")
    print(table(results))
    if given.json:
        document = {
            "options": asdict(options),
            "poll_seconds": WAKE_SECONDS,
            "cores": asdict(cores),
            "results": [asdict(each) for each in results],
        }
        given.json.write_text(json.dumps(document, indent=2) + "\n")
    problems = _too_slow(results)
    for problem in problems:
        print(f"failed: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
