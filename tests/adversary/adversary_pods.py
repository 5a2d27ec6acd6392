"""Pods, and the controllers that make and end them: a Deployment, a StatefulSet, a LeaderWorkerSet.

Rules of Kubernetes, as far as they matter to who reads its lists: what is ended stays listed for a
while, a rolling update goes on only as far as `maxSurge` and `maxUnavailable` (or the order of
names) allow, and a version that never becomes ready stops it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

UP_SECONDS, DOWN_SECONDS = 20.0, 40.0
"""How long a pod that crashes serves, and how long it is away."""


class Fate(StrEnum):
    """What becomes of the pods of a version."""

    GOOD = "becomes ready after its cold start"
    SLOW = "takes five cold starts"
    NEVER = "is listed and never becomes ready"
    PENDING = "is never even scheduled"
    CRASHES = "becomes ready, and crashes again and again"


class Role(StrEnum):
    """What a pod does."""

    SERVER = "serves, and has a page"
    WORKER = "helps a server, is ready, and has no page"


@dataclass(slots=True, eq=False)
class Pod:
    """One pod. Times are seconds of the world's clock."""

    name: str
    number: int
    """Counts all pods that there were; faults hit some of them by it."""

    version: int
    fate: Fate
    role: Role
    listed_at: float
    """When it has an address."""

    ready_at: float
    """When it is ready, and answers; infinite: never."""

    leaving_at: float = math.inf
    gone_at: float = math.inf
    served: float = 0.0
    """The counter of its engine."""

    was_busy: bool = False
    """Whether it had requests when it was looked at last."""

    def is_up(self, now: float) -> bool:
        """Whether its process serves."""
        if now < self.ready_at:
            return False
        cycle = (now - self.ready_at) % (UP_SECONDS + DOWN_SECONDS)
        return self.fate is not Fate.CRASHES or cycle < UP_SECONDS

    def is_ready(self, now: float) -> bool:
        """Whether it takes new requests."""
        return now < self.leaving_at and self.is_up(now)

    def changes(self, now: float) -> Iterator[float]:
        """Give the times at which it changes by itself."""
        yield from (self.listed_at, self.ready_at, self.gone_at)
        if self.fate is Fate.CRASHES and now >= self.ready_at:
            cycle = (now - self.ready_at) % (UP_SECONDS + DOWN_SECONDS)
            yield now - cycle + UP_SECONDS
            yield now - cycle + UP_SECONDS + DOWN_SECONDS


@dataclass(frozen=True, slots=True)
class Pace:
    """How long things take, in seconds."""

    schedule: float = 5.0
    """Until a new pod has an address."""

    load: float = 60.0
    """From then until it is ready."""

    linger: float = 10.0
    """How long a pod that is ended stays."""


class Workload(Protocol):
    """What is scaled."""

    pods: list[Pod]
    wanted: int
    version: int

    def step(self, now: float) -> None:
        """Let the controller act; call it again when something has changed."""

    def roll_out(self, fate: Fate) -> None:
        """Begin a rolling update."""

    def created(self) -> int:
        """Give `status.replicas`."""

    def ready(self, now: float) -> int:
        """Count the replicas that are ready."""


class _Base:
    """What all of them share."""

    def __init__(self, wanted: int, pace: Pace) -> None:
        self.wanted = wanted
        self.pods: list[Pod] = []
        self.version = 0
        self._fates = [Fate.GOOD]
        self._pace = pace
        self._made = 0

    def roll_out(self, fate: Fate) -> None:
        """See `Workload.roll_out`."""
        self._fates.append(fate)
        self.version += 1

    def created(self) -> int:
        """See `Workload.created`."""
        return sum(math.isinf(pod.leaving_at) for pod in self.pods)

    def ready(self, now: float) -> int:
        """See `Workload.ready`."""
        return sum(pod.is_ready(now) for pod in self.pods)

    def settle(self, now: float) -> None:
        """Have all of them there and ready."""
        for _ in range(3 * self.wanted):
            self._reconcile(now)
            for pod in self.pods:
                pod.listed_at = pod.ready_at = now

    def step(self, now: float) -> None:
        """See `Workload.step`."""
        if any(pod.gone_at <= now for pod in self.pods):
            self.pods = [pod for pod in self.pods if now < pod.gone_at]
        self._reconcile(now)

    def _reconcile(self, now: float) -> None:
        raise NotImplementedError

    def _make(self, now: float, name: str | None = None, role: Role = Role.SERVER) -> Pod:
        self._made += 1
        fate, pace = self._fates[self.version], self._pace
        listed_at = math.inf if fate is Fate.PENDING else now + pace.schedule
        load = pace.load * (5 if fate is Fate.SLOW else 1)
        ready_at = math.inf if fate is Fate.NEVER else listed_at + load
        pod = Pod(
            name or f"m-{self._made}", self._made, self.version, fate, role, listed_at, ready_at
        )
        self.pods.append(pod)
        return pod

    def _end(self, pod: Pod, now: float) -> None:
        pod.leaving_at = now
        # What never had an address is gone at once.
        pod.gone_at = now + (self._pace.linger if pod.listed_at <= now else 0.5)


class Deployment(_Base):
    """Pods in any order; a new version beside the old."""

    def __init__(self, wanted: int, pace: Pace, *, surge: int = 1, unavailable: int = 0) -> None:
        super().__init__(wanted, pace)
        self._surge = surge
        self._unavailable = 0 if surge and not unavailable else max(1, unavailable)

    def _reconcile(self, now: float) -> None:
        alive = [pod for pod in self.pods if math.isinf(pod.leaving_at)]
        new = [pod for pod in alive if pod.version == self.version]
        old = [pod for pod in alive if pod.version != self.version]
        room = self.wanted + (self._surge if old else 0) - len(alive)
        new += [self._make(now) for _ in range(min(self.wanted - len(new), room))]
        for pod in self._surplus(new, len(new) - self.wanted, now):
            new.remove(pod)
            self._end(pod, now)
        if not old:
            return
        least = self.wanted - self._unavailable
        spare = len(old) + len(new) - least - sum(not pod.is_ready(now) for pod in new)
        broken = [pod for pod in old if not pod.is_ready(now)][: max(0, spare)]
        ready = sum(pod.is_ready(now) for pod in (*old, *new))
        whole = [pod for pod in old if pod.is_ready(now)][: max(0, ready - least)]
        for pod in (*broken, *whole):
            self._end(pod, now)

    @staticmethod
    def _surplus(pods: Sequence[Pod], count: int, now: float) -> list[Pod]:
        """Choose whom to end: first who is not ready, then the newest."""
        ranked = sorted(pods, key=lambda pod: (pod.is_ready(now), -pod.number))
        return ranked[: max(0, count)]


class StatefulSet(_Base):
    """Pods by number, one after the other; those of a new version take the names of the old."""

    size = 1
    """Pods of a replica; all but the first are workers."""

    def created(self) -> int:
        """See `Workload.created`."""
        return sum(any(math.isinf(p.leaving_at) for p in group) for group in self._groups())

    def ready(self, now: float) -> int:
        """See `Workload.ready`."""
        return sum(self._is_ready(group, now) for group in self._groups())

    def _groups(self) -> list[list[Pod]]:
        groups: dict[str, list[Pod]] = {}
        for pod in self.pods:
            groups.setdefault(pod.name.split(".")[0], []).append(pod)
        return [groups[name] for name in sorted(groups, key=lambda name: int(name[2:]))]

    def _is_ready(self, group: Sequence[Pod], now: float) -> bool:
        return len(group) == self.size and all(pod.is_ready(now) for pod in group)

    def _reconcile(self, now: float) -> None:
        groups = {group[0].name.split(".")[0]: group for group in self._groups()}
        for group in groups.values():
            broken = len(group) < self.size and all(math.isinf(pod.leaving_at) for pod in group)
            for pod in group if broken else ():
                self._end(pod, now)
        for ordinal in range(self.wanted):
            here = groups.get(f"m-{ordinal}")
            if here is None:
                self._make_group(now, f"m-{ordinal}")
                return
            if not self._is_ready(here, now) and self._waits(here, now):
                return
        for group in reversed(groups.values()):
            is_old = group[0].version != self.version
            is_surplus = int(group[0].name.split(".")[0][2:]) >= self.wanted
            if is_old or is_surplus:
                for pod in group:
                    if math.isinf(pod.leaving_at):
                        self._end(pod, now)
                return

    def _waits(self, group: Sequence[Pod], now: float) -> bool:
        """Whether nothing else is done before this one is ready."""
        return True

    def _make_group(self, now: float, name: str) -> None:
        self._make(now, name)
        for worker in range(1, self.size):
            self._make(now, f"{name}.{worker}", Role.WORKER)


class LeaderWorkerSet(StatefulSet):
    """Groups of two: a leader that has a page, and a worker that is ready and has none.

    Groups are made all at once, and updated one after the other.
    """

    size = 2

    def _reconcile(self, now: float) -> None:
        names = {pod.name.split(".")[0] for pod in self.pods}
        for ordinal in range(self.wanted):
            if f"m-{ordinal}" not in names:
                self._make_group(now, f"m-{ordinal}")
        super()._reconcile(now)
