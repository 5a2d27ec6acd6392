"""The command `keda-scaler demo`.

Exit codes: 0 when the model went from zero to several replicas and back and no request was lost, 1
when not, 130 when interrupted.
"""

import asyncio
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from rich.console import Console
from rich.text import Text

from keda_scaler.demo import display
from keda_scaler.demo.journal import Change
from keda_scaler.demo.plan import Plan, manifest
from keda_scaler.demo.scenario import run
from keda_scaler.demo.verdict import Outcome, problems, verdict
from keda_scaler.evidence import Observed, require_writable, typed, write
from keda_scaler.keda.scaledobject import find_manifest

ANY_SCALER = "keda-scaler.keda.svc.cluster.local:6000"
"""Where the ScaledObject that is shown looks for it; the demo's own has a port of its own."""

INTRODUCTION = """\
A model server at zero replicas, a burst of requests, and back to zero: about a minute.
Real: the scaler, its gRPC calls, its watch of the Service, the pages it reads, on 127.0.0.1.
Simulated: engines, requests, and what KEDA and the HPA make of the answers. In front stands a
gateway that holds requests while no replica has room; at zero replicas the scaler knows of them
from its page (wakeFrom). See the ScaledObject with --manifest.
"""


def play(plan: Plan, console: Console, record: Path | None = None) -> int:
    """Run the demo, show it, and give the exit code; write evidence if it was not interrupted."""
    _print(console, Text(INTRODUCTION))
    changes: list[Change] = []
    try:
        outcome = uvloop.run(_play(plan, console, changes))
    except KeyboardInterrupt:
        _print(console, Text("interrupted"))
        return 130
    is_good = not problems(outcome, plan)
    _print(console, Text(verdict(outcome, plan), style="bold green" if is_good else "bold red"))
    code = 0 if is_good else 1
    if record is not None:
        write(record, _observed(plan, changes, outcome, code), datetime.now(UTC))
    return code


def _observed(plan: Plan, changes: Sequence[Change], outcome: Outcome, code: int) -> Observed:
    said = verdict(outcome, plan)
    return Observed(
        typed(),
        code,
        "\n".join([*(display.line(change).plain for change in changes), said]),
        {"verdict": said, "outcome": asdict(outcome), "journal": [asdict(it) for it in changes]},
        model=plan.model.name,
        manifest=find_manifest(manifest(plan, ANY_SCALER)),
        inputs={"plan": asdict(plan)},
    )


async def _play(plan: Plan, console: Console, changes: list[Change]) -> Outcome:
    # Whoever ends it gets their terminal back in order.
    asyncio.get_running_loop().add_signal_handler(
        signal.SIGTERM, signal.raise_signal, signal.SIGINT
    )

    def tell(change: Change) -> None:
        changes.append(change)
        _print(console, display.line(change))

    show = partial(display.show, console=console) if display.fits(console) else None
    return await run(plan, tell, show)


def _print(console: Console, text: Text) -> None:
    """Print above the picture, if there is one; a line is never wrapped where nobody watches."""
    console.print(text, soft_wrap=not console.is_terminal)


def _console() -> Console:
    """Give standard output; where it is no terminal, without any control codes."""
    if sys.stdout.isatty():
        return Console()
    return Console(force_terminal=False, color_system=None)


def demo_command(
    *,
    show_manifest: Annotated[
        bool, typer.Option("--manifest", help="Print the ScaledObject of the demo, and stop.")
    ] = False,
    record: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write evidence: FILE.json and FILE.md.")
    ] = None,
) -> None:
    """Watch a simulated model go from zero to several replicas and back, in about a minute.

    Exit code 0: it did, and no request was lost. 1: it did not. 130: interrupted.
    """
    if show_manifest:
        typer.echo(manifest(Plan(), ANY_SCALER), nl=False)
        return
    require_writable(record)
    raise typer.Exit(play(Plan(), _console(), record))
