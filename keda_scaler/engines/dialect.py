"""What a dialect is, and how one turns samples into readings.

A dialect is a table. Per signal it names the quantities whose sum the signal is; per quantity, the
families that carry it in order of preference, their unit, and how the series of one replica
combine. Everything here is pure.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cached_property
from itertools import chain

from keda_scaler.core.readings import (
    Distribution,
    Flow,
    Lacking,
    Missing,
    Quantiles,
    Reading,
    Readings,
    Value,
)
from keda_scaler.core.signals import Signal
from keda_scaler.engines.combining import Combine, once_per_rank_group, total
from keda_scaler.engines.samples import Sample

STARTED = "process_start_time_seconds"
"""When the process began, in Unix seconds; printed by every Python client of Prometheus."""


@dataclass(frozen=True, slots=True)
class Family:
    """One family that may carry a quantity."""

    name: str
    """The sample's name, or the histogram's without `_bucket`, in the spelling of the engine."""

    labels: Mapping[str, AbstractSet[str]] = field(default_factory=dict)
    """Per label, the values of which a series must have one; an empty value also means that the
    label is absent."""

    scale: float = 1.0
    """What a sample is multiplied with to be in our unit: 0.001 for milliseconds."""

    versions: str = ""
    """Which versions of the engine print it; for people."""

    of_all_models: bool = False
    """Whether the engine prints it without the label that names the model, for all models
    together. Then it cannot be read for one of them."""

    def has(self, sample: Sample) -> bool:
        """Whether the labels of a sample are those of this family."""
        return all(sample.labels.get(name, "") in values for name, values in self.labels.items())


class Absence(Enum):
    """What it means that a page has no series of a quantity."""

    UNKNOWN = auto()
    """The engine prints it, so its absence is a problem: the reading is missing."""

    ZERO = auto()
    """It is a part of a sum, and there are versions that do not split it off or do not have such
    requests. At least one part of a sum must be something else."""

    LACKING = auto()
    """There are versions that do not have it, so the engine lacks the signal."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """One number that an engine exposes."""

    families: tuple[Family, ...]
    """The preferred one first. The first of which a page has a series is the one that is read."""

    combine: Combine = total
    """How the series of one replica become one number."""

    highest: float = math.inf
    """The largest number that makes sense; a larger one is a unit error, not a reading."""

    absence: Absence = Absence.UNKNOWN
    """What it means that a page has none of the families."""


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
    ever: tuple[Quantity, ...]
    """Their sum is what moves when a request has ended."""


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

    summaries: Mapping[Signal, tuple[Family, ...]] = field(default_factory=dict)
    """Per latency, the summaries that stand for a histogram where the page has none."""

    late_histograms: bool = False
    """Whether a histogram appears on the page only with its first request: one that is absent is
    then an empty one."""

    path: str = "/metrics"
    """Where the engine serves its metrics page."""

    model_label: str | None = None
    """The label that names the served model; None: the engine prints none.

    Where there is one, a series without it is not the engine's own.
    """

    ranks: tuple[str, ...] = ()
    """Labels that number processes which share the work of each request. Of series that differ only
    in these, the largest counts, gauges and histograms alike: they are the same requests."""

    spellings: tuple[tuple[str, str], ...] = ()
    """Other spellings of a name: a prefix of ours, and what some installations make of it."""

    reserves_memory: bool = False
    """Whether the engine takes its GPU memory at start and keeps it, so that device memory in use
    says nothing about load."""

    supersedes: frozenset[str] = frozenset()
    """Engines whose families this one's page has as well, in addition to its own."""

    marks: frozenset[str] = frozenset()
    """Names by which `engine: auto` tells the engine from others; empty: any name that is read."""

    notes: str = ""
    """What a reader of the documentation should know, in Markdown."""

    @cached_property
    def canonical(self) -> Mapping[str, str]:
        """Every sample name that the dialect reads, in all spellings, and the engine's own."""
        own = {family.name for family in chain.from_iterable(map(families, self.signals.values()))}
        own |= self.histogram_names | self._summary_names | self.marks
        names = {name: name for name in own}
        names |= {
            other + name.removeprefix(prefix): name
            for name in own
            for prefix, other in self.spellings
            if name.startswith(prefix)
        }
        return names

    @cached_property
    def gauge_names(self) -> frozenset[str]:
        """The names of what is not a latency, in all spellings."""
        late = self.histogram_names | self._summary_names
        return frozenset(name for name, own in self.canonical.items() if own not in late)

    @cached_property
    def histogram_names(self) -> frozenset[str]:
        """The names of the buckets of latencies, in the engine's own spelling."""
        known = chain.from_iterable(self.latencies.values())
        return frozenset(f"{family.name}_bucket" for family in known)

    @cached_property
    def _summary_names(self) -> frozenset[str]:
        known = chain.from_iterable(self.summaries.values())
        return frozenset(family.name for family in known)

    @cached_property
    def _of_all_models(self) -> frozenset[str]:
        measures = chain.from_iterable(map(families, self.signals.values()))
        return frozenset(family.name for family in measures if family.of_all_models)

    def owns(self, sample: Sample) -> bool:
        """Whether the sample is one that this engine printed about itself."""
        own = self.canonical.get(sample.name)
        return own is not None and (
            self.model_label is None
            or bool(sample.labels.get(self.model_label))
            or own in self._of_all_models
        )

    def marked_by(self, sample: Sample) -> bool:
        """Whether the sample tells that the page is this engine's."""
        return self.owns(sample) and (not self.marks or self.canonical[sample.name] in self.marks)

    def is_of(self, sample: Sample, model: str | None) -> bool:
        """Whether the sample is of the served model that a trigger names."""
        label = self.model_label
        return model is None or label is None or sample.labels.get(label) == model

    def readings(self, samples: Collection[Sample], model: str | None) -> Readings:
        """Read every signal from the samples of one replica."""
        own = [sample for sample in samples if self.owns(sample)]
        of_model = [sample for sample in own if self.is_of(sample, model)]
        if own and not of_model:
            label = self.model_label or ""
            models = sorted({name for sample in own if (name := sample.labels.get(label))})
            reason = f"no series of model {model!r}; there are: {', '.join(models)[:200] or 'none'}"
            return dict.fromkeys(Signal, Missing(reason))
        page = _Page(self, of_model, _started(samples))
        return {signal: self._reading(signal, page) for signal in Signal}

    def _reading(self, signal: Signal, page: "_Page") -> Reading:
        if signal in self.latencies or signal in self.summaries:
            return page.latency(signal)
        match self.signals.get(signal):
            case None:
                return Lacking(f"{self.title} does not expose {signal}")
            case Ratio() as ratio:
                return page.ratio(ratio)
            case Counted() as counted:
                return page.flow(counted)
            case parts:
                return page.sum(parts)


def quantities(measure: Measure) -> tuple[Quantity, ...]:
    """Give all that a measure is made of."""
    match measure:
        case Ratio():
            return (measure.used, measure.available)
        case Counted():
            return (measure.waiting, *measure.ever)
        case _:
            return measure


def families(measure: Measure) -> Iterator[Family]:
    """Give every family that a measure may read."""
    return chain.from_iterable(quantity.families for quantity in quantities(measure))


def _started(samples: Collection[Sample]) -> float | None:
    """Say when the process began, by its own word; the latest of several."""
    numbers = (sample.number for sample in samples if sample.name == STARTED)
    return max((number for number in numbers if math.isfinite(number)), default=None)


class _Page:
    """The samples of one replica, by the engine's own names."""

    def __init__(
        self, dialect: Dialect, samples: Collection[Sample], started: float | None
    ) -> None:
        self._dialect = dialect
        self._started = started
        self._by_name: dict[str, list[Sample]] = {}
        for sample in samples:
            self._by_name.setdefault(dialect.canonical[sample.name], []).append(sample)

    def sum(self, parts: Sequence[Quantity]) -> Value | Missing | Lacking:
        """Add quantities up; one that is missing makes the sum missing, never smaller."""
        number, at = 0.0, math.inf
        for part in parts:
            reading = self._number(part)
            if isinstance(reading, Missing | Lacking):
                return reading
            if reading is not None:
                number += reading.number
                at = min(at, reading.at)
        return Value(number, at)

    def ratio(self, ratio: Ratio) -> Value | Missing | Lacking:
        """Divide what is used by what there is."""
        used, available = self.sum((ratio.used,)), self.sum((ratio.available,))
        if not isinstance(used, Value):
            return used
        if not isinstance(available, Value):
            return available
        if not 0 <= used.number <= available.number or available.number == 0:
            name = ratio.available.families[0].name
            return Missing(f"{name} is {available.number:g}, of which {used.number:g} is used")
        return Value(used.number / available.number, min(used.at, available.at))

    def flow(self, counted: Counted) -> Flow | Missing | Lacking:
        """Count those that wait, and those that ever ran."""
        waiting, ever = self.sum((counted.waiting,)), self.sum(counted.ever)
        if not isinstance(waiting, Value):
            return waiting
        if not isinstance(ever, Value):
            return ever
        return Flow(waiting.number, ever.number, min(waiting.at, ever.at))

    def latency(self, signal: Signal) -> Distribution | Quantiles | Missing:
        """Read a histogram, else the summary that stands for it."""
        histograms = self._dialect.latencies.get(signal, ())
        for family in histograms:
            samples = [s for s in self._samples(f"{family.name}_bucket") if family.has(s)]
            if samples:
                combine = once_per_rank_group(*self._dialect.ranks, then=total)
                return _distribution(family, samples, combine, self._started)
        summaries = self._dialect.summaries.get(signal, ())
        for family in summaries:
            samples = [s for s in self._samples(family.name) if family.has(s)]
            if samples:
                return _quantiles(family, samples)
        if self._dialect.late_histograms:
            at = min(sample.at for sample in chain.from_iterable(self._by_name.values()))
            return Distribution(((math.inf, 0.0),), at, self._started)
        names = [f"{family.name}_bucket" for family in histograms]
        return Missing(_no_series_of(names + [family.name for family in summaries]))

    def _number(self, quantity: Quantity) -> Value | Missing | Lacking | None:
        """Read a quantity; None: it is not there and counts as 0."""
        for family in quantity.families:
            samples = [sample for sample in self._samples(family.name) if family.has(sample)]
            if samples:
                combine = once_per_rank_group(*self._dialect.ranks, then=quantity.combine)
                return _combined(quantity, family, samples, combine)
        reason = _no_series_of([family.name for family in quantity.families])
        match quantity.absence:
            case Absence.ZERO:
                return None
            case Absence.LACKING:
                return Lacking(f"{reason}, which not every {self._dialect.title} has")
            case _:
                return Missing(reason)

    def _samples(self, name: str) -> Sequence[Sample]:
        return self._by_name.get(name, ())


def _no_series_of(names: Sequence[str]) -> str:
    return f"no series of {' or '.join(dict.fromkeys(names))}"


def _combined(
    quantity: Quantity, family: Family, samples: Sequence[Sample], combine: Combine
) -> Value | Missing:
    if len({frozenset(sample.labels.items()) for sample in samples}) < len(samples):
        return Missing(f"{family.name} has the same series twice")
    numbers = [sample.number * family.scale for sample in samples]
    for number in numbers:
        if not 0 <= number <= quantity.highest or math.isinf(number):
            return Missing(f"{family.name} is {number:g}")
    number = combine([(s.labels, n) for s, n in zip(samples, numbers, strict=True)])
    return Value(number, min(sample.at for sample in samples))


def _quantiles(family: Family, samples: Sequence[Sample]) -> Quantiles | Missing:
    """Take a summary's quantiles; of several series (models, versions) the slowest."""
    found: dict[float, float] = {}
    for sample in samples:
        try:
            share = float(sample.labels.get("quantile", ""))
        except ValueError:
            return Missing(f"{family.name} has a quantile that is none")
        seconds = sample.number * family.scale
        if seconds < 0 or math.isinf(seconds):
            return Missing(f"{family.name} is {sample.number:g}")
        known = found.get(share, math.nan)
        found[share] = seconds if math.isnan(known) else max(known, seconds)
    return Quantiles(tuple(sorted(found.items())), min(sample.at for sample in samples))


def _distribution(
    family: Family, samples: Sequence[Sample], combine: Combine, started: float | None
) -> Distribution | Missing:
    counts: dict[float, list[tuple[Mapping[str, str], float]]] = {}
    for sample in samples:
        try:
            bound = float(sample.labels.get("le", "")) * family.scale
        except ValueError:
            bound = math.nan
        if math.isnan(bound) or not 0 <= sample.number < math.inf:
            return Missing(f"{family.name} has a bucket that is none")
        counts.setdefault(bound, []).append((sample.labels, sample.number))
    if math.inf not in counts:
        return Missing(f"{family.name} has no +Inf bucket")
    return Distribution(
        tuple((bound, combine(numbers)) for bound, numbers in sorted(counts.items())),
        min(sample.at for sample in samples),
        started,
    )
