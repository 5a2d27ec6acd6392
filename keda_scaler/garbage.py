"""Garbage collection that does not hold up the event loop.

A full collection looks at every object there is. With ten thousand streams that takes half a
second, in which no call is answered, and Python finds it due whenever a wave of changes has made
enough objects. Nearly all of them live for hours: targets and streams. So whenever some have been
made they are frozen, which leaves them out of later collections, right after a collection of what
is not frozen yet. What ends later is freed by its reference count, as nearly everything is.
"""

import asyncio
import gc
from collections.abc import Callable

LOOK_SECONDS = 0.5
"""How often is looked for new targets and streams. In this time a few thousand can come, and
collecting what they consist of takes some 50 ms."""

THRESHOLDS = (10_000, 20, 50)
"""Objects that are made, and not freed, before the youngest are collected; and how often that
happens before older ones are. Python's own (700, 10, 10) are for small programs."""


async def keep_frozen(made: Callable[[], int]) -> None:
    """Freeze what lives long, until cancelled; then everything is as Python has it.

    `made` gives how many targets and streams there have been so far.
    """
    before = gc.get_threshold()
    gc.set_threshold(*THRESHOLDS)
    frozen = -1
    try:
        while True:
            found = made()
            if found != frozen:
                gc.collect()
                gc.freeze()
                frozen = found
            await asyncio.sleep(LOOK_SECONDS)
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
