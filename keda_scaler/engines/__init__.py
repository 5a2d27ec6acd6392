"""Engines: exposition text to readings, pure. One file per dialect, and the table below."""

from collections.abc import Collection

from keda_scaler.core.readings import Missing, Readings
from keda_scaler.core.signals import Signal
from keda_scaler.engines.dialect import Dialect
from keda_scaler.engines.samples import Sample
from keda_scaler.engines.vllm import VLLM

DIALECTS: tuple[Dialect, ...] = (VLLM,)
"""Every engine we know, in the order of detection."""


def dialects(engine: str) -> tuple[Dialect, ...]:
    """Give the dialects that may fit a trigger's `engine`: all of them for `auto`."""
    return tuple(dialect for dialect in DIALECTS if engine in {"auto", dialect.name})


def names(engine: str) -> frozenset[str]:
    """Give every sample name worth reading for a trigger's `engine`."""
    return frozenset().union(*(dialect.names for dialect in dialects(engine)))


def path(engine: str) -> str:
    """Give the path of the metrics page; that of most engines when the engine is not known yet."""
    chosen = dialects(engine)
    return chosen[0].path if len(chosen) == 1 else "/metrics"


def concerns(sample: Sample, engine: str, model: str | None) -> bool:
    """Whether a sample is of the engine and the model that a trigger names."""
    return any(
        dialect.owns(sample) and model in {None, sample.labels[dialect.model_label]}
        for dialect in dialects(engine)
    )


def readings(samples: Collection[Sample], engine: str, model: str | None) -> Readings:
    """Read the signals of one replica.

    Every signal has a reading: a value, or the reason why there is none.
    """
    candidates = dialects(engine)
    for dialect in candidates:
        if any(dialect.owns(sample) for sample in samples):
            return dialect.readings(samples, model)
    known = ", ".join(dialect.name for dialect in candidates)
    return missing(f"no series of a known engine ({known})")


def missing(reason: str) -> Readings:
    """Say of every signal that nothing was measured."""
    return dict.fromkeys(Signal, Missing(reason))
