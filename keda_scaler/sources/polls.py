"""Polls that targets share: what several of them read is read once, and told to each.

One reader per thing that is read, from the first target that follows it to the last. It polls every
second while one of those targets has no replica that answers, else as often as the most eager wants
it, and somewhat less often after failures.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog

from keda_scaler.errors import SourceError
from keda_scaler.sources.sink import Clock, Recorder, WakeSink

WAKE_SECONDS = 1.0
"""How often is polled for a target that has no replica which answers."""

MAX_RETRY_SECONDS = 4.0
"""Longest pause after failures, unless polls are further apart: whoever waits at a gateway that
answers again is noticed within this."""

SHARE = 0.5
"""Most of a pause that reading and telling may take from it."""

T = TypeVar("T")
AnswerT_contra = TypeVar("AnswerT_contra", contravariant=True)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, eq=False)
class Follower(Generic[AnswerT_contra]):
    """A target that follows a reader."""

    sink: WakeSink
    poll_seconds: float
    tell: Callable[[AnswerT_contra | SourceError], None]


class Polls(Generic[T]):
    """Readers that are shared, by what they read."""

    def __init__(self, record: Recorder, clock: Clock) -> None:
        self._record = record
        self._clock = clock
        self._readers: dict[Hashable, _Reader[T]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.contextmanager
    def follow(
        self, key: Hashable, what: str, read: Callable[[], Awaitable[T]], follower: Follower[T]
    ) -> Iterator[None]:
        """Tell the follower what is read, while inside.

        `read` is used only by the first to follow `key`; it may raise SourceError. `what` is for
        the log.
        """
        reader = self._readers.get(key)
        if reader is None:
            reader = _Reader(what, read, self._record, self._clock)
            self._readers[key] = reader
            task = asyncio.create_task(reader.run(), name=f"poll of {what}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            reader.task = task
        reader.add(follower)
        try:
            yield
        finally:
            reader.followers.discard(follower)
            if not reader.followers:
                del self._readers[key]
                if reader.task is not None:
                    reader.task.cancel()

    async def aclose(self) -> None:
        """End all polls."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Reader(Generic[T]):
    """Polls one thing."""

    def __init__(
        self, what: str, read: Callable[[], Awaitable[T]], record: Recorder, clock: Clock
    ) -> None:
        self.followers: set[Follower[T]] = set()
        self.task: asyncio.Task[None] | None = None
        self._what = what
        self._read = read
        self._record = record
        self._clock = clock
        self._latest: T | SourceError | None = None
        self._latest_at = 0.0
        self._reads = True
        """Whether a poll is under way, whose answer everybody waits for."""
        self._asked = asyncio.Event()
        self._reason: str | None = None
        """Why the latest poll failed; None: it did not."""

    def add(self, follower: Follower[T]) -> None:
        """Tell one more: what is known, if it is new, else what the next poll gives, at once."""
        self.followers.add(follower)
        if self._reads:
            return
        if self._latest is not None and self._clock() - self._latest_at < WAKE_SECONDS:
            follower.tell(self._latest)
        else:
            self._asked.set()

    async def run(self) -> None:
        failures = 0
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            answer = await self._poll()
            failures = failures + 1 if isinstance(answer, SourceError) else 0
            for follower in tuple(self.followers):
                if follower in self.followers:
                    self._tell(follower, answer)
                    await asyncio.sleep(0)  # others have their turn
            # A poll and its telling take from the pause, but never all of it.
            await self._rest(max(began, loop.time() - SHARE * self._pause(failures)), failures)

    async def _poll(self) -> T | SourceError:
        self._reads = True
        self._asked.clear()
        began = self._clock()
        answer: T | SourceError
        try:
            answer = await self._read()
        except SourceError as error:
            answer = error
        except Exception:  # noqa: BLE001  # a reader must not end for good
            _log.exception("a wake source failed by our fault; please report it", what=self._what)
            answer = SourceError("internal error, see the scaler's log")
        self._latest, self._latest_at, self._reads = answer, self._clock(), False
        result = "error" if isinstance(answer, SourceError) else "ok"
        self._record("gateway", result, self._latest_at - began)
        self._note(answer)
        return answer

    def _note(self, answer: T | SourceError) -> None:
        """Log when it can be read no more, and when it can again."""
        reason = str(answer) if isinstance(answer, SourceError) else None
        if reason is not None and self._reason is None:
            _log.warning(
                "a wake source cannot be read; what it said goes stale, then is unknown",
                what=self._what,
                reason=reason,
                detail="; ".join(getattr(answer, "__notes__", [])) or None,
            )
        elif reason is None and self._reason is not None:
            _log.info("a wake source is read again", what=self._what)
        self._reason = reason

    def _tell(self, follower: Follower[T], answer: T | SourceError) -> None:
        try:
            follower.tell(answer)
        except Exception:  # noqa: BLE001  # the other targets must not suffer
            _log.exception("a wake source was not taken up by our fault; please report it")

    async def _rest(self, began: float, failures: int) -> None:
        """Wait until the next poll is due; a target that has lost its replicas makes it so."""
        loop = asyncio.get_running_loop()
        share = random.uniform(0.8, 1.0)
        while (left := began + share * self._pause(failures) - loop.time()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, WAKE_SECONDS)):
                    await self._asked.wait()
                    return

    def _pause(self, failures: int) -> float:
        if any(follower.sink.is_waking for follower in self.followers):
            return pause(WAKE_SECONDS, failures)
        return pause(min(each.poll_seconds for each in self.followers), failures)


def pause(poll_seconds: float, failures: int) -> float:
    """Say how long to wait before the next poll, in seconds: longer after a second failure."""
    longest = max(poll_seconds, MAX_RETRY_SECONDS)
    return min(longest, poll_seconds * 2.0 ** min(max(0, failures - 1), 10))
