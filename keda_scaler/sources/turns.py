"""Turns: work on thousands of things that lets the event loop do other things in between."""

import asyncio
import time

TURN_SECONDS = 0.002
"""How long such work goes on in one go. Whatever comes meanwhile waits for that; with less, a busy
loop would hardly ever come back to the work."""


class Turns:
    """Says when others have their turn."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    async def take(self) -> None:
        """Let others have their turn if it is theirs; call it after each small piece of work."""
        if time.monotonic() >= self._since + TURN_SECONDS:
            await asyncio.sleep(0)
            self._since = time.monotonic()
