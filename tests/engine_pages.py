"""Pages of engines for tests: composed ones, those that others recorded, and how they are read."""

from collections.abc import Collection, Iterable
from pathlib import Path

import pytest

from keda_scaler import engines
from keda_scaler.core.readings import Distribution, Missing, Reading, Value
from keda_scaler.core.signals import Signal
from keda_scaler.engines.exposition import parse_page
from keda_scaler.engines.page import read_page
from keda_scaler.engines.samples import Sample

CAPTURES = Path(__file__).parent / "captures"
CASES = Path(__file__).parent / "cases"
SAMPLES = Path(__file__).parents[2] / "shared" / "samples"

needs_samples = pytest.mark.skipif(
    not SAMPLES.exists(), reason="other people's pages are not in the repository"
)

TEXT = "text/plain; version=0.0.4; charset=utf-8"
AT = 7.0


def capture(name: str) -> str:
    return (CAPTURES / f"{name}.prom").read_text()


def case(name: str) -> str:
    """Give a small page composed after a public report."""
    return (CASES / f"{name}.prom").read_text()


def sample(name: str) -> str:
    return (SAMPLES / f"{name}.prom").read_text()


def readings_of(
    samples: Collection[Sample], engine: str = "auto", model: str | None = None
) -> dict[Signal, Reading]:
    """Read every signal of the samples of one replica."""
    dialect = engines.detect(samples, engine)
    if isinstance(dialect, Missing):
        return dict(engines.missing(dialect.reason))
    return dict(read_page(dialect, samples, model)[0])


def read(page: str, engine: str = "auto", model: str | None = None) -> dict[Signal, Reading]:
    samples = parse_page(page.encode(), TEXT, engines.names(engine), AT)
    return readings_of(samples, engine, model)


def engine_of(page: str, engine: str = "auto") -> str:
    """Give the key of the engine that a page is taken for, or why that cannot be told."""
    found = engines.detect(parse_page(page.encode(), TEXT, engines.names(engine), AT), engine)
    return getattr(found, "name", getattr(found, "reason", ""))


def numbers(readings: dict[Signal, Reading], *signals: Signal) -> tuple[object, ...]:
    """Give what queue depth, concurrency and memory pressure (or `signals`) are; None: no value."""
    wanted = signals or (Signal.QUEUE_DEPTH, Signal.CONCURRENCY, Signal.GPU_MEMORY_PRESSURE)
    found = (readings[signal] for signal in wanted)
    return tuple(value.number if isinstance(value, Value) else None for value in found)


def buckets(reading: Reading) -> dict[float, float]:
    assert isinstance(reading, Distribution)
    return dict(reading.buckets)


def without(page: str, *names: str) -> str:
    """Take all lines of some families off a page."""
    return "".join(
        line for line in page.splitlines(keepends=True) if not line.startswith(tuple(names))
    )


def only(page: str, names: Iterable[str]) -> str:
    """Leave nothing but the lines of some families on a page."""
    return "".join(line for line in page.splitlines(keepends=True) if line.startswith(tuple(names)))


def histogram(name: str, counts: dict[str, float], labels: str = "") -> str:
    """Write a histogram: per upper bound, how many were at most that."""
    comma = "," if labels else ""
    return "".join(
        f'{name}_bucket{{{labels}{comma}le="{bound}"}} {count}\n' for bound, count in counts.items()
    )
