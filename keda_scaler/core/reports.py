"""Reports: what gateways, queue workers and batch jobs state of their own ScaledObject.

Rules
1. A report is absolute, and replaces what the same reporter stated before: a repeated one changes
   nothing, and a lost one is mended by the next.
2. A report holds for as long as its reporter said. Silence after that is unknown, never zero.
3. A reporter that fell silent while it had requests may have them still. As long as it is
   remembered, the others' zeros prove nothing. Nor do they while a report is lost, because who
   keeps them lost their data: for as long as it had promised to hold.
4. Who began to keep reports a moment ago may have lost any. Zeros prove nothing until all who
   report at least every 30 s had their turn.

Times are monotonic seconds of whoever keeps the reports.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from keda_scaler.core.readings import Missing
from keda_scaler.errors import TooManyReportsError

MAX_REPORTERS = 100
"""Reporters of one ScaledObject: replicas of a gateway, workers of a queue."""

MAX_REPORTED = 20_000
"""ScaledObjects with reports: as many as targets."""

MAX_REPORTED_OF_NAMESPACE = 5_000
"""Those of one namespace: who may report for it leaves the others room."""

SILENT_SECONDS = 300.0
"""How long a reporter that fell silent with requests is remembered: a pod that crashed is back by
then, and one that is gone for good does not keep a model awake for ever."""

YOUNG_SECONDS = 30.0
"""For so long whoever keeps reports is new to them: it may have lost what was stated before."""

SWEEP_SECONDS = 10.0
"""How often at most all that is forgotten is let go of, when the cap is reached."""

NO_REPORT = "no report, or none within its ttlSeconds"

YOUNG = f"reports are kept for less than {YOUNG_SECONDS:g} s: others may have stated more before"

ScaledObject = tuple[str, str]
"""Namespace and name."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one reporter states."""

    namespace: str
    name: str
    """Of the ScaledObject."""

    reporter: str
    """Who states it; unique among the reporters of the ScaledObject."""

    waiting: int
    """Requests that no replica has yet; at least 0."""

    running: int
    """Requests that a replica works on; at least 0."""

    ttl_seconds: float
    """How long it holds, unless the reporter states something else before."""

    @property
    def about(self) -> ScaledObject:
        """The ScaledObject it is about."""
        return self.namespace, self.name


@dataclass(frozen=True, slots=True)
class Statement:
    """What a reporter stated last."""

    waiting: int
    running: int
    expires_at: float

    is_lost: bool = False
    """Whether whoever kept it has it no more, although it would still hold."""

    @property
    def forgotten_at(self) -> float:
        """When it stops to matter. Silence after a zero says nothing."""
        return self.expires_at + (SILENT_SECONDS if self.waiting or self.running else 0.0)


Statements = Mapping[str, Statement]
"""What each reporter of a ScaledObject stated last."""


class Kept(NamedTuple):
    """What is kept of a ScaledObject."""

    statements: Statements
    at: float
    """As of when it is confirmed, in monotonic seconds."""

    since: float = -math.inf
    """Since when whoever keeps reports has kept all of them, likewise."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What all reporters of a ScaledObject state together."""

    waiting: int
    running: int
    at: float
    """As of when it is confirmed, in monotonic seconds."""

    doubt: str | None = None
    """Why there may be more requests than these, so that zeros prove nothing."""


def tally(kept: Kept, now: float) -> Tally | Missing:
    """Add up what is stated at `now`."""
    statements, at, since = kept
    live = [each for each in statements.values() if now < each.expires_at and not each.is_lost]
    waiting, running = sum(each.waiting for each in live), sum(each.running for each in live)
    if waiting or running:
        return Tally(waiting, running, at)
    for reporter, each in sorted(statements.items()):
        if each.is_lost and now < each.forgotten_at:
            return Missing(f"what reporter {reporter} stated is lost")
        if each.expires_at <= now < each.forgotten_at:
            return Missing(f"reporter {reporter} fell silent")
    if not live:
        return Missing(NO_REPORT)
    return Tally(0, 0, at, doubt=YOUNG if now < since + YOUNG_SECONDS else None)


def carried(before: Statements, found: Statements, now: float) -> Statements:
    """Add what is there no more, and would be: it is lost, for as long as it matters."""
    gone = {
        reporter: replace(each, is_lost=True)
        for reporter, each in before.items()
        if reporter not in found and now < each.forgotten_at
    }
    return {**found, **dict(list(gone.items())[:MAX_REPORTERS])}


def next_change(kept: Kept, now: float) -> float | None:
    """Say when time alone may change the tally next; None: never."""
    stated = kept.statements.values()
    times = [time for each in stated for time in (each.expires_at, each.forgotten_at)]
    times.append(kept.since + YOUNG_SECONDS)
    return min((time for time in times if time > now), default=None)


class Ledger:
    """What every reporter of every ScaledObject stated last."""

    def __init__(self) -> None:
        self._statements: dict[ScaledObject, dict[str, Statement]] = {}
        self._by_namespace: Counter[str] = Counter()
        self._swept_at = -math.inf

    def __len__(self) -> int:
        return len(self._statements)

    def statements(self, about: ScaledObject) -> Statements:
        """Give what is stated of a ScaledObject."""
        return self._statements.get(about, {})

    def state(self, reports: Iterable[Report], now: float) -> list[ScaledObject]:
        """Take reports in, all or none; give the ScaledObjects that they are about.

        Of several reports of one reporter about the same ScaledObject the last one counts.

        Raises:
            TooManyReportsError: when a cap is reached.

        """
        changed: dict[ScaledObject, dict[str, Statement]] = {}
        for report in reports:
            if report.about not in changed:
                changed[report.about] = _remembered(self.statements(report.about), now)
            known = changed[report.about]
            expires_at = now + report.ttl_seconds
            known[report.reporter] = Statement(report.waiting, report.running, expires_at)
            if len(known) > MAX_REPORTERS:
                raise too_many_reporters(report.about)
        if self._full(changed) is not None:
            self._sweep(now)
            full = self._full(changed)
            if full is not None:
                raise full
        self._by_namespace.update(self._new(changed))
        self._statements |= changed
        return list(changed)

    def _new(self, changed: Collection[ScaledObject]) -> Counter[str]:
        """Count those of them that are new, by namespace."""
        return Counter(about[0] for about in changed if about not in self._statements)

    def _full(self, changed: Collection[ScaledObject]) -> TooManyReportsError | None:
        """Say what leaves no room for those of them that are new; None: nothing."""
        new = self._new(changed)
        if new and len(self) + new.total() > MAX_REPORTED:
            return too_many_reported()
        crowded = (
            namespace
            for namespace, count in new.items()
            if self._by_namespace[namespace] + count > MAX_REPORTED_OF_NAMESPACE
        )
        return next(map(too_many_reported_of, crowded), None)

    def _sweep(self, now: float) -> None:
        """Drop what is forgotten. That takes time, and only the cap needs it: nothing tells it."""
        if now < self._swept_at + SWEEP_SECONDS:
            return
        self._swept_at = now
        known = ((about, _remembered(each, now)) for about, each in self._statements.items())
        self._statements = {about: statements for about, statements in known if statements}
        self._by_namespace = Counter(namespace for namespace, _ in self._statements)


def _remembered(statements: Statements, now: float) -> dict[str, Statement]:
    return {reporter: each for reporter, each in statements.items() if now < each.forgotten_at}


def too_many_reporters(about: ScaledObject) -> TooManyReportsError:
    """Say that a ScaledObject has too many reporters."""
    return TooManyReportsError(
        f"{about[0]}/{about[1]} would have more than {MAX_REPORTERS} reporters; "
        "give each a name that it keeps"
    )


def too_many_reported() -> TooManyReportsError:
    """Say that too many ScaledObjects have reports."""
    return TooManyReportsError(f"more than {MAX_REPORTED} ScaledObjects would have reports")


def too_many_reported_of(namespace: str) -> TooManyReportsError:
    """Say that too many ScaledObjects of a namespace have reports."""
    return TooManyReportsError(
        f"more than {MAX_REPORTED_OF_NAMESPACE} ScaledObjects of namespace {namespace} would have "
        "reports"
    )
