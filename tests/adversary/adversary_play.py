"""Plays plans: a real `Target` of the store, KEDA's polls and the HPA's syncs, in simulated time.

From one event to the next, and nothing in between: a list that changes, a page or a gateway that is
due, an answer to KEDA. KEDA and the HPA are `keda_scaler.keda`.
"""

import math
from asyncio import events
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from dataclasses import replace as changed

import grpc

from adversary_judge import Fault, Judge
from adversary_plan import AT_ONCE, EPOCH, Hit, Plan
from adversary_prometheus import PrometheusSource
from adversary_service import ServiceSource
from adversary_source import Source
from adversary_world import World
from keda_scaler.core.decision import Decision, Reported, State, Unavailable
from keda_scaler.core.demand import CAPPED, whole
from keda_scaler.core.readings import Demand
from keda_scaler.core.signals import Signal
from keda_scaler.keda.client import Failure, Measured, MetricResult, TriggerResult
from keda_scaler.keda.cluster import Cluster, observe, poll, push, sync_hpa
from keda_scaler.keda.scaledobject import KedaTrigger, ScaledObject
from keda_scaler.store import Target

KEDA_AT, KEDA_SECONDS = 7.0, 30.0
HPA_AT, HPA_SECONDS = 3.0, 15.0
BY_HAND_SECONDS = 60.0
"""After this long at zero with work and no gateway, somebody scales up by hand."""

KEDA_TRIGGER = KedaTrigger(0, "external-push", {})
UNREACHABLE = TriggerResult(
    KEDA_TRIGGER, Failure("GetMetricSpec", grpc.StatusCode.UNAVAILABLE, "connection refused")
)

Make = Callable[[Plan, Callable[[], float]], Target]
"""Makes the scaler's target, given its clock."""


class _Handle:
    def cancel(self) -> None:
        """Do nothing: it never rings."""


class _Loop:
    """Stands for the event loop: nobody waits for its timers, because every answer is asked for."""

    def call_later(self, *_: object) -> _Handle:
        return _Handle()


@contextmanager
def _looping() -> Iterator[None]:
    before = events._get_running_loop()
    events._set_running_loop(_Loop())  # type: ignore[arg-type]  # all that a target asks of it
    try:
        yield
    finally:
        events._set_running_loop(before)


def real_target(plan: Plan, clock: Callable[[], float]) -> Target:
    """Make the target that the product makes."""
    return Target("default", "m", plan.trigger, clock, lambda *_: None)


@dataclass(slots=True)
class Played:
    """What came of a plan."""

    seconds: float = 0.0
    faults: list[Fault] = field(default_factory=list)
    replicas: list[tuple[float, int]] = field(default_factory=list)
    """`spec.replicas`, whenever it changes."""

    asked: list[tuple[float, dict[Signal, float | None]]] = field(default_factory=list)
    """What the HPA was told; None: no value."""

    said: list[tuple[float, str, str]] = field(default_factory=list)
    """At KEDA's polls: what it was told, and why."""

    trace: deque[str] = field(default_factory=lambda: deque(maxlen=400))

    @property
    def most(self) -> int:
        """The most replicas that there were."""
        return max(count for _, count in self.replicas)

    def most_asked(self, plan: Plan, since: float = 0.0) -> int:
        """Give the most replicas that a value asked for."""
        targets = {metric.signal: metric.target for metric in plan.trigger.metrics}
        return max(
            (
                whole(value / targets[signal])
                for at, values in self.asked
                for signal, value in values.items()
                if value is not None and at >= since
            ),
            default=0,
        )


class Play:
    """One world."""

    def __init__(
        self, plan: Plan, *, make: Make = real_target, traced: bool = False, patient: bool = False
    ) -> None:
        self._plan = plan
        self._make = make
        self._traced = traced
        self._patient = patient
        """Whether it is played to its end whatever goes wrong."""
        self._trigger = plan.trigger
        self._world = World(plan)
        self._judge = Judge(plan)
        self._now = 0.0
        self._target: Target | None = None
        scaled_object = ScaledObject(
            "m",
            min_replica_count=plan.minimum,
            max_replica_count=plan.maximum,
            cooldown_period=plan.cooldown,
            behavior=AT_ONCE if plan.at_once else None,
            triggers=(KEDA_TRIGGER,),
        )
        self._cluster = changed(
            Cluster(scaled_object, EPOCH, plan.replicas),
            last_active=EPOCH if plan.replicas else None,
        )
        source = PrometheusSource if self._trigger.by_prometheus else ServiceSource
        self._source: Source = source(self._world, self._trigger, self._log)
        self._gateway_at = math.inf
        self._gateway_ok = True
        self._was_active = False
        self._keda_at, self._hpa_at = KEDA_AT, HPA_AT
        self._zero_since = 0.0
        self._played = Played(replicas=[(0.0, plan.replicas)])

    def run(self) -> Played:
        """Play it, to its end or to the first fault."""
        changes_at = 0.0
        with _looping():
            while self._now < self._plan.seconds and (self._patient or not self._played.faults):
                if self._now >= changes_at:
                    self._change()
                    changes_at = self._world.next_change(self._now)
                before = self._cluster.replicas
                self._read()
                self._autoscale()
                if self._cluster.replicas != before:
                    self._scaled(before)
                    changes_at = self._now
                    continue
                self._now = self._next(changes_at)
        self._played.seconds = self._now
        return self._played

    def _clock(self) -> float:
        return EPOCH + self._now

    def _next(self, changes_at: float) -> float:
        times = [changes_at, self._keda_at, self._hpa_at, self._source.next_at()]
        if self._target is not None:
            times.append(self._gateway_at)
        return max(min(times), self._now + 0.001)

    def _change(self) -> None:
        """Move the world on, and let those hear of it who watch it."""
        world, now = self._world, self._now
        world.step(now)
        is_away = world.find(Hit.SCALER) is not None
        if is_away and self._target is not None:
            self._log("the scaler is away")
            self._target, self._was_active = None, False
            self._source.end()
        elif not is_away and self._target is None:
            self._log("the scaler begins")
            self._target = self._make(self._plan, self._clock)
            self._source.begin(self._target, now)
            # The first answer waits for what is read first, a moment in truth.
            self._gateway_at = now + 0.4 if self._trigger.wake_from else math.inf
        self._source.changed(now)
        waits = self._trigger.wake_from is not None and self._gateway_at > now + 1
        if self._target is not None and waits and self._target.is_waking:
            self._gateway_at = now + 1
        self._judge.note(now, world, self._source.told)
        if self._traced:
            loads = {pod.name: pod_work.requests for pod, pod_work in world.loads.items()}
            kept = {pod.name: pod_work.requests for pod, pod_work in world.kept.items()}
            wrong = [str(event.hit) for event in world.active]
            self._log(f"load {loads} kept {kept} held {world.held} {'; '.join(wrong)}")

    def _read(self) -> None:
        """Be the sources: read what is due."""
        was_read = self._source.read(self._now)
        if self._target is None:
            return
        if was_read:
            self._judge.look(self._now, self._world)
            self._note_news()
        if self._now >= self._gateway_at:
            self._read_gateway()
            was_read = True
        if was_read:
            self._values(self._target)
        self._push()

    def _read_gateway(self) -> None:
        target = self._target
        assert target is not None
        demand = self._world.demand(self._now)
        self._gateway_at = self._now + self._trigger.poll_seconds
        self._gateway_ok = isinstance(demand, Demand)
        target.demanded(demand)
        if isinstance(demand, Demand) and demand.in_flight:
            self._judge.news_at = self._now

    def _note_news(self) -> None:
        """Write down whether it is known now that there is work, or that there is none."""
        target, now = self._target, self._now
        assert target is not None
        since = self._clock() - self._trigger.stale_after
        confirmed_at = self._source.confirmed_at
        is_known = self._gateway_ok and now < confirmed_at + self._trigger.stale_after
        for known in target.snapshot.replicas:
            value = known.values.get(Signal.CONCURRENCY)
            page = self._source.pages.get(known.replica.name)
            is_read = value is not None and value.at > since and page and not page.failures
            if is_read and value is not None and value.number:
                self._judge.news_at = now
                return
            is_known = is_known and bool(is_read)
        if is_known:
            self._judge.news_at = now

    def _push(self) -> None:
        """Be the stream."""
        assert self._target is not None
        is_active = self._target.decision().state is State.ACTIVE
        if is_active and not self._was_active and not self._is_away(Hit.KEDA):
            self._cluster = push(self._observed(), self._clock())
        self._was_active = is_active

    def _is_away(self, *hits: Hit) -> bool:
        return any(self._world.find(hit) is not None for hit in (*hits, Hit.API))

    def _autoscale(self) -> None:
        now = self._now
        if now >= self._keda_at:
            self._keda_at += KEDA_SECONDS
            if not self._is_away(Hit.KEDA):
                self._poll()
        if now >= self._hpa_at:
            self._hpa_at += HPA_SECONDS
            if self._cluster.replicas and not self._is_away(Hit.KEDA):
                self._sync()

    def _poll(self) -> None:
        before, now = self._cluster.replicas, self._now
        result = self._ask()
        is_error = result.is_error
        raced = self._plan.race and is_error and self._target is not None
        self._cluster = poll(self._observed(), () if raced else (result,), self._clock())
        decision = None if self._target is None else self._target.decision()
        said = "error" if is_error else "active" if result.is_active else "inactive"
        why = "away" if decision is None else f"{decision.reason}: {decision.text}"
        self._played.said.append((now, said, why))
        self._log(f"KEDA hears {said} ({why})")
        if before and not self._cluster.replicas:
            self._blame(self._judge.sleep(now, self._source, was_error=is_error))
        elif (
            self._plan.gateway is None
            and not before
            and self._world.total.requests
            and now >= self._zero_since + BY_HAND_SECONDS
        ):
            self._cluster = changed(self._cluster, replicas=1, last_active=self._clock())

    def _values(self, target: Target) -> dict[Signal, float | None]:
        """Have what each metric would tell now judged, and give it; None: no value."""
        answers = {m.signal: _answer(target.decision(), m.signal) for m in self._trigger.metrics}
        values = {
            signal: answer.total if isinstance(answer, Measured) else None
            for signal, answer in answers.items()
        }
        self._blame(self._judge.decided(self._now, values, self._source.pages))
        return values

    def _sync(self) -> None:
        result, now = self._ask(), self._now
        before = self._cluster.replicas
        values: dict[Signal, float | None] = {m.signal: None for m in self._trigger.metrics}
        if self._target is not None:
            values = self._values(self._target)
        self._played.asked.append((now, values))
        self._cluster = sync_hpa(self._observed(), (result,), self._clock())
        if self._traced:
            shown = {str(signal): value for signal, value in values.items()}
            self._log(f"HPA hears {shown}")
        if self._target is not None:
            answers = self._target.decision().answers.values()
            capped = any(isinstance(a, Reported) and a.text.startswith(CAPPED) for a in answers)
            replicas = 0 if capped else before
            self._blame(self._judge.asked(now, values, replicas, self._source.pages))

    def _blame(self, fault: Fault | None) -> None:
        if fault is not None:
            self._played.faults.append(fault)
            self._log(f"FAULT {fault.what}")

    def _scaled(self, before: int) -> None:
        after, world = self._cluster.replicas, self._world
        self._log(f"from {before} to {after}")
        self._played.replicas.append((self._now, after))
        world.workload.wanted = after
        self._zero_since = self._now

    def _observed(self) -> Cluster:
        workload = self._world.workload
        return observe(self._cluster, created=workload.created(), ready=workload.ready(self._now))

    def _ask(self) -> TriggerResult:
        """Ask what KEDA asks."""
        if self._target is None:
            return UNREACHABLE
        decision = self._target.decision()
        results = [
            MetricResult(
                str(metric.signal),
                f"s0-{metric.signal}",
                metric.target,
                _answer(decision, metric.signal),
            )
            for metric in self._trigger.metrics
        ]
        return TriggerResult(KEDA_TRIGGER, tuple(results))

    def _log(self, text: str) -> None:
        if self._traced:
            self._played.trace.append(f"{self._now:8.1f} {text}")


def _answer(decision: Decision, signal: Signal) -> Measured | Failure:
    """Give what KEDA makes of GetMetrics and IsActive."""
    answer = decision.answers[signal]
    if decision.state is State.UNKNOWN or isinstance(answer, Unavailable):
        return Failure("GetMetrics", grpc.StatusCode.UNAVAILABLE, "unknown")
    is_active = decision.state is State.ACTIVE
    values = (round(answer.number, 3),) if isinstance(answer, Reported) else ()
    return Measured(values, is_active)
