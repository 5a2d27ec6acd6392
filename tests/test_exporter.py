"""The exporter: a simulated engine, a fake driver and a fake kubelet in, one page out."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp
import grpc.aio
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from fake_nvml import FakeDriver, build
from keda_scaler.engines.samples import Sample
from keda_scaler.errors import PageError, SettingsError, SourceError
from keda_scaler.exporter.command import exporter_command
from keda_scaler.exporter.engine import MAX_MODELS, EngineAnswer, ModelLoad, to_answer
from keda_scaler.exporter.families import GAUGES, Known, families
from keda_scaler.exporter.poll import Poll
from keda_scaler.exporter.server import Options, serving
from keda_scaler.gpu.nvml import Gpu
from keda_scaler.gpu.podresources import Holder
from keda_scaler.pb import podresources_pb2 as pb
from keda_scaler.pb.podresources_pb2_grpc import (
    PodResourcesListerServicer,
    add_PodResourcesListerServicer_to_server,
)
from keda_scaler.sim.model import EngineModel
from keda_scaler.sim.requests import Request
from keda_scaler.sim.server import FailureMode, SimulatedEngine
from metrics_page import Page, capture

ROOT = Path(__file__).parent.parent
MODEL = EngineModel(max_num_seqs=2, step_seconds=100.0)
"""An engine in which nothing finishes during a test."""

Series = dict[str, float]
"""By name and labels as the page writes them, the value."""


def to_series(text: str) -> Series:
    return {
        sample.name + (json.dumps(sample.labels) if sample.labels else ""): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@dataclass
class Client:
    """Reads the exporter's page."""

    session: aiohttp.ClientSession
    port: int

    async def get(self, path: str = "/metrics") -> str:
        async with self.session.get(f"http://127.0.0.1:{self.port}{path}") as answer:
            assert answer.status == 200
            return await answer.text()

    async def until(self, **wanted: float | None) -> Series:
        """Read until the series of these names, labels apart, have these values; None: absent."""
        async with asyncio.timeout(15):
            while True:
                series = to_series(await self.get())
                found = {name.partition("{")[0]: value for name, value in series.items()}
                if all(found.get(name) == value for name, value in wanted.items()):
                    return series
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def exporting(options: Options) -> AsyncIterator[Client]:
    async with serving(options) as port, aiohttp.ClientSession() as session:
        yield Client(session, port)


def of_engine(url: str, **more: object) -> Options:
    options = Options("127.0.0.1", 0, f"{url}/metrics", gpu=False, interval_seconds=0.2)
    return replace(options, **more)  # type: ignore[arg-type]  # fields of Options


async def test_an_engines_load_under_names_of_its_own() -> None:
    """Waiting, running and cache usage of a vLLM page, and which engine it is."""
    async with SimulatedEngine(MODEL) as engine:
        engine.submit_all(Request(100, 100), 5)
        usage = engine.state().kv_cache_usage
        async with exporting(of_engine(engine.url)) as client:
            series = await client.until(inference_queue_depth=3)

    model = json.dumps({"model": MODEL.name})
    own = {name: value for name, value in series.items() if not name.startswith("vllm:")}
    assert own == {
        "inference_engine_up": 1,
        'inference_engine_info{"engine": "vllm"}': 1,
        f"inference_queue_depth{model}": 3,
        f"inference_requests_running{model}": 2,
        f"inference_kv_cache_usage_ratio{model}": pytest.approx(usage),
    }


async def test_latency_histograms_are_repeated_as_found() -> None:
    """Buckets, sums and counts under the engine's own names, and no other family of it."""
    async with SimulatedEngine(MODEL) as engine, exporting(of_engine(engine.url)) as client:
        series = await client.until(inference_queue_depth=0)

    repeated = {name.partition("{")[0] for name in series if name.startswith("vllm:")}
    bases = ("time_to_first_token", "inter_token_latency", "e2e_request_latency")
    assert repeated == {
        f"vllm:{base}_seconds_{part}" for base in bases for part in ("bucket", "sum", "count")
    }


@pytest.mark.parametrize("mode", [m for m in FailureMode if m.name in {"ERROR", "GARBAGE", "HANG"}])
async def test_after_a_failure_values_end(mode: FailureMode) -> None:
    """They stand for three intervals, are then absent and never 0, and come back."""
    async with SimulatedEngine(MODEL) as engine:
        engine.submit_all(Request(100, 100), 5)
        async with exporting(of_engine(engine.url)) as client:
            await client.until(inference_queue_depth=3, inference_engine_up=1)
            engine.set_mode(mode)
            series = await client.until(inference_queue_depth=None)
            assert {name for name in series if "{" in name} == set()
            engine.set_mode(FailureMode.OK)
            await client.until(inference_queue_depth=3, inference_engine_up=1)


async def test_an_engine_that_is_down() -> None:
    """Only that is said."""
    async with SimulatedEngine(MODEL) as engine:
        url = engine.url
    async with exporting(of_engine(url)) as client:
        assert await client.until(inference_engine_up=0) == {"inference_engine_up": 0}
        assert await client.get("/healthz") == "ok\n"


async def test_a_page_without_a_known_engine() -> None:
    """The engine is not up: nothing of it is known."""
    async with SimulatedEngine(MODEL) as engine:
        engine.set_mode(FailureMode.NO_FAMILIES)
        async with exporting(of_engine(engine.url)) as client:
            assert await client.until(inference_engine_up=0) == {"inference_engine_up": 0}


async def test_a_family_that_the_page_lacks_is_absent() -> None:
    """The others are published."""
    page = Page(re.sub(r"(?m)^vllm:num_requests_waiting\{.*\n", "", capture("busy-queue")))
    await page.start()
    async with exporting(of_engine(page.url.removesuffix("/metrics"))) as client:
        series = await client.until(inference_engine_up=1)
    await page.stop()

    assert {name.partition("{")[0] for name in series if not name.startswith("vllm:")} == {
        *("inference_engine_up", "inference_engine_info", "inference_kv_cache_usage_ratio")
    }


def vllm_sample(name: str, number: float, model: str) -> Sample:
    return Sample(f"vllm:{name}", {"model_name": model, "engine": "0"}, number, 0.0)


def test_models_are_told_apart() -> None:
    """Each has its own series; a model that is named is the only one."""
    samples = [
        vllm_sample(name, number, model)
        for model, numbers in {"b": (1.0, 2.0, 0.3), "a": (4.0, 5.0, 0.6)}.items()
        for name, number in zip(
            ("num_requests_waiting", "num_requests_running", "kv_cache_usage_perc"),
            numbers,
            strict=True,
        )
    ]
    of_a, of_b = ModelLoad("a", 4.0, 5.0, 0.6), ModelLoad("b", 1.0, 2.0, 0.3)

    assert to_answer(samples, "auto", None) == EngineAnswer("vllm", (of_a, of_b), (), None)
    assert to_answer(samples, "vllm", "b") == EngineAnswer("vllm", (of_b,), (), None)
    absent = to_answer(samples, "vllm", "c")
    assert absent.loads == (ModelLoad("c", None, None, None),)
    assert "no series of model 'c'; there are: a, b" in (absent.problem or "")


def test_models_are_bounded() -> None:
    """A page with very many of them is refused."""
    samples = [vllm_sample("num_requests_waiting", 0, str(i)) for i in range(MAX_MODELS + 1)]

    with pytest.raises(PageError, match="more than 100 models"):
        to_answer(samples, "auto", None)


GPU = Gpu("0", "GPU-a", "H100", 250, 1000, 0.5)
NOTHING = Known(engine_up=None, engine=None, driver_up=None, gpus=(), holders={})


def written(known: Known) -> Series:
    return {
        sample.name + (json.dumps(sample.labels) if sample.labels else ""): sample.value
        for family in families(known)
        for sample in family.samples
    }


def test_nothing_known_is_an_empty_page() -> None:
    """Not a single family, and no 0."""
    assert families(NOTHING) == []


def test_a_lost_gpu() -> None:
    """It is down, and has neither memory nor utilization."""
    lost = Gpu("0", None, None, None, None, None, problem="lost")

    assert written(replace(NOTHING, driver_up=True, gpus=(lost,))) == {
        "nvidia_driver_up": 1,
        'nvidia_gpu_up{"gpu": "0"}': 0,
        'nvidia_gpu_info{"gpu": "0"}': 1,
    }


def test_a_gpu_that_pods_share() -> None:
    """One series per container, each with the whole GPU's value, and none without a pod."""
    holders = {"GPU-a": (Holder("models", "a-0", "engine"), Holder("models", "b-0", "engine"))}

    series = written(replace(NOTHING, gpus=(GPU,), holders=holders))

    assert {name: value for name, value in series.items() if "used" in name} == {
        "nvidia_gpu_memory_used_bytes"
        + json.dumps(
            {"uuid": "GPU-a", "gpu": "0", "namespace": "models", "pod": pod, "container": "engine"}
        ): 250
        for pod in ("a-0", "b-0")
    }


def test_labels_are_those_of_the_table() -> None:
    """What is published keeps to GAUGES, label by label."""
    part = replace(GPU, index="0:1", uuid="MIG-a", parent_uuid="GPU-b")
    answer = EngineAnswer("vllm", (ModelLoad("a", 1.0, 2.0, 0.5),), (), None)
    holders = {"MIG-a": (Holder("models", "a-0", "engine"),)}

    found = families(Known(True, answer, True, (part,), holders))  # noqa: FBT003  # two states

    assert {family.name: tuple(family.samples[0].labels) for family in found} == {
        gauge.name: gauge.labels for gauge in GAUGES
    }


@dataclass
class Script:
    """Answers a poll: with a number, or with an error."""

    answers: list[int | Exception]
    times: list[float] = field(default_factory=list)

    async def read(self) -> int:
        self.times.append(asyncio.get_running_loop().time())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.looptime
async def test_a_result_stands_for_three_intervals() -> None:
    """Then it is forgotten; whether the latest attempt succeeded is said at once."""
    script = Script([7, SourceError("down")])
    poll = Poll("it", script.read, 5.0, clock=asyncio.get_running_loop().time)
    assert (poll.succeeded, poll.fresh()) == (None, None)
    task = asyncio.create_task(poll.run())
    await asyncio.sleep(1)
    assert (poll.succeeded, poll.fresh()) == (True, 7)
    await asyncio.sleep(13.5)
    assert (poll.succeeded, poll.fresh()) == (False, 7)
    await asyncio.sleep(1)
    assert (poll.succeeded, poll.fresh(), poll.has_succeeded) == (False, None, True)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.blocks("the log of a fault reads source lines")
@pytest.mark.looptime
async def test_failures_slow_a_poll_down_and_our_own_faults_do_not_end_it() -> None:
    """Up to 15 s between attempts; a result makes it quick again."""
    script = Script([ValueError("a bug"), *[SourceError("down")] * 9, 1])
    poll = Poll("it", script.read, 5.0, clock=asyncio.get_running_loop().time)
    task = asyncio.create_task(poll.run())
    await asyncio.sleep(300)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    pauses = [round(b - a, 3) for a, b in zip(script.times, script.times[1:], strict=False)]
    assert all(4 <= each <= 5 for each in pauses[:2])
    assert all(12 <= each <= 15 for each in pauses[3:10])
    assert all(4 <= each <= 5 for each in pauses[10:])
    assert poll.fresh() == 1


class Kubelet(PodResourcesListerServicer):
    """Says that pod llama-0 holds the first GPU."""

    async def List(self, request: object, context: object) -> pb.ListPodResourcesResponse:  # noqa: N802  # gRPC's name
        device = pb.ContainerDevices(resource_name="nvidia.com/gpu", device_ids=["GPU-00000000"])
        container = pb.ContainerResources(name="engine", devices=[device])
        pod = pb.PodResources(name="llama-0", namespace="models", containers=[container])
        return pb.ListPodResourcesResponse(pod_resources=[pod])


@contextlib.asynccontextmanager
async def kubelet(path: Path) -> AsyncIterator[None]:
    server = grpc.aio.server()
    add_PodResourcesListerServicer_to_server(Kubelet(), server)
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    yield
    await server.stop(None)


COMMAND = Path(sys.executable).with_name("keda-scaler")


@contextlib.asynccontextmanager
async def process(*flags: str, **env: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """Run the command; give its process and its port."""
    started = await asyncio.create_subprocess_exec(
        COMMAND,
        *("exporter", "--listen", "127.0.0.1:0"),
        *("--interval", "1", *flags),
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | env,
    )
    assert started.stderr
    try:
        async with asyncio.timeout(15):
            while b'"serving"' not in (line := await started.stderr.readline()):
                assert line or started.returncode is None
        yield started, json.loads(line)["http_port"]
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()


async def test_gpus_and_who_holds_them(tmp_path: Path) -> None:
    """The real pynvml on a fake driver, a kubelet's socket, the command as a process."""
    library = await asyncio.to_thread(build, tmp_path)
    driver, socket = FakeDriver(tmp_path), tmp_path / "kubelet.sock"
    driver.play("gpus 2", "used 0 250", "utilization 0 50", "lost 1")
    flags = ("--gpu", "--pod-resources", str(socket))
    env = {"LD_LIBRARY_PATH": str(library.parent), "FAKE_NVML": str(driver.script)}
    async with kubelet(socket), process(*flags, **env) as (running, port):
        async with aiohttp.ClientSession() as session:
            client = Client(session, port)
            series = await client.until(nvidia_driver_up=1, nvidia_gpu_utilization_ratio=0.5)
            driver.play("fail count 9")
            await client.until(nvidia_driver_up=0, nvidia_gpu_memory_used_bytes=None)
            driver.play("gpus 1", "used 0 300")
            await client.until(nvidia_driver_up=1, nvidia_gpu_memory_used_bytes=300)
        running.send_signal(signal.SIGTERM)
        assert await running.wait() == 0

    own = {"uuid": "GPU-00000000", "gpu": "0"}
    held = {**own, "namespace": "models", "pod": "llama-0", "container": "engine"}
    assert {name: value for name, value in series.items() if '"0"' in name} == {
        to_name("nvidia_gpu_up", own): 1,
        to_name("nvidia_gpu_info", own | {"name": "Fake H100"}): 1,
        to_name("nvidia_gpu_memory_used_bytes", held): 250,
        to_name("nvidia_gpu_memory_total_bytes", held): 1000,
        to_name("nvidia_gpu_utilization_ratio", held): 0.5,
    }
    assert series['nvidia_gpu_up{"gpu": "1"}'] == 0
    assert not any("bytes" in name and '"1"' in name for name in series)


def to_name(name: str, labels: dict[str, str]) -> str:
    return name + json.dumps(dict(sorted(labels.items())))


async def test_a_hanging_driver_makes_no_scrape_late(tmp_path: Path) -> None:
    """The engine's values stay; the process ends in time all the same."""
    library = await asyncio.to_thread(build, tmp_path)
    driver = FakeDriver(tmp_path)
    driver.play("gpus 1", "hang memory")
    env = {"LD_LIBRARY_PATH": str(library.parent), "FAKE_NVML": str(driver.script)}
    async with SimulatedEngine(MODEL) as engine:
        engine.submit_all(Request(100, 100), 5)
        async with process("--gpu", "--engine-url", engine.url, **env) as (running, port):
            async with aiohttp.ClientSession() as session:
                series = await Client(session, port).until(
                    nvidia_driver_up=0, inference_queue_depth=3, nvidia_gpu_up=None
                )
            assert series["inference_engine_up"] == 1
            running.send_signal(signal.SIGTERM)
            async with asyncio.timeout(10):
                assert await running.wait() == 0


async def test_without_a_driver_nothing_is_said_of_one(tmp_path: Path) -> None:
    """A node without GPUs is no failure, unless --gpu says that there must be some."""
    (tmp_path / "libnvidia-ml.so.1").write_text("no library")
    env = {"LD_LIBRARY_PATH": str(tmp_path)}
    async with SimulatedEngine(MODEL) as engine, aiohttp.ClientSession() as session:
        flags = ("--engine-url", engine.url)
        async with process(*flags, **env) as (_, port):
            series = await Client(session, port).until(inference_engine_up=1)
            assert not any(name.startswith("nvidia") for name in series)
        async with process(*flags, "--gpu", **env) as (_, port):
            await Client(session, port).until(inference_engine_up=1, nvidia_driver_up=0)


def test_every_wrong_flag_is_said_at_once() -> None:
    """What was given, and what is accepted."""
    with pytest.raises(SettingsError) as raised:
        exporter_command(listen="9401", engine_url="ftp://x", engine="ollama", interval=0.5)

    assert str(raised.value) == (
        "--listen: HOST:PORT is accepted, such as 0.0.0.0:9401 or [::]:9401; "
        "--engine: 'ollama'; accepted: auto, dynamo, llama.cpp, lmdeploy, nim, sglang, "
        "tgi, triton, triton-trtllm, triton-vllm, trtllm-serve, vllm; "
        "--interval: 1 to 3600 seconds are accepted; "
        "--engine-url: http or https URLs without credentials are accepted"
    )
    with pytest.raises(SettingsError, match="--no-gpu: without --engine-url there is nothing"):
        exporter_command(gpu=False)


async def test_an_address_that_is_taken() -> None:
    """Said as the flag's problem."""
    async with SimulatedEngine(MODEL) as engine:
        with pytest.raises(SettingsError, match="--listen: cannot listen on 127"):
            async with serving(of_engine(engine.url, port=engine.port)):
                pass


PAGE = (ROOT / "docs" / "exporter.md").read_text()


def test_the_documentation_lists_every_metric() -> None:
    """With its labels, in the order of the page."""
    rows = re.findall(r"(?m)^\| `(\w+)` \|([^|]*)\|", PAGE)

    assert [(name, tuple(re.findall(r"`(\w+)`", labels))) for name, labels in rows] == [
        (gauge.name, gauge.labels) for gauge in GAUGES
    ]


def test_the_documentation_lists_every_flag() -> None:
    """As the command has them."""
    shown = subprocess.run(
        [COMMAND, "exporter", "--help"],
        env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    flags = set(re.findall(r"--[a-z-]+", shown)) - {"--help"}

    assert flags
    assert set(re.findall(r"(?m)^\| `(--[a-z-]+)[^|]*", PAGE)) | {"--no-gpu"} == flags


def test_the_documentations_manifests_are_unprivileged() -> None:
    """Every snippet is YAML, and no container in it may do more than it needs."""
    snippets = [yaml.safe_load(text) for text in re.findall(r"(?s)```yaml\n(.*?)```", PAGE)]
    sidecar, daemon_set = snippets
    containers = [*sidecar["spec"]["containers"][1:]]
    containers += daemon_set["spec"]["template"]["spec"]["containers"]

    for container in containers:
        assert container["args"][0] == "exporter"
        security = container["securityContext"]
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["allowPrivilegeEscalation"] is False
        assert security["readOnlyRootFilesystem"] is True
        assert "privileged" not in security
    (gpus,) = daemon_set["spec"]["template"]["spec"]["containers"]
    assert {"name": "NVIDIA_DRIVER_CAPABILITIES", "value": "utility"} in gpus["env"]
    assert all(mount["readOnly"] for mount in gpus["volumeMounts"])
