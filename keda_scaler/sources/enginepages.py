"""Pages of engines, each fetched and parsed once for all targets that read it."""

import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterator
from dataclasses import dataclass, replace

from keda_scaler import engines
from keda_scaler.core.addresses import AddressRules
from keda_scaler.core.readings import Engine, Lacking, Missing, Readings
from keda_scaler.core.trigger import Trigger
from keda_scaler.core.values import without_query
from keda_scaler.engines.devices import DeviceReadings, device_readings
from keda_scaler.engines.exposition import parse_page
from keda_scaler.engines.samples import Sample
from keda_scaler.errors import PageError, SourceError
from keda_scaler.sources.pages import Fetched, Pages
from keda_scaler.sources.polls import Follower, Manner, Polls
from keda_scaler.sources.sink import Clock, Recorder

MAX_BACKOFF_SECONDS = 15.0
"""Longest pause after failures: a replica that answers again is noticed within this."""

Names = frozenset[str]
"""Sample names that a target reads."""

Samples = tuple[Sample, ...]


def backoff(poll_seconds: float, failures: int) -> float:
    """Say how many seconds lie between two polls, after that many failures in a row.

    The first two failures change nothing: a page that fails once must not go stale for it.
    """
    longest = max(poll_seconds, MAX_BACKOFF_SECONDS)
    return min(longest, poll_seconds * 2.0 ** min(max(0, failures - 2), 10))


def pause(poll_seconds: float, failures: int) -> float:
    """Say how long to wait before the next poll, in seconds: the same, with jitter."""
    return backoff(poll_seconds, failures) * random.uniform(0.8, 1.0)


_MANNER = Manner("endpoints", None, backoff, spread=True)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a page says to a trigger. Shared by all that want the same of it."""

    samples: Samples
    gpus: DeviceReadings
    readings: Readings
    engine: Engine | None


class Page:
    """What a page says to each who reads it."""

    def __init__(self, page: Fetched, wanted: Collection[Names]) -> None:
        """Parse it once for all.

        Raises:
            SourceError: when nobody can read it.

        """
        self._asked_at = page.asked_at
        self._seen: dict[Hashable, Seen] = {}
        self._answers: dict[Names, Samples | SourceError]
        self._instead = ""
        try:
            everything = _parsed(page, frozenset().union(*wanted))
        except PageError:
            # What one cannot read may be nothing that another wants.
            self._answers = {names: _tried(page, names) for names in wanted}
            if all(isinstance(answer, SourceError) for answer in self._answers.values()):
                raise
        else:
            self._instead = engines.hint(page.body, everything)
            self._answers = {
                names: tuple(sample for sample in everything if sample.name in names)
                for names in wanted
            }

    def seen(self, trigger: Trigger) -> Seen:
        """Read it as a trigger wants it; once for all triggers that want the same.

        Raises:
            SourceError: when it cannot be read.

        """
        memory = trigger.gpu_memory_source if trigger.reads_devices else None
        wants = names_of(trigger), trigger.engine, trigger.model, memory
        found = self._seen.get(wants)
        if found is None:
            samples = self._answers[wants[0]]
            if isinstance(samples, SourceError):
                raise samples
            # What a replica's own page says of GPUs is of its own GPUs, whatever their labels.
            gpus = device_readings(samples)
            found = Seen(samples, gpus, *engines.read(samples, trigger, gpus, self._instead))
            self._seen[wants] = found
        readings = _fresh(found.readings, self._asked_at, trigger.stale_after)
        return found if readings is found.readings else replace(found, readings=readings)


def _fresh(readings: Readings, asked_at: float, stale_after: float) -> Readings:
    """Say of what was old when it came that it is missing, and why."""
    old = [
        signal
        for signal, reading in readings.items()
        if not isinstance(reading, Missing | Lacking) and reading.at <= asked_at - stale_after
    ]
    if not old:
        return readings
    why = f"older than staleSeconds ({stale_after:g}) when it came: a cache, or old timestamps"
    return {**readings, **dict.fromkeys(old, Missing(why))}


def names_of(trigger: Trigger) -> Names:
    """Give the sample names that a trigger reads."""
    return engines.names(
        trigger.engine, latencies=trigger.reads_latencies, gpus=trigger.reads_devices
    )


def _parsed(page: Fetched, names: Names) -> Samples:
    return parse_page(page.body, page.content_type, names, page.at, page.dated)


def _tried(page: Fetched, names: Names) -> Samples | SourceError:
    try:
        return _parsed(page, names)
    except PageError as error:
        return error


class EnginePages:
    """All pages that targets read."""

    def __init__(self, rules: AddressRules, record: Recorder, clock: Clock) -> None:
        self._pages = Pages(rules, clock)
        self._polls: Polls[Page] = Polls(record, clock, _MANNER)
        self._wanted: dict[str, Counter[Names]] = {}

    @contextlib.contextmanager
    def follow(
        self, url: str, trigger: Trigger, tell: Callable[[Seen | SourceError], None]
    ) -> Iterator[None]:
        """Tell what a page says at each poll, while inside."""

        def told(answer: Page | SourceError) -> None:
            try:
                seen = answer if isinstance(answer, SourceError) else answer.seen(trigger)
            except SourceError as error:
                seen = error
            tell(seen)

        names = names_of(trigger)
        wanted = self._wanted.setdefault(url, Counter())
        is_new = names not in wanted
        wanted[names] += 1
        follower = Follower(None, trigger.poll_seconds, told)
        try:
            with self._polls.follow(
                url, without_query(url), self._reader(url), follower, anew=is_new
            ):
                yield
        finally:
            wanted[names] -= 1
            if not wanted[names]:
                del wanted[names]
            if not wanted:
                del self._wanted[url]

    def hurry(self, url: str) -> None:
        """Have a page read at once that somebody follows."""
        self._polls.hurry(url)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._polls.aclose()
        await self._pages.close()

    def _reader(self, url: str) -> Callable[[], Awaitable[Page]]:
        async def read() -> Page:
            page = await self._pages.fetch(url)
            return Page(page, tuple(self._wanted[url]))

        return read
