"""The examples at work: the real scaler reads what each is about, and `probe` says what follows."""

import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
import yaml

from examples_world import (
    EXAMPLES,
    Report,
    World,
    documents,
    probe,
    scaled_objects,
    steered,
    totals,
    until,
)
from keda_scaler.app import App
from keda_scaler.settings import Settings, load_settings
from keda_scaler.sim.kubernetes import SimulatedEndpoint
from keda_scaler.sim.model import EngineModel
from keda_scaler.sim.requests import Request
from keda_scaler.sim.server import SimulatedEngine
from keda_scaler.sources import polls

LLAMA = EngineModel("meta-llama/Llama-3.1-8B-Instruct", max_num_seqs=4, step_seconds=100.0)
"""Four requests run, and nothing finishes during a test."""

LOAD = Request(prompt_tokens=500, output_tokens=10)
"""Four of these fill the KV cache."""

MEMORY = 'nv_gpu_memory_total_bytes{gpu_uuid="GPU-0"} 48000000000\n'
"""What the captured page of Triton lacks."""

CAPTURES = Path(__file__).parent / "captures"


def epp(requests: int) -> str:
    held = f'llm_d_epp_flow_control_queue_size{{target_model_name="{LLAMA.name}"}} {requests}\n'
    return f"llm_d_epp_ready_endpoints 0\n{held}"


def vllm_router(requests: int) -> str:
    counter = f'vllm:num_incoming_requests_total{{model="{LLAMA.name}"}} {requests}\n'
    return f"# TYPE vllm:num_incoming_requests_total counter\n{counter}"


def envoy(requests: int) -> str:
    cluster = '{envoy_cluster_name="httproute/models/qwen/rule/0"}'
    return (
        f"envoy_cluster_upstream_rq_pending_active{cluster} 0\n"
        f"envoy_cluster_upstream_rq_active{cluster} 0\n"
        f"envoy_cluster_upstream_cx_none_healthy{cluster} {requests}\n"
    )


def istio(requests: int) -> str:
    labels = 'reporter="source",response_flags="UH",destination_service_name="triton"'
    return (
        "# TYPE istio_requests_total counter\n"
        f'istio_requests_total{{{labels},destination_service_namespace="models"}} {requests}\n'
    )


def nginx(requests: int) -> str:
    labels = 'ingress="gemma",exported_namespace="models",status="503"'
    return (
        "# TYPE nginx_ingress_controller_requests counter\n"
        f"nginx_ingress_controller_requests{{{labels}}} {requests}\n"
    )


def http_add_on(requests: int) -> str:
    return json.dumps({"models/llama": {"Concurrency": requests, "RequestCount": 0}})


@dataclass(frozen=True)
class Scene:
    """Two busy replicas, and what stands in front of them."""

    totals: dict[str, float]
    """What the HPA gets of two replicas."""

    replicas: int
    """How many it would steer for."""

    page: str | None = None
    """A page of tests/captures for each replica; None: a simulated vLLM."""

    requests: int = 12
    """Of each simulated vLLM: those above 4 wait."""

    port_name: str = "http"
    gateway: Callable[[int], str] | None = None
    """Its page with so many requests; None: nothing can wake it."""


SCENES = {
    "vllm": Scene(
        {"s0-queue-depth": 16, "s0-gpu-memory-pressure": 2}, 4, port_name="metrics", gateway=epp
    ),
    "vllm-router": Scene(
        {"s0-queue-depth": 16, "s0-gpu-memory-pressure": 2}, 4, gateway=vllm_router
    ),
    "sglang": Scene(
        {"s0-queue-depth": 40, "s0-gpu-memory-pressure": 1.4},
        8,
        "sglang__ranks-busy",
        gateway=envoy,
    ),
    "triton": Scene(
        {"s0-queue-depth": 18, "s0-gpu-memory-pressure": 0.5},
        4,
        "triton__ensemble-busy",
        port_name="metrics",
        gateway=istio,
    ),
    "llamacpp": Scene({"s0-concurrency": 26}, 3, "llama.cpp__busy", gateway=nginx),
    "http-add-on": Scene(
        {"s0-queue-depth": 16, "s0-gpu-memory-pressure": 2}, 4, gateway=http_add_on
    ),
    "queue-only": Scene({"s0-queue-depth": 16}, 4),
    "gpu-memory-only": Scene({"s0-gpu-memory-pressure": 2}, 3),
    "serverless": Scene({"s0-concurrency": 6}, 3, requests=3, gateway=epp),
    "pre-warmed": Scene({"s0-queue-depth": 16, "s0-gpu-memory-pressure": 2}, 4, gateway=epp),
}
ELSEWHERE = {"demo", "external", "formula", "latency", "reports", "tls"}
"""Have a test of their own below."""

PROMETHEUS = {"vllm-prometheus", "several-models"}
"""Are in test_examples_prometheus.py."""


def path_of(name: str) -> Path:
    return EXAMPLES / (f"{name}.yaml" if name == "demo" else f"scaledobject-{name}.yaml")


def text_of(name: str) -> str:
    (text,) = scaled_objects(path_of(name))
    return text


def metadata_of(text: str) -> dict[str, str]:
    found: dict[str, str] = yaml.safe_load(text)["spec"]["triggers"][0]["metadata"]
    return found


def settings_of(name: str, **more: Any) -> Settings:
    """Give the settings that the example names, on loopback, reading every second."""
    flags: dict[str, Any] = {"grpc_address": "127.0.0.1:0", "http_address": "127.0.0.1:0"}
    named = re.findall(r"--allow-address (\S+)", path_of(name).read_text())
    flags["allow_address"] = [*named, "127.0.0.0/8"]
    return load_settings(flags | {"defaults": {"pollSeconds": "1"}} | more)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the second between two looks at a gateway be a tenth of one."""
    monkeypatch.setattr(polls, "WAKE_SECONDS", 0.1)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with World.made() as made:
        yield made


@contextlib.asynccontextmanager
async def replicas(world: World, text: str, scene: Scene) -> AsyncIterator[None]:
    """Put two busy replicas behind the Service of a trigger; they are gone at the end."""
    service = metadata_of(text)["service"]
    async with contextlib.AsyncExitStack() as exits:
        endpoints = []
        for number in range(2):
            if scene.page is None:
                engine = await exits.enter_async_context(SimulatedEngine(LLAMA))
                engine.submit_all(LOAD, scene.requests)
                port = engine.port
            else:
                body = (CAPTURES / f"{scene.page}.prom").read_text() + MEMORY
                port = await world.page(lambda body=body: body)  # type: ignore[misc]
            pod = SimulatedEndpoint("127.0.0.1", f"{service}-{number}", port, scene.port_name)
            endpoints.append(pod)
        world.put(service, endpoints, "models")
        yield
        world.put(service, [], "models")


def is_read(wanted: Mapping[str, float]) -> Callable[[Report], bool]:
    """Whether the HPA gets these numbers: the first answer may be of one replica alone."""
    return lambda report: totals(report) == wanted


def test_every_example_is_played() -> None:
    """None stands there untried."""
    names = {path.stem.removeprefix("scaledobject-") for path in EXAMPLES.glob("*.yaml")}

    assert names == SCENES.keys() | ELSEWHERE | PROMETHEUS


async def in_front(world: World, text: str, scene: Scene) -> tuple[str, list[int]]:
    """Serve the gateway's page; give the ScaledObject with the page's port in place of its own.

    What is in the list is the number of requests on the page.
    """
    requests = [0]
    if scene.gateway is None:
        return text, requests
    page, keys = scene.gateway, metadata_of(text)
    service, _, namespace = keys["wakeService"].partition(".")
    port = await world.page(lambda: page(requests[0]))
    world.put(service, [SimulatedEndpoint("127.0.0.1", "gateway-0", port)], namespace or "models")
    return re.sub(r"(wakePort: ).*", rf"\g<1>'{port}'", text), requests


@pytest.mark.parametrize("name", SCENES)
async def test_an_example_counts_the_load(name: str, world: World, tmp_path: Path) -> None:
    """Two busy replicas are read as the comments say, and the HPA would add the right number."""
    scene = SCENES[name]
    text, _ = await in_front(world, text_of(name), scene)
    async with replicas(world, text, scene):
        app = await world.scaler(settings_of(name))
        report = await until(is_read(scene.totals), text, app, tmp_path, "--replicas", "2")

    assert report["verdict"] == "active"
    assert steered(report, 2) == scene.replicas
    assert not [note for note in report["notes"] if "WARNING" in note]


@pytest.mark.parametrize("name", [name for name, scene in SCENES.items() if scene.gateway])
async def test_one_request_wakes_an_example(name: str, world: World, tmp_path: Path) -> None:
    """Idle with no replica and a silent gateway; one request there makes it active."""
    scene = SCENES[name]
    text, requests = await in_front(world, text_of(name), scene)
    world.put(metadata_of(text)["service"], [], "models")
    app = await world.scaler(settings_of(name))
    await until(lambda found: found["verdict"] == "idle", text, app, tmp_path)
    requests[0] = 1
    report = await until(lambda found: found["verdict"] == "active", text, app, tmp_path)

    keda = next(each["keda"] for each in report["replicas"] if each["replicas"] == 0)
    assert keda["replicas"] == {"pre-warmed": 2}.get(name, 1)


async def test_endpoints_are_named_one_by_one(world: World, tmp_path: Path) -> None:
    """The example's two addresses are two replicas."""
    text = text_of("external")
    async with SimulatedEngine(LLAMA) as one, SimulatedEngine(LLAMA) as other:
        for number, engine in enumerate((one, other), 3):
            engine.submit_all(LOAD, 40)
            text = text.replace(f"http://10.1.2.{number}:8000", engine.url)
        app = await world.scaler(settings_of("external"))
        wanted = is_read({"s0-concurrency": 80})
        report = await until(wanted, text, app, tmp_path, "--replicas", "2")

    assert steered(report, 2) == 3


async def test_the_demo_is_read(world: World, tmp_path: Path) -> None:
    """Its page is that of the embedded engine, here at another port."""
    async with SimulatedEngine(LLAMA) as engine:
        engine.submit_all(LOAD, 12)
        text = text_of("demo").replace("http://127.0.0.1:18000", engine.url)
        app = await world.scaler(settings_of("demo"))
        wanted = {"s0-queue-depth": 8, "s0-gpu-memory-pressure": 1}
        await until(is_read(wanted), text, app, tmp_path)


async def test_a_slow_first_token_adds_replicas(world: World, tmp_path: Path) -> None:
    """What finished above 2 seconds makes the latency ask for at most twice the replicas."""
    text = text_of("latency")
    async with SimulatedEngine(EngineModel(max_num_seqs=50, step_seconds=2.5)) as engine:
        world.put("llama", [SimulatedEndpoint("127.0.0.1", "llama-0", engine.port)], "models")
        app = await world.scaler(settings_of("latency"))
        early = await probe(text, app, tmp_path, "--replicas", "1")
        assert totals(early) == {"s0-ttft": 0, "s0-queue-depth": 0}, "no opinion yet"
        engine.submit_all(Request(10, 100), 20)
        report = await until(
            lambda found: (totals(found)["s0-ttft"] or 0) > 3,
            text,
            app,
            tmp_path,
            "--replicas",
            "1",
        )

    assert steered(report, 1) == 2


def evaluated(formula: str, **values: float) -> float:
    """Work out a formula of the expr language, as far as the example uses it."""
    python = re.sub(r"([^,(]+) \? ([^:]+) : ([^,)]+)", r"(\2 if \1 else \3)", formula)
    return float(eval(python, {"__builtins__": {}, "max": max}, values))


async def test_a_formula_gets_one_value_of_each_trigger(world: World, tmp_path: Path) -> None:
    """KEDA knows each by its trigger's name; the formula asks for the replicas that it should."""
    text = text_of("formula")
    spec = yaml.safe_load(text)["spec"]
    modifiers, names = spec["advanced"]["scalingModifiers"], [t["name"] for t in spec["triggers"]]
    async with replicas(world, text, SCENES["queue-only"]):
        app = await world.scaler(settings_of("formula"))
        wanted = {"s0-queue-depth": 16, "s1-gpu-memory-pressure": 2}
        report = await until(is_read(wanted), text, app, tmp_path)

    metrics = [trigger["metrics"] for trigger in report["triggers"]]
    assert [len(each) for each in metrics] == [1, 1], "KEDA takes one metric a trigger"
    values = dict(zip(names, (each[0]["total"] for each in metrics), strict=True))
    assert values == {"queue": 16, "cache": 2}
    assert set(re.findall(r"[a-z]+", modifiers["formula"])) - {"max"} == set(names)
    assert evaluated(modifiers["formula"], **values) == pytest.approx(3.2)
    assert evaluated(modifiers["formula"], queue=2, cache=2) == pytest.approx(2 / 0.85)
    assert evaluated(modifiers["formula"], queue=0, cache=2) == 2, "full, and nobody waits"
    assert float(modifiers["target"]) == 1
    # Without a value the formula fails, and KEDA takes that for inactive: so there is no hold.
    assert {t["metadata"]["onUnknown"] for t in spec["triggers"]} == {"error"}
    assert spec["minReplicaCount"] == 1


async def test_a_report_wakes_the_workers(world: World, tmp_path: Path) -> None:
    """Unknown until somebody states something; then what is stated."""
    text, tokens = text_of("reports"), tmp_path / "tokens"
    tokens.write_text("models a-token-of-the-queue\n")
    app = await world.scaler(settings_of("reports", report_tokens=tokens))
    assert (await probe(text, app, tmp_path))["verdict"] == "unknown"
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer a-token-of-the-queue"}) as s:
        body = {"namespace": "models", "name": "worker", "waiting": 50}
        url = f"http://127.0.0.1:{app.http_port}/v1/reports"
        async with s.post(url, json=body) as answer:
            assert answer.status == 200
    report = await probe(text, app, tmp_path, "--replicas", "1")

    assert totals(report) == {"s0-queue-depth": 50}
    assert steered(report, 1) == 3


def written(folder: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Write certificates as cert-manager does; give the server's settings and KEDA's flags."""
    authority = trustme.CA()
    server = authority.issue_cert("keda-scaler.keda.svc.cluster.local")
    client = authority.issue_cert("keda-operator.keda.svc.cluster.local")
    authority.cert_pem.write_to_path(str(folder / "ca.crt"))
    for name, certificate in {"server": server, "client": client}.items():
        certificate.cert_chain_pems[0].write_to_path(str(folder / f"{name}.crt"))
        certificate.private_key_pem.write_to_path(str(folder / f"{name}.key"))
    files = {"tls_cert": "server.crt", "tls_key": "server.key", "tls_client_ca": "ca.crt"}
    flags = {"--ca-file": "ca.crt", "--cert-file": "client.crt", "--key-file": "client.key"}
    given = [part for flag, file in flags.items() for part in (flag, str(folder / file))]
    return {key: folder / file for key, file in files.items()}, tuple(given)


@pytest.mark.blocks("certificates are read before anybody is served")
async def test_both_sides_show_a_certificate(world: World, tmp_path: Path) -> None:
    """With those that the TriggerAuthentication names it answers; without, there is no call."""
    text = text_of("tls")
    settings, flags = written(tmp_path)
    async with replicas(world, text, SCENES["queue-only"]):
        app: App = await world.scaler(settings_of("tls", **settings))
        wanted = {"s0-queue-depth": 16, "s0-gpu-memory-pressure": 2}
        await until(is_read(wanted), text, app, tmp_path, *flags)
        stranger = await probe(text, app, tmp_path, *flags[:2], "--timeout", "1")

    assert stranger["verdict"] == "unknown"

    scaled, authentication = documents(path_of("tls"))
    assert authentication["kind"] == "TriggerAuthentication"
    assert authentication["metadata"] == {
        "name": scaled["spec"]["triggers"][0]["authenticationRef"]["name"],
        "namespace": scaled["metadata"]["namespace"],
    }
    parameters = {each["parameter"] for each in authentication["spec"]["secretTargetRef"]}
    assert parameters == {"caCert", "tlsClientCert", "tlsClientKey"}
