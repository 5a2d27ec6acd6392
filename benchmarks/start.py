"""How long the scaler takes to start, and what it takes of memory before anybody asks.

From the start of the process to the line that says where it listens, which comes after the health
service says SERVING. A bare server that imports nothing but gRPC is started in turns with it. The
last row has answered about a Service, which takes the client of Kubernetes.

Exit code 1: a server did not start; with --strict also a figure above what is wanted.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import grpc
from fleet import environment, servers
from processes import Cores, Server, StartError, running
from tables import lay_out
from unary_results import BARE, OURS
from waking import SERVICE, no_replicas, write_kubeconfig
from waking_edges import NAMESPACE

from keda_scaler.pb import externalscaler_pb2 as pb
from keda_scaler.pb.externalscaler_pb2_grpc import ExternalScalerStub

LIMIT_SECONDS = 0.8
LIMIT_MIB = 80.0
LIMIT_KUBERNETES_MIB = 150.0

KUBERNETES = "ours, with Kubernetes"
ANSWER_SECONDS = 20.0


@dataclass(slots=True)
class Started:
    """One server, started several times."""

    name: str
    limit_seconds: float | None
    limit_mib: float | None
    seconds: list[float] = field(default_factory=list)
    mib: list[float] = field(default_factory=list)

    @property
    def problem(self) -> str | None:
        """What is above its limit; None: nothing is."""
        if self.limit_seconds is not None and median(self.seconds) > self.limit_seconds:
            return f"{self.name}: {median(self.seconds):.2f} s is above {self.limit_seconds:g}"
        if self.limit_mib is not None and median(self.mib) > self.limit_mib:
            return f"{self.name}: {median(self.mib):.0f} MiB is above {self.limit_mib:g}"
        return None


async def measure(rounds: int, cores: Cores, folder: Path) -> list[Started]:
    """Start each server several times, in turns.

    Raises:
        StartError: when a server did not start.

    """
    results = [
        Started(BARE, None, None),
        Started(OURS, LIMIT_SECONDS, LIMIT_MIB),
        Started(KUBERNETES, None, LIMIT_KUBERNETES_MIB),
    ]
    commands = servers()
    async with no_replicas() as api:
        kubeconfig = {"KUBECONFIG": str(write_kubeconfig(folder, api.url))}
        for _ in range(rounds):
            for result in results:
                command = commands[BARE if result.name == BARE else OURS]
                began = time.perf_counter()
                # A cluster in sight is asked before readiness.
                env = {**environment(), **(kubeconfig if result.name == KUBERNETES else {})}
                with running(result.name, command, cores.server, env) as server:
                    result.seconds.append(time.perf_counter() - began)
                    if result.name == KUBERNETES:
                        await _ask(server)
                    result.mib.append(server.rss_mib())
    return results


async def _ask(server: Server) -> None:
    """Ask about a Service, until it is known that nothing is behind it."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        reference = pb.ScaledObjectRef(
            name="llama", namespace=NAMESPACE, scalerMetadata={"service": SERVICE}
        )
        end = time.perf_counter() + ANSWER_SECONDS
        while True:
            try:
                await ExternalScalerStub(channel).IsActive(reference, timeout=ANSWER_SECONDS)
            except grpc.aio.AioRpcError as error:
                if time.perf_counter() > end:
                    raise StartError(f"no answer about a Service: {error.details()}") from error
                await asyncio.sleep(0.1)
            else:
                return


def table(results: Sequence[Started]) -> str:
    """Lay the results out for people."""
    bare = results[0]
    rows = [("server", "s", "s/bare", "wanted", "RSS MiB", "MiB/bare", "wanted")]
    for each in results:
        seconds, mib = median(each.seconds), median(each.mib)
        limits = [
            "" if limit is None else f"{limit:g}" for limit in (each.limit_seconds, each.limit_mib)
        ]
        times = (f"{seconds:.2f}", f"{seconds / median(bare.seconds):.2f}", limits[0])
        sizes = (f"{mib:.0f}", f"{mib / median(bare.mib):.2f}", limits[1])
        rows.append((each.name, *times, *sizes))
    return lay_out(rows, 1)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Start and memory at rest, beside a bare server.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--rounds", type=int, default=7, help="starts of each server; medians are printed")
    add("--strict", action="store_true", help="fail also for a figure above what is wanted")
    add("--json", type=Path, default=None, help="file to write the results to")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, judge; give the exit code."""
    given = _parse(arguments)
    cores = Cores.pick()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server is left behind
    os.sched_setaffinity(0, {cores.client})
    try:
        with tempfile.TemporaryDirectory() as folder:
            results = asyncio.run(measure(given.rounds, cores, Path(folder)))
    except StartError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    print(table(results))
    if given.json:
        given.json.write_text(json.dumps([asdict(each) for each in results], indent=2) + "\n")
    problems = [each.problem for each in results if each.problem]
    for problem in problems:
        print(f"missed: {problem}", file=sys.stderr)
    return 1 if problems and given.strict else 0


if __name__ == "__main__":
    sys.exit(main())
