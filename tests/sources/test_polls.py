"""Shared polls: how often, for how many, and what becomes of failures."""

import asyncio
import contextlib
import random
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from keda_scaler.core.readings import Demand, Missing
from keda_scaler.errors import SourceError
from keda_scaler.sources import polls
from keda_scaler.sources.polls import MAX_RETRY_SECONDS, Follower, Polls, pause

pytestmark = pytest.mark.looptime


class Sink:
    """Whether a target waits for a replica; what is told goes elsewhere."""

    def __init__(self, *, is_waking: bool) -> None:
        self.is_waking = is_waking

    def demanded(self, demand: Demand | Missing, doubt: str | None = None) -> None:
        raise AssertionError


class World:
    """A thing that is read, and when it was."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.records: list[str] = []
        self.failing: Exception | None = None
        self.polls: Polls[int] = Polls(self._record, self._now)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _record(self, source: str, result: str, seconds: float) -> None:
        self.records.append(f"{source} {result}")

    async def read(self) -> int:
        self.times.append(self._now())
        await asyncio.sleep(0.01)
        if self.failing is not None:
            raise self.failing
        return len(self.times)

    @contextlib.contextmanager
    def followed(self, sink: Sink, poll_seconds: float = 10.0) -> Iterator[list[int | SourceError]]:
        told: list[int | SourceError] = []
        follower = Follower(sink, poll_seconds, told.append)
        with self.polls.follow("it", "it", self.read, follower):
            yield told

    def gaps(self) -> list[float]:
        return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]


async def test_every_second_while_a_target_wakes() -> None:
    """One target without replicas makes its gateway be read every second, with jitter."""
    world = World()
    with world.followed(Sink(is_waking=False)), world.followed(Sink(is_waking=True)) as told:
        await asyncio.sleep(30)

    assert 29 <= len(told) <= 40
    assert all(0.75 < gap < 1.05 for gap in world.gaps())
    assert len({round(gap, 6) for gap in world.gaps()}) > 5
    assert set(world.records) == {"gateway ok"}
    await world.polls.aclose()


async def test_as_often_as_the_most_eager_wants_it() -> None:
    """With replicas the smallest `pollSeconds` counts."""
    world = World()
    with world.followed(Sink(is_waking=False), 60), world.followed(Sink(is_waking=False), 10):
        await asyncio.sleep(60)

    assert all(8 <= gap <= 10.1 for gap in world.gaps())
    await world.polls.aclose()


async def test_a_target_that_loses_its_replicas_is_noticed() -> None:
    """Within about a second, in the midst of a long pause."""
    world, sink = World(), Sink(is_waking=False)
    with world.followed(sink, 3600):
        await asyncio.sleep(10)
        assert len(world.times) == 1
        sink.is_waking = True
        await asyncio.sleep(1.05)
        assert 10 <= world.times[1] <= 11.05
    await world.polls.aclose()


@pytest.mark.timeout(10)
async def test_a_pause_that_ends_between_two_ticks_of_the_clock_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Waiting for less than the clock can tell, again and again, spun for as long as it stood."""
    monkeypatch.setattr(polls, "random", random.Random(28))  # one of its pauses ends there
    world = World()
    with world.followed(Sink(is_waking=True)):
        await asyncio.sleep(30)
    assert 30 <= len(world.times) <= 38
    await world.polls.aclose()


async def test_one_read_for_all() -> None:
    """A thousand targets cost one read, and each is told; who joins late is told at once."""
    world = World()
    sinks = [Sink(is_waking=False) for _ in range(1000)]
    with contextlib.ExitStack() as stack:
        told = [stack.enter_context(world.followed(sink)) for sink in sinks]
        await asyncio.sleep(0.5)
        with world.followed(sinks[0]) as late:
            assert late == [1]
        await asyncio.sleep(1)
        with world.followed(sinks[0]) as later, world.followed(sinks[0]) as last:
            assert (later, last) == ([1], [1])

    assert told == [[1]] * 1000
    await world.polls.aclose()


async def test_nothing_is_read_for_nobody() -> None:
    """The last to leave ends the reading, and the next begins it anew."""
    world = World()
    with world.followed(Sink(is_waking=True)):
        await asyncio.sleep(0.1)
    await asyncio.sleep(10)
    assert len(world.times) == 1
    with world.followed(Sink(is_waking=True)) as told:
        await asyncio.sleep(0.1)
    assert told == [2]
    await world.polls.aclose()


async def test_failures_are_told_and_logged_once() -> None:
    """Each failed poll is told; the log says when it began and when it was over."""
    world = World()
    world.failing = SourceError("refused")
    with capture_logs() as logs, world.followed(Sink(is_waking=True)) as told:
        await asyncio.sleep(30)
        failed = len(told)
        world.failing = None
        await asyncio.sleep(MAX_RETRY_SECONDS + 0.1)

    assert [str(each) for each in told[:failed]] == ["refused"] * failed
    assert 30 / (MAX_RETRY_SECONDS + 0.1) < failed < 15
    assert isinstance(told[failed], int)
    assert [entry["log_level"] for entry in logs] == ["warning", "info"]
    assert world.records[0] == "gateway error"
    await world.polls.aclose()


async def test_a_fault_of_ours_is_told_and_survived() -> None:
    """A reader that trips over something goes on, and says that it is our fault."""
    world = World()
    world.failing = RuntimeError("oops")
    with capture_logs() as logs, world.followed(Sink(is_waking=True)) as told:
        await asyncio.sleep(0.1)
        world.failing = None
        await asyncio.sleep(3)

    assert str(told[0]) == "internal error, see the scaler's log"
    assert isinstance(told[1], int)
    assert logs[0]["log_level"] == "error"
    await world.polls.aclose()


async def test_a_target_that_fails_harms_no_other() -> None:
    """An exception of one that is told leaves the others and the reader alone."""
    world, told = World(), []

    def fail(_: int | SourceError) -> None:
        told.append("failed")
        raise RuntimeError

    with (
        capture_logs() as logs,
        world.polls.follow("it", "it", world.read, Follower(Sink(is_waking=True), 1, fail)),
        world.followed(Sink(is_waking=True)) as other,
    ):
        await asyncio.sleep(1.5)

    assert (told, other) == (["failed"] * 2, [1, 2])
    assert [entry["log_level"] for entry in logs] == ["error"] * 2
    await world.polls.aclose()


async def test_what_is_hurried_is_not_left_to_the_pauses_of_its_failures() -> None:
    """A page that fails just as its replica becomes ready is read again a second later."""
    world = World()
    world.failing = SourceError("refused")
    with world.followed(Sink(is_waking=False), 15) as told:
        await asyncio.sleep(300)
        before = len(world.times)
        world.polls.hurry("it")
        await asyncio.sleep(1.1)
        assert len(world.times) == before + 2
        world.failing = None
        await asyncio.sleep(1.1)
        assert told[-1] == before + 3
        await asyncio.sleep(11)
        assert len(world.times) == before + 3  # as often as before once it answers
    await world.polls.aclose()


async def test_hurry_does_not_last() -> None:
    """What goes on failing is soon polled no more often than it is wanted."""
    world = World()
    world.failing = SourceError("refused")
    with world.followed(Sink(is_waking=False), 15):
        await asyncio.sleep(1)
        world.polls.hurry("it")
        await asyncio.sleep(61)
    assert 7 <= len(world.times) <= 1 + polls.MAX_HURRIED + 61 // 12 + 1
    assert world.gaps()[-1] >= 12
    await world.polls.aclose()


def test_pauses_grow_after_failures_and_are_bounded() -> None:
    """One failure changes nothing; then the pause doubles up to 4 s, or the poll if longer."""
    assert [pause(1, failures) for failures in (0, 1, 2, 3, 4, 500)] == [1, 1, 2, 4, 4, 4]
    assert pause(30, 500) == 30
