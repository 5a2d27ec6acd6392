"""The supervisor: one task per target, which reads it for as long as it is asked about."""

import asyncio
import random
from collections.abc import Callable
from typing import Protocol

import structlog

from keda_scaler.core.trigger import Trigger
from keda_scaler.sources.sink import Sink

RESTART_SECONDS = 5.0
"""Pause before a source that failed by our own fault is started again."""

_log = structlog.get_logger()


class Source(Protocol):
    """What reads targets of one kind."""

    async def run(self, namespace: str, trigger: Trigger, sink: Sink) -> None:
        """Read for one target until cancelled."""

    async def aclose(self) -> None:
        """Let go of connections and threads."""


class Supervisor:
    """Runs a source for every target, and starts it again when it fails."""

    def __init__(self, endpoints: Source, prometheus: Source) -> None:
        self._endpoints = endpoints
        self._prometheus = prometheus
        self._tasks: set[asyncio.Task[None]] = set()

    def follow(self, namespace: str, name: str, trigger: Trigger, sink: Sink) -> Callable[[], None]:
        """Read for a target; give what stops it."""
        by_prometheus = trigger.prometheus or trigger.server_address
        source = self._prometheus if by_prometheus else self._endpoints
        task = asyncio.create_task(
            _keep_running(source, namespace, trigger, sink), name=f"source of {namespace}/{name}"
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task.cancel  # type: ignore[return-value]  # whether it was running is of no interest

    async def aclose(self) -> None:
        """Stop everything."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._endpoints.aclose()
        await self._prometheus.aclose()


async def _keep_running(source: Source, namespace: str, trigger: Trigger, sink: Sink) -> None:
    while True:
        try:
            await source.run(namespace, trigger, sink)
        except Exception:  # noqa: BLE001  # a source must not end for good
            _log.exception("a source failed by our fault, readings go stale; please report it")
            sink.unlisted("internal error, see the scaler's log")
        await asyncio.sleep(RESTART_SECONDS * random.uniform(0.8, 1.2))
