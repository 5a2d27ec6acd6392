"""Calls, counted: every call pays for it, so by plain numbers and not by metrics with locks."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from itertools import accumulate
from time import perf_counter

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from keda_scaler.telemetry import families

BOUNDS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Upper bounds of the histogram's buckets, in seconds."""


class Durations:
    """How long calls of one kind took."""

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        """Calls by bucket; the last has no bound."""
        self.seconds = 0.0
        """All calls together."""


class Calls(Collector):
    """How many calls ended, by method and status code, and how long the unary ones took."""

    def __init__(self) -> None:
        self._unary: defaultdict[tuple[str, str], Durations] = defaultdict(Durations)
        self._unary["GetMetrics", "OK"] = Durations()  # an alert needs the 0 of a fresh start
        self._streams: defaultdict[tuple[str, str], int] = defaultdict(int)

    def ended(self, method: str, code: str, began: float) -> None:
        """Count a unary call that ends now; `began` is what `time.perf_counter` said then."""
        seconds = perf_counter() - began
        durations = self._unary[method, code]
        durations.counts[bisect_left(BOUNDS, seconds)] += 1
        durations.seconds += seconds

    def stream_ended(self, method: str, code: str) -> None:
        """Count a stream that ends now."""
        self._streams[method, code] += 1

    def collect(self) -> Iterable[Metric]:
        """Give both metrics."""
        rpcs = CounterMetricFamily(
            families.RPCS.name, families.RPCS.text, labels=families.RPCS.labels
        )
        seconds = HistogramMetricFamily(
            families.RPC_DURATIONS.name,
            families.RPC_DURATIONS.text,
            labels=families.RPC_DURATIONS.labels,
        )
        bounds = [*map(str, BOUNDS), "+Inf"]
        for labels, durations in sorted(self._unary.items()):
            rpcs.add_metric(labels, sum(durations.counts))
            buckets = list(zip(bounds, accumulate(durations.counts), strict=True))
            seconds.add_metric(labels, buckets, durations.seconds)
        for labels, count in sorted(self._streams.items()):
            rpcs.add_metric(labels, count)
        yield rpcs
        yield seconds
