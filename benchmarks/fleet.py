"""The load of a fleet: what KEDA asks about thousands of ScaledObjects, for a minute.

The scaler is the command that users run, with its metrics on, on one core. The client (KEDA's one
connection, open loop, with every stream open) and the pages that are read meanwhile are on another.
A bare server that knows nothing gets the same load in the same run, half of it before and half
after.

Exit code 1: a call failed or was missed, or a stream ended; with --strict also a p99 above its
limit.
"""

import argparse
import contextlib
import gc
import json
import os
import signal
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import keda_calls
from fleet_calls import CALLS, POLL_SECONDS, ScaledObject, fleet, schedule
from fleet_client import FleetClient, Played
from http2 import ProtocolError
from processes import Cores, Server, StartError, running
from tables import lay_out
from unary_results import BARE, OURS, percentile

from keda_scaler.settings import ENVIRONMENT

LIMIT_P99 = 2.0
"""Highest p99 of a method, as a multiple of the bare server's."""

OPEN_SECONDS = 60.0
"""Longest time for all streams to open and all targets to be read."""

ALL = "all"
_PERCENTS = (50, 99, 99.9)
_HERE = Path(__file__).parent


class BenchmarkError(Exception):
    """It could not be measured, or calls failed."""


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure."""

    objects: int
    seconds: float
    """Of load on each server."""

    settle_seconds: float
    """Between opening and measuring: what a start costs once is not what a fleet costs."""

    limit_p99: float


@dataclass(slots=True)
class Result:
    """One server under the load."""

    server: str
    seconds: float = 0.0
    calls: int = 0
    messages: int = 0
    """Of streams."""

    cpu_seconds: float = 0.0
    rss_mib: float = 0.0
    latencies: "dict[str, array[float]]" = field(default_factory=dict)

    def add(self, played: Played, messages: int, cpu_seconds: float, rss_mib: float) -> None:
        """Take a part of the load in."""
        self.seconds += played.seconds
        self.calls += played.calls
        self.messages += messages
        self.cpu_seconds += cpu_seconds
        self.rss_mib = max(self.rss_mib, rss_mib)
        for method, latencies in played.latencies.items():
            self.latencies.setdefault(method, array("d")).extend(latencies)
            self.latencies.setdefault(ALL, array("d")).extend(latencies)

    def percentiles_ms(self, method: str) -> list[float]:
        """Give p50, p99 and p99.9."""
        ordered = sorted(self.latencies[method])
        return [percentile(ordered, percent) * 1e3 for percent in _PERCENTS]


@dataclass(frozen=True, slots=True)
class Side:
    """A server and the client's connection to it."""

    server: Server
    client: FleetClient
    result: Result

    def load(self, objects: Sequence[ScaledObject], seconds: float, turn: int) -> None:
        """Put the load on it.

        Raises:
            BenchmarkError: when a call failed or was missed, or a stream ended.

        """
        cpu, messages = self.server.cpu_seconds(), self._messages()
        played = self.client.play(schedule(objects, seconds, seed=turn), seconds)
        self.result.add(
            played,
            self._messages() - messages,
            self.server.cpu_seconds() - cpu,
            self.server.rss_mib(),
        )
        name = self.result.server
        if played.failed or played.missed:
            raise BenchmarkError(
                f"{name}: {played.failed} of {played.calls} calls failed, {played.missed} were "
                f"missed: {played.failures}"
            )
        if self.client.lost:
            raise BenchmarkError(f"{name}: {len(self.client.lost)} streams ended")

    def _messages(self) -> int:
        return sum(stream.messages for stream in self.client.streams.values())


def measure(options: Options, cores: Cores) -> list[Result]:
    """Measure the bare server, ours, and the bare one again.

    Raises:
        BenchmarkError: when a call failed or was missed, or a stream ended.
        ProtocolError: when a server ended the connection.
        StartError: when a server did not start.

    """
    bare, ours = Result(BARE), Result(OURS)
    with running("pages", [sys.executable, str(_HERE / "fleet_pages.py")], cores.client) as page:
        objects = fleet(options.objects, f"http://127.0.0.1:{page.port}")
        os.sched_setaffinity(0, {cores.client})
        with _opened(bare, objects, options, cores) as side:
            side.load(objects, options.seconds / 2, 1)
        with _opened(ours, objects, options, cores) as side:
            side.load(objects, options.seconds, 2)
        with _opened(bare, objects, options, cores) as side:
            side.load(objects, options.seconds / 2, 3)
    return [bare, ours]


@contextlib.contextmanager
def _opened(
    result: Result, objects: Sequence[ScaledObject], options: Options, cores: Cores
) -> Iterator[Side]:
    """Run a server, with every stream open and each target known."""
    command = servers()[result.server]
    with (
        running(result.server, command, cores.server, environment()) as server,
        opened(result, server, objects, options.settle_seconds) as side,
    ):
        yield side
    print(f"{result.server} is measured", file=sys.stderr)


@contextlib.contextmanager
def opened(
    result: Result, server: Server, objects: Sequence[ScaledObject], settle_seconds: float
) -> Iterator[Side]:
    """Connect to a server, and open every stream.

    Raises:
        BenchmarkError: when one said nothing in time.

    """
    with contextlib.closing(FleetClient(server.port, keda_calls.SERVICE)) as client:
        streams = client.open([request for each in objects for request in each.streams])
        if not client.wait_for(lambda: all(each.messages for each in streams), OPEN_SECONDS):
            silent = sum(not each.messages for each in streams)
            raise BenchmarkError(
                f"{result.server}: {silent} of {len(streams)} streams said nothing within "
                f"{OPEN_SECONDS:g} s; {len(client.lost)} ended: {client.lost[:3]}"
            )
        client.wait_for(lambda: False, settle_seconds)
        yield Side(server, client, result)


def servers() -> dict[str, list[str]]:
    """Give the command of each server."""
    scaler = [
        *(str(Path(sys.executable).with_name("keda-scaler")), "serve"),
        *("--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0"),
        *("--allow-address", "127.0.0.0/8", "--max-connection-age-seconds", "0"),
    ]
    return {BARE: [sys.executable, str(_HERE / "bare_server.py")], OURS: scaler}


def environment() -> Mapping[str, str]:
    """Give an environment without settings: whoever runs this must not change what is measured."""
    return {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT)}


def tables(results: Sequence[Result]) -> str:
    """Lay the results out for people."""
    servers = [("server", "calls/s", "messages/s", "CPU cores", "CPU us/call", "RSS MiB")]
    servers += [
        (
            each.server,
            f"{each.calls / each.seconds:,.0f}",
            f"{each.messages / each.seconds:,.1f}",
            f"{each.cpu_seconds / each.seconds:.2f}",
            f"{each.cpu_seconds / each.calls * 1e6:.0f}",
            f"{each.rss_mib:.0f}",
        )
        for each in results
    ]
    calls = [("method", "server", "calls", *(f"p{percent:g} ms" for percent in _PERCENTS))]
    for method in sorted(results[0].latencies):
        for each in results:
            times = (f"{ms:.2f}" for ms in each.percentiles_ms(method))
            calls.append((method, each.server, f"{len(each.latencies[method]):,}", *times))
        bare, ours = (each.percentiles_ms(method) for each in results)
        ratios = (f"{a / b:.2f}" for a, b in zip(ours, bare, strict=True))
        calls.append(("", f"{OURS} / {BARE}", "", *ratios))
    return f"{lay_out(servers, 1)}\n\n{lay_out(calls, 2)}"


def problems(results: Sequence[Result], options: Options) -> list[str]:
    """Say what is above its limit."""
    bare, ours = (each.percentiles_ms(ALL)[1] for each in results)
    if ours <= options.limit_p99 * bare:
        return []
    return [f"p99 of ours is {ours / bare:.2f} times that of bare, above {options.limit_p99:g}"]


def _document(results: Sequence[Result], options: Options, cores: Cores) -> dict[str, object]:
    """Give what --json writes."""
    return {
        "options": asdict(options),
        "cores": asdict(cores),
        "results": [
            {
                **{k: v for k, v in asdict(each).items() if k != "latencies"},
                "ms": {method: each.percentiles_ms(method) for method in each.latencies},
            }
            for each in results
        ],
    }


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="KEDA's calls about a fleet, beside a bare server, in the same run.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--objects", type=int, default=5000, help="ScaledObjects, each with two streams")
    add("--seconds", type=float, default=60.0, help="of load on each server")
    add("--settle-seconds", type=float, default=10.0, help="between opening and measuring")
    add("--limit-p99", type=float, default=LIMIT_P99, help="highest p99, times bare")
    add("--strict", action="store_true", help="fail also for a p99 above its limit")
    add("--json", type=Path, default=None, help="file to write the results to")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, judge; give the exit code."""
    given = _parse(arguments)
    options = Options(
        given.objects,
        given.seconds,
        given.settle_seconds,
        given.limit_p99,
    )
    cores = Cores.pick()
    if cores.shared:
        print("only one core: the client takes time from the servers, latencies are too high")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server is left behind
    gc.disable()  # a collection would be measured as latency
    try:
        results = measure(options, cores)
    except (BenchmarkError, ProtocolError, StartError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    print(
        f"{options.objects} ScaledObjects, {2 * options.objects} streams, "
        f"{options.objects * CALLS / POLL_SECONDS:,.0f} calls a second are due"
    )
    print(tables(results))
    if given.json:
        given.json.write_text(json.dumps(_document(results, options, cores), indent=2) + "\n")
    found = problems(results, options)
    for problem in found:
        print(f"missed: {problem}", file=sys.stderr)
    return 1 if found and given.strict else 0


if __name__ == "__main__":
    sys.exit(main())
