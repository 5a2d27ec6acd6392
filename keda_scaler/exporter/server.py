"""The exporter as a process: polls the engine, the driver and the kubelet, and serves /metrics.

A request reads nothing: it writes down what the polls know. So a page that hangs or a driver in
trouble makes no scrape late.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from prometheus_client import Metric, generate_latest
from prometheus_client.registry import Collector

from keda_scaler.errors import SettingsError
from keda_scaler.exporter.engine import EngineAnswer, EnginePage
from keda_scaler.exporter.families import Known, families
from keda_scaler.exporter.poll import Poll
from keda_scaler.forever import keep
from keda_scaler.gpu.nvml import Gpu, Nvml
from keda_scaler.gpu.podresources import SOCKET, Holders, read_holders


@dataclass(frozen=True, slots=True)
class Options:
    """How the exporter runs, checked."""

    host: str
    port: int
    """0: any free one."""

    engine_url: str | None
    """The engine's metrics page; None: no engine."""

    engine: str = "auto"
    """The dialect."""

    model: str | None = None
    """Only this served model; None: every model of the page, each for itself."""

    gpu: bool | None = None
    """Whether GPUs are read; None: where there is a driver."""

    pod_resources: Path = SOCKET
    interval_seconds: float = 5.0


class Exporter(Collector):
    """Everything that is polled, and what is known of it."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._engine: Poll[EngineAnswer] | None = None
        self._gpus: Poll[tuple[Gpu, ...]] | None = None
        self._holders: Poll[Holders | None] | None = None

    def collect(self) -> Iterable[Metric]:
        """Give the families of the page."""
        engine, (driver_up, gpus, holders) = self._engine, self._known_gpus()
        return families(
            Known(
                engine_up=engine.succeeded if engine else None,
                engine=engine.fresh() if engine else None,
                driver_up=driver_up,
                gpus=gpus,
                holders=holders,
            )
        )

    def _known_gpus(self) -> tuple[bool | None, tuple[Gpu, ...], Holders]:
        """Give whether the driver answers, the GPUs, and who holds them."""
        if self._gpus is None or self._holders is None:
            return None, (), {}
        is_expected = self._options.gpu or self._gpus.has_succeeded
        driver_up = self._gpus.succeeded if is_expected else None
        if (
            self._holders.succeeded is None
        ):  # a series is not published now without a pod, then with
            return driver_up, (), {}
        return driver_up, self._gpus.fresh() or (), self._holders.fresh() or {}

    async def page(self, _: web.Request) -> web.Response:
        """Serve /metrics."""
        return web.Response(
            body=generate_latest(self),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    @contextlib.asynccontextmanager
    async def polling(self) -> AsyncIterator[None]:
        """Poll while inside."""
        async with contextlib.AsyncExitStack() as exits:
            tasks = [asyncio.create_task(keep("exporter", run)) for run in self._start(exits)]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, exits: contextlib.AsyncExitStack) -> Iterator[Callable[[], Awaitable[None]]]:
        options, seconds = self._options, self._options.interval_seconds
        if options.engine_url is not None:
            page = EnginePage(options.engine_url, options.engine, options.model, time.monotonic)
            exits.push_async_callback(page.aclose)
            self._engine = Poll("engine", page.read, seconds, lambda answer: answer.problem)
            yield self._engine.run
        if options.gpu is not False:
            nvml, socket = Nvml(), options.pod_resources
            exits.push_async_callback(nvml.aclose)
            self._gpus = Poll("GPUs", nvml.read, seconds, _lacks_of_gpus)
            yield self._gpus.run
            self._holders = Poll(
                "pods of the GPUs",
                lambda: read_holders(socket),
                seconds,
                lambda found: f"no kubelet's socket at {socket}" if found is None else None,
            )
            yield self._holders.run


def _lacks_of_gpus(gpus: tuple[Gpu, ...]) -> str | None:
    problems = (f"GPU {gpu.index}: {gpu.problem}" for gpu in gpus if gpu.problem)
    return "; ".join(problems) or None


@contextlib.asynccontextmanager
async def serving(options: Options) -> AsyncIterator[int]:
    """Poll and serve while inside; gives the real port.

    Raises:
        SettingsError: when the address cannot be listened on.

    """
    exporter = Exporter(options)
    app = web.Application()
    app.router.add_get("/metrics", exporter.page)
    app.router.add_get("/healthz", _healthz)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, options.host, options.port).start()
        except OSError as error:
            where = f"{options.host}:{options.port}"
            raise SettingsError(f"--listen: cannot listen on {where}: {error.strerror}") from error
        async with exporter.polling():
            yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def _healthz(_: web.Request) -> web.Response:
    """Liveness: the event loop turns. Never whether the engine or the driver answers."""
    return web.Response(text="ok\n")
