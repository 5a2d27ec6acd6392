"""One engine's metrics page: how loaded each of its models is, whatever the engine calls it."""

from collections.abc import Collection
from dataclasses import dataclass

from keda_scaler import engines
from keda_scaler.core.addresses import AddressRules
from keda_scaler.core.readings import Readings, Value
from keda_scaler.core.signals import Signal
from keda_scaler.engines.exposition import parse_page
from keda_scaler.engines.samples import Sample
from keda_scaler.errors import PageError
from keda_scaler.sources.endpoints import Pages
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

    problem: str | None
    """Why something is missing; None: nothing is."""


class EnginePage:
    """Reads one engine's page, within the bounds of all pages."""

    def __init__(self, url: str, engine: str, model: str | None, clock: Clock) -> None:
        self._url = url
        self._engine = engine
        self._model = model
        self._clock = clock
        self._pages = Pages(ANYWHERE, lambda *_: None, clock)

    async def read(self) -> EngineAnswer:
        """Read the page now.

        Raises:
            SourceError: when it could not be read, or no known engine wrote it.

        """
        began = self._clock()
        body, content_type = await self._pages.fetch(self._url)
        samples = parse_page(body, content_type, engines.names(self._engine), began)
        return to_answer(samples, self._engine, self._model)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pages.close()


def to_answer(samples: Collection[Sample], engine: str, model: str | None) -> EngineAnswer:
    """Find the engine, and read each of its models, or only the one that is named.

    Raises:
        PageError: when no known engine wrote the page, or too many models are on it.

    """
    candidates = engines.dialects(engine)
    dialect = next((d for d in candidates if any(map(d.owns, samples))), None)
    if dialect is None:
        known = ", ".join(candidate.name for candidate in candidates)
        raise PageError(f"no series of a known engine ({known})")
    label = dialect.model_label
    found = {sample.labels.get(label, "") for sample in samples if dialect.owns(sample)}
    if len(found) > MAX_MODELS:
        raise PageError(f"the page has more than {MAX_MODELS} models")
    names = sorted(found) if model is None else [model]
    by_model = {name: engines.readings(samples, engine, name or None) for name in names}
    return EngineAnswer(
        dialect.name,
        tuple(_load(name or None, readings) for name, readings in by_model.items()),
        next((text for readings in by_model.values() if (text := _problem(readings))), None),
    )


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
    for signal in _PUBLISHED:
        reading = readings.get(signal)
        if not isinstance(reading, Value):
            return f"{signal}: {reading.reason if reading else 'this engine has none'}"
    return None
