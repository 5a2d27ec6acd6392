"""The command `keda-scaler doctor`.

Exit codes: 0 when no check failed, 1 when one did, or when the command or an input is wrong, 130
when interrupted.
"""

import asyncio
import inspect
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
from rich.console import Console
from rich.text import Text

from keda_scaler.doctor.checks import Check, Status, exit_code
from keda_scaler.doctor.examine import Case, examine
from keda_scaler.doctor.facts import facts, settings_in_use
from keda_scaler.errors import ScaledObjectError
from keda_scaler.evidence import Observed, require_writable, typed, write
from keda_scaler.probe import load_scaled_object, read_tls, standard_output
from keda_scaler.settings import FILE_ONLY, Origin, Settings

_COLOURS = {
    Status.OK: "green",
    Status.WARN: "yellow",
    Status.FAIL: "bold red",
    Status.SKIPPED: "dim",
}
_FACT = 18
_NARROW = 9
_WIDE = 14


@dataclass(frozen=True, slots=True)
class Visit:
    """What is looked at, and where that was said."""

    case: Case
    origin: Origin
    manifest: Any = None
    """The ScaledObject as parsed YAML; None: there is none."""


def visit(command: Sequence[str], seen: Visit, console: Console, record: Path | None = None) -> int:
    """Make all checks, print each as it ends, and give the exit code; see `doctor_command`.

    Raises:
        EvidenceError: when the record cannot be written.

    """
    in_use = facts(seen.origin)
    settings = settings_in_use(seen.case.settings, seen.origin)
    for name, value in in_use.items():
        _print(console, Text(f"{name:<{_FACT}} {value}"))
    _print(console, Text(f"\n{_table(settings)}\n"))
    with _silent():
        checks = asyncio.run(_checked(seen.case, console))
    code = exit_code(checks)
    _print(console, Text(f"\n{_summary(checks)}"))
    if record is not None:
        models = [model for check in checks for model in check.models]
        observed = Observed(
            command,
            code,
            console.export_text(),
            {"inUse": in_use, "checks": [check.to_json() for check in checks]},
            model=", ".join(dict.fromkeys(models)) or None,
            manifest=seen.manifest,
            settings=settings,
        )
        write(record, observed, datetime.now(UTC))
    return code


async def _checked(case: Case, console: Console) -> list[Check]:
    checks = []
    async for check in examine(case):
        checks.append(check)
        _print(console, line_of(check))
    return checks


def line_of(check: Check) -> Text:
    """Write a check as it is printed."""
    status = Text(f"{check.status.value:<{_NARROW}}", style=_COLOURS[check.status])
    line = Text.assemble(status, f"{check.name:<{_WIDE}} {check.says}")
    if check.then:
        line.append(f"\n{'':<{_NARROW + _WIDE}} -> {check.then}")
    return line


def _table(settings: Sequence[dict[str, str]]) -> str:
    width = max(len(each["name"]) for each in settings)
    rows = [{"name": "setting", "origin": "from", "value": "value"}, *settings]
    return "\n".join(f"{it['name']:<{width}}  {it['origin']:<11}  {it['value']}" for it in rows)


def _summary(checks: Sequence[Check]) -> str:
    counts = ((status, sum(check.status is status for check in checks)) for status in Status)
    return ", ".join(f"{count} {status.value}" for status, count in counts if count)


def _print(console: Console, text: Text) -> None:
    console.print(text, soft_wrap=True)


@contextmanager
def _silent() -> Iterator[None]:
    """Keep the sources' log lines out of the report: their checks say the same."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)


def doctor_command(  # noqa: PLR0913  # one parameter for each option of the command
    manifest: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="A ScaledObject; - is standard input.")
    ] = None,
    *,
    address: Annotated[
        str | None,
        typer.Option(help="HOST:PORT of the scaler, instead of scalerAddress or --grpc-address."),
    ] = None,
    ca_file: Annotated[
        Path | None, typer.Option(help="PEM file of the CA that the scaler's certificate is of.")
    ] = None,
    cert_file: Annotated[
        Path | None, typer.Option(help="PEM file of a client certificate, for mutual TLS.")
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="PEM file of the client certificate's key.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write evidence: FILE.json and FILE.md.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with settings.")] = None,
    **flags: Any,
) -> None:
    """Say what is in use, and check everything between KEDA, the scaler and what it reads.

    Exit code 0: nothing failed. 1: a check failed, or the command or an input is wrong.
    """
    require_writable(record)
    origin = Origin(flags, config)
    settings = origin.load()
    try:
        scaled_object, raw = load_scaled_object(manifest) if manifest else (None, None)
        tls = read_tls(ca_file, cert_file, key_file)
        seen = Visit(Case(settings, scaled_object, address, tls), origin, raw)
        code = visit(typed(), seen, standard_output(records=record is not None), record)
    except ScaledObjectError as error:
        Console(stderr=True, soft_wrap=True).print(Text(str(error)))
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    raise typer.Exit(code)


def _flag(name: str) -> inspect.Parameter:
    """Make the flag of a setting, as `serve` has it."""
    kind = Settings.model_fields[name].annotation
    many = str(kind).startswith(("dict", "tuple"))
    option = typer.Option(
        *([f"--{name.replace('_', '-')}"] if kind is bool else []),
        help="As `serve` takes it." + (" Repeatable." if many else ""),
        show_default=False,
        rich_help_panel="Settings of the scaler",
    )
    accepted = (bool if kind is bool else list[str] if many else str) | None
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[accepted, option]
    )


_own = inspect.signature(doctor_command)
doctor_command.__signature__ = _own.replace(  # type: ignore[attr-defined]  # what typer reads
    parameters=[
        *(each for each in _own.parameters.values() if each.kind is not each.VAR_KEYWORD),
        *(_flag(name) for name in Settings.model_fields if name not in FILE_ONLY),
    ]
)
