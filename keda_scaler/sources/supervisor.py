"""The supervisor: one task per source of a target, which reads it for as long as it is asked about.

A target has a source of its replicas, and one of what waits in front of them if its trigger has
`wakeFrom`. With `engine: reports` reports stand for both.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

import structlog

from keda_scaler.core.names import REPORTS
from keda_scaler.core.readings import Missing
from keda_scaler.core.trigger import Trigger
from keda_scaler.errors import SourceError
from keda_scaler.forever import keep
from keda_scaler.sources.sink import Sink, TargetSink, WakeSink

RESTART_SECONDS = 5.0
"""Pause before a source that failed by our own fault, or may not be read, is started again."""

_log = structlog.get_logger()


class Source(Protocol):
    """What reads replicas."""

    async def run(self, namespace: str, trigger: Trigger, sink: Sink) -> None:
        """Read for one target until cancelled."""

    async def aclose(self) -> None:
        """Let go of connections and threads."""


class WakeSource(Protocol):
    """What reads what waits in front of replicas."""

    async def run(self, namespace: str, name: str, trigger: Trigger, sink: WakeSink) -> None:
        """Read for one target, the ScaledObject of that name, until cancelled."""

    async def aclose(self) -> None:
        """Let go of connections and threads."""


class Reports(Protocol):
    """What reads reports, in place of either."""

    async def run(self, namespace: str, name: str, trigger: Trigger, sink: TargetSink) -> None:
        """Read for one target, the ScaledObject of that name, until cancelled."""

    async def aclose(self) -> None:
        """Let go of connections."""


class Supervisor:
    """Runs the sources of every target, and starts them again when they fail."""

    def __init__(
        self, *, endpoints: Source, prometheus: Source, gateways: WakeSource, reports: Reports
    ) -> None:
        self._endpoints = endpoints
        self._prometheus = prometheus
        self._gateways = gateways
        self._reports = reports
        self._tasks: set[asyncio.Task[None]] = set()

    def follow(
        self, namespace: str, name: str, trigger: Trigger, sink: TargetSink
    ) -> Callable[[], None]:
        """Read for a target; give what stops it."""

        async def replicas() -> None:
            if trigger.by_reports:
                await self._reports.run(namespace, name, trigger, sink)
            else:
                source = self._prometheus if trigger.by_prometheus else self._endpoints
                await source.run(namespace, trigger, sink)

        async def waking() -> None:
            source = self._reports if trigger.wake_from == REPORTS else self._gateways
            await source.run(namespace, name, trigger, sink)

        tasks = [self._start(f"source of {namespace}/{name}", replicas, sink.unlisted)]
        if trigger.wake_from is not None:
            what = f"wake source of {namespace}/{name}"
            tasks.append(self._start(what, waking, lambda reason: sink.demanded(Missing(reason))))

        def stop() -> None:
            for task in tasks:
                task.cancel()

        return stop

    async def aclose(self) -> None:
        """Stop everything."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for source in (self._gateways, self._reports, self._endpoints, self._prometheus):
            await source.aclose()

    def _start(
        self, what: str, run: Callable[[], Awaitable[None]], fail: Callable[[str], None]
    ) -> asyncio.Task[None]:
        task = asyncio.create_task(keep("source", partial(_keep_running, run, fail)), name=what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _keep_running(run: Callable[[], Awaitable[None]], fail: Callable[[str], None]) -> None:
    while True:
        try:
            await run()
        except SourceError as error:
            fail(str(error))
        except Exception:  # noqa: BLE001  # a source must not end for good
            _log.exception("a source failed by our fault, readings go stale; please report it")
            fail("internal error, see the scaler's log")
        await asyncio.sleep(RESTART_SECONDS * random.uniform(0.8, 1.2))
