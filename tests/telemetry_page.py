"""The metrics page of a real scaler, and numbers out of such a page."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc
from prometheus_client.parser import text_string_to_metric_families

from keda_scaler.app import App
from keda_scaler.pb import externalscaler_pb2 as pb
from keda_scaler.pb.externalscaler_pb2_grpc import ExternalScalerStub
from keda_scaler.settings import load_settings
from keda_scaler.telemetry.families import OF_TARGET
from metrics_page import Page, capture
from prometheus_server import tool_binary
from wake_fixtures import GatewayPage, queue

if TYPE_CHECKING:  # the stubs have it, the generated module does not
    from keda_scaler.pb.externalscaler_pb2_grpc import ExternalScalerAsyncStub

SETTINGS = {
    "grpc_address": "127.0.0.1:0",
    "http_address": "127.0.0.1:0",
    "allow_address": ["127.0.0.0/8"],
}


def promtool(*arguments: str | Path, page: str = "") -> None:
    """Have promtool check something; `page` is what it reads from its standard input."""
    done = subprocess.run(
        [tool_binary("promtool"), *arguments],
        input=page,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


def numbers(page: str, **wanted: str) -> dict[str, float]:
    """Give the values of those series whose labels are these, by name and further labels."""
    return dict(_numbers(page, wanted))


def _numbers(page: str, wanted: dict[str, str]) -> Iterator[tuple[str, float]]:
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if wanted.items() <= sample.labels.items():
                more = {
                    key: value
                    for key, value in sample.labels.items()
                    if key not in {*wanted, *OF_TARGET}
                }
                yield " ".join([sample.name, *more.values()]), sample.value


async def ask(stub: "ExternalScalerAsyncStub", ref: pb.ScaledObjectRef) -> None:
    """Ask as KEDA does, whatever comes of it."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        specs = await stub.GetMetricSpec(ref)
        for spec in specs.metricSpecs:
            request = pb.GetMetricsRequest(scaledObjectRef=ref, metricName=spec.metricName)
            with contextlib.suppress(grpc.aio.AioRpcError):
                await stub.GetMetrics(request)
        await stub.IsActive(ref)


async def real_page() -> str:
    """Give the page of a scaler that has been asked everything, with a series of every metric."""
    busy, idle = Page(capture("busy-queue")), Page(capture("idle-after"))
    gateway = GatewayPage(queue(0))
    for page in (busy, idle, gateway):
        await page.start()
    async with (
        App(load_settings(SETTINGS)) as app,
        grpc.aio.insecure_channel(f"127.0.0.1:{app.grpc_port}") as channel,
        aiohttp.ClientSession() as session,
    ):
        stub = ExternalScalerStub(channel)
        host, port = gateway.address.split(":")
        wake = {"wakeFrom": "epp", "wakeService": host, "wakePort": port}
        wake["wakeSelector"] = 'target_model_name="llama"'
        metadata = {
            "busy": {"endpoints": busy.url},
            "idle": {"endpoints": idle.url, "idleSeconds": "60", **wake},
            "silent": {"endpoints": "http://127.0.0.1:9/metrics"},
            "wrong": {"endpoint": busy.url},
        }
        refs = {
            name: pb.ScaledObjectRef(namespace="models", name=name, scalerMetadata=keys)
            for name, keys in metadata.items()
        }
        for ref in refs.values():
            await ask(stub, ref)
        streams: list[Any] = [
            stub.StreamIsActive(refs["busy"]),
            stub.StreamMetricSpec(refs["busy"]),
        ]
        for stream in streams:
            await stream.read()
        async with session.get(f"http://127.0.0.1:{app.http_port}/metrics") as answer:
            text = await answer.text()
        for stream in streams:
            stream.cancel()
    for page in (busy, idle, gateway):
        await page.stop()
    return text
