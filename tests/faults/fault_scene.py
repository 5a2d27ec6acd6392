"""What a scene of the fault table is made of: times, loads and faults."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from keda_scaler.core.addresses import AddressRules
from keda_scaler.core.trigger import Accepts, Trigger, parse_trigger

METADATA = {"service": "llama", "targetQueueDepth": "5"}
THROUGH_PROMETHEUS = {"prometheus": "main", "engine": "vllm"}
"""Trigger keys in the place of `service`."""


class Hits(StrEnum):
    """What a fault takes away."""

    PAGES = "the page of every replica, or the reports"
    PAGE = "the page of the first replica"
    LIST = "the list of replicas; pages that are known are read on"
    SOURCE = "the list of replicas and all readings, as a Prometheus that is away does"
    WATCH = "what confirms the list; nobody says so, and pages are read on"
    TWICE = "nothing, but every pod is listed at an address of either family, one of them bare"
    SERIES = "one of the two series of every page"
    OLD = "nothing, but a cache gives every page as it was ten minutes ago"
    GATEWAY = "the wake source"
    GAUGES = "nothing, but gauges and counters of the engine stand still"
    ENDPOINTS = "nothing, but the list names no replica although some run"
    FAMILIES = "the families that the trigger knows: pages have others, and Prometheus scrapes them"
    SCRAPES = "whoever scrapes the replicas; Prometheus has other targets that are scraped"
    DISK = "all that Prometheus knew: it has scraped no replica yet since it came back"
    SCALER = "the scaler: it is not there, and begins anew"
    STREAM = "the stream that KEDA keeps open"
    WALL = "nothing, but the clock on the wall is a day ahead"


@dataclass(frozen=True, slots=True)
class Fault:
    """Something is wrong for a while."""

    hits: Hits
    since: int
    until: int
    reason: str = ""
    """What the source says of it."""

    def holds(self, second: int) -> bool:
        """Whether it is there now."""
        return self.since <= second < self.until


@dataclass(frozen=True, slots=True)
class Load:
    """Requests that wait, spread over the replicas that are ready, else at the gateway."""

    since: int
    until: int
    requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What happens when, in seconds from its beginning."""

    seconds: int
    """How long it lasts."""

    replicas: int
    """How many are there and ready when it begins."""

    load: tuple[Load, ...] = ()
    faults: tuple[Fault, ...] = ()
    keys: Mapping[str, str] = field(default_factory=dict)
    """Trigger keys beside `METADATA`."""

    arrivals: tuple[int, ...] = ()
    """When a counter of the gateway rises by one request."""

    gauges: bool = True
    """Whether the gateway says how many requests it has, not only how many came."""

    counter_reset: int | None = None
    """When the gateway begins to count anew."""

    stated_at: tuple[int, ...] = ()
    """When a batch states what waits, beside a gateway that reports zero; empty: all the time."""

    leaving: Load | None = None
    """A terminating replica, and the requests that it still works on."""

    linger_seconds: int = 0
    """How long a pod that was ended stays listed, without answering."""

    schedule_seconds: int = 5
    """Until a new pod is listed."""

    load_seconds: int = 60
    """Until a listed pod is ready."""

    def requests(self, second: int) -> int:
        """Give the requests that really are there, those of a terminating replica aside."""
        return sum(load.requests for load in self.load if load.since <= second < load.until)

    def works(self, second: int) -> bool:
        """Whether there is work, whatever anybody can see of it."""
        return self.requests(second) > 0 or self.is_leaving(second)

    def is_leaving(self, second: int) -> bool:
        """Whether the terminating replica is there and works."""
        return self.leaving is not None and self.leaving.since <= second < self.leaving.until

    def fault(self, hits: Hits, second: int) -> Fault | None:
        """Find the fault that takes this away now."""
        return next((f for f in self.faults if f.hits is hits and f.holds(second)), None)

    @property
    def trigger(self) -> Trigger:
        """The trigger as KEDA would send it."""
        given = {**METADATA, **self.keys}
        if given.get("engine") == "reports" or {"prometheus", "endpoints"} & given.keys():
            del given["service"]
        allowed = AddressRules.parse(["llama", "10.0.0.0/8"])
        return parse_trigger(given, Accepts(frozenset({"main"}), allowed, reports=True))
