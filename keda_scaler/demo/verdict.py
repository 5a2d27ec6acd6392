"""Whether a demo did what it promises, in one line."""

from collections.abc import Mapping
from dataclasses import dataclass

from keda_scaler.demo.plan import Plan


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a demo."""

    seconds: float
    """How long it took."""

    arrived: int
    served: int
    losses: Mapping[str, int]
    """Requests that were lost, by what went wrong."""

    peak: int
    """The most replicas that were ready at once."""

    replicas: int
    """What was wanted at the end."""

    pods: int
    """What was there at the end."""

    woken_after: float | None
    """Seconds from the first request to the first replica wanted; None: never, or without one."""

    woke_unasked: bool
    """A replica was wanted although there was no request yet."""

    slept_on: int
    """Requests that were under way while the last replica was taken away; the most there were."""


def problems(outcome: Outcome, plan: Plan) -> list[str]:
    """Find what is wrong; empty: nothing."""
    found = [
        f"lost {count} of {outcome.arrived} requests ({loss})"
        for loss, count in outcome.losses.items()
    ]
    unserved = outcome.arrived - outcome.served - sum(outcome.losses.values())
    if not outcome.arrived:
        found.append("no request came")
    if unserved > 0:
        found.append(f"{unserved} of {outcome.arrived} requests were not answered")
    if outcome.woke_unasked:
        found.append("a replica was woken before there was a request")
    if outcome.slept_on:
        found.append(f"scaled to 0 while {outcome.slept_on} requests were under way")
    if outcome.peak < plan.least_peak:
        found.append(f"at most {outcome.peak} replicas were ready, not {plan.least_peak}")
    if outcome.replicas or outcome.pods:
        found.append(f"not back at 0 replicas within {plan.limit_seconds:g} s")
    return found


def verdict(outcome: Outcome, plan: Plan) -> str:
    """Say it in one line."""
    found = problems(outcome, plan)
    if found:
        return f"FAILED after {outcome.seconds:.0f} s: {'; '.join(found)}"
    woken = "" if outcome.woken_after is None else f", woken after {outcome.woken_after:.1f} s"
    return (
        f"OK: 0 -> {outcome.peak} -> 0 replicas in {outcome.seconds:.0f} s, "
        f"{outcome.served} requests served, none lost{woken}"
    )
