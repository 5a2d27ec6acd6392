"""The store: the newest readings of every target, and the decision they lead to.

Rules
1. Sources write, gRPC handlers read; they meet here and nowhere else.
2. Everything happens on the event loop's thread.
3. A decision is made anew when something was read or when its time is up, never because it was
   asked for; whoever asks meanwhile gets the same one.
"""

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from keda_scaler.core.activity import Verdict, judge, remember
from keda_scaler.core.decision import Decision, Reason, State, ask, decide
from keda_scaler.core.explain import Known
from keda_scaler.core.history import History
from keda_scaler.core.memory import Memory
from keda_scaler.core.readings import Demand, Engine, Missing, Readings, Replica
from keda_scaler.core.signals import Signal
from keda_scaler.core.snapshot import ReplicaReadings, Snapshot, Spans, absorb, listed
from keda_scaler.core.trigger import Trigger
from keda_scaler.core.view import View
from keda_scaler.errors import TooManyTargetsError, TriggerError
from keda_scaler.sources.sink import Answer, Clock

MAX_TARGETS = 20_000
"""Four times the largest fleet that we measure with."""

MAX_TARGETS_OF_NAMESPACE = 5_000
"""A quarter of them: whoever makes ScaledObjects up in one namespace leaves the others room."""

FORGET_SECONDS = 600.0
"""A target nobody asked about for this long is dropped: KEDA never says goodbye."""

PAIR_SECONDS = 0.25
"""For this long IsActive repeats the decision of the GetMetrics before it: KEDA asks the two one
after the other and takes them as one answer."""

FEW_REPLICAS = 8
"""A target with no more is decided about at every reading, as soon as it comes."""

REPLICA_SECONDS = 0.0005
"""With more, decisions are this far apart for each further replica. One takes about a twentieth of
that, so that no target takes more than a twentieth of a core, whatever its replicas are."""


Key = bytes
"""What KEDA asks about, namespace, name and metadata, written so that the same is always the same.
The same ScaledObject with other metadata is another target."""

Observer = Callable[["Target", Decision | None, Decision], None]
"""Called with the target, its decision before and its decision now, when the latter is new."""


@dataclass(frozen=True, slots=True)
class Health:
    """When there was news of a target, and what the last trouble was."""

    listed_at: float | None
    """In monotonic seconds; None: never."""

    problem: str | None
    listed: int
    answering: int
    demanded_at: float | None
    demand_problem: str | None


class Target:
    """One target's readings, memory and decision. It is the `Sink` of its source."""

    def __init__(
        self, namespace: str, name: str, trigger: Trigger, clock: Clock, observe: Observer
    ) -> None:
        self.namespace = namespace
        self.name = name
        self.trigger = trigger
        self.asked_at = clock()
        """When somebody last asked, in monotonic seconds."""
        self.closed = False
        """Whether it is no longer followed: nothing that it says is true any more."""
        self.first_reading = asyncio.Event()
        """Set when there is an answer, or when waiting for one is pointless."""
        self.rendered: object = None
        """What the gRPC surface keeps beside the newest decision; nothing here reads it."""
        self.specs: object = None
        """Likewise, beside the trigger."""
        self._history = History()
        self._clock = clock
        self._observe = observe
        self._replicas: dict[str, ReplicaReadings] = {}
        self._listed_at: float | None = None
        self._problem: str | None = None
        self._demand: Demand | None = None
        self._demand_problem: str | None = None
        self._beside: dict[str, float] | None = None
        self._demanded_at = 0.0
        self._memory = Memory()
        self._decision: Decision | None = None
        self._observed: Decision | None = None
        self._paired: Decision | None = None
        self._paired_until = 0.0
        self._listeners: set[Callable[[], None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = 0.0
        self._updated_at = -math.inf
        self._update_soon: asyncio.TimerHandle | None = None
        """Set while something was read that no decision was made from yet."""

    @property
    def snapshot(self) -> Snapshot:
        """All readings of this instant."""
        ordered = sorted(self._replicas.items())
        return Snapshot(
            tuple(known for _, known in ordered),
            self._listed_at,
            self._problem,
            self._demand,
            self._demand_problem,
            self._beside,
        )

    def known(self) -> Known:
        """Give what there is to explain, as of this instant."""
        decision = self.decision()
        view = View(self.trigger, self.snapshot, self._clock())
        return Known(
            self.namespace,
            self.name,
            view,
            self._memory,
            decision,
            self._history,
            self.asked_at,
        )

    def health(self) -> Health:
        """Say how what it is read from is doing; cheap, whatever its replicas are."""
        demand, listed_at = self._demand, self._listed_at
        if listed_at == math.inf:  # a list that never changes is no news
            measured = (r.measured_at(Signal.CONCURRENCY) for r in self._replicas.values())
            listed_at = max((at for at in measured if at is not None), default=None)
        return Health(
            listed_at,
            self._problem,
            len(self._replicas),
            self.decision().answering,
            None if demand is None else demand.at,
            self._demand_problem,
        )

    @property
    def idle_at(self) -> float | None:
        """When idleness is proven, if it stays as it is, in monotonic seconds; None: no proof."""
        since = self._memory.idle_since
        return None if since is None else since + self.trigger.idle_seconds

    @property
    def is_waking(self) -> bool:
        """See `WakeSink.is_waking`."""
        return not self.decision().answering

    def listed(self, replicas: Sequence[Replica], at: float) -> None:
        """See `Sink.listed`.

        A list that is only confirmed is taken in with the next reading.
        """
        if self._list(replicas, at) or not replicas or self._is_due(self._often):
            self._update()

    def polled(
        self, answers: Mapping[Replica, Answer], at: float, doubt: str | None = None
    ) -> None:
        """See `Sink.polled`.

        What the poll gave is one change, and a list that is another is one before it.
        """
        if self._list(list(answers), at, doubt):
            self._update()
        for replica, (readings, engine) in answers.items():
            self._absorb(replica.name, readings, engine)
        self._update()

    def _list(self, replicas: Sequence[Replica], at: float, doubt: str | None = None) -> bool:
        """Take a list in; whether it is another."""
        known, problem = self._replicas, self._problem
        self._replicas = {
            replica.name: listed(known.get(replica.name), replica, self._clock())
            for replica in replicas
        }
        was_listed = self._listed_at is not None
        self._listed_at = at if self._listed_at is None else max(self._listed_at, at)
        self._problem = doubt
        same = [each.replica for each in known.values()] == list(replicas)
        return not (same and was_listed and problem == doubt)

    def unlisted(self, reason: str) -> None:
        """See `Sink.unlisted`."""
        self._problem = reason
        self._update()

    def read(self, replica: str, readings: Readings, engine: Engine | None = None) -> None:
        """See `Sink.read`. A replica that is not (or no longer) listed is ignored."""
        if not self._absorb(replica, readings, engine):
            return
        further = max(0, len(self._replicas) - FEW_REPLICAS)
        if self._is_due(REPLICA_SECONDS * further):
            self._update()
        elif self._update_soon is None:
            loop = asyncio.get_running_loop()
            self._update_soon = loop.call_later(REPLICA_SECONDS * further, self._update)

    def _absorb(self, replica: str, readings: Readings, engine: Engine | None) -> bool:
        """Take readings in; whether the replica is listed."""
        before = self._replicas.get(replica)
        if before is not None:
            trigger = self.trigger
            spans = Spans(
                trigger.latency_window_seconds,
                outage=trigger.stale_after,
                held_since=self._clock() - max(trigger.hold_seconds, trigger.stale_after),
            )
            self._replicas[replica] = absorb(before, readings, engine, spans)
        return before is not None

    def demanded(self, demand: Demand | Missing, doubt: str | None = None) -> None:
        """See `WakeSink.demanded`.

        What says the same as before is taken in no more often than replicas are read: with
        thousands of targets at zero there are thousands a second.
        """
        before = self._demand
        if isinstance(demand, Missing):
            same = self._demand_problem == demand.reason
            self._demand_problem = demand.reason
        else:
            same = before is not None and self._demand_problem == doubt and not demand.arrived
            same = same and before == replace(demand, at=before.at if before else 0.0)
            self._demand, self._demand_problem = demand, doubt
            self._beside = {
                name: value.number
                for name, each in self._replicas.items()
                if (value := each.values.get(Signal.CONCURRENCY)) is not None
            }
        if same and self._clock() < self._demanded_at + self._often:
            return
        self._demanded_at = self._clock()
        self._update()

    def decision(self) -> Decision:
        """Give the decision of this instant."""
        return self._decision_at(self._clock())

    def decision_for_metrics(self) -> Decision:
        """Give the decision of this instant, and let IsActive repeat it for a moment."""
        self.asked_at = now = self._clock()
        decision = self._decision_at(now)
        self._paired, self._paired_until = decision, now + PAIR_SECONDS
        return decision

    def decision_for_activity(self) -> Decision:
        """Give the decision that GetMetrics has just told, else the one of this instant."""
        self.asked_at = now = self._clock()
        if self._paired is not None and now < self._paired_until:
            return self._paired
        return self._decision_at(now)

    async def wait_for_first_reading(self, seconds: float) -> None:
        """Wait until there is an answer, or for so long. Later calls then wait no more."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.first_reading.wait()
        self.first_reading.set()

    @property
    def streams(self) -> int:
        """Streams that are open on this target."""
        return len(self._listeners)

    @contextlib.contextmanager
    def streamed(self, wake: Callable[[], None]) -> Iterator[None]:
        """Call back when there is a new decision, for a stream that is open while inside."""
        self._listeners.add(wake)
        try:
            yield
        finally:
            self._listeners.discard(wake)

    def wake(self) -> None:
        """Call back whoever listens."""
        for listener in tuple(self._listeners):
            listener()

    def change(self, trigger: Trigger) -> None:
        """Take another trigger. What was read and what is remembered stays.

        The next `decision()` is made by it; somebody has to ask for it, so that streams hear of it.
        """
        if trigger == self.trigger:
            return
        self.trigger = trigger
        self.rendered = self.specs = self._paired = self._decision = None
        view = View(trigger, self.snapshot, self._clock())
        self._memory = remember(self._memory, view, judge(view))

    def close(self) -> None:
        """Stop the timer, and wake those who wait."""
        self.closed = True
        self.first_reading.set()
        self._forget_soon()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.wake()

    @property
    def _often(self) -> float:
        """How many seconds may pass until what is only confirmed is taken in."""
        return min(self.trigger.poll_seconds, self.trigger.stale_after / 3)

    def _is_due(self, seconds: float) -> bool:
        """Whether the last change was taken in so long ago."""
        return self._clock() >= self._updated_at + seconds

    def _forget_soon(self) -> None:
        if self._update_soon is not None:
            self._update_soon.cancel()
            self._update_soon = None

    def _update(self) -> None:
        """Take a change of the readings in."""
        self._forget_soon()
        self._updated_at = now = self._clock()
        snapshot = self.snapshot
        view = View(self.trigger, snapshot, now)
        verdict = judge(view)
        self._memory = remember(self._memory, view, verdict)
        tried = self._problem is not None or self._listed_at is not None
        if self.trigger.wake_from is not None:
            tried = tried and not (self._demand is None and self._demand_problem is None)
        if tried and all(known.was_tried for known in snapshot.replicas):
            self.first_reading.set()
        self._decide(view, verdict)

    def _decision_at(self, now: float) -> Decision:
        if self._update_soon is not None:
            self._update()
        decision = self._decision
        return self._decide_anew() if decision is None or now >= decision.until else decision

    def _decide_anew(self) -> Decision:
        """Decide although nothing was read."""
        view = View(self.trigger, self.snapshot, self._clock())
        return self._decide(view, judge(view))

    def _decide(self, view: View, verdict: Verdict) -> Decision:
        self._decision = decision = decide(view, self._memory, verdict)
        self._memory = ask(self._memory, view, decision)
        self._ring_at(decision.until)
        # That replicas are there is known before what they say: for that it is waited for.
        is_unread = decision.reason is Reason.HOLD and self._memory.known_until is None
        if decision.state is not State.UNKNOWN and not is_unread:
            self.first_reading.set()
        if self.first_reading.is_set():
            self._history.record(view, decision)
        before = self._observed
        if self.first_reading.is_set() and (before is None or told(before) != told(decision)):
            self._observed = decision
            self._observe(self, before, decision)
            if before is None or _pushed(before) != _pushed(decision):
                self.wake()
        return decision

    def _ring_at(self, until: float) -> None:
        """Decide anew when time alone may change the decision, so that streams hear of it.

        Every reading moves that instant on. A timer that is there rings too early then, and is
        made anew: once, and not for every reading.
        """
        if self.closed or (self._timer is not None and self._rings_at <= until):
            return
        if self._timer is not None:
            self._timer.cancel()
        now = self._clock()
        self._rings_at = min(until, now + FORGET_SECONDS)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._rings_at - now, self._ring)

    def _ring(self) -> None:
        self._timer = None
        decision = self._decision
        if decision is None or self._clock() >= decision.until:
            self._decide_anew()
        else:
            self._ring_at(decision.until)


def told(decision: Decision) -> tuple[object, ...]:
    """Reduce a decision to what others see of it."""
    return (
        *(decision.state, decision.reason, decision.text, decision.answers),
        *(decision.engines, decision.warnings, decision.is_short),
    )


def _pushed(decision: Decision) -> tuple[object, ...]:
    """Reduce a decision to what streams tell of it, or repeat because of it."""
    return decision.state, decision.is_short


Follow = Callable[[Target], Callable[[], None]]
"""Starts what reads a target; gives what stops it."""


class Store:
    """All targets. `follow` is called with every new one and starts what reads it."""

    def __init__(self, follow: Follow, observe: Observer, clock: Clock) -> None:
        self._follow = follow
        self._observe = observe
        self._clock = clock
        self._targets: dict[Key, tuple[Target, Callable[[], None]]] = {}
        self._by_namespace: Counter[str] = Counter()
        """How many of them each namespace has."""
        self.made = 0
        """Targets that there have been so far."""
        self.forgotten = 0
        """Targets that were dropped because nobody asked about them."""

    def __len__(self) -> int:
        return len(self._targets)

    def targets(self) -> list[tuple[Key, Target]]:
        """Give every target with its key."""
        return [(key, target) for key, (target, _) in self._targets.items()]

    def named(self, namespace: str, name: str) -> list[Target]:
        """Find the targets of a ScaledObject: one for each metadata that KEDA asks about."""
        return [
            target
            for target, _ in self._targets.values()
            if target.name == name and target.namespace == namespace
        ]

    def find(self, key: Key) -> Target | None:
        """Find a target that is followed; None: it is not."""
        found = self._targets.get(key)
        return None if found is None else found[0]

    def follow(self, key: Key, namespace: str, name: str, trigger: Trigger) -> Target:
        """Begin to follow a target.

        Raises:
            TooManyTargetsError: when a cap is reached.

        """
        self.require_room(namespace)
        target = Target(namespace, name, trigger, self._clock, self._observe)
        self.made += 1
        self._targets[key] = (target, self._follow(target))
        self._by_namespace[namespace] += 1
        return target

    def require_room(self, namespace: str) -> None:
        """Ask whether one more target of a namespace can be followed.

        Raises:
            TooManyTargetsError: when a cap is reached.

        """
        if len(self._targets) >= MAX_TARGETS:
            raise TooManyTargetsError(f"{MAX_TARGETS} targets are followed already")
        if self._by_namespace[namespace] >= MAX_TARGETS_OF_NAMESPACE:
            raise TooManyTargetsError(
                f"{MAX_TARGETS_OF_NAMESPACE} targets of namespace {namespace} are followed already"
            )

    def forget(self) -> None:
        """Drop the targets that nobody asked about for `FORGET_SECONDS`."""
        now = self._clock()
        for key, (target, stop) in list(self._targets.items()):
            if not target.streams and now >= target.asked_at + FORGET_SECONDS:
                self.forgotten += 1
                stop()
                self._drop(key, target)

    def _drop(self, key: Key, target: Target) -> None:
        del self._targets[key]
        self._by_namespace[target.namespace] -= 1
        if not self._by_namespace[target.namespace]:
            del self._by_namespace[target.namespace]
        target.close()

    def keys(self) -> list[Key]:
        """Give the key of every target."""
        return list(self._targets)

    def follow_anew(self, parse: Callable[[Key], Trigger], follow: Follow) -> None:
        """Follow every target in another way and by a trigger that is parsed anew.

        `parse` raises `TriggerError` for a trigger that is refused: its target is dropped.
        """
        self._follow = follow
        for key, (target, stop) in list(self._targets.items()):
            stop()
            try:
                target.change(parse(key))
            except TriggerError:
                self._drop(key, target)
            else:
                self._targets[key] = (target, follow(target))

    def close(self) -> None:
        """Drop every target."""
        for target, stop in self._targets.values():
            stop()
            target.close()
        self._targets.clear()
        self._by_namespace.clear()
