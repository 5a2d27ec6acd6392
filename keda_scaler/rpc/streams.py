"""Open streams, and their orderly end.

KEDA waits 2 s before it opens a stream again that ended with OK, and up to 60 s after one that
ended with an error. So every stream ends itself, with OK, before the server would have to end it:
at shutdown, and before its connection reaches the age at which it is closed.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Iterator

AGE_SHARE = (0.8, 0.95)
"""How long a stream lives, as a share of the longest age of a connection; drawn between the two, so
that streams which were opened together do not end together. At its age a connection takes no new
calls, and it is closed that long again after that: a stream that began just before has its time."""


WRITES_AT_ONCE = 20
"""Messages that are under way to streams at the same time. When thousands are due, calls have their
turn between them."""

WRITE_SECONDS = 0.1
"""How long a message may keep others waiting: some clients read slowly, or not at all."""


class OpenStream:
    """One open stream. `wake` makes whoever serves it look again."""

    __slots__ = ("_ended", "wake")

    def __init__(self, wake: Callable[[], None]) -> None:
        self.wake = wake
        self._ended = asyncio.Event()

    @property
    def ended(self) -> bool:
        """Whether it is to end, with OK."""
        return self._ended.is_set()

    def end(self) -> None:
        """End it."""
        self._ended.set()
        self.wake()

    async def pause(self, seconds: float) -> None:
        """Wait, unless it is to end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended.wait()


class OpenStreams:
    """All streams that are open."""

    def __init__(self, max_age_seconds: float) -> None:
        """Take the longest age of a connection, in seconds; 0: there is none."""
        self._max_age_seconds = max_age_seconds
        self._open: set[OpenStream] = set()
        self._ended = False
        self._turns = asyncio.Semaphore(WRITES_AT_ONCE)
        self.made = 0
        """Streams that there have been so far."""

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn to write. One that takes `WRITE_SECONDS` keeps others waiting no more."""
        await self._turns.acquire()
        over = asyncio.get_running_loop().call_later(WRITE_SECONDS, self._turns.release)
        try:
            yield
        finally:
            if over.when() > asyncio.get_running_loop().time():  # else it is over, or about to be
                over.cancel()
                self._turns.release()

    @contextlib.contextmanager
    def opened(self, wake: Callable[[], None]) -> Iterator[OpenStream]:
        """Count a stream as open, and end it in time."""
        stream = OpenStream(wake)
        timer: asyncio.TimerHandle | None = None
        if self._max_age_seconds:
            seconds = self._max_age_seconds * random.uniform(*AGE_SHARE)
            timer = asyncio.get_running_loop().call_later(seconds, stream.end)
        if self._ended:
            stream.end()
        self._open.add(stream)
        self.made += 1
        try:
            yield stream
        finally:
            self._open.discard(stream)
            if timer is not None:
                timer.cancel()

    def wake(self) -> None:
        """Make every stream look again."""
        for stream in self._open:
            stream.wake()

    def end(self) -> None:
        """End every stream, and every later one."""
        self._ended = True
        for stream in self._open:
            stream.end()
