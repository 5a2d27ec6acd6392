"""The catalogue of engines: `docs/engines.md`, written from the dialects. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from keda_scaler.core.signals import LATENCIES, RATIOS, Signal
from keda_scaler.engines import DIALECTS
from keda_scaler.engines.combining import Combine, largest, mean, total
from keda_scaler.engines.devices import EXPORTERS, Exporter
from keda_scaler.engines.dialect import (
    Absence,
    Counted,
    Dialect,
    Family,
    Quantity,
    Ratio,
    families,
)

_INTRODUCTION = """\
# Engines

Written from the code by `tools/render-engines`; a test fails when the two differ.

- `engine` in a trigger names one of these. `auto` finds out by the families on the page. A page
  that two engines may have printed is an error that names both, until the trigger names one.
- A family that a page should have and lacks makes its signal unknown, never zero. The last column
  of each table names the exceptions: a part that not every server has counts as 0, and an engine
  that lacks a signal has no say in it.
- What a replica printed before and lacks now, a family or one of its series, is unknown too, until
  it is back or `holdSeconds` are over: a sum without it would be too small.
- A gauge that an engine prints only after its first request is unknown until then.
- Of several families the first that has series on the page is read.
- "Series of a replica" says how the series of one page become one number.
- Progress is the sum of the counters that are named, as far as a page has them, over all series.
  Requests that wait or run while it stands still may be stuck (`stuckSeconds`). A page that has
  nothing but these counters is no engine's.
- Engines that reserve GPU memory take it at start and keep it: the GPU's memory in use says nothing
  about load.
- Through Prometheus the same names are read; `auto` follows only pods with a family that no one
  else prints.
"""

_COMBINES: dict[Combine, str] = {total: "sum", mean: "mean", largest: "largest"}

_ABSENCES = {Absence.UNKNOWN: "unknown", Absence.ZERO: "0", Absence.LACKING: "lacks it"}

Row = Sequence[str]


def render(dialects: Iterable[Dialect] = DIALECTS) -> str:
    """Write the page, in Markdown."""
    known = tuple(dialects)
    parts = chain([_INTRODUCTION], _overview(known), *map(_chapter, known), _gpu_exporters())
    return "\n".join(parts)


def _gpu_exporters() -> Iterator[str]:
    yield "## GPU exporters\n"
    yield (
        "For `gpuMemorySource: device` and `gpu-utilization`: on the replica's own page, or through"
        " Prometheus with the pod in `exported_pod` or `pod`. A GPU with several series, because"
        " several pods share it, counts once; values of 1e15 and more are no numbers. The first"
        " exporter that tells of a pod's memory is read, else the first that tells how busy a GPU"
        " of its is.\n"
    )
    header = ("exporter", "memory in use", "all memory", "utilization", "a GPU is told by", "notes")
    yield from _table(header, map(_exporter, EXPORTERS))


def _exporter(exporter: Exporter) -> Row:
    parts = " + ".join(f"`{name}`" for name in (exporter.used, *exporter.rest))
    whole = f"`{exporter.total}`" if exporter.total else ""
    if exporter.rest:
        whole = f"{whole}, else {parts}"
    if exporter.whole is not None:
        whole = f"is {exporter.whole:g}"
    busy = ", else ".join(f"`{name}` (0 to {1 / scale:g})" for name, scale in exporter.utilization)
    labels = ", ".join(f"`{label}`" for label in exporter.identity)
    return exporter.title, f"`{exporter.used}`", whole, busy, labels, exporter.notes


def _overview(dialects: Sequence[Dialect]) -> Iterator[str]:
    signals = [signal for signal in Signal if signal is not Signal.GPU_UTILIZATION]
    yield from _table(
        ("`engine`", "name", *signals, "reserves GPU memory"),
        (
            (
                f"[`{dialect.name}`](#{_anchor(dialect)})",
                dialect.title,
                *("yes" if _reads(dialect, signal) else "-" for signal in signals),
                "yes" if dialect.reserves_memory else "no",
            )
            for dialect in dialects
        ),
    )
    yield "GPU utilization comes from [GPU exporters](#gpu-exporters), whatever the engine.\n"


def _chapter(dialect: Dialect) -> Iterator[str]:
    yield f"## {dialect.title}\n"
    yield f"- `engine: {dialect.name}`; the page is at `{dialect.path}`."
    label = dialect.model_label
    if label is None:
        yield "- The page has no label for the model: `model` of a trigger has no effect."
    else:
        measures = dialect.signals.values()
        marked = any(family.of_all_models for measure in measures for family in families(measure))
        but = ", but for those of all models" if marked else ""
        yield f"- `model` of a trigger is the label `{label}`. Series without it are not read{but}."
    if dialect.ranks:
        ranks = ", ".join(f"`{rank}`" for rank in dialect.ranks)
        yield f"- Of series that differ only in {ranks}, the largest counts."
    if dialect.spellings:
        pairs = ", ".join(f"`{other}` for `{prefix}`" for prefix, other in dialect.spellings)
        yield f"- Also read: {pairs}."
    if dialect.marks:
        names = ", ".join(f"`{name}`" for name in sorted(dialect.marks))
        yield f"- `auto` knows it by {names}."
    if dialect.supersedes:
        names = ", ".join(f"`{name}`" for name in sorted(dialect.supersedes))
        yield f"- `auto` prefers it to {names} on a page that has both."
    if dialect.served:
        counters = " + ".join(_family(family) for family in dialect.served)
        yield f"- Requests that no poll saw: {counters}."
    yield f"- Progress: {' + '.join(_family(family) for family in dialect.progress)}."
    if dialect.sleep:
        flags = ", else ".join(_family(family) for family in dialect.sleep.families)
        yield f"- Asleep, so without requests, while each of its engines has a 1 in {flags}."
    yield f"- {dialect.notes}\n"
    header = ("signal", "is", "read from", "unit", "series of a replica", "if absent")
    yield from _table(header, _rows(dialect))


def _rows(dialect: Dialect) -> Iterator[Row]:
    for signal in Signal:
        if signal in dialect.signals:
            for part, quantity in _parts(signal, dialect):
                how = (_COMBINES[quantity.combine], _ABSENCES[quantity.absence])
                yield signal, part, *_read_from(signal, quantity.families), *how
        elif signal in dialect.latencies:
            of = _read_from(signal, dialect.latencies[signal], histogram=True)
            absence = Absence.ZERO if dialect.late_histograms else Absence.UNKNOWN
            yield signal, "", *of, _COMBINES[total], _ABSENCES[absence]
        elif signal in dialect.summaries:
            of = _read_from(signal, dialect.summaries[signal])
            yield signal, "summary", *of, _COMBINES[largest], _ABSENCES[Absence.UNKNOWN]


def _parts(signal: Signal, dialect: Dialect) -> Iterator[tuple[str, Quantity]]:
    match dialect.signals[signal]:
        case Ratio() as ratio:
            yield "used", ratio.used
            yield "of", ratio.available
        case Counted() as counted:
            yield "waiting", counted.waiting
            for quantity in counted.ever:
                yield "1 more after a change of", quantity
        case parts:
            queue = _parts_of_queue(dialect)
            if signal is Signal.CONCURRENCY and parts[: len(queue)] == queue:
                yield from (("queue-depth plus", quantity) for quantity in parts[len(queue) :])
            else:
                yield from (("plus" if i else "", quantity) for i, quantity in enumerate(parts))


def _parts_of_queue(dialect: Dialect) -> tuple[Quantity, ...]:
    measure = dialect.signals[Signal.QUEUE_DEPTH]
    return measure if isinstance(measure, tuple) else ()


def _read_from(
    signal: Signal, families: Iterable[Family], *, histogram: bool = False
) -> tuple[str, str]:
    """Give the families in order, and their unit."""
    units = dict.fromkeys(_unit(signal, family) for family in families)
    suffix = "_bucket" if histogram else ""
    return ", else ".join(_family(family, suffix) for family in families), " or ".join(units)


def _family(family: Family, suffix: str = "") -> str:
    labels = ",".join(_matcher(name, sorted(values)) for name, values in family.labels.items())
    braces = f"{{{labels}}}" if labels else ""
    everything = "; of all models" if family.of_all_models else ""
    return f"`{family.name}{suffix}{braces}` ({family.versions}{everything})"


def _matcher(name: str, values: Sequence[str]) -> str:
    one_of = "\\|".join(values)  # a bare bar would end the table's cell
    return f'{name}="{one_of}"' if len(values) == 1 else f'{name}=~"{one_of}"'


def _unit(signal: Signal, family: Family) -> str:
    if signal in LATENCIES:
        return {1.0: "seconds", 0.001: "milliseconds", 1e-6: "microseconds"}[family.scale]
    if signal in RATIOS:
        return "tokens" if family.name.endswith("_tokens") else "ratio, 0 to 1"
    return "requests"


def _reads(dialect: Dialect, signal: Signal) -> bool:
    return any(signal in each for each in (dialect.signals, dialect.latencies, dialect.summaries))


def _anchor(dialect: Dialect) -> str:
    """Give the link to a chapter as Markdown's renderers make it of a heading."""
    return dialect.title.lower().replace(" ", "-").replace(".", "")


def _table(header: Row, rows: Iterable[Row]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""
