"""What reads a world for the scaler's target: what both ways of reading share."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from adversary_plan import EPOCH
from adversary_world import World
from keda_scaler.core.readings import Missing, Readings, Value
from keda_scaler.core.signals import Signal
from keda_scaler.core.trigger import Trigger
from keda_scaler.store import Target


@dataclass(slots=True)
class Page:
    """A page that is read, as its reader knows it."""

    due: float = math.inf
    failures: int = 0
    """In a row."""

    failed_at: float = -math.inf
    heard_at: float = -math.inf
    """When it answered last, or when it was first told of as ready."""

    said: Mapping[Signal, float] = field(default_factory=dict)
    """What it said then."""

    def heard(self, readings: Readings, now: float, at: float) -> None:
        """Note an answer, which the page gave at `at`."""
        if any(isinstance(reading, Missing) for reading in readings.values()):
            self.failures, self.failed_at = self.failures + 1, now
            return
        self.failures, self.heard_at = 0, at
        known = ((s, value) for s, value in readings.items() if isinstance(value, Value))
        self.said = {signal: value.number for signal, value in known}


class Source(ABC):
    """One way of reading. Times are seconds since the beginning of the world."""

    def __init__(self, world: World, trigger: Trigger, log: Callable[[str], None]) -> None:
        self.pages: dict[str, Page] = {}
        """By the name of each replica that is told."""
        self.told: frozenset[str] = frozenset()
        """Their names."""
        self.confirmed_at = 0.0
        """When the list was read last."""
        self.has_listed = False
        """Whether it was read since the scaler began."""
        self._world = world
        self._trigger = trigger
        self._log = log
        self._target: Target | None = None

    def begin(self, target: Target, now: float) -> None:
        """Read for a scaler that has just begun."""
        self._target, self.has_listed = target, False

    def end(self) -> None:
        """Forget all that a scaler knew."""
        self._target = None
        self.pages, self.told = {}, frozenset()

    @abstractmethod
    def changed(self, now: float) -> None:
        """Hear that the world has changed."""

    @abstractmethod
    def next_at(self) -> float:
        """Say when something is due next."""

    @abstractmethod
    def read(self, now: float) -> bool:
        """Read what is due; whether anything was."""

    def _tell(self, names: frozenset[str]) -> None:
        """Take note of the replicas that are told."""
        if names != self.told:
            self.pages = {name: self.pages.get(name) or Page() for name in sorted(names)}
            self.told = names
            self._log(f"listed {sorted(names)}")


def monotonic(now: float) -> float:
    """Give an instant of the world as the scaler's clock shows it."""
    return EPOCH + now
