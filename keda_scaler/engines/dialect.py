"""What a dialect is, and how one turns samples into readings.

A dialect is a table. Per signal it names the quantities whose sum the signal is; per quantity, the
families that carry it in order of preference, their unit, and how the series of one replica combine.
Everything here is pure.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain

from keda_scaler.core.readings import Distribution, Flow, Lacking, Missing, Reading, Readings, Value
from keda_scaler.core.signals import Signal
from keda_scaler.engines.combining import Combine, total
from keda_scaler.engines.samples import Sample

STARTED = "process_start_time_seconds"
"""When the process began, in Unix seconds; printed by every Python client of Prometheus."""


@dataclass(frozen=True, slots=True)
class Family:
    """One family that may carry a quantity."""

    name: str
    """The sample's name, or the histogram's without `_bucket`, in the spelling of the engine."""

    labels: Mapping[str, str] = field(default_factory=dict)
    """Label values that a series must have; an empty one also means that the label is absent."""

    scale: float = 1.0
    """What a sample is multiplied with to be in our unit: 0.001 for milliseconds."""

    versions: str = ""
    """Which versions of the engine print it; for people."""

    def has(self, sample: Sample) -> bool:
        """Whether the labels of a sample are those of this family."""
        return all(sample.labels.get(name, "") == value for name, value in self.labels.items())


@dataclass(frozen=True, slots=True)
class Quantity:
    """One number that an engine exposes."""

    families: tuple[Family, ...]
    """The preferred one first. The first of which a page has a series is the one that is read."""

    combine: Combine = total
    """How the series of one replica become one number."""

    highest: float = math.inf
    """The largest number that makes sense; a larger one is a unit error, not a reading."""

    optional: bool = False
    """Whether a page without it is complete: it then counts as 0. Only for parts of a sum that
    older versions do not split off."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """A share that an engine exposes as two numbers: what is used, and what there is."""

    used: Quantity
    available: Quantity
    """0 gives no ratio."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Requests of an engine that does not say how many run.

    What is exposed counts those that wait. A counter of finished or executed requests shows that
    others ran in between: see `Flow`.
    """

    waiting: Quantity
    ever: Quantity


Measure = tuple[Quantity, ...] | Ratio | Counted


@dataclass(frozen=True)
class Dialect:
    """The pure table that turns one engine's exposition into signals."""

    name: str
    """As the trigger key `engine` spells it."""

    title: str
    """As its makers spell it."""

    signals: Mapping[Signal, Measure]
    """Per signal, how it is read. A signal that is in neither mapping is one the engine lacks."""

    latencies: Mapping[Signal, tuple[Family, ...]] = field(default_factory=dict)
    """Per latency, the histograms that carry it, the preferred one first."""

    path: str = "/metrics"
    """Where the engine serves its metrics page."""

    model_label: str | None = None
    """The label that names the served model; None: the engine prints none.

    Where there is one, a series without it is not the engine's own.
    """

    spellings: tuple[tuple[str, str], ...] = ()
    """Other spellings of a name: a prefix of ours, and what some installations make of it."""

    reserves_memory: bool = False
    """Whether the engine takes its GPU memory at start and keeps it, so that device memory in use
    says nothing about load."""

    supersedes: frozenset[str] = frozenset()
    """Engines whose families this one's page has as well, in addition to its own."""

    marks: frozenset[str] = frozenset()
    """Names by which the engine is told from others; empty: any name that is read."""

    notes: str = ""
    """What a reader of the documentation should know."""

    @cached_property
    def canonical(self) -> Mapping[str, str]:
        """Every sample name that the dialect reads, in all spellings, and the engine's own."""
        own = {family.name for family in chain.from_iterable(map(_families, self.signals.values()))}
        for family in chain.from_iterable(self.latencies.values()):
            own.add(f"{family.name}_bucket")
        own |= self.marks
        names = {name: name for name in own}
        for name in own:
            for prefix, other in self.spellings:
                if name.startswith(prefix):
                    names[other + name.removeprefix(prefix)] = name
        return names

    @cached_property
    def gauge_names(self) -> frozenset[str]:
        """The names of what is not a latency, in all spellings."""
        buckets = {
            f"{family.name}_bucket" for family in chain.from_iterable(self.latencies.values())
        }
        return frozenset(name for name, own in self.canonical.items() if own not in buckets)

    def owns(self, sample: Sample) -> bool:
        """Whether the sample is one that this engine printed about itself."""
        return sample.name in self.canonical and (
            self.model_label is None or bool(sample.labels.get(self.model_label))
        )

    def marked_by(self, sample: Sample) -> bool:
        """Whether the sample tells that the page is this engine's."""
        return self.owns(sample) and (not self.marks or self.canonical[sample.name] in self.marks)

    def is_of(self, sample: Sample, model: str | None) -> bool:
        """Whether the sample is of the served model that a trigger names."""
        return model is None or self.model_label is None or sample.labels[self.model_label] == model

    def readings(self, samples: Collection[Sample], model: str | None) -> Readings:
        """Read every signal from the samples of one replica."""
        own = [sample for sample in samples if self.owns(sample)]
        of_model = [sample for sample in own if self.is_of(sample, model)]
        if own and not of_model:
            models = sorted({sample.labels[self.model_label or ""] for sample in own})
            reason = f"no series of model {model!r}; there are: {', '.join(models)[:200]}"
            return dict.fromkeys(Signal, Missing(reason))
        page = _Page(self, of_model, _started(samples))
        return {signal: self._reading(signal, page) for signal in Signal}

    def _reading(self, signal: Signal, page: "_Page") -> Reading:
        if signal in self.latencies:
            return page.distribution(self.latencies[signal])
        match self.signals.get(signal):
            case None:
                return Lacking(f"{self.title} does not expose {signal}")
            case Ratio() as ratio:
                return page.ratio(ratio)
            case Counted() as counted:
                return page.flow(counted)
            case parts:
                return page.sum(parts)


def _families(measure: Measure) -> list[Family]:
    match measure:
        case Ratio():
            quantities: tuple[Quantity, ...] = (measure.used, measure.available)
        case Counted():
            quantities = (measure.waiting, measure.ever)
        case _:
            quantities = measure
    return [family for quantity in quantities for family in quantity.families]


def _started(samples: Collection[Sample]) -> float | None:
    """Say when the process began, by its own word; the latest of several."""
    return max((s.number for s in samples if s.name == STARTED), default=None)


class _Page:
    """The samples of one replica, by the engine's own names."""

    def __init__(
        self, dialect: Dialect, samples: Collection[Sample], started: float | None
    ) -> None:
        self._started = started
        self._by_name: dict[str, list[Sample]] = {}
        for sample in samples:
            self._by_name.setdefault(dialect.canonical[sample.name], []).append(sample)

    def sum(self, parts: Sequence[Quantity]) -> Value | Missing:
        """Add quantities up; one that is missing makes the sum missing, never smaller."""
        number, at = 0.0, math.inf
        for part in parts:
            reading = self._number(part)
            if isinstance(reading, Missing):
                return reading
            if reading is not None:
                number += reading.number
                at = min(at, reading.at)
        return Value(number, at)

    def ratio(self, ratio: Ratio) -> Value | Missing:
        """Divide what is used by what there is."""
        used, available = self.sum((ratio.used,)), self.sum((ratio.available,))
        if isinstance(used, Missing):
            return used
        if isinstance(available, Missing):
            return available
        if not 0 <= used.number <= available.number or available.number == 0:
            name = ratio.available.families[0].name
            return Missing(f"{name} is {available.number:g}, of which {used.number:g} is used")
        return Value(used.number / available.number, min(used.at, available.at))

    def flow(self, counted: Counted) -> Flow | Missing:
        """Count those that wait, and those that ever ran."""
        waiting, ever = self.sum((counted.waiting,)), self.sum((counted.ever,))
        if isinstance(waiting, Missing):
            return waiting
        if isinstance(ever, Missing):
            return ever
        return Flow(waiting.number, ever.number, min(waiting.at, ever.at))

    def distribution(self, families: Sequence[Family]) -> Distribution | Missing:
        """Add the buckets of all series up, bound by bound."""
        for family in families:
            samples = [s for s in self._samples(f"{family.name}_bucket") if family.has(s)]
            if samples:
                return _distribution(family, samples, self._started)
        return Missing(f"no series of {' or '.join(f'{f.name}_bucket' for f in families)}")

    def _number(self, quantity: Quantity) -> Value | Missing | None:
        """Read a quantity; None: it is optional and not there."""
        for family in quantity.families:
            samples = [sample for sample in self._samples(family.name) if family.has(sample)]
            if samples:
                return _combined(quantity, family, samples)
        if quantity.optional:
            return None
        return Missing(f"no series of {' or '.join(f.name for f in quantity.families)}")

    def _samples(self, name: str) -> Sequence[Sample]:
        return self._by_name.get(name, ())


def _combined(quantity: Quantity, family: Family, samples: Sequence[Sample]) -> Value | Missing:
    if len({frozenset(sample.labels.items()) for sample in samples}) < len(samples):
        return Missing(f"{family.name} has the same series twice")
    numbers = [sample.number * family.scale for sample in samples]
    for number in numbers:
        if not 0 <= number <= quantity.highest or math.isinf(number):
            return Missing(f"{family.name} is {number:g}")
    number = quantity.combine([(s.labels, n) for s, n in zip(samples, numbers, strict=True)])
    return Value(number, min(sample.at for sample in samples))


def _distribution(
    family: Family, samples: Sequence[Sample], started: float | None
) -> Distribution | Missing:
    counts: dict[float, float] = {}
    for sample in samples:
        try:
            bound = float(sample.labels.get("le", "")) * family.scale
        except ValueError:
            bound = math.nan
        if math.isnan(bound) or not 0 <= sample.number < math.inf:
            return Missing(f"{family.name} has a bucket that is none")
        counts[bound] = counts.get(bound, 0.0) + sample.number
    if math.inf not in counts:
        return Missing(f"{family.name} has no +Inf bucket")
    return Distribution(
        tuple(sorted(counts.items())), min(sample.at for sample in samples), started
    )
