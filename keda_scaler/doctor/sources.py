"""What the scaler's own sources read for one trigger: replicas, pages, Prometheus, wake source.

They run as they do in the scaler, for a few seconds, into a sink that only remembers.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from keda_scaler import engines
from keda_scaler.core.addresses import AddressRules
from keda_scaler.core.names import REPORTS
from keda_scaler.core.readings import Demand, Engine, Lacking, Missing, Readings, Replica
from keda_scaler.core.trigger import Trigger
from keda_scaler.doctor import families
from keda_scaler.doctor.checks import Check, fail, ok, skipped, some, warn
from keda_scaler.engines.dialect import Dialect
from keda_scaler.engines.queries import KEYS
from keda_scaler.errors import SourceError
from keda_scaler.sources.endpoints import EndpointsSource
from keda_scaler.sources.gateways import GatewaysSource
from keda_scaler.sources.kubernetes import Endpoint, ServiceDirectory, judged
from keda_scaler.sources.names import NamedPages, Names
from keda_scaler.sources.pages import Pages
from keda_scaler.sources.promapi import Prometheus, PrometheusServer
from keda_scaler.sources.prometheus import PrometheusSource
from keda_scaler.sources.sink import Answer

LISTED_SECONDS = 5.0
"""Longest wait for the list of a Service."""

READ_SECONDS = 8.0
"""Longest wait for what a source reads first."""

MAX_PAGES = 32
"""Pages whose names are looked at."""

_STAYS_UNREAD = "give `engine`, or read docs/engines.md for what each one prints"


@dataclass(frozen=True, slots=True)
class Subject:
    """A trigger, and what it is read with."""

    namespace: str
    name: str
    """Of the ScaledObject."""

    trigger: Trigger
    rules: AddressRules
    servers: Mapping[str, PrometheusServer]
    directory: ServiceDirectory


@dataclass(slots=True)
class _Sink:
    """Remembers what a source tells, until that is all that there is to tell at first."""

    replicas: tuple[Replica, ...] = ()
    answers: dict[str, Answer] = field(default_factory=dict)
    unlisted_because: str | None = None
    demand: Demand | Missing | None = None
    is_waking: bool = False
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def listed(self, replicas: Sequence[Replica], at: float) -> None:  # noqa: ARG002  # of a sink
        self.replicas = tuple(replicas)
        self._look()

    def polled(
        self,
        answers: Mapping[Replica, Answer],
        at: float,  # noqa: ARG002  # of a sink
        doubt: str | None = None,  # noqa: ARG002  # what is there can be judged all the same
    ) -> None:
        self.replicas = tuple(answers)
        self.answers = {replica.name: answer for replica, answer in answers.items()}
        self.done.set()

    def unlisted(self, reason: str) -> None:
        self.unlisted_because = reason
        self.done.set()

    def read(self, replica: str, readings: Readings, engine: Engine | None = None) -> None:
        self.answers[replica] = (readings, engine)
        self._look()

    def demanded(
        self,
        demand: Demand | Missing,
        doubt: str | None = None,  # noqa: ARG002  # likewise
    ) -> None:
        self.demand = demand
        self.done.set()

    def _look(self) -> None:
        if all(replica.name in self.answers for replica in self.replicas):
            self.done.set()


def _unrecorded(source: str, result: str, seconds: float) -> None:
    """Count no poll: nobody asks for metrics of this process."""


async def _until_done(running: Coroutine[Any, Any, None], sink: _Sink) -> None:
    """Run a source until it has told all, or its time is up."""
    task = asyncio.create_task(running)
    done = asyncio.create_task(sink.done.wait())
    try:
        await asyncio.wait({task, done}, timeout=READ_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    finally:
        task.cancel()
        done.cancel()
        results = await asyncio.gather(task, done, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


async def check_replicas(subject: Subject) -> AsyncGenerator[Check, None]:
    """Say which replicas there are, and what each one's page or Prometheus tells."""
    trigger = subject.trigger
    if trigger.by_reports:
        yield skipped("endpoints", "engine: reports reads none; see `answers`")
    elif trigger.by_prometheus:
        async for check in _through_prometheus(subject):
            yield check
    else:
        async for check in _from_pages(subject):
            yield check


async def _from_pages(subject: Subject) -> AsyncGenerator[Check, None]:
    endpoints = await _endpoints(subject)
    if isinstance(endpoints, Missing):
        yield fail("endpoints", endpoints.reason, _why_no_list(endpoints.reason))
        for name in ("page", "engine", "families"):
            yield skipped(name, "no endpoints are known")
        return
    if not endpoints:
        says = f"Service {subject.trigger.service} has no endpoints"
        yield ok("endpoints", f"{says}: at zero replicas that is as it should be")
        for name in ("page", "engine", "families"):
            yield skipped(name, "no replica runs")
        return
    if subject.trigger.service is None:
        yield ok("endpoints", f"{len(endpoints)} in the trigger")
    else:
        ready = sum(endpoint.replica.ready for endpoint in endpoints)
        yield ok("endpoints", f"{ready} of {len(endpoints)} ready")
    pages, problems = await _pages(subject, endpoints[:MAX_PAGES])
    names: frozenset[str] = frozenset().union(*map(families.names_on, pages))
    if problems:
        then = "is it the port and path of the metrics page, and may this machine reach it?"
        make = warn if pages else fail
        yield make("page", f"{len(problems)} not read: {some(problems, 3)}", then)
    else:
        yield ok("page", f"{len(pages)} read, {len(names)} names on them")
    if not pages:
        for name in ("engine", "families"):
            yield skipped(name, "no page was read")
        return
    sink = _Sink()
    source = EndpointsSource(subject.rules, subject.directory, _unrecorded)
    try:
        await _until_done(source.run(subject.namespace, subject.trigger, sink), sink)
    finally:
        await source.aclose()
    for check in _judged(subject.trigger, sink.answers, names, pages):
        yield check


async def _endpoints(subject: Subject) -> tuple[Endpoint, ...] | Missing:
    trigger = subject.trigger
    if trigger.service is None:
        return await _named(subject)
    path = trigger.path or engines.path(trigger.engine)
    async with subject.directory.follow(subject.namespace) as view:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LISTED_SECONDS):
                while not view.was_tried:
                    await view.changed(LISTED_SECONDS)
        found = view.endpoints(trigger.service, trigger.port, path)
    listing = judged(found, subject.rules.allows_listed)
    return listing if isinstance(listing, Missing) else listing.endpoints


async def _named(subject: Subject) -> tuple[Endpoint, ...] | Missing:
    names = Names(subject.rules)
    try:
        listing = await NamedPages(names, subject.trigger, time.monotonic).listing()
    finally:
        await names.close()
    return listing if isinstance(listing, Missing) else listing.endpoints


def _why_no_list(reason: str) -> str:
    if "port" in reason:
        return "give `port`: the name or the number of the port with the metrics page"
    if "resolve" in reason:
        return "does the name exist where the scaler runs, and is every address of it allowed?"
    if "does it exist" in reason:
        return "is `service` spelled right, in the ScaledObject's namespace, with a selector?"
    if "not allowed" in reason and "address" in reason:
        return "--allow-address, with the network of the pods"
    return "see `kubernetes`"


async def _pages(
    subject: Subject, endpoints: Collection[Endpoint]
) -> tuple[list[bytes], list[str]]:
    """Fetch pages; give them, and why others were not read."""
    pages = Pages(subject.rules, time.monotonic)
    places = [(endpoint, url) for endpoint in endpoints for url in endpoint.urls]
    try:
        fetched = await asyncio.gather(
            *(pages.fetch(url, endpoint.host) for endpoint, url in places), return_exceptions=True
        )
    finally:
        await pages.close()
    bodies: list[bytes] = []
    problems: list[str] = []
    for (endpoint, url), page in zip(places, fetched, strict=True):
        if isinstance(page, SourceError):
            port = f" port {urlsplit(url).port}" if endpoint.further else ""
            problems.append(f"{endpoint.replica.name.partition('?')[0]}{port}: {page}")
        elif isinstance(page, BaseException):
            raise page
        else:
            bodies.append(page.body)
    return bodies, problems


async def _through_prometheus(subject: Subject) -> AsyncGenerator[Check, None]:
    trigger, sink = subject.trigger, _Sink()
    source = PrometheusSource(subject.servers, subject.rules)
    try:
        with source.borrow(trigger) as prometheus:
            reached = await check_prometheus(prometheus, trigger.stale_after)
            yield reached
            if reached.then:
                for name in ("engine", "families"):
                    yield skipped(name, "Prometheus cannot be used")
                return
            await _until_done(source.run(subject.namespace, trigger, sink), sink)
            if sink.unlisted_because is not None:
                then = "see the log of Prometheus; is the namespace in the label `namespace`?"
                yield fail("engine", sink.unlisted_because, then)
                return
            names = await _names_in(prometheus, subject.namespace)
    finally:
        await source.aclose()
    if not sink.answers:
        near = families.nearest(families.of_engine(trigger.engine), names)
        says = f"Prometheus lists no replica in namespace {subject.namespace}"
        yield warn("engine", says + _offer(near), "fine at zero replicas; else see `selector`")
        yield skipped("families", "no replica is listed")
        return
    for check in _judged(trigger, sink.answers, names):
        yield check


async def check_prometheus(
    prometheus: Prometheus, stale_after: float, name: str = "prometheus"
) -> Check:
    """Say whether a Prometheus answers, and how old its newest sample is."""
    try:
        pin = await prometheus.pin()
        pin.check(stale_after, time.monotonic())
    except SourceError as error:
        notes = "; ".join(getattr(error, "__notes__", []))
        says = f"{error} ({notes})" if notes else str(error)
        return fail(name, says, "see its address and credentials in the settings, and its targets")
    age = max(0.0, pin.unix - pin.newest)
    return ok(name, f"answers; its newest sample is {age:.1f} s old")


async def _names_in(prometheus: Prometheus, namespace: str) -> frozenset[str]:
    """Ask for the names of a namespace's series; none if that cannot be told."""
    with contextlib.suppress(SourceError):
        quoted = namespace.replace("\\", "\\\\").replace('"', '\\"')
        found = await prometheus.query(f'group by (__name__) ({{namespace="{quoted}"}})')
        return frozenset(series.labels.get("__name__", "") for series in found)
    return frozenset()


def _judged(
    trigger: Trigger,
    answers: Mapping[str, Answer],
    names: Collection[str],
    pages: Sequence[bytes] = (),
) -> list[Check]:
    """Say whose pages these are, and which families carry what the trigger looks at."""
    if not answers:
        return [fail("engine", f"nothing was read within {READ_SECONDS:g} s", _STAYS_UNREAD)]
    if trigger.by_queries:
        engine = skipped("engine", "own queries are read, whatever the engine is")
        return [engine, _families(trigger, None, answers, names)]
    found = sorted({engine.key for _, engine in answers.values() if engine is not None})
    if not found:
        reasons = {_first_reason(readings) for readings, _ in answers.values()}
        near = families.nearest(families.of_engine(trigger.engine), names)
        engine = fail("engine", some(sorted(reasons), 2) + _offer(near), _STAYS_UNREAD)
        return [engine, skipped("families", "the engine is not known")]
    (dialect,) = engines.dialects(found[0])
    unknown = sum(engine is None for _, engine in answers.values())
    models = sorted(frozenset().union(*(families.models_on(page, dialect) for page in pages)))
    says = some(found) + (f"; of {unknown} replicas it is not known" if unknown else "")
    says += f"; model {some(models)}" if models else ""
    check = ok("engine", says)
    if len(found) > 1:
        check = warn("engine", says, "replicas of one target should run one engine")
    read = {name: answer for name, answer in answers.items() if answer[1] is not None}
    return [replace(check, models=tuple(models)), _families(trigger, dialect, read, names)]


def _first_reason(readings: Readings) -> str:
    return next((it.reason for it in readings.values() if isinstance(it, Missing)), "nothing")


def _families(
    trigger: Trigger,
    dialect: Dialect | None,
    answers: Mapping[str, Answer],
    names: Collection[str],
) -> Check:
    """Say what carries each signal; `dialect` is None where own queries are all that is read."""
    there: list[str] = []
    lacking: list[str] = []
    missing: dict[str, list[str]] = {}
    near: dict[str, None] = {}
    for signal in families.wanted(trigger):
        readings = [readings[signal] for readings, _ in answers.values()]
        absent = next((it for it in readings if isinstance(it, Missing)), None)
        if absent is not None:
            missing.setdefault(absent.reason, []).append(signal)
        elif any(isinstance(it, Lacking) for it in readings):
            lacking.append(signal)
        if dialect is None or signal in trigger.queries:
            there.append(KEYS[signal])
        elif absent is not None:
            others = [name for name in names if name not in dialect.canonical]
            near |= dict.fromkeys(families.nearest(families.carriers(dialect, signal), others))
        elif signal not in lacking:
            there += families.present(dialect, signal, names) or [f"{signal} of the GPUs"]
    if missing:
        then = "does the engine print them with its present flags and version? docs/engines.md"
        if dialect is None:
            then = "ask Prometheus the same: docs/triggers.md#own-queries says what each must give"
        said = [f"{reason} (for {some(signals)})" for reason, signals in missing.items()]
        return fail("families", some(said, 3) + _offer(list(near)), then)
    has = some(dict.fromkeys(there), 8)
    if dialect is not None and lacking:
        says = f"{dialect.name} has no {some(lacking)}; it has {has}"
        return warn("families", says, "these signals have no say: choose targets that it has")
    return ok("families", has)


def _offer(near: Sequence[str]) -> str:
    return f"; nearest on the page: {some(near)}" if near else ""


async def check_wake_source(subject: Subject, *, is_needed: bool) -> Check:
    """Say what stands in front of the replicas says; `is_needed`: nothing else could wake it."""
    trigger = subject.trigger
    if trigger.wake_from == REPORTS or trigger.by_reports:
        return skipped("wake", "reports are known to the scaler alone; see `answers`")
    if trigger.wake_from is None:
        if is_needed:
            says = "no wakeFrom: once at zero, nothing wakes it"
            return fail("wake", says, "give wakeFrom (docs/waking.md), or minReplicaCount 1")
        return skipped("wake", "no wakeFrom, and none is needed")
    sink = _Sink(is_waking=True)
    prometheus = PrometheusSource(subject.servers, subject.rules)
    source = GatewaysSource(subject.rules, subject.directory, prometheus, _unrecorded)
    try:
        running = source.run(subject.namespace, subject.name, trigger, sink)
        await _until_done(running, sink)
    finally:
        await source.aclose()
        await prometheus.aclose()
    then = f"see wakeFrom: {trigger.wake_from} in docs/gateways.md"
    if sink.demand is None:
        return fail("wake", f"{trigger.wake_from}: nothing within {READ_SECONDS:g} s", then)
    if isinstance(sink.demand, Missing):
        return fail("wake", f"{trigger.wake_from}: {sink.demand.reason}", then)
    held, running_ = sink.demand.held, sink.demand.in_flight
    return ok("wake", f"{trigger.wake_from} is read: {held:g} requests held, {running_:g} in all")
