"""Overview: which targets there are, filtered, in order and a page at a time.

There may be thousands, so whoever looks lets calls be answered in between.
"""

import asyncio
import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from msgspec import Struct

from keda_scaler.core.decision import State
from keda_scaler.core.told import Summary
from keda_scaler.core.trigger import Trigger
from keda_scaler.sources.sink import Clock
from keda_scaler.store import Store, Target
from keda_scaler.turns import Turns
from keda_scaler.web.tokens import ANY

DEFAULT_LIMIT = 50
MAX_LIMIT = 200
"""Targets of one page."""

MAX_LOOKS = 1
"""Looks at all targets at a time; later ones wait."""

MAX_SOURCES = 50
"""Sources that are listed; the others are added up as one."""

MAX_NAMESPACES = 200
"""Namespaces that are offered as a filter."""

_RUN = 256
"""Targets that are sorted in one go."""


@dataclass(frozen=True, slots=True)
class Query:
    """What is looked for."""

    namespace: str = ""
    """Only this one; empty: all."""

    state: State | None = None
    limit: int = DEFAULT_LIMIT
    offset: int = 0


class Source(Struct, frozen=True, kw_only=True, rename="camel"):
    """A place that targets are read from, and how well."""

    source: str
    targets: int
    replicas_listed: int | None
    """None: a wake source, which lists none."""

    replicas_answering: int | None
    newest_seconds: float | None
    """Since the newest news of any target; None: there was none yet."""

    targets_in_trouble: int
    """Targets about which the last news was none, or is too old."""

    trouble: str | None
    """What one of them says."""


class Overview(Struct, frozen=True, kw_only=True, rename="camel"):
    """One page of targets, and what is true of all."""

    total: int
    """Targets that match."""

    limit: int
    offset: int
    states: Mapping[str, int]
    """Targets by state, of the namespace that is looked for."""

    namespaces: Sequence[str]
    """The first of those that have targets."""

    sources: Sequence[Source]
    targets: Sequence[Summary] = ()
    """Those of the page, in the order of namespace and name."""


@dataclass(slots=True)
class _Tally:
    """What is added up of one source."""

    lists: bool
    targets: int = 0
    listed: int = 0
    answering: int = 0
    newest: float | None = None
    in_trouble: int = 0
    trouble: str | None = None


@dataclass(slots=True)
class _Look:
    """What one look at all targets finds."""

    states: Counter[str] = field(default_factory=Counter)
    namespaces: set[str] = field(default_factory=set)
    sources: dict[str, _Tally] = field(default_factory=dict)


class Overviews:
    """Looks at the targets of a store."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._looking = asyncio.Semaphore(MAX_LOOKS)

    async def look(self, query: Query, visible: frozenset[str]) -> tuple[Overview, list[Target]]:
        """Find one page of targets, by namespace and name, and add all up."""
        async with self._looking:
            turns = Turns()
            found = _Look()
            runs: list[list[Target]] = [[]]
            for _, target in self._store.targets():
                if ANY in visible or target.namespace in visible:
                    if self._take(target, query, found):
                        runs[-1].append(target)
                        if len(runs[-1]) == _RUN:
                            runs[-1].sort(key=_order)
                            runs.append([])
                    await turns.take()
            runs[-1].sort(key=_order)
            page: list[Target] = []
            end = query.offset + query.limit
            for index, target in enumerate(heapq.merge(*runs, key=_order)):
                if index >= end:
                    break
                if index >= query.offset:
                    page.append(target)
                await turns.take()
        overview = Overview(
            total=sum(map(len, runs)),
            limit=query.limit,
            offset=query.offset,
            states={state.value: found.states[state.value] for state in State},
            namespaces=heapq.nsmallest(MAX_NAMESPACES, found.namespaces),
            sources=list(self._sources(found.sources)),
        )
        return overview, page

    def find(self, namespace: str, name: str, visible: frozenset[str]) -> list[Target]:
        """Find the targets of a ScaledObject: one for each of its triggers that KEDA asks about."""
        if ANY not in visible and namespace not in visible:
            return []
        return self._store.named(namespace, name)

    def _take(self, target: Target, query: Query, found: _Look) -> bool:
        """Add a target up; whether it is looked for."""
        if len(found.namespaces) < 10 * MAX_NAMESPACES:
            found.namespaces.add(target.namespace)
        self._add(target, found.sources)
        if query.namespace and target.namespace != query.namespace:
            return False
        state = target.decision().state
        found.states[state.value] += 1
        return query.state is None or state is query.state

    def _add(self, target: Target, sources: dict[str, _Tally]) -> None:
        """Add a target up for what it is read from."""
        now = self._clock()
        health = target.health()
        late = now - target.trigger.stale_after
        places = [(source_of(target.trigger), health.listed_at, health.problem)]
        if target.trigger.wake_from:
            wake = f"wake source {target.trigger.wake_from}"
            places.append((wake, health.demanded_at, health.demand_problem))
        for number, (name, at, problem) in enumerate(places):
            if name not in sources and len(sources) >= MAX_SOURCES:
                name = "others"  # noqa: PLW2901  # they are added up
            tally = sources.setdefault(name, _Tally(lists=number == 0))
            tally.targets += 1
            if number == 0:
                tally.listed += health.listed
                tally.answering += health.answering
            if at is not None:
                tally.newest = at if tally.newest is None else max(at, tally.newest)
            if problem is not None or at is None or at <= late:
                tally.in_trouble += 1
                tally.trouble = tally.trouble or problem or ("no news" if at else "not read yet")

    def _sources(self, sources: Mapping[str, _Tally]) -> Iterator[Source]:
        now = self._clock()
        for name, tally in sorted(sources.items()):
            yield Source(
                source=name,
                targets=tally.targets,
                replicas_listed=tally.listed if tally.lists else None,
                replicas_answering=tally.answering if tally.lists else None,
                newest_seconds=None if tally.newest is None else round(now - tally.newest, 3),
                targets_in_trouble=tally.in_trouble,
                trouble=tally.trouble,
            )


def source_of(trigger: Trigger) -> str:
    """Name what the replicas of a target are read from."""
    if trigger.by_reports:
        return "reports"
    if trigger.service:
        return "pods of Services"
    if trigger.endpoints:
        return "static endpoints"
    return f"Prometheus {trigger.prometheus or trigger.server_address}"


def _order(target: Target) -> tuple[str, str]:
    return target.namespace, target.name
