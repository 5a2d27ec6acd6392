"""Where a source puts what it finds: the seam between sources and the store."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from keda_scaler.core.readings import Demand, Engine, Missing, Readings, Replica

Clock = Callable[[], float]
"""Gives monotonic seconds."""


Answer = tuple[Readings, Engine | None]
"""What a replica's poll gave: see `Sink.read`."""


class Recorder(Protocol):
    """What is told of every poll; see `Telemetry.read`."""

    def __call__(self, source: str, result: str, seconds: float) -> None:
        """Count one poll."""


class Sink(Protocol):
    """What one target's source may do to the store. Called from the event loop's thread only."""

    def listed(self, replicas: Sequence[Replica], at: float) -> None:
        """Say which replicas exist as of `at` (monotonic seconds); replaces the list before.

        Infinite for a list that is always true.

        Say it again whenever it is confirmed: a list that is not goes stale, as readings do.
        """

    def polled(
        self, answers: Mapping[Replica, Answer], at: float, doubt: str | None = None
    ) -> None:
        """Say both which replicas exist as of `at`, and what one poll of all of them gave.

        `doubt` says why there may be more of them than these, so that nothing is proven.
        """

    def unlisted(self, reason: str) -> None:
        """Say that the replicas could not be listed, and why; the old list stands until stale."""

    def read(self, replica: str, readings: Readings, engine: Engine | None = None) -> None:
        """Say what a replica's latest poll gave: per signal a value, or the reason why not.

        `engine` is the one that the poll found; None: it could not tell.
        """


class WakeSink(Protocol):
    """What one target's wake source may do to the store; likewise."""

    @property
    def is_waking(self) -> bool:
        """Whether no replica answers now, so that every second counts."""

    def demanded(self, demand: Demand | Missing, doubt: str | None = None) -> None:
        """Say what the wake source gave at its latest poll, or why it gave nothing.

        `doubt` says why there may be more requests than these, so that nothing is proven.
        """


class TargetSink(Sink, WakeSink, Protocol):
    """What all sources of one target may do to the store."""
