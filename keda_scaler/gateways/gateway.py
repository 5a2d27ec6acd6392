"""What a gateway is to us: a table that turns what it exposes into the requests of one target.

Gauges say how many requests wait there, and how many it has taken; counters, which are compared
from reading to reading, say that some arrived. Everything here is pure.

A series that is not there is zero only where something shows that the gateway was read: its own
page, or, through Prometheus, a series that it always prints. Otherwise nothing is known.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Literal

from keda_scaler.core.matchers import Matcher
from keda_scaler.core.readings import Missing
from keda_scaler.core.trigger import Trigger
from keda_scaler.engines.dialect import LARGEST_COUNT
from keda_scaler.engines.exposition import parse_page
from keda_scaler.engines.samples import Sample
from keda_scaler.errors import PageError
from keda_scaler.gateways.counters import Series
from keda_scaler.gateways.page import PAGE, Page, View


@dataclass(frozen=True, slots=True)
class Scope:
    """Which of a gateway's series are about one target."""

    namespace: str
    """Of the ScaledObject."""

    name: str
    """Of the ScaledObject."""

    model: str | None
    service: str | None
    matchers: tuple[Matcher, ...]

    trusted: bool
    """Whether the page is of a gateway in the ScaledObject's own namespace, so that all of it may
    be read; else only what carries that namespace, or, of a gateway whose series carry none, what
    the trigger names by its model or its selector. Through Prometheus it is false."""

    @classmethod
    def of(cls, namespace: str, name: str, trigger: Trigger, *, trusted: bool) -> "Scope":
        """Give the scope of a ScaledObject's trigger."""
        matchers = trigger.wake_selector
        return cls(namespace, name, trigger.model, trigger.service, matchers, trusted)


@dataclass(frozen=True, slots=True)
class Seen:
    """What one page, or one answer of Prometheus, says of one target."""

    held: float
    """Requests that wait there and that no engine has yet."""

    in_flight: float
    """Requests that it has taken and not answered; at least `held`."""

    counters: Mapping[Series, float]
    """Requests that ever arrived, per series; see `counters.rose`."""

    at: float
    """When it was measured, in monotonic seconds: the newest gauge that is positive, else the
    oldest sample that matters."""


@dataclass(frozen=True, slots=True)
class Family:
    """One family that may carry a number of requests."""

    name: str
    """The sample's name."""

    matchers: tuple[Matcher, ...] = ()
    """Conditions that its series must meet to count."""

    versions: str = "all"
    """Which versions print it; for people."""


Families = tuple[Family, ...]
"""Families that carry the same number, the preferred one first. Of each process the first of which
it has series is read: some print a number under an old name as well."""

Alternatives = tuple[tuple[Matcher, ...], ...]
"""Lists of conditions, of which at most one list can be met by a series."""


def of_own_namespace(namespace: str) -> Alternatives:
    """Tell the series of a gateway that runs in a namespace, as Prometheus labels them."""
    return ((Matcher("namespace", "=", namespace),),)


@dataclass(frozen=True)
class Gateway:
    """The pure table that turns one gateway's exposition into requests."""

    name: str
    """As the trigger key `wakeFrom` spells it."""

    title: str
    """As its makers spell it."""

    holds: str
    """Whether it holds requests while no replica runs; for people."""

    path: str = "/metrics"
    """Where it serves its page."""

    held: Families = ()
    """Gauges of requests that wait there and that no engine has yet."""

    running: Families = ()
    """Gauges of requests that it has taken and not answered, those in `held` not included."""

    arrivals: tuple[Families, ...] = ()
    """Counters that rise when a request arrives, each under all its names."""

    of_namespace: Callable[[str], Alternatives] = of_own_namespace
    """The conditions that tell series which are about a namespace."""

    says_namespace: bool = False
    """Whether its own page carries what `of_namespace` looks at. Where not, only Prometheus adds
    it."""

    shared: bool = False
    """Whether it serves many namespaces wherever it runs, so that `of_namespace` is enforced also
    on a page from the ScaledObject's own one."""

    model_labels: tuple[str, ...] = ()
    """Labels that name the model; the first that is not empty counts. None: `model` of a trigger
    has no effect."""

    unnamed_is_any: bool = False
    """Whether a series that names no model is of every one."""

    default: tuple[str, Literal["name", "service"]] | None = None
    """A label, and the part of the scope that it equals unless the trigger's selector names it."""

    example: str = ""
    """A selector, where a trigger must give one if there is no default."""

    target: str = ""
    """What it calls a target, if its page lists them all: one that is not there is then unknown,
    not zero."""

    marks: tuple[str, ...] = ()
    """What names on its page, and on no one else's, begin with."""

    heartbeats: frozenset[str] = frozenset()
    """Names that it always prints: through Prometheus they show that it is read, and so that a
    family which is not there is zero."""

    late: bool = False
    """Whether through Prometheus nothing is there before the first request, not even a heartbeat:
    the caller must know that Prometheus is fresh then."""

    reader: Callable[[bytes, float], tuple[Sample, ...]] | None = None
    """How its page is read, if it is no exposition."""

    notes: str = ""
    """What a reader of the documentation should know, in Markdown."""

    @cached_property
    def families(self) -> Mapping[str, Family]:
        """Every family that counts requests, by its name."""
        return {family.name: family for family in chain.from_iterable(self._groups)}

    @cached_property
    def names(self) -> frozenset[str]:
        """Every sample name that is read."""
        return self.heartbeats.union(self.families)

    @cached_property
    def _groups(self) -> tuple[Families, ...]:
        return (self.held, self.running, *self.arrivals)

    @cached_property
    def _ranks(self) -> Mapping[str, tuple[int, int]]:
        """Per name, the number that it carries, and its place among the names that do."""
        return {
            family.name: (group, place)
            for group, names in enumerate(self._groups)
            for place, family in enumerate(names)
        }

    @cached_property
    def _marked(self) -> re.Pattern[bytes]:
        prefixes = "|".join(map(re.escape, self.marks))
        return re.compile(rf"\n(?:# (?:HELP|TYPE) )?(?:{prefixes})".encode())

    def page(self, body: bytes, content_type: str, at: float, dated: float | None = None) -> Page:
        """Parse a page that the gateway itself served at `at` (monotonic seconds).

        `dated` is that instant by its own clock: see `parse_page`.

        The result is never empty: one more sample stands for the page as a whole. All of them are
        for `seen`.

        Raises:
            PageError: when it is not this gateway's page, or not all of it.

        """
        whole = Sample(PAGE, {}, 1.0, at)
        if self.reader is not None:
            return Page((*self.reader(body, at), whole))
        samples = parse_page(body, content_type, self.names, at, dated)
        # Families with labels print no samples before the first request, and some only a header.
        if not self._marked.search(b"\n" + body):
            raise PageError(
                f"the page is not of {self.title}: it has no {'* or '.join(self.marks)}*"
            )
        return Page((*samples, whole))

    def promql(self, namespace: str) -> tuple[str, ...]:
        """Give instant selectors that fetch what may be about targets of a namespace.

        No series is in two of them.
        """
        return tuple(self._selectors(namespace))

    def _selectors(self, namespace: str) -> Iterator[str]:
        names: dict[tuple[Matcher, ...], list[str]] = {}
        for family in self.families.values():
            names.setdefault(family.matchers, []).append(family.name)
        if self.heartbeats:
            names.setdefault((), []).extend(self.heartbeats)
        for conditions, several in names.items():
            name = Matcher("__name__", "=~", "|".join(sorted(several)))
            for alternative in self.of_namespace(namespace):
                yield f"{{{','.join(m.promql for m in (name, *conditions, *alternative))}}}"

    def matchers(self, scope: Scope) -> tuple[Matcher, ...]:
        """Give the conditions that the trigger sets, or that stand for one that it leaves out."""
        given = scope.matchers
        if self.default is None:
            return given
        label, part = self.default
        value = scope.name if part == "name" else scope.service
        if value is None or any(matcher.name == label for matcher in given):
            return given
        return (*given, Matcher(label, "=", value))

    def concerns(self, sample: Sample, scope: Scope) -> bool:
        """Whether a sample is about the target."""
        return self._is_ours(sample, scope) and self._is_chosen(
            sample, scope.model, self.matchers(scope)
        )

    def seen(
        self, samples: Collection[Sample], scope: Scope, at: float | None = None
    ) -> Seen | Missing:
        """Read one target out of all samples of a page, or of all answers of a Prometheus.

        `at` is for Prometheus alone: when it answered, if its data are known to be fresh. A gateway
        whose series are all born late then has none for this target yet.
        """
        view = self._view(samples if isinstance(samples, Page) else Page(samples), scope)
        problem = self._unreadable(scope, is_page=view.is_page)
        if problem:
            return Missing(problem)
        matchers = self.matchers(scope)
        own = [
            sample
            for sample in self._candidates(view, scope.model, matchers)
            if self._is_chosen(sample, scope.model, matchers)
        ]
        evidence = own if self.target else [*own, *view.alive]
        if evidence:
            return _wrong(own) or self._added_up(own, min(s.at for s in evidence))
        if self.late and not view.is_page and at is not None:
            return Seen(0.0, 0.0, {}, at)
        if self.target:
            named = ",".join(matcher.promql for matcher in matchers)[:200]
            return Missing(f"no {self.target} of {scope.namespace} has {named}")
        return Missing(f"Prometheus has no series of {self.title}")

    def _view(self, page: Page, scope: Scope) -> View:
        """Give what all targets of a namespace see in a page."""
        key = (scope.namespace, scope.trusted)
        view = page.views.get(key)
        if view is None:
            ours = self._preferred([sample for sample in page if self._is_ours(sample, scope)])
            names = {PAGE, *self.heartbeats}
            alive = [sample for sample in page if sample.name in names]
            is_page = any(sample.name == PAGE for sample in alive)
            if ours and not self.target:
                alive.append(min(ours, key=lambda sample: sample.at))
            page.views[key] = view = View(ours, alive, is_page=is_page)
        return view

    def _candidates(
        self, view: View, model: str | None, matchers: Iterable[Matcher]
    ) -> Sequence[Sample]:
        """Give the samples of a view among which those of a target are."""
        exact = next((each for each in matchers if each.operator == "=" and each.value), None)
        if exact is not None:
            label = exact.name
            return view.find(f"label {label}", lambda s: s.labels.get(label, ""), exact.value)
        if model is None or not self.model_labels:
            return view.ours
        named = view.find("model", self._model_of, model)
        return [*named, *view.find("model", self._model_of, "")] if self.unnamed_is_any else named

    def _model_of(self, sample: Sample) -> str:
        """Give the model that a sample names; empty: none."""
        labels = sample.labels
        return next((name for label in self.model_labels if (name := labels.get(label))), "")

    def _unreadable(self, scope: Scope, *, is_page: bool) -> str:
        """Say what the trigger must name to be read; empty: nothing."""
        if self.example and not self.matchers(scope):
            return f"{self.name} needs wakeSelector, such as {self.example}"
        is_foreign = is_page and not (scope.trusted or self.says_namespace)
        if is_foreign and scope.model is None and not scope.matchers:
            return f"{self.name} of another namespace needs model or wakeSelector"
        return ""

    def _is_ours(self, sample: Sample, scope: Scope) -> bool:
        """Whether a sample counts requests, and those of the namespace."""
        family = self.families.get(sample.name)
        if family is None or not _all_match(family.matchers, sample):
            return False
        if scope.trusted and not self.shared:
            return True
        if not self.says_namespace and "namespace" not in sample.labels:
            return True  # on a page, where the trigger names more; see `_unreadable`
        alternatives = self.of_namespace(scope.namespace)
        return any(_all_match(alternative, sample) for alternative in alternatives)

    def _is_chosen(self, sample: Sample, model: str | None, matchers: Iterable[Matcher]) -> bool:
        """Whether a sample is of the model and has the labels that the trigger names."""
        if model is not None and self.model_labels:
            named = self._model_of(sample)
            if named != model and (named or not self.unnamed_is_any):
                return False
        return _all_match(matchers, sample)

    def _preferred(self, samples: Collection[Sample]) -> list[Sample]:
        """Leave out numbers that a process prints under a better name as well."""
        first: dict[tuple[int, str | None, str | None], int] = {}
        ranked = []
        for sample in samples:
            group, place = self._ranks[sample.name]
            key = (group, sample.labels.get("pod"), sample.labels.get("instance"))
            first[key] = min(place, first.get(key, place))
            ranked.append((key, place, sample))
        return [sample for key, place, sample in ranked if place == first[key]]

    def _added_up(self, own: Collection[Sample], oldest: float) -> Seen:
        totals = [0.0, 0.0]
        busy = []
        counters = {}
        for sample in own:
            group = self._ranks[sample.name][0]
            if group > 1:
                counters[_series(sample)] = sample.number
            elif sample.number > 0:
                totals[group] += sample.number
                busy.append(sample.at)
        held, running = totals
        return Seen(held, held + running, counters, max(busy, default=oldest))


def _all_match(matchers: Iterable[Matcher], sample: Sample) -> bool:
    return all(matcher.matches(sample.labels) for matcher in matchers)


def _series(sample: Sample) -> Series:
    return sample.name, frozenset(sample.labels.items())


def _wrong(samples: Collection[Sample]) -> Missing | None:
    """Find a number that is none, or one that stands twice."""
    for sample in samples:
        if not 0 <= sample.number <= LARGEST_COUNT:
            return Missing(f"{sample.name} is {sample.number:g}")
    seen = set()
    for sample in samples:
        series = _series(sample)
        if series in seen:
            return Missing(f"{sample.name} has the same series twice")
        seen.add(series)
    return None
