"""Reasons: what each one means and what to do, for people; also docs/reasons.md."""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

from keda_scaler.core.decision import Reason, State


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a reason means."""

    states: tuple[State, ...]
    """With which states it comes, the usual one first."""

    when: str
    keda: str
    """What KEDA and the HPA do with it."""

    to_do: str


_LEFT_ALONE = "KEDA keeps the target active; the HPA gets no value for what is unknown."
_ERROR = "KEDA counts a failure: it leaves the replicas alone, or turns to `fallback`."

REASONS: Mapping[Reason, Meaning] = {
    Reason.WORK: Meaning(
        (State.ACTIVE,),
        "Fresh readings exceed an activation threshold, or an engine's counters show requests that "
        "came and went between two polls.",
        "KEDA keeps the target active; the HPA scales by the values.",
        "Nothing. Too many or too few replicas: compare each signal with its target; the one that "
        "asks for the most decides.",
    ),
    Reason.WAKING: Meaning(
        (State.ACTIVE,),
        "There was a request, or replicas loaded when the scaler started, and no replica answers "
        "yet. Lasts at most `coldStartSeconds`.",
        "KEDA scales from 0 to 1; the HPA sees at least one replica's worth.",
        "Wait for the model to load. When it takes longer than `coldStartSeconds`, raise that, and "
        "KEDA's `initialCooldownPeriod`. When no pod comes up, look at its events: no GPU, image "
        "or volume.",
    ),
    Reason.STUCK: Meaning(
        (State.ACTIVE,),
        "Nothing but replicas whose requests stand still for `stuckSeconds` shows work, and "
        "`onStuck` is `hold`.",
        _LEFT_ALONE,
        "Look at the log of the replicas that are named and restart them. Requests that take "
        "longer than `stuckSeconds` without a token are normal for some engines: raise it. "
        "`onStuck: idle` lets such replicas go.",
    ),
    Reason.SETTLING: Meaning(
        (State.ACTIVE, State.UNKNOWN),
        "There is no work, but not for `idleSeconds` yet. Unknown instead of active where active "
        "would wake what may be at zero.",
        "KEDA keeps the target active; its `cooldownPeriod` has not begun.",
        "Nothing. When it never becomes idle, something interrupts: requests that come more often "
        "than every `idleSeconds`, such as health checks that run inference.",
    ),
    Reason.PROVEN_IDLE: Meaning(
        (State.IDLE,),
        "Every replica, and the wake source, has proved idle for `idleSeconds`.",
        "KEDA scales to zero, or to `minReplicaCount`, after its `cooldownPeriod`.",
        "Nothing. When replicas stay up, look at KEDA's `cooldownPeriod`, at `minReplicaCount`, "
        "and at other triggers of the ScaledObject.",
    ),
    Reason.HOLD: Meaning(
        (State.ACTIVE,),
        "Activity is unknown while replicas are listed, also when they were never read. Lasts at "
        "most `holdSeconds`.",
        _LEFT_ALONE,
        "Find out why the replicas or the wake source that the text names do not answer, before "
        "`holdSeconds` are over.",
    ),
    Reason.NEVER_KNOWN: Meaning(
        (State.UNKNOWN,),
        "Activity was never known since this scaler follows the target, and no replica is listed "
        "that could be held.",
        _ERROR,
        "Mend what the text names: mostly a wrong `service`, `port` or `path`, a selector that "
        "matches nothing, or missing rights. Just after a start it passes by itself.",
    ),
    Reason.HOLD_OVER: Meaning(
        (State.UNKNOWN,),
        "Activity has been unknown for `holdSeconds`.",
        _ERROR,
        "Mend what the text names. Until then nothing is scaled. A longer `holdSeconds` only "
        "delays the error.",
    ),
    Reason.NO_HOLD: Meaning(
        (State.UNKNOWN,),
        "Activity is unknown, and no replica is listed that could be held, or `onUnknown` is "
        "`error`.",
        _ERROR,
        "Mend what the text names: mostly a wake source that does not answer while the model is "
        "at zero. Requests do not wake it until then.",
    ),
}


def render() -> str:
    """Write docs/reasons.md."""
    parts = [_HEAD]
    for reason, meaning in REASONS.items():
        states = " or ".join(meaning.states)
        parts.append(f"## {reason}\n")
        parts += [
            textwrap.fill(text, 100, break_on_hyphens=False, break_long_words=False) + "\n"
            for text in (
                f"State: {states}. {meaning.when}",
                f"**What KEDA does.** {meaning.keda}",
                f"**What to do.** {meaning.to_do}",
            )
        ]
    return "\n".join(parts)


_HEAD = """\
# Reasons

Written from the code by `tools/render-reasons`; a test fails when the two differ.

Why a target is active, idle or unknown: one of these words, and there are no others. They stand in
the log, in `keda_scaler_decisions_total`, on [the page](explain.md) and in what
`keda-scaler explain` prints.
"""
