"""A real Prometheus that scrapes a fleet, and a scaler whose targets somebody has asked about."""

import asyncio
import contextlib
import re
import subprocess
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import grpc
from processes import Server, StartError, free_port
from upstream_server import HOST, PODS_OF_A_PAGE

from keda_scaler.core.signals import Signal
from keda_scaler.pb import externalscaler_pb2 as pb
from keda_scaler.pb.externalscaler_pb2_grpc import ExternalScalerStub

if TYPE_CHECKING:
    from keda_scaler.pb.externalscaler_pb2_grpc import ExternalScalerAsyncStub

SCRAPE_SECONDS = 5
READY_SECONDS = 60.0
"""Longest wait for Prometheus to have scraped everything, and for a target's first reading."""

IN_FLIGHT = 900
"""Calls at a time while targets are made; of more than a thousand gRPC refuses some."""

PROBE_SECONDS = 0.02
"""Between two calls that are timed: rare enough to cost next to nothing."""

LOOK_SECONDS = 0.1
"""How often is looked for the end of a poll, once it is near."""

_CONFIG = """\
global: {{scrape_interval: {seconds}s, scrape_timeout: {seconds}s}}
scrape_configs:
- job_name: fleet
  honor_labels: true
  static_configs:
{parts}"""
_PART = '  - {{targets: ["{host}:{port}"], labels: {{__metrics_path__: /pods/{part}}}}}\n'


class UpstreamError(Exception):
    """Something was not read as it is, or not in time."""


@contextlib.asynccontextmanager
async def prometheus(
    binary: str, folder: Path, port_of_pages: int, pods: int, session: aiohttp.ClientSession
) -> AsyncIterator[str]:
    """Run Prometheus until it has scraped the fleet, and give its URL.

    Raises:
        StartError: when it has not in time.

    """
    places = range(0, pods, PODS_OF_A_PAGE)
    parts = "".join(
        _PART.format(host=HOST, port=port_of_pages, part=part) for part in range(len(places))
    )
    config = folder / "prometheus.yml"
    config.write_text(_CONFIG.format(seconds=SCRAPE_SECONDS, parts=parts))
    port = free_port()
    command = [
        binary,
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={HOST}:{port}",
    ]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://{HOST}:{port}"
    try:
        await _scraped(url, pods, session)
        yield url
    finally:
        process.terminate()
        await process.wait()


async def _scraped(url: str, pods: int, session: aiohttp.ClientSession) -> None:
    end = time.monotonic() + READY_SECONDS
    found = ""
    while time.monotonic() < end:
        with contextlib.suppress(aiohttp.ClientError, LookupError):
            query = {"query": "count(vllm:num_requests_waiting)"}
            async with session.get(f"{url}/api/v1/query", params=query) as answer:
                found = (await answer.json())["data"]["result"][0]["value"][1]
            if found == str(pods):
                return
        await asyncio.sleep(0.2)
    raise StartError(f"Prometheus has scraped {found or 'no'} pods of {pods}")


@dataclass(frozen=True, slots=True)
class Reads:
    """Polls of one kind."""

    count: int
    """That went well."""

    seconds: float
    """That all of those took."""

    failed: int

    def since(self, before: "Reads") -> "Reads":
        """Give what has come to them since then.

        Raises:
            UpstreamError: when one of those did not go well.

        """
        if self.failed > before.failed:
            raise UpstreamError(f"polls failed: {self.failed - before.failed}")
        return Reads(self.count - before.count, self.seconds - before.seconds, 0)


class Scaler:
    """A scaler that is asked as KEDA asks it."""

    def __init__(self, server: Server, session: aiohttp.ClientSession) -> None:
        self._server = server
        self._session = session
        self._channel = grpc.aio.insecure_channel(f"{HOST}:{server.port}")
        self._stub: ExternalScalerAsyncStub = ExternalScalerStub(self._channel)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._channel.close()

    async def follow(self, targets: Sequence[pb.ScaledObjectRef]) -> None:
        """Have targets read, until each has a reading.

        Raises:
            UpstreamError: when one has none in time.

        """
        slots = asyncio.Semaphore(IN_FLIGHT)
        end = time.monotonic() + READY_SECONDS

        async def ask(target: pb.ScaledObjectRef) -> pb.ScaledObjectRef | None:
            async with slots:
                try:
                    await self.queue(target)
                except (grpc.aio.AioRpcError, UpstreamError):
                    return target
            return None

        left = list(targets)
        while left:
            if time.monotonic() > end:
                raise UpstreamError(f"{len(left)} targets, such as {left[0].name}, have no reading")
            asked = await asyncio.gather(*map(ask, left))
            left = [each for each in asked if each is not None]

    async def queue(self, target: pb.ScaledObjectRef) -> float:
        """Ask how many requests wait."""
        request = pb.GetMetricsRequest(scaledObjectRef=target, metricName=Signal.QUEUE_DEPTH.value)
        answer = await self._stub.GetMetrics(request, timeout=READY_SECONDS)
        if not answer.metricValues:
            raise UpstreamError(f"{target.name}: no value")
        return answer.metricValues[0].metricValueFloat

    async def probe(self, target: pb.ScaledObjectRef, seconds: list[float]) -> None:
        """Ask about one target again and again, and note how long each answer takes."""
        while True:
            began = time.perf_counter()
            await self.queue(target)
            seconds.append(time.perf_counter() - began)
            await asyncio.sleep(PROBE_SECONDS)

    async def reads(self, source: str) -> "Reads":
        """Ask for the polls so far."""
        async with self._session.get(f"http://{HOST}:{self._server.ports[1]}/metrics") as answer:
            text = await answer.text()
        found = {
            (kind, result): float(number)
            for kind, result, number in re.findall(
                rf'^keda_scaler_read_seconds_(\w+){{result="(\w+)",source="{source}"}} (.+)$',
                text,
                re.MULTILINE,
            )
        }
        return Reads(
            int(found.get(("count", "ok"), 0)),
            found.get(("sum", "ok"), 0.0),
            int(found.get(("count", "error"), 0)),
        )

    async def next_read(self, source: str, seconds: float) -> "Reads":
        """Wait for the end of a poll, of which there is one each so many seconds; count them."""
        before = now = await self.reads(source)
        await asyncio.sleep(0.7 * seconds)
        while now.count == before.count:
            await asyncio.sleep(LOOK_SECONDS)
            now = await self.reads(source)
        return now


async def queries(url: str, session: aiohttp.ClientSession) -> int:
    """Ask a Prometheus how many queries it was asked."""
    async with session.get(f"{url}/metrics") as answer:
        text = await answer.text()
    counted = re.findall(
        r'^prometheus_http_requests_total{.*handler="/api/v1/query".*} ([\d.e+]+)$',
        text,
        re.MULTILINE,
    )
    return int(sum(map(float, counted)))


def target(number: int, namespace: str, metadata: Mapping[str, str]) -> pb.ScaledObjectRef:
    """Name a ScaledObject."""
    return pb.ScaledObjectRef(
        name=f"llama-{number}", namespace=namespace, scalerMetadata=dict(metadata)
    )
