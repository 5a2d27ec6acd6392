"""Polls: something is read again and again; its newest result stands until it is too old."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import structlog

from keda_scaler.errors import SourceError
from keda_scaler.sources.enginepages import pause
from keda_scaler.sources.sink import Clock

STALE_INTERVALS = 3
"""Intervals after which a result is forgotten: two polls in a row may fail unseen."""

_log = structlog.get_logger()
_T = TypeVar("_T")


class Poll(Generic[_T]):
    """One thing that is read, and how it goes. What is wrong is logged when it changes."""

    def __init__(
        self,
        name: str,
        read: Callable[[], Awaitable[_T]],
        interval_seconds: float,
        lacks: Callable[[_T], str | None] = lambda _: None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.succeeded: bool | None = None
        """Whether the latest attempt gave a result; None: none has ended yet."""

        self._name = name
        self._read = read
        self._interval_seconds = interval_seconds
        self._lacks = lacks
        self._clock = clock
        self._failures = 0
        self._newest: tuple[float, _T] | None = None
        self._problem: str | None = None

    @property
    def has_succeeded(self) -> bool:
        """Whether any attempt ever gave a result."""
        return self._newest is not None

    def fresh(self) -> _T | None:
        """Give the newest result; None when there is none, or it is too old to be repeated."""
        if self._newest is None:
            return None
        at, result = self._newest
        return result if self._clock() - at < STALE_INTERVALS * self._interval_seconds else None

    async def run(self) -> None:
        """Read until cancelled; with jitter, and slower after failures."""
        while True:
            await self._attempt()
            await asyncio.sleep(pause(self._interval_seconds, self._failures))

    async def _attempt(self) -> None:
        began = self._clock()
        problem: str | None
        try:
            result = await self._read()
        except SourceError as error:
            self.succeeded, problem = False, str(error)
        except Exception:  # noqa: BLE001  # what fails by our fault must not end the others
            _log.exception("a poll failed by our fault; please report it", what=self._name)
            self.succeeded, problem = False, "internal error"
        else:
            self._newest = began, result
            self.succeeded, problem = True, self._lacks(result)
        self._failures = 0 if self.succeeded else self._failures + 1
        if problem != self._problem:
            self._problem = problem
            if problem is None:
                _log.info("read again", what=self._name)
            else:
                _log.warning("not published in full", what=self._name, problem=problem)
