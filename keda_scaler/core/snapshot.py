"""Snapshots: all that is known of a target at one instant."""

import math
from collections.abc import Mapping
from typing import assert_never

from msgspec import Struct, field
from msgspec.structs import replace

from keda_scaler.core.readings import (
    Demand,
    Distribution,
    Engine,
    Flow,
    Lacking,
    Missing,
    Quantiles,
    Reading,
    Readings,
    Replica,
    Value,
)
from keda_scaler.core.signals import Signal
from keda_scaler.core.windows import Window, extend


class ReplicaReadings(Struct, frozen=True, gc=False):
    """A listed replica and what is known of it."""

    replica: Replica

    values: Mapping[Signal, Value] = field(default_factory=dict)
    """The newest value of each signal, however old it is."""

    problems: Mapping[Signal, Missing] = field(default_factory=dict)
    """Why the latest poll gave no value, for those signals where it gave none."""

    lacking: Mapping[Signal, Lacking] = field(default_factory=dict)
    """The signals that this engine is known not to expose."""

    windows: Mapping[Signal, Window] = field(default_factory=dict)
    """The latest looks at each latency's histogram."""

    quantiles: Mapping[Signal, Quantiles] = field(default_factory=dict)
    """The newest summary of each latency of which there is no histogram."""

    ever: float | None = None
    """The counter of the newest `Flow`; None: there was none."""

    engine: Engine | None = None
    """The engine that the latest poll found; None: it could not tell."""

    told: Engine | None = None
    """The engine that the newest poll found which could tell."""

    has_served: bool = False
    """Whether requests were served between the newest poll that told of the engine and the one
    before it."""

    ready_since: float | None = None
    """Since when it is listed as ready, in monotonic seconds; None: it is not, or not said."""

    still_since: float | None = None
    """Since when its requests and its progress have not moved, in monotonic seconds; None: they
    move, or there is nothing to tell it by, or no request."""

    @property
    def progress(self) -> float | None:
        """See `Engine`, of the newest poll that told it."""
        return None if self.told is None else self.told.progress

    @property
    def has_answered(self) -> bool:
        """Whether it told of anything since it was listed."""
        return bool(self.values or self.windows or self.quantiles)

    @property
    def is_serving(self) -> bool:
        """Whether it takes new requests, as far as its listing and its last page tell."""
        asleep = self.engine is not None and self.engine.asleep
        return self.replica.ready and not self.replica.terminating and not asleep

    def measured_at(self, signal: Signal) -> float | None:
        """Say when the signal was measured last; None: never."""
        known = self.values.get(signal) or self.windows.get(signal) or self.quantiles.get(signal)
        return None if known is None else known.at

    def problem(self, signal: Signal) -> str:
        """Say why there is no fresh value, for people."""
        problem = self.problems.get(signal)
        read = self.values or self.windows
        why = problem.reason if problem else "no news" if read else "not read yet"
        return f"{self.replica.name}: {why}"

    @property
    def was_tried(self) -> bool:
        """Whether a poll of it has ended, in whatever way."""
        return bool(self.values or self.problems or self.lacking or self.windows)


def listed(before: ReplicaReadings | None, replica: Replica, now: float) -> ReplicaReadings:
    """Take in that a replica is listed; `now` in monotonic seconds. None: it was not before."""
    known = before or ReplicaReadings(replica)
    since = known.ready_since if known.ready_since is not None else now
    return replace(known, replica=replica, ready_since=since if replica.ready else None)


class Spans(Struct, frozen=True, gc=False):
    """For how long what was told before matters to what is told now."""

    window: float
    """Of a latency, in seconds."""

    outage: float = math.inf
    """Looks at a histogram that are so many seconds or more apart are not of one window: what it
    gained meanwhile may be as old as the first of them."""

    held_since: float = math.inf
    """What is made of fewer series than what was measured after this (monotonic seconds) is missing
    until they are back."""


def absorb(
    before: ReplicaReadings, readings: Readings, engine: Engine | None, spans: Spans
) -> ReplicaReadings:
    """Take the readings of a poll in. What is older than what is known changes nothing."""
    values, windows, ever = dict(before.values), dict(before.windows), before.ever
    quantiles = dict(before.quantiles)
    problems: dict[Signal, Missing] = {}
    lacking: dict[Signal, Lacking] = {}
    for signal, reading in readings.items():
        lost = _lost(before, signal, reading, spans.held_since)
        if lost is not None:
            problems[signal] = lost
            continue
        match reading:
            case Missing():
                problems[signal] = reading
            case Lacking():
                lacking[signal] = reading
                values.pop(signal, None)
            case Distribution():
                windows[signal] = _extended(windows.get(signal), reading, spans)
            case Quantiles():
                quantiles[signal] = reading
            case Flow():
                moved = ever is not None and ever != reading.ever
                _renew(values, signal, Value(reading.waiting + moved, reading.at, reading.series))
                ever = reading.ever
            case Value():
                _renew(values, signal, reading)
            case _:
                assert_never(reading)
    told, has_served, still_since = before.told, before.has_served, before.still_since
    if engine is not None:
        told = engine
        has_served = _has_served(before.told, engine)
        still_since = _still_since(before, values, engine.progress)
    return ReplicaReadings(
        before.replica,
        values,
        problems,
        lacking,
        windows,
        quantiles,
        ever,
        engine,
        told,
        has_served,
        before.ready_since,
        still_since,
    )


def _lost(
    before: ReplicaReadings, signal: Signal, reading: Reading, held_since: float
) -> Missing | None:
    """Say how many series are gone that were there before; None: none.

    A page that ends early, or without one of its data-parallel engines, sums too small.
    """
    known: Value | Distribution | None = before.values.get(signal)
    if signal in before.windows:
        known = before.windows[signal].points[-1]
    if known is None or known.at <= held_since or isinstance(reading, Missing | Quantiles):
        return None
    series = 0 if isinstance(reading, Lacking) else reading.series
    gone = known.series - series
    return Missing(f"{gone} of {known.series} series that it had are gone") if gone > 0 else None


def _has_served(before: Engine | None, now: Engine) -> bool:
    """Whether requests were served between two polls. A counter that fell is a restart.

    One that was not there before was born with its first request.
    """
    if before is None or before.key != now.key or now.served is None:
        return False
    return now.served > (before.served or 0.0)


def _still_since(
    before: ReplicaReadings, values: Mapping[Signal, Value], progress: float | None
) -> float | None:
    """Say since when requests are there and nothing moves, after a poll that told both."""
    running = values.get(Signal.CONCURRENCY)
    if progress is None or running is None or not running.number:
        return None
    moved = progress != before.progress or any(
        _number(values, signal) != _number(before.values, signal)
        for signal in (Signal.CONCURRENCY, Signal.QUEUE_DEPTH)
    )
    return running.at if moved or before.still_since is None else before.still_since


def _number(values: Mapping[Signal, Value], signal: Signal) -> float | None:
    value = values.get(signal)
    return None if value is None else value.number


def _renew(values: dict[Signal, Value], signal: Signal, value: Value) -> None:
    if signal not in values or values[signal].at <= value.at:
        values[signal] = value


class Snapshot(Struct, frozen=True, gc=False):
    """All readings of a target at one instant."""

    replicas: tuple[ReplicaReadings, ...] = ()
    """Every listed replica, ordered by name."""

    listed_at: float | None = None
    """As of when the list of replicas is confirmed; None: it was never known."""

    problem: str | None = None
    """Why the replicas could not be listed the last time; None: they were."""

    demand: Demand | None = None
    """What the wake source said last; None: it never did, or there is none."""

    demand_problem: str | None = None
    """Why the wake source said nothing the last time; None: it did."""

    beside: Mapping[str, float] | None = None
    """Requests that each replica had, as far as was known, when the wake source told; None: not
    said."""


def _extended(window: Window | None, look: Distribution, spans: Spans) -> Window:
    is_broken = window is not None and look.at >= window.at + spans.outage
    return extend(None if is_broken else window, look, spans.window)
