"""Engines: exposition text to readings, pure. One file per dialect, and the table below."""

from collections.abc import Collection
from functools import cache

from keda_scaler.core.readings import Missing, Readings
from keda_scaler.core.signals import Signal
from keda_scaler.engines.dialect import STARTED, Dialect
from keda_scaler.engines.samples import Sample
from keda_scaler.engines.vllm import VLLM

DIALECTS: tuple[Dialect, ...] = (VLLM,)
"""Every engine we know, sorted by name."""


def dialects(engine: str) -> tuple[Dialect, ...]:
    """Give the dialects that may fit a trigger's `engine`: all of them for `auto`."""
    return tuple(dialect for dialect in DIALECTS if engine in {"auto", dialect.name})


@cache
def names(engine: str, *, latencies: bool = True) -> frozenset[str]:
    """Give every sample name worth reading for a trigger's `engine`, with or without histograms."""
    known = dialects(engine)
    if not latencies:
        return frozenset().union(*(dialect.gauge_names for dialect in known))
    return frozenset({STARTED}).union(*(dialect.canonical for dialect in known))


def path(engine: str) -> str:
    """Give the path of the metrics page; that of most engines when the engine is not known yet."""
    chosen = dialects(engine)
    return chosen[0].path if len(chosen) == 1 else "/metrics"


def concerns(sample: Sample, engine: str, model: str | None) -> bool:
    """Whether a sample is of the engine and the model that a trigger names."""
    return any(
        dialect.owns(sample) and dialect.is_of(sample, model) for dialect in dialects(engine)
    )


def detect(samples: Collection[Sample], engine: str) -> Dialect | Missing:
    """Tell whose page this is, or why that cannot be told."""
    candidates = dialects(engine)
    found = [dialect for dialect in candidates if any(map(dialect.marked_by, samples))]
    hidden = frozenset().union(*(dialect.supersedes for dialect in found))
    found = [dialect for dialect in found if dialect.name not in hidden]
    if len(found) == 1:
        return found[0]
    if found:
        both = " and ".join(dialect.name for dialect in found)
        return Missing(f"the page is of {both}: give the trigger key engine")
    known = ", ".join(dialect.name for dialect in candidates)
    return Missing(f"no series of a known engine ({known})")


def readings(samples: Collection[Sample], engine: str, model: str | None) -> Readings:
    """Read the signals of one replica.

    Every signal has a reading, if only the reason why there is no value.
    """
    dialect = detect(samples, engine)
    if isinstance(dialect, Missing):
        return missing(dialect.reason)
    return dialect.readings(samples, model)


def read(
    samples: Collection[Sample], engine: str, model: str | None
) -> tuple[Readings, str | None]:
    """Read the signals of one replica, and tell the engine's key; None: it is not known."""
    dialect = detect(samples, engine)
    if isinstance(dialect, Missing):
        return missing(dialect.reason), None
    return dialect.readings(samples, model), dialect.name


def missing(reason: str) -> Readings:
    """Say of every signal that nothing was measured."""
    return dict.fromkeys(Signal, Missing(reason))
