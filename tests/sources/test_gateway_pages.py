"""Gateways read directly: real pages over real HTTP, pods listed by a simulated API server."""

import asyncio
import contextlib
import importlib
import time
from collections.abc import AsyncIterator, Mapping

import pytest
from structlog.testing import capture_logs

from keda_scaler.core.addresses import AddressRules
from keda_scaler.core.readings import Demand
from keda_scaler.core.trigger import Trigger
from keda_scaler.sim.kubernetes import SimulatedCluster, SimulatedEndpoint
from keda_scaler.sources import polls
from keda_scaler.sources.gateways import GatewaysSource
from keda_scaler.sources.kubernetes import ServiceDirectory, at_url
from keda_scaler.sources.prometheus import PrometheusSource
from wake_fixtures import (
    LOOPBACK,
    GatewayPage,
    WakeNotebook,
    incoming,
    page,
    queue,
    wake_trigger,
)


class World:
    """A source of gateways, and the cluster whose pods it reads."""

    def __init__(self, cluster: SimulatedCluster, rules: AddressRules = LOOPBACK) -> None:
        self.cluster = cluster
        self.directory = ServiceDirectory(configure=at_url(cluster.url))
        self.records: list[str] = []
        self.source = GatewaysSource(
            rules, self.directory, PrometheusSource({}, rules), self._record
        )

    def _record(self, source: str, result: str, seconds: float) -> None:
        self.records.append(f"{source} {result}")

    def put(self, pods: Mapping[str, GatewayPage], namespace: str = "default") -> None:
        """Make these the pods of the gateway."""
        listed = [
            SimulatedEndpoint("127.0.0.1", name, each.port, "metrics")
            for name, each in pods.items()
        ]
        self.cluster.put_service(namespace, "gateway", listed)

    @contextlib.asynccontextmanager
    async def reading(
        self, trigger: Trigger | None = None, notebook: WakeNotebook | None = None
    ) -> AsyncIterator[WakeNotebook]:
        """Read for one target."""
        notebook = notebook or WakeNotebook()
        trigger = trigger or wake_trigger({"wakeService": "gateway"})
        task = asyncio.create_task(self.source.run("default", "llama", trigger, notebook))
        try:
            yield notebook
            assert not task.done(), "it runs until it is cancelled"
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        await self.source.aclose()
        await self.directory.aclose()


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a second be a tenth of one; `test_polls.py` looks at the real one."""
    monkeypatch.setattr(polls, "WAKE_SECONDS", 0.1)


@pytest.fixture
async def cluster() -> AsyncIterator[SimulatedCluster]:
    await asyncio.to_thread(importlib.import_module, "kubernetes_asyncio.client")  # takes a while
    async with SimulatedCluster() as cluster:
        yield cluster


@pytest.fixture
async def world(cluster: SimulatedCluster) -> AsyncIterator[World]:
    world = World(cluster)
    yield world
    await world.close()


def at(served: GatewayPage, **keys: str) -> Trigger:
    """Parse a trigger that names the address of a page."""
    place = {"wakeService": "127.0.0.1", "wakePort": str(served.port)}
    return wake_trigger(place | {"model": "llama"} | keys)


def by_router(served: GatewayPage, **keys: str) -> Trigger:
    return at(served, wakeFrom="vllm-router", **keys)


async def test_a_request_is_told_within_a_poll(world: World) -> None:
    """From the page to the sink it takes at most the time between two polls."""
    async with page(queue(0)) as served, world.reading(at(served)) as sink:
        await sink.until(lambda: sink.held == 0)
        for number in (1, 2):
            served.body, began = queue(number), time.monotonic()
            await sink.until(lambda number=number: sink.held == number)  # type: ignore[misc]
            assert time.monotonic() - began < 0.6  # a tenth, and a busy machine
    last = sink.told[-1]
    assert isinstance(last, Demand)
    assert 0 <= time.monotonic() - last.at < 2
    assert set(world.records) == {"gateway ok"}


async def test_one_pod_that_is_known_already_proves_nothing_for_all(world: World) -> None:
    """A target that comes later hears of the pages that others read at once, pod by pod."""
    async with page(queue(0)) as idle, page(queue(3)) as busy:
        world.put({"gateway-0": idle, "gateway-1": busy})
        async with world.reading() as first:
            await first.until(lambda: first.held == 3)
            async with world.reading() as late:
                await late.until(lambda: late.held == 3)
    assert all(isinstance(told, Demand) and told.held == 3 for told in late.told)


async def test_all_pods_are_added_up(world: World) -> None:
    """Every pod behind the Service is read; one that is gone counts no more."""
    async with page(queue(2)) as one, page(queue(3)) as other:
        world.put({"gateway-0": one, "gateway-1": other})
        async with world.reading() as sink:
            await sink.until(lambda: sink.held == 5)
            world.put({"gateway-1": other})
            await sink.until(lambda: sink.held == 3)


async def test_a_pod_that_is_unreachable_repeats_itself_until_stale(world: World) -> None:
    """What it said before counts on, as old as it is; after `staleSeconds` it is unknown."""
    trigger = wake_trigger({"wakeService": "gateway", "staleSeconds": "2"})
    async with page(queue(2)) as one, page(queue(0)) as other:
        world.put({"gateway-0": one, "gateway-1": other})
        async with world.reading(trigger) as sink:
            await sink.until(lambda: sink.held == 2)
            await one.stop()
            before = len(one.fetches), len(other.fetches)
            await sink.until(lambda: len(other.fetches) > before[1] + 1)
            assert sink.held == 2
            await sink.until(lambda: sink.reason.startswith("gateway-0: cannot connect: "))
            other.body = queue(1)
            await sink.until(lambda: sink.held == 1)
    assert len(one.fetches) == before[0]


async def test_a_pod_that_was_never_read_is_unknown(world: World) -> None:
    """Unless another has a request, nobody knows whether it has one."""
    async with page(queue(0)) as one:
        gone = GatewayPage("")
        await gone.start()
        await gone.stop()
        world.put({"gateway-0": one, "gateway-1": gone})
        async with world.reading() as sink:
            await sink.until(lambda: sink.reason.startswith("gateway-1: cannot connect"))
            assert sink.held is None
            one.body = queue(1)
            await sink.until(lambda: sink.held == 1)


async def test_a_gateway_without_pods_is_unknown(world: World) -> None:
    """No pod that could have a request is no proof that there is none: it may be restarting."""
    async with page(queue(0)) as one, world.reading() as sink:
        await sink.until(lambda: sink.reason.startswith("no EndpointSlice of Service gateway"))
        world.put({})
        await sink.until(lambda: sink.reason == "EPP has no pods")
        world.put({"gateway-0": one})
        await sink.until(lambda: sink.held == 0)
        world.put({})
        await sink.until(lambda: sink.reason == "EPP has no pods")


async def test_a_request_that_a_counter_shows(world: World) -> None:
    """A counter wakes when it rises and when it is born, not at first sight nor by a reset."""
    async with (
        page(incoming(llama=7, other=1)) as served,
        world.reading(by_router(served)) as sink,
    ):
        await sink.until(lambda: len(sink.told) > 1)
        assert sink.arrivals == 0
        served.body = incoming(llama=8, other=1)
        await sink.until(lambda: sink.arrivals == 1)
        served.body = incoming(llama=2, other=5)
        seen = len(sink.told)
        await sink.until(lambda: len(sink.told) > seen + 1)
        assert sink.arrivals == 1, "a reset, and another model's requests"
        served.body = incoming(other=5)
        seen = len(sink.told)
        await sink.until(lambda: len(sink.told) > seen + 1)
        served.body = incoming(llama=1, other=5)
        await sink.until(lambda: sink.arrivals == 2)
        seen = len(sink.told)
        await sink.until(lambda: len(sink.told) > seen + 1)
    assert sink.arrivals == 2, "each is told once"


async def test_a_burst_between_polls_that_fail_shows_later(world: World) -> None:
    """A failed poll forgets nothing: requests meanwhile are found when the page is back."""
    async with page(incoming(llama=1)) as served, world.reading(by_router(served)) as sink:
        await sink.until(lambda: sink.held is not None)
        served.status, served.body = 500, incoming(llama=2)
        with capture_logs() as logs:
            reads = len(served.fetches)
            await sink.until(lambda: len(served.fetches) > reads + 1)
        assert sink.arrivals == 0
        served.status = 200
        await sink.until(lambda: sink.arrivals == 1)
    assert [entry["reason"] for entry in logs] == ["the page answers HTTP 500"]
    assert "gateway error" in world.records


async def test_requests_of_a_new_pod_before_its_first_reading(world: World) -> None:
    """A counter on a page that is read for the first time is compared with nothing."""
    trigger = wake_trigger({"wakeService": "gateway", "wakeFrom": "vllm-router"})
    async with page(incoming(llama=1)) as one, page(incoming(llama=9)) as other:
        world.put({"gateway-0": one})
        async with world.reading(trigger) as sink:
            await sink.until(lambda: sink.held == 0)
            world.put({"gateway-0": one, "gateway-1": other})
            await sink.until(lambda: len(other.fetches) > 1)
            assert sink.arrivals == 0
            other.body = incoming(llama=10)
            await sink.until(lambda: sink.arrivals == 1)


async def test_a_pod_that_goes_away_repeats_no_arrival(world: World) -> None:
    """What an unreachable pod said before counts on, but its requests have arrived once."""
    trigger = wake_trigger({"wakeService": "gateway", "wakeFrom": "vllm-router"})
    async with page(incoming(llama=1)) as one, page(incoming(llama=1)) as other:
        world.put({"gateway-0": one, "gateway-1": other})
        async with world.reading(trigger) as sink:
            await sink.until(lambda: len(other.fetches) > 1 and sink.held == 0)
            one.body = incoming(llama=2)
            await sink.until(lambda: sink.arrivals == 1)
            one.status = 500
            reads = len(other.fetches)
            await sink.until(lambda: len(other.fetches) > reads + 2)
    assert sink.arrivals == 1


async def test_two_hundred_targets_cost_one_fetch(world: World) -> None:
    """A page is fetched once per poll, however many targets are behind the gateway."""
    models = {f"model-{number}": 0 for number in range(200)}
    async with page(incoming(**models)) as served, contextlib.AsyncExitStack() as stack:
        sinks = {
            model: await stack.enter_async_context(world.reading(by_router(served, model=model)))
            for model in models
        }
        await sinks["model-199"].until(lambda: len(sinks["model-199"].told) == 1)
        assert len(served.fetches) == 1
        served.body = incoming(**(models | {"model-7": 1}))
        await sinks["model-7"].until(lambda: sinks["model-7"].arrivals == 1)
        await sinks["model-199"].until(lambda: len(sinks["model-199"].told) == 2)
        assert len(served.fetches) == 2
        assert sum(sink.arrivals for sink in sinks.values()) == 1


async def test_a_wrong_page_is_unknown(world: World) -> None:
    """A page of something else says nothing of requests."""
    async with page("some_other 1\n") as served, world.reading(at(served)) as sink:
        await sink.until(lambda: sink.reason.startswith("127.0.0.1: the page is not of EPP"))


async def test_a_path_of_its_own(world: World) -> None:
    """`wakePath` is read instead of the gateway's own path."""
    trigger_keys = {"wakePath": "/stats?format=prometheus"}
    async with page(queue(4)) as served, world.reading(at(served, **trigger_keys)) as sink:
        await sink.until(lambda: sink.held == 4)


async def test_a_gateway_of_another_namespace(cluster: SimulatedCluster) -> None:
    """It is read where the settings allow its addresses, and only what the trigger names."""
    trigger = wake_trigger({"wakeService": "gateway.ingress", "model": "llama"})
    world, closed = (
        World(cluster),
        World(cluster, AddressRules(hosts=frozenset({"gateway.ingress"}))),
    )
    async with page(queue(2) + queue(5, "other").partition("\n")[2]) as served:
        world.put({"gateway-0": served}, namespace="ingress")
        async with world.reading(trigger) as sink:
            await sink.until(lambda: sink.held == 2)
        async with closed.reading(trigger) as sink:
            await sink.until(lambda: sink.reason == "the address of gateway-0 is not allowed")
    await world.close()
    await closed.close()


async def test_all_of_a_gateway_of_another_namespace_is_not_read(world: World) -> None:
    """A page that names no namespaces is read only for the model that the trigger names."""
    async with page(queue(2)) as served:
        world.put({"gateway-0": served}, namespace="ingress")
        async with world.reading(wake_trigger({"wakeService": "gateway.ingress"})) as sink:
            await sink.until(lambda: "needs model or wakeSelector" in sink.reason)
    assert sink.held is None


async def test_addresses_that_are_not_allowed_are_not_read(cluster: SimulatedCluster) -> None:
    """Neither an address that a trigger names nor an endpoint that is no pod."""
    world = World(cluster, AddressRules())
    async with page(queue(2)) as served:
        world.put({"gateway-0": served})
        async with world.reading(at(served)) as named, world.reading() as listed:
            await named.until(lambda: named.reason == "the address 127.0.0.1 is not allowed")
            await listed.until(lambda: listed.reason == "the address of gateway-0 is not allowed")
        assert served.fetches == []
    await world.close()


async def test_a_list_that_is_not_confirmed_proves_nothing_new(world: World) -> None:
    """Without the API server there may be a pod more, so that zero is as old as the list."""
    async with page(queue(0)) as served:
        world.put({"gateway-0": served})
        async with world.reading() as sink:
            await sink.until(lambda: sink.held == 0)
            await world.cluster.__aexit__(None, None, None)
            await asyncio.sleep(0)
            lost = time.monotonic()
            await sink.until(lambda: len(sink.told) > 20)
            last = sink.told[-1]
            assert isinstance(last, Demand)
            assert last.at < lost + 0.5
