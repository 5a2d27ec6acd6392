"""Pages of engines, each fetched and parsed once for all targets that read it."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from keda_scaler import engines
from keda_scaler.core.addresses import AddressRules
from keda_scaler.core.readings import Engine, Lacking, Missing, Readings
from keda_scaler.core.signals import Signal
from keda_scaler.core.trigger import Trigger
from keda_scaler.core.values import without_query
from keda_scaler.engines.devices import DeviceReadings, device_readings
from keda_scaler.engines.exposition import parse_page
from keda_scaler.engines.samples import Sample
from keda_scaler.errors import PageError, SourceError
from keda_scaler.sources.pages import Fetched, Pages
from keda_scaler.sources.polls import Follower, Manner, Polls
from keda_scaler.sources.sink import Clock, Recorder
from keda_scaler.sources.slices import Endpoint

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


class Together:
    """What all pages of one replica say: each is of engines that the others know nothing of."""

    def __init__(self, pages: Mapping[str, Page]) -> None:
        """`pages` has them by their ports."""
        self._pages = pages

    def seen(self, trigger: Trigger) -> Seen:
        """Read them as a trigger wants it. What one does not say the replica does not say.

        Raises:
            SourceError: when one cannot be read.

        """
        lacking: dict[Signal, Missing] = {}
        samples: list[Sample] = []
        for port, page in self._pages.items():
            try:
                seen = page.seen(trigger)
            except SourceError as error:
                raise _of_port(port, error) from error
            samples += (
                Sample(it.name, {**it.labels, _PORT: port}, it.number, it.at) for it in seen.samples
            )
            for signal, reading in seen.readings.items():
                if isinstance(reading, Missing) and signal not in _of_devices(trigger):
                    lacking[signal] = Missing(f"port {port}: {reading.reason}")
        gpus = device_readings(samples)
        readings, engine = engines.read(samples, trigger, gpus)
        return Seen(tuple(samples), gpus, {**readings, **lacking}, engine)


_PORT = "__port__"
"""Label by which series of several pages differ; no page can print it."""


def _of_port(port: str, error: SourceError) -> SourceError:
    return type(error)(f"port {port}: {error}")


def _of_devices(trigger: Trigger) -> Collection[Signal]:
    """Give the signals that come from GPUs, which one page may name for all."""
    by_memory = trigger.gpu_memory_source == "device"
    return {Signal.GPU_UTILIZATION, *((Signal.GPU_MEMORY_PRESSURE,) if by_memory else ())}


_Key = tuple[tuple[str, ...], str | None]
"""What is read together: pages, and what their host is to be called."""


class EnginePages:
    """All pages that targets read."""

    def __init__(self, rules: AddressRules, record: Recorder, clock: Clock) -> None:
        self._pages = Pages(rules, clock)
        self._polls: Polls[Page | Together] = Polls(record, clock, _MANNER)
        self._wanted: dict[_Key, Counter[Names]] = {}

    @contextlib.contextmanager
    def follow(
        self, endpoint: Endpoint, trigger: Trigger, tell: Callable[[Seen | SourceError], None]
    ) -> Iterator[None]:
        """Tell what the pages of a replica say at each poll, while inside."""

        def told(answer: Page | Together | SourceError) -> None:
            try:
                seen = answer if isinstance(answer, SourceError) else answer.seen(trigger)
            except SourceError as error:
                seen = error
            tell(seen)

        names = names_of(trigger)
        key = endpoint.urls, endpoint.host
        wanted = self._wanted.setdefault(key, Counter())
        is_new = names not in wanted
        wanted[names] += 1
        follower = Follower(None, trigger.poll_seconds, told)
        try:
            with self._polls.follow(
                key, without_query(endpoint.url), self._reader(key), follower, anew=is_new
            ):
                yield
        finally:
            wanted[names] -= 1
            if not wanted[names]:
                del wanted[names]
            if not wanted:
                del self._wanted[key]

    def hurry(self, endpoint: Endpoint) -> None:
        """Have the pages of a replica read at once that somebody follows."""
        self._polls.hurry((endpoint.urls, endpoint.host))

    async def aclose(self) -> None:
        """Close all connections."""
        await self._polls.aclose()
        await self._pages.close()

    def _reader(self, key: _Key) -> Callable[[], Awaitable[Page | Together]]:
        urls, host = key

        async def read_one(url: str) -> Page:
            page = await self._pages.fetch(url, host)
            return Page(page, tuple(self._wanted[key]))

        async def read_all() -> Together:
            answers = await asyncio.gather(*map(read_one, urls), return_exceptions=True)
            pages: dict[str, Page] = {}
            for url, answer in zip(urls, answers, strict=True):
                port = str(urlsplit(url).port)
                if isinstance(answer, SourceError):
                    raise _of_port(port, answer)
                if isinstance(answer, BaseException):
                    raise answer
                pages[port] = answer
            return Together(pages)

        return read_all if len(urls) > 1 else lambda: read_one(urls[0])
