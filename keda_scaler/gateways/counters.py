"""Counters: whether requests arrived between two readings; and demand added up over pods. Pure."""

from collections.abc import Mapping, Sequence

from keda_scaler.core.readings import Demand, Missing

Series = tuple[str, frozenset[tuple[str, str]]]
"""The identity of a series: its name and its labels."""


def rose(before: Mapping[Series, float] | None, now: Mapping[Series, float]) -> bool:
    """Whether any counter is higher than before, or was born above zero.

    One that fell was reset, which tells of no request. None before: this is the first reading, with
    which later ones are compared, and it tells of nothing either.
    """
    return before is not None and any(
        number > before.get(series, 0.0) for series, number in now.items()
    )


def combine(parts: Sequence[Demand]) -> Demand | Missing:
    """Add up what the pods of a gateway say of one target.

    One positive part is enough, so demand is as new as the newest of those; that there is none is
    proven only as of the oldest part.
    """
    if not parts:
        return Missing("no pod of the gateway answered")
    positive = [part.at for part in parts if part.arrived or part.in_flight > 0]
    return Demand(
        held=sum(part.held for part in parts),
        in_flight=sum(part.in_flight for part in parts),
        arrived=any(part.arrived for part in parts),
        at=max(positive) if positive else min(part.at for part in parts),
    )
