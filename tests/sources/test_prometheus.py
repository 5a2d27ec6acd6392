"""The Prometheus source against a real Prometheus, which scrapes pages recorded from vLLM."""

import asyncio
import math
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from keda_scaler.core.readings import Missing, Quantiles, Value
from keda_scaler.core.signals import Signal
from keda_scaler.core.trigger import Trigger
from keda_scaler.sources import promapi
from keda_scaler.sources.prometheus import PrometheusServer, PrometheusSource
from metrics_page import Page, capture
from prometheus_server import PrometheusProcess
from prometheus_sink import RULES, reading, trigger_of, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

BUSY, IDLE, FULL = capture("busy-queue"), capture("idle-after"), capture("after-abort-0s")
DCGM = "".join(
    f'DCGM_FI_DEV_FB_{kind}{{UUID="GPU-1",pod="{pod}",namespace="devices"}} {mebibytes}\n'
    for pod in ("pod-0", "other")
    for kind, mebibytes in (("USED", 600), ("FREE", 300), ("RESERVED", 100))
)
"""One GPU that two pods share; Prometheus makes `exported_pod` of the label."""

OWN = """\
my_running 3
my_waiting 2
my_seconds_bucket{le="1"} 0
my_seconds_bucket{le="+Inf"} 0
"""
"""An engine that nobody knows."""

NOT_SEEN = "scraped, but no series of a known engine within staleSeconds (2)"
QUEUE, WORK = Signal.QUEUE_DEPTH, Signal.CONCURRENCY


def own_trigger(**keys: str) -> Trigger:
    """Parse a trigger of the unknown engine."""
    target = {} if "targetQueueDepth" in keys else {"targetConcurrency": "5"}
    return trigger_of(**{"selector": 'job="services"'} | target | keys)


class World:
    """A Prometheus and its pages. Every test has a namespace of its own."""

    def __init__(self, prometheus: PrometheusProcess) -> None:
        self.prometheus = prometheus
        self.pages = {
            "busy": Page(BUSY),
            "other": Page(FULL),
            "pair-0": Page(IDLE),
            "pair-1": Page(IDLE),
            "leaving": Page(BUSY),
            "twice": Page(BUSY),
            "ports-0": Page(BUSY),
            "ports-1": Page(BUSY),
            "ports-2": Page("sidecar_series 1\n"),
            "llama": Page(BUSY),
            "qwen": Page(IDLE.replace("tiny-llama", "qwen")),
            "emptied": Page(BUSY),
            "devices": Page(BUSY),
            "dcgm": Page(DCGM),
            "own-0": Page(OWN),
            "own-1": Page(OWN.replace("running 3", "running 5")),
            "prefix": Page(BUSY.replace("vllm:", "kserve_vllm:")),
            "otel": Page(
                "".join(
                    f'{name}{{k8s_namespace_name="otel",model_name="x"}} 1\n'
                    for name in ("vllm:num_requests_running", "vllm:num_requests_waiting")
                )
            ),
            "ended": Page(BUSY),
            "own-else": Page(OWN.replace("running 3", "running 100")),
        }
        self.source = PrometheusSource({"main": PrometheusServer(prometheus.url)}, RULES)

    async def start(self) -> None:
        """Serve the pages, and have them scraped."""
        for page in self.pages.values():
            await page.start()
        for job, namespace, pods in (
            ("services", "busy", {"busy": "pod-0"}),
            ("services", "other", {"other": "pod-0"}),
            ("services", "pair", {"pair-0": "pod-0", "pair-1": "pod-1"}),
            ("services", "leaving", {"leaving": "pod-0"}),
            ("services", "twice", {"twice": "pod-0"}),
            ("pods", "twice", {"twice": "pod-0"}),
            ("pods", "ports", dict.fromkeys(("ports-0", "ports-1", "ports-2"), "pod-0")),
            ("services", "models", {"llama": "pod-0", "qwen": "pod-1"}),
            ("services", "emptied", {"emptied": "pod-0"}),
            ("services", "devices", {"devices": "pod-0"}),
            ("services", "gpu-operator", {"dcgm": "dcgm-exporter"}),
            ("services", "own", {"own-0": "pod-0", "own-1": "pod-1"}),
            ("services", "prefix", {"prefix": "pod-0"}),
            ("services", "collector", {"otel": "collector-0"}),
            ("services", "ended", {"ended": "pod-0"}),
            ("services", "own-else", {"own-else": "pod-0"}),
        ):
            targets = {self.pages[page].address: pod for page, pod in pods.items()}
            await asyncio.to_thread(self.prometheus.scrape, job, namespace, targets)
        await asyncio.to_thread(self.prometheus.wait_scraped)

    async def stop(self) -> None:
        """Stop reading and serving."""
        await self.source.aclose()
        for page in self.pages.values():
            await page.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(prometheus: PrometheusProcess) -> AsyncIterator[World]:
    """Give that Prometheus something to scrape."""
    world = World(prometheus)
    await world.start()
    yield world
    await world.stop()


async def test_a_target_that_leaves_is_listed_no_more(world: World) -> None:
    """A pod that Prometheus scrapes no more is gone, although its series matched just now."""
    async with reading(world.source, "leaving", trigger_of()) as sink:
        await until(lambda: sink.number("pod-0", QUEUE) == 12)
        await asyncio.to_thread(world.prometheus.scrape, "services", "leaving", {})
        await until(lambda: sink.names == [])
        assert time.monotonic() - sink.at < 5


async def test_a_busy_page_is_read_with_its_age(world: World) -> None:
    """Readings are the page's numbers, and as old as the scrape that took them."""
    async with reading(world.source, "busy", trigger_of()) as sink:
        await until(lambda: sink.readings)
    now = time.monotonic()
    assert sink.names == ["pod-0"]
    assert sink.number("pod-0", QUEUE) == 12
    assert sink.number("pod-0", WORK) == 16
    pressure = sink.readings["pod-0"][Signal.GPU_MEMORY_PRESSURE]
    assert isinstance(pressure, Value)
    assert pressure.number == pytest.approx(0.0103, abs=0.0001)
    assert 0 < now - pressure.at < 3
    assert 0 < now - sink.at < 3


@pytest.mark.parametrize(
    ("namespace", "keys", "reason"),
    [
        ("nobody", {"engine": "vllm"}, "no series of vllm within a week"),
        ("nobody", {}, "no series of a known engine within a week"),
        (
            "busy",
            {"engine": "sglang"},
            "no series of sglang within a week; there is vllm:num_requests_running",
        ),
        ("busy", {"model": "tiny"}, "no series of model 'tiny'; there are: tiny-llama"),
        (
            "busy",
            {"selector": 'job="servces"'},
            'no series of a known engine has job="servces"; there are: services',
        ),
        ("busy", {"selector": 'tier="gold"'}, 'no series of a known engine has tier="gold"; none'),
        (
            "prefix",
            {"engine": "vllm"},
            "no series of vllm within a week; there is kserve_vllm:num_requests_running, with a",
        ),
        (
            "otel",
            {},
            "no series of a known engine within a week; there are some whose label k8s_namespace",
        ),
    ],
)
async def test_names_that_match_nothing_prove_nothing(
    world: World, namespace: str, keys: dict[str, str], reason: str
) -> None:
    """They may be wrong: the nearest ones are named."""
    async with reading(world.source, namespace, trigger_of(**keys)) as sink:
        await until(lambda: sink.reasons or sink.listings)
    assert sink.listings == 0
    assert sink.reasons[-1].startswith(reason)


async def test_a_model_at_zero_that_ran_within_a_week_is_known_to_have_no_replica(
    world: World,
) -> None:
    """Its series are there, and nothing is scraped any more."""
    async with reading(world.source, "ended", trigger_of()) as sink:
        await until(lambda: sink.number("pod-0", QUEUE) == 12)
    await asyncio.to_thread(world.prometheus.scrape, "services", "ended", {})
    await asyncio.to_thread(world.prometheus.wait_scraped)
    async with reading(world.source, "ended", trigger_of(pollSeconds="2")) as sink:
        await until(lambda: sink.names == [])


async def test_a_prometheus_that_began_a_while_ago_proves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has is read, and is not all that there is."""
    monkeypatch.setattr(promapi, "SETTLED_SECONDS", 7200.0)  # it has scraped for some minutes
    source = PrometheusSource({"main": PrometheusServer(world.prometheus.url)}, RULES)
    async with (
        reading(source, "busy", trigger_of()) as busy,
        reading(source, "nobody", trigger_of()) as nobody,
    ):
        await until(lambda: busy.readings and nobody.reasons)
    assert busy.number("pod-0", QUEUE) == 12
    assert busy.doubt == "Prometheus began to scrape less than 240 s ago: it proves nothing yet"
    assert nobody.reasons[-1] == busy.doubt
    await source.aclose()


@pytest.mark.parametrize("selector", ['job="services"', 'job=~".+",pod!=""'])
async def test_a_selector_adds_to_the_namespace(world: World, selector: str) -> None:
    """A selector narrows within the namespace, and never reaches into another."""
    async with reading(world.source, "other", trigger_of(selector=selector)) as sink:
        await until(lambda: sink.names)
    assert sink.names == ["pod-0"]
    assert sink.number("pod-0", QUEUE) == 36


async def test_an_address_that_two_jobs_scrape_counts_once(world: World) -> None:
    """A ServiceMonitor and a PodMonitor of the same pod do not double its requests."""
    async with reading(world.source, "twice", trigger_of()) as sink:
        await until(lambda: sink.listings >= 2)
    assert sink.names == ["pod-0"]
    assert sink.number("pod-0", QUEUE) == 12
    assert sink.number("pod-0", WORK) == 16


async def test_all_ports_of_a_pod_are_one_replica(world: World) -> None:
    """Two engines in one pod add up, and a sidecar without an engine changes nothing."""
    async with reading(world.source, "ports", trigger_of()) as sink:
        await until(lambda: sink.number("pod-0", QUEUE) == 24)
        await world.pages["ports-2"].stop()
        await until(lambda: sink.listings >= 3)
        assert sink.number("pod-0", QUEUE) == 24
        await world.pages["ports-1"].stop()
        await until(lambda: sink.problem("pod-0"))
    assert sink.names == ["pod-0"]
    assert sink.problem("pod-0") == "Prometheus cannot scrape it (up is 0)"


async def test_only_replicas_of_the_model_are_listed(world: World) -> None:
    """With `model`, a replica of another model is another target's."""
    async with reading(world.source, "models", trigger_of(model="qwen")) as sink:
        await until(lambda: sink.names is not None)
    assert sink.names == ["pod-1"]
    assert sink.number("pod-1", QUEUE) == 0
    async with reading(world.source, "models", trigger_of()) as both:
        await until(lambda: both.names is not None)
    assert both.names == ["pod-0", "pod-1"]


async def test_a_page_that_dies_is_listed_and_does_not_answer(world: World) -> None:
    """A replica that cannot be scraped stays listed, also for a target that is new."""
    async with reading(world.source, "pair", trigger_of()) as sink:
        await until(lambda: sink.names == ["pod-0", "pod-1"])
        await world.pages["pair-1"].stop()
        await until(lambda: sink.problem("pod-1"))
        assert sink.names == ["pod-0", "pod-1"]
        assert sink.problem("pod-1") == "Prometheus cannot scrape it (up is 0)"
        assert sink.number("pod-0", QUEUE) == 0
    async with reading(world.source, "pair", trigger_of(staleSeconds="1")) as new:
        await until(lambda: new.names is not None)
    assert new.names == ["pod-0", "pod-1"]
    assert new.problem("pod-1") == "Prometheus cannot scrape it (up is 0)"


async def test_a_page_that_loses_its_families_is_listed_and_does_not_answer(world: World) -> None:
    """A replica whose page has no engine on it any more is not proof of anything."""
    async with reading(world.source, "emptied", trigger_of(staleSeconds="2")) as sink:
        await until(lambda: sink.number("pod-0", QUEUE) == 12)
        world.pages["emptied"].body = "process_start_time_seconds 1\n"
        await until(lambda: sink.problem("pod-0"))
    assert sink.names == ["pod-0"]
    assert sink.problem("pod-0") == NOT_SEEN


async def test_device_memory_is_that_of_the_pods_gpus(world: World) -> None:
    """As dcgm-exporter says of the pod, whoever else has a share of the GPU."""
    trigger = trigger_of(gpuMemorySource="device", targetGpuMemoryPressure="0.9")
    async with reading(world.source, "devices", trigger) as sink:
        await until(lambda: sink.number("pod-0", Signal.GPU_MEMORY_PRESSURE) is not None)

    assert sink.number("pod-0", Signal.GPU_MEMORY_PRESSURE) == 0.6
    assert sink.number("pod-0", QUEUE) == 12


async def test_own_queries_read_an_engine_that_nobody_knows(world: World) -> None:
    """By pod or in one number, of the own namespace; as old as the scrapes."""
    trigger = own_trigger(
        concurrencyQuery="sum by (pod) (my_running + my_waiting)",
        queueDepthQuery="sum(my_waiting)",
        latencyQuery="histogram_quantile(0.9, sum by (le) (rate(my_seconds_bucket[10s])))",
        targetQueueDepth="5",
        targetLatencySeconds="20",
    )
    async with reading(world.source, "own", trigger) as sink:
        await until(lambda: Signal.LATENCY in sink.readings.get("pod-0", {}))
        await until(lambda: isinstance(sink.readings["pod-0"][Signal.LATENCY], Quantiles))
    now = time.monotonic()
    assert sink.names == ["pod-0", "pod-1"]
    assert (sink.number("pod-0", WORK), sink.number("pod-1", WORK)) == (5, 7)
    assert (sink.number("pod-0", QUEUE), sink.number("pod-1", QUEUE)) == (2, 2)
    work, latency = (sink.readings["pod-0"][signal] for signal in (WORK, Signal.LATENCY))
    assert isinstance(work, Value)
    assert 0 < now - work.at < 3
    assert isinstance(latency, Quantiles)
    assert math.isnan(latency.points[0][1])


async def test_own_queries_replace_one_signal_of_a_known_engine(world: World) -> None:
    """The others stay what the engine says, also where `up` has not the label that selects."""
    work = "sum(vllm:num_requests_running) * 10"
    trigger = trigger_of(engine="vllm", selector='model_name!=""', concurrencyQuery=work)
    async with reading(world.source, "busy", trigger) as sink:
        await until(lambda: sink.readings)
    assert sink.names == ["pod-0"]
    assert sink.number("pod-0", QUEUE) == 12
    assert sink.number("pod-0", WORK) == 40


async def test_own_queries_without_a_replica_prove_nothing_while_they_tell_of_work(
    world: World,
) -> None:
    """A selector that matches nothing does not put a model to sleep; an idle one has no replica."""
    busy = own_trigger(selector='job="pods"', concurrencyQuery="sum(my_running)")
    idle = own_trigger(selector='job="pods"', concurrencyQuery="sum(my_running) * 0")
    async with reading(world.source, "own", busy) as one, reading(world.source, "own", idle) as two:
        await until(lambda: one.reasons and two.reasons)
    assert (one.names, two.names) == (None, None)
    assert two.reasons[-1] == 'no series of replicas has job="pods"; there are: services'
    assert one.reasons[0] == "concurrencyQuery tells of requests, but no replica is found"


async def test_a_scrape_that_fails_is_no_proof_whatever_a_query_says(world: World) -> None:
    """Not even with `or vector(0)`: the replica is listed, and nothing is known of it."""
    trigger = own_trigger(concurrencyQuery="sum(my_running) or vector(0)")
    async with reading(world.source, "own-else", trigger) as sink:
        await until(lambda: sink.number("pod-0", WORK) == 100)
        await world.pages["own-else"].stop()
        await until(lambda: sink.number("pod-0", WORK) is None)
    assert sink.names == ["pod-0"]
    assert sink.readings["pod-0"][WORK] == Missing("Prometheus cannot scrape it (up is 0)")


async def test_a_trigger_may_name_the_address(world: World) -> None:
    """`serverAddress` reads from an address that the settings allow."""
    trigger = trigger_of(serverAddress=world.prometheus.url.replace("127.0.0.1", "localhost"))
    async with reading(world.source, "busy", trigger) as sink:
        await until(lambda: sink.readings)
    assert sink.number("pod-0", QUEUE) == 12


async def test_a_prometheus_that_stops_lists_nothing(world: World) -> None:
    """Without Prometheus the replicas are unknown. (The last test of this file: it stays down.)"""
    async with reading(world.source, "busy", trigger_of()) as sink:
        await until(lambda: sink.number("pod-0", QUEUE) == 12)
        await asyncio.to_thread(world.prometheus.stop)
        await until(lambda: "Prometheus refused the connection" in sink.reasons)
    assert sink.names is None
