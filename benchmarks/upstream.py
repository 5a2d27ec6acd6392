"""What the scaler costs upstream: queries of a real Prometheus, and pages over real HTTP.

A Prometheus scrapes a fleet of pods. The scaler is the command that users run, as a process on one
core; everything else is on another. For each number of targets a scaler of its own is started, and
asked about each target once, as KEDA would ask; then whole rounds are measured. KEDA's own
prometheus trigger asks once per trigger at each poll of KEDA and at each sync of the HPA. Meanwhile
one target is asked about all the time: what reading holds up shows in how long that takes.

Exit code 1: something was not read as it is, the number of queries depends on that of the targets,
or the pages take more than --limit cores.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp
import grpc
import uvloop
from processes import Cores, Server, StartError, find, running
from tables import lay_out
from unary_results import percentile
from upstream_server import HOST, model_of, namespace_of, queue_of
from upstream_world import (
    Reads,
    Scaler,
    UpstreamError,
    prometheus,
    queries,
    target,
)

from keda_scaler.pb import externalscaler_pb2 as pb
from keda_scaler.settings import ENVIRONMENT

LIMIT_CORES = 0.5
"""For a thousand pages every five seconds."""

KEDA_QUERIES_PER_MINUTE = 6
"""Of one trigger: KEDA polls every 30 s, and the HPA asks it every 15 s."""

STALE_SECONDS = 30.0
"""Of triggers that are read through Prometheus. A reading is as old as its scrape, when it is read,
and as the round before that: with the default of 15 s a busy machine would show holds instead."""

SETTLE_SECONDS = 6.0
"""Until the polls of pages, which all began at once, are spread over their interval."""

_HERE = Path(__file__).parent
_PAGE_QUEUE = 12.0
"""What the page says."""


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure."""

    targets: tuple[int, ...]
    pods: int
    rounds: int
    pages: int
    seconds: float
    poll_seconds: float
    limit_cores: float


@dataclass(frozen=True, slots=True)
class Result:
    """One measurement."""

    what: str
    targets: int
    reads_per_minute: float
    """Rounds of queries, or pages."""

    read_ms: float
    """Time that one of them takes, on average."""

    queries: float | None
    """Of one round; None: these were pages."""

    queries_per_minute: float | None
    keda_queries_per_minute: float | None
    cores: float
    """CPU time of the scaler by the time on the wall."""

    p50_ms: float
    """Of a GetMetrics meanwhile."""

    p99_ms: float
    highest_ms: float


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run is at home."""

    cores: Cores
    folder: Path
    env: Mapping[str, str]
    session: aiohttp.ClientSession


async def measure(options: Options, place: Place) -> list[Result]:
    """Measure one thing after the other.

    Raises:
        UpstreamError: when something was not read as it is.
        StartError: when a server did not start.

    """
    results = []
    command = [sys.executable, str(_HERE / "upstream_server.py"), f"{options.pods}"]
    with running("pages", command, place.cores.client, place.env) as fleet:
        binary = find("prometheus")
        if binary is None:
            print("no prometheus, try `make tools`: left out", file=sys.stderr)
        else:
            started = prometheus(binary, place.folder, fleet.port, options.pods, place.session)
            async with started as url:
                results += [
                    await _through_prometheus(count, url, options, place)
                    for count in options.targets
                ]
        results.append(await _pages(fleet, options, place))
    return results


async def _through_prometheus(count: int, url: str, options: Options, place: Place) -> Result:
    fleet = [
        target(
            pod,
            namespace_of(pod),
            {
                "prometheus": "main",
                "engine": "vllm",
                "model": model_of(pod),
                "pollSeconds": f"{options.poll_seconds:g}",
                "staleSeconds": f"{STALE_SECONDS:g}",
            },
        )
        for pod in range(count)
    ]
    async with _scaler(place, "--prometheus", f"main={url}") as (server, scaler):
        await scaler.follow(fleet)
        for pod in range(0, count, max(1, count // 50)):
            found = await scaler.queue(fleet[pod])
            if found != queue_of(pod):
                raise UpstreamError(f"{fleet[pod].name} has {found} requests, not {queue_of(pod)}")
        before, asked = await _counted(scaler, url, place, options)
        began = _Since(server)
        async with _probed(scaler, fleet[0]) as times:
            rounds = before
            while rounds.count < before.count + options.rounds:
                rounds, asked_then = await _counted(scaler, url, place, options)
        gained = rounds.since(before)
        return _result("prometheus", count, gained, began, times, asked_then - asked)


async def _counted(scaler: Scaler, url: str, place: Place, options: Options) -> tuple[Reads, int]:
    """Wait for a round to end, and count the rounds and the queries so far, none in between."""
    while True:
        rounds = await scaler.next_read("prometheus", options.poll_seconds)
        asked = await queries(url, place.session)
        if (await scaler.reads("prometheus")).count == rounds.count:
            return rounds, asked


async def _pages(fleet: Server, options: Options, place: Place) -> Result:
    targets = [
        target(
            number,
            namespace_of(number),
            {
                "endpoints": f"http://{HOST}:{fleet.port}/page/{number}",
                "pollSeconds": f"{options.poll_seconds:g}",
            },
        )
        for number in range(options.pages)
    ]
    async with _scaler(place) as (server, scaler):
        await scaler.follow(targets)
        if await scaler.queue(targets[-1]) != _PAGE_QUEUE:
            raise UpstreamError("a page was not read as it is")
        await asyncio.sleep(min(SETTLE_SECONDS, options.seconds))
        before, began = await scaler.reads("endpoints"), _Since(server)
        async with _probed(scaler, targets[0]) as times:
            await asyncio.sleep(options.seconds)
        gained = (await scaler.reads("endpoints")).since(before)
        return _result("pages", options.pages, gained, began, times, None)


class _Since:
    """Time that has passed, on the wall and on the CPU of a process."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._wall, self._cpu = time.monotonic(), server.cpu_seconds()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._wall

    @property
    def cores(self) -> float:
        return (self._server.cpu_seconds() - self._cpu) / self.seconds


def _result(  # noqa: PLR0913, PLR0917  # one for each number that was found
    what: str, count: int, gained: Reads, since: _Since, times: list[float], asked: int | None
) -> Result:
    minutes, reads = since.seconds / 60, gained.count
    ordered = sorted(each * 1e3 for each in times)
    return Result(
        what=what,
        targets=count,
        reads_per_minute=reads / minutes,
        read_ms=gained.seconds / reads * 1e3,
        queries=None if asked is None else asked / reads,
        queries_per_minute=None if asked is None else asked / minutes,
        keda_queries_per_minute=None if asked is None else KEDA_QUERIES_PER_MINUTE * count,
        cores=since.cores,
        p50_ms=percentile(ordered, 50),
        p99_ms=percentile(ordered, 99),
        highest_ms=ordered[-1],
    )


@contextlib.asynccontextmanager
async def _scaler(place: Place, *flags: str) -> AsyncIterator[tuple[Server, Scaler]]:
    command = [
        *(str(Path(sys.executable).with_name("keda-scaler")), "serve"),
        *("--grpc-address", f"{HOST}:0", "--http-address", f"{HOST}:0"),
        *("--allow-address", HOST, *flags),
    ]
    with running("ours", command, place.cores.server, place.env, ports=2) as server:
        scaler = Scaler(server, place.session)
        try:
            yield server, scaler
        finally:
            await scaler.aclose()


@contextlib.asynccontextmanager
async def _probed(scaler: Scaler, asked: pb.ScaledObjectRef) -> AsyncIterator[list[float]]:
    """Time calls about one target while inside."""
    times: list[float] = []
    task = asyncio.create_task(scaler.probe(asked, times))
    try:
        yield times
        if task.done():
            task.result()  # it ends only by failing
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def table(results: Sequence[Result]) -> str:
    """Lay the results out for people."""
    head = (
        *(
            "read",
            "targets",
            "reads/min",
            "ms each",
            "queries",
            "queries/min",
            "KEDA's own",
            "ratio",
        ),
        *("cores", "RPC p50 ms", "p99 ms", "highest"),
    )
    rows = [head]
    for each in results:
        asked = ("", "", "", "")
        if each.queries is not None:
            assert each.queries_per_minute is not None
            assert each.keda_queries_per_minute is not None
            asked = (
                f"{each.queries:.2f}",
                f"{each.queries_per_minute:.0f}",
                f"{each.keda_queries_per_minute:,.0f}",
                f"{each.keda_queries_per_minute / each.queries_per_minute:.2f}",
            )
        times = (f"{each.p50_ms:.2f}", f"{each.p99_ms:.2f}", f"{each.highest_ms:.2f}")
        reads = f"{each.reads_per_minute:,.0f}"
        took = (reads, f"{each.read_ms:,.0f}")
        rows.append((each.what, f"{each.targets:,}", *took, *asked, f"{each.cores:.3f}", *times))
    return lay_out(rows, 1)


def problems_of(results: Sequence[Result], limit_cores: float) -> list[str]:
    """Say what is not as it should be."""
    found = []
    rounds = {each.queries for each in results if each.queries is not None}
    if len(rounds) > 1:
        shown = " to ".join(f"{each:.2f}" for each in (min(rounds), max(rounds)))
        found.append(f"the queries of a round depend on the number of targets: {shown}")
    found += [
        f"{each.targets} pages take {each.cores:.2f} cores, above the limit of {limit_cores:g}"
        for each in results
        if each.queries is None and each.cores > limit_cores
    ]
    return found


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Queries and pages of the scaler, and what they cost it.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--targets", type=int, nargs="+", default=[1, 100, 1000, 5000], help="how many, in turns")
    add("--pods", type=int, default=5000, help="pods that Prometheus scrapes; all targets have one")
    add("--rounds", type=int, default=6, help="rounds of queries that are measured")
    add("--pages", type=int, default=1000, help="pages, each of a target of its own")
    add("--seconds", type=float, default=30.0, help="how long pages are measured")
    add("--poll-seconds", type=float, default=5.0, help="of every trigger")
    add("--limit", type=float, default=LIMIT_CORES, help="most cores that the pages may take")
    add("--json", type=Path, default=None, help="file to write the results to")
    return parser.parse_args(arguments)


async def _run(options: Options, cores: Cores, env: Mapping[str, str]) -> list[Result]:
    with tempfile.TemporaryDirectory() as folder:
        async with aiohttp.ClientSession() as session:
            return await measure(options, Place(cores, Path(folder), env, session))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, judge; give the exit code."""
    given = _parse(arguments)
    options = Options(
        tuple(given.targets),
        max(given.pods, *given.targets),
        given.rounds,
        given.pages,
        given.seconds,
        given.poll_seconds,
        given.limit,
    )
    cores = Cores.pick()
    if cores.shared:
        print("only one core: everything takes time from the scaler, latencies are too high")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server is left behind
    # Settings of whoever runs this must not change what is measured.
    env = {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT)}
    os.sched_setaffinity(0, {cores.client})
    try:
        results = uvloop.run(_run(options, cores, env))
    except (UpstreamError, StartError, grpc.aio.AioRpcError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    print(f"{options.pods:,} pods, polls every {options.poll_seconds:g} s")
    print(table(results))
    if given.json:
        document = {
            "options": asdict(options),
            "cores": asdict(cores),
            "results": [asdict(each) for each in results],
        }
        given.json.write_text(json.dumps(document, indent=2) + "\n")
    problems = problems_of(results, options.limit_cores)
    for problem in problems:
        print(f"failed: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
