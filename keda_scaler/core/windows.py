"""Windows: what a histogram gained lately, and the quantile of that.

Rules
1. Only growth between two looks at the same process counts. A count that drops, other bounds or
   another start of the process mean a new process; what it has is then its growth.
2. A window is measured from the newest look, not from now: between two polls the answer is the same
   however often it is asked for.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from keda_scaler.core.readings import Distribution, Quantiles

MAX_POINTS = 62
"""Looks that are kept: one each sixtieth of the window, one before it, and the newest."""

_SAME_START = 1.0
"""Seconds by which a start that is given as a float may differ and still be the same."""


@dataclass(frozen=True, slots=True)
class Window:
    """Looks at one histogram of one replica."""

    points: tuple[Distribution, ...]
    """In the order of time; at least one."""

    @property
    def at(self) -> float:
        """When the newest was taken, in monotonic seconds."""
        return self.points[-1].at


@dataclass(frozen=True, slots=True)
class Quantile:
    """A quantile of what a window gained."""

    seconds: float

    is_bound: bool
    """True when it lies beyond the last bound of the histogram: it is at least `seconds`."""


def extend(window: Window | None, point: Distribution, seconds: float) -> Window:
    """Add a look; one older than the newest is ignored. Keeps one look from before the window."""
    if window is None:
        return Window((point,))
    if point.at <= window.at:
        return window
    points = [*window.points, point]
    first = max(0, bisect_left(points, point.at - seconds, key=lambda each: each.at) - 1)
    points = points[first:]
    if len(points) > 2 and points[-2].at - points[-3].at < seconds / 60:
        del points[-2]  # the newest is always kept; those before it are spaced
    return Window(tuple(points[-MAX_POINTS:]))


def growth(window: Window) -> Mapping[float, float]:
    """Add up what was gained from look to look, by upper bound; empty after a single look."""
    gained: dict[float, float] = {}
    for before, after in pairwise(window.points):
        base = dict(before.buckets) if _is_same_process(before, after) else {}
        for bound, count in after.buckets:
            gained[bound] = gained.get(bound, 0.0) + count - base.get(bound, 0.0)
    return gained


def _is_same_process(before: Distribution, after: Distribution) -> bool:
    if _has_restarted(before.started, after.started) or len(before.buckets) != len(after.buckets):
        return False
    return all(
        old_bound == bound and old_count <= count
        for (old_bound, old_count), (bound, count) in zip(
            before.buckets, after.buckets, strict=True
        )
    )


def _has_restarted(before: float | None, after: float | None) -> bool:
    return before is not None and after is not None and abs(after - before) > _SAME_START


def merged(gains: Iterable[Mapping[float, float]]) -> Sequence[tuple[float, float]]:
    """Add replicas up bound by bound, ascending; counts that would fall are raised.

    They fall where replicas have different bounds; Prometheus' histogram_quantile raises them too.
    """
    added: dict[float, float] = {}
    for gained in gains:
        for bound, count in gained.items():
            added[bound] = added.get(bound, 0.0) + count
    bounds = sorted(added)
    return list(zip(bounds, accumulate((added[bound] for bound in bounds), max), strict=True))


def slowest(share: float, summaries: Iterable[Quantiles]) -> Quantile | None:
    """Pick a quantile from summaries; None: nothing was observed.

    Quantiles of several replicas cannot be combined; the slowest replica's is taken. The smallest
    share that is at least the wanted one stands for it; beyond the largest it is at least that.
    """
    found: list[Quantile] = []
    for summary in summaries:
        known = [point for point in summary.points if not math.isnan(point[1])]
        if known:
            index = bisect_left(known, share, key=lambda point: point[0])
            seconds = known[min(index, len(known) - 1)][1]
            found.append(Quantile(seconds, is_bound=index == len(known)))
    return max(found, key=lambda each: (each.seconds, each.is_bound), default=None)


def quantile(share: float, buckets: Sequence[tuple[float, float]]) -> Quantile | None:
    """Interpolate a quantile in cumulative buckets; None: they are empty.

    Linear within a bucket, the first of which begins at 0, as Prometheus' histogram_quantile does
    (`promql/quantile.go`). One that falls into the bucket without an upper bound is said to be at
    least the last bound.

    Worked example: of 4 requests up to 1 s and 8 up to 2 s the 0.75 quantile is the 6th, half way
    through the second bucket: 1.5 s (tests/core/test_windows.py, test_quantiles_are_interpolated).
    """
    if not buckets or buckets[-1][1] <= 0:
        return None
    rank = share * buckets[-1][1]
    index = bisect_left(buckets, rank, key=lambda bucket: bucket[1])
    bound, count = buckets[min(index, len(buckets) - 1)]
    start, below = buckets[index - 1] if index else (0.0, 0.0)
    if math.isinf(bound):
        return Quantile(start, is_bound=True)
    if index == 0 and bound <= 0:
        return Quantile(bound, is_bound=False)
    return Quantile(start + (bound - start) * (rank - below) / (count - below), is_bound=False)
