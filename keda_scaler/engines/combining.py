"""How the series of one replica become one number. Never "the last one wins".

A rule is told every series' labels and number.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

Numbers = Sequence[tuple[Mapping[str, str], float]]
Combine = Callable[[Numbers], float]


def total(numbers: Numbers) -> float:
    """Combine counts: every series counts requests of its own."""
    return math.fsum(number for _, number in numbers)


def mean(numbers: Numbers) -> float:
    """Combine ratios: every series is the share of a pool of the same size."""
    return fmean(number for _, number in numbers)


def largest(numbers: Numbers) -> float:
    """Combine ratios of pools of different sizes: requests wait where the fullest one is."""
    return max(number for _, number in numbers)


def once_per_rank_group(*ranks: str, then: Combine) -> Combine:
    """Combine what several ranks of one engine repeat.

    Series that differ only in the labels `ranks` are the same requests seen by processes that share
    the work of each one (tensor, pipeline or expert parallelism): the largest is taken. What is
    left is combined by `then`.
    """
    if not ranks:
        return then

    def combine(numbers: Numbers) -> float:
        groups: dict[frozenset[tuple[str, str]], tuple[Mapping[str, str], float]] = {}
        for labels, number in numbers:
            rest = {name: value for name, value in labels.items() if name not in ranks}
            key = frozenset(rest.items())
            if key not in groups or number > groups[key][1]:
                groups[key] = (rest, number)
        return then(list(groups.values()))

    return combine
