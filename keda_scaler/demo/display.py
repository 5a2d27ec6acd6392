"""What a terminal shows while a demo runs: one picture of a scene, drawn anew again and again."""

import asyncio
from collections.abc import Iterable, Iterator
from itertools import chain

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from keda_scaler.demo.deployment import Phase, Pod
from keda_scaler.demo.journal import Change
from keda_scaler.demo.scenario import Scene
from keda_scaler.keda.client import Failure, MetricResult, TriggerResult
from keda_scaler.keda.cluster import hpa_metrics
from keda_scaler.keda.hpa import NoValue, desired

FRAME_SECONDS = 0.25

_WIDTH = 100
"""Of the picture, in a wider terminal."""

_CURVE = 75
"""Points of a curve that are shown, one a second: all of a demo, where the terminal is wide."""

_COLUMNS = (24, 14, 9, 9, 17)
"""Widths of the tables' columns, fixed so that nothing jumps; what they need in 80 columns."""

_LEVELS = " ▁▂▃▄▅▆▇█"

_PHASES = {Phase.LOADING: "yellow", Phase.READY: "green", Phase.TERMINATING: "magenta"}
_BYS = {"requests": "blue", "scaler": "cyan", "KEDA": "bold", "HPA": "bold", "pods": "yellow"}


def line(change: Change) -> Text:
    """Write a change as a line."""
    return Text.assemble(
        (f"{change.seconds:5.1f} s  ", "dim"),
        (f"{change.by:<9}", _BYS.get(change.by, "")),
        change.text,
    )


def fits(console: Console) -> bool:
    """Whether the picture can be drawn there; if not, the lines alone tell the story."""
    can_draw = not console.is_dumb_terminal and not console.options.ascii_only
    return console.is_terminal and can_draw


async def show(scene: Scene, console: Console) -> None:
    """Draw the scene until cancelled, and then once more."""
    # No refresh by itself: that would be a thread that reads what the loop changes.
    with Live(console=console, auto_refresh=False) as live:
        try:
            while True:
                live.update(picture(scene, console), refresh=True)
                await asyncio.sleep(FRAME_SECONDS)
        finally:
            live.update(picture(scene, console), refresh=True)


def picture(scene: Scene, console: Console) -> RenderableType:
    """Draw the scene as it is now."""
    parts = (_replicas(scene), _answers(scene), _words(scene), _curves(scene))
    title = f"keda-scaler demo  {scene.journal.seconds:.0f} s"
    return Panel(
        Group(*parts),
        title=title,
        box=box.ROUNDED,
        border_style="dim",
        width=min(_WIDTH, console.width),
    )


def _table(*columns: str) -> Table:
    table = Table(box=None, expand=True, padding=(0, 1, 0, 0), header_style="dim")
    for column, width in zip(columns, _COLUMNS, strict=True):
        table.add_column(column, no_wrap=True, ratio=width)
    return table


def _captions() -> Table:
    """Give a table of lines with a caption each, below an empty line."""
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0), expand=True)
    table.add_column(style="dim", width=18, no_wrap=True)
    table.add_column(no_wrap=True, ratio=1)
    table.add_row()
    return table


def _replicas(scene: Scene) -> Table:
    """List the gateway and the pods, in as many lines whatever there is, and an empty one."""
    table = _table("replica", "state", "running", "waiting", "KV cache")
    held = scene.gateway.held
    table.add_row("(gateway)", Text(f"holds {held}", style="blue" if held else "dim"))
    rows = [_pod(pod) for pod in scene.deployment.pods]
    for row in rows or [(Text("no replica", style="dim"),)]:
        table.add_row(*row)
    for _ in range(scene.plan.max_replicas + 1 - max(1, len(rows))):
        table.add_row()
    return table


def _pod(pod: Pod) -> tuple[str | Text, ...]:
    state = Text(pod.phase, style=_PHASES[pod.phase])
    if not pod.is_up:
        return pod.name, state, "", "", ""
    engine = pod.engine.state()
    usage = engine.kv_cache_usage
    bar = Text(f"{_LEVELS[-1] * round(usage * 10):<10} {usage:4.0%}")
    return pod.name, state, f"{engine.running}", f"{engine.waiting}", bar


def _answers(scene: Scene) -> Table:
    """Show what KEDA's side was last told."""
    table = _table("metric", "value", "target", "asks for", "IsActive")
    results = scene.autoscaler.results
    for result in results:
        if isinstance(result.metrics, Failure):
            table.add_row(f"trigger {result.trigger.index}", Text(str(result.metrics), style="red"))
    asked = chain.from_iterable(_asked(scene, results))
    for row in asked:
        table.add_row(*row)
    return table


def _asked(scene: Scene, results: Iterable[TriggerResult]) -> Iterator[list[tuple[Text, ...]]]:
    cluster = scene.autoscaler.cluster
    behavior = cluster.scaled_object.hpa.behavior
    for result in results:
        if isinstance(result.metrics, Failure):
            continue
        metrics = zip(result.metrics, hpa_metrics([result]), strict=True)
        yield [
            _metric(metric, desired(of_hpa, cluster.pods, behavior)) for metric, of_hpa in metrics
        ]


def _metric(metric: MetricResult, wanted: int | NoValue) -> tuple[Text, ...]:
    asks = "-" if isinstance(wanted, NoValue) else f"{wanted}"
    if isinstance(metric.answer, Failure):
        value, active = Text(metric.answer.brief, style="red"), Text("unknown", style="red")
    else:
        total = metric.answer.total
        value = Text("none (hold)", style="yellow") if total is None else Text(f"{total:g}")
        is_active = metric.answer.is_active
        active = Text(str(is_active).lower(), style="green" if is_active else "cyan")
    return Text(metric.hpa_name), value, Text(f"{metric.target:g}"), Text(asks), active


def _words(scene: Scene) -> Table:
    """Show everybody's latest reason."""
    table = _captions()
    words = scene.autoscaler.words
    table.add_row("scaler", Text(scene.journal.reason))
    for who in ("KEDA", "HPA"):
        table.add_row(who, Text(words.get(who, "")))
    return table


def _curves(scene: Scene) -> Table:
    table = _captions()
    samples = list(scene.samples)[-_CURVE:]
    replicas = [sample.replicas for sample in samples]
    requests = [sample.requests for sample in samples]
    gateway = scene.gateway
    counts = f"{gateway.arrived} came, {gateway.served} served, {gateway.under_way} under way"
    table.add_row(
        "ready replicas",
        Text(curve(replicas, scene.plan.max_replicas), style="green"),
    )
    table.add_row("requests", Text(curve(requests, max([1, *requests])), style="blue"))
    table.add_row("", Text(counts))
    return table


def curve(numbers: Iterable[int], highest: int) -> str:
    """Draw numbers as a line of blocks; what is above 0 never looks like 0.

    Example: 0, 1 and 8 of 8 are " ", "▁" and "█".
    """
    top = len(_LEVELS) - 1
    return "".join(
        _LEVELS[min(top, max(1, round(number / highest * top)))] if number else _LEVELS[0]
        for number in numbers
    )
