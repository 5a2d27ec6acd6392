"""One engine's metrics page: how loaded each of its models is, whatever the engine calls it."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from keda_scaler import engines
from keda_scaler.core.addresses import AddressRules
from keda_scaler.core.readings import Missing, Readings, Value
from keda_scaler.core.signals import Signal
from keda_scaler.engines.dialect import Dialect
from keda_scaler.engines.exposition import parse_page
from keda_scaler.engines.page import read_page
from keda_scaler.engines.samples import Sample
from keda_scaler.errors import PageError
from keda_scaler.sources.pages import Pages
from keda_scaler.sources.sink import Clock

ANYWHERE = AddressRules.parse(["0.0.0.0/0", "::/0"])
"""Whoever starts the exporter names one URL and is trusted; 127.0.0.1 is the usual one."""

MAX_MODELS = 100
"""Models of one page; engines serve one or a few."""


@dataclass(frozen=True, slots=True)
class ModelLoad:
    """What is known of one model; None: the page does not say."""

    model: str | None
    """As the engine names it; None: the engine does not name its models."""

    queue_depth: float | None
    """Requests that wait."""

    requests_running: float | None
    """Requests in the running batch."""

    kv_cache_usage_ratio: float | None
    """Share of the KV cache that is in use, 0 to 1."""


@dataclass(frozen=True, slots=True)
class EngineAnswer:
    """One page, read."""

    engine: str
    """The dialect that fits the page."""

    loads: tuple[ModelLoad, ...]
    """By model, in the order of their names; never empty."""

    histograms: tuple[Sample, ...]
    """The latency histograms, as the page has them."""

    problem: str | None
    """Why something is missing; None: nothing is."""


class EnginePage:
    """Reads one engine's page, within the bounds of all pages."""

    def __init__(self, url: str, engine: str, model: str | None, clock: Clock) -> None:
        self._url = url
        self._engine = engine
        self._model = model
        self._pages = Pages(ANYWHERE, clock)

    async def read(self) -> EngineAnswer:
        """Read the page now.

        Raises:
            SourceError: when it could not be read, or no known engine wrote it.

        """
        page = await self._pages.fetch(self._url)
        names = _names(self._engine)
        samples = parse_page(page.body, page.content_type, names, page.at, page.dated)
        return to_answer(samples, self._engine, self._model)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pages.close()


def _names(engine: str) -> frozenset[str]:
    """Give every sample name of the engines' gauges, and all parts of their histograms."""
    known = engines.names(engine)
    ends = ("_sum", "_count")
    return known.union(
        name.removesuffix("_bucket") + end
        for name in known
        if name.endswith("_bucket")
        for end in ends
    )


def to_answer(samples: Collection[Sample], engine: str, model: str | None) -> EngineAnswer:
    """Find the engine, and read each of its models, or only the one that is named.

    Raises:
        PageError: when no known engine wrote the page, or too many models are on it.

    """
    dialect = engines.detect(samples, engine)
    if isinstance(dialect, Missing):
        raise PageError(dialect.reason)
    label = dialect.model_label or ""
    found = {sample.labels.get(label, "") for sample in samples if dialect.owns(sample)}
    named = found - {""} or {""}
    if len(named) > MAX_MODELS:
        raise PageError(f"the page has more than {MAX_MODELS} models")
    names = sorted(named) if model is None else [model]
    by_model = {name: read_page(dialect, samples, name or None)[0] for name in names}
    return EngineAnswer(
        dialect.name,
        tuple(_load(name or None, readings) for name, readings in by_model.items()),
        tuple(_histograms(dialect, samples, model)),
        next((text for readings in by_model.values() if (text := _problem(readings))), None),
    )


def _histograms(
    dialect: Dialect, samples: Collection[Sample], model: str | None
) -> Iterator[Sample]:
    """Pick the latency histograms, with their sums and counts."""
    for sample in samples:
        base = histogram_of(sample)
        own = None if base is None else dialect.canonical.get(f"{base}_bucket")
        of_model = model is None or sample.labels.get(dialect.model_label or "") == model
        if own in dialect.histogram_names and of_model:
            yield sample


def histogram_of(sample: Sample) -> str | None:
    """Give the name of the histogram that a sample may be a part of."""
    for end in ("_bucket", "_sum", "_count"):
        if sample.name.endswith(end):
            return sample.name.removesuffix(end)
    return None


def _load(model: str | None, readings: Readings) -> ModelLoad:
    waiting, present = (_number(readings, s) for s in (Signal.QUEUE_DEPTH, Signal.CONCURRENCY))
    running = None
    if waiting is not None and present is not None and waiting <= present:
        running = present - waiting
    return ModelLoad(model, waiting, running, _number(readings, Signal.GPU_MEMORY_PRESSURE))


def _number(readings: Readings, signal: Signal) -> float | None:
    reading = readings.get(signal)
    return reading.number if isinstance(reading, Value) else None


_PUBLISHED = (Signal.QUEUE_DEPTH, Signal.CONCURRENCY, Signal.GPU_MEMORY_PRESSURE)


def _problem(readings: Readings) -> str | None:
    """Say what the page should have and lacks; what the engine has not is no problem."""
    for signal in _PUBLISHED:
        reading = readings.get(signal)
        if isinstance(reading, Missing):
            return f"{signal}: {reading.reason}"
    return None
