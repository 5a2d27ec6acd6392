"""The composition root: the only place that builds and connects objects."""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Self

import structlog

from keda_scaler.core.addresses import AddressRules
from keda_scaler.core.trigger import Accepts
from keda_scaler.errors import SettingsError
from keda_scaler.rpc.server import Server
from keda_scaler.rpc.servicer import Servicer
from keda_scaler.settings import Settings
from keda_scaler.sim.load import Arrivals, Wave, drive
from keda_scaler.sim.server import SimulatedEngine
from keda_scaler.sources.endpoints import EndpointsSource
from keda_scaler.sources.kubernetes import ServiceDirectory
from keda_scaler.sources.promapi import PrometheusServer
from keda_scaler.sources.prometheus import PrometheusSource
from keda_scaler.sources.supervisor import Supervisor
from keda_scaler.store import Store, Target
from keda_scaler.telemetry import Telemetry
from keda_scaler.web.server import WebServer

DEMO_HOST = "127.0.0.1"
DEMO_PORT = 18000
"""Where the embedded simulated engine serves its page; manifests/examples/demo.yaml names it."""

SWEEP_SECONDS = 60.0
"""How often targets that nobody asks about are looked for."""

_log = structlog.get_logger()


class App:
    """The whole scaler, as an async context manager: serving inside, drained after."""

    def __init__(self, settings: Settings, directory: ServiceDirectory | None = None) -> None:
        self._settings = settings
        self._directory = directory or ServiceDirectory()
        self._exits = contextlib.AsyncExitStack()
        self._serving = False
        self.grpc_port = 0
        self.http_port = 0

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as exits:
            await self._start(exits)
            self._exits = exits.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._exits.aclose()

    async def _start(self, exits: contextlib.AsyncExitStack) -> None:
        """Start from the world inwards; what is pushed last stops first."""
        settings = self._settings
        telemetry = Telemetry()
        allowed = [*settings.allow_address, *([DEMO_HOST] if settings.demo else [])]
        rules = AddressRules.parse(allowed)
        servers = {
            name: PrometheusServer(**server.model_dump())
            for name, server in settings.prometheus.items()
        }
        exits.push_async_callback(self._directory.aclose)
        supervisor = Supervisor(
            EndpointsSource(rules, self._directory, telemetry.read),
            PrometheusSource(servers, rules, record=telemetry.read),
        )
        exits.push_async_callback(supervisor.aclose)
        store = Store(_follow_with(supervisor), telemetry.decided, time.monotonic)
        exits.callback(store.close)
        telemetry.count_targets(store.states)
        if settings.demo:
            await exits.enter_async_context(embedded_engine())
        exits.push_async_callback(_cancel, asyncio.create_task(_sweep(store), name="sweep"))
        web = WebServer(settings.http_address, telemetry, lambda: self._serving)
        await web.start()
        exits.push_async_callback(web.stop)
        accepts = Accepts(frozenset(settings.prometheus), rules)
        server = Server(Servicer(store, accepts, telemetry), settings.grpc_address, settings.tls)
        await server.start()
        exits.push_async_callback(self._drain, server)
        self.grpc_port, self.http_port = server.port, web.port
        self._serving = True

    async def _drain(self, server: Server) -> None:
        self._serving = False
        await server.drain()


def _follow_with(supervisor: Supervisor) -> Callable[[Target], Callable[[], None]]:
    def follow(target: Target) -> Callable[[], None]:
        return supervisor.follow(target.namespace, target.name, target.trigger, target)

    return follow


async def _sweep(store: Store) -> None:
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        store.forget()


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def embedded_engine() -> AsyncIterator[SimulatedEngine]:
    """Run the simulated engine of the embedded default, under a load that comes and goes."""
    engine = SimulatedEngine(host=DEMO_HOST, port=DEMO_PORT)
    try:
        await engine.__aenter__()
    except OSError as error:
        raise SettingsError(
            f"--demo: cannot listen on {DEMO_HOST}:{DEMO_PORT}: {error.strerror}"
        ) from error
    load = asyncio.create_task(_load(engine), name="load")
    try:
        yield engine
    finally:
        await _cancel(load)
        await engine.__aexit__(None, None, None)


async def _load(engine: SimulatedEngine) -> None:
    await drive(Arrivals(Wave()), engine.submit)


async def serve(settings: Settings, started: Callable[[App], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with App(settings) as app:
        _log.info("serving", grpc_port=app.grpc_port, http_port=app.http_port)
        started(app)
        await stop.wait()
        _log.info("draining")
    _log.info("stopped")
