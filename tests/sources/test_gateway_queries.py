"""Gateways and own queries through a real Prometheus."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from keda_scaler.sources import polls
from keda_scaler.sources.gateways import GatewaysSource
from keda_scaler.sources.kubernetes import ServiceDirectory
from keda_scaler.sources.prometheus import PrometheusServer, PrometheusSource
from metrics_page import Page
from prometheus_server import PrometheusProcess
from prometheus_sink import until
from wake_fixtures import LOOPBACK, WakeNotebook, incoming, queue, wake_trigger

pytestmark = pytest.mark.asyncio(loop_scope="module")

UNSCRAPED = "Prometheus cannot scrape the gateway (up is 0, gone, or too old)"


class World:
    """A Prometheus and the gateways that it scrapes. Every test has a namespace of its own."""

    def __init__(self, prometheus: PrometheusProcess) -> None:
        self.prometheus = prometheus
        self.pages = {
            "one": Page(queue(2)),
            "other": Page(queue(5)),
            "twice": Page(queue(3)),
            "born": Page(incoming()),
            "lost": Page(queue(0)),
        }
        servers = {"main": PrometheusServer(prometheus.url)}
        self._lender = PrometheusSource(servers, LOOPBACK)
        self._directory = ServiceDirectory()
        self.source = GatewaysSource(LOOPBACK, self._directory, self._lender, lambda *_: None)

    async def start(self) -> None:
        for name, page in self.pages.items():
            await page.start()
            await self.scrape(name, name)
        await self.scrape("twice", "twice", job="pods")
        await asyncio.to_thread(self.prometheus.wait_scraped)

    async def scrape(self, namespace: str, name: str, job: str = "services") -> None:
        """Have a page scraped in a namespace, and nothing else."""
        pods = {self.pages[name].address: name} if name else {}
        await asyncio.to_thread(self.prometheus.scrape, job, namespace, pods)

    async def stop(self) -> None:
        await self.source.aclose()
        await self._lender.aclose()
        await self._directory.aclose()
        for page in self.pages.values():
            await page.stop()

    @contextlib.asynccontextmanager
    async def reading(self, namespace: str, **keys: str) -> AsyncIterator[WakeNotebook]:
        """Read for one target."""
        trigger = wake_trigger({"prometheus": "main", "staleSeconds": "2", **keys})
        sink = WakeNotebook()
        task = asyncio.create_task(self.source.run(namespace, "llama", trigger, sink))
        try:
            yield sink
            assert not task.done(), "it runs until it is cancelled"
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def answer(self, query: str, namespace: str = "one") -> float | str:
        """Give what a query of a trigger's own is taken for."""
        async with self.reading(namespace, wakeFrom="query", wakeQuery=query) as sink:
            await until(lambda: sink.told)
        return sink.reason if sink.held is None else sink.held


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a second be a fifth of one; Prometheus scrapes every second."""
    monkeypatch.setattr(polls, "WAKE_SECONDS", 0.2)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(prometheus: PrometheusProcess) -> AsyncIterator[World]:
    world = World(prometheus)
    await world.start()
    yield world
    await world.stop()


async def test_a_gateway_of_the_namespace_is_read(world: World) -> None:
    """Its requests count, and those of another namespace's gateway do not."""
    async with world.reading("one") as one, world.reading("other", model="llama") as other:
        await until(lambda: (one.held, other.held) == (2, 5))


async def test_an_address_that_two_jobs_scrape_counts_once(world: World) -> None:
    """A ServiceMonitor and a PodMonitor of one gateway do not double its requests."""
    async with world.reading("twice") as sink:
        await until(lambda: len(sink.told) > 2)
    assert sink.held == 3


async def test_a_namespace_without_a_gateway_is_unknown(world: World) -> None:
    """A gateway that should show itself and does not may not be scraped at all."""
    async with world.reading("nobody") as sink:
        await until(lambda: sink.told)
    assert sink.reason == "Prometheus has no series of EPP"


async def test_a_counter_that_is_born_wakes(world: World) -> None:
    """The first request for a model makes its series, which `rate` would not show."""
    async with world.reading("born", wakeFrom="vllm-router", model="llama") as sink:
        await until(lambda: sink.held == 0)
        world.pages["born"].body = incoming(llama=1)
        await until(lambda: sink.arrivals == 1)
        told = len(sink.told)
        await until(lambda: len(sink.told) > told + 2)
    assert sink.arrivals == 1
    async with world.reading("born", wakeFrom="vllm-router", model="llama") as new:
        await until(lambda: len(new.told) > 1)
    assert new.arrivals == 0, "what came before a target was new wakes nothing"


async def test_a_gateway_that_cannot_be_scraped_is_unknown(world: World) -> None:
    """With `up` at 0 its last zero proves nothing, for targets that are new as well."""
    async with world.reading("lost") as sink:
        await until(lambda: sink.held == 0)
        await world.pages["lost"].stop()
        await until(lambda: sink.reason == UNSCRAPED)
    async with world.reading("lost") as new:
        await until(lambda: new.told)
    assert new.reason == UNSCRAPED


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ("sum(llm_d_epp_flow_control_queue_size)", 2.0),
        ('llm_d_epp_flow_control_queue_size{namespace=~".*"} + 1', 3.0),
        ('max_over_time(llm_d_epp_flow_control_queue_size{namespace="other"}[1h]) or vector(0)', 0),
        ("scalar(llm_d_epp_flow_control_queue_size) * 2", 4.0),
        ("sum(nothing) or vector(0)", 0.0),
        (
            "sum(nothing)",
            "the query gives no series; `or vector(0)` says that this means none",
        ),
        ("vector(-1)", "the query gives a number that is not one of requests"),
        ("vector(NaN)", "the query gives a number that is not one of requests"),
        ("vector(1e39)", "the query gives a number that is not one of requests"),
        ("vector(Inf)", "the query gives a number that is not one of requests"),
        ("-Inf", "the query gives a number that is not one of requests"),
    ],
)
async def test_own_queries(world: World, query: str, answer: float | str) -> None:
    """The values are added up, of the own namespace alone; anything else is unknown."""
    assert await world.answer(query) == answer
