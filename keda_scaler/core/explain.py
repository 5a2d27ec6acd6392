"""Explain: what a target says of itself at one instant, made from what its decision was made of."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from keda_scaler.core import told
from keda_scaler.core.decision import Decision, Held, Reason, Reported, State
from keda_scaler.core.demand import CAPPED, MAX_LATENCY_RATIO, MIN_OBSERVATIONS, replicas_for
from keda_scaler.core.history import History, per_replica
from keda_scaler.core.matchers import Matcher
from keda_scaler.core.memory import Memory
from keda_scaler.core.reasons import REASONS
from keda_scaler.core.signals import LATENCIES, Signal
from keda_scaler.core.snapshot import ReplicaReadings
from keda_scaler.core.trigger import Metric, Trigger
from keda_scaler.core.values import without_query
from keda_scaler.core.view import View
from keda_scaler.core.waking import ceiling
from keda_scaler.core.windows import growth, merged, quantile, slowest
from keda_scaler.core.words import unanswered, unit

MAX_REPLICAS = 200
"""Replicas of one target that are told of one by one."""


class Binding(StrEnum):
    """What can make an answer what it is."""

    SIGNAL = "signal"
    """The signal that asks for the most replicas."""

    ONE_REPLICA = "one-replica"
    """Active, and no signal asks for a replica: one stays."""

    LATENCY_LIMIT = "latency-limit"
    """A latency asks for at most twice the ready replicas at once."""

    PENDING_LIMIT = "pending-limit"
    """While replicas load, `maxPendingFactor` limits how many more are asked for."""

    MISSING_REPLICAS = "missing-replicas"
    """Something is missing, and moves the value in neither direction."""

    LEASE = "lease"
    """Active until a replica answers, at most `coldStartSeconds` after the last request."""

    IDLE_COUNTDOWN = "idle-countdown"
    """No work, but not for `idleSeconds` yet."""

    HOLD = "hold"
    """Something is unknown; the replicas are left alone for at most `holdSeconds`."""

    STUCK = "stuck"
    """Only replicas whose requests stand still show work."""

    ERROR = "error"
    """Something is unknown and is not held: KEDA gets an error."""


@dataclass(frozen=True, slots=True)
class Known:
    """What there is to explain, of one target at one instant."""

    namespace: str
    name: str
    view: View
    memory: Memory
    decision: Decision
    history: History
    asked_at: float
    """When somebody last asked about it, in monotonic seconds."""


def summarise(known: Known) -> told.Summary:
    """Tell of a target in a line."""
    decision, snapshot, now = known.decision, known.view.snapshot, known.view.now
    since = known.history.since
    to_zero = _seconds_to_zero(known)
    listed = snapshot.listed_at is not None
    fresh = snapshot.listed_at is not None and known.view.is_fresh(snapshot.listed_at)
    unlisted = snapshot.problem or ("the list is not confirmed" if listed and not fresh else None)
    return told.Summary(
        namespace=known.namespace,
        name=known.name,
        state=decision.state.value,
        reason=decision.reason.value,
        text=decision.text,
        since_seconds=None if since is None else _seconds(now - since),
        seconds_to_zero=to_zero if isinstance(to_zero, float) else None,
        seconds_to_zero_missing=to_zero if isinstance(to_zero, str) else None,
        replicas_listed=len(snapshot.replicas) if listed else None,
        replicas_listed_missing=unlisted or (None if listed else "nothing was read yet"),
        replicas_answering=decision.answering,
        replicas_wanted=decision.wanted,
        asked_age_seconds=_seconds(now - known.asked_at),
        signals=tuple(_signals(known)),
    )


def explain(known: Known, unix_seconds: float) -> told.Explanation:
    """Tell everything of a target. `unix_seconds` is the wall clock's time of the view."""
    summary = summarise(known)
    view, snapshot, now = known.view, known.view.snapshot, known.view.now
    began = unix_seconds - now
    listed_at = snapshot.listed_at
    replicas = sorted(
        (_replica(each, view) for each in snapshot.replicas[:MAX_REPLICAS]),
        key=lambda each: not each.stuck and not any(r.missing for r in each.readings),
    )
    return told.Explanation(
        **{field: getattr(summary, field) for field in told.Summary.__struct_fields__},
        to_do=_to_do(summary),
        bound_by=tuple(_bound_by(known, summary)),
        warnings=known.decision.warnings,
        trigger=effective(view.trigger),
        list_age_seconds=None if listed_at is None else _seconds(now - listed_at),
        demand=_demand(view),
        replicas=tuple(replicas),
        replicas_left_out=max(0, len(snapshot.replicas) - MAX_REPLICAS),
        changes=tuple(
            told.Change(
                unix_seconds=round(change.at + began, 3),
                seconds_ago=_seconds(now - change.at),
                state=change.state.value,
                reason=change.reason.value,
                text=change.text,
                replicas_wanted=change.wanted,
                replicas_answering=change.answering,
            )
            for change in reversed(known.history.changes)
        ),
        samples=samples(known, began),
    )


def _to_do(summary: told.Summary) -> str:
    broken = unanswered(summary)
    if broken is None:
        return REASONS[Reason(summary.reason)].to_do
    return (
        f"KEDA gets an error for {broken}, and the HPA scales by what is left. Mend what its text "
        "names, or leave its target out of the trigger."
    )


def samples(known: Known, began: float) -> tuple[told.Sample, ...]:
    """Tell of the last hour. `began` is the wall clock's time at the monotonic clock's 0."""
    return tuple(
        told.Sample(
            unix_seconds=round(sample.at + began, 3),
            state=sample.state.value,
            reason=sample.reason.value,
            replicas_wanted=sample.wanted,
            replicas_answering=sample.answering,
            demand_requests=sample.demand,
            per_replica={signal.value: _shown(n) for signal, n in sample.values.items()},
        )
        for sample in known.history.samples
    )


def effective(trigger: Trigger) -> dict[str, str]:
    """Give the keys in effect, as a trigger spells them; of URLs and paths not what follows a `?`,
    which may be a secret.
    """
    keys = {}
    for field in Trigger.model_fields:
        value = getattr(trigger, field)
        if value not in (None, ()):
            keys[Trigger.key_of(field)] = _written(field, value)
    for metric in trigger.metrics:  # the defaults, where no target is given
        keys.setdefault(_target_key(metric.signal), f"{metric.target:g}")
    return keys


def _target_key(signal: Signal) -> str:
    words = f"target-{signal}{'-seconds' if signal in LATENCIES else ''}".split("-")
    return words[0] + "".join(word.capitalize() for word in words[1:])


def _written(field: str, value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        entries = (
            each.promql if isinstance(each, Matcher) else without_query(each) for each in value
        )
        return ",".join(entries)
    return without_query(str(value)) if field.endswith(("path", "address")) else str(value)


def _seconds(value: float) -> float:
    return max(0.0, round(value, 3))


def _shown(value: float | None) -> float | None:
    """Cut off what no measurement has, such as the noise of a division."""
    return None if value is None else float(f"{value:.6g}")


def _seconds_to_zero(known: Known) -> float | str:
    """Say how long until the target is idle if nothing comes, or why that is not known."""
    memory, now = known.memory, known.view.now
    match known.decision.reason:
        case Reason.PROVEN_IDLE:
            return 0.0
        case Reason.SETTLING:
            since = now if memory.idle_since is None else memory.idle_since
            return _seconds(since + known.view.trigger.idle_seconds - now)
        case Reason.WORK:
            return "there is work"
        case Reason.WAKING:
            return "it is being woken"
        case Reason.STUCK:
            return "requests stand still, and onStuck is hold"
        case _:
            return "activity is unknown"


def _signals(known: Known) -> Iterator[told.Signal]:
    decision, view, trigger = known.decision, known.view, known.view.trigger
    asked = {
        metric.signal: replicas_for(metric, view, answer.number)
        for metric in trigger.metrics
        if isinstance(answer := decision.answers[metric.signal], Reported)
    }
    most = max(asked.values(), default=0.0)
    winner = next((s for s, replicas in asked.items() if replicas == most and most > 0), None)
    for metric in trigger.metrics:
        answer = decision.answers[metric.signal]
        number = answer.number if isinstance(answer, Reported) else None
        each = None
        if number is not None:
            each = per_replica(view, metric.signal, number)
        yield told.Signal(
            signal=metric.signal.value,
            unit=unit(metric.signal),
            target=metric.target,
            per_replica=_shown(each),
            reported=_shown(number),
            asks_for_replicas=_shown(asked.get(metric.signal)),
            decides=metric.signal is winner,
            held=isinstance(answer, Held),
            note=answer.text if isinstance(answer, Reported) else "",
            missing=None if isinstance(answer, Reported) else answer.text,
        )


def _bound_by(known: Known, summary: told.Summary) -> Iterator[told.Bound]:
    """Name what made the answer what it is, the most important first."""
    decision, memory = known.decision, known.memory
    trigger, now = known.view.trigger, known.view.now
    left: float | None
    match decision.reason:
        case Reason.WAKING if memory.lease_until is not None:
            left = _seconds(memory.lease_until - now)
            yield told.Bound(what=Binding.LEASE, text=decision.text, seconds_left=left)
        case Reason.SETTLING:
            left = summary.seconds_to_zero
            yield told.Bound(what=Binding.IDLE_COUNTDOWN, text=decision.text, seconds_left=left)
        case Reason.HOLD:
            since = now if memory.known_until is None else min(memory.known_until, now)
            left = _seconds(since + trigger.hold_seconds - now)
            yield told.Bound(what=Binding.HOLD, text=decision.text, seconds_left=left)
        case Reason.STUCK:
            yield told.Bound(what=Binding.STUCK, text=decision.text)
        case _ if decision.state is State.UNKNOWN:
            yield told.Bound(what=Binding.ERROR, text=decision.text)
        case _:
            pass
    if decision.state is State.UNKNOWN:
        return
    for metric, signal in zip(trigger.metrics, summary.signals, strict=True):
        yield from _bound_metric(known, metric, signal)
    asked = {signal.asks_for_replicas for signal in summary.signals}
    if decision.state is State.ACTIVE and asked == {0.0}:
        text = "no signal asks for a replica, and one stays while active"
        yield told.Bound(what=Binding.ONE_REPLICA, text=text)


def _bound_metric(known: Known, metric: Metric, signal: told.Signal) -> Iterator[told.Bound]:
    view = known.view
    name = signal.signal
    if signal.asks_for_replicas is None:
        text = f"{signal.missing}"
        answer = known.decision.answers[metric.signal]
        if not isinstance(answer, Held):
            yield told.Bound(what=Binding.ERROR, text=text)
        elif answer.is_partial:
            yield told.Bound(what=Binding.MISSING_REPLICAS, text=text)
        elif known.decision.reason not in {Reason.HOLD, Reason.STUCK}:  # which are told above
            yield told.Bound(what=Binding.HOLD, text=text, seconds_left=_held_seconds(view, metric))
        return
    if signal.decides:
        text = f"{name} asks for the most, {signal.asks_for_replicas:.3g} replicas"
        yield told.Bound(what=Binding.SIGNAL, text=text)
    most = ceiling(view, known.memory)
    if signal.note.startswith(CAPPED):
        text = f"{name} asks for at most {most:g} replicas until those that were asked for answer"
        yield told.Bound(what=Binding.PENDING_LIMIT, text=text)
    number = signal.per_replica or 0.0
    if metric.signal in LATENCIES and number >= MAX_LATENCY_RATIO * metric.target:
        text = f"{name} is {signal.note}; it asks for at most {MAX_LATENCY_RATIO:g} times the ready"
        yield told.Bound(what=Binding.LATENCY_LIMIT, text=text)
    concerned = [each for each in view.counted if metric.signal not in each.lacking]
    missing = [each for each in concerned if view.is_missing(each, metric.signal)]
    if missing:
        text = f"{name} of {missing[0].replica.name} is missing, which moves nothing"
        yield told.Bound(what=Binding.MISSING_REPLICAS, text=text)


def _tells(view: View, replica: ReplicaReadings, signal: Signal) -> bool:
    at = replica.measured_at(signal)
    return at is not None and view.is_fresh(at)


def _held_seconds(view: View, metric: Metric) -> float:
    """Say how long one metric is still held, while activity is known; it was known of somebody."""
    measured = (each.measured_at(metric.signal) for each in view.counted)
    newest = max(at for at in measured if at is not None)
    return _seconds(newest + view.trigger.stale_after + view.trigger.hold_seconds - view.now)


def _demand(view: View) -> told.Demand | None:
    if view.trigger.wake_from is None:
        return None
    demand = view.snapshot.demand
    missing = view.snapshot.demand_problem
    if demand is None:
        missing = missing or "not read yet"
    elif missing is None and view.demand is None:
        missing = "no news"
    return told.Demand(
        source=view.trigger.wake_from,
        requests=None if demand is None else demand.in_flight,
        held_requests=None if demand is None else demand.held,
        age_seconds=None if demand is None else _seconds(view.now - demand.at),
        missing=missing,
    )


def _replica(known: ReplicaReadings, view: View) -> told.Replica:
    wanted = {metric.signal for metric in view.trigger.metrics}
    wanted |= {signal for signal, _ in view.trigger.activations}
    return told.Replica(
        name=known.replica.name,
        engine=None if known.engine is None else known.engine.key,
        ready=known.replica.ready,
        terminating=known.replica.terminating,
        stuck=view.is_stuck(known),
        readings=tuple(_reading(known, signal, view) for signal in Signal if signal in wanted),
    )


def _reading(known: ReplicaReadings, signal: Signal, view: View) -> told.Reading:
    at = known.measured_at(signal)
    number = _number(known, signal, view.trigger)
    missing = None
    if signal in known.lacking:
        number, at, missing = None, None, known.lacking[signal].reason
    elif not _tells(view, known, signal):
        missing = known.problem(signal).removeprefix(f"{known.replica.name}: ")
    elif signal in known.problems:
        missing = known.problems[signal].reason
    elif number is None:
        missing = f"fewer than {MIN_OBSERVATIONS} observed"
    return told.Reading(
        signal=signal.value,
        value=_shown(number),
        age_seconds=None if at is None else _seconds(view.now - at),
        missing=missing,
    )


def _number(known: ReplicaReadings, signal: Signal, trigger: Trigger) -> float | None:
    """Give the newest number, however old it is."""
    if signal in LATENCIES:
        return _latency(known, signal, trigger)
    value = known.values.get(signal)
    return None if value is None else value.number


def _latency(known: ReplicaReadings, signal: Signal, trigger: Trigger) -> float | None:
    """Give the quantile over this replica's own window; None: too few were observed."""
    window = known.windows.get(signal)
    if window is not None:
        buckets = merged([growth(window)])
        if not buckets or buckets[-1][1] < MIN_OBSERVATIONS:
            return None
        found = quantile(trigger.latency_quantile, buckets)
    else:
        summary = known.quantiles.get(signal)
        found = slowest(trigger.latency_quantile, [] if summary is None else [summary])
    return None if found is None else found.seconds
