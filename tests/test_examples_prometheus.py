"""The examples that go through Prometheus, with a real one: ours, and those without KEDA."""

import asyncio
import contextlib
import json
import re
import sys
import urllib.parse
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.registry import Collector

from examples_world import EXAMPLES, World, documents, scaled_objects, steered, totals, until
from keda_scaler.app import App
from keda_scaler.exporter.families import Known, families
from keda_scaler.gpu.nvml import Gpu
from keda_scaler.settings import load_settings
from keda_scaler.sim.model import EngineModel
from keda_scaler.sim.requests import Request
from keda_scaler.sim.server import SimulatedEngine
from keda_scaler.sources import polls
from prometheus_server import PrometheusProcess

COMMAND = Path(sys.executable).with_name("keda-scaler")
WITHOUT_KEDA = EXAMPLES / "without-keda"
MODELS = {
    "llama": "meta-llama/Llama-3.1-8B-Instruct",
    "qwen": "Qwen/Qwen3-8B",
    "mistral": "mistralai/Mistral-7B-Instruct-v0.3",
}
LOAD = Request(prompt_tokens=500, output_tokens=10)

pytestmark = pytest.mark.xdist_group("prometheus")


@pytest.fixture(autouse=True)
def _scrape_nothing_after(prometheus: PrometheusProcess) -> Iterator[None]:
    """Leave nothing to scrape that is gone."""
    yield
    for job, namespace in (("pods", "models"), ("services", "models"), ("pods", "apart")):
        prometheus.scrape(job, namespace, {})


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the second between two looks at a gateway be a fifth of one."""
    monkeypatch.setattr(polls, "WAKE_SECONDS", 0.2)


@contextlib.asynccontextmanager
async def busy(name: str, requests: int) -> AsyncIterator[str]:
    """Run a busy vLLM that serves a model; give its address."""
    model = EngineModel(MODELS[name], max_num_seqs=4, step_seconds=100.0)
    async with SimulatedEngine(model) as engine:
        engine.submit_all(LOAD, requests)
        yield f"127.0.0.1:{engine.port}"


def gateway(requests: int) -> str:
    """Write the pages of llm-d's picker and of LiteLLM in one."""
    asked = "".join(
        f'litellm_proxy_total_requests_metric_total{{requested_model="{model}"}} '
        f"{requests if name == 'mistral' else 0}\n"
        for name, model in MODELS.items()
    )
    return (
        "llm_d_epp_ready_endpoints 1\nlitellm_in_flight_requests 1\n"
        f'llm_d_epp_flow_control_queue_size{{target_model_name="{MODELS["llama"]}"}} 3\n'
        f"# TYPE litellm_proxy_total_requests_metric_total counter\n{asked}"
    )


async def test_models_share_a_prometheus(prometheus: PrometheusProcess, tmp_path: Path) -> None:
    """Each model gets its own load; one that sleeps is woken by a request for it at LiteLLM."""
    (through,) = scaled_objects(EXAMPLES / "scaledobject-vllm-prometheus.yaml")
    llama, qwen, mistral = scaled_objects(EXAMPLES / "scaledobject-several-models.yaml")
    requests = [0]
    async with (
        World.made() as world,
        busy("llama", 12) as one,
        busy("llama", 12) as two,
        busy("qwen", 14) as three,
    ):
        front = f"127.0.0.1:{await world.page(lambda: gateway(requests[0]))}"
        pods = {one: "llama-0", two: "llama-1", three: "qwen-0"}
        prometheus.scrape("pods", "models", pods, called="vllm")
        prometheus.scrape("services", "models", {front: "gateway-0"})
        await asyncio.to_thread(prometheus.wait_scraped)
        app = await world.scaler(settings(prometheus))

        wanted = {"s0-queue-depth": 19, "s0-concurrency": 27}  # with the three that are held
        report = await read(through, app, tmp_path, wanted)
        assert steered(report, 2) == 4
        report = await read(llama, app, tmp_path, {"s0-queue-depth": 16} | full(2))
        assert steered(report, 2) == 4
        report = await read(qwen, app, tmp_path, {"s0-queue-depth": 10} | full(1))
        assert steered(report, 2) == 2
        await until(
            lambda found: found["verdict"] == "unknown", mistral, app, tmp_path
        )  # never ran
        requests[0] = 1
        await until(lambda found: found["verdict"] == "active", mistral, app, tmp_path)


def full(replicas: int) -> dict[str, float]:
    return {"s0-gpu-memory-pressure": replicas}


def settings(prometheus: PrometheusProcess) -> Any:
    """Give the settings that both examples name."""
    return load_settings(
        {
            "grpc_address": "127.0.0.1:0",
            "http_address": "127.0.0.1:0",
            "prometheus": [f"main={prometheus.url}"],
            "allow_address": ["127.0.0.0/8"],
        }
    )


async def read(text: str, app: App, folder: Path, wanted: Mapping[str, float]) -> dict[str, Any]:
    return await until(lambda found: totals(found) == wanted, text, app, folder, "--replicas", "2")


# Without KEDA


def sidecar() -> tuple[dict[str, Any], dict[str, str]]:
    """Give the exporter's container, and the ConfigMap that it reads."""
    config, deployment, _ = documents(WITHOUT_KEDA / "exporter-sidecar.yaml")
    _, container = deployment["spec"]["template"]["spec"]["containers"]
    assert container["envFrom"] == [{"configMapRef": {"name": config["metadata"]["name"]}}]
    return container, config["data"]


@contextlib.asynccontextmanager
async def exporter(engine: str) -> AsyncIterator[str]:
    """Run the exporter with the sidecar's own arguments but for the addresses; give its address."""
    container, config = sidecar()
    assert config["ENGINE_URL"] == "http://127.0.0.1:8000"
    values = config | {"ENGINE_URL": f"http://{engine}"}
    arguments = [re.sub(r"\$\((\w+)\)", lambda m: values[m[1]], a) for a in container["args"]]
    process = await asyncio.create_subprocess_exec(
        *(str(COMMAND), *arguments, "--listen", "127.0.0.1:0"),
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr
    try:
        async with asyncio.timeout(30):
            while b'"serving"' not in (line := await process.stderr.readline()):
                assert line
        yield f"127.0.0.1:{json.loads(line)['http_port']}"
    finally:
        process.kill()
        await process.communicate()


class Device(Collector):
    """The exporter's page of a GPU that is nine tenths full."""

    def collect(self) -> list[Metric]:
        gpu = Gpu("0", "GPU-a", "H100", 900, 1000, 0.5)
        return families(Known(None, None, True, (gpu,), {}))  # noqa: FBT003  # the driver is up


def device_page() -> str:
    registry = CollectorRegistry()
    registry.register(Device())
    return generate_latest(registry).decode()


def rules() -> dict[str, dict[str, Any]]:
    """Give prometheus-adapter's rules by the names of the metrics that they make."""
    (values,) = documents(WITHOUT_KEDA / "prometheus-adapter.yaml")
    return {
        rule.get("name", {}).get("as") or rule["seriesQuery"].partition("{")[0]: rule
        for rule in values["rules"]["custom"]
    }


async def ask(prometheus: PrometheusProcess, query: str) -> list[dict[str, Any]]:
    url = f"{prometheus.url}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        found: list[dict[str, Any]] = (await answer.json())["data"]["result"]
        return found


async def asked_as_the_adapter_does(
    prometheus: PrometheusProcess, rule: dict[str, Any], pods: str
) -> dict[str, float]:
    """Discover a rule's series, and fill in its query for some pods of a namespace."""
    (first, *_) = await ask(prometheus, rule["seriesQuery"])
    assert rule["resources"]["overrides"].keys() <= first["metric"].keys()
    query = rule["metricsQuery"]
    for part, text in {
        "Series": first["metric"]["__name__"],
        "LabelMatchers": f'namespace="apart",pod=~"{pods}"',
        "GroupBy": "pod",
    }.items():
        query = query.replace(f"<<.{part}>>", text)
    assert "<<" not in query
    return {each["metric"]["pod"]: float(each["value"][1]) for each in await ask(prometheus, query)}


async def test_the_adapter_finds_what_the_exporter_publishes(
    prometheus: PrometheusProcess,
) -> None:
    """Every rule gives each pod its own number, and the HPA names nothing else."""
    async with World.made() as world, busy("llama", 12) as engine, exporter(engine) as exported:
        device = f"127.0.0.1:{await world.page(device_page)}"
        pods = {exported: "llama-0", device: "triton-0"}
        prometheus.scrape("pods", "apart", pods)
        await asyncio.to_thread(prometheus.wait_scraped)
        async with asyncio.timeout(20):
            for rule in rules().values():  # the exporter reads the engine before it tells of it
                while not await ask(prometheus, rule["seriesQuery"]):
                    await asyncio.sleep(0.1)
        found = {
            name: await asked_as_the_adapter_does(prometheus, rule, "llama-0|triton-0")
            for name, rule in rules().items()
        }

    assert found == {
        "inference_queue_depth": {"llama-0": 8},
        "inference_gpu_memory_ratio": {"llama-0": 1},
        "nvidia_gpu_memory_used_ratio": {"triton-0": 0.9},
    }
    (hpa,) = documents(WITHOUT_KEDA / "hpa.yaml")
    assert {each["pods"]["metric"]["name"] for each in hpa["spec"]["metrics"]} <= found.keys()
