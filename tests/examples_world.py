"""The world that an example is about: pods, gateways and the scaler, and the probe that asks it."""

import asyncio
import contextlib
import importlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Self

import typer
import yaml
from aiohttp import web
from typer.testing import CliRunner

from keda_scaler.app import App
from keda_scaler.probe import probe_command
from keda_scaler.settings import Settings
from keda_scaler.sim.kubernetes import SimulatedCluster, SimulatedEndpoint
from keda_scaler.sources.kubernetes import ServiceDirectory, at_url

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "manifests" / "examples"
WAIT_SECONDS = 20.0

command = typer.Typer()
command.command()(probe_command)

Report = dict[str, Any]
"""What `keda-scaler probe --output json` prints."""


def documents(path: Path) -> list[dict[str, Any]]:
    """Give every object of an example."""
    return [found for found in yaml.safe_load_all(path.read_text()) if found]


def scaled_objects(path: Path) -> list[str]:
    """Give every ScaledObject of an example, as the YAML text of a file of its own."""
    found = [each for each in documents(path) if each["kind"] == "ScaledObject"]
    return [yaml.safe_dump(each, sort_keys=False) for each in found]


class World:
    """A Kubernetes API with Services, and pages behind them, on loopback."""

    def __init__(self, cluster: SimulatedCluster, exits: contextlib.AsyncExitStack) -> None:
        self._cluster = cluster
        self._exits = exits

    @classmethod
    @contextlib.asynccontextmanager
    async def made(cls) -> AsyncIterator[Self]:
        """Make a world; everything in it ends with it."""
        await asyncio.to_thread(importlib.import_module, "kubernetes_asyncio.client")  # slow
        async with contextlib.AsyncExitStack() as exits:
            yield cls(await exits.enter_async_context(SimulatedCluster()), exits)

    def put(self, service: str, endpoints: Sequence[SimulatedEndpoint], namespace: str) -> None:
        """Say which pods a Service has."""
        self._cluster.put_service(namespace, service, endpoints)

    async def page(self, body: Callable[[], str]) -> int:
        """Serve a text under every path of 127.0.0.1, as a pod does; give the port."""

        async def answer(_: web.Request) -> web.Response:
            return web.Response(text=body())

        served = web.Application()
        served.router.add_get("/{path:.*}", answer)
        runner = web.AppRunner(served, access_log=None, shutdown_timeout=0.1)
        self._exits.push_async_callback(runner.cleanup)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port: int = runner.addresses[0][1]
        return port

    async def scaler(self, settings: Settings) -> App:
        """Run the scaler in this world."""
        directory = ServiceDirectory(configure=at_url(self._cluster.url))
        return await self._exits.enter_async_context(App(settings, directory))


async def probe(text: str, app: App, folder: Path, *flags: str) -> Report:
    """Run `keda-scaler probe` on a ScaledObject."""
    path = folder / "scaledobject.yaml"
    path.write_text(text)
    arguments = (str(path), "--address", f"localhost:{app.grpc_port}")
    line = (*arguments, "--output", "json", *flags)
    ran = await asyncio.to_thread(lambda: CliRunner().invoke(command, line))
    lines = [line for line in ran.stdout.splitlines() if line.startswith('{"scaledObject"')]
    assert lines, ran.output  # beside what the scaler in this process logs
    report: Report = json.loads(lines[-1])
    assert ran.exit_code == {"active": 0, "idle": 0}.get(report["verdict"], 2), report
    return report


async def until(
    holds: Callable[[Report], bool], text: str, app: App, folder: Path, *flags: str
) -> Report:
    """Probe until something holds."""
    report: Report = {}
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            while not holds(report := await probe(text, app, folder, *flags)):
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(json.dumps(report, indent=1)) from None
    return report


def totals(report: Report) -> dict[str, float | None]:
    """Give what the HPA would get, by the name that it has for it, rounded; None: nothing."""
    metrics = [metric for trigger in report["triggers"] for metric in trigger["metrics"]]
    values = {metric["hpaName"]: metric["total"] for metric in metrics}
    return {name: None if value is None else round(value, 3) for name, value in values.items()}


def steered(report: Report, replicas: int) -> int | None:
    """Give how many replicas the HPA would steer for, from so many."""
    found: int | None = next(
        each["hpa"]["replicas"] for each in report["replicas"] if each["replicas"] == replicas
    )
    return found
