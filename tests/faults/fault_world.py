"""The world of a scene: its pods, what their pages say, and what the gateway says."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fault_scene import Hits, Load, Scene
from keda_scaler import engines
from keda_scaler.core.readings import Demand, Engine, Missing, Readings, Replica, Value
from keda_scaler.core.reports import Kept, Statement, Tally, tally
from keda_scaler.core.signals import Signal
from keda_scaler.gateways.counters import Series, rose
from keda_scaler.sources.slices import parse_slice, resolve

Pages = Mapping[str, tuple[Readings, Engine | None]]
"""What one poll of every replica's page gives."""

_LOADING = "cannot connect: refused"
_SERIES: Series = ("requests_total", frozenset())


@dataclass(frozen=True, slots=True)
class _Pod:
    name: str
    born: int


class World:
    """Pods, as many as KEDA wants: listed a while after that, and ready a while later."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self._pods: list[_Pod] = []
        self._ended: list[tuple[str, int]] = []
        """Pods that were ended, and when."""
        self._made = 0
        self._counted: Mapping[Series, float] | None = None
        self.scale(scene.replicas, -scene.schedule_seconds - scene.load_seconds)

    @property
    def created(self) -> int:
        """Pods that exist."""
        return len(self._pods)

    def ready(self, second: int) -> int:
        """Count the pods that are ready."""
        return sum(replica.ready for replica in self._running(second))

    def scale(self, count: int, second: int) -> None:
        """Make or end pods."""
        self._ended += [(pod.name, second) for pod in self._pods[count:]]
        del self._pods[count:]
        while len(self._pods) < count:
            self._made += 1
            self._pods.append(_Pod(f"llama-{self._made}", second))

    def listed(self, second: int) -> list[Replica]:
        """Give what Kubernetes lists."""
        found = [] if self.scene.fault(Hits.ENDPOINTS, second) else self._running(second)
        if self.scene.fault(Hits.TWICE, second):
            found = _listed_twice(found)
        if self.scene.is_leaving(second):
            found.append(Replica("llama-0", ready=False, terminating=True))
        for name, ended in self._ended:
            if second < ended + self.scene.linger_seconds:
                found.append(Replica(name, ready=False, terminating=True))
        return found

    def pages(self, second: int, now: float) -> Pages:
        """Read the page of every replica that is listed."""
        scene = self.scene
        frozen = scene.fault(Hits.GAUGES, second)
        moved = second if frozen is None else frozen.since
        ready = scene.replicas if frozen else self.ready(second)
        pages = {}
        for replica in self.listed(second):
            requests: float | None = scene.requests(moved) / ready if replica.ready else None
            if replica.terminating and isinstance(scene.leaving, Load):
                requests = scene.leaving.requests
            pages[replica.name] = self._page(requests, second, moved, now)
        broken = scene.fault(Hits.PAGES, second)
        if broken is not None:
            pages = {name: (engines.missing(broken.reason), None) for name in pages}
        first = scene.fault(Hits.PAGE, second)
        if first is not None and pages:
            pages[min(pages)] = engines.missing(first.reason), None
        return pages

    def _page(
        self, requests: float | None, second: int, moved: int, now: float
    ) -> tuple[Readings, Engine | None]:
        """Give what a page says; with no requests at all, not even 0, nobody serves it yet."""
        if requests is None:
            return engines.missing(_LOADING), None
        series = 2
        if self.scene.fault(Hits.SERIES, second):
            requests, series = 0.0, 1  # those of the engine that is left
        if self.scene.fault(Hits.OLD, second):
            requests, now = 0.0, now - 600.0
        readings = {
            Signal.QUEUE_DEPTH: Value(requests, now, series),
            Signal.CONCURRENCY: Value(requests + (requests > 0), now, series),
        }
        return readings, Engine("vllm", reserves_memory=True, progress=float(moved))

    def reports(self, second: int, began: int, now: float) -> Tally | Missing:
        """Read what is reported to a scaler that has kept reports since `began`: all that wait, and
        one that runs where one can.
        """
        fault = self.scene.fault(Hits.PAGES, second)
        if fault is not None:
            return Missing(fault.reason)
        statements = {"gateway": Statement(0, 0, math.inf)}
        stated_at = self.scene.stated_at or (second,)
        if any(began <= at <= second for at in stated_at):
            waiting = self.scene.requests(second)
            running = int(waiting > 0 and self.ready(second) > 0)
            statements["batch"] = Statement(waiting, running, math.inf)
        return tally(Kept(statements, now, now - (second - began)), now)

    def demand(self, second: int, now: float) -> Demand | Missing:
        """Read the gateway."""
        scene = self.scene
        fault = scene.fault(Hits.GATEWAY, second)
        if fault is not None:
            return Missing(fault.reason)
        reset = scene.counter_reset
        is_reset = reset is not None and second >= reset
        since, base = (reset or 0, 0.0) if is_reset else (-1, 1000.0)
        counted = {_SERIES: base + sum(since < arrival <= second for arrival in scene.arrivals)}
        arrived, self._counted = rose(self._counted, counted), counted
        requests = float(scene.requests(second)) if scene.gauges else 0.0
        return Demand(0.0 if self.ready(second) else requests, requests, arrived, now)

    def forget(self) -> None:
        """Let the next reading of the gateway's counters be a first one."""
        self._counted = None

    def _running(self, second: int) -> list[Replica]:
        scheduled, loaded = self.scene.schedule_seconds, self.scene.load_seconds
        return [
            Replica(pod.name, ready=second >= pod.born + scheduled + loaded)
            for pod in self._pods
            if second >= pod.born + scheduled
        ]


def _listed_twice(replicas: Sequence[Replica]) -> list[Replica]:
    """Give what is made of slices of both families, of which those of IPv6 name no pods."""
    slices = []
    for family, address in (("IPv4", "10.0.0.{}"), ("IPv6", "fd00::{}")):
        endpoints = [
            {"addresses": [address.format(number)], "conditions": {"ready": replica.ready}}
            | ({"targetRef": {"kind": "Pod", "name": replica.name}} if family == "IPv4" else {})
            for number, replica in enumerate(replicas, 1)
        ]
        metadata = {"name": family, "labels": {"kubernetes.io/service-name": "llama"}}
        raw = {"metadata": metadata, "addressType": family, "endpoints": endpoints}
        slices.append(parse_slice({**raw, "ports": [{"name": "http", "port": 8000}]}))
    found = resolve("llama", [each for each in slices if each is not None], None, "/metrics")
    assert not isinstance(found, Missing)
    return [endpoint.replica for endpoint in found]
