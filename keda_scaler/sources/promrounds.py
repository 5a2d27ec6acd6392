"""Rounds: the polls of all targets that read one Prometheus equally often.

A round asks, of one instant, when the newest scrape of all was (whether this Prometheus is alive),
for the engines' samples of the last seconds, and for the scrape targets; of all namespaces in use
at once, so that it takes as many queries for a thousand targets as for one. The samples are asked
for with a range, because only so do they keep their own times. What a target sees is cut out of the
answers by ourselves: of its namespace alone, and by its selector. Own queries are bound to the
namespace and asked beside these; targets that have some have rounds of their namespace alone.

A Prometheus that cannot be read, whose clock is off or whose newest scrape is old lists nothing:
what was read before goes stale by itself. One that began to scrape a short while ago lists what it
has and proves nothing. New targets have a round of their own, all that wait for one together, and
look back a week in it; so do those whose polls had a gap, because a replica may have come and gone
silent in between. A target of which nothing is found looks for its names.
"""

import asyncio
import contextlib
import math
import random
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping

import structlog

from keda_scaler import engines
from keda_scaler.core.matchers import quote
from keda_scaler.core.promql import bind
from keda_scaler.core.readings import Lacking, Missing, Replica
from keda_scaler.core.signals import Signal
from keda_scaler.core.trigger import Trigger
from keda_scaler.engines import devices, queries
from keda_scaler.engines.queries import Found
from keda_scaler.engines.samples import Sample
from keda_scaler.engines.spaces import Part, Space
from keda_scaler.errors import SourceError, TooMuchError
from keda_scaler.forever import keep
from keda_scaler.sources import promnames
from keda_scaler.sources.polls import TICK_SECONDS
from keda_scaler.sources.promapi import SETTLED_SECONDS, Pin, Prometheus, sample_of
from keda_scaler.sources.promreplicas import Roster
from keda_scaler.sources.promspaces import Asker, Failed
from keda_scaler.sources.sink import Clock, Recorder, Sink
from keda_scaler.turns import Turns

MAX_BACKOFF_SECONDS = 15.0
"""Longest pause after failures."""

GATHER_SECONDS = 0.05
"""How long new targets wait for others that come just after them, as all do at a start."""

SHARE = 0.8
"""Most of a pause that a round may take from it: what is read late is stale early."""

Asking = Coroutine[None, None, Failed]

_YOUNG = f"Prometheus began to scrape less than {SETTLED_SECONDS:.0f} s ago: it proves nothing yet"

_OURS = "internal error, see the scaler's log"

_log = structlog.get_logger(__name__)


def pause(poll_seconds: float, failures: int) -> float:
    """Say how long to wait before the next poll, in seconds, after that many failures in a row.

    Without one it is a poll; after failures 1, 2, 4, 8, then 15 seconds, whatever a poll is,
    because nothing is known meanwhile. Either has jitter, so that rounds spread.
    """
    if not failures:
        return poll_seconds * random.uniform(0.9, 1.1)
    return longest_pause(failures) * random.uniform(0.5, 1.0)


def longest_pause(failures: int) -> float:
    """Say how long the pause after that many failures in a row is at most, in seconds."""
    return min(MAX_BACKOFF_SECONDS, 2.0 ** min(failures - 1, 10))


def window_of(trigger: Trigger) -> int:
    """Say how old samples are asked for, in seconds."""
    return math.ceil(max(trigger.stale_after, 2 * trigger.poll_seconds))


class Target:
    """One target, from one round to the next."""

    def __init__(self, namespace: str, trigger: Trigger, sink: Sink) -> None:
        self.namespace = namespace
        self.trigger = trigger
        self.sink = sink
        self.roster = Roster(trigger)
        self.queries = {signal: bind(own, namespace) for signal, own in trigger.queries.items()}
        self.listed_at = -math.inf
        self.looked_at = -math.inf
        self.had_replicas = False
        self.wrong = "whether there ever were series of it is not known yet"
        """Why its names are not known to be right."""
        self.needs_gpus = trigger.reads_devices and not trigger.prefers_engine_memory

    def take(self, space: Space, own: Mapping[str, Found], pin: Pin, now: float) -> None:
        """Tell the sink what was found of the namespace, and by own queries."""
        is_young = pin.is_young(self.trigger.stale_after)
        if self.trigger.by_queries:
            replicas = queries.scraped(space, self.trigger.selector, self.queries)
        else:
            replicas = self.roster.replicas(
                space, now, with_gpus=self.needs_gpus, is_young=is_young
            )
            memory = (readings[Signal.GPU_MEMORY_PRESSURE] for readings, _ in replicas.values())
            if any(isinstance(reading, Lacking) for reading in memory):
                self.needs_gpus = self.trigger.reads_devices  # from the next round on
        found = {signal: own[query] for signal, query in self.queries.items()}
        self.listed_at = now
        self.had_replicas |= bool(replicas)
        # Until it has found one, a selector may be wrong, and what it leaves out be the replicas.
        others = queries.of_replicas(space.scrapes, ()) if self.had_replicas else ()
        working = queries.shows_work(found, others)
        if working is not None and not replicas:
            self.sink.unlisted(f"{working} tells of requests, but no replica is found")
            return
        if not replicas and (is_young or not self.is_right):
            self.sink.unlisted(_YOUNG if is_young else self.wrong)
            return
        if found:
            times = self._scraped_at(space)
            at = {name: pin.to_monotonic(unix) for name, unix in times.items()}
            replicas = queries.read(self.trigger, replicas, found, at)
        loading = self.roster.loading
        answers = {
            Replica(name, ready=name not in loading): each for name, each in replicas.items()
        }
        self.sink.polled(answers, pin.to_monotonic(pin.newest), _YOUNG if is_young else None)

    @property
    def is_right(self) -> bool:
        """Whether its names have matched something within a week: only then can there be none."""
        return self.roster.is_right or self.had_replicas

    def shows_nothing(self, space: Space, now: float) -> bool:
        """Whether nothing in the namespace is of it, nor was, as far as we know."""
        if self.trigger.by_queries:
            self.had_replicas |= bool(queries.of_replicas(space.scrapes, self.trigger.selector))
        else:
            self.roster.remember(space, now)
        return not self.is_right

    def _scraped_at(self, space: Space) -> dict[str, float]:
        """Say when each replica was scraped last, by the clock of Prometheus.

        The selector of an engine may name labels that `up` has not: its replicas are known already.
        """
        times: Iterable[Sample] = space.scrape_times
        if self.trigger.by_queries:
            return queries.of_replicas(times, self.trigger.selector)
        return queries.of_replicas((t for t in times if Part.of(t.labels) in self.roster), ())


class Rounds:
    """The rounds of targets that agree on `pollSeconds` and `staleSeconds`."""

    def __init__(
        self, prometheus: Prometheus, like: Trigger, clock: Clock, record: Recorder | None
    ) -> None:
        """`like` is the trigger of any of them."""
        self._prometheus = prometheus
        self._poll_seconds = like.poll_seconds
        self._stale_after = like.stale_after
        self._window = window_of(like)
        self._clock = clock
        self._record = record
        self._asker = Asker(prometheus, clock)
        self._targets: dict[Target, None] = {}
        self._new: dict[Target, None] = {}
        """Those that no round was for yet."""
        self._joined = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        """None: nobody has joined yet. Once all have left, nobody joins again."""
        self._looking: asyncio.Task[None] | None = None
        """Looks for names beside the rounds; None: nothing had to be looked for yet."""
        self._failing: set[str | None] = set()
        """The namespaces that could not be read the last time; None: all of them."""
        self._log = _log.bind(prometheus=like.prometheus or like.server_address)

    def __len__(self) -> int:
        return len(self._targets)

    @contextlib.contextmanager
    def joined(self, target: Target) -> Iterator[None]:
        """Read for a target while inside."""
        self._targets[target] = self._new[target] = None
        self._joined.set()
        if self._task is None:
            self._task = asyncio.create_task(
                keep("rounds", self._run), name="rounds of a Prometheus"
            )
        try:
            yield
        finally:
            del self._targets[target]
            self._new.pop(target, None)
            if not self._targets:
                self._task.cancel()
                if self._looking is not None:
                    self._looking.cancel()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        failures, next_at = 0, loop.time()
        while True:
            is_full = loop.time() >= next_at - TICK_SECONDS
            due = list(self._targets if is_full else self._new)
            self._new.clear()
            self._joined.clear()
            began = loop.time()
            succeeded = await self._round(due)
            if is_full:
                failures = 0 if succeeded else failures + 1
                self._asker.turn()
                seconds = pause(self._poll_seconds, failures)
                next_at = max(began + seconds, loop.time() + (1 - SHARE) * seconds)
            if self._record is not None:
                self._record("prometheus", "ok" if succeeded else "error", loop.time() - began)
            await self._rest(next_at)

    async def _rest(self, until: float) -> None:
        """Wait until the next round is due; new targets make it so, a moment later."""
        loop = asyncio.get_running_loop()
        while loop.time() < until - TICK_SECONDS and not self._new:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await self._joined.wait()
                    await asyncio.sleep(GATHER_SECONDS)

    async def _round(self, due: Collection[Target]) -> bool:
        """Read for these; whether that went well for at least some."""
        try:
            pin = await self._prometheus.pin()
            pin.check(self._stale_after, self._clock())
            spaces, own, failed = await self._read(due, pin)
            await self._look(due, spaces, pin)
        except SourceError as error:
            self._note({None: error})
            await self._tell(due, error)
            return False
        except Exception:  # noqa: BLE001  # one bad answer must not end the reading for good
            _log.exception("a round failed by our fault; please report it")
            await self._tell(due, SourceError(_OURS))
            return False
        self._note(failed)
        members: dict[str, list[Target]] = {}
        for target in due:
            members.setdefault(target.namespace, []).append(target)
        turns = Turns()
        while spaces:  # one is let go of after the other: all at once would take long
            namespace, space = spaces.popitem()
            for target in members[namespace]:
                if target not in self._targets:
                    continue
                if namespace in failed:
                    target.sink.unlisted(str(failed[namespace]))
                else:
                    self._take(target, space, own, pin)
                await turns.take()
        return True

    def _take(self, target: Target, space: Space, own: Mapping[str, Found], pin: Pin) -> None:
        try:
            target.take(space, own, pin, self._clock())
        except Exception:  # noqa: BLE001  # the other targets must not suffer
            _log.exception("a round was not taken up by our fault; please report it")
            target.sink.unlisted(_OURS)

    async def _tell(self, targets: Iterable[Target], error: SourceError) -> None:
        turns = Turns()
        for target in targets:
            if target in self._targets:
                target.sink.unlisted(str(error))
                await turns.take()

    async def _read(
        self, due: Collection[Target], pin: Pin
    ) -> tuple[dict[str, Space], dict[str, Found], Failed]:
        """Ask for all that these targets need."""
        failed: Failed = {}
        own: dict[str, Found] = {}
        now = self._clock()
        of_engines = [target for target in due if not target.trigger.by_queries]
        new = [target for target in of_engines if now - target.listed_at > self._window]
        if new:
            past = _spaces(new)
            failed |= await _all(self._ask_engines(past, new, pin, _look_back))
            turns = Turns()
            for target in new:
                target.roster.remember(past[target.namespace], self._clock())
                await turns.take()
        spaces = _spaces(due)
        window = f"[{self._window}s]"
        up = self._asker.fill(spaces, lambda of: f"up{{namespace{of}}}", pin, Space.add_scrape)
        with_gpus = {target.namespace for target in due if target.needs_gpus}
        failed |= await _all(
            [
                *self._ask_engines(spaces, of_engines, pin, lambda _, what: f"{{{what}}}{window}"),
                up,
                *self._ask_own(due, spaces, own, pin),
                *self._ask_devices({each: spaces[each] for each in with_gpus}, pin, window),
            ]
        )
        return spaces, own, failed

    async def _look(self, due: Collection[Target], spaces: Mapping[str, Space], pin: Pin) -> None:
        """Look for the names of targets that nothing was found of, a few at a time.

        A week of series may take long: the round waits a moment, and then goes on without.
        """
        now = self._clock()
        lost = [
            target
            for target in due
            if now - target.looked_at >= promnames.LOOK_SECONDS
            and target.shows_nothing(spaces[target.namespace], now)
        ]
        if lost and (self._looking is None or self._looking.done()):
            looking = self._look_up(lost[: promnames.MAX_LOOKS], pin)
            self._looking = asyncio.create_task(looking, name="looks for names")
            await asyncio.wait({self._looking}, timeout=promnames.WAIT_SECONDS)

    async def _look_up(self, lost: Iterable[Target], pin: Pin) -> None:
        for target in lost:
            target.looked_at = self._clock()
            try:
                wrong = await promnames.is_known(
                    self._prometheus, pin, target.namespace, target.trigger
                )
            except SourceError as error:
                wrong = f"whether there ever were series of it is not known: {error}"
            except Exception:  # noqa: BLE001  # the other targets must not suffer
                _log.exception("a look for names failed by our fault; please report it")
                wrong = _OURS
            target.wrong = wrong
            target.had_replicas |= not wrong

    def _ask_own(
        self,
        due: Iterable[Target],
        spaces: Mapping[str, Space],
        own: dict[str, Found],
        pin: Pin,
    ) -> Iterator[Asking]:
        """Ask each own query once; one that fails is the trouble of its signal alone.

        The answers have the time of the query, so the age of the scrapes is asked for beside them.
        """

        async def ask(query: str, namespace: str) -> Failed:
            try:
                found = await self._prometheus.query_own(query, pin.unix, namespace)
                if len(found) > queries.MAX_SERIES:
                    raise TooMuchError(f"more than {queries.MAX_SERIES} series")
                own[query] = [sample_of(series, pin) for series in found]
            except SourceError as error:
                own[query] = Missing(str(error))
            return {}

        asked = {query: each.namespace for each in due for query in each.queries.values()}
        if asked:
            times = Space.add_scrape_time
            yield self._asker.fill(spaces, lambda of: f"timestamp(up{{namespace{of}}})", pin, times)
        yield from map(ask, asked, asked.values())

    def _ask_engines(
        self,
        spaces: Mapping[str, Space],
        targets: Iterable[Target],
        pin: Pin,
        ask: Callable[[str, str], str],
    ) -> Iterator[Asking]:
        """Ask for the engines' series; their histograms only where they are needed."""
        triggers = [(target.namespace, target.trigger) for target in targets]
        late = [(namespace, trigger) for namespace, trigger in triggers if trigger.reads_latencies]
        batches = engines.batches(
            frozenset(trigger.engine for _, trigger in triggers),
            frozenset(trigger.engine for _, trigger in late),
        )
        for readers, several in zip((triggers, late), batches, strict=True):
            concerned = {namespace: spaces[namespace] for namespace, _ in readers}
            for names in several:
                name = quote("|".join(sorted(names)))

                def write(matcher: str, name: str = name) -> str:
                    return ask(matcher, f"__name__=~{name},namespace{matcher}")

                yield self._asker.fill(concerned, write, pin)

    def _ask_devices(self, spaces: Mapping[str, Space], pin: Pin, window: str) -> Iterator[Asking]:
        """Ask for the GPUs of pods.

        An exporter's own namespace is in `namespace`, and the pod's in `exported_namespace`, unless
        it honours labels or runs beside the engine.
        """
        name = quote("|".join(sorted(devices.NAMES)))
        for label in devices.NAMESPACE_LABELS if spaces else ():

            def write(matcher: str, label: str = label) -> str:
                return f"{{__name__=~{name},{label}{matcher}}}{window}"

            yield self._asker.fill(spaces, write, pin, Space.add_device, devices.namespace_of)

    def _note(self, failed: Mapping[str, SourceError] | Mapping[None, SourceError]) -> None:
        """Log what can be read no more, and what can again."""
        for where, error in failed.items():
            if where not in self._failing:
                self._log.warning(
                    "Prometheus cannot be read; what was read before goes stale, then is unknown",
                    namespace=where,
                    reason=str(error),
                    detail="; ".join(getattr(error, "__notes__", [])) or None,
                )
        for where in self._failing.difference(failed):
            if None not in failed:
                self._log.info("Prometheus is read again", namespace=where)
        self._failing = set(failed)


async def _all(asking: Iterable[Asking]) -> Failed:
    """Wait for all answers: while one is taken in, Prometheus works on others.

    Raises:
        SourceError: when there was none to any of them.

    """
    failed: Failed = {}
    for each in await asyncio.gather(*asking, return_exceptions=True):
        if isinstance(each, BaseException):
            raise each
        failed |= each
    return failed


def _look_back(matcher: str, what: str) -> str:
    """Ask for the series of a week, of what is still scraped."""
    week = f"last_over_time({{{what}}}[{promnames.WEEK}])"
    return f"{week} and on (namespace, pod, instance) up{{namespace{matcher}}}"


def _spaces(targets: Iterable[Target]) -> dict[str, Space]:
    """Make room for what is found of each namespace."""
    named: dict[str, set[str]] = {}
    for target in targets:
        named.setdefault(target.namespace, set()).add(target.trigger.engine)
    return {namespace: Space(namespace, names) for namespace, names in named.items()}
