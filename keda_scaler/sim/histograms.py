"""Histograms of durations, with the bucket bounds of vLLM."""

import math
from bisect import bisect_left
from dataclasses import dataclass
from itertools import accumulate

NANOSECONDS = 1_000_000_000
"""In a second. Whole nanoseconds add up exactly, in whatever order."""

TTFT_BOUNDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0),
    *(2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
ITL_BOUNDS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0),
    *(2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
REQUEST_BOUNDS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
"""Upper bounds of vLLM's histogram buckets, in seconds; as on pages of vLLM 0.32.0."""


@dataclass(frozen=True, slots=True)
class HistogramState:
    """A histogram as of one instant."""

    buckets: tuple[tuple[float, int], ...]
    """Upper bound in seconds and observations up to it, cumulative; the last bound is infinite."""

    sum: float
    """Of all observations, in seconds."""


class Histogram:
    """Observations of durations in nanoseconds."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = (*bounds, math.inf)
        self._limits = [round(bound * NANOSECONDS) for bound in bounds]
        self._counts = [0] * len(self._bounds)
        self._sum = 0

    def observe(self, duration: int, times: int = 1) -> None:
        """Count a duration in nanoseconds, so many times."""
        self._counts[bisect_left(self._limits, duration)] += times
        self._sum += duration * times

    def state(self) -> HistogramState:
        """Tell what was observed so far."""
        cumulative = accumulate(self._counts)
        return HistogramState(
            tuple(zip(self._bounds, cumulative, strict=True)), self._sum / NANOSECONDS
        )
