"""The command `keda-scaler exporter`."""

import asyncio
import signal
from pathlib import Path
from typing import Annotated

import structlog
import typer
import uvloop

from keda_scaler import engines
from keda_scaler.core.values import parse_url, without_query
from keda_scaler.errors import SettingsError
from keda_scaler.exporter.server import Options, serving
from keda_scaler.gpu.podresources import SOCKET
from keda_scaler.telemetry import configure_logging

_log = structlog.get_logger()


def exporter_command(  # noqa: PLR0913  # one parameter a flag
    *,
    listen: Annotated[str, typer.Option(help="Where /metrics is served.")] = "0.0.0.0:9401",
    engine_url: Annotated[
        str | None, typer.Option(help="The engine, or its metrics page: http://127.0.0.1:8000.")
    ] = None,
    engine: Annotated[str, typer.Option(help="Its dialect, or auto.")] = "auto",
    model: Annotated[str | None, typer.Option(help="Only this served model.")] = None,
    gpu: Annotated[
        bool | None,
        typer.Option("--gpu/--no-gpu", help="Read GPUs. [default: where there is a driver]"),
    ] = None,
    pod_resources: Annotated[
        Path, typer.Option(help="The kubelet's PodResources socket.")
    ] = SOCKET,
    interval: Annotated[float, typer.Option(help="Seconds between two readings.")] = 5.0,
) -> None:
    """Publish an engine's load and this node's GPUs on /metrics, whatever the engine is."""
    problems = []
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        problems.append("--listen: HOST:PORT is accepted, such as 0.0.0.0:9401 or [::]:9401")
    if engine_url is None and gpu is False:
        problems.append("--no-gpu: without --engine-url there is nothing to publish")
    accepted = ("auto", *(dialect.name for dialect in engines.DIALECTS))
    if engine not in accepted:
        problems.append(f"--engine: {engine!r}; accepted: {', '.join(accepted)}")
    if not 1 <= interval <= 3600:  # written so that NaN is refused
        problems.append("--interval: 1 to 3600 seconds are accepted")
    try:
        page = engine_url and _page(engine_url, engine)
    except ValueError as error:
        problems.append(f"--engine-url: {error} are accepted")
    if problems:
        raise SettingsError("; ".join(problems))
    configure_logging()
    options = Options(
        host.strip("[]"), int(port), page, engine, model, gpu, pod_resources, interval
    )
    uvloop.run(_serve(options))


def _page(url: str, engine: str) -> str:
    """Give the URL of the metrics page: that of the engine where the URL has no path.

    Raises:
        ValueError: when it is no URL.

    """
    parts = parse_url(url)
    if parts.path in {"", "/"}:
        parts = parts._replace(path=engines.path(engine))
    return parts.geturl()


async def _serve(options: Options) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with serving(options) as port:
        page = options.engine_url and without_query(options.engine_url)
        _log.info("serving", http_port=port, page=page)
        await stop.wait()
    _log.info("stopped")
