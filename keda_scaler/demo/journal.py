"""What happened in a demo, in order, with the reason: the lines that people read."""

import asyncio
import logging
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import structlog

_Event = MutableMapping[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that happened."""

    seconds: float
    """Since the demo began."""

    by: str
    """Who or what: requests, scaler, KEDA, HPA or pods."""

    text: str


class Journal:
    """Dates what happens, and hands it on."""

    def __init__(self, tell: Callable[[Change], None]) -> None:
        self.reason = ""
        """The scaler's state, and why; empty at first."""
        self._tell = tell
        self._began = asyncio.get_running_loop().time()

    @property
    def seconds(self) -> float:
        """Since the demo began."""
        return asyncio.get_running_loop().time() - self._began

    def add(self, by: str, text: str) -> None:
        """Say that something happened now."""
        self._tell(Change(self.seconds, by, text))

    @contextmanager
    def reading_the_log(self) -> Iterator[None]:
        """Take the scaler's log lines in, instead of printing them: decisions, and what is wrong.

        The log is where the scaler says why, to people; KEDA gets values and yes or no.
        """
        before = structlog.get_config()
        structlog.configure(
            processors=[structlog.processors.add_log_level, self._take],
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
            cache_logger_on_first_use=False,
        )
        try:
            yield
        finally:
            structlog.configure(**before)

    def _take(self, _: object, __: str, event: _Event) -> _Event:
        if event["event"] == "decision":
            self.reason = f"{event['state']}, {event['reason']}: {event['text']}"
            self.add("scaler", self.reason)
        elif event["level"] != "info":
            details = ", ".join(
                f"{key} {value}"
                for key, value in event.items()
                if key not in {"event", "level", "exc_info"}
            )
            self.add("scaler", f"{event['level']}: {event['event']} ({details})")
        raise structlog.DropEvent
