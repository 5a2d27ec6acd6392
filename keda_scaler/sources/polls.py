"""Polls that targets share: what several of them read is read once, and told to each.

One reader per thing that is read, from the first target that follows it to the last. It polls as
often as the most eager of those targets wants it, and less often after failures. A wake source is
polled every second while one of its targets has no replica that answers.
"""

import asyncio
import contextlib
import math
import random
from collections.abc import Awaitable, Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog

from keda_scaler.errors import SourceError
from keda_scaler.forever import keep
from keda_scaler.sources.sink import Clock, Recorder, WakeSink
from keda_scaler.turns import Turns

WAKE_SECONDS = 1.0
"""How often is polled for a target that has no replica which answers."""

FRESH_SECONDS = 5.0
"""How old an answer may be that a new target is told, unless its own polls are more frequent."""

MAX_RETRY_SECONDS = 4.0
"""Longest pause after failures, unless polls are further apart: whoever waits at a gateway that
answers again is noticed within this."""

_JITTER = 0.8
"""Least share of a pause that is waited for, at random."""

TICK_SECONDS = 0.001
"""What is left of a pause and not worth waiting for: timers are no finer, and a clock that moves in
such steps would have us wait for less than it can tell, again and again."""

MAX_HURRIED = 5
"""Polls after something was hurried that, while they fail, are no further apart than this:"""

HURRIED_SECONDS = 1.0
"""A replica that has just become ready is often not heard by its first connection."""

SHARE = 0.5
"""Most of a pause that reading and telling may take from it."""

Pause = Callable[[float, int], float]
"""Says how many seconds lie between two polls, before jitter: takes how often they are wanted, in
seconds, and how many failed in a row."""

T = TypeVar("T")
AnswerT_contra = TypeVar("AnswerT_contra", contravariant=True)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, eq=False)
class Follower(Generic[AnswerT_contra]):
    """A target that follows a reader."""

    sink: WakeSink | None
    """Of a wake source; None: it reads replicas, whether or not one answers."""

    poll_seconds: float
    tell: Callable[[AnswerT_contra | SourceError], None]


@dataclass(frozen=True, slots=True)
class Manner:
    """How things of one kind are polled."""

    source: str
    """As the recorder knows it."""

    title: str | None
    """What the log calls such a thing; None: that it cannot be read is not logged, because the
    decisions of its targets are."""

    pause: Pause

    spread: bool
    """Whether the first pause is a random part of one, so that things which were first read at the
    same time, at a start, are not from then on."""


class Polls(Generic[T]):
    """Readers that are shared, by what they read."""

    def __init__(self, record: Recorder, clock: Clock, manner: "Manner | None" = None) -> None:
        """Poll in some manner; None: as wake sources are polled."""
        self._record = record
        self._clock = clock
        self._manner = manner or WAKE_SOURCE
        self._readers: dict[Hashable, _Reader[T]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.contextmanager
    def follow(
        self,
        key: Hashable,
        what: str,
        read: Callable[[], Awaitable[T]],
        follower: Follower[T],
        *,
        anew: bool = False,
    ) -> Iterator[None]:
        """Tell the follower what is read, while inside.

        `read` is used only by the first to follow `key`; it may raise SourceError. `what` is for
        the log. `anew` says that what was read before does not do.
        """
        reader = self._readers.get(key)
        if reader is None:
            reader = _Reader(what, read, self._record, self._clock, self._manner)
            self._readers[key] = reader
            task = asyncio.create_task(keep("poll", reader.run), name=f"poll of {what}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            reader.task = task
        reader.add(follower, anew=anew)
        try:
            yield
        finally:
            reader.followers.discard(follower)
            if not reader.followers:
                del self._readers[key]
                if reader.task is not None:
                    reader.task.cancel()

    def hurry(self, key: Hashable) -> None:
        """Have something read that is followed, at once, or once more after a poll under way.

        That it failed before is forgotten, and the first polls that fail come one after the other.
        """
        self._readers[key].hurry()

    async def aclose(self) -> None:
        """End all polls."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Reader(Generic[T]):
    """Polls one thing."""

    def __init__(
        self,
        what: str,
        read: Callable[[], Awaitable[T]],
        record: Recorder,
        clock: Clock,
        manner: Manner,
    ) -> None:
        self.followers: set[Follower[T]] = set()
        self.task: asyncio.Task[None] | None = None
        self._what = what
        self._read = read
        self._record = record
        self._clock = clock
        self._manner = manner
        self._latest: T | SourceError | None = None
        self._latest_at = 0.0
        self._reads = True
        """Whether a poll is under way, whose answer everybody waits for."""
        self._asked = asyncio.Event()
        self._wanted = math.inf
        """What the most eager follower wanted when it was last looked, in seconds."""
        self._reason: str | None = None
        """Why the latest poll failed; None: it did not."""
        self._failures = 0
        """Polls that failed in a row, or since it was hurried."""
        self._hurried = 0
        """Polls that are still to come soon while they fail."""

    def add(self, follower: Follower[T], *, anew: bool) -> None:
        """Tell one more: what is known, or if a poll is due, what that gives, at once."""
        is_eager = follower.poll_seconds < self._wanted
        self.followers.add(follower)
        if self._reads:
            return
        # It has its own time. With thousands of new targets a poll for each would be told to all.
        fresh_seconds = min(follower.poll_seconds, FRESH_SECONDS)
        is_fresh = self._clock() - self._latest_at < fresh_seconds
        if self._latest is not None and is_fresh and not anew and not is_eager:
            follower.tell(self._latest)
        else:
            self._asked.set()

    def hurry(self) -> None:
        self._failures, self._hurried = 0, MAX_HURRIED
        self._asked.set()

    async def run(self) -> None:
        earliest = 0.0 if self._manner.spread else _JITTER
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            answer = await self._poll()
            has_failed = isinstance(answer, SourceError)
            self._failures = self._failures + 1 if has_failed else 0
            self._hurried = max(0, self._hurried - 1) if has_failed else 0
            turns = Turns()
            for follower in tuple(self.followers):
                if follower in self.followers:
                    self._tell(follower, answer)
                    await turns.take()
            # A poll and its telling take from the pause, but never all of it.
            began = max(began, loop.time() - SHARE * self._pause())
            await self._rest(began, random.uniform(earliest, 1.0))
            earliest = _JITTER

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
            _log.exception("a poll failed by our fault; please report it", what=self._what)
            answer = SourceError("internal error, see the scaler's log")
        self._latest, self._latest_at, self._reads = answer, self._clock(), False
        result = "error" if isinstance(answer, SourceError) else "ok"
        self._record(self._manner.source, result, self._latest_at - began)
        self._note(answer)
        return answer

    def _note(self, answer: T | SourceError) -> None:
        """Log when it can be read no more, and when it can again."""
        title = self._manner.title
        if title is None:
            return
        reason = str(answer) if isinstance(answer, SourceError) else None
        if reason is not None and self._reason is None:
            _log.warning(
                f"{title} cannot be read; what it said goes stale, then is unknown",
                what=self._what,
                reason=reason,
                detail="; ".join(getattr(answer, "__notes__", [])) or None,
            )
        elif reason is None and self._reason is not None:
            _log.info(f"{title} is read again", what=self._what)
        self._reason = reason

    def _tell(self, follower: Follower[T], answer: T | SourceError) -> None:
        try:
            follower.tell(answer)
        except Exception:  # noqa: BLE001  # the other targets must not suffer
            _log.exception("a poll was not taken up by our fault; please report it")

    async def _rest(self, began: float, share: float) -> None:
        """Wait until the next poll is due; a target that wants it sooner makes it so."""
        loop = asyncio.get_running_loop()
        # Whether a target wakes has to be looked at; a page is asked for when one becomes ready.
        look = WAKE_SECONDS if any(each.sink for each in self.followers) else math.inf
        while (left := began + share * self._pause() - loop.time()) > TICK_SECONDS:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, look)):
                    await self._asked.wait()
                    return

    def _pause(self) -> float:
        wanted = self._wanted = min(each.poll_seconds for each in self.followers)
        if any(each.sink is not None and each.sink.is_waking for each in self.followers):
            wanted = WAKE_SECONDS
        seconds = self._manner.pause(wanted, self._failures)
        return min(seconds, HURRIED_SECONDS) if self._hurried else seconds


def pause(poll_seconds: float, failures: int) -> float:
    """Say how long to wait before the next poll, in seconds: longer after a second failure."""
    longest = max(poll_seconds, MAX_RETRY_SECONDS)
    return min(longest, poll_seconds * 2.0 ** min(max(0, failures - 1), 10))


WAKE_SOURCE = Manner("gateway", "a wake source", pause, spread=False)
"""Whoever waits at a gateway that answers again is noticed soon."""
