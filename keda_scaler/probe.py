"""`keda-scaler probe`: ask a scaler as KEDA would, and say what KEDA and the HPA would do.

Exit codes: 0 when every external trigger is known to be active or idle, 2 when one is unknown (an
error, a scaler that cannot be reached, the hold), 1 when the input is bad (no such file, no usable
ScaledObject, or a trigger that the scaler itself refuses).
"""

import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, assert_never

import grpc.aio
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from keda_scaler.errors import ScaledObjectError
from keda_scaler.evidence import Observed, require_writable, typed, write
from keda_scaler.keda.client import Failure, MetricResult, ScalerClient, Tls, open_channel
from keda_scaler.keda.report import Asked, Report, Verdict, report_on, to_json
from keda_scaler.keda.scaledobject import (
    KedaTrigger,
    ScaledObject,
    find_manifest,
    parse_scaled_object,
)

MAX_MANIFEST_BYTES = 4 * 1024 * 1024
"""Read from the file; the parser has a lower limit of its own."""

_COLOURS = {Verdict.ACTIVE: "green", Verdict.IDLE: "cyan", Verdict.UNKNOWN: "red"}


class Output(StrEnum):
    """How a report is printed."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM texts given on the command line; None: not given."""

    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None

    @property
    def is_given(self) -> bool:
        """Whether these turn TLS on by themselves, as they do in KEDA's TriggerAuthentication."""
        return self.ca is not None or (self.certificate is not None and self.key is not None)


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for."""

    address: str | None = None
    """Where to call; None: the trigger's own scalerAddress."""

    replicas: tuple[int, ...] = ()
    """Counts to work out the consequences for; empty: 0, 1, 2 and the bounds."""

    timeout: float = 5.0
    """Seconds for all calls of one probe."""

    interval: float | None = None
    """Seconds between probes; None: only one probe."""

    output: Output = Output.TEXT
    tls: TlsFiles = TlsFiles()


def load_scaled_object(path: Path) -> tuple[ScaledObject, dict[str, Any]]:
    """Read a manifest that has something to probe; give it parsed, and as it stands there.

    `-` is standard input.

    Raises:
        ScaledObjectError: when it cannot be read or used, or when no trigger of it is external.

    """
    try:
        text = _read_text(path)
        return _with_external_trigger(parse_scaled_object(text)), find_manifest(text)
    except ScaledObjectError as error:
        lines = (f"{path}: {line}" for line in str(error).splitlines())
        raise ScaledObjectError("\n".join(lines)) from error


def _with_external_trigger(scaled_object: ScaledObject) -> ScaledObject:
    if not scaled_object.external_triggers:
        raise ScaledObjectError("spec.triggers: none is of type external or external-push")
    return scaled_object


def _read_text(path: Path) -> str:
    try:
        if path == Path("-"):
            return sys.stdin.buffer.read(MAX_MANIFEST_BYTES).decode()
        with path.open("rb") as file:
            return file.read(MAX_MANIFEST_BYTES).decode()
    except OSError as error:
        raise ScaledObjectError(error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise ScaledObjectError("not a UTF-8 text") from error


async def ask(scaled_object: ScaledObject, options: Options) -> Report:
    """Probe once: all external triggers at the same time, as KEDA's poll does.

    Raises:
        ScaledObjectError: when a trigger does not say where its scaler is.

    """
    triggers = scaled_object.external_triggers
    missing = [t.index for t in triggers if options.address is None and t.address is None]
    if missing:
        raise ScaledObjectError(
            "\n".join(
                f"spec.triggers[{index}].metadata.scalerAddress: missing; give it, or --address"
                for index in missing
            )
        )
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(
                _ask_one(scaled_object, trigger, options), name=f"probe-{trigger.index}"
            )
            for trigger in triggers
        ]
    replicas = options.replicas or _usual_replicas(scaled_object)
    return report_on(scaled_object, [task.result() for task in tasks], replicas)


async def _ask_one(scaled_object: ScaledObject, trigger: KedaTrigger, options: Options) -> Asked:
    address = options.address or trigger.address
    assert address is not None
    async with channel_to(trigger, address, options.tls) as channel:
        client = ScalerClient(channel)
        return Asked(address, await client.ask(scaled_object, trigger, within=options.timeout))


def channel_to(trigger: KedaTrigger, address: str, files: TlsFiles) -> grpc.aio.Channel:
    """Open a channel to the scaler of a trigger, as KEDA does."""
    if not trigger.uses_tls and not files.is_given:
        return open_channel(address)
    # Called elsewhere (a port-forward, say) the certificate must still be the one that KEDA checks.
    elsewhere = trigger.address is not None and trigger.address != address
    server_name = _host_of(trigger.address or address) if elsewhere else None
    return open_channel(address, Tls(files.ca, files.certificate, files.key, server_name))


def _host_of(address: str) -> str:
    """Give `scaler.keda` of `dns:///scaler.keda:6000`."""
    return address.rsplit("/", 1)[-1].rsplit(":", 1)[0].strip("[]")


def _usual_replicas(scaled_object: ScaledObject) -> tuple[int, ...]:
    low, high = scaled_object.min_replica_count, scaled_object.max_replica_count
    return tuple(sorted({0, low, high} | {count for count in (1, 2) if count <= high}))


async def probe(
    scaled_object: ScaledObject,
    options: Options,
    console: Console,
    tell: Callable[[Report], None] = lambda _: None,
) -> int:
    """Probe once, or again and again with an interval, and print; give the exit code.

    `tell` hears of every report.

    Raises:
        ScaledObjectError: when a trigger does not say where its scaler is.

    """
    while True:
        report = await ask(scaled_object, options)
        print_report(report, options.output, console)
        tell(report)
        if options.interval is None or report.exit_code == 1:
            return report.exit_code
        await asyncio.sleep(options.interval)


def print_report(report: Report, output: Output, console: Console) -> None:
    """Print a report; as JSON it is one line."""
    match output:
        case Output.JSON:
            console.print(
                json.dumps(to_json(report)), soft_wrap=True, markup=False, highlight=False
            )
        case Output.TEXT:
            _print_text(report, console)
        case _:
            assert_never(output)


def _print_text(report: Report, console: Console) -> None:
    name = f"{report.scaled_object.namespace}/{report.scaled_object.name}"
    console.print(Text.assemble(("ScaledObject ", "bold"), name, ": ", _styled(report.verdict)))
    for asked in report.asked:
        trigger = asked.result.trigger
        where = f"trigger {trigger.index} ({trigger.type}) at {asked.address}: "
        console.print(Text.assemble(where, _styled(asked.verdict), f", {asked.why}"))
        if not isinstance(asked.result.metrics, Failure):
            console.print(_metrics_table(asked.result.metrics, asked.result.metric_type))
    console.print(_what_ifs_table(report))
    for note in report.notes:
        console.print(Text(f"note: {note}"))


def _styled(verdict: Verdict) -> Text:
    return Text(verdict.value, style=f"bold {_COLOURS[verdict]}")


def _metrics_table(metrics: Sequence[MetricResult], metric_type: str) -> Table:
    table = Table("metric", "value", f"target ({metric_type})", "IsActive")
    for metric in metrics:
        if isinstance(metric.answer, Failure):
            value, active = str(metric.answer), "unknown"
        else:
            total = metric.answer.total
            value = "none" if total is None else f"{total:g}"
            active = str(metric.answer.is_active).lower()
        row = (metric.hpa_name, value, f"{metric.target:g}", active)
        table.add_row(*(Text(cell) for cell in row))
    return table


def _what_ifs_table(report: Report) -> Table:
    table = Table("at replicas", "the HPA", "KEDA", "row")
    for what_if in report.what_ifs:
        steered = "" if what_if.hpa_replicas is None else f"to {what_if.hpa_replicas}: "
        row = (f"{what_if.replicas}", steered + what_if.hpa_words, what_if.decision.words)
        table.add_row(*(Text(cell) for cell in row), f"{what_if.decision.row}")
    return table


def read_tls(ca: Path | None, certificate: Path | None, key: Path | None) -> TlsFiles:
    """Read the files of --ca-file, --cert-file and --key-file.

    Raises:
        ScaledObjectError: when one cannot be read, or when one of a pair is missing.

    """
    if (certificate is None) != (key is None):
        raise ScaledObjectError("--cert-file and --key-file: give both or none")
    return TlsFiles(*(None if path is None else _read_pem(path) for path in (ca, certificate, key)))


def _read_pem(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_MANIFEST_BYTES)
    except OSError as error:
        raise ScaledObjectError(f"{path}: {error.strerror or error}") from error


def standard_output(*, records: bool) -> Console:
    """Give standard output; where it is no terminal, wide enough that tables keep their lines."""
    return Console(width=None if sys.stdout.isatty() else 160, record=records)


def _observed(report: Report, manifest: dict[str, Any], text: str) -> Observed:
    models = (asked.result.trigger.metadata.get("model") for asked in report.asked)
    return Observed(
        typed(),
        report.exit_code,
        text,
        to_json(report),
        model=", ".join(dict.fromkeys(filter(None, models))) or None,
        manifest=manifest,
    )


def probe_command(  # noqa: PLR0913  # one parameter for each option of the command
    manifest: Annotated[Path, typer.Argument(help="A ScaledObject; - is standard input.")],
    *,
    address: Annotated[
        str | None,
        typer.Option(help="HOST:PORT of the scaler, instead of the trigger's scalerAddress."),
    ] = None,
    replicas: Annotated[
        list[int] | None,
        typer.Option(min=0, help="Say what would happen at this many replicas; repeatable."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=600, help="Seconds for all calls of one probe.")
    ] = 5.0,
    watch: Annotated[bool, typer.Option("--watch", help="Probe again and again.")] = False,
    interval: Annotated[
        float | None,
        typer.Option(min=0.1, help="Seconds between probes; default: pollingInterval."),
    ] = None,
    output: Annotated[Output, typer.Option(help="json prints one document a line.")] = Output.TEXT,
    ca_file: Annotated[
        Path | None, typer.Option(help="PEM file of the CA that signed the scaler's certificate.")
    ] = None,
    cert_file: Annotated[
        Path | None, typer.Option(help="PEM file of the client certificate, for mutual TLS.")
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="PEM file of the client certificate's key.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write evidence: FILE.json and FILE.md.")
    ] = None,
) -> None:
    """Ask a scaler as KEDA would, and say what KEDA and the HPA would do.

    Exit code 0: active or idle. 1: bad input, or the scaler refuses the trigger. 2: unknown.
    """
    if record is not None and watch:
        raise typer.BadParameter("--record: not with --watch, which does not end")
    require_writable(record)
    reports: list[Report] = []
    try:
        scaled_object, raw = load_scaled_object(manifest)
        options = Options(
            address=address,
            replicas=tuple(sorted(set(replicas or ()))),
            timeout=timeout,
            interval=(interval or scaled_object.polling_interval) if watch else None,
            output=output,
            tls=read_tls(ca_file, cert_file, key_file),
        )
        console = standard_output(records=record is not None)
        code = asyncio.run(probe(scaled_object, options, console, reports.append))
        if record is not None:
            write(record, _observed(reports[0], raw, console.export_text()), datetime.now(UTC))
    except ScaledObjectError as error:
        errors = Console(stderr=True, soft_wrap=True)
        errors.print(Text(str(error)))
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    raise typer.Exit(code)
