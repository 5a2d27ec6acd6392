"""The decision: active, idle or unknown, plus an answer per metric, plus the reason.

Made from one snapshot at one instant, by the table of the three answers in docs/architecture.md.
Time and readings decide; how often it is asked for does not.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import assert_never

from msgspec import Struct
from msgspec.structs import replace

from keda_scaler.core import waking
from keda_scaler.core.activity import Quiet, Stuck, Unknown, Verdict, Work
from keda_scaler.core.demand import (
    Report,
    Unmoved,
    replicas_for,
    report,
    total_of,
    whole,
)
from keda_scaler.core.memory import Memory
from keda_scaler.core.readings import Engine
from keda_scaler.core.signals import Signal
from keda_scaler.core.snapshot import ReplicaReadings
from keda_scaler.core.trigger import Metric, Trigger
from keda_scaler.core.view import View

MAX_STUCK_NAMED = 10
"""Stuck replicas that get a warning of their own: all warnings must fit beside an answer."""


class State(StrEnum):
    """The three answers."""

    ACTIVE = "active"
    IDLE = "idle"
    UNKNOWN = "unknown"


class Reason(StrEnum):
    """Why the state is what it is."""

    WORK = "work"
    """Readings show work."""

    WAKING = "waking"
    """The lease runs: there was a request, and no replica answers yet."""

    STUCK = "stuck"
    """Nothing but replicas whose requests stand still shows work, and `onStuck` says hold."""

    SETTLING = "settling"
    """Proof of idleness holds, but not for `idleSeconds` yet."""

    PROVEN_IDLE = "proven-idle"
    """Proof of idleness has held for `idleSeconds`."""

    HOLD = "hold"
    """Activity is unknown while replicas are known to run: they are left alone."""

    NEVER_KNOWN = "never-known"
    """Activity was never known."""

    HOLD_OVER = "hold-over"
    """Activity has been unknown for longer than `holdSeconds`."""

    NO_HOLD = "no-hold"
    """Activity is unknown, and there is nothing to hold or `onUnknown` says error."""


class Reported(Struct, frozen=True, gc=False):
    """A metric's value."""

    number: float
    """From 0 to below 1e12."""

    text: str = ""
    """What is noteworthy about it, for people; empty: nothing."""

    is_repeated: bool = False
    """Whether it is what it was before, because something is missing."""


class Held(Struct, frozen=True, gc=False):
    """No value and no error: KEDA and the HPA leave the replicas alone."""

    text: str
    is_partial: bool = False
    """Whether what is known asks for no change; else nothing is known."""


class Unavailable(Struct, frozen=True, gc=False):
    """An error: unknown, and not (or no longer) held."""

    text: str


Answer = Reported | Held | Unavailable


class Decision(Struct, frozen=True, gc=False):
    """What the scaler says of a target."""

    state: State
    reason: Reason
    text: str
    """The reason in words, for people; no secret and no time, because it may end up in an Event."""

    answers: Mapping[Signal, Answer]
    """One for each metric of the trigger."""

    engines: tuple[str, ...]
    """The engines that were found on the replicas, by their keys."""

    warnings: tuple[str, ...]
    """What makes this trigger misbehave with these engines, for people."""

    stuck: tuple[str, ...]
    """The replicas that are stuck, by name."""

    answering: int
    """Replicas that serve."""

    wanted: int
    """Replicas that the metrics ask for; at least one while active."""

    until: float
    """When this decision may change although nothing new is read, in monotonic seconds."""

    @property
    def is_short(self) -> bool:
        """Whether fewer replicas serve than are wanted."""
        return self.answering < self.wanted


def decide(view: View, memory: Memory, verdict: Verdict) -> Decision:
    """Decide about a target.

    `memory` must have been told of every change of the snapshot, and `verdict` is of this view.
    """
    trigger = view.trigger
    state, reason, text = _state(view, memory, verdict)
    if state is State.UNKNOWN:
        answers: dict[Signal, Answer] = {m.signal: Unavailable(text) for m in trigger.metrics}
    else:
        answers = {m.signal: _answer(m, view, memory, reason) for m in trigger.metrics}
    engines = {replica.engine for replica in view.snapshot.replicas if replica.engine is not None}
    stuck = tuple(replica.replica.name for replica in view.stuck)
    return Decision(
        state=state,
        reason=reason,
        text=text,
        answers=answers,
        engines=tuple(sorted({engine.key for engine in engines})),
        warnings=(
            *_warnings(trigger, engines),
            *_stuck_warnings(trigger, stuck),
            *_silent_warnings(view),
        ),
        stuck=stuck,
        answering=view.answering,
        wanted=max(_wanted(view, memory, answers), int(state is State.ACTIVE)),
        until=_until(view, memory),
    )


def ask(memory: Memory, view: View, decision: Decision) -> Memory:
    """Remember what a decision about this view asks for."""
    reported = {
        signal: answer
        for signal, answer in decision.answers.items()
        if isinstance(answer, Reported)
    }
    totals = {signal: total_of(view, answer.number) for signal, answer in reported.items()}
    new = {signal: view.now for signal, answer in reported.items() if not answer.is_repeated}
    memory = replace(memory, reported_at={**memory.reported_at, **new})
    return waking.ask(memory, view, decision.wanted, totals)


def _wanted(view: View, memory: Memory, answers: Mapping[Signal, Answer]) -> int:
    """Say how many replicas the HPA will make of the answers; without a value it changes nothing,
    so that what was asked for stays asked for.
    """
    asked = [0.0]
    for metric in view.trigger.metrics:
        answer = answers[metric.signal]
        if isinstance(answer, Reported):
            asked.append(replicas_for(metric, view, answer.number))
        elif isinstance(answer, Held):
            asked.append(memory.totals.get(metric.signal, 0.0) / metric.target)
    return whole(max(asked))


def _silent_warnings(view: View) -> Iterator[str]:
    """Name the replicas that are ready, never answered, and are waited for no more."""
    names = [
        each.replica.name
        for each in view.counted
        if each.replica.ready and not each.has_answered and not view.is_awaited(each)
    ]
    for name in names[:MAX_STUCK_NAMED]:
        yield (
            f"{name} is ready and has never answered for holdSeconds "
            f"({view.trigger.hold_seconds:g}): values leave it out, and it keeps the target from "
            "being idle; a Service must select only pods that have a metrics page"
        )
    if len(names) > MAX_STUCK_NAMED:
        yield f"{len(names) - MAX_STUCK_NAMED} more replicas have never answered"


def _stuck_warnings(trigger: Trigger, stuck: Sequence[str]) -> Iterator[str]:
    for name in stuck[:MAX_STUCK_NAMED]:
        yield (
            f"{name} is stuck: its requests and its counters have not moved for stuckSeconds "
            f"({trigger.stuck_seconds:g}); onStuck is {trigger.on_stuck}"
        )
    if len(stuck) > MAX_STUCK_NAMED:
        yield f"{len(stuck) - MAX_STUCK_NAMED} more replicas are stuck"


def _warnings(trigger: Trigger, engines: Collection[Engine]) -> Iterator[str]:
    """Say why a target on the device will not do what it seems to promise."""
    signals = {metric.signal for metric in trigger.metrics}
    reserving = sorted(engine.key for engine in engines if engine.reserves_memory)
    by_device = trigger.gpu_memory_source == "device" and Signal.GPU_MEMORY_PRESSURE in signals
    if by_device and reserving:
        yield (
            f"{reserving[0]} takes its GPU memory at start and keeps it: a target on device memory "
            "scales out and never in; gpuMemorySource kv-cache follows the load"
        )
    if Signal.GPU_UTILIZATION in signals:
        yield (
            "one request is enough to keep a GPU busy: gpu-utilization tells busy from idle, "
            "not how much work there is; targetQueueDepth or targetConcurrency does"
        )


def _state(view: View, memory: Memory, verdict: Verdict) -> tuple[State, Reason, str]:
    if memory.leases(view.now) and not view.answering:
        why = verdict.text if isinstance(verdict, Work) else "there was a request, or we started"
        return State.ACTIVE, Reason.WAKING, f"{why}; no replica answers yet"
    match verdict:
        case Work(text=text):
            return State.ACTIVE, Reason.WORK, text
        case Stuck(text=text):
            return State.ACTIVE, Reason.STUCK, text
        case Quiet():
            seconds = view.trigger.idle_seconds
            since = view.now if memory.idle_since is None else memory.idle_since
            if view.now >= since + seconds:
                return State.IDLE, Reason.PROVEN_IDLE, "no work"
            text = f"no work, but not for idleSeconds ({seconds:g}) yet"
            if not _is_up(view, memory):
                return State.UNKNOWN, Reason.SETTLING, text  # active would wake it
            return State.ACTIVE, Reason.SETTLING, text
        case Unknown(text=text):
            return _unknown(view, memory, text)
        case _:
            assert_never(verdict)


def _is_up(view: View, memory: Memory) -> bool:
    """Whether replicas may be up, so that active does not wake what was put to sleep.

    Those that leave do not tell.
    """
    return memory.worked if view.trigger.by_reports else bool(view.counted) or not memory.rested


def _unknown(view: View, memory: Memory, missing: str) -> tuple[State, Reason, str]:
    trigger, now = view.trigger, view.now
    if memory.known_until is None:
        since = now if memory.listed_since is None else memory.listed_since
        text = f"activity was never known: {missing}"
        # A list in the trigger, and reports, may stand before a Deployment at zero.
        running = bool(view.counted) and not trigger.endpoints and not trigger.by_reports
        if trigger.on_unknown == "error" or not running:
            return State.UNKNOWN, Reason.NEVER_KNOWN, text
    else:
        since = min(memory.known_until, now)
        text = f"activity unknown for {_coarsely(since, now)}: {missing}"
        running = bool(view.snapshot.replicas) and _is_up(view, memory)
    if trigger.on_unknown == "error" or not running:
        return State.UNKNOWN, Reason.NO_HOLD, text
    if now >= since + trigger.hold_seconds:
        return State.UNKNOWN, Reason.HOLD_OVER, f"{text} (held for {trigger.hold_seconds:g} s)"
    return State.ACTIVE, Reason.HOLD, text


def _answer(metric: Metric, view: View, memory: Memory, reason: Reason) -> Answer:
    """Answer for one metric of a target whose state is known, or held."""
    trigger, now = view.trigger, view.now
    reported = report(metric, view, memory)
    if isinstance(reported, Report):
        return Reported(reported.number, reported.text, reported.is_repeated)
    if isinstance(reported, Unmoved):
        return Held(f"{metric.signal} asks for no change: {reported.reason}", is_partial=True)
    since = _known_until(metric.signal, view)
    if reason in {Reason.HOLD, Reason.STUCK}:
        return Held(f"{metric.signal} unknown: {reported.reason}")
    if since is None:
        return Unavailable(f"{metric.signal} was never known: {reported.reason}")
    text = f"{metric.signal} unknown for {_coarsely(since, now)}: {reported.reason}"
    held = trigger.on_unknown == "hold" and now < since + trigger.hold_seconds
    return Held(text) if held else Unavailable(text)


def _known_until(signal: Signal, view: View) -> float | None:
    """Say until when at least one replica that counts had a fresh value; None: none ever had."""
    return max(
        (
            at + view.trigger.stale_after
            for replica in view.counted
            if (at := replica.measured_at(signal)) is not None
        ),
        default=None,
    )


_STEPS = (
    (3600.0, "over an hour"),
    (900.0, "over 15 minutes"),
    (300.0, "over 5 minutes"),
    (60.0, "over a minute"),
)


def _coarsely(since: float, now: float) -> str:
    """Say a duration in few steps: Kubernetes counts Events with the same text as one."""
    return next((text for step, text in _STEPS if now >= since + step), "less than a minute")


def _until(view: View, memory: Memory) -> float:
    """Find the next instant at which time alone may change the decision."""
    trigger, snapshot = view.trigger, view.snapshot
    instants = [memory.asked_at + trigger.cold_start_seconds]
    instants += (at + trigger.stale_after for at in memory.reported_at.values())
    if snapshot.listed_at is not None:
        instants.append(snapshot.listed_at + trigger.stale_after)
    if snapshot.demand is not None:
        instants.append(snapshot.demand.at + trigger.stale_after)
    if memory.lease_until is not None:
        instants.append(memory.lease_until)
    if memory.idle_since is not None:
        instants.append(memory.idle_since + trigger.idle_seconds)
    if memory.known_until is not None:
        instants.append(_step(view, memory.known_until))
    elif memory.listed_since is not None:
        instants.append(_step(view, memory.listed_since))
    for replica in snapshot.replicas:
        instants += _of_replica(view, replica)
    return min((at for at in instants if at > view.now), default=math.inf)


def _of_replica(view: View, replica: ReplicaReadings) -> Iterator[float]:
    if replica.ready_since is not None and not replica.has_answered:
        yield replica.ready_since + view.trigger.hold_seconds
    if replica.still_since is not None:
        yield replica.still_since + view.trigger.stuck_seconds
    for measured in (replica.values, replica.windows, replica.quantiles):
        for reading in measured.values():
            yield _step(view, reading.at + view.trigger.stale_after)


def _step(view: View, known_until: float) -> float:
    """Say when what was known until then changes next: it lapses, or is unknown for so long."""
    if known_until > view.now:
        return known_until
    steps = (view.trigger.hold_seconds, *(step for step, _ in _STEPS))
    return min((known_until + s for s in steps if known_until + s > view.now), default=math.inf)
