"""Turns: work on thousands of things that lets calls be answered in between.

gRPC accepts one call in half a dozen rounds of the event loop, most of them short, however many
wait. So work that goes on for long must not be in every round, and the less so the more calls there
are; and a round in which little happened does not say that nobody waits.
"""

import asyncio
import time

WORK_SECONDS = 0.0005
"""How long such work goes on in one go."""

REST_SHARE = 4.0
"""How long others then have, as a multiple of that, if they want it."""

IDLE_SECONDS = 0.0001
"""A round of the event loop that takes less has found little to do."""

IDLE_ROUNDS = 10
"""So many of them in a row have found nobody who wants it."""


class Turns:
    """Says when others have their turn."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    async def take(self) -> None:
        """Let others have their turn if it is theirs; call it after each small piece of work."""
        now = time.monotonic()
        worked = now - self._since
        if worked < WORK_SECONDS:
            return
        until = now + REST_SHARE * worked
        idle = 0
        while now < until and idle < IDLE_ROUNDS:
            began = now
            await asyncio.sleep(0)
            now = time.monotonic()
            idle = idle + 1 if now - began < IDLE_SECONDS else 0
        self._since = now
