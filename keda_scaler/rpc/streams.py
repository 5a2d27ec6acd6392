"""Open streams: how they are written to, and their orderly end.

A stream's own task only waits for its end. When something wakes a stream it is put in a line, and a
few writers take from it: when thousands are due at once, calls have their turn between them. (gRPC
accepts one call each time round the event loop, so a round must be short.)

KEDA waits 2 s before it opens a stream again that ended with OK, and up to 60 s after one that
ended with an error. So every stream ends itself, with OK, before the server would have to end it:
at shutdown, and before its connection reaches the age at which it is closed.
"""

import asyncio
import math
import random
from collections import Counter, deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import takewhile
from typing import Any

import grpc

from keda_scaler.rpc.pushes import Pushes

AGE_SHARE = (0.8, 0.95)
"""How long a stream lives, as a share of the longest age of a connection; drawn between the two, so
that streams which were opened together do not end together. At its age a connection takes no new
calls, and it is closed that long again after that: a stream that began just before has its time."""

MAX_WRITERS = 2
"""Messages that are under way at the same time. With more a wave is no faster, and calls wait
longer for their turn."""

WRITE_SECONDS = 0.1
"""How long a message may keep others waiting: some clients read slowly, or not at all."""

_TICK_SECONDS = 0.002
"""How early a timer may ring: uvloop's clock has milliseconds."""

Listen = Callable[[Callable[[], None]], AbstractContextManager[None]]
"""Has a stream woken when there may be something to say, while inside."""


class OpenStream:
    """One open stream."""

    __slots__ = ("context", "is_due", "is_ending", "is_written", "over", "pushes", "timer")

    def __init__(self, context: "grpc.aio.ServicerContext[Any, Any]", pushes: Pushes) -> None:
        self.context = context
        self.pushes = pushes
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the stream is to end: with OK, or with an error."""
        self.is_ending = False
        """Whether it is to end, as soon as nothing is written to it."""
        self.is_due = False
        """Whether it waits for a writer, or will when nothing is written to it."""
        self.is_written = False
        """Whether a message is under way to it."""
        self.timer: asyncio.TimerHandle | None = None

    def end(self, error: Exception | None = None) -> None:
        """Let it end."""
        if self.over.done():
            return
        if error is None:
            self.over.set_result(None)
        else:
            self.over.set_exception(error)

    def stop_timer(self) -> None:
        """Ask no more when it was told to."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class OpenStreams:
    """All streams that are open."""

    def __init__(self, max_age_seconds: float) -> None:
        """Take the longest age of a connection, in seconds; 0: there is none."""
        self.made = 0
        """Streams that there have been so far."""
        self.pushes: Counter[str] = Counter()
        """Messages that were written so far, by method."""
        self._max_age_seconds = max_age_seconds
        self._open: set[OpenStream] = set()
        self._ended = False
        self._due: deque[OpenStream] = deque()
        self._written: dict[OpenStream, float] = {}
        """Streams that a message is under way to, and since when; the oldest first."""
        self._writers: set[asyncio.Task[None]] = set()
        self._relief: asyncio.TimerHandle | None = None
        """When it is looked whether messages take too long."""

    async def serve(
        self, context: "grpc.aio.ServicerContext[Any, Any]", pushes: Pushes, listen: Listen
    ) -> None:
        """Say on a stream what is to be said, until it is over.

        Raises:
            Exception: whatever `pushes` or the connection ended it with.

        """
        loop = asyncio.get_running_loop()
        stream = OpenStream(context, pushes)
        age: asyncio.TimerHandle | None = None
        if self._max_age_seconds:
            seconds = self._max_age_seconds * random.uniform(*AGE_SHARE)
            age = loop.call_later(seconds, self._end, stream)
        stream.is_ending = self._ended
        self._open.add(stream)
        self.made += 1
        try:
            with listen(lambda: self._wake(stream)):
                self._wake(stream)
                await stream.over
        finally:
            self._open.discard(stream)
            stream.end()
            stream.stop_timer()
            if age is not None:
                age.cancel()

    def open_by_method(self) -> Counter[str]:
        """Count the streams that are open."""
        return Counter(stream.pushes.method for stream in self._open)

    def wake(self) -> None:
        """Look at every stream."""
        for stream in self._open:
            self._wake(stream)

    def end(self) -> None:
        """End every stream, and every later one."""
        self._ended = True
        for stream in self._open:
            self._end(stream)

    def _end(self, stream: OpenStream) -> None:
        stream.is_ending = True
        self._wake(stream)

    def _wake(self, stream: OpenStream) -> None:
        """Have a writer look at a stream."""
        if stream.is_due:
            return
        stream.is_due = True
        if not stream.is_written:
            self._due.append(stream)
            self._hire()

    def _hire(self) -> None:
        """Have enough writers for what is due, beside those that wait for a slow reader."""
        loop = asyncio.get_running_loop()
        if self._due and len(self._writers) - self._late(loop.time()) < MAX_WRITERS:
            task = loop.create_task(self._write(), name="writer of streams")
            self._writers.add(task)
            task.add_done_callback(self._writers.discard)
        if self._relief is None and len(self._writers) >= MAX_WRITERS:
            self._relief = loop.call_later(WRITE_SECONDS, self._relieve)

    def _late(self, now: float) -> int:
        """Count the messages that take too long; the oldest come first, and mostly none does."""
        late = now - WRITE_SECONDS + _TICK_SECONDS
        return sum(1 for _ in takewhile(lambda since: since <= late, self._written.values()))

    def _relieve(self) -> None:
        self._relief = None
        for _ in range(min(MAX_WRITERS, len(self._due))):
            self._hire()

    async def _write(self) -> None:
        """Take from the line until it is empty."""
        while self._due:
            stream = self._due.popleft()
            stream.is_due = False
            await self._say(stream)
            await asyncio.sleep(0)  # also if there was nothing to wait for

    async def _say(self, stream: OpenStream) -> None:
        """Say what is to be said on a stream."""
        stream.stop_timer()
        if stream.over.done():
            return
        loop = asyncio.get_running_loop()
        try:
            if stream.is_ending or stream.pushes.is_over:
                stream.end()
                return
            now = loop.time()
            message, again_at = stream.pushes.next(now)
            if message is not None:
                stream.is_written = True
                self._written[stream] = now
                await stream.context.write(message)
                self.pushes[stream.pushes.method] += 1
        except Exception as error:  # noqa: BLE001  # it ends this stream, and no other
            stream.end(error)
        else:
            if again_at < math.inf and not stream.over.done():
                stream.timer = loop.call_at(again_at, self._wake, stream)
        finally:
            stream.is_written = False
            self._written.pop(stream, None)
        if stream.is_due:  # it was woken meanwhile
            self._due.append(stream)
