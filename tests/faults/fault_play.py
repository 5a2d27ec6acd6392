"""Plays scenes in simulated time: the world, the scaler's store, KEDA's polls and the HPA's syncs.

What the faults of sources look like to the store is what `test_faults_outcomes.py` gets from real
pages and real servers. KEDA's side is `keda_scaler.keda`. KEDA's race between poll and HPA (2.20)
is taken at its worst: with `race`, every poll that got an error takes it for "inactive, no error".
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from unittest import mock

import grpc

import fault_prometheus
from fault_scene import METADATA, Hits, Scene
from fault_world import World
from keda_scaler.core.decision import State
from keda_scaler.core.readings import Demand, Missing, Value
from keda_scaler.core.signals import Signal
from keda_scaler.core.trigger import Trigger
from keda_scaler.errors import UnavailableError
from keda_scaler.keda.client import Failure, Measured, MetricResult, TriggerResult, read_number
from keda_scaler.keda.cluster import Cluster, observe, poll, push, sync_hpa
from keda_scaler.keda.scaledobject import KedaTrigger, ScaledObject
from keda_scaler.rpc.convert import to_activity, to_metrics
from keda_scaler.sources import promrounds
from keda_scaler.sources.reports import _tell_replica
from keda_scaler.store import Store, Target
from prometheus_samples import NAMESPACE

KEDA_TRIGGER = KedaTrigger(0, "external-push", METADATA)
SCALED_OBJECT = ScaledObject("llama", max_replica_count=10, triggers=(KEDA_TRIGGER,))
"""All else as KEDA has it by default: minimum 0, polls every 30 s, a cooldown of 300 s."""

EPOCH = 100_000.0
"""What the clocks show when a scene begins; any number will do."""

POLL_AT, HPA_AT, HPA_SECONDS = 7, 3, 15
"""KEDA polls at seconds 7, 37, ..., the HPA asks at 3, 18, ...: neither falls on a poll of ours."""

LONG_SECONDS = 86_400
"""How long a scaler has run that is there when a scene begins."""

REPEAT_SECONDS = 5
"""A stream repeats "active" so often while replicas are awaited."""

UNREACHABLE = Failure("GetMetricSpec", grpc.StatusCode.UNAVAILABLE, "connection refused")


class Clock:
    """Time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = EPOCH

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True, slots=True)
class Said:
    """What KEDA would be told at one instant."""

    active: str
    """`true`, `false`, a status, or that nobody answers."""

    value: str
    """Of the queue depth: a number, none, a status, or that nobody answers."""

    why: str


DOWN = Said("no answer", "no answer", "down")


@dataclass(frozen=True, slots=True)
class Sleep:
    """KEDA put the model to sleep."""

    at: int
    works: bool
    """Whether there was work."""

    proven: int
    """For how many seconds the scaler had had proof of idleness, without a gap."""

    silent: int
    """For how many seconds it had had neither that nor evidence of work."""

    quiet: int
    """For how many seconds it had had no evidence of work."""

    forgot: bool
    """Whether it has begun anew since it last knew, or is not there."""


@dataclass(slots=True)
class Played:
    """What came of a scene."""

    said: list[Said] = field(default_factory=list)
    """Second by second."""

    replicas: list[int] = field(default_factory=list)
    """`spec.replicas`, second by second."""

    sleeps: list[Sleep] = field(default_factory=list)
    errors: int = 0
    """How many of KEDA's polls got an error."""


class Scalers:
    """As many replicas of the scaler as wanted, which KEDA asks in turns."""

    def __init__(self, count: int) -> None:
        self.targets: tuple[Target, ...] = ()
        """The target in each of them; empty while none is up."""

        self._count = count
        self._stores: list[Store] = []
        self._asked = 0

    def begin(self, trigger: Trigger, clock: Clock) -> None:
        """Start with no memory."""
        self._stores = [
            Store(lambda _: lambda: None, lambda *_: None, clock) for _ in range(self._count)
        ]
        self.targets = tuple(s.follow(b"llama", "default", "llama", trigger) for s in self._stores)

    def end(self) -> None:
        """Stop."""
        for store in self._stores:
            store.close()
        self._stores, self.targets = [], ()

    def ask(self) -> TriggerResult:
        """Ask what KEDA asks at a poll, of the answers that gRPC carries."""
        if not self.targets:
            return TriggerResult(KEDA_TRIGGER, UNREACHABLE)
        metric = self.targets[0].trigger.metrics[0]
        answer: Measured | Failure
        try:
            given = to_metrics(self._turn().decision_for_metrics(), metric.signal)
            is_active = to_activity(self._turn().decision_for_activity()).result
        except UnavailableError as error:
            answer = Failure("GetMetrics", grpc.StatusCode.UNAVAILABLE, str(error))
        else:
            numbers = (read_number(v.metricValueFloat, v.metricValue) for v in given.metricValues)
            answer = Measured(tuple(numbers), is_active)
        name = str(metric.signal)
        result = MetricResult(name, f"s0-{name}", metric.target, answer)
        return TriggerResult(KEDA_TRIGGER, (result,))

    def said(self) -> Said:
        """Tell what the first would say now."""
        if not self.targets:
            return DOWN
        decision = self.targets[0].decision()
        signal = self.targets[0].trigger.metrics[0].signal
        try:
            active = "true" if to_activity(decision).result else "false"
        except UnavailableError:
            active = "UNAVAILABLE"
        try:
            values = to_metrics(decision, signal).metricValues
        except UnavailableError:
            value = "UNAVAILABLE"
        else:
            value = f"{values[0].metricValueFloat:g}" if values else "no value"
        return Said(active, value, str(decision.reason))

    def _turn(self) -> Target:
        self._asked += 1
        return self.targets[self._asked % len(self.targets)]


class Books:
    """Own books on what was told to the scaler, to judge by when KEDA puts the model to sleep."""

    def __init__(self) -> None:
        self._proven_since: int | None = None
        self._proven_until = 0
        self._worked_at = self._news_at = 0
        self._forgot = False

    def work(self, second: int) -> None:
        """Write down that a request was seen."""
        self._proven_since, self._forgot = None, False
        self._worked_at = self._news_at = second

    def proof(self, second: int, stale_after: float) -> None:
        """Write down a poll that saw everything, and nothing to do."""
        if self._proven_since is None or second >= self._proven_until:
            self._proven_since = second
        self._proven_until = second + int(stale_after)
        self._news_at, self._forgot = second, False

    def forget(self) -> None:
        """Write down that the scaler lost its memory."""
        self._proven_since, self._forgot = None, True

    def sleep(self, second: int, *, works: bool) -> Sleep:
        """Say on what grounds KEDA puts the model to sleep."""
        since = self._proven_since
        if since is None or second >= self._proven_until:
            since = second
        return Sleep(
            at=second,
            works=works,
            proven=second - since,
            silent=second - self._news_at,
            quiet=second - self._worked_at,
            forgot=self._forgot,
        )


class Play:
    """One scene, second by second."""

    def __init__(self, scene: Scene, *, race: bool = False, scalers: int = 1) -> None:
        self._scene = scene
        self._race = race
        self._trigger = scene.trigger
        self._clock = Clock()
        self._scalers = Scalers(scalers)
        self._world = World(scene)
        self._cluster = Cluster(SCALED_OBJECT, EPOCH, scene.replicas)
        self._books = Books()
        self._ahead = 0.0
        """By how many seconds the clock on the wall is ahead of the monotonic one."""
        self._demand: Demand | None = None
        self._told_active = False
        self._began = 0
        """When the scaler was started last; one that is there from the beginning is long since."""
        self._rounds: list[promrounds.Target] = []
        """What Prometheus tells each of the scalers, if they read one."""
        self._played = Played()

    def run(self, watch: Callable[[tuple[Target, ...]], None] = lambda _: None) -> Played:
        """Play it; needs a running event loop. `watch` is given the targets every second."""
        with mock.patch("time.time", self._wall):
            try:
                for second in range(self._scene.seconds):
                    self._clock.now = EPOCH + second
                    self._ahead = 86_400.0 if self._scene.fault(Hits.WALL, second) else 0.0
                    self._step(second)
                    watch(self._scalers.targets)
            finally:
                self._scalers.end()
        return self._played

    def _wall(self) -> float:
        return self._clock.now + self._ahead

    def _step(self, second: int) -> None:
        begins = self._begin_or_end(second)
        if self._scalers.targets:
            if begins or second % self._trigger.poll_seconds == 0:
                self._read(second)
            self._read_gateway(second, begins=begins)
            self._push(second)
        self._autoscale(second)
        self._played.said.append(self._scalers.said())
        self._played.replicas.append(self._cluster.replicas)

    def _begin_or_end(self, second: int) -> bool:
        """Start or stop the scaler; whether it has just started."""
        if self._scene.fault(Hits.SCALER, second):
            self._scalers.end()
            self._books.forget()
            self._world.forget()
            self._demand, self._told_active = None, False
            return False
        if self._scalers.targets:
            return False
        self._scalers.begin(self._trigger, self._clock)
        self._began = second or -LONG_SECONDS
        self._rounds = [
            promrounds.Target(NAMESPACE, self._trigger, target) for target in self._scalers.targets
        ]
        return True

    def _read_prometheus(self, second: int) -> None:
        """Be a round of a Prometheus, in which all that its rules say is ours."""
        now, scene = self._clock.now, self._scene
        for source, target in zip(self._rounds, self._scalers.targets, strict=True):
            fault_prometheus.tell(source, self._world, second, now)
            numbers = [
                value.number
                for each in target.snapshot.replicas
                if (value := each.values.get(Signal.CONCURRENCY)) is not None and value.at == now
            ]
        wrong = {Hits.PAGES, Hits.FAMILIES, Hits.SCRAPES, Hits.DISK}
        complete = not any(scene.fault(each, second) for each in wrong)
        self._note(second, busy=any(numbers), complete=complete and len(numbers) > 0)

    def _read(self, second: int) -> None:
        """Be the source of readings, at one of its polls."""
        scene, now = self._scene, self._clock.now
        if self._trigger.by_prometheus:
            self._read_prometheus(second)
            return
        if self._trigger.by_reports:
            tally = self._world.reports(second, self._began, now)
            for target in self._scalers.targets:
                _tell_replica(target, tally, now)
            if not isinstance(tally, Missing):
                self._note(second, busy=tally.waiting > 0, complete=tally.doubt is None)
            return
        away = scene.fault(Hits.SOURCE, second) or scene.fault(Hits.LIST, second)
        replicas = self._world.listed(second)
        pages = {} if scene.fault(Hits.SOURCE, second) else self._world.pages(second, now)
        for target in self._scalers.targets:
            if away is not None:
                target.unlisted(away.reason)
            elif not scene.fault(Hits.WATCH, second):
                target.listed(replicas, now)
            for name, (readings, engine) in pages.items():
                target.read(name, readings, engine)
        running = [readings[Signal.CONCURRENCY] for readings, _ in pages.values()]
        numbers = [reading.number for reading in running if isinstance(reading, Value)]
        lost = {Hits.WATCH, Hits.SERIES, Hits.OLD}
        complete = away is None and len(numbers) == len(pages) and self._gateway_is_quiet()
        complete &= not any(scene.fault(each, second) for each in lost)
        self._note(second, busy=any(numbers), complete=complete)

    def _note(self, second: int, *, busy: bool, complete: bool) -> None:
        if busy:
            self._books.work(second)
        elif complete:
            self._books.proof(second, self._trigger.stale_after)

    def _gateway_is_quiet(self) -> bool:
        if self._trigger.wake_from is None:
            return True
        known = self._demand
        if known is None or self._clock.now >= known.at + self._trigger.stale_after:
            return False
        return not (known.in_flight or known.arrived)

    def _read_gateway(self, second: int, *, begins: bool) -> None:
        """Be the wake source: every second while no replica answers, else as pages are read."""
        if self._trigger.wake_from is None:
            return
        waking = self._scalers.targets[0].is_waking
        if not (begins or waking or second % self._trigger.poll_seconds == 0):
            return
        demand = self._world.demand(second, self._clock.now)
        for target in self._scalers.targets:
            target.demanded(demand)
        if isinstance(demand, Demand):
            self._demand = demand
            self._note(second, busy=demand.arrived or demand.in_flight > 0, complete=False)

    def _push(self, second: int) -> None:
        """Be the stream: tell at once that it is active, and again while replicas are awaited."""
        decision = self._scalers.targets[0].decision()
        if decision.state is not State.ACTIVE or self._scene.fault(Hits.STREAM, second):
            self._told_active = False  # a stream that opens tells the state at once
            return
        again = decision.answering < decision.wanted and second % REPEAT_SECONDS == 0
        if again or not self._told_active:
            self._take(push(self._observed(second), self._clock.now), second)
        self._told_active = True

    def _autoscale(self, second: int) -> None:
        now = self._clock.now
        if second % SCALED_OBJECT.polling_interval == POLL_AT:
            result = self._scalers.ask()
            self._played.errors += result.is_error
            results = () if self._race and result.is_error else (result,)
            self._take(poll(self._observed(second), results, now), second)
        if second % HPA_SECONDS == HPA_AT and self._cluster.replicas:
            self._take(sync_hpa(self._observed(second), (self._scalers.ask(),), now), second)

    def _observed(self, second: int) -> Cluster:
        world = self._world
        return observe(self._cluster, created=world.created, ready=world.ready(second))

    def _take(self, cluster: Cluster, second: int) -> None:
        if self._cluster.replicas and not cluster.replicas:
            works = self._scene.works(second)
            self._played.sleeps.append(self._books.sleep(second, works=works))
        self._cluster = cluster
        self._world.scale(cluster.replicas, second)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A scene, played without KEDA's race and with it."""

    plain: Played
    raced: Played


def play(scene: Scene) -> Outcome:
    """Play a scene in both ways; needs a running event loop."""
    plain = Play(scene).run()
    return Outcome(plain, Play(scene, race=True).run() if plain.errors else plain)
