"""The world as it is: pods, requests and who has them, and what pages and lists would say."""

import math
from collections import deque
from collections.abc import Mapping

from adversary_plan import EPOCH, LAG_SECONDS, NOTHING, PAGE_HITS, Event, Hit, Plan, Work
from adversary_pods import Pod, Role
from keda_scaler import engines
from keda_scaler.core.readings import Demand, Engine, Missing, Reading, Readings, Replica, Value
from keda_scaler.core.signals import Signal

Answer = tuple[Readings, Engine | None]

_SHARES = (5, 1, 2)
"""How uneven routing spreads requests over three pods in a row."""


class World:
    """What is true at one instant. `step` moves it on."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.workload = plan.workload()
        self.total = NOTHING
        self.loads: dict[Pod, Work] = {}
        """What each pod has that takes new requests."""
        self.kept: dict[Pod, Work] = {}
        """What pods still have that are ended."""
        self.held = 0
        """Requests that wait at the gateway."""
        self.active: list[Event] = []
        """What is wrong now."""
        self._done: set[Event] = set()
        self._lists: deque[tuple[float, tuple[Replica, ...]]] = deque(maxlen=200)

    def step(self, now: float) -> None:
        """Move on to `now`."""
        plan, workload = self.plan, self.workload
        self.total = next(
            (work for since, work in reversed(plan.phases) if since <= now), plan.phases[0][1]
        )
        self.active = [event for event in plan.events if event.since <= now < event.until]
        for event in plan.events:
            if not event.until and event.since <= now and event not in self._done:
                self._done.add(event)
                self._strike(event, now)
        if self.find(Hit.API) is None:
            for _ in range(3):
                workload.step(now)
        else:
            workload.pods = [pod for pod in workload.pods if now < pod.gone_at]
        self._spread(now)

    def find(self, hit: Hit, pod: Pod | None = None) -> Event | None:
        """Find what is wrong now in this way, with a pod or at all."""
        for event in self.active:
            hits = event.which is None or pod is None or pod.number % 3 == event.which
            if event.hit is hit and hits:
                return event
        return None

    def next_change(self, now: float) -> float:
        """Say when the world changes next by itself."""
        times = [self.plan.next_change(now)]
        for pod in self.workload.pods:
            times += [at for at in pod.changes(now) if at > now]
        return min(times)

    @property
    def pods(self) -> Mapping[str, Pod]:
        """All pods, by name; of two the newest."""
        return {pod.name: pod for pod in self.workload.pods}

    def listing(self, now: float) -> tuple[Replica, ...]:
        """Give what the API server would list now."""
        found = tuple(
            Replica(pod.name, ready=pod.is_ready(now), terminating=pod.leaving_at <= now)
            for pod in sorted(self.workload.pods, key=lambda pod: pod.name)
            if pod.listed_at <= now and (now < pod.leaving_at or self.plan.drains)
        )
        self._lists.append((now, found))
        if self.find(Hit.LAG) is None:
            return found
        late = [known for at, known in self._lists if at <= now - LAG_SECONDS]
        return late[-1] if late else self._lists[0][1]

    def page(self, pod: Pod | None, now: float) -> Answer | None:
        """Give what a page says; None: it hangs."""
        if pod is None or pod.role is Role.WORKER or not pod.is_up(now) or now >= pod.gone_at:
            return engines.missing("cannot connect: refused"), None
        if now >= pod.leaving_at and not self.plan.drains:
            return engines.missing("cannot connect: refused"), None
        wrong = next((event.hit for event in self.active if self._is_hit(event, pod)), None)
        if wrong is Hit.HANG:
            return None
        if wrong in {Hit.REFUSE, Hit.ERROR}:
            return engines.missing(str(wrong)), None
        work = self.loads.get(pod) or self.kept.get(pod, NOTHING)
        if work.requests or pod.was_busy:
            pod.served += 1
        pod.was_busy = work.requests > 0
        at = EPOCH + now
        readings: dict[Signal, Reading] = {
            Signal.QUEUE_DEPTH: Value(float(work.waiting), at),
            Signal.CONCURRENCY: Value(float(work.requests), at),
            Signal.GPU_MEMORY_PRESSURE: Value(work.kv, at),
        }
        if wrong is Hit.PART:
            readings[Signal.CONCURRENCY] = readings[Signal.QUEUE_DEPTH] = Missing("no series")
        return readings, Engine("vllm", reserves_memory=True, served=pod.served, progress=now)

    def demand(self, now: float) -> Demand | Missing:
        """Give what the gateway says."""
        if self.find(Hit.GATEWAY) is not None:
            return Missing("cannot connect")
        in_flight = self.total.requests if self.plan.gateway == "in-flight" else self.held
        return Demand(
            float(self.held), float(max(self.held, in_flight)), arrived=False, at=EPOCH + now
        )

    def _is_hit(self, event: Event, pod: Pod) -> bool:
        hits = event.which is None or pod.number % 3 == event.which
        return event.hit in PAGE_HITS and hits

    def _strike(self, event: Event, now: float) -> None:
        if event.hit is Hit.ROLLOUT:
            self.workload.roll_out(event.fate)
            return
        for pod in self.workload.pods:
            if event.which is not None and pod.number % 3 != event.which:
                continue
            if event.hit is Hit.KILL:
                pod.leaving_at, pod.gone_at = min(pod.leaving_at, now), now
            elif pod.ready_at < now < pod.leaving_at:
                pod.ready_at, pod.served = now + self.plan.pace.load, 0.0

    def _spread(self, now: float) -> None:
        """Give every request to a pod, else to the gateway, else to nobody."""
        before = self.loads
        servers = [
            pod
            for pod in self.workload.pods
            if pod.role is Role.SERVER and pod.is_ready(now) and self._has_workers(pod, now)
        ]
        self.loads = _spread(self.total, sorted(servers, key=_by_number), self.plan.routing)
        pods = set(self.workload.pods)
        kept = {**self.kept, **{pod: work for pod, work in before.items() if work.requests}}
        self.kept = {
            pod: work
            for pod, work in kept.items()
            if pod in pods and pod.leaving_at <= now and self.plan.drains and pod.is_up(now)
        }
        is_held = self.plan.gateway is not None and not servers
        self.held = self.total.requests if is_held else 0

    def _has_workers(self, pod: Pod, now: float) -> bool:
        workers = [each for each in self.workload.pods if each.name == f"{pod.name}.1"]
        return all(worker.is_ready(now) for worker in workers)


def _by_number(pod: Pod) -> int:
    return pod.number


def _spread(total: Work, pods: list[Pod], routing: str) -> dict[Pod, Work]:
    if not pods:
        return {}
    if routing == "first":
        shares = [1, *([0] * (len(pods) - 1))]
    elif routing == "uneven":
        shares = [_SHARES[pod.number % 3] for pod in pods]
    else:
        shares = [1] * len(pods)
    waiting, running = _parts(total.waiting, shares), _parts(total.running, shares)
    whole = sum(shares)
    caches = [min(1.0, total.kv * share / whole) for share in shares]
    each = zip(pods, waiting, running, caches, strict=True)
    return {pod: Work(waits, runs, kv) for pod, waits, runs, kv in each}


def _parts(count: int, shares: list[int]) -> list[int]:
    """Split a number into whole parts."""
    whole, parts, done, given = sum(shares), [], 0, 0
    for share in shares:
        done += share
        upto = math.floor(count * done / whole)
        parts.append(upto - given)
        given = upto
    return parts
