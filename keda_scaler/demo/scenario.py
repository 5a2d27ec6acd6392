"""One run of the demo: its requests, and what is watched until it is over."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

from keda_scaler.demo.autoscaler import Autoscaler
from keda_scaler.demo.deployment import Deployment
from keda_scaler.demo.gateway import Gateway
from keda_scaler.demo.journal import Change, Journal
from keda_scaler.demo.plan import Plan
from keda_scaler.demo.stack import cancel, running
from keda_scaler.demo.verdict import Outcome
from keda_scaler.keda.cluster import Step
from keda_scaler.sim.load import Arrivals, Burst, drive
from keda_scaler.sim.requests import Request

LOOK_SECONDS = 0.1
"""How often it is checked whether the demo is over."""

SAMPLE_SECONDS = 1.0
"""Between two points of the curves."""

_MAX_SAMPLES = 600


@dataclass(frozen=True, slots=True)
class Sample:
    """A point of the curves."""

    replicas: int
    """Ready ones."""

    requests: int
    """Under way, held ones included."""


@dataclass(slots=True)
class Scene:
    """Everything that there is to see, while a demo runs."""

    plan: Plan
    journal: Journal
    deployment: Deployment
    gateway: Gateway
    autoscaler: Autoscaler
    samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=_MAX_SAMPLES))
    all_came: bool = False
    """Whether the last request has come."""

    first_at: float | None = None
    """When the first request came, in seconds since the demo began; None: not yet."""

    woken_at: float | None = None
    """When a replica was first wanted; None: not yet."""

    slept_on: int = 0
    """See `Outcome.slept_on`."""

    @property
    def is_over(self) -> bool:
        """Whether all requests are done with, and no replica is left."""
        is_asleep = not self.autoscaler.cluster.replicas and not self.deployment.pods
        return self.all_came and not self.gateway.under_way and is_asleep

    def request(self, request: Request) -> None:
        """Let a request come."""
        if self.first_at is None:
            self.first_at = self.journal.seconds
            self.journal.add("requests", "the first one comes, and more follow")
        self.gateway.submit(request)

    def stepped(self, step: Step) -> None:
        """Take note of a change of the replicas that are wanted."""
        self.journal.add(step.by, f"{step.before} -> {step.after}: {step.reason}")
        if step.before == 0 and self.woken_at is None:
            self.woken_at = self.journal.seconds
        if step.after == 0:
            self.slept_on = max(self.slept_on, self.gateway.under_way)

    def outcome(self) -> Outcome:
        """Say what has become of it so far."""
        first, woken = self.first_at, self.woken_at
        return Outcome(
            seconds=self.journal.seconds,
            arrived=self.gateway.arrived,
            served=self.gateway.served,
            losses=dict(self.gateway.losses),
            peak=self.deployment.peak,
            replicas=self.autoscaler.cluster.replicas,
            pods=len(self.deployment.pods),
            woken_after=None if first is None or woken is None else woken - first,
            woke_unasked=woken is not None and (first is None or woken < first),
            slept_on=self.slept_on,
        )


Show = Callable[[Scene], Coroutine[None, None, None]]
"""Shows a scene until it is cancelled."""


async def run(plan: Plan, tell: Callable[[Change], None], show: Show | None = None) -> Outcome:
    """Run a demo until it is over or its time is; `tell` hears of every change."""
    journal = Journal(tell)
    with journal.reading_the_log():
        async with running(plan, journal) as stack, asyncio.TaskGroup() as group:
            scene = Scene(plan, journal, stack.deployment, stack.gateway, stack.autoscaler)
            stack.autoscaler.on_step = scene.stepped
            tasks = [group.create_task(_load(scene), name="load")]
            if show:
                tasks.append(group.create_task(show(scene), name="display"))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(plan.limit_seconds):
                    await _watch(scene)
            await cancel(tasks)
            return scene.outcome()


async def _load(scene: Scene) -> None:
    plan = scene.plan
    burst = Burst(plan.requests_per_second, plan.quiet_seconds, plan.burst_seconds)
    await drive(Arrivals(burst, plan.sizes, plan.seed), scene.request)
    scene.all_came = True
    scene.journal.add("requests", f"all {scene.gateway.arrived} have come")


async def _watch(scene: Scene) -> None:
    """Look at it until it is over."""
    due, told = 0.0, False
    while not scene.is_over:
        if scene.journal.seconds >= due:
            sample = Sample(len(scene.deployment.ready()), scene.gateway.under_way)
            scene.samples.append(sample)
            due += SAMPLE_SECONDS
        if scene.all_came and not scene.gateway.under_way and not told:
            told = True
            scene.journal.add("requests", "all are done with")
        await asyncio.sleep(LOOK_SECONDS)
