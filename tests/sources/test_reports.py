"""Reports in memory, and the source that turns them into readings."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
from structlog.testing import capture_logs

from keda_scaler import turns
from keda_scaler.core import reports as core
from keda_scaler.core.readings import Demand, Lacking, Missing, Value
from keda_scaler.core.reports import NO_REPORT, SILENT_SECONDS, YOUNG, YOUNG_SECONDS, Tally
from keda_scaler.core.signals import Signal
from keda_scaler.core.trigger import Accepts, Trigger, parse_trigger
from keda_scaler.errors import TooManyReportsError
from keda_scaler.sources.reports import MemoryReports, ReportsSource
from prometheus_sink import RememberingSink
from report_for_tests import report

pytestmark = pytest.mark.looptime

Heard = list[tuple[float, Tally | Missing]]


def now() -> float:
    return asyncio.get_running_loop().time()


def hear(reports: MemoryReports) -> Heard:
    """Watch, and give what is heard and when."""
    heard: Heard = []
    reports.watch("models", "llama", lambda known: heard.append((now(), known)))
    return heard


@pytest.fixture
async def reports(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MemoryReports]:
    """Keep reports since long ago."""
    monkeypatch.setattr(core, "YOUNG_SECONDS", 0.0)
    kept = MemoryReports(now)
    yield kept
    await kept.aclose()


async def test_who_watches_hears_at_once_on_change_and_on_expiry(reports: MemoryReports) -> None:
    """Nobody has to ask again, neither for a new report nor for the end of an old one."""
    heard = hear(reports)
    assert heard == [(0, Missing(NO_REPORT))]

    await reports.state([report(waiting=2, running=1, ttl=10), report("b", name="other")])
    assert heard[1:] == [(0, Tally(2, 1, 0))]

    await asyncio.sleep(4)
    await reports.state([report("b", ttl=20)])
    await asyncio.sleep(2 * SILENT_SECONDS)
    assert heard[2:] == [
        (4, Tally(2, 1, 4)),
        (10, Missing("reporter a fell silent")),
        (24, Missing("reporter a fell silent")),
        (10 + SILENT_SECONDS, Missing(NO_REPORT)),
    ]


async def test_who_comes_later_hears_what_was_reported_before(reports: MemoryReports) -> None:
    """KEDA may ask for a ScaledObject long after its gateway began to report."""
    await reports.state([report(waiting=4)])
    await asyncio.sleep(5)

    assert hear(reports) == [(5, Tally(4, 0, 5))]


async def test_who_stops_to_watch_hears_no_more(reports: MemoryReports) -> None:
    """Another one who watches the same does; ending twice is harmless."""
    gone: list[Tally | Missing] = []
    end = reports.watch("models", "llama", gone.append)
    heard = hear(reports)
    end()
    end()
    before = len(gone)
    await reports.state([report(waiting=1)])

    assert len(gone) == before
    assert heard[-1][1] == Tally(1, 0, 0)


async def test_what_is_refused_is_not_heard_of(reports: MemoryReports) -> None:
    """All of a request or none."""
    heard = hear(reports)
    with pytest.raises(TooManyReportsError):
        await reports.state([report(f"r{number}", waiting=1) for number in range(101)])
    reports.refresh("models", "llama")

    assert [known for _, known in heard] == [Missing(NO_REPORT)] * 2


async def test_one_watcher_that_fails_does_not_hurt_others(reports: MemoryReports) -> None:
    """Neither the reporter nor who else watches pays for a bug of ours."""

    def broken(_: Tally | Missing) -> None:
        raise RuntimeError

    with capture_logs() as logs:
        reports.watch("models", "llama", broken)
        heard = hear(reports)
        await reports.state([report(waiting=1)])

    assert heard[-1][1] == Tally(1, 0, 0)
    assert {log["log_level"] for log in logs} == {"error"}


async def test_closed_nobody_is_called_back(reports: MemoryReports) -> None:
    """A timer that runs on would touch what is gone."""
    await reports.state([report(ttl=5)])
    heard = hear(reports)
    await reports.aclose()
    await asyncio.sleep(10)

    assert len(heard) == 1


async def test_many_watchers_do_not_starve_others(
    reports: MemoryReports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a large request is told, other tasks run."""
    monkeypatch.setattr(turns, "WORK_SECONDS", 0)
    told: list[int] = []
    for number in range(50):
        reports.watch("models", f"m{number}", lambda _: told.append(0))
    told.clear()
    stating = asyncio.create_task(reports.state([report(name=f"m{n}") for n in range(50)]))
    await asyncio.sleep(0)
    assert 0 < len(told) < 50
    await stating
    assert len(told) == 50


class Sink(RememberingSink):
    """Also remembers demand."""

    is_waking = False

    def __init__(self) -> None:
        super().__init__()
        self.demands: list[tuple[float, Demand | Missing]] = []
        self.doubts: list[str | None] = []

    def demanded(self, demand: Demand | Missing, doubt: str | None = None) -> None:
        self.demands.append((now(), demand))
        self.doubts.append(doubt)


@contextlib.asynccontextmanager
async def running(reports: MemoryReports, trigger: Trigger) -> AsyncIterator[Sink]:
    sink = Sink()
    reading = ReportsSource(reports, clock=now)
    task = asyncio.create_task(reading.run("models", "llama", trigger, sink))
    await asyncio.sleep(0)
    yield sink
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await reading.aclose()
    count = len(sink.demands) + sink.listings
    await reports.state([report("late", waiting=1)])
    assert len(sink.demands) + sink.listings == count, "what is cancelled tells no more"


def trigger_of(**keys: str) -> Trigger:
    return parse_trigger(keys, Accepts(reports=True))


async def test_as_a_wake_source_it_tells_of_demand(reports: MemoryReports) -> None:
    """Waiting requests are held, all are in flight; unknown is said with its reason."""
    trigger = trigger_of(service="llama", wakeFrom="reports", pollSeconds="10")
    async with running(reports, trigger) as sink:
        assert sink.demands == [(0, Missing(NO_REPORT))]
        await reports.state([report(waiting=2, running=3)])
        assert sink.demands[1:] == [(0, Demand(2, 5, arrived=False, at=0))]


async def test_what_does_not_change_is_confirmed_every_poll(reports: MemoryReports) -> None:
    """A report that holds for long does not go stale."""
    trigger = trigger_of(service="llama", wakeFrom="reports", pollSeconds="10")
    await reports.state([report(ttl=86400)])
    async with running(reports, trigger) as sink:
        await asyncio.sleep(1000)

    times = [at for at, _ in sink.demands]
    assert max(b - a for a, b in pairwise(times)) <= 10
    assert len(times) < 200
    assert all(isinstance(each, Demand) and each.at == at for at, each in sink.demands)


async def test_as_the_only_source_one_replica_stands_for_all(reports: MemoryReports) -> None:
    """Its queue and its concurrency are read; what reports do not tell is known to lack."""
    async with running(reports, trigger_of(engine="reports")) as sink:
        assert sink.names == ["reports"]
        assert sink.readings["reports"][Signal.CONCURRENCY] == Missing(NO_REPORT)
        await reports.state([report(waiting=2, running=3)])
        readings = sink.readings["reports"]

    assert readings[Signal.QUEUE_DEPTH] == Value(2, 0)
    assert readings[Signal.CONCURRENCY] == Value(5, 0)
    others = set(Signal) - {Signal.QUEUE_DEPTH, Signal.CONCURRENCY}
    assert all(isinstance(readings[signal], Lacking) for signal in others)


async def test_without_reports_the_list_stands_and_the_readings_do_not(
    reports: MemoryReports,
) -> None:
    """An empty list would be proof of idleness."""
    await reports.state([report(waiting=2, ttl=5)])
    async with running(reports, trigger_of(engine="reports")) as sink:
        await asyncio.sleep(60)
        assert now() - sink.at <= 5
        assert sink.names == ["reports"]
        missing = Missing("reporter a fell silent")
        assert sink.readings["reports"][Signal.QUEUE_DEPTH] == missing


async def test_zeros_are_doubted_by_who_is_new() -> None:
    """A batch that spoke to the one before has not had its turn yet."""
    young = MemoryReports(now)
    trigger = trigger_of(service="llama", wakeFrom="reports", pollSeconds="10")
    async with running(young, trigger) as sink:
        await young.state([report(ttl=3600)])
        assert sink.doubts == [None, YOUNG]
        await young.state([report("batch", waiting=3, ttl=1)])
        assert sink.doubts[2:] == [None]
        await young.state([report("batch", ttl=3600)])
        await asyncio.sleep(YOUNG_SECONDS + 0.1)
        assert set(sink.doubts[3:-1]) == {YOUNG}
        assert sink.doubts[-1] is None
        assert sink.demands[-1][0] == pytest.approx(YOUNG_SECONDS)


async def test_as_the_only_source_zeros_are_unknown_to_who_is_new() -> None:
    """Reports of work count at once."""
    young = MemoryReports(now)
    async with running(young, trigger_of(engine="reports")) as sink:
        await young.state([report(ttl=3600)])
        assert sink.readings["reports"][Signal.CONCURRENCY] == Missing(YOUNG)
        await young.state([report("batch", waiting=3, ttl=1)])
        assert sink.readings["reports"][Signal.CONCURRENCY] == Value(3, 0)
        await young.state([report("batch", ttl=3600)])
        await asyncio.sleep(YOUNG_SECONDS + 0.1)
        settled = sink.readings["reports"][Signal.CONCURRENCY]
        assert isinstance(settled, Value)
        assert settled.at == pytest.approx(YOUNG_SECONDS)
