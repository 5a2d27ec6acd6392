"""What KEDA asks about a fleet: chains of calls, and streams, of ScaledObjects in many namespaces.

Of each ScaledObject of type external-push with two metrics, in 30 s: a poll (the specs, then the
value and the activity of each metric), and twice the HPA (for each metric the specs, its value and
the activity). That is 17 unary calls.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import keda_calls
from fleet_client import Chain, Request

from keda_scaler.core.names import REPORTS
from keda_scaler.core.signals import Signal
from keda_scaler.pb import externalscaler_pb2 as pb

NAMESPACES = 200
PAGES = 100
"""Pages that are read for all targets: as many model servers that several ScaledObjects share."""

POLL_SECONDS = 30.0
"""KEDA's default `pollingInterval`."""

HPA_SECONDS = 15.0
_OF_REPORTS = (keda_calls.METRIC, Signal.CONCURRENCY.value)
CALLS = 17
"""Unary calls in `POLL_SECONDS`, of one ScaledObject."""


@dataclass(frozen=True, slots=True)
class ScaledObject:
    """The requests about one ScaledObject."""

    namespace: str
    name: str
    specs: Request
    activity: Request
    values: tuple[Request, ...]
    streams: tuple[Request, Request]
    """StreamIsActive and StreamMetricSpec."""

    @property
    def poll(self) -> tuple[Request, ...]:
        """What KEDA's scale loop asks."""
        return (self.specs, *(r for value in self.values for r in (value, self.activity)))

    @property
    def hpa(self) -> tuple[Request, ...]:
        """What the HPA makes KEDA ask."""
        return tuple(r for value in self.values for r in (self.specs, value, self.activity))


def fleet(objects: int, url: str) -> list[ScaledObject]:
    """Make a fleet that reads pages below a URL."""
    return fleet_of(objects, lambda number: _reads_pages(number, url))


def fleet_of(
    objects: int, metadata: Callable[[int], Mapping[str, str]], seed: int = 7
) -> list[ScaledObject]:
    """Make a fleet of triggers."""
    chance = random.Random(seed)
    return [_scaled_object(number, metadata(number), chance) for number in range(objects)]


def _reads_pages(number: int, url: str) -> Mapping[str, str]:
    page = number % PAGES
    given = keda_calls.metadata(f"{url}/{page % 10}/{page}/metrics", 5)
    del given["targetConcurrency"]  # two metrics, as by default
    return {**given, "onUnknown": "hold"}


def _scaled_object(number: int, given: Mapping[str, str], chance: random.Random) -> ScaledObject:
    bare = pb.ScaledObjectRef(name=f"llama-{number}", namespace=f"team-{number % NAMESPACES}")
    reference = keda_calls.reference_bytes(bare, given, chance)
    return ScaledObject(
        namespace=bare.namespace,
        name=bare.name,
        specs=Request("GetMetricSpec", reference),
        activity=Request("IsActive", reference),
        values=tuple(
            Request("GetMetrics", keda_calls.metrics_request(reference, metric))
            for metric in _metrics(given)
        ),
        streams=(Request("StreamIsActive", reference), Request("StreamMetricSpec", reference)),
    )


def _metrics(given: Mapping[str, str]) -> tuple[str, str]:
    """Name the two metrics of a trigger."""
    return _OF_REPORTS if given["engine"] == REPORTS else keda_calls.METRICS


def schedule(objects: Sequence[ScaledObject], seconds: float, seed: int = 11) -> list[Chain]:
    """Give all chains that begin within a time, each ScaledObject at moments of its own."""
    chance = random.Random(seed)
    chains: list[Chain] = []
    for each in objects:
        for period, requests in ((POLL_SECONDS, each.poll), (HPA_SECONDS, each.hpa)):
            due = chance.uniform(0, period)
            while due < seconds:
                chains.append(Chain(due, requests))
                due += period
    return sorted(chains, key=lambda chain: chain.due)
