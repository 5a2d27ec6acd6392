"""A flood of made-up triggers: what it takes of memory, and what those notice that are known.

Known ScaledObjects are asked about all the while, first alone, then beside a flood of names that
were never there before, each asked about once. Beyond the cap the scaler answers
RESOURCE_EXHAUSTED.

Exit code 1: a call about a known ScaledObject failed, a call was missed, or fewer names were
refused than are beyond the cap.
"""

import argparse
import contextlib
import gc
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import keda_calls
from fleet import BenchmarkError, environment, servers
from fleet_calls import NAMESPACES
from fleet_client import Chain, FleetClient, Played, Request
from http2 import ProtocolError
from keda_calls import METRIC
from processes import Cores, Server, StartError, running
from tables import lay_out
from unary_results import OURS, percentile

from keda_scaler.pb import externalscaler_pb2 as pb
from keda_scaler.store import MAX_TARGETS

KNOWN, KNOWN_PER_SECOND = 200, 200
FLOOD_PER_SECOND = 1_000

_KNOWN, _MADE_UP = "GetMetrics", "IsActive"
_HERE = Path(__file__).parent


def measure(names: int, cores: Cores) -> list[tuple[str, Played, float]]:
    """Measure before and during the flood: what, what came of the calls, and MiB at its end.

    Raises:
        BenchmarkError: when a call that must not fail did.
        ProtocolError: when the server ended the connection.
        StartError: when the server did not start.

    """
    pages = [sys.executable, str(_HERE / "fleet_pages.py")]
    os.sched_setaffinity(0, {cores.client})
    with (
        running("pages", pages, cores.client) as page,
        running(OURS, servers()[OURS], cores.server, environment()) as server,
        contextlib.closing(FleetClient(server.port, keda_calls.SERVICE)) as client,
    ):
        url = f"http://127.0.0.1:{page.port}/metrics"
        seconds = names / FLOOD_PER_SECOND
        calm = min(seconds, 10.0)
        _play(server, client, _known(url, 2.0), 2.0)
        rows = [("before", *_play(server, client, _known(url, calm), calm))]
        both = sorted((*_known(url, seconds), *_flood(url, names)), key=lambda chain: chain.due)
        played, mib = _play(server, client, both, seconds)
        rows.append(("during", played, mib))
    refused = names + KNOWN - MAX_TARGETS
    if played.failed < refused:
        raise BenchmarkError(f"{played.failed} calls were refused, not {refused}")
    return rows


def _play(
    server: Server, client: FleetClient, chains: Sequence[Chain], seconds: float
) -> tuple[Played, float]:
    played = client.play(chains, seconds)
    if played.failed_by[_KNOWN] or played.missed:
        raise BenchmarkError(
            f"{played.failed_by[_KNOWN]} calls about known ScaledObjects failed, "
            f"{played.missed} were missed: {played.failures}"
        )
    return played, server.rss_mib()


def _known(url: str, seconds: float) -> list[Chain]:
    calls = [
        Request(_KNOWN, keda_calls.metrics_request(_reference(number, "known", url), METRIC))
        for number in range(KNOWN)
    ]
    count = round(seconds * KNOWN_PER_SECOND)
    return [Chain(number / KNOWN_PER_SECOND, [calls[number % KNOWN]]) for number in range(count)]


def _flood(url: str, names: int) -> list[Chain]:
    return [
        Chain(number / FLOOD_PER_SECOND, [Request(_MADE_UP, _reference(number, "made-up", url))])
        for number in range(names)
    ]


def _reference(number: int, kind: str, url: str) -> bytes:
    given = {**keda_calls.metadata(url, 5), "onUnknown": "hold"}
    reference = pb.ScaledObjectRef(
        name=f"{kind}-{number}", namespace=f"team-{number % NAMESPACES}", scalerMetadata=given
    )
    return reference.SerializeToString()


def table(rows: Sequence[tuple[str, Played, float]]) -> str:
    """Lay the results out for people."""
    lines = [("the flood", "known calls", "p50 ms", "p99 ms", "refused", "RSS MiB")]
    for what, played, mib in rows:
        ordered = sorted(each * 1e3 for each in played.latencies[_KNOWN])
        times = (f"{percentile(ordered, 50):.2f}", f"{percentile(ordered, 99):.2f}")
        lines.append((what, f"{len(ordered):,}", *times, f"{played.failed:,}", f"{mib:.0f}"))
    return lay_out(lines, 1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print; give the exit code."""
    parser = argparse.ArgumentParser(
        description="A flood of made-up triggers.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--names", type=int, default=100_000, help="that are made up")
    given = parser.parse_args(arguments)
    cores = Cores.pick()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server is left behind
    gc.disable()  # a collection would be measured as latency
    try:
        rows = measure(given.names, cores)
    except (BenchmarkError, ProtocolError, StartError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    print(f"{given.names:,} made-up names, {FLOOD_PER_SECOND:,} a second")
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
