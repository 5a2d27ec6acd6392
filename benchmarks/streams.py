"""Ten thousand open streams: what they cost, how they come back, and how they are all told at once.

KEDA's one connection has StreamIsActive and StreamMetricSpec open of every ScaledObject. It is
closed and all are opened again, as when KEDA restarts. Then two StreamIsActive of each are open and
reports wake all ScaledObjects at once, while unary calls are made. A bare server that sends the
same messages is measured beside it, in the same run.

Exit code 1: a stream or a call failed; with --strict also a figure above what is wanted.
"""

import argparse
import contextlib
import gc
import http.client
import json
import os
import random
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path

import keda_calls
from fleet import BenchmarkError, environment, servers
from fleet_client import Chain, FleetClient, Request
from http2 import ProtocolError
from processes import Cores, Server, StartError, running
from tables import lay_out
from unary_results import BARE, OURS, percentile
from waking_edges import NAMESPACE, TOKEN

from keda_scaler.pb import externalscaler_pb2 as pb

LIMIT_IDLE_MIB = 80.0
LIMIT_MIB = 400.0
LIMIT_KIB = 28.0
LIMIT_REOPEN = 1.3
LIMIT_PUSH_SECONDS = 0.6
LIMIT_PUSHED_MS = 30.0
LIMIT_COLLECT_MS = 50.0

OPEN_SECONDS = 60.0
"""Longest time for all streams to say something."""

MEANWHILE_SECONDS = 0.6
"""For so long calls are made while all streams are told."""

MAX_REPORTS = 1000
"""In one request."""

_PER_SECOND = 1000
"""Unary calls."""

_COLLECTED = re.compile(r"collected in ([\d.]+) s")
_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure beside what is wanted."""

    what: str
    bare: float | None
    ours: float
    limit: float | None
    """Highest that is accepted; None: any."""

    of_ratio: bool = False
    """Whether the limit is of ours to bare, and not of ours."""

    @property
    def judged(self) -> float:
        """What the limit is about."""
        return self.ours / self.bare if self.of_ratio and self.bare else self.ours

    @property
    def is_too_much(self) -> bool:
        """Whether it is above its limit."""
        return self.limit is not None and self.judged > self.limit


@dataclass(slots=True)
class Measured:
    """One server."""

    idle_mib: float = 0.0
    targets_mib: float = 0.0
    """With every target known and no stream."""

    streams_mib: float = 0.0
    open_seconds: float = 0.0
    reopen_seconds: float = 0.0
    push_seconds: float = 0.0
    """From the first message of the wave to the last."""

    pushed_p99_ms: float = 0.0
    """Of unary calls while it lasted."""

    collect_ms: float = 0.0
    """A full garbage collection at rest; 0 where it is not measured."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A server that is measured."""

    name: str
    server: Server
    objects: int
    settle_seconds: float
    """After which a server is at rest."""

    calls_per_second: int
    """While all streams are told."""

    def tell(self, waiting: int) -> None:
        """Have every ScaledObject wait for so many requests; the bare server wakes all streams."""
        if self.name == BARE:
            self.server.process.send_signal(signal.SIGUSR1)
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.server.ports[1], timeout=30)
        names = [f"llama-{number}" for number in range(self.objects)]
        given = {"namespace": NAMESPACE, "waiting": waiting, "ttlSeconds": 3600}
        headers = {"Authorization": f"Bearer {TOKEN}"}
        for at in range(0, len(names), MAX_REPORTS):
            body = json.dumps([{**given, "name": name} for name in names[at : at + MAX_REPORTS]])
            connection.request("POST", "/v1/reports", body, headers)
            answer = connection.getresponse()
            if answer.status != HTTPStatus.OK:
                raise BenchmarkError(f"a report is answered with HTTP {answer.status}")
            answer.read()
        connection.close()

    def references(self) -> list[bytes]:
        """Serialize a reference to every ScaledObject."""
        given = keda_calls.metadata("", 5)
        for key in ("endpoints", "model", "targetGpuMemoryPressure", "targetConcurrency"):
            del given[key]
        given |= {"engine": "reports", "idleSeconds": "0", "pollSeconds": "60"}
        given |= {"pushRepeatSeconds": "3600", "coldStartSeconds": "0"}
        chance = random.Random(3)
        return [
            keda_calls.reference_bytes(
                pb.ScaledObjectRef(name=f"llama-{number}", namespace=NAMESPACE), given, chance
            )
            for number in range(self.objects)
        ]

    def connect(self) -> contextlib.closing[FleetClient]:
        """Connect, as a context manager."""
        return contextlib.closing(FleetClient(self.server.port, keda_calls.SERVICE))

    def open(self, client: FleetClient, requests: Sequence[Request]) -> float:
        """Open streams; give how long it took until each had said something, in seconds."""
        began = time.perf_counter()
        streams = client.open(requests)
        done = client.wait_for(lambda: all(each.messages for each in streams), OPEN_SECONDS)
        if not done or client.lost:
            silent = sum(not each.messages for each in streams)
            raise BenchmarkError(
                f"{self.name}: {silent} of {len(streams)} streams said nothing in time; "
                f"{len(client.lost)} ended: {client.lost[:3]}"
            )
        return max(each.first_at or 0.0 for each in streams) - began

    def play(self, client: FleetClient, chains: Sequence[Chain], seconds: float) -> list[float]:
        """Make calls; give their latencies in ms, ordered."""
        played = client.play(chains, seconds)
        if played.failed or played.missed or client.lost:
            raise BenchmarkError(
                f"{self.name}: {played.failed} calls failed, {played.missed} were missed, "
                f"{len(client.lost)} streams ended: {played.failures}"
            )
        return sorted(each * 1e3 for latencies in played.latencies.values() for each in latencies)

    def collect(self) -> float:
        """Have it collect all garbage; give how long that took, in ms."""
        if self.name == BARE:
            return 0.0
        assert self.server.process.stdout is not None
        self.server.process.send_signal(signal.SIGUSR2)
        for line in self.server.process.stdout:
            found = _COLLECTED.match(line)
            if found:
                return float(found[1]) * 1e3
        raise BenchmarkError("the scaler has ended")


def measure(
    objects: int, settle_seconds: float, calls_per_second: int, cores: Cores
) -> dict[str, Measured]:
    """Measure both servers, one after the other.

    Raises:
        BenchmarkError: when a stream or a call failed.
        ProtocolError: when a server ended the connection.
        StartError: when a server did not start.

    """
    os.sched_setaffinity(0, {cores.client})
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens"
        tokens.write_text(f"{NAMESPACE} {TOKEN}\n")
        commands = servers()
        scaler = [sys.executable, str(_HERE / "collected_scaler.py"), *commands[OURS][1:]]
        commands[OURS] = [*scaler, "--report-tokens", str(tokens)]
        results = {}
        for name, command in commands.items():
            ports = 2 if name == OURS else 1
            with running(name, command, cores.server, environment(), ports=ports) as server:
                results[name] = _measure(
                    Subject(name, server, objects, settle_seconds, calls_per_second)
                )
            print(f"{name} is measured", file=sys.stderr)
    return results


def _measure(subject: Subject) -> Measured:
    measured = Measured(idle_mib=subject.server.rss_mib())
    references = subject.references()
    mixed = [
        Request(method, reference)
        for reference in references
        for method in ("StreamIsActive", "StreamMetricSpec")
    ]
    subject.tell(1)
    with subject.connect() as client:
        known = [Chain(n / _PER_SECOND, [Request("IsActive", r)]) for n, r in enumerate(references)]
        subject.play(client, known, len(references) / _PER_SECOND)
        measured.targets_mib = subject.server.rss_mib()
        measured.open_seconds = subject.open(client, mixed)
        client.wait_for(lambda: False, subject.settle_seconds)
        measured.streams_mib = subject.server.rss_mib()
        measured.collect_ms = subject.collect()
    with subject.connect() as client:  # at once: the server learns of the end meanwhile
        measured.reopen_seconds = subject.open(client, mixed)
    with subject.connect() as client:
        both = [Request("StreamIsActive", each) for each in references for _ in range(2)]
        subject.open(client, both)
        _push(subject, client, references, measured)
    return measured


def _push(
    subject: Subject, client: FleetClient, references: Sequence[bytes], measured: Measured
) -> None:
    """Have all streams told at once, and make calls meanwhile."""
    streams = list(client.streams.values())
    for waiting in (0, 1):
        client.wait_for(lambda: False, subject.settle_seconds)
        for stream in streams:
            stream.messages, stream.first_at = 0, None
        teller = threading.Thread(target=subject.tell, args=(waiting,))
        teller.start()
        calls = _calls(references, subject.calls_per_second)
        latencies = subject.play(client, calls, MEANWHILE_SECONDS)
        if not client.wait_for(lambda: all(each.messages for each in streams), OPEN_SECONDS):
            raise BenchmarkError(f"{subject.name}: not every stream was told")
        teller.join()
    came = [each.first_at for each in streams if each.first_at is not None]
    measured.push_seconds = max(came) - min(came)
    measured.pushed_p99_ms = percentile(latencies, 99)


def _calls(references: Sequence[bytes], per_second: int) -> list[Chain]:
    chance = random.Random(13)
    targets = chance.choices(references, k=round(MEANWHILE_SECONDS * per_second))
    return [Chain(n / per_second, [Request("IsActive", each)]) for n, each in enumerate(targets)]


def figures(results: Mapping[str, Measured], streams: int) -> list[Figure]:
    """Set what was measured beside what is wanted."""
    bare, ours = results[BARE], results[OURS]

    def kib(each: Measured) -> float:
        return (each.streams_mib - each.targets_mib) * 1024 / streams

    return [
        Figure("RSS at start, MiB", bare.idle_mib, ours.idle_mib, LIMIT_IDLE_MIB),
        Figure("RSS with all streams, MiB", bare.streams_mib, ours.streams_mib, LIMIT_MIB),
        Figure("RSS of a stream, KiB", kib(bare), kib(ours), LIMIT_KIB),
        Figure("all opened, s", bare.open_seconds, ours.open_seconds, None),
        Figure(
            "all opened again, s",
            bare.reopen_seconds,
            ours.reopen_seconds,
            LIMIT_REOPEN,
            of_ratio=True,
        ),
        Figure("all told, s", bare.push_seconds, ours.push_seconds, LIMIT_PUSH_SECONDS),
        Figure(
            "p99 of calls meanwhile, ms", bare.pushed_p99_ms, ours.pushed_p99_ms, LIMIT_PUSHED_MS
        ),
        Figure("full garbage collection, ms", None, ours.collect_ms, LIMIT_COLLECT_MS),
    ]


def table(found: Sequence[Figure]) -> str:
    """Lay figures out for people."""
    rows = [("figure", "bare", "ours", "ours/bare", "wanted at most")]
    for each in found:
        bare = "" if each.bare is None else f"{each.bare:.2f}"
        ratio = "" if not each.bare else f"{each.ours / each.bare:.2f}"
        wanted = "" if each.limit is None else f"{each.limit:g}{' times bare' * each.of_ratio}"
        rows.append((each.what, bare, f"{each.ours:.2f}", ratio, wanted))
    return lay_out(rows, 1)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Thousands of open streams, beside a bare server, in the same run.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--objects", type=int, default=5000, help="ScaledObjects, each with two streams")
    add("--calls-per-second", type=int, default=_PER_SECOND, help="while all streams are told")
    add("--settle-seconds", type=float, default=8.0, help="until a server is at rest")
    add("--strict", action="store_true", help="fail also for a figure above what is wanted")
    add("--json", type=Path, default=None, help="file to write the results to")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, judge; give the exit code."""
    given = _parse(arguments)
    cores = Cores.pick()
    if cores.shared:
        print("only one core: the client takes time from the servers, times are too long")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server is left behind
    gc.disable()  # a collection would be measured as latency
    try:
        results = measure(given.objects, given.settle_seconds, given.calls_per_second, cores)
    except (BenchmarkError, ProtocolError, StartError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    found = figures(results, 2 * given.objects)
    print(f"{given.objects} ScaledObjects, {2 * given.objects} streams")
    print(table(found))
    if given.json:
        document = {name: asdict(each) for name, each in results.items()}
        given.json.write_text(json.dumps(document, indent=2) + "\n")
    problems = [each for each in found if each.is_too_much]
    for each in problems:
        print(f"missed: {each.what}: {each.judged:.2f} is above {each.limit:g}", file=sys.stderr)
    return 1 if problems and given.strict else 0


if __name__ == "__main__":
    sys.exit(main())
