"""Series of many namespaces, asked of a Prometheus together and told apart by ourselves.

One query serves `MAX_NAMESPACES`. Where its answer is longer than we take, each half of them is
asked for, and so on, so that a namespace with more series than that harms no other; what is learned
by that is remembered for a while.

What is done with thousands of series is done in slices, between which the event loop has its turn.
"""

import math
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from itertools import islice

from keda_scaler.core.matchers import any_of, quote
from keda_scaler.engines.samples import Sample
from keda_scaler.engines.spaces import Space, namespace_of, sort
from keda_scaler.errors import SourceError, TooMuchError
from keda_scaler.sources.promanswer import LabelSets, Series
from keda_scaler.sources.promapi import Pin, Prometheus
from keda_scaler.sources.sink import Clock
from keda_scaler.turns import Turns

MAX_NAMESPACES = 500
"""Namespaces of one query: at most 32 KiB of their names."""

RELEARN_SECONDS = 600.0
"""How long it is remembered which namespaces have too many series to be asked for with others."""

_SLICE = 100
"""Series that are sorted in one go: less than a millisecond."""

Write = Callable[[str], str]
"""Writes a query, given the matcher of a label that names namespaces: `="a"`, or `=~"a|b"`."""

Failed = dict[str, SourceError]
"""The namespaces that could not be read, each with the reason."""


class Asker:
    """Asks one Prometheus for the series of many namespaces."""

    def __init__(self, prometheus: Prometheus, clock: Clock) -> None:
        self._prometheus = prometheus
        self._clock = clock
        self._labels = LabelSets()
        self._together = MAX_NAMESPACES
        self._large: set[str] = set()
        """Namespaces that have too many series even by themselves."""
        self._relearn_at = clock() + RELEARN_SECONDS

    def turn(self) -> None:
        """End a poll of everything."""
        self._labels.turn()
        if self._clock() >= self._relearn_at:
            self._together, self._large = MAX_NAMESPACES, set()
            self._relearn_at = self._clock() + RELEARN_SECONDS

    async def fill(
        self,
        spaces: Mapping[str, Space],
        write: Write,
        pin: Pin,
        add: Callable[[Space, Sample], None] = Space.add,
        whose: Callable[[Sample], str] = namespace_of,
    ) -> Failed:
        """Put what a query gives of these namespaces into the space of each.

        Raises:
            SourceError: when none of them could be read.

        """
        failed: Failed = {}
        turns = Turns()
        for chunk in self._chunks(spaces):
            async for series in self._answers(chunk, write, pin, failed):
                for start in range(0, len(series), _SLICE):
                    samples = self._samples(series[start : start + _SLICE], pin, whose, failed)
                    sort(samples, spaces, add, whose)
                    await turns.take()
        return failed

    def _chunks(self, namespaces: Collection[str]) -> Iterator[list[str]]:
        """Give those that are asked for together."""
        for each in sorted(self._large.intersection(namespaces)):
            yield [each]
        others = iter(sorted(each for each in namespaces if each not in self._large))
        while chunk := list(islice(others, self._together)):
            yield chunk

    async def _answers(
        self, namespaces: Sequence[str], write: Write, pin: Pin, failed: Failed
    ) -> AsyncIterator[list[Series]]:
        try:
            found = await self._prometheus.query(write(_matcher(namespaces)), pin.unix)
        except TooMuchError as error:
            if len(namespaces) == 1:
                self._large.update(namespaces)
                failed[namespaces[0]] = error
                return
            middle = len(namespaces) // 2
            for half in (namespaces[:middle], namespaces[middle:]):
                async for series in self._answers(half, write, pin, failed):
                    yield series
            if failed.keys().isdisjoint(namespaces):  # no single one is to blame
                self._together = min(self._together, max(1, middle))
        else:
            yield found

    def _samples(
        self,
        found: Sequence[Series],
        pin: Pin,
        whose: Callable[[Sample], str],
        failed: Failed,
    ) -> Iterator[Sample]:
        """Make samples of series; one that has no number is the trouble of its namespace."""
        for series in found:
            name, labels = self._labels.find(series.metric)
            try:
                at = pin.to_monotonic(series.newest.unix)
                sample = Sample(name, labels, series.number, at)
            except SourceError as error:
                failed[whose(Sample(name, labels, math.nan, pin.at))] = error
            else:
                yield sample


def _matcher(namespaces: Sequence[str]) -> str:
    if len(namespaces) == 1:
        return f"={quote(namespaces[0])}"
    return f"=~{any_of(namespaces)}"
