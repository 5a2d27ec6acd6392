"""One run of the demo: everything is built, connected, watched and taken down here."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

from keda_scaler.app import App
from keda_scaler.demo.autoscaler import Autoscaler
from keda_scaler.demo.deployment import HOST, Deployment
from keda_scaler.demo.gateway import Gateway
from keda_scaler.demo.journal import Change, Journal
from keda_scaler.demo.plan import GATEWAY, NAMESPACE, Plan, manifest
from keda_scaler.demo.verdict import Outcome
from keda_scaler.keda.client import open_channel
from keda_scaler.keda.cluster import Step
from keda_scaler.keda.scaledobject import parse_scaled_object
from keda_scaler.settings import Settings
from keda_scaler.sim.kubernetes import SimulatedCluster, SimulatedEndpoint
from keda_scaler.sim.load import Arrivals, Burst, drive
from keda_scaler.sim.requests import Request
from keda_scaler.sources.kubernetes import ServiceDirectory, at_url

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
        async with asyncio.TaskGroup() as group, contextlib.AsyncExitStack() as exits:
            scene = await _build(plan, journal, group, exits)
            loops = _loops(scene) | ({"display": show(scene)} if show else {})
            tasks = [group.create_task(loop, name=name) for name, loop in loops.items()]
            exits.push_async_callback(_cancel, tasks)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(plan.limit_seconds):
                    await _watch(scene)
            return scene.outcome()


async def _build(
    plan: Plan, journal: Journal, group: asyncio.TaskGroup, exits: contextlib.AsyncExitStack
) -> Scene:
    """Start everything; what is entered last stops first."""
    api = await exits.enter_async_context(SimulatedCluster(host=HOST))
    deployment = Deployment(plan, api, group, lambda text: journal.add("pods", text))
    exits.callback(deployment.stop)
    gateway = await exits.enter_async_context(Gateway(plan, deployment.ready))
    api.put_service(NAMESPACE, GATEWAY, [SimulatedEndpoint(HOST, f"{GATEWAY}-0", gateway.port)])
    deployment.on_ready = gateway.hand_on
    directory = ServiceDirectory(configure=at_url(api.url))
    app = await exits.enter_async_context(App(_settings(), directory))
    address = f"{HOST}:{app.grpc_port}"
    channel = await exits.enter_async_context(open_channel(address))
    scaled_object = parse_scaled_object(manifest(plan, address))
    autoscaler = Autoscaler(scaled_object, channel, deployment)
    scene = Scene(plan, journal, deployment, gateway, autoscaler)
    autoscaler.on_step = scene.stepped
    return scene


def _settings() -> Settings:
    """Give the scaler's settings, all of them: the demo's do not depend on the environment."""
    return Settings(
        grpc_address=f"{HOST}:0",
        http_address=f"{HOST}:0",
        prometheus={},
        allow_address=("127.0.0.0/8",),
        demo=False,
        tls_cert=None,
        tls_key=None,
        tls_client_ca=None,
    )


def _loops(scene: Scene) -> dict[str, Coroutine[None, None, None]]:
    autoscaler = scene.autoscaler
    triggers = autoscaler.cluster.scaled_object.external_triggers
    return {
        "poll": autoscaler.poll(),
        "sync": autoscaler.sync(scene.plan.sync_seconds),
        **{f"stream-{each.index}": autoscaler.listen(each) for each in triggers},
        "load": _load(scene),
    }


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


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
