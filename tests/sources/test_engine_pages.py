"""Pages of engines: fetched once however many targets read them, and never all at once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from endpoint_reading import LOOPBACK, Notebook, serving
from keda_scaler.core.readings import Distribution, Missing, Value
from keda_scaler.core.signals import Signal
from keda_scaler.core.trigger import Accepts, Trigger, parse_trigger
from keda_scaler.errors import PageError
from keda_scaler.sources import pages
from keda_scaler.sources.endpoints import EndpointsSource
from keda_scaler.sources.enginepages import Page, names_of
from keda_scaler.sources.kubernetes import ServiceDirectory
from keda_scaler.sources.pages import Fetched
from metrics_page import capture

BUSY = capture("busy-queue")


@dataclass
class World:
    """A page that counts who reads it, and a source that reads for many targets."""

    body: str = BUSY
    fetches: int = 0
    connections: set[int] = field(default_factory=set)
    records: list[str] = field(default_factory=list)
    hanging: int = 0

    async def answer(self, request: web.Request) -> web.Response:
        self.fetches += 1
        assert request.transport is not None
        self.connections.add(request.transport.get_extra_info("peername")[1])
        return web.Response(text=self.body)

    async def hang(self, _: web.Request) -> web.Response:
        self.hanging += 1
        await asyncio.Event().wait()
        raise AssertionError

    @contextlib.asynccontextmanager
    async def source(self) -> AsyncIterator[EndpointsSource]:
        directory = ServiceDirectory()
        source = EndpointsSource(LOOPBACK, directory, lambda *_: self.records.append("poll"))
        yield source
        await source.aclose()
        await directory.aclose()


def trigger_of(url: str = "http://127.0.0.1/metrics", **keys: str) -> Trigger:
    metadata = {"endpoints": url, "pollSeconds": "1", **keys}
    return parse_trigger(metadata, Accepts(addresses=LOOPBACK))


@contextlib.asynccontextmanager
async def reading(source: EndpointsSource, url: str, **keys: str) -> AsyncIterator[Notebook]:
    trigger = trigger_of(url, **keys)
    notebook = Notebook()
    task = asyncio.create_task(source.run("default", trigger, notebook))
    try:
        yield notebook
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_page_is_fetched_once_for_all_targets() -> None:
    """However many they are; on one connection, and each poll counts once."""
    world = World()
    async with (
        serving(world.answer) as url,
        world.source() as source,
        contextlib.AsyncExitStack() as stack,
    ):
        notebooks = [await stack.enter_async_context(reading(source, url)) for _ in range(100)]
        for notebook in notebooks:
            await notebook.until(lambda notebook=notebook: len(notebook.engines) >= 2)  # type: ignore[misc]
            assert notebook.queue(url) == 12.0
        assert world.fetches <= 3
        assert len(world.records) in {world.fetches, world.fetches - 1}
        assert len(world.connections) == 1


async def test_whoever_wants_more_of_a_page_has_it_read_at_once() -> None:
    """And each is told what it wants, as if it read the page alone."""
    world = World()
    async with serving(world.answer) as url, world.source() as source:
        async with reading(source, url, pollSeconds="3600") as gauges:
            await gauges.until(lambda: gauges.queue(url) == 12.0)
            latency = {"targetLatencySeconds": "1", "pollSeconds": "3600"}
            async with reading(source, url, **latency) as latencies:
                await latencies.until(lambda: latencies.readings)
                assert isinstance(latencies.readings[url][Signal.LATENCY], Distribution)
            await gauges.until(lambda: len(gauges.engines) == 2)
            assert isinstance(gauges.readings[url][Signal.LATENCY], Missing)
            async with reading(source, url, engine="sglang") as other:
                await other.until(lambda: other.queue(url) == "no series of sglang")
        assert world.fetches == 3


async def test_the_most_eager_target_sets_the_pace() -> None:
    """A page is read as often as the smallest `pollSeconds` wants it."""
    world = World()
    async with (
        serving(world.answer) as url,
        world.source() as source,
        reading(source, url, pollSeconds="3600") as patient,
        reading(source, url),
    ):
        await patient.until(lambda: len(patient.engines) >= 3)


def test_a_line_that_one_target_cannot_read_harms_no_other() -> None:
    """What is broken in a family is the trouble of who reads that family."""
    gauge = b'vllm:num_requests_waiting{model_name="m"} 3\n'
    broken = b'vllm:e2e_request_latency_seconds_bucket{le="x} 2\n'
    page = Fetched(gauge + broken, "text/plain", 1.0)
    good, bad = trigger_of(engine="vllm"), trigger_of(engine="vllm", targetLatencySeconds="1")

    both = Page(page, [names_of(good), names_of(bad)])

    assert both.seen(good).readings[Signal.QUEUE_DEPTH] == Value(3, 1.0)
    assert both.seen(good) is both.seen(trigger_of(engine="vllm", pollSeconds="9"))
    with pytest.raises(PageError):
        both.seen(bad)
    with pytest.raises(PageError):
        Page(page, [names_of(bad)])


def test_a_page_with_a_prefix_says_so() -> None:
    """To whoever reads it, whatever engine they name."""
    page = Fetched(BUSY.replace("vllm:", "kserve_vllm:").encode(), "text/plain", 1.0)
    says = "; the page has kserve_vllm:num_requests_running, with a prefix"
    triggers = {
        "no series of vllm": trigger_of(engine="vllm"),
        "no series of a known engine": trigger_of(targetLatencySeconds="1"),
    }
    seen = Page(page, [names_of(trigger) for trigger in triggers.values()])

    for reason, trigger in triggers.items():
        assert seen.seen(trigger).readings[Signal.CONCURRENCY] == Missing(f"{reason}{says}")


def test_a_model_that_is_not_on_the_page_is_said_with_those_that_are() -> None:
    """The page is known, and nothing on it is of that model: that is not zero."""
    trigger = trigger_of(engine="vllm", model="llama")
    seen = Page(Fetched(BUSY.encode(), "text/plain", 1.0), [names_of(trigger)]).seen(trigger)

    says = "no series of model 'llama'; there are: tiny-llama"
    engines_own = set(seen.readings) - {Signal.GPU_UTILIZATION}
    assert {seen.readings[signal] for signal in engines_own} == {Missing(says)}


async def test_pages_that_hang_starve_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """They give their places up soon, and time in the queue is not time of the page."""
    monkeypatch.setattr(pages, "MAX_QUICK", 2)
    monkeypatch.setattr(pages, "SLOW_SECONDS", 0.02)
    monkeypatch.setattr(pages, "PAGE_SECONDS", 0.5)
    world = World()
    async with (
        serving(world.answer) as url,
        serving(world.hang) as away,
        world.source() as source,
        contextlib.AsyncExitStack() as stack,
    ):
        for number in range(60):  # one after the other they would take 15 s
            await stack.enter_async_context(reading(source, f"{away}?{number}"))
        async with asyncio.timeout(5), reading(source, url) as notebook:
            await notebook.until(lambda: notebook.queue(url) == 12.0)
        assert world.hanging > 50


async def test_only_so_many_pages_are_fetched_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that hang included."""
    monkeypatch.setattr(pages, "MAX_OPEN", 3)
    monkeypatch.setattr(pages, "SLOW_SECONDS", 0.01)
    places, taken, highest = pages.Places(), 0, 0

    async def take() -> None:
        nonlocal taken, highest
        async with places.taken():
            taken += 1
            highest = max(highest, taken)
            await asyncio.sleep(0.02)
            taken -= 1

    await asyncio.gather(*(take() for _ in range(20)))
    assert highest == 3
