"""Plans: all that happens in a world, decided before it begins."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, NamedTuple

from adversary_pods import Deployment, Fate, LeaderWorkerSet, Pace, StatefulSet
from keda_scaler.core.signals import Signal
from keda_scaler.core.trigger import Accepts, Trigger, parse_trigger
from keda_scaler.keda.behavior import DEFAULT_UP, Behavior, Policy, Rules


class Work(NamedTuple):
    """Requests, and the share of KV caches that they take."""

    waiting: int = 0
    running: int = 0
    kv: float = 0.0

    def of(self, signal: Signal) -> float:
        """Give it as a signal has it."""
        if signal is Signal.QUEUE_DEPTH:
            return self.waiting
        return self.waiting + self.running if signal is Signal.CONCURRENCY else self.kv

    @property
    def requests(self) -> int:
        """All of them."""
        return self.waiting + self.running


NOTHING = Work()


class Hit(StrEnum):
    """What an event does, or takes away while it lasts."""

    REFUSE = "pages refuse"
    HANG = "pages hang"
    ERROR = "pages answer 500"
    PART = "pages lack a family"
    UNLISTED = "the list cannot be read"
    HALF_OPEN = "the watch is half-open: the list stands still, and is not confirmed"
    LAG = "the list is 10 s late"
    PROMETHEUS = "Prometheus is away"
    AGENT = "nobody scrapes the pods; Prometheus has other targets"
    DISK = "Prometheus has lost its disk, and does not scrape the pods yet"
    FAMILIES = "pages have families of other names"
    GATEWAY = "the gateway is away"
    SCALER = "the scaler is away, and begins anew"
    KEDA = "KEDA is away"
    API = "the API server is away"
    ROLLOUT = "a new version is rolled out"
    KILL = "pods are killed"
    RESTART = "engines restart in their pods"


EPOCH = 100_000.0
"""What the clock shows when a world begins; any number will do."""

LAG_SECONDS = 10.0
PAGE_HITS = (Hit.REFUSE, Hit.HANG, Hit.ERROR, Hit.PART)
LIST_HITS = frozenset({Hit.UNLISTED, Hit.HALF_OPEN, Hit.LAG})
"""Those that only `service` hears of."""
PROMETHEUS_HITS = frozenset({Hit.PROMETHEUS, Hit.AGENT, Hit.DISK, Hit.FAMILIES})
"""Those that only `prometheus` hears of."""
MOMENTS = frozenset({Hit.ROLLOUT, Hit.KILL, Hit.RESTART})
"""Those that do not last."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something goes wrong."""

    hit: Hit
    since: float
    until: float = 0.0
    which: int | None = None
    """Of three pods in a row, the one that is hit; None: all."""

    fate: Fate = Fate.GOOD
    """Of the pods of a new version."""

    def __str__(self) -> str:
        """Say it in a line."""
        whom = "" if self.which is None else f" (every third, {self.which})"
        how = f": {self.fate}" if self.hit is Hit.ROLLOUT else ""
        until = f" to {self.until:g}" if self.until else ""
        return f"{self.since:g}{until}: {self.hit}{whom}{how}"


AT_ONCE = Behavior(Rules(DEFAULT_UP.policies), Rules((Policy("Percent", 100, 15),)))
"""An HPA that waits for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A world from its beginning to its end. Times are seconds since the beginning."""

    seconds: float
    replicas: int
    """How many are there and ready when it begins."""

    phases: tuple[tuple[float, Work], ...]
    """From when on there is how much work."""

    events: tuple[Event, ...] = ()
    keys: Mapping[str, str] = field(default_factory=dict)
    """Trigger keys, beside `service` or `prometheus`."""

    scraped_every: float | None = None
    """How often a Prometheus scrapes, in seconds, if that is what is read; None: the pages are."""

    kind: Literal["Deployment", "StatefulSet", "LeaderWorkerSet"] = "Deployment"
    pace: Pace = field(default_factory=Pace)
    surge: int = 1
    unavailable: int = 0
    routing: Literal["even", "first", "uneven"] = "even"
    """How requests are spread over replicas."""

    gateway: Literal["held", "in-flight"] | None = None
    """What stands in front and tells of requests: those that no replica has, or all."""

    drains: bool = True
    """Whether a pod that is ended goes on with what it has, and answers."""

    apart: bool = False
    """Whether pages are read one after the other, instead of all at once."""

    race: bool = False
    """Whether every poll of KEDA that gets an error takes it for "inactive, no error"."""

    minimum: int = 0
    maximum: int = 24
    cooldown: int = 300
    at_once: bool = False
    """Whether the HPA's `behavior` is `AT_ONCE`; else it has none."""

    @property
    def trigger(self) -> Trigger:
        """The trigger as KEDA would send it."""
        wake = {"wakeFrom": "epp", "wakeService": "epp"} if self.gateway else {}
        if self.scraped_every is None:
            return parse_trigger({"service": "m", **wake, **self.keys}, Accepts())
        read = {"prometheus": "main", "engine": "vllm"}
        return parse_trigger({**read, **wake, **self.keys}, Accepts(frozenset({"main"})))

    def workload(self) -> Deployment | StatefulSet:
        """Make what is scaled, at rest."""
        made: Deployment | StatefulSet
        if self.kind == "Deployment":
            made = Deployment(
                self.replicas, self.pace, surge=self.surge, unavailable=self.unavailable
            )
        elif self.kind == "StatefulSet":
            made = StatefulSet(self.replicas, self.pace)
        else:
            made = LeaderWorkerSet(self.replicas, self.pace)
        made.settle(0.0)
        return made

    def lines(self) -> list[str]:
        """Tell it to people."""
        front = f", behind a gateway that tells of requests {self.gateway}" if self.gateway else ""
        loads = "; ".join(
            f"{since:g}: {work.waiting} wait, {work.running} run, {work.kv:g} of KV"
            for since, work in self.phases
        )
        polls = "one after the other" if self.apart else "at once"
        if self.scraped_every is not None:
            polls = f"by a Prometheus, every {self.scraped_every:g} s"
        hpa = "acts at once" if self.at_once else "has no behavior"
        return [
            (
                f"{self.kind} of {self.replicas}{front}, {self.pace}, surge {self.surge}, "
                f"unavailable {self.unavailable}, drains {self.drains}, routing {self.routing}"
            ),
            (
                f"keys {dict(self.keys)}, pages are read {polls}, race {self.race}, "
                f"cooldown {self.cooldown}, from {self.minimum} to {self.maximum}, the HPA {hpa}"
            ),
            f"work {loads}",
            *map(str, self.events),
        ]

    def next_change(self, now: float) -> float:
        """Say when something begins or ends next."""
        times = (
            *(since for since, _ in self.phases),
            *(event.since for event in self.events),
            *(event.until for event in self.events),
        )
        return min((time for time in times if time > now), default=math.inf)
