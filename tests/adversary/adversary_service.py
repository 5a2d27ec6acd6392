"""Reads a world as `service` does: a watch of the Service's pods, and a poll of each one's page."""

import math
from collections.abc import Callable, Sequence

from adversary_plan import LIST_HITS, Hit
from adversary_source import Page, Source, monotonic
from adversary_world import Answer, World
from keda_scaler import engines
from keda_scaler.core.trigger import Trigger
from keda_scaler.sources.enginepages import backoff
from keda_scaler.sources.pages import PAGE_SECONDS
from keda_scaler.store import Target

_UNLISTED = LIST_HITS | {Hit.API}
_HANGS = f"no answer within {PAGE_SECONDS:g} s"


class ServiceSource(Source):
    """See `Source`."""

    def __init__(self, world: World, trigger: Trigger, log: Callable[[str], None]) -> None:
        super().__init__(world, trigger, log)
        self._list_at = math.inf
        self._late: list[tuple[float, str]] = []
        """Pages that hang, and when that is noticed."""

    def begin(self, target: Target, now: float) -> None:
        """See `Source.begin`."""
        super().begin(target, now)
        self._list_at = now

    def end(self) -> None:
        """See `Source.end`."""
        super().end()
        self._list_at, self._late = math.inf, []

    def changed(self, now: float) -> None:
        """See `Source.changed`: be the watch."""
        if self._target is not None:
            self._list(self._target, now)

    def next_at(self) -> float:
        """See `Source.next_at`."""
        due = (page.due for page in self.pages.values())
        return min(self._list_at, *due, *(at for at, _ in self._late), math.inf)

    def read(self, now: float) -> bool:
        """See `Source.read`."""
        target = self._target
        if target is None:
            return False
        if now >= self._list_at:
            self._list(target, now)
        late = [(at, name) for at, name in self._late if at <= now]
        if late:
            self._late = [each for each in self._late if each not in late]
            for _, name in late:
                if name in self.pages and math.isinf(self.pages[name].due):
                    self._take(target, {name: (engines.missing(_HANGS), None)}, now)
        due = [name for name, page in self.pages.items() if page.due <= now]
        if due:
            self._take(target, self._fetch(due, now), now)
        return bool(due or late)

    def _list(self, target: Target, now: float, *, alone: bool = True) -> None:
        """Tell what is listed, or take it in for the poll that will tell it."""
        world = self._world
        self._list_at = now + self._trigger.poll_seconds + 0.01  # pages at the same time confirm it
        replicas = world.listing(now)
        if world.find(Hit.UNLISTED) or world.find(Hit.API):
            target.unlisted("the Kubernetes API server cannot be reached")
            return
        if world.find(Hit.HALF_OPEN):
            if not self.has_listed:
                target.unlisted("EndpointSlices not listed yet")
            return
        self.confirmed_at, self.has_listed = now, True
        for replica in replicas:
            page = self.pages.get(replica.name)
            if page is None:
                self.pages[replica.name] = page = Page(self._first_due(replica.name, now))
            if page.heard_at == -math.inf and replica.ready:
                page.heard_at, page.due = now, min(page.due, now + 0.5)  # read at once
        self._tell(frozenset(replica.name for replica in replicas))
        if alone:
            target.listed(replicas, monotonic(now))

    def _first_due(self, name: str, now: float) -> float:
        if not self._world.plan.apart:
            return math.floor(now + 0.5) + 0.5
        return now + 0.5 + sum(name.encode()) % 4 * self._trigger.poll_seconds / 4

    def _fetch(self, due: Sequence[str], now: float) -> dict[str, Answer]:
        pods = self._world.pods
        answers: dict[str, Answer] = {}
        for name in due:
            answer = self._world.page(pods.get(name), now)
            if answer is not None:
                answers[name] = answer
                continue
            page = self.pages[name]
            page.due, page.failed_at = math.inf, now
            self._late.append((now + PAGE_SECONDS, name))
        return answers

    def _take(self, target: Target, answers: dict[str, Answer], now: float) -> None:
        """Tell what pages gave."""
        for name, (readings, _) in answers.items():
            page = self.pages[name]
            page.heard(readings, now, now)
            page.due = now + backoff(self._trigger.poll_seconds, page.failures)
        is_listed = not any(self._world.find(hit) for hit in _UNLISTED)
        if is_listed and answers.keys() == self.pages.keys():
            self._list(target, now, alone=False)
            listed = {each.name: each for each in self._world.listing(now)}
            told = {listed[name]: answers[name] for name in answers}
            target.polled(told, monotonic(now))
            return
        for name, (readings, engine) in answers.items():
            target.read(name, readings, engine)
