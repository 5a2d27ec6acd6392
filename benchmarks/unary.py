"""GetMetrics of the scaler beside a bare grpc.aio server, in the same run.

Both run as processes of their own on one core, the client on another. The scaler is the command
that users run, with its metrics on, and reads a simulated engine's page for every target all the
while. Servers are measured in turns, and the one that is not is paused, so that what else happens
on the machine meets both alike. Calls run in a closed loop over one connection, as KEDA has one.

Exit code 1: a call failed; with --strict also when at `FLOOR_IN_FLIGHT` in flight the scaler
reached less than --floor of the bare server's throughput.
"""

import argparse
import contextlib
import gc
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
import keda_calls
from http2 import ProtocolError
from processes import Cores, Server, StartError, running
from unary_client import Load, UnaryClient
from unary_results import BARE, OURS, Comparison, Measurement, compare, percentile, table

from keda_scaler.pb import externalscaler_pb2 as pb
from keda_scaler.pb.externalscaler_pb2_grpc import ExternalScalerStub
from keda_scaler.settings import ENVIRONMENT

FLOOR = 0.9
FLOOR_IN_FLIGHT = 16

WARM_UP_SECONDS = 0.15
"""Of calls before each measurement: pages that came due while the scaler was paused are read."""

FIRST_ANSWER_SECONDS = 10.0
"""For a new target's first reading."""

_HERE = Path(__file__).parent
_PATH = f"/{keda_calls.SERVICE}/{keda_calls.METHOD}"


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure."""

    seconds: float
    """Of each measurement."""

    rounds: int
    in_flight: tuple[int, ...]
    poll_seconds: float
    """How often the scaler reads the page of each target."""


class BenchmarkError(Exception):
    """It could not be measured, or what was measured is not good enough."""


def measure(options: Options, cores: Cores) -> list[Measurement]:
    """Measure all rounds.

    Raises:
        BenchmarkError: when a call failed.
        StartError: when a server did not start.

    """
    measurements = []
    with _servers(options, cores) as pair:
        for turn in range(options.rounds):
            for in_flight in options.in_flight:
                # The order alternates, so that what changes steadily favours neither.
                for server, client in pair if turn % 2 == 0 else reversed(pair):
                    measurements.append(_measure(server, client, in_flight, options.seconds))
            print(f"round {turn + 1} of {options.rounds}", file=sys.stderr)
    return measurements


@contextlib.contextmanager
def _servers(options: Options, cores: Cores) -> Iterator[list[tuple[Server, UnaryClient]]]:
    """Run both servers, paused, with a connection to each."""
    python = sys.executable
    scaler = [
        *(str(Path(python).with_name("keda-scaler")), "serve", "--allow-address", "127.0.0.0/8"),
        *("--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0"),
    ]
    # Settings of whoever runs this must not change what is measured.
    env = {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT)}
    with contextlib.ExitStack() as exits:
        start = exits.enter_context
        page = start(running("page", [python, str(_HERE / "page_server.py")], cores.client))
        bare = start(running(BARE, [python, str(_HERE / "bare_server.py")], cores.server))
        ours = start(running(OURS, scaler, cores.server, env))
        os.sched_setaffinity(0, {cores.client})
        url = f"http://127.0.0.1:{page.port}/metrics"
        metadata = keda_calls.metadata(url, options.poll_seconds)
        requests = keda_calls.requests(metadata)
        pair = []
        for server in (bare, ours):
            _ask_once(server, metadata)
            server.pause()
            client = UnaryClient(server.port, _PATH, requests, keda_calls.holds_value)
            pair.append((server, start(contextlib.closing(client))))
        yield pair


def _ask_once(server: Server, metadata: dict[str, str]) -> None:
    """Ask about every target with an ordinary client: what fails says why, and targets are known.

    Raises:
        BenchmarkError: when an answer is an error, or has no value.

    """
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = ExternalScalerStub(channel)
        for target in range(keda_calls.TARGETS):
            request = pb.GetMetricsRequest(
                scaledObjectRef=keda_calls.reference(target, metadata),
                metricName=keda_calls.METRIC,
            )
            try:
                answer = stub.GetMetrics(request, timeout=FIRST_ANSWER_SECONDS, wait_for_ready=True)
            except grpc.RpcError as error:
                raise BenchmarkError(f"{server.name}: {error}") from error
            if [value.metricName for value in answer.metricValues] != [keda_calls.METRIC]:
                raise BenchmarkError(f"{server.name} answers without a value: {answer}")


def _measure(server: Server, client: UnaryClient, in_flight: int, seconds: float) -> Measurement:
    server.resume()
    try:
        client.run(in_flight, min(seconds, WARM_UP_SECONDS))
        before = server.cpu_seconds()
        load = client.run(in_flight, seconds)
        cpu = server.cpu_seconds() - before
    except (ProtocolError, OSError) as error:
        raise BenchmarkError(f"{server.name}: {error}") from error
    finally:
        server.pause()
    if load.failed:
        raise BenchmarkError(
            f"{server.name}: {load.failed} of {load.calls} calls failed: {load.failures}"
        )
    return _measurement(server.name, in_flight, load, cpu)


def _measurement(name: str, in_flight: int, load: Load, server_cpu: float) -> Measurement:
    ordered = sorted(load.latencies)
    return Measurement(
        server=name,
        in_flight=in_flight,
        calls=load.calls,
        calls_per_second=load.answered / load.seconds,
        p50_ms=percentile(ordered, 50) * 1e3,
        p99_ms=percentile(ordered, 99) * 1e3,
        server_cpu_us=server_cpu / load.calls * 1e6,
        client_cores=load.client_cpu / load.seconds,
    )


def _document(options: Options, cores: Cores, comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Give what --json writes: everything that was measured, and how."""
    return {
        "options": asdict(options),
        "targets": keda_calls.TARGETS,
        "cores": asdict(cores),
        "comparisons": [asdict(each) for each in comparisons],
    }


def _below_floor(comparisons: Sequence[Comparison], floor: float) -> str | None:
    """Say that the scaler is too slow; None: it is not, or it was not measured."""
    for each in comparisons:
        ratio = each.throughput.of_medians
        if each.in_flight == FLOOR_IN_FLIGHT and ratio < floor:
            return f"{ratio:.3f} of the bare server's throughput is below the floor of {floor:g}"
    return None


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="GetMetrics of the scaler beside a bare grpc.aio server, in the same run.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--seconds", type=float, default=0.5, help="length of one measurement")
    add("--rounds", type=int, default=20, help="measurements of each server, in turns")
    add("--in-flight", type=int, nargs="+", default=[1, 16, 64], help="calls at the same time")
    add("--poll-seconds", type=float, default=5.0, help="how often each target's page is read")
    add("--floor", type=float, default=FLOOR, help=f"lowest ratio at {FLOOR_IN_FLIGHT} in flight")
    add("--strict", action="store_true", help="fail also below the floor")
    add("--json", type=Path, default=None, help="file to write the results to")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, judge; give the exit code."""
    given = _parse(arguments)
    options = Options(given.seconds, given.rounds, tuple(given.in_flight), given.poll_seconds)
    cores = Cores.pick()
    if cores.shared:
        print("only one core: the client takes time from the servers, ratios are too high")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no paused server is left behind
    gc.disable()  # a collection would be measured as latency; nothing here makes cycles
    try:
        comparisons = compare(measure(options, cores))
    except (BenchmarkError, StartError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    print(table(comparisons))
    if given.json:
        given.json.write_text(json.dumps(_document(options, cores, comparisons), indent=2) + "\n")
    problem = _below_floor(comparisons, given.floor)
    if problem:
        print(f"missed: {problem}", file=sys.stderr)
    return 1 if problem and given.strict else 0


if __name__ == "__main__":
    sys.exit(main())
