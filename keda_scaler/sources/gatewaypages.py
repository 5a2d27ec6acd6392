"""Gateways read directly: what each pod behind a Service said last, added up for one target.

Rules
1. One request at one pod is enough, whatever the others say.
2. That there is none is proven by all listed pods together, and only as of the oldest of what they
   said. A gateway that lists no pods proves nothing.
3. A pod that does not answer repeats what it said before, until that is stale; but never again that
   requests have arrived.
4. Counters are compared page by page. The first reading of a page is compared with nothing. A page
   that could not be read keeps what the one before said, so that requests meanwhile show later.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Self

from msgspec.structs import replace

from keda_scaler.core.addresses import AddressRules
from keda_scaler.core.readings import Demand, Missing
from keda_scaler.core.trigger import Trigger
from keda_scaler.core.waking import is_demanded
from keda_scaler.engines.samples import Sample
from keda_scaler.errors import SourceError
from keda_scaler.gateways.counters import Series, combine, rose
from keda_scaler.gateways.gateway import Gateway, Scope
from keda_scaler.sources.kubernetes import Listing
from keda_scaler.sources.pages import Pages
from keda_scaler.sources.polls import Follower, Polls
from keda_scaler.sources.sink import Clock, Recorder, WakeSink

Page = tuple[Sample, ...]


class GatewayPages:
    """Pages of gateways, each read once for all targets behind it."""

    def __init__(self, rules: AddressRules, record: Recorder, clock: Clock) -> None:
        self.clock = clock
        self._pages = Pages(rules, clock)
        self._polls: Polls[Page] = Polls(record, clock)

    def follow(
        self, gateway: Gateway, pod: str, url: str, follower: Follower[Page]
    ) -> AbstractContextManager[None]:
        """Tell the follower what a page says, while inside."""

        async def read() -> Page:
            page = await self._pages.fetch(url)
            return gateway.page(page.body, page.content_type, page.at, page.dated)

        what = f"{gateway.title} {pod}"
        return self._polls.follow((gateway.name, url), what, read, follower)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._polls.aclose()
        await self._pages.close()


@dataclass(slots=True)
class _Pod:
    """What one pod said to one target."""

    url: str
    leave: ExitStack
    """Ends the reading of its page."""

    demand: Demand | None = None
    """None: it was never read."""

    counters: Mapping[Series, float] | None = None
    problem: str | None = None
    """Why the latest poll gave nothing; None: it did, or there was none."""


class Pods:
    """The pods of one target's gateway. A context manager: outside nothing is read."""

    def __init__(
        self, pages: GatewayPages, gateway: Gateway, scope: Scope, trigger: Trigger, sink: WakeSink
    ) -> None:
        self._pages = pages
        self._gateway = gateway
        self._scope = scope
        self._trigger = trigger
        self._sink = sink
        self._pods: dict[str, _Pod] = {}
        self._listed_at = 0.0
        self._problem: str | None = None
        """Why the pods are not known; None: they are."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._pods):
            self._pods.pop(name).leave.close()

    def listed(self, listing: Listing | Missing) -> None:
        """Read the pods that are listed, and no others."""
        if isinstance(listing, Missing):
            self._problem = listing.reason
        else:
            urls = {each.replica.name: each.url for each in listing.endpoints}
            self._problem = None if urls else f"{self._gateway.title} has no pods"
            self._listed_at = listing.at
            self._follow(urls)
        if self._problem is not None:  # else the pods have their say at their next poll
            self._say()

    def _follow(self, urls: Mapping[str, str]) -> None:
        for name, pod in list(self._pods.items()):
            if urls.get(name) != pod.url:
                self._pods.pop(name).leave.close()
        new = {name: _Pod(url, ExitStack()) for name, url in urls.items() if name not in self._pods}
        self._pods |= new  # before the first of them is heard of, which may be at once
        for name, pod in new.items():
            follower = Follower(self._sink, self._trigger.poll_seconds, self._hears(name, pod))
            pod.leave.enter_context(self._pages.follow(self._gateway, name, pod.url, follower))

    def _hears(self, name: str, pod: _Pod) -> Callable[[Page | SourceError], None]:
        def told(answer: Page | SourceError) -> None:
            if self._pods.get(name) is pod:
                self._take(pod, answer)
                self._say()

        return told

    def _take(self, pod: _Pod, answer: Page | SourceError) -> None:
        seen = (
            Missing(str(answer))
            if isinstance(answer, SourceError)
            else self._gateway.seen(answer, self._scope)
        )
        if isinstance(seen, Missing):
            pod.problem = seen.reason
            return
        arrived = rose(pod.counters, seen.counters)
        pod.demand = Demand(seen.held, seen.in_flight, arrived=arrived, at=seen.at)
        pod.counters, pod.problem = seen.counters, None

    def _say(self) -> None:
        """Tell the sink what all pods together say.

        While one is read for the first time, that is nothing, unless another has a request.
        """
        now, limit = self._pages.clock(), self._trigger.stale_after
        known = {
            name: pod.demand
            for name, pod in self._pods.items()
            if pod.demand is not None and now < pod.demand.at + limit
        }
        demand = combine(list(known.values()))
        if isinstance(demand, Demand) and is_demanded(self._trigger, demand):
            self._sink.demanded(demand)
        elif problem := self._problem or _problem(self._pods, known):
            self._sink.demanded(Missing(problem))
        elif isinstance(demand, Demand) and len(known) == len(self._pods):
            # A list that is no longer confirmed may lack a pod.
            proven_at = min(self._listed_at, *(each.at for each in known.values()))
            self._sink.demanded(replace(demand, at=proven_at))
        for pod in self._pods.values():
            if pod.demand is not None and pod.demand.arrived:
                pod.demand = replace(pod.demand, arrived=False)


def _problem(pods: Mapping[str, _Pod], known: Iterable[str]) -> str | None:
    """Say why a pod is unknown; None: none is, but perhaps one that is read for the first time."""
    for name, pod in pods.items():
        if name not in known and pod.problem is not None:
            return f"{name}: {pod.problem}"
    return None
