"""Windows: growth of histograms, resets, and quantiles as Prometheus computes them."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_scaler.core.readings import Distribution, Quantiles
from keda_scaler.core.windows import (
    MAX_POINTS,
    Quantile,
    Window,
    extend,
    growth,
    merged,
    quantile,
    slowest,
)

BOUNDS = (1.0, 2.0, math.inf)


def look(*counts: float, at: float, started: float | None = None) -> Distribution:
    return Distribution(tuple(zip(BOUNDS, counts, strict=True)), at, started)


def window(*points: Distribution, seconds: float = 120.0) -> Window:
    made = extend(None, points[0], seconds)
    for point in points[1:]:
        made = extend(made, point, seconds)
    return made


def test_one_look_shows_no_growth() -> None:
    """What a replica has counted since it began is of no known time."""
    assert growth(window(look(3, 5, 9, at=0))) == {}


def test_growth_is_what_was_added() -> None:
    """Counts are cumulative; the difference is what happened in between."""
    known = window(look(3, 5, 9, at=0), look(4, 7, 12, at=60), look(4, 8, 14, at=110))

    assert growth(known) == {1.0: 1, 2.0: 3, math.inf: 5}


def test_a_counter_that_drops_began_anew() -> None:
    """A restarted process counts from zero: all that it has is growth."""
    known = window(look(30, 50, 90, at=0), look(1, 2, 3, at=10), look(1, 3, 5, at=20))

    assert growth(known) == {1.0: 1, 2.0: 3, math.inf: 5}


def test_another_start_of_the_process_is_a_reset() -> None:
    """A process that restarted may have caught up before it is looked at again."""
    known = window(look(3, 5, 9, at=0, started=100.0), look(4, 6, 10, at=10, started=200.0))

    assert growth(known) == {1.0: 4, 2.0: 6, math.inf: 10}


def test_other_bounds_are_a_reset() -> None:
    """An upgraded engine may have other buckets."""
    other = Distribution(((5.0, 2.0), (math.inf, 3.0)), 10.0, None)

    assert growth(window(look(3, 5, 9, at=0), other)) == {5.0: 2, math.inf: 3}


def test_looks_before_the_window_are_forgotten_but_one() -> None:
    """One from before it is where growth begins."""
    known = window(*(look(n, n, n, at=n) for n in range(0, 100, 10)), seconds=25)

    assert [point.at for point in known.points] == [60, 70, 80, 90]


def test_an_older_look_changes_nothing() -> None:
    """Prometheus may answer with an older sample than before."""
    known = window(look(1, 1, 1, at=10))

    assert extend(known, look(9, 9, 9, at=10), 120) is known
    assert extend(known, look(9, 9, 9, at=5), 120) is known


@given(st.lists(st.floats(0.1, 20), min_size=1, max_size=300), st.floats(10, 3600))
def test_a_window_is_bounded_and_keeps_its_ends(steps: list[float], seconds: float) -> None:
    """However often a page is read, memory is bounded and no growth between kept looks is lost."""
    at, points = 0.0, []
    for count, step in enumerate(steps):
        at += step
        points.append(look(count, count, count, at=at))
    known = window(*points, seconds=seconds)

    assert len(known.points) <= MAX_POINTS
    assert known.points[-1] == points[-1]
    ats = [point.at for point in known.points]
    assert all(one < other for one, other in pairwise(ats))
    first, last = known.points[0].buckets[-1][1], points[-1].buckets[-1][1]
    assert growth(known).get(math.inf, 0.0) == last - first
    if points[0].at <= at - seconds:
        assert ats[0] <= at - seconds + seconds / 60 + 1e-9


def test_replicas_are_added_bound_by_bound() -> None:
    """Counts that would fall, because bounds differ, are raised."""
    assert merged([{1.0: 4, math.inf: 6}, {1.0: 1, 2.0: 1, math.inf: 2}]) == [
        (1.0, 5),
        (2.0, 5),
        (math.inf, 8),
    ]
    assert merged([]) == []


@pytest.mark.parametrize(("share", "seconds"), [(0.75, 1.5), (0.5, 1.0), (0.25, 0.5), (1.0, 2.0)])
def test_quantiles_are_interpolated(share: float, seconds: float) -> None:
    """4 requests up to 1 s, 8 up to 2 s."""
    found = quantile(share, [(1.0, 4), (2.0, 8), (math.inf, 8)])

    assert found == Quantile(seconds, is_bound=False)


def test_beyond_the_last_bound() -> None:
    """The slowest are at least as slow as the last bound says."""
    assert quantile(0.95, [(1.0, 4), (2.0, 8), (math.inf, 10)]) == Quantile(2.0, is_bound=True)
    assert quantile(0.95, [(math.inf, 10)]) == Quantile(0.0, is_bound=True)


def test_nothing_has_no_quantile() -> None:
    """No requests, no opinion."""
    assert quantile(0.95, []) is None
    assert quantile(0.95, [(1.0, 0), (math.inf, 0)]) is None


def test_a_first_bound_of_zero() -> None:
    """A bucket that ends at zero holds zeros."""
    assert quantile(0.5, [(0.0, 4), (1.0, 4), (math.inf, 4)]) == Quantile(0.0, is_bound=False)


increments = st.lists(st.integers(0, 50), min_size=2, max_size=8)


@given(increments, st.floats(0.01, 0.999), st.floats(0.01, 0.999))
def test_quantiles_are_ordered_and_within_bounds(
    counts: list[int], one: float, other: float
) -> None:
    """A higher quantile is never a shorter time, and none exceeds the last bound."""
    bounds = [*(float(i + 1) for i in range(len(counts) - 1)), math.inf]
    added = [float(sum(counts[: i + 1])) for i in range(len(counts))]
    buckets = list(zip(bounds, added, strict=True))
    low, high = sorted((one, other))
    first, second = quantile(low, buckets), quantile(high, buckets)

    if first is None or second is None:
        assert added[-1] == 0
    else:
        assert 0 <= first.seconds <= second.seconds <= bounds[-2]


def summary(**points: float) -> Quantiles:
    return Quantiles(tuple((float(f"0.{name[1:]}"), at) for name, at in points.items()), 0.0)


def test_summaries_give_the_slowest_replica() -> None:
    """Quantiles of several processes cannot be added up or averaged."""
    one, other = summary(q5=1.0, q9=2.0, q95=3.0), summary(q5=1.5, q9=1.8, q95=4.0)

    assert slowest(0.95, [one, other]) == Quantile(4.0, is_bound=False)
    assert slowest(0.7, [one, other]) == Quantile(2.0, is_bound=False)
    assert slowest(0.99, [one, other]) == Quantile(4.0, is_bound=True)


def test_a_summary_without_traffic_has_no_quantile() -> None:
    """It prints NaN, which is no time."""
    assert slowest(0.95, [summary(q5=math.nan, q95=math.nan)]) is None
    assert slowest(0.95, [summary(q95=math.nan), summary(q95=2.0)]) == Quantile(2.0, is_bound=False)
