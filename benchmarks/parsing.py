"""The CPU time that a metrics page costs, beside prometheus_client's parser, in the same run.

The page is one that vLLM printed. A round measures every way of reading it, one after the other, so
that what else happens on the machine meets all alike. The numbers of the table are medians over
rounds; a ratio is the median of the rounds' ratios.

Exit code 1: reading the gauges and the latencies is not --floor times cheaper than the library's
parser.
"""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from prometheus_client.parser import text_string_to_metric_families

from keda_scaler import engines
from keda_scaler.engines.exposition import parse_page

FLOOR = 30.0
"""How many times cheaper than the library's parser reading a page has to be."""

MODELS = 100
"""More than the parser remembers the labels of: what pages cost when it remembers nothing."""

BIG_PAGE_BYTES = 8 << 20

_PAGE = Path(__file__).parent.parent / "tests" / "captures" / "vllm-0.32.0__busy-queue.prom"
_ENGINE = "vllm"
_MODEL = b"tiny-llama"
_TEXT = "text/plain; version=0.0.4"


@dataclass(frozen=True, slots=True)
class Way:
    """One way of reading a page."""

    name: str
    title: str
    read: Callable[[], object]
    calls: int
    """Per round: enough to take some milliseconds."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one page costs."""

    name: str
    title: str
    cpu_us: float
    """Of one page, in microseconds."""

    times_cheaper: float
    """Than the library's parser."""

    lowest: float
    """Of a round."""

    highest: float


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured."""

    page: str
    page_bytes: int
    page_lines: int
    rounds: int
    costs: tuple[Cost, ...]
    big_page_ms: float
    """CPU time of a page of `BIG_PAGE_BYTES` without a wanted line, in milliseconds."""


def measure(page: bytes, rounds: int) -> Report:
    """Measure all ways of reading the page in turns."""
    ways = _ways(page)
    for way in ways:
        way.read()  # compiles its patterns, fills its cache
    seconds = [[_cpu_seconds(way.read, way.calls) for way in ways] for _ in range(rounds)]
    return Report(
        page=_PAGE.stem,
        page_bytes=len(page),
        page_lines=page.count(b"\n"),
        rounds=rounds,
        costs=tuple(_cost(way, index, seconds) for index, way in enumerate(ways)),
        big_page_ms=_big_page_ms(page, rounds),
    )


def table(report: Report) -> str:
    """Lay the costs out for people."""
    rows = [("", "CPU us/page", "times cheaper", "of rounds")]
    for cost in report.costs:
        ratios = (f"{cost.times_cheaper:.1f}", f"{cost.lowest:.0f}-{cost.highest:.0f}")
        rows.append((cost.title, f"{cost.cpu_us:,.0f}", *ratios))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"{report.page}: {report.page_lines} lines, {report.page_bytes:,} bytes"]
    for title, *cells in rows:
        numbers = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("  ".join((title.ljust(widths[0]), *numbers)))
    size = f"{BIG_PAGE_BYTES >> 20} MiB"
    lines.append(f"A page of {size} without a wanted line: {report.big_page_ms:.1f} ms")
    return "\n".join(lines)


def _ways(page: bytes) -> tuple[Way, ...]:
    text = page.decode()
    gauges = engines.names(_ENGINE, latencies=False)
    all_names, any_engine = engines.names(_ENGINE), engines.names("auto")
    models = (page.replace(_MODEL, b"model-%d" % number) for number in range(MODELS))
    of_models = itertools.cycle(tuple(models))
    return (
        Way("library", "prometheus_client", lambda: list(text_string_to_metric_families(text)), 2),
        Way("gauges", "gauges", lambda: parse_page(page, _TEXT, gauges, 0.0), 100),
        Way("all", "gauges and latencies", lambda: parse_page(page, _TEXT, all_names, 0.0), 40),
        Way(
            "auto",
            "the same, any engine's names",
            lambda: parse_page(page, _TEXT, any_engine, 0.0),
            40,
        ),
        Way(
            "models",
            f"the same, {MODELS} models in turns",
            lambda: parse_page(next(of_models), _TEXT, all_names, 0.0),
            20,
        ),
    )


def _cpu_seconds(read: Callable[[], object], calls: int) -> float:
    """Give the CPU time of one call."""
    began = time.process_time()
    for _ in range(calls):
        read()
    return (time.process_time() - began) / calls


def _cost(way: Way, index: int, seconds: Sequence[Sequence[float]]) -> Cost:
    ratios = [each[0] / each[index] for each in seconds]
    return Cost(
        name=way.name,
        title=way.title,
        cpu_us=median(each[index] for each in seconds) * 1e6,
        times_cheaper=median(ratios),
        lowest=min(ratios),
        highest=max(ratios),
    )


def _big_page_ms(page: bytes, rounds: int) -> float:
    """Read a long page that is like vLLM's, and has nothing that is wanted."""
    lines = page.replace(b"vllm:", b"vlln:").replace(b"process_start", b"process_begin")
    big = lines * (BIG_PAGE_BYTES // len(lines))
    names = engines.names(_ENGINE)
    return 1e3 * median(
        _cpu_seconds(lambda: parse_page(big, _TEXT, names, 0.0), 1) for _ in range(rounds)
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="The CPU time that a metrics page costs, beside prometheus_client's parser.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--rounds", type=int, default=30, help="measurements of each way, in turns")
    add("--floor", type=float, default=FLOOR, help="lowest ratio with gauges and latencies")
    add("--json", type=Path, default=None, help="file to write the results to")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, judge; give the exit code."""
    given = _parse(arguments)
    report = measure(_PAGE.read_bytes(), given.rounds)
    print(table(report))
    if given.json:
        given.json.write_text(json.dumps(asdict(report), indent=2) + "\n")
    ratio = next(cost for cost in report.costs if cost.name == "all").times_cheaper
    if ratio < given.floor:
        print(
            f"failed: {ratio:.1f} times cheaper is below the floor of {given.floor:g}",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
