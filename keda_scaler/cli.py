"""The command line."""

import importlib
import os
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop

from keda_scaler import __version__
from keda_scaler.app import DEMO_PORT, App, serve
from keda_scaler.errors import KedaScalerError
from keda_scaler.settings import Origin, Settings
from keda_scaler.telemetry import configure_logging

DEMO_MANIFEST = "manifests/examples/demo.yaml"

app = typer.Typer(
    name="keda-scaler",
    help="A KEDA external scaler for LLM inference servers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_ELSEWHERE = {
    "probe": ("keda_scaler.probe", "probe_command"),
    "explain": ("keda_scaler.explain", "explain_command"),
    "doctor": ("keda_scaler.doctor.command", "doctor_command"),
    "exporter": ("keda_scaler.exporter.command", "exporter_command"),
    "demo": ("keda_scaler.demo.command", "demo_command"),
    "lint": ("keda_scaler.lint.command", "lint_command"),
}
"""Commands with modules of their own, which take time and memory that `serve` has no use for."""


@app.command("serve")
def serve_command(  # noqa: PLR0913, PLR0917  # one parameter a flag
    config: Annotated[Path | None, typer.Option(help="TOML file with settings.")] = None,
    grpc_address: Annotated[
        str | None, typer.Option(help="Where KEDA calls. [default: 0.0.0.0:6000]")
    ] = None,
    http_address: Annotated[
        str | None, typer.Option(help="Metrics, health, the page. [default: 127.0.0.1:8080]")
    ] = None,
    http_tokens: Annotated[
        Path | None, typer.Option(help="Tokens of those who may see targets.")
    ] = None,
    http_open: Annotated[
        bool | None,
        typer.Option("--http-open", help="Show targets without a token.", show_default=False),
    ] = None,
    prometheus: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=URL", help="A Prometheus that triggers may name. Repeatable."),
    ] = None,
    allow_address: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST_OR_CIDR", help="What addresses in triggers may point at. Repeatable."
        ),
    ] = None,
    demo: Annotated[
        bool | None,
        typer.Option("--demo", help="Also run the embedded simulated engine.", show_default=False),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key, PEM.")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(help="Accept only clients with a certificate of this CA.")
    ] = None,
    max_connection_age_seconds: Annotated[
        int | None,
        typer.Option(help="When KEDA is asked to connect anew; 0: never. [default: 3600]"),
    ] = None,
    report_tokens: Annotated[
        Path | None, typer.Option(help="Bearer tokens of those who may report. [default: none may]")
    ] = None,
    redis_url: Annotated[
        str | None, typer.Option(help="Redis or Valkey, where several scalers share reports.")
    ] = None,
    redis_password_file: Annotated[Path | None, typer.Option(help="Its password.")] = None,
    redis_ca_file: Annotated[
        Path | None, typer.Option(help="CA certificates for rediss://, PEM.")
    ] = None,
) -> None:
    """Run the scaler. Settings come from flags, KEDA_SCALER_... variables and the file."""
    flags = {
        "grpc_address": grpc_address,
        "http_address": http_address,
        "http_tokens": http_tokens,
        "http_open": http_open,
        "prometheus": prometheus,
        "allow_address": allow_address,
        "demo": demo,
        "tls_cert": tls_cert,
        "tls_key": tls_key,
        "tls_client_ca": tls_client_ca,
        "max_connection_age_seconds": max_connection_age_seconds,
        "report_tokens": report_tokens,
        "redis_url": redis_url,
        "redis_password_file": redis_password_file,
        "redis_ca_file": redis_ca_file,
    }
    origin = Origin(flags, config)
    settings = origin.load()
    configure_logging()
    uvloop.run(serve(settings, origin, lambda running: _announce(running, settings)))


@app.command("version")
def version_command() -> None:
    """Print the version."""
    typer.echo(__version__)


def _announce(running: App, settings: Settings) -> None:
    """Say where the scaler listens, and how to ask it."""
    grpc_host = settings.grpc_address.rpartition(":")[0]
    near = "127.0.0.1" if grpc_host in {"0.0.0.0", "[::]"} else grpc_host  # noqa: S104
    address = f"{near}:{running.grpc_port}"
    lines = [
        f"KEDA calls       {grpc_host}:{running.grpc_port}",
        f"page             http://{settings.http_address.rpartition(':')[0]}:{running.http_port}/",
        f"metrics, health  http://{settings.http_address.rpartition(':')[0]}:{running.http_port}",
    ]
    if settings.demo:
        page = f"http://127.0.0.1:{DEMO_PORT}/metrics"
        metadata = f'{{"endpoints": "{page}"}}'
        request = f'{{"name": "demo", "namespace": "default", "scalerMetadata": {metadata}}}'
        lines += [
            f"simulated engine {page}",
            "",
            "Ask it, in another terminal:",
            "",
            f"  {_command()} probe {DEMO_MANIFEST} --address {address}",
            f"  grpcurl -plaintext -d '{request}' {address} externalscaler.ExternalScaler/IsActive",
        ]
    typer.echo("\n".join(lines) + "\n")
    sys.stdout.flush()


def _command() -> str:
    """Give the command that this process was started as."""
    found = shutil.which("keda-scaler")
    started = Path(sys.argv[0]).absolute()
    if found and Path(found).samefile(started):
        return "keda-scaler"
    return os.path.relpath(started)


def main() -> None:
    """Run the command line; exit code 1 for what is wrong with the command or the settings.

    For a wrong command the default is 2, which of `probe` means that the answer is unknown. `lint`
    keeps it, because there 1 means findings.
    """
    if sys.argv[1:2] != ["lint"]:
        usage_error: Any = typer.BadParameter.__base__  # typer does not export it
        usage_error.exit_code = 1
    if sys.argv[1:2] != ["serve"]:
        for name, (module, command) in _ELSEWHERE.items():
            app.command(name)(getattr(importlib.import_module(module), command))
    try:
        app()
    except KedaScalerError as error:
        typer.echo(f"keda-scaler: {error}", err=True)
        sys.exit(1)
