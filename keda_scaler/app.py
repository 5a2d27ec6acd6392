"""The composition root: the only place that builds and connects objects."""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import structlog

from keda_scaler.core.addresses import AddressRules
from keda_scaler.core.trigger import Accepts
from keda_scaler.errors import BrokenError, SettingsError
from keda_scaler.forever import keep
from keda_scaler.garbage import keep_frozen
from keda_scaler.reload import Reloader
from keda_scaler.rpc.server import Server
from keda_scaler.rpc.servicer import Servicer
from keda_scaler.settings import Origin, Settings
from keda_scaler.sources.endpoints import EndpointsSource
from keda_scaler.sources.gateways import GatewaysSource
from keda_scaler.sources.kubernetes import ServiceDirectory
from keda_scaler.sources.promapi import PrometheusServer
from keda_scaler.sources.prometheus import PrometheusSource
from keda_scaler.sources.reports import MemoryReports, Reports, ReportsSource
from keda_scaler.sources.supervisor import Supervisor
from keda_scaler.store import Follow, Store, Target
from keda_scaler.telemetry import Telemetry
from keda_scaler.web.access import Access
from keda_scaler.web.page import Pages
from keda_scaler.web.reports import ReportsApi
from keda_scaler.web.server import WebServer
from keda_scaler.web.targets import TargetsApi
from keda_scaler.web.tokens import Tokens

if TYPE_CHECKING:
    from keda_scaler.sim.server import SimulatedEngine

DEMO_HOST = "127.0.0.1"
DEMO_PORT = 18000
"""Where the embedded simulated engine serves its page; manifests/examples/demo.yaml names it."""

SWEEP_SECONDS = 60.0
"""How often targets that nobody asks about are looked for."""

_log = structlog.get_logger()


class App:
    """The whole scaler, as an async context manager: serving inside, drained after."""

    def __init__(
        self,
        settings: Settings,
        directory: ServiceDirectory | None = None,
        origin: Origin | None = None,
    ) -> None:
        """Take the settings, and where they can be read again; None: they never change."""
        self._settings = settings
        self._origin = origin
        self._directory = directory or ServiceDirectory()
        self._telemetry = Telemetry()
        self._supervisors: list[Supervisor] = []
        self._reports: Reports = MemoryReports()
        self._reloader: Reloader | None = None
        self._exits = contextlib.AsyncExitStack()
        self._serving = False
        self.broken = asyncio.Event()
        """Set when the process had better begin anew."""
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
        telemetry = self._telemetry
        exits.push_async_callback(self._directory.aclose)
        self._reports = await asyncio.to_thread(_reports_keeper, settings)
        exits.push_async_callback(self._reports.aclose)
        exits.push_async_callback(self._unsupervise, self._supervisors)
        store = Store(self._follow_by(settings), telemetry.decided, time.monotonic)
        exits.callback(store.close)
        telemetry.watch(store)
        if settings.demo:
            await exits.enter_async_context(embedded_engine())
        self._keep("sweep", partial(_sweep, store), exits)
        reports_api = await asyncio.to_thread(_reports_api, settings, self._reports)
        access = await asyncio.to_thread(_access, settings)
        pages = Pages(TargetsApi(store, access))
        web = WebServer(
            settings.http_address, telemetry, lambda: self._serving, reports_api, pages.routes()
        )
        await web.start()
        exits.push_async_callback(web.stop)
        servicer = Servicer(
            store, accepts_of(settings), telemetry, settings.max_connection_age_seconds
        )
        made = lambda: store.made + servicer.streams_made  # noqa: E731  # shorter than a def
        self._keep("garbage", partial(keep_frozen, made), exits)
        server = Server(servicer, settings.grpc_address, settings.tls)
        await self._directory.prepare()  # before readiness: the first answer would be late else
        await server.start()
        exits.push_async_callback(self._drain, server)
        if self._origin is not None:
            self._reload_from(self._origin, servicer, exits)
        self.grpc_port, self.http_port = server.port, web.port
        self._serving = True

    def _keep(
        self, kind: str, run: Callable[[], Awaitable[None]], exits: contextlib.AsyncExitStack
    ) -> None:
        """Run a task of the whole process until it stops; one that dies on and on stops it."""
        task = asyncio.create_task(keep(kind, run, self.broken.set), name=kind)
        exits.push_async_callback(_cancel, task)

    async def _drain(self, server: Server) -> None:
        self._serving = False
        await server.drain()

    def reload(self) -> None:
        """Have the settings read again soon. Before serving and after it, that does nothing."""
        if self._reloader is not None:
            self._reloader.ask()

    def _reload_from(
        self, origin: Origin, servicer: Servicer, exits: contextlib.AsyncExitStack
    ) -> None:
        async def take_up(settings: Settings) -> None:
            before = list(self._supervisors)
            await servicer.accept(accepts_of(settings), self._follow_by(settings))
            await self._unsupervise(before)

        reloader = Reloader(self._settings, origin, take_up, self._telemetry.reloaded)
        self._keep("reload", reloader.run, exits)
        self._reloader = reloader

    def _follow_by(self, settings: Settings) -> Follow:
        """Build the sources that the settings allow, and give what has them read a target."""
        rules, record = rules_of(settings), self._telemetry.read
        prometheus = PrometheusSource(servers_of(settings), rules, record=record)
        supervisor = Supervisor(
            endpoints=EndpointsSource(rules, self._directory, record),
            prometheus=prometheus,
            gateways=GatewaysSource(rules, self._directory, prometheus, record),
            reports=ReportsSource(self._reports),
        )
        self._supervisors.append(supervisor)

        def follow(target: Target) -> Callable[[], None]:
            return supervisor.follow(target.namespace, target.name, target.trigger, target)

        return follow

    async def _unsupervise(self, supervisors: list[Supervisor]) -> None:
        for supervisor in list(supervisors):
            await supervisor.aclose()
            self._supervisors.remove(supervisor)


def servers_of(settings: Settings) -> dict[str, PrometheusServer]:
    """Give the Prometheus servers that triggers may name."""
    return {
        name: PrometheusServer(**server.model_dump())
        for name, server in settings.prometheus.items()
    }


def rules_of(settings: Settings) -> AddressRules:
    """Give the rules for addresses in triggers."""
    return AddressRules.parse([*settings.allow_address, *([DEMO_HOST] if settings.demo else [])])


def accepts_of(settings: Settings) -> Accepts:
    """Give what triggers may name."""
    return Accepts(
        frozenset(settings.prometheus),
        rules_of(settings),
        reports=settings.report_tokens is not None,
        defaults=settings.defaults,
    )


def _reports_keeper(settings: Settings) -> Reports:
    """Build who keeps reports. Slow: call it in a thread."""
    if settings.redis_url is None:
        return MemoryReports()
    # These take 0.3 s to import, and are seldom used.
    from keda_scaler.sources.redisreports import RedisReports  # noqa: PLC0415
    from keda_scaler.sources.redisserver import RedisServer  # noqa: PLC0415

    files = settings.redis_password_file, settings.redis_ca_file
    return RedisReports(RedisServer(settings.redis_url, *files))


def _reports_api(settings: Settings, reports: Reports) -> ReportsApi | None:
    """Build what takes reports; None: nothing does. Reads a file: call it in a thread."""
    if settings.report_tokens is None:
        return None
    return ReportsApi(reports, Tokens(settings.report_tokens))


def _access(settings: Settings) -> Access:
    """Build who may see targets. Reads a file: call it in a thread."""
    tokens = None
    if settings.http_tokens is not None:
        tokens = Tokens(settings.http_tokens, setting="--http-tokens")
    return Access(settings.http_address, tokens, is_open=settings.http_open)


async def _sweep(store: Store) -> None:
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        store.forget()


async def _first_of(*events: asyncio.Event) -> None:
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def embedded_engine() -> AsyncIterator["SimulatedEngine"]:
    """Run the simulated engine of the embedded default, under a load that comes and goes."""
    from keda_scaler.sim.load import Arrivals, Wave, drive  # noqa: PLC0415  # for the demo alone
    from keda_scaler.sim.server import SimulatedEngine  # noqa: PLC0415  # likewise

    engine = SimulatedEngine(host=DEMO_HOST, port=DEMO_PORT)
    try:
        await engine.__aenter__()
    except OSError as error:
        raise SettingsError(
            f"--demo: cannot listen on {DEMO_HOST}:{DEMO_PORT}: {error.strerror}"
        ) from error
    load = asyncio.create_task(drive(Arrivals(Wave()), engine.submit), name="load")
    try:
        yield engine
    finally:
        await _cancel(load)
        await engine.__aexit__(None, None, None)


async def serve(settings: Settings, origin: Origin, started: Callable[[App], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain. SIGHUP has the settings read again."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    app = App(settings, origin=origin)
    loop.add_signal_handler(signal.SIGHUP, app.reload)
    async with app:
        _log.info("serving", grpc_port=app.grpc_port, http_port=app.http_port)
        started(app)
        await _first_of(stop, app.broken)
        _log.info("draining")
    _log.info("stopped")
    if app.broken.is_set():
        raise BrokenError("a task died again and again: see the log; the process ends")
