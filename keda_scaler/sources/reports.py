"""Reports as a source: who keeps them, who watches them, and how they become readings.

This keeper is for a scaler that runs alone: what it keeps is gone when it restarts, and nobody else
sees it. `redisreports.py` has the one that several scalers share.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import structlog

from keda_scaler.core.readings import Demand, Lacking, Missing, Reading, Readings, Replica, Value
from keda_scaler.core.reports import (
    Kept,
    Ledger,
    Report,
    ScaledObject,
    Tally,
    next_change,
    tally,
)
from keda_scaler.core.signals import Signal
from keda_scaler.core.trigger import Trigger
from keda_scaler.sources.sink import Clock, Sink, TargetSink, WakeSink
from keda_scaler.turns import Turns

_REPLICA = Replica("reports")
"""What stands for the replicas, which reports do not tell of."""

_NOT_TOLD: Readings = {signal: Lacking(f"reports do not tell {signal}") for signal in Signal}

_log = structlog.get_logger(__name__)

Changed = Callable[[Tally | Missing], None]


class Reports(Protocol):
    """Who keeps reports. Called from the event loop's thread only."""

    async def state(self, reports: Sequence[Report]) -> None:
        """Take reports in, all or none.

        Raises:
            TooManyReportsError: when a cap is reached.
            ReportsUnavailableError: when they cannot be kept where all replicas of the scaler see
                them.

        """

    def watch(self, namespace: str, name: str, changed: Changed) -> Callable[[], None]:
        """Call back with what is known: at once, on every change, and when something expires.

        Where nothing is known yet, "at once" is when the first attempt to read has ended. Give what
        ends it.
        """

    def refresh(self, namespace: str, name: str) -> None:
        """Confirm what is known, and call back all who watch it."""

    async def aclose(self) -> None:
        """Let go of connections, and call nobody back any more."""


class Watchers:
    """Who watches which ScaledObject. Tells them, also when time changes what is known."""

    def __init__(self, look: Callable[[ScaledObject], Kept | None], clock: Clock) -> None:
        """Take what gives what is kept; None: not read yet."""
        self._look = look
        self._clock = clock
        self._watchers: dict[ScaledObject, dict[object, Changed]] = {}
        self._timers: dict[ScaledObject, asyncio.TimerHandle] = {}

    def __contains__(self, about: ScaledObject) -> bool:
        return about in self._watchers

    def __iter__(self) -> Iterator[ScaledObject]:
        return iter(self._watchers)

    def add(self, about: ScaledObject, changed: Changed) -> Callable[[], None]:
        """Begin to watch; give what ends it. Nobody is called back yet."""
        mark = object()
        self._watchers.setdefault(about, {})[mark] = changed

        def end() -> None:
            watchers = self._watchers.get(about, {})
            watchers.pop(mark, None)
            if not watchers:
                self._watchers.pop(about, None)
                self._stop_timer(about)

        return end

    def tell(self, about: ScaledObject) -> None:
        """Tell what is known now, and again when that changes by itself."""
        self._stop_timer(about)
        kept = self._look(about)
        if about not in self._watchers or kept is None:
            return
        now = self._clock()
        change = next_change(kept, now)
        if change is not None:
            loop = asyncio.get_running_loop()
            self._timers[about] = loop.call_later(change - now, self.tell, about)
        self._call(about, tally(kept, now))

    async def tell_all(self, abouts: Sequence[ScaledObject]) -> None:
        """Tell what is known of several, and let others have their turn in between."""
        turns = Turns()
        for about in abouts:
            self.tell(about)
            await turns.take()

    def tell_problem(self, about: ScaledObject, reason: str) -> None:
        """Tell why nothing could be read. What was known expires as it would have."""
        self._call(about, Missing(reason))

    def clear(self) -> None:
        """Tell nobody any more."""
        self._watchers.clear()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _call(self, about: ScaledObject, known: Tally | Missing) -> None:
        for changed in list(self._watchers.get(about, {}).values()):
            try:
                changed(known)
            except Exception:  # noqa: BLE001  # the reporter and the others must not suffer
                _log.exception("a report was not taken up by our fault; please report it")

    def _stop_timer(self, about: ScaledObject) -> None:
        timer = self._timers.pop(about, None)
        if timer is not None:
            timer.cancel()


class MemoryReports:
    """Keeps reports in this process."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._ledger = Ledger()
        self._watchers = Watchers(self._look, clock)

    async def state(self, reports: Sequence[Report]) -> None:
        """See `Reports.state`."""
        await self._watchers.tell_all(self._ledger.state(reports, self._clock()))

    def watch(self, namespace: str, name: str, changed: Changed) -> Callable[[], None]:
        """See `Reports.watch`."""
        end = self._watchers.add((namespace, name), changed)
        self.refresh(namespace, name)
        return end

    def refresh(self, namespace: str, name: str) -> None:
        """See `Reports.refresh`."""
        self._watchers.tell((namespace, name))

    async def aclose(self) -> None:
        """See `Reports.aclose`."""
        self._watchers.clear()

    def _look(self, about: ScaledObject) -> Kept:
        return Kept(self._ledger.statements(about), self._clock(), self._since)


class ReportsSource:
    """Reads targets by what is reported of their ScaledObject."""

    def __init__(self, reports: Reports, *, clock: Clock = time.monotonic) -> None:
        self._reports = reports
        self._clock = clock

    async def run(self, namespace: str, name: str, trigger: Trigger, sink: TargetSink) -> None:
        """Tell the sink until cancelled: at once on every change, else every `pollSeconds`."""

        def changed(known: Tally | Missing) -> None:
            if trigger.by_reports:
                _tell_replica(sink, known, self._clock())
            else:
                _demand(sink, known)

        end = self._reports.watch(namespace, name, changed)
        try:
            while True:
                await asyncio.sleep(trigger.poll_seconds * random.uniform(0.8, 1.0))
                self._reports.refresh(namespace, name)
        finally:
            end()

    async def aclose(self) -> None:
        """Nothing to let go of: who keeps the reports outlives its sources."""


def _demand(sink: WakeSink, known: Tally | Missing) -> None:
    if isinstance(known, Missing):
        sink.demanded(known)
        return
    requests = known.waiting + known.running
    sink.demanded(Demand(known.waiting, requests, arrived=False, at=known.at), known.doubt)


def _tell_replica(sink: Sink, known: Tally | Missing, now: float) -> None:
    """Tell of one replica that stands for all. It is always there, and may be unknown."""
    told: dict[Signal, Reading]
    if isinstance(known, Tally) and known.doubt is not None:
        known = Missing(known.doubt)
    if isinstance(known, Missing):
        told = {Signal.QUEUE_DEPTH: known, Signal.CONCURRENCY: known}
    else:
        told = {
            Signal.QUEUE_DEPTH: Value(known.waiting, known.at),
            Signal.CONCURRENCY: Value(known.waiting + known.running, known.at),
        }
    sink.polled({_REPLICA: ({**_NOT_TOLD, **told}, None)}, now)
