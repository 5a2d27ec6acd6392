"""Load: requests that arrive by chance, at a rate that changes with time.

The chance is a seeded generator, so that the same arrivals come every time. `Arrivals` is a plain
iterable of times and requests; `drive` is the only part that waits.
"""

import asyncio
import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from keda_scaler.sim.requests import FinishReason, QueueFullError, Request


class Rate(Protocol):
    """Requests per second as a function of seconds since the start."""

    @property
    def peak(self) -> float:
        """The highest it ever is; at least 0."""

    @property
    def ends(self) -> float:
        """From when on it is 0 for good; infinite only when it always rises again."""

    def at(self, seconds: float) -> float:
        """Give the rate at that time; 0 to `peak`."""


@dataclass(frozen=True, slots=True)
class Constant:
    """Always the same."""

    peak: float
    ends: float = math.inf

    def at(self, seconds: float) -> float:  # noqa: ARG002  # of Rate
        """Give the rate."""
        return self.peak


@dataclass(frozen=True, slots=True)
class Wave:
    """Half a sine, then nothing, and again; the defaults suit the default `EngineModel`.

    At the crest more requests come than the engine can serve, and a queue builds up; in the trough
    none come for longer than the default `idleSeconds`, so that proof of idleness is seen too.
    Example: with a period of 120 and 60 busy seconds the rate is at its peak after 30 s and after
    150 s, half of it after 10 s, and 0 from 60 s to 120 s (`test_wave_rises_falls_and_rests`).
    """

    peak: float = 2.4
    period: float = 120.0
    """Seconds from one crest to the next."""

    busy: float = 60.0
    """Seconds of each period, its first ones, in which requests come; more than 0."""

    ends: float = math.inf

    def __post_init__(self) -> None:
        """Refuse a wave that never rises."""
        if not (0 < self.busy < math.inf and 0 < self.period < math.inf):
            raise ValueError("busy and period: more than 0 seconds")

    def at(self, seconds: float) -> float:
        """Give the rate at that time."""
        into = seconds % self.period
        return self.peak * math.sin(math.pi * into / self.busy) if into < self.busy else 0.0


@dataclass(frozen=True, slots=True)
class Burst:
    """Nothing, then everything at once, then nothing for good."""

    peak: float
    begins: float
    seconds: float

    @property
    def ends(self) -> float:
        """When the last request may come."""
        return self.begins + self.seconds

    def at(self, seconds: float) -> float:
        """Give the rate at that time."""
        return self.peak if self.begins <= seconds < self.ends else 0.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large requests are: uniform between the bounds, which are included."""

    prompt_tokens: tuple[int, int] = (40, 240)
    output_tokens: tuple[int, int] = (40, 200)
    """By default 1 to 5 s of the default `EngineModel`."""

    length_share: float = 0.25
    """Share of requests that end because of their length; 0 to 1."""

    def draw(self, chance: random.Random) -> Request:
        """Draw one request."""
        by_length = chance.random() < self.length_share
        return Request(
            prompt_tokens=chance.randint(*self.prompt_tokens),
            output_tokens=chance.randint(*self.output_tokens),
            finish=FinishReason.LENGTH if by_length else FinishReason.STOP,
        )


@dataclass(frozen=True, slots=True)
class Arrivals:
    """A Poisson process whose rate changes with time.

    Iterating gives (seconds since the start, request), in the order of time; endless unless the
    rate ends. Each iteration starts over and gives the same.
    """

    rate: Rate
    sizes: Sizes = Sizes()
    seed: int = 3
    """The default lets the default `Wave` queue 11 to 15 requests in each of its first periods."""

    def __iter__(self) -> Iterator[tuple[float, Request]]:
        """Draw arrivals by thinning (Lewis and Shedler, 1979).

        Candidates come at the peak rate, and each is kept with the probability rate / peak.
        """
        chance = random.Random(self.seed)  # repeatable on purpose
        seconds = 0.0
        while self.rate.peak > 0:
            seconds += chance.expovariate(self.rate.peak)
            if seconds >= self.rate.ends:
                return
            if chance.random() * self.rate.peak < self.rate.at(seconds):
                yield seconds, self.sizes.draw(chance)


async def drive(
    arrivals: Iterable[tuple[float, Request]], dispatch: Callable[[Request], object]
) -> int:
    """Hand each request to `dispatch` when its time has come; return how many were rejected.

    Time starts now. It does not drift: every wait is until a point in time, and what is late is
    handed over at once. Requests that `dispatch` rejects with `QueueFullError` are dropped, as
    clients without retries would. Cancel it to stop it.
    """
    loop = asyncio.get_running_loop()
    start = loop.time()
    rejected = 0
    for seconds, request in arrivals:
        await asyncio.sleep(max(0.0, start + seconds - loop.time()))
        try:
            dispatch(request)
        except QueueFullError:
            rejected += 1
    return rejected
