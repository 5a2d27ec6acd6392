"""One page's samples to readings, as the engine's dialect says. Pure."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain

from keda_scaler.core.readings import (
    Distribution,
    Engine,
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
from keda_scaler.engines.dialect import (
    LARGEST_COUNT,
    Absence,
    Counted,
    Dialect,
    Family,
    Quantity,
    Ratio,
)
from keda_scaler.engines.samples import Sample

STARTED = "process_start_time_seconds"
"""When the process began, in Unix seconds; printed by every Python client of Prometheus."""


def read_page(
    dialect: Dialect, samples: Collection[Sample], model: str | None
) -> tuple[Readings, Engine]:
    """Read every signal from the samples of one replica, and what they say of its engine.

    With a `model` only its series are read, where the engine names models.
    """
    own = [sample for sample in samples if dialect.owns(sample)]
    of_model = [sample for sample in own if dialect.is_of(sample, model)]
    if own and not of_model:
        label = dialect.model_label or ""
        models = sorted({name for sample in own if (name := sample.labels.get(label))})
        reason = f"no series of model {model!r}; there are: {', '.join(models)[:200] or 'none'}"
        engine = Engine(dialect.name, dialect.reserves_memory)
        return dict.fromkeys(Signal, Missing(reason)), engine
    page = _Page(dialect, of_model, _started(samples))
    return page.readings(), page.engine()


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

    def readings(self) -> Readings:
        """Read every signal. An engine that sleeps has no requests, whatever its gauges say."""
        asleep_at = self._asleep_at
        found = {signal: self._reading(signal) for signal in Signal}
        if asleep_at is not None:
            found |= {
                signal: Value(0.0, asleep_at, _series(found[signal]))
                for signal in self._dialect.signals
            }
        return found

    def engine(self) -> Engine:
        """Tell what the page says of the engine itself."""
        served, steps = self._there(self._dialect.served), self._there(self._dialect.steps)
        return Engine(
            self._dialect.name,
            self._dialect.reserves_memory,
            asleep=self._asleep_at is not None,
            served=_added_up(served),
            progress=_added_up([*served, *steps]),
        )

    @cached_property
    def _flags(self) -> int:
        """How many series say whether engines sleep: one that is lost may be of one awake."""
        sleep = self._dialect.sleep
        return 0 if sleep is None else sum(len(self._of(family)) for family in sleep.families)

    @cached_property
    def _asleep_at(self) -> float | None:
        """When it was measured that every engine of the replica sleeps; None: one may be awake."""
        flag = self._dialect.sleep
        reading = None if flag is None else self._number(flag)
        return reading.at if isinstance(reading, Value) and reading.number == 1 else None

    def _there(self, families: Iterable[Family]) -> list[Value | Missing | Lacking]:
        """Read the counters that there are."""
        counters = (Quantity((family,), absence=Absence.ZERO) for family in families)
        return [reading for counter in counters if (reading := self._number(counter)) is not None]

    def _reading(self, signal: Signal) -> Reading:
        if signal in self._dialect.latencies or signal in self._dialect.summaries:
            return self._latency(signal)
        match self._dialect.signals.get(signal):
            case None:
                return Lacking(f"{self._dialect.title} does not expose {signal}")
            case Ratio() as ratio:
                return self._ratio(ratio)
            case Counted() as counted:
                return self._flow(counted)
            case parts:
                return self._sum(parts)

    def _sum(self, parts: Sequence[Quantity]) -> Value | Missing | Lacking:
        """Add quantities up; one that is missing makes the sum missing, never smaller."""
        number, at, series = 0.0, math.inf, self._flags
        for part in parts:
            reading = self._number(part)
            if isinstance(reading, Missing | Lacking):
                return reading
            if reading is not None:
                number += reading.number
                at = min(at, reading.at)
                series += reading.series
        return Value(number, at, series)

    def _ratio(self, ratio: Ratio) -> Value | Missing | Lacking:
        """Divide what is used by what there is."""
        used, available = self._sum((ratio.used,)), self._sum((ratio.available,))
        if not isinstance(used, Value):
            return used
        if not isinstance(available, Value):
            return available
        if not 0 <= used.number <= available.number or available.number == 0:
            name = ratio.available.families[0].name
            return Missing(f"{name} is {available.number:g}, of which {used.number:g} is used")
        series = used.series + available.series
        return Value(used.number / available.number, min(used.at, available.at), series)

    def _flow(self, counted: Counted) -> Flow | Missing | Lacking:
        """Count those that wait, and those that ever ran."""
        waiting, ever = self._sum((counted.waiting,)), self._sum(counted.ever)
        if not isinstance(waiting, Value):
            return waiting
        if not isinstance(ever, Value):
            return ever
        return Flow(waiting.number, ever.number, min(waiting.at, ever.at), waiting.series)

    def _latency(self, signal: Signal) -> Distribution | Quantiles | Missing:
        """Read a histogram, else the summary that stands for it."""
        histograms = self._dialect.latencies.get(signal, ())
        for family in histograms:
            samples = self._of(family, "_bucket")
            if samples:
                combine = once_per_rank_group(*self._dialect.ranks, then=total)
                return _distribution(family, samples, combine, self._started)
        summaries = self._dialect.summaries.get(signal, ())
        for family in summaries:
            samples = self._of(family)
            if samples:
                return _quantiles(family, samples)
        if self._dialect.late_histograms:
            at = min(sample.at for sample in chain.from_iterable(self._by_name.values()))
            return Distribution(((math.inf, 0.0),), at, self._started, series=0)
        names = [f"{family.name}_bucket" for family in histograms]
        return Missing(_no_series_of(names + [family.name for family in summaries]))

    def _number(self, quantity: Quantity) -> Value | Missing | Lacking | None:
        """Read a quantity; None: it is not there and counts as 0."""
        for family in quantity.families:
            samples = self._of(family)
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

    def _of(self, family: Family, suffix: str = "") -> Sequence[Sample]:
        return [s for s in self._by_name.get(family.name + suffix, ()) if family.has(s)]


def _series(reading: Reading) -> int:
    return reading.series if isinstance(reading, Value | Flow) else 0


def _added_up(counters: Collection[Value | Missing | Lacking]) -> float | None:
    """Add counters up; None: there is none, or one that is broken."""
    numbers = [counter.number for counter in counters if isinstance(counter, Value)]
    return math.fsum(numbers) if counters and len(numbers) == len(counters) else None


def _no_series_of(names: Sequence[str]) -> str:
    return f"no series of {' or '.join(dict.fromkeys(names))}"


def _combined(
    quantity: Quantity, family: Family, samples: Sequence[Sample], combine: Combine
) -> Value | Missing:
    if len(samples) > 1 and _has_twice(samples):
        return Missing(f"{family.name} has the same series twice")
    numbers = [sample.number * family.scale for sample in samples]
    for number in numbers:
        if not 0 <= number <= quantity.highest:
            return Missing(f"{family.name} is {number:g}")
    number = combine([(s.labels, n) for s, n in zip(samples, numbers, strict=True)])
    return Value(number, min(sample.at for sample in samples), len(samples))


def _has_twice(samples: Sequence[Sample]) -> bool:
    return len({frozenset(sample.labels.items()) for sample in samples}) < len(samples)


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
        if math.isnan(bound) or not 0 <= sample.number <= LARGEST_COUNT:
            return Missing(f"{family.name} has a bucket that is none")
        counts.setdefault(bound, []).append((sample.labels, sample.number))
    if math.inf not in counts:
        return Missing(f"{family.name} has no +Inf bucket")
    return Distribution(
        tuple((bound, combine(numbers)) for bound, numbers in sorted(counts.items())),
        min(sample.at for sample in samples),
        started,
        len(samples),
    )
