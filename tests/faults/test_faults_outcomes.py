"""What each fault of a source looks like to the store: real pages, real servers."""

import asyncio
import contextlib
import gzip
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

import endpoint_reading
from endpoint_reading import serving
from engine_pages import TEXT, capture, case, only, without
from fault_scenes import REASONS
from keda_scaler import engines
from keda_scaler.core.addresses import AddressRules
from keda_scaler.core.readings import Engine, Missing, Replica, Value
from keda_scaler.core.reports import Tally
from keda_scaler.core.signals import Signal
from keda_scaler.core.snapshot import ReplicaReadings, Spans, absorb
from keda_scaler.engines.devices import device_readings
from keda_scaler.engines.exposition import parse_page
from keda_scaler.errors import SourceError
from keda_scaler.sim.kubernetes import Fault, SimulatedCluster, SimulatedEndpoint
from keda_scaler.sim.requests import Request
from keda_scaler.sim.server import FailureMode, SimulatedEngine
from keda_scaler.sources import pages
from keda_scaler.sources.kubernetes import ServiceDirectory, at_url
from keda_scaler.sources.pages import Pages
from keda_scaler.sources.prometheus import PrometheusServer, PrometheusSource
from keda_scaler.sources.redisreports import RedisReports
from keda_scaler.sources.redisserver import RedisServer
from prometheus_fake import FakePrometheus
from prometheus_server import free_port
from prometheus_sink import RULES, trigger_of, until
from prometheus_sink import reading as through_prometheus

CAPTURES = Path(__file__).parents[1] / "captures"
RESOLVING = AddressRules.parse(["127.0.0.0/8", "llama.invalid"])


async def page_outcome(url: str, engine: str = "vllm") -> str:
    """Read a page once, and say why nothing was measured."""
    async with endpoint_reading.reading(
        {"endpoints": url, "engine": engine}, RESOLVING
    ) as notebook:
        await notebook.until(lambda: notebook.readings)
    reading = notebook.readings[url][Signal.CONCURRENCY]
    assert isinstance(reading, Missing), reading
    assert notebook.listings, "the list of replicas is not what is wrong"
    return reading.reason


async def test_refuses() -> None:
    """Nobody listens."""
    outcome = await page_outcome(f"http://127.0.0.1:{free_port()}/metrics")

    assert outcome.startswith(REASONS["refuses"])


async def test_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection stands, and no answer comes."""
    given = f"{pages.PAGE_SECONDS:g} s"
    monkeypatch.setattr(pages, "PAGE_SECONDS", 0.2)
    async with SimulatedEngine() as engine:
        engine.set_mode(FailureMode.HANG)
        outcome = await page_outcome(f"{engine.url}/metrics")

    assert outcome.replace("0.2 s", given) == REASONS["hangs"]


@pytest.mark.parametrize(
    ("fault", "mode"),
    [
        ("answers-500", FailureMode.ERROR),
        ("no-metrics", FailureMode.GARBAGE),
        ("wrong-engine", FailureMode.NO_FAMILIES),
    ],
)
async def test_the_page_is_wrong(fault: str, mode: FailureMode) -> None:
    """It comes, and it is not the one that the trigger asks for."""
    async with SimulatedEngine() as engine:
        engine.set_mode(mode)
        assert await page_outcome(f"{engine.url}/metrics") == REASONS[fault]


async def test_another_engine() -> None:
    """The Service now has pods of SGLang behind it, the trigger says vLLM."""
    body = (CAPTURES / "sglang__prefill-busy.prom").read_bytes()

    async def page(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type="text/plain")

    async with serving(page) as url:
        assert await page_outcome(url) == REASONS["wrong-engine"]


async def test_half_a_page() -> None:
    """The connection breaks in the middle of it."""
    body = (CAPTURES / "vllm-0.32.0__busy-queue.prom").read_bytes()

    async def page(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(body))})
        response.content_type = "text/plain"
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        assert request.transport is not None
        request.transport.close()
        return response

    async with serving(page) as url:
        assert await page_outcome(url) == REASONS["half-a-page"]


BUSY = capture("vllm-0.32.0__busy-queue")


async def page_after(first: str, then: bytes, **headers: str) -> str:
    """Read a page, then what comes in its place, and say why the latter measures nothing."""
    answers = [web.Response(text=first)]

    async def page(_: web.Request) -> web.Response:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        later = web.Response(body=then, content_type="text/plain", headers=given)
        return answers.pop() if answers else later

    async with (
        serving(page) as url,
        endpoint_reading.reading({"endpoints": url, "pollSeconds": "5"}) as notebook,
    ):
        await notebook.until(lambda: isinstance(notebook.queue(url), str))
    reading = notebook.readings[url][Signal.CONCURRENCY]
    assert isinstance(reading, Missing), reading
    return reading.reason


@pytest.mark.parametrize(
    ("fault", "first", "then", "headers"),
    [
        ("cached", BUSY, BUSY.encode(), {"Age": "600"}),
        ("cached-silently", BUSY, BUSY.encode(), {"X_Cache": "HIT"}),
        ("gzip-cut-off", BUSY, gzip.compress(BUSY.encode())[:-8], {"Content_Encoding": "gzip"}),
    ],
)
async def test_the_page_is_not_what_it_was(
    fault: str, first: str, then: bytes, headers: dict[str, str]
) -> None:
    """It comes, and what it says is old, or not all."""
    assert await page_after(first, then, **headers) == REASONS[fault]


async def test_a_prefix() -> None:
    """Nothing but its families' names is wrong."""
    prefixed = BUSY.replace("vllm:", "kserve_vllm:")

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=prefixed)

    async with serving(page) as url:
        assert await page_outcome(url, "auto") == REASONS["prefixed"]


async def test_one_of_several_ports() -> None:
    """What the other one says is no sum."""
    async with SimulatedEngine() as engine, kubernetes() as (cluster, directory):
        ports = [engine.port, free_port()]
        pod = {"addresses": ["127.0.0.1"], "targetRef": {"kind": "Pod", "name": "llama-0"}}
        content = {
            "addressType": "IPv4",
            "ports": [{"name": f"rank-{port}", "port": port} for port in ports],
            "endpoints": [pod],
        }
        cluster.put_slice("default", "llama", "llama-1", content)
        keys = {"service": "llama", "port": ",".join(map(str, ports))}
        async with endpoint_reading.reading(keys, directory=directory) as notebook:
            await notebook.until(lambda: notebook.readings)
    reading = notebook.readings["llama-0"][Signal.CONCURRENCY]

    assert isinstance(reading, Missing)
    assert reading.reason.replace(str(ports[1]), "8001").startswith(REASONS["port-refuses"])


def lost(before: str, now: str) -> str:
    """Take two polls of a page in, and say why the second has no queue."""
    known = ReplicaReadings(Replica("a"))
    for at, page in ((100.0, before), (105.0, now)):
        samples = parse_page(page.encode(), TEXT, engines.names("auto"), at)
        answer = engines.read(samples, trigger_of(), device_readings(samples))
        known = absorb(known, *answer, Spans(120.0, held_since=0.0))
    assert known.values[Signal.QUEUE_DEPTH].at == 100.0
    return known.problems[Signal.QUEUE_DEPTH].reason


def test_series_that_are_gone() -> None:
    """A page cut at the end of a line, one that lost an engine, one that lost all but zeros."""
    triton = case("triton-vllm-backend")
    one = only(BUSY, ["vllm:num_requests_running{", "vllm:num_requests_waiting{"])

    assert lost(BUSY, BUSY[: BUSY.index("# HELP vllm:num_requests_waiting")]) == REASONS["cut-off"]
    assert lost(one + one.replace('engine="0"', 'engine="1"'), one) == REASONS["rank-lost"]
    assert lost(triton, without(triton, "vllm:")) == REASONS["vllm-families-lost"]


async def test_no_name() -> None:
    """DNS has no address for the name: the list is unknown, and not empty."""
    trigger = {"endpoints": "http://llama.invalid:8000/metrics", "engine": "vllm"}
    async with endpoint_reading.reading(trigger, RESOLVING) as notebook:
        await notebook.until(lambda: notebook.problems)

    assert notebook.problems[0].startswith(REASONS["dns-empty"])
    assert not notebook.listings


@contextlib.asynccontextmanager
async def kubernetes(*pods: str) -> AsyncIterator[tuple[SimulatedCluster, ServiceDirectory]]:
    """Run an API server with a Service."""
    async with SimulatedCluster() as cluster:
        listed = [SimulatedEndpoint("127.0.0.1", pod, free_port()) for pod in pods]
        cluster.put_service("default", "llama", listed)
        yield cluster, ServiceDirectory(configure=at_url(cluster.url))


async def test_kubernetes_is_away() -> None:
    """Nothing is listed, and what was listed is not taken back."""
    async with kubernetes("llama-1") as (cluster, directory):
        cluster.fail(Fault(status=500), times=1000)
        async with endpoint_reading.reading({"service": "llama"}, directory=directory) as notebook:
            await notebook.until(lambda: notebook.problems)

    assert notebook.problems[0] == REASONS["kubernetes-away"]
    assert not notebook.listings


async def test_the_service_is_gone() -> None:
    """A Service without EndpointSlices is no Service without pods."""
    async with (
        kubernetes("llama-1") as (cluster, directory),
        endpoint_reading.reading({"service": "llama"}, directory=directory) as notebook,
    ):
        await notebook.until(lambda: notebook.listings)
        cluster.delete_service("default", "llama")
        await notebook.until(lambda: notebook.problems)

    assert notebook.problems[0] == REASONS["service-gone"]
    assert all(notebook.listings)


async def test_a_service_that_selects_nothing() -> None:
    """It lists no replica, which is an answer."""
    async with (
        kubernetes("llama-1") as (cluster, directory),
        endpoint_reading.reading({"service": "llama"}, directory=directory) as notebook,
    ):
        await notebook.until(lambda: notebook.listings)
        cluster.put_service("default", "llama", [])
        await notebook.until(lambda: notebook.listings[-1] == ())

    assert not notebook.problems


async def prometheus_outcome(fake: FakePrometheus, ahead: float = 0.0) -> str:
    """Read through a Prometheus with our own clock so far ahead of the true time."""
    source = PrometheusSource(
        {"main": PrometheusServer(fake.url)}, RULES, wall=lambda: time.time() + ahead
    )
    async with through_prometheus(source, "models", trigger_of(staleSeconds="15")) as sink:
        await until(lambda: sink.listings or sink.reasons)
    assert not sink.listings
    return sink.reasons[0]


async def test_prometheus_is_frozen() -> None:
    """It answers, with what it scraped minutes ago: nothing is listed and nothing read."""
    async with FakePrometheus() as fake:
        fake.scraped_ago = 300.0
        assert await prometheus_outcome(fake) == REASONS["prometheus-frozen"]


@pytest.mark.parametrize("ours", [False, True])
async def test_clocks_differ(*, ours: bool) -> None:
    """Prometheus' clock jumped, or ours: the ages of samples cannot be told."""
    async with FakePrometheus() as fake:
        fake.clock_ahead = 0.0 if ours else 3600.0
        outcome = await prometheus_outcome(fake, ahead=3600.0 if ours else 0.0)

    assert outcome == REASONS["prometheus-clock"]


async def test_our_clock_on_the_wall_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that is read directly is as old as the monotonic clock says."""
    real = time.time
    async with SimulatedEngine() as engine:
        engine.submit_all(Request(100, 100), 3)
        monkeypatch.setattr(time, "time", lambda: real() + 86_400.0)
        url = f"{engine.url}/metrics"
        before = time.monotonic()
        async with endpoint_reading.reading({"endpoints": url, "engine": "vllm"}) as notebook:
            await notebook.until(lambda: notebook.readings)

    value = notebook.readings[url][Signal.CONCURRENCY]
    assert isinstance(value, Value)
    assert before <= value.at <= time.monotonic()


async def test_gauges_stand_still() -> None:
    """The counters tell whether requests get on: they do, and the engine is not stuck."""
    async with SimulatedEngine() as engine:
        engine.submit_all(Request(100, 1000), 3)
        engine.set_mode(FailureMode.FREEZE)
        url = f"{engine.url}/metrics"
        async with endpoint_reading.reading({"endpoints": url, "pollSeconds": "1"}) as notebook:
            await notebook.until(lambda: len(set(map(_progress, notebook.engines))) > 1)


def _progress(engine: Engine | None) -> float:
    assert engine is not None
    assert engine.progress is not None
    return engine.progress


async def test_redis_is_away() -> None:
    """What is stated is unknown, not zero."""
    known: list[Tally | Missing] = []
    told = asyncio.Event()

    def changed(tally: Tally | Missing) -> None:
        known.append(tally)
        told.set()

    keeper = RedisReports(RedisServer(f"redis://127.0.0.1:{free_port()}/0"))
    end = keeper.watch("default", "llama", changed)
    try:
        async with asyncio.timeout(15):
            await told.wait()
    finally:
        end()
        await keeper.aclose()

    assert known[0] == Missing(REASONS["redis-away"])


async def test_the_gateway_is_away() -> None:
    """Its page is fetched as any other."""
    fetcher = Pages(RESOLVING, time.monotonic)
    try:
        with pytest.raises(SourceError) as caught:
            await fetcher.fetch(f"http://127.0.0.1:{free_port()}/metrics")
    finally:
        await fetcher.close()

    assert str(caught.value).startswith(REASONS["gateway-away"])
