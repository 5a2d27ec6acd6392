"""A stand-in for a Deployment and its Service: pods that load, serve and end.

A pod is listed from the beginning, not ready, at a port that refuses connections until its engine
is up. One that ends is listed as terminating while it serves what it has, and then no more.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from keda_scaler.demo.plan import NAMESPACE, SERVICE, StackPlan
from keda_scaler.sim.kubernetes import SimulatedCluster, SimulatedEndpoint
from keda_scaler.sim.server import SimulatedEngine

HOST = "127.0.0.1"


class Phase(StrEnum):
    """What a pod is doing."""

    LOADING = "loading"
    READY = "ready"
    TERMINATING = "terminating"


@dataclass(slots=True, eq=False)
class Pod:
    """One replica."""

    name: str
    engine: SimulatedEngine
    """Its server is up from READY on."""

    reserved: socket.socket
    """Keeps the engine's port until it is up. It does not listen, so that connections fail."""

    phase: Phase = Phase.LOADING
    is_up: bool = False
    """Whether its engine serves."""

    under_way: int = 0
    """Requests that the gateway gave it and that it has not answered."""

    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when there is reason to look at the two above again."""

    def finish_one(self) -> None:
        """Say that a request was answered."""
        self.under_way -= 1
        self.changed.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds of it."""
        while not holds():
            self.changed.clear()
            await self.changed.wait()

    def to_endpoint(self) -> SimulatedEndpoint:
        """Describe it as the Service lists it."""
        return SimulatedEndpoint(
            HOST,
            self.name,
            self.engine.port,
            ready=self.phase is Phase.READY,
            serving=self.is_up,
            terminating=self.phase is Phase.TERMINATING,
        )


class Deployment:
    """As many pods as were last asked for. Pods live in the task group given."""

    def __init__(
        self,
        plan: StackPlan,
        cluster: SimulatedCluster,
        group: asyncio.TaskGroup,
        tell: Callable[[str], None],
    ) -> None:
        self.pods: list[Pod] = []
        """All that exist, the oldest first."""
        self.peak = 0
        """The most that were ready at once."""
        self.on_ready: Callable[[], None] = lambda: None
        """Called when a pod has become ready."""
        self._plan = plan
        self._cluster = cluster
        self._group = group
        self._tell = tell
        self._count = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._publish()

    @property
    def created(self) -> int:
        """`status.replicas`: pods that are not about to end."""
        return sum(pod.phase is not Phase.TERMINATING for pod in self.pods)

    def ready(self) -> list[Pod]:
        """Give the pods that take requests."""
        return [pod for pod in self.pods if pod.phase is Phase.READY]

    def scale(self, count: int) -> None:
        """Start or end pods until there are so many."""
        for _ in range(count - self.created):
            self._start()
        # As a ReplicaSet chooses: those that are not ready first, then the newest.
        kept = [pod for pod in self.pods if pod.phase is not Phase.TERMINATING]
        kept.sort(key=lambda pod: pod.phase is Phase.LOADING)
        for pod in kept[count:]:
            pod.phase = Phase.TERMINATING
            pod.changed.set()
            self._tell(f"{pod.name} terminates")
        self._publish()

    def stop(self) -> None:
        """End all pods at once, and say no more."""
        self._tell = lambda _: None
        for task in self._tasks:
            task.cancel()

    def _start(self) -> None:
        reserved = socket.socket()
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind((HOST, 0))
        self._count += 1
        engine = SimulatedEngine(self._plan.model, host=HOST, port=reserved.getsockname()[1])
        pod = Pod(f"{SERVICE}-{self._count}", engine, reserved)
        self.pods.append(pod)
        task = self._group.create_task(self._live(pod), name=pod.name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._tell(f"{pod.name} loads its model")

    async def _live(self, pod: Pod) -> None:
        try:
            await self._load(pod)
            pod.reserved.close()
            if pod.phase is Phase.LOADING:
                async with pod.engine:
                    await self._serve(pod)
                    self._remove(pod)  # before its server goes
        finally:
            pod.reserved.close()
            self._remove(pod)

    async def _load(self, pod: Pod) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._plan.load_seconds):
                await pod.until(lambda: pod.phase is Phase.TERMINATING)

    async def _serve(self, pod: Pod) -> None:
        pod.is_up = True
        if pod.phase is Phase.LOADING:  # it may have been told to end just now
            pod.phase = Phase.READY
            self.peak = max(self.peak, len(self.ready()))
            self._publish()
            self._tell(f"{pod.name} is ready")
            self.on_ready()
        await pod.until(lambda: pod.phase is Phase.TERMINATING)
        await asyncio.sleep(self._plan.stop_seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._plan.grace_seconds):
                await pod.until(lambda: not pod.under_way)

    def _remove(self, pod: Pod) -> None:
        if pod in self.pods:
            self.pods.remove(pod)
            self._tell(f"{pod.name} is gone")
            self._publish()

    def _publish(self) -> None:
        endpoints = [pod.to_endpoint() for pod in self.pods]
        self._cluster.put_service(NAMESPACE, SERVICE, endpoints)
