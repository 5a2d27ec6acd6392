"""Series of every target: computed and written in turns, because there may be thousands."""

import math
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from hashlib import blake2s

from keda_scaler.core.decision import Decision, Held, Reason, Reported, State, Unavailable
from keda_scaler.core.demand import CAPPED
from keda_scaler.core.signals import Signal
from keda_scaler.core.snapshot import ReplicaReadings, Snapshot
from keda_scaler.sources.sink import Clock
from keda_scaler.store import Key, Target
from keda_scaler.telemetry import families
from keda_scaler.telemetry.families import Family
from keda_scaler.turns import Turns

MAX_SHOWN = 5_000
"""Targets with series of their own: the first that came. Each has 12 series, and 2 for each of its
signals; of later ones only the totals tell."""

_MAX_LABEL = 253
"""Characters of a label's value: the longest name that Kubernetes takes."""

_LINES = 500
"""Lines that are written in one go."""

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})

Figure = tuple[Family, str, float]
"""A metric, the labels that it has besides the target's, written out, and its value."""


async def write(targets: Sequence[tuple[Key, Target]], clock: Clock) -> AsyncIterator[bytes]:
    """Write the metrics of all targets, in pieces."""
    lines: dict[str, list[str]] = {family.name: [] for family in families.OF_TARGETS}
    states = dict.fromkeys(State, 0)
    stuck = 0
    shown: set[str] = set()
    turns = Turns()
    for key, target in targets:
        decision = target.decision()
        states[decision.state] += 1
        stuck += len(decision.stuck)
        labels = labels_of(key, target) if len(shown) < MAX_SHOWN else None
        if labels is not None and labels not in shown:  # twice the same would lose the whole page
            shown.add(labels)
            for family, more, number in figures(target, decision, clock()):
                lines[family.name].append(f"{family.name}{{{labels}{more}}} {number!r}\n")
        await turns.take()
    yield "".join(_totals(states, stuck, len(targets) - len(shown))).encode()
    for family in families.OF_TARGETS:
        yield head(family).encode()
        written = lines.pop(family.name)
        for start in range(0, len(written), _LINES):
            yield "".join(written[start : start + _LINES]).encode()
            await turns.take()


def head(family: Family) -> str:
    """Write what stands above the series of a metric."""
    return f"# HELP {family.name} {family.text}\n# TYPE {family.name} {family.kind}\n"


def _totals(states: dict[State, int], stuck: int, not_shown: int) -> Iterator[str]:
    yield head(families.TARGETS)
    for state, count in states.items():
        yield f'{families.TARGETS.name}{{state="{state}"}} {count}\n'
    yield f"{head(families.STUCK)}{families.STUCK.name} {stuck}\n"
    yield f"{head(families.NOT_SHOWN)}{families.NOT_SHOWN.name} {not_shown}\n"


def labels_of(key: Key, target: Target) -> str:
    """Write the labels of a target.

    A ScaledObject may have several triggers of ours, and KEDA does not tell which of them it asks
    about. What tells them apart is their metadata: `trigger` is a digest of all that is asked
    about, the same in every replica of the scaler and after a restart.
    """
    digest = blake2s(key, digest_size=4).hexdigest()
    namespace, name = _written(target.namespace), _written(target.name)
    return f'namespace="{namespace}",name="{name}",trigger="{digest}"'


def _written(text: str) -> str:
    """Write a label's value: anybody may have made it up."""
    return text[:_MAX_LABEL].translate(_ESCAPES)


def figures(target: Target, decision: Decision, now: float) -> Iterator[Figure]:
    """Say everything about a target at one instant; `now` is in monotonic seconds."""
    yield families.STATE, f',state="{decision.state}",reason="{decision.reason}"', 1
    for metric in target.trigger.metrics:
        label = f',signal="{metric.signal}"'
        answer = decision.answers[metric.signal]
        if isinstance(answer, Reported):
            yield families.SIGNAL, label, answer.number
        yield families.SIGNAL_TARGET, label, metric.target
    counts = Counter(type(answer) for answer in decision.answers.values())
    yield families.HELD, "", counts[Held]
    yield families.UNKNOWN, "", counts[Unavailable]
    yield families.CAPPED, "", sum(map(_is_capped, decision.answers.values()))
    yield families.WANTED, "", decision.wanted
    yield families.ANSWERING, "", decision.answering
    yield families.STUCK_OF_TARGET, "", len(decision.stuck)
    idle_at = target.idle_at
    if idle_at is not None and decision.reason in {Reason.SETTLING, Reason.PROVEN_IDLE}:
        yield families.IDLE_IN, "", round(max(0.0, idle_at - now), 3)
    snapshot, stale_after = target.snapshot, target.trigger.stale_after
    demand = snapshot.demand
    if demand is not None and now < demand.at + stale_after:
        yield families.DEMAND, "", demand.in_flight
    known_at = _known_at(snapshot)
    if known_at < math.inf:
        yield families.READING_AGE, "", round(max(0.0, now - known_at), 3)
    yield families.STALE_AFTER, "", stale_after
    yield families.ASKED_AGE, "", round(max(0.0, now - target.asked_at), 3)


def _is_capped(answer: object) -> bool:
    return isinstance(answer, Reported) and answer.text.startswith(CAPPED)


def _known_at(snapshot: Snapshot) -> float:
    """Say as of when everything is known that was ever read; infinite: nothing was.

    A list that needs no confirmation is known as of any time.
    """
    instants = [at for each in snapshot.replicas if (at := _read_at(each)) is not None]
    if snapshot.listed_at is not None:
        instants.append(snapshot.listed_at)
    if snapshot.demand is not None:
        instants.append(snapshot.demand.at)
    return min(instants, default=math.inf)


def _read_at(replica: ReplicaReadings) -> float | None:
    """Say as of when the newest reading of a replica is; None: it was never read."""
    instants = (replica.measured_at(signal) for signal in Signal)
    return max((at for at in instants if at is not None), default=None)
