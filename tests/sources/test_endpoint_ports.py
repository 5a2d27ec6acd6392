"""Several ports of one replica: data-parallel engines, each with a page of its own."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from endpoint_reading import Notebook, reading, serving
from keda_scaler.core.readings import Distribution, Missing, Value
from keda_scaler.core.signals import Signal
from keda_scaler.core.trigger import Accepts, Trigger, parse_trigger
from keda_scaler.errors import SourceError
from keda_scaler.sim.kubernetes import SimulatedCluster
from keda_scaler.sources.enginepages import Page, Together, names_of
from keda_scaler.sources.kubernetes import ServiceDirectory, at_url
from keda_scaler.sources.pages import Fetched
from metrics_page import capture

BUSY, IDLE = capture("busy-queue"), capture("idle-after")
"""12 waiting and 4 running; none."""


@dataclass
class Rank:
    """A page of one engine."""

    body: str = BUSY
    status: int = 200
    port: int = 0
    fetched: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, _: web.Request) -> web.Response:
        self.fetched.set()
        return web.Response(text=self.body, status=self.status)


@contextlib.asynccontextmanager
async def read_ranks(*ranks: Rank, **keys: str) -> AsyncIterator[Notebook]:
    """Read a Service with one pod, which has a page for each of these."""
    async with contextlib.AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(SimulatedCluster())
        for rank in ranks:
            url = await stack.enter_async_context(serving(rank.answer))
            rank.port = urlsplit(url).port or 0
        pod = {"addresses": ["127.0.0.1"], "targetRef": {"kind": "Pod", "name": "llama-0"}}
        ports = [{"name": f"rank-{n}", "port": rank.port} for n, rank in enumerate(ranks)]
        content = {"addressType": "IPv4", "ports": ports, "endpoints": [pod]}
        cluster.put_slice("default", "llama", "llama-1", content)
        metadata = {
            "service": "llama",
            "port": ",".join(str(rank.port) for rank in ranks),
            "pollSeconds": "1",
            **keys,
        }
        directory = ServiceDirectory(configure=at_url(cluster.url))
        yield await stack.enter_async_context(reading(metadata, directory=directory))


async def test_the_pages_of_all_ports_are_one_replica() -> None:
    """Requests add up, as those of engines that share a page do."""
    async with read_ranks(Rank(), Rank(IDLE), Rank()) as notebook:
        await notebook.until(lambda: notebook.queue("llama-0") == 24.0)

        assert [replica.name for replica in notebook.listings[-1]] == ["llama-0"]
        running = notebook.readings["llama-0"][Signal.CONCURRENCY]
        assert isinstance(running, Value)
        assert running.number == 32.0


async def test_a_port_that_does_not_answer_makes_the_replica_not_answer() -> None:
    """A sum without one would be too small, and with the others idle a proof of no work."""
    second = Rank(IDLE)
    async with read_ranks(Rank(IDLE), second) as notebook:
        await notebook.until(lambda: notebook.queue("llama-0") == 0.0)
        second.status = 503
        says = f"port {second.port}: the page answers HTTP 503"
        await notebook.until(lambda: notebook.queue("llama-0") == says)
        second.status, second.body = 200, BUSY
        await notebook.until(lambda: notebook.queue("llama-0") == 12.0)


async def test_a_port_without_the_engine_makes_the_replica_not_answer() -> None:
    """An engine that still loads may answer with a page that has nothing of it yet."""
    second = Rank("# nothing\n")
    async with read_ranks(Rank(IDLE), second) as notebook:
        says = f"port {second.port}: no series of a known engine"
        await notebook.until(lambda: notebook.queue("llama-0") == says)


def together(*bodies: str, **keys: str) -> Together:
    names = names_of(trigger_of(**keys))
    pages = {
        str(8000 + rank): Page(Fetched(body.encode(), "text/plain", 10.0), [names])
        for rank, body in enumerate(bodies)
    }
    return Together(pages)


def trigger_of(**keys: str) -> Trigger:
    return parse_trigger({"service": "llama", **keys}, Accepts())


def test_ratios_are_averaged_and_histograms_added() -> None:
    """As the dialect does with the engines of one page: no series stands twice."""
    keys = {"targetGpuMemoryPressure": "0.8", "targetLatencySeconds": "1"}
    one = together(BUSY, **keys).seen(trigger_of(**keys)).readings
    both = together(BUSY, IDLE, **keys).seen(trigger_of(**keys)).readings
    cache, caches = one[Signal.GPU_MEMORY_PRESSURE], both[Signal.GPU_MEMORY_PRESSURE]
    late, later = one[Signal.LATENCY], both[Signal.LATENCY]

    assert isinstance(cache, Value)
    assert isinstance(caches, Value)
    assert caches.number == pytest.approx(cache.number / 2)
    assert isinstance(late, Distribution)
    assert isinstance(later, Distribution)
    assert later.series == 2 * late.series


def test_a_family_that_one_page_lacks_is_unknown() -> None:
    """The others have it, so that their sum would pass for all."""
    lines = [line for line in BUSY.splitlines() if "num_requests_waiting{" not in line]
    seen = together(IDLE, "\n".join(lines) + "\n").seen(trigger_of())

    queue = seen.readings[Signal.QUEUE_DEPTH]
    assert isinstance(queue, Missing)
    assert queue.reason.startswith("port 8001: no series of vllm:num_requests_waiting")


def test_a_model_that_one_page_lacks_is_unknown() -> None:
    """Whatever it serves, it is a part of the replica."""
    with_model = BUSY.replace('model_name="', 'model_name="x')
    (model,) = {part.split('"')[0] for part in BUSY.split('model_name="')[1:]}
    seen = together(BUSY, with_model).seen(trigger_of(model=model))

    queue = seen.readings[Signal.QUEUE_DEPTH]
    assert isinstance(queue, Missing)
    assert queue.reason.startswith("port 8001: no series of model")


def test_gpus_that_one_page_names_are_those_of_the_replica() -> None:
    """A GPU that both name is one GPU, and a page need not name any."""
    gpu = 'nvidia_gpu_utilization_ratio{uuid="a"} 0.5\n'
    keys = {"targetGpuUtilization": "0.8"}

    for pages in ((BUSY + gpu, IDLE), (BUSY + gpu, IDLE + gpu)):
        readings = together(*pages, **keys).seen(trigger_of(**keys)).readings
        busy = readings[Signal.GPU_UTILIZATION]
        assert isinstance(busy, Value)
        assert (busy.number, busy.series) == (0.5, 1)


def test_a_page_that_cannot_be_read_is_named_by_its_port() -> None:
    """Who looks for it finds it."""
    wanted = [names_of(trigger_of(engine=engine)) for engine in ("vllm", "sglang")]
    broken = Page(Fetched(b"vllm:num_requests_waiting{ 1\nx 1\n", "text/plain", 1.0), wanted)

    with pytest.raises(SourceError, match=r"^port 8000: "):
        Together({"8000": broken}).seen(trigger_of(engine="vllm"))
