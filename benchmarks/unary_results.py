"""Measurements to the table and the JSON that people and CI read.

Every number of the table is a median over rounds. A round measures both servers one after the
other, so the spread of its ratios says how noisy the machine was.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

BARE, OURS = "bare", "ours"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One server under load: in one round, or the median of its rounds."""

    server: str
    in_flight: int
    calls: int
    calls_per_second: float
    p50_ms: float
    p99_ms: float
    server_cpu_us: float
    """CPU time of the server process per call, in microseconds."""

    client_cores: float
    """CPU time of the client per second; near 1 it is the client that is measured."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """Ours to bare."""

    of_medians: float
    lowest: float
    """Of a round."""

    highest: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both servers at one number of calls in flight; calls are of all rounds."""

    in_flight: int
    rounds: int
    bare: Measurement
    ours: Measurement
    throughput: Ratio
    p99: Ratio
    server_cpu: Ratio


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Give the smallest value that so many percent of the values do not exceed."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def compare(measurements: Iterable[Measurement]) -> list[Comparison]:
    """Put the rounds together, for each number in flight in the order of its first round."""
    rounds: dict[int, dict[str, list[Measurement]]] = {}
    for each in measurements:
        rounds.setdefault(each.in_flight, {BARE: [], OURS: []})[each.server].append(each)
    return [_comparison(of[BARE], of[OURS]) for of in rounds.values()]


def table(comparisons: Iterable[Comparison]) -> str:
    """Lay the comparisons out for people."""
    head = ("in flight", "", "calls/s", "p50 ms", "p99 ms", "server CPU us/call", "client cores")
    rows = [head, *(row for each in comparisons for row in _rows(each))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _rows(each: Comparison) -> Iterable[tuple[str, ...]]:
    for of in (each.bare, each.ours):
        yield (
            str(of.in_flight),
            of.server,
            f"{of.calls_per_second:,.0f}",
            f"{of.p50_ms:.2f}",
            f"{of.p99_ms:.2f}",
            f"{of.server_cpu_us:.0f}",
            f"{of.client_cores:.2f}",
        )
    ratios = (each.throughput, each.p99, each.server_cpu)
    rate, p99, cpu = (f"{of.of_medians:.3f}" for of in ratios)
    yield "", "ours/bare", rate, "", p99, cpu, ""
    rate, p99, cpu = (f"{of.lowest:.2f}-{of.highest:.2f}" for of in ratios)
    yield "", "of rounds", rate, "", p99, cpu, ""


def _comparison(bare: Sequence[Measurement], ours: Sequence[Measurement]) -> Comparison:
    return Comparison(
        in_flight=ours[0].in_flight,
        rounds=len(ours),
        bare=_summary(bare),
        ours=_summary(ours),
        throughput=_ratio(
            [each.calls_per_second for each in bare], [each.calls_per_second for each in ours]
        ),
        p99=_ratio([each.p99_ms for each in bare], [each.p99_ms for each in ours]),
        server_cpu=_ratio(
            [each.server_cpu_us for each in bare], [each.server_cpu_us for each in ours]
        ),
    )


def _summary(rounds: Sequence[Measurement]) -> Measurement:
    return Measurement(
        server=rounds[0].server,
        in_flight=rounds[0].in_flight,
        calls=sum(each.calls for each in rounds),
        calls_per_second=median(each.calls_per_second for each in rounds),
        p50_ms=median(each.p50_ms for each in rounds),
        p99_ms=median(each.p99_ms for each in rounds),
        server_cpu_us=median(each.server_cpu_us for each in rounds),
        client_cores=median(each.client_cores for each in rounds),
    )


def _ratio(bare: Sequence[float], ours: Sequence[float]) -> Ratio:
    of_rounds = [own / other for other, own in zip(bare, ours, strict=True)]
    return Ratio(median(ours) / median(bare), min(of_rounds), max(of_rounds))
