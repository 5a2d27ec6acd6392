"""Endpoints: pages read directly, over real HTTP."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web

from endpoint_reading import LOOPBACK, reading, serving
from keda_scaler.core.addresses import AddressRules
from keda_scaler.core.decision import State
from keda_scaler.core.readings import Replica, Value
from keda_scaler.core.signals import Signal
from keda_scaler.core.trigger import Accepts, parse_trigger
from keda_scaler.sim.kubernetes import Fault, SimulatedCluster, SimulatedEndpoint
from keda_scaler.sim.model import EngineModel
from keda_scaler.sim.requests import Request
from keda_scaler.sim.server import FailureMode, SimulatedEngine
from keda_scaler.sources import pages
from keda_scaler.sources.endpoints import EndpointsSource
from keda_scaler.sources.enginepages import pause
from keda_scaler.sources.kubernetes import ServiceDirectory, at_url
from keda_scaler.sources.pages import MAX_PAGE_BYTES
from keda_scaler.store import Target

CAPTURES = Path(__file__).parent.parent / "captures"
SLOW = EngineModel(max_num_seqs=1, step_seconds=100.0)
"""An engine in which nothing finishes during a test."""

Pod = tuple[str, SimulatedEngine, bool, bool]
"""Name, engine, ready, terminating."""


def cluster_with(cluster: SimulatedCluster) -> Callable[[list[Pod]], None]:
    def put(pods: list[Pod]) -> None:
        cluster.put_service(
            "default",
            "llama",
            [
                SimulatedEndpoint(
                    "127.0.0.1",
                    name,
                    engine.port,
                    "http",
                    ready=ready,
                    serving=True,
                    terminating=terminating,
                )
                for name, engine, ready, terminating in pods
            ],
        )

    return put


def cluster_directory(cluster: SimulatedCluster) -> ServiceDirectory:
    return ServiceDirectory(configure=at_url(cluster.url))


def fast(**keys: str) -> dict[str, str]:
    return {"pollSeconds": "1", **keys}


async def test_a_recorded_page_is_read() -> None:
    """The busy page: 12 waiting, 4 running."""
    body = (CAPTURES / "vllm-0.32.0__busy-queue.prom").read_bytes()

    async def page(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type="text/plain", charset="utf-8")

    async with serving(page) as url, reading(fast(endpoints=url)) as notebook:
        await notebook.until(lambda: url in notebook.readings)

        assert notebook.listings[0] == (Replica(url),)
        concurrency = notebook.readings[url][Signal.CONCURRENCY]
        assert isinstance(concurrency, Value)
        assert (notebook.queue(url), concurrency.number) == (12.0, 16.0)


async def test_one_page_that_hangs_delays_no_other() -> None:
    """Every page has a reader of its own."""
    async with SimulatedEngine(SLOW) as good, SimulatedEngine() as bad:
        bad.set_mode(FailureMode.HANG)
        good.submit_all(Request(10, 10), 4)
        urls = [f"{engine.url}/metrics" for engine in (bad, good)]
        async with reading(fast(endpoints=",".join(urls))) as notebook:
            await notebook.until(lambda: notebook.queue(urls[1]) == 3.0)

            assert urls[0] not in notebook.readings


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        (FailureMode.ERROR, "the page answers HTTP 500"),
        (FailureMode.GARBAGE, "not an exposition"),
        (FailureMode.NO_FAMILIES, "no series of a known engine"),
    ],
)
async def test_what_is_wrong_with_a_page_is_said(mode: FailureMode, says: str) -> None:
    """Each failure is a reason, never a number; and a page that is well again is read again."""
    async with SimulatedEngine() as engine:
        engine.set_mode(mode)
        url = f"{engine.url}/metrics"
        async with reading(fast(endpoints=url)) as notebook:
            await notebook.until(lambda: says in str(notebook.queue(url)))
            engine.set_mode(FailureMode.OK)
            await notebook.until(lambda: notebook.queue(url) == 0.0)


async def test_a_page_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """No page is waited for longer than its bound."""
    monkeypatch.setattr(pages, "PAGE_SECONDS", 0.2)
    async with SimulatedEngine() as engine:
        engine.set_mode(FailureMode.HANG)
        url = f"{engine.url}/metrics"
        async with reading(fast(endpoints=url)) as notebook:
            await notebook.until(lambda: notebook.queue(url) == "no answer within 0.2 s")


@pytest.mark.blocks("a connection that nobody accepts is made at once")
async def test_packets_that_are_dropped_are_not_taken_for_a_busy_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A NetworkPolicy that lets nothing through shows as a connection that never comes."""
    monkeypatch.setattr(pages, "CONNECT_SECONDS", 0.2)
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as full,
        socket.create_connection(full.getsockname()),
    ):
        url = f"http://127.0.0.1:{full.getsockname()[1]}/metrics"
        async with reading(fast(endpoints=url)) as notebook:
            await notebook.until(lambda: notebook.queue(url) == "no connection within 0.2 s")


async def test_an_engine_that_is_gone_is_said_so() -> None:
    """Connection refused is a reason."""
    async with SimulatedEngine() as engine:
        url = f"{engine.url}/metrics"
    async with reading(fast(endpoints=url)) as notebook:
        await notebook.until(lambda: "cannot connect" in str(notebook.queue(url)))


async def test_a_page_without_end_is_cut_off() -> None:
    """Bytes are bounded, also of a page that never stops."""

    async def endless(http: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(http)
        with contextlib.suppress(ConnectionError):
            for _ in range(2 * MAX_PAGE_BYTES >> 16):
                await response.write(b"x" * (1 << 16))
        return response

    async with serving(endless) as url, reading(fast(endpoints=url)) as notebook:
        await notebook.until(lambda: notebook.queue(url) == "the page is longer than 8 MiB")


async def test_redirects_are_not_followed() -> None:
    """An allowed address cannot send us to one that is not."""

    async def elsewhere(_: web.Request) -> web.Response:
        raise web.HTTPFound("http://169.254.169.254/")

    async with serving(elsewhere) as url, reading(fast(endpoints=url)) as notebook:
        await notebook.until(lambda: notebook.queue(url) == "the page answers HTTP 302")


async def test_an_allowed_name_is_judged_by_its_address() -> None:
    """A name that resolves to this host is refused unless the network is allowed too."""
    named = AddressRules(hosts=frozenset({"localhost"}))
    url = "http://localhost:9/metrics"
    async with reading(fast(endpoints=url), named) as notebook:
        await notebook.until(lambda: notebook.problems)

        assert notebook.problems[0] == "localhost resolves to an address that is not allowed"
        assert notebook.listings == []


async def test_the_replicas_of_a_service() -> None:
    """Pods come and go with the Service's EndpointSlices; each is read, and told apart."""
    async with (
        SimulatedEngine(SLOW) as one,
        SimulatedEngine() as other,
        SimulatedCluster() as cluster,
    ):
        one.submit_all(Request(10, 10), 2)
        put = cluster_with(cluster)
        put([("a", one, True, False)])
        async with reading(fast(service="llama"), directory=cluster_directory(cluster)) as notebook:
            await notebook.until(lambda: notebook.queue("a") == 1.0)
            put([("a", one, True, True), ("b", other, False, False)])
            await notebook.until(lambda: notebook.queue("b") == 0.0)
            assert notebook.listings[-1] == (
                Replica("a", ready=True, terminating=True),
                Replica("b", ready=False),
            )
            put([])
            await notebook.until(lambda: notebook.listings[-1] == ())


async def test_a_replica_that_becomes_ready_is_read_at_once() -> None:
    """Whoever waits for the first answer does not wait for the next poll."""
    async with SimulatedEngine() as engine, SimulatedCluster() as cluster:
        engine.set_mode(FailureMode.ERROR)
        put = cluster_with(cluster)
        put([("a", engine, False, False)])
        metadata = {"service": "llama", "pollSeconds": "3600"}
        async with reading(metadata, directory=cluster_directory(cluster)) as notebook:
            await notebook.until(lambda: "HTTP 500" in str(notebook.queue("a")))
            engine.set_mode(FailureMode.OK)
            put([("a", engine, True, False)])
            await notebook.until(lambda: notebook.queue("a") == 0.0)


async def test_an_endpoint_that_is_no_pod_is_refused() -> None:
    """Endpoints of a Service are pods; this host and the metadata service are none."""
    async with SimulatedEngine() as engine, SimulatedCluster() as cluster:
        cluster_with(cluster)([("a", engine, True, False)])
        async with reading(
            fast(service="llama"), AddressRules(), cluster_directory(cluster)
        ) as notebook:
            await notebook.until(
                lambda: notebook.problems[-1:] == ["the address of a is not allowed"]
            )

            assert notebook.readings == {}


def test_pauses_grow_after_failures_and_are_bounded() -> None:
    """Two failures change nothing; then the pause doubles up to 15 s, or the poll if longer."""
    assert 4.0 <= pause(5.0, 0) <= 5.0
    assert 4.0 <= pause(5.0, 2) <= 5.0
    assert 8.0 <= pause(5.0, 3) <= 10.0
    assert 12.0 <= pause(5.0, 50) <= 15.0
    assert 24.0 <= pause(30.0, 50) <= 30.0


async def test_nothing_is_said_before_the_first_list_has_been_tried() -> None:
    """A new target waits for its first reading; an error at once would be one too many."""
    async with SimulatedEngine() as engine, SimulatedCluster() as cluster:
        cluster_with(cluster)([("a", engine, True, False)])
        async with reading(fast(service="llama"), directory=cluster_directory(cluster)) as notebook:
            await notebook.until(lambda: notebook.queue("a") == 0.0)

            assert notebook.problems == []


async def test_a_list_that_nothing_confirms_proves_nothing() -> None:
    """A watch is half open: replicas may come and work that nobody hears of."""
    async with SimulatedCluster() as cluster:
        cluster_with(cluster)([])
        cluster.fail(Fault(is_silent=True, only="watch"))
        metadata = fast(service="llama", staleSeconds="1", idleSeconds="0")
        trigger = parse_trigger(metadata, Accepts())
        target = Target("default", "llama", trigger, time.monotonic, lambda *_: None)
        directory = cluster_directory(cluster)
        await directory.prepare()
        source = EndpointsSource(LOOPBACK, directory, lambda *_: None)
        task = asyncio.create_task(source.run("default", trigger, target))
        await target.wait_for_first_reading(5)
        first = target.decision().state
        await asyncio.sleep(1.1)  # real, as the connection is
        then = target.decision()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await source.aclose()
        await directory.aclose()
        target.close()

    assert (first, then.state) == (State.IDLE, State.UNKNOWN)
