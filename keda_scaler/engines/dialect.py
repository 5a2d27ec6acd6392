"""What a dialect is, and how one turns samples into readings.

A dialect is a table: per signal, the quantities whose sum it is; per quantity, the families that
carry it in order of preference and how the series of one replica combine. Everything here is pure.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from keda_scaler.core.readings import Missing, Reading, Readings, Value
from keda_scaler.core.signals import Signal
from keda_scaler.engines.samples import Sample

Combine = Callable[[Sequence[float]], float]


@dataclass(frozen=True, slots=True)
class Quantity:
    """One number that an engine exposes."""

    names: tuple[str, ...]
    """Sample names, the preferred one first. The first that a page has is the one that is read."""

    combine: Combine
    """How the series of one replica become one number."""

    highest: float = math.inf
    """The largest number that makes sense; a larger one is a unit error, not a reading."""


@dataclass(frozen=True)
class Dialect:
    """The pure table that turns one engine's exposition into signals."""

    name: str
    """As the trigger key `engine` spells it."""

    path: str
    """Where the engine serves its metrics page."""

    model_label: str
    """The label that names the served model. A series without it is not the engine's own."""

    signals: Mapping[Signal, tuple[Quantity, ...]]
    """Per signal, the quantities that add up to it."""

    @cached_property
    def names(self) -> frozenset[str]:
        """Every sample name that the dialect reads."""
        return frozenset(
            name for parts in self.signals.values() for part in parts for name in part.names
        )

    def owns(self, sample: Sample) -> bool:
        """Whether the sample is one that this engine printed about itself."""
        return sample.name in self.names and bool(sample.labels.get(self.model_label))

    def readings(self, samples: Collection[Sample], model: str | None) -> Readings:
        """Read every signal from the samples of one replica."""
        own = [sample for sample in samples if self.owns(sample)]
        models = sorted({sample.labels[self.model_label] for sample in own})
        if model is not None and models and model not in models:
            absent = Missing(f"no series of model {model!r}; there are: {', '.join(models)[:200]}")
            return dict.fromkeys(self.signals, absent)
        if model is not None:
            own = [sample for sample in own if sample.labels[self.model_label] == model]
        by_name: dict[str, list[Sample]] = {}
        for sample in own:
            by_name.setdefault(sample.name, []).append(sample)
        return {signal: _total(parts, by_name) for signal, parts in self.signals.items()}


def _total(parts: Sequence[Quantity], by_name: Mapping[str, Sequence[Sample]]) -> Reading:
    """Add the quantities up; one that is missing makes the sum missing, never smaller."""
    number, at = 0.0, math.inf
    for part in parts:
        reading = _reading(part, by_name)
        if isinstance(reading, Missing):
            return reading
        number += reading.number
        at = min(at, reading.at)
    return Value(number, at)


def _reading(quantity: Quantity, by_name: Mapping[str, Sequence[Sample]]) -> Reading:
    name = next((name for name in quantity.names if name in by_name), None)
    if name is None:
        return Missing(f"no series of {' or '.join(quantity.names)}")
    samples = by_name[name]
    if len({frozenset(sample.labels.items()) for sample in samples}) < len(samples):
        return Missing(f"{name} has the same series twice")
    for sample in samples:
        if not 0 <= sample.number <= quantity.highest or math.isinf(sample.number):
            return Missing(f"{name} is {sample.number:g}")
    number = quantity.combine([sample.number for sample in samples])
    return Value(number, min(sample.at for sample in samples))


def total(numbers: Sequence[float]) -> float:
    """Combine counts: every series counts requests of its own."""
    return math.fsum(numbers)


def mean(numbers: Sequence[float]) -> float:
    """Combine ratios: every series is the share of a pool of the same size."""
    return fmean(numbers)
