"""What shall run for ever: the one guarded way to run it.

A task that ends is silent, and whoever waits for what it does waits for ever. So none of them ends
by itself: whatever it raises, that it returns, and that it is cancelled although its owner did not
want that, is a death. A death is logged and counted, and the task is begun again after a pause. All
of ours can be: what they know they keep elsewhere. Where dying goes on, a process that begins anew
is better than one that only looks alive: whoever runs it may say what is done then.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable

import structlog

FIRST_SECONDS = 0.1
"""Pause after a death."""

LONGEST_SECONDS = 30.0
"""Longest pause, after many in a row."""

LIVED_SECONDS = 60.0
"""Whoever lived so long begins to count deaths anew."""

MAX_DEATHS = 6
"""Deaths in a row after which somebody else is told: within some ten seconds."""

KINDS = (
    *("sweep", "garbage", "reload", "poll", "rounds", "endpoint slices", "source", "redis"),
    "exporter",
)
"""What there is; see `deaths`."""

deaths: Counter[str] = Counter()
"""How often each kind of task has died in this process."""

_log = structlog.get_logger(__name__)


async def keep(
    kind: str, run: Callable[[], Awaitable[None]], give_up: Callable[[], None] | None = None
) -> None:
    """Run something for ever, until our task is cancelled by its owner.

    `kind` is for the log and for `deaths`: of few words, and no names of users' things. `give_up`
    is called after `MAX_DEATHS` in a row; the task is begun again all the same.
    """
    loop = asyncio.get_running_loop()
    in_a_row = 0
    while True:
        began = loop.time()
        try:
            await run()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            _log.error("a task was cancelled by mistake, and begins again", task=kind)
        except Exception:  # noqa: BLE001  # it must not end for good
            _log.exception(
                "a task died by our fault, and begins again; please report it", task=kind
            )
        else:
            _log.error("a task ended by our fault and begins again; please report it", task=kind)
        deaths[kind] += 1
        in_a_row = 1 if loop.time() >= began + LIVED_SECONDS else in_a_row + 1
        if in_a_row >= MAX_DEATHS and give_up is not None:
            give_up()
        await asyncio.sleep(pause(in_a_row))


def pause(in_a_row: int) -> float:
    """Say how many seconds to wait after so many deaths in a row."""
    longest = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(in_a_row - 1, 10))
    return longest * random.uniform(0.5, 1.0)
