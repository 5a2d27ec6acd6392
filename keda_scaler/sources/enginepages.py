"""Pages of engines, each fetched and parsed once for all targets that read it."""

import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator

from keda_scaler.core.addresses import AddressRules
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
Answer = Samples | SourceError


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


class Page:
    """What a page says to each who reads it."""

    def __init__(self, page: Fetched, wanted: Collection[Names]) -> None:
        """Parse it once for all.

        Raises:
            SourceError: when nobody can read it.

        """
        self._answers: dict[Names, Answer]
        try:
            everything = _parsed(page, frozenset().union(*wanted))
        except PageError:
            # What one cannot read may be nothing that another wants.
            self._answers = {names: _tried(page, names) for names in wanted}
            if all(isinstance(answer, SourceError) for answer in self._answers.values()):
                raise
        else:
            self._answers = {
                names: tuple(sample for sample in everything if sample.name in names)
                for names in wanted
            }

    def samples(self, names: Names) -> Samples:
        """Give the samples with these names.

        Raises:
            SourceError: when they cannot be read.

        """
        answer = self._answers[names]
        if isinstance(answer, SourceError):
            raise answer
        return answer


def _parsed(page: Fetched, names: Names) -> Samples:
    return parse_page(page.body, page.content_type, names, page.at)


def _tried(page: Fetched, names: Names) -> Answer:
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
        self, url: str, names: Names, poll_seconds: float, tell: Callable[[Answer], None]
    ) -> Iterator[None]:
        """Tell what a page says at each poll, while inside."""

        def told(answer: Page | SourceError) -> None:
            try:
                tell(answer if isinstance(answer, SourceError) else answer.samples(names))
            except SourceError as error:
                tell(error)

        wanted = self._wanted.setdefault(url, Counter())
        is_new = names not in wanted
        wanted[names] += 1
        follower = Follower(None, poll_seconds, told)
        try:
            with self._polls.follow(url, url, self._reader(url), follower, anew=is_new):
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
