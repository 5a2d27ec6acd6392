"""What a dialect is: a table of what an engine's metrics mean.

Per signal it names the quantities whose sum the signal is; per quantity, the families that carry it
in order of preference, their unit, and how the series of one replica combine. `page.py` reads pages
by it. Everything here is pure.
"""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cached_property
from itertools import chain

from keda_scaler.core.signals import Signal
from keda_scaler.engines.combining import Combine, total
from keda_scaler.engines.samples import Sample

LARGEST_COUNT = 2.0**53
"""A larger number is no count, for floats do not count by ones beyond it."""


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

    highest: float = LARGEST_COUNT
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

    served: tuple[Family, ...] = ()
    """Counters that rise with every request that is served, and with nothing else: not with an
    engine's own probes. All that a page has are added up: where the sum rises, requests came and
    went between two polls. Empty: the engine counts none, or they are in its signals."""

    steps: tuple[Family, ...] = ()
    """Counters that move while a request gets on: of tokens, of steps of the model."""

    sleep: Quantity | None = None
    """1 while every engine of a page sleeps: its model is out of the GPU's memory, and it has no
    requests, whatever its gauges say. None: the engine does not sleep, or does not say so."""

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
    """Labels that number processes which share the work of each request, or which repeat what one
    engine says. Of series that differ only in these, the largest counts, gauges and histograms
    alike: they are the same requests."""

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
    def progress(self) -> tuple[Family, ...]:
        """Counters that move whenever a request gets on, or ends.

        All that a page has are added up, and only whether the sum changes means something.
        """
        return (*self.steps, *self.served)

    @cached_property
    def canonical(self) -> Mapping[str, str]:
        """Every sample name that the dialect reads, in all spellings, and the engine's own."""
        flags = () if self.sleep is None else self.sleep.families
        own = self._telling | {family.name for family in (*self.progress, *flags)}
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
    def _telling(self) -> frozenset[str]:
        """The names that tell whose a page is. Others print counters like those of progress."""
        measures = chain.from_iterable(map(families, self.signals.values()))
        names = frozenset(family.name for family in measures)
        return names | self.histogram_names | self._summary_names | self.marks

    @cached_property
    def _of_all_models(self) -> frozenset[str]:
        measures = chain.from_iterable(map(families, self.signals.values()))
        known = chain(measures, self.progress)
        return frozenset(family.name for family in known if family.of_all_models)

    def owns(self, sample: Sample) -> bool:
        """Whether the sample is one that this engine printed about itself."""
        own = self.canonical.get(sample.name)
        return own is not None and (
            self.model_label is None
            or bool(sample.labels.get(self.model_label))
            or own in self._of_all_models
        )

    def fits(self, sample: Sample) -> bool:
        """Whether the page may be this engine's, by a sample of what it is read for."""
        return self.owns(sample) and self.canonical[sample.name] in self._telling

    def marked_by(self, sample: Sample) -> bool:
        """Whether the sample tells that the page is this engine's and no other's."""
        return self.fits(sample) and (not self.marks or self.canonical[sample.name] in self.marks)

    def is_of(self, sample: Sample, model: str | None) -> bool:
        """Whether the sample is of the served model that a trigger names."""
        label = self.model_label
        return model is None or label is None or sample.labels.get(label) == model


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
