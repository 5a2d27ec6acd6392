"""The scaler as it is run: a process of its own, asked over gRPC, reading pages or a Prometheus."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import grpc
import pytest

from keda_scaler.pb import externalscaler_pb2 as pb
from keda_scaler.pb.externalscaler_pb2_grpc import ExternalScalerStub
from metrics_page import Page, capture
from prometheus_server import ROOT, PrometheusProcess

COMMAND = Path(sys.executable).with_name("keda-scaler")
FAST = {"pollSeconds": "1", "staleSeconds": "4"}
WAIT_SECONDS = 50.0

pytestmark = pytest.mark.timeout(150)  # processes that start on a busy machine


@dataclass
class Answer:
    """What KEDA would have seen at one instant; errors are their status code."""

    active: bool | grpc.StatusCode
    values: dict[str, float | grpc.StatusCode | None]
    """None: no value, the hold."""


@dataclass
class Scaler:
    """A running scaler."""

    process: asyncio.subprocess.Process
    port: int
    http_port: int
    printed: str

    async def ask(self, namespace: str, metadata: dict[str, str]) -> Answer:
        """Ask as KEDA does: specs, then value and activity of each."""
        ref = pb.ScaledObjectRef(name="llama", namespace=namespace, scalerMetadata=metadata)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            stub = ExternalScalerStub(channel)
            specs = await stub.GetMetricSpec(ref, timeout=5, wait_for_ready=True)
            values: dict[str, float | grpc.StatusCode | None] = {}
            for spec in specs.metricSpecs:
                request = pb.GetMetricsRequest(scaledObjectRef=ref, metricName=spec.metricName)
                try:
                    found = (await stub.GetMetrics(request, timeout=5)).metricValues
                    values[spec.metricName] = found[0].metricValueFloat if found else None
                except grpc.aio.AioRpcError as error:
                    values[spec.metricName] = error.code()
            try:
                active: bool | grpc.StatusCode = (await stub.IsActive(ref, timeout=5)).result
            except grpc.aio.AioRpcError as error:
                active = error.code()
        return Answer(active, values)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        async with asyncio.timeout(20):
            await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode


@contextlib.asynccontextmanager
async def serving(*arguments: str, env: dict[str, str] | None = None) -> AsyncIterator[Scaler]:
    process = await asyncio.create_subprocess_exec(
        COMMAND,
        "serve",
        *("--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0"),
        *("--allow-address", "127.0.0.0/8"),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=os.environ | (env or {}),
        cwd=ROOT,
    )
    assert process.stdout
    try:
        printed = ""
        async with asyncio.timeout(WAIT_SECONDS):
            while "metrics, health" not in printed:
                line = await process.stdout.readline()
                assert line, printed
                printed += line.decode()
        ports = [int(port) for port in re.findall(r":(\d+)$", printed, re.MULTILINE)]
        yield Scaler(process, ports[0], ports[1], printed)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()


@dataclass
class World:
    """Pages, and the way in which the scaler gets to read them."""

    namespace: str
    prometheus: PrometheusProcess | None
    pages: list[Page] = field(default_factory=list)

    async def serve(self, *bodies: str) -> dict[str, str]:
        """Serve pages, and give the metadata of a trigger that reads them."""
        for body in bodies:
            page = Page(body)
            await page.start()
            self.pages.append(page)
        if self.prometheus is None:
            return {"endpoints": ",".join(page.url for page in self.pages), **FAST}
        pods = {page.address: f"pod-{i}" for i, page in enumerate(self.pages)}
        self.prometheus.scrape("pods", self.namespace, pods)
        return {"prometheus": "main", **FAST}

    async def scraped(self, family: str = "vllm:num_requests_running") -> None:
        """Wait until every page is known to Prometheus, where there is one."""
        if self.prometheus is None:
            return
        query = f'count({family}{{namespace="{self.namespace}"}}) == {len(self.pages)}'
        async with asyncio.timeout(WAIT_SECONDS), aiohttp.ClientSession() as session:
            while True:
                url, params = f"{self.prometheus.url}/api/v1/query", {"query": query}
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(url, params=params) as answer:
                        if (await answer.json())["data"]["result"]:
                            return
                await asyncio.sleep(0.2)

    @property
    def arguments(self) -> tuple[str, ...]:
        return ("--prometheus", f"main={self.prometheus.url}") if self.prometheus else ()


@pytest.fixture(
    params=[
        "endpoints",
        pytest.param("prometheus", marks=pytest.mark.xdist_group("prometheus")),  # shares one
    ]
)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    through = request.param == "prometheus"
    running = request.getfixturevalue("prometheus") if through else None
    namespace = re.sub(r"[^a-z]+", "-", request.node.name)[:40].strip("-")
    made = World(namespace, running)
    yield made
    for page in made.pages:
        await page.stop()


async def until(
    scaler: Scaler,
    world: World,
    metadata: dict[str, str],
    holds: Callable[[Answer], bool],
    never: Callable[[Answer], bool] = lambda _: False,
) -> Answer:
    """Ask until something holds; fail at once when something is answered that must never be."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            answer = await scaler.ask(world.namespace, metadata)
            assert not never(answer), answer
            if holds(answer):
                return answer
            await asyncio.sleep(0.2)


def sleeps(answer: Answer) -> bool:
    """Whether this answer could put a model to sleep or scale it in to nothing."""
    return answer.active is False or 0.0 in answer.values.values()


def is_read(answer: Answer) -> bool:
    """Whether every part of an answer is of after the first reading, which may come in between."""
    return answer.active is True and grpc.StatusCode.UNAVAILABLE not in answer.values.values()


BOTH = {"targetQueueDepth": "5", "targetConcurrency": "16"}


async def test_the_busy_page(world: World) -> None:
    """12 waiting and 4 running: queue-depth 12, concurrency 16, active."""
    metadata = await world.serve(capture("busy-queue")) | BOTH
    async with serving(*world.arguments) as scaler:
        answer = await until(scaler, world, metadata, is_read)

    assert answer == Answer(active=True, values={"queue-depth": 12.0, "concurrency": 16.0})


async def test_the_fresh_idle_page(world: World) -> None:
    """0 at once, and after idleSeconds inactive; active until then."""
    metadata = await world.serve(capture("idle-fresh")) | {"idleSeconds": "3"}
    async with serving(*world.arguments) as scaler:
        early = await until(scaler, world, metadata, is_read)
        assert early.values == {"queue-depth": 0.0, "gpu-memory-pressure": 0.0}
        late = await until(scaler, world, metadata, lambda found: found.active is False)
        assert late.values == {"queue-depth": 0.0, "gpu-memory-pressure": 0.0}


async def test_requests_that_no_poll_saw(world: World) -> None:
    """The gauges are 0 before and after; a model that answers fast is not put to sleep."""
    metadata = await world.serve(capture("idle-fresh")) | {"idleSeconds": "3"}
    async with serving(*world.arguments) as scaler:
        await until(scaler, world, metadata, lambda found: found.active is False)
        world.pages[0].body = capture("idle-after")
        found = await until(scaler, world, metadata, lambda found: found.active is True)
        assert found.values["queue-depth"] == 0.0
        await until(scaler, world, metadata, lambda found: found.active is False)


async def test_a_killed_engine_is_held(world: World) -> None:
    """Last values, then active without values, then an error; never 0 and never inactive."""
    metadata = await world.serve(capture("busy-queue")) | BOTH | {"holdSeconds": "3"}
    async with serving(*world.arguments) as scaler:
        await until(scaler, world, metadata, lambda found: found.active is True)
        await world.pages[0].stop()
        # An answer may be made of calls before and after a change; it becomes whole, or times out.
        held = Answer(active=True, values={"queue-depth": None, "concurrency": None})
        await until(scaler, world, metadata, lambda found: found == held, never=sleeps)
        unknown = grpc.StatusCode.UNAVAILABLE
        over = Answer(active=unknown, values={"queue-depth": unknown, "concurrency": unknown})
        await until(scaler, world, metadata, lambda found: found == over, never=sleeps)


async def test_a_family_that_is_absent(world: World) -> None:
    """A page without the waiting requests is unknown, not empty."""
    page = re.sub(r"(?m)^vllm:num_requests_waiting\{.*\n", "", capture("idle-fresh"))
    metadata = await world.serve(page) | {"idleSeconds": "0"}
    async with serving(*world.arguments) as scaler:
        answer = await until(
            scaler, world, metadata, lambda found: found.values["queue-depth"] != 0.0
        )

    # A Prometheus that has not scraped the replica yet knows of none, so that there is a hold.
    held = Answer(active=True, values={"queue-depth": None, "gpu-memory-pressure": 0.0})
    unknown: dict[str, float | grpc.StatusCode | None] = dict.fromkeys(
        answer.values, grpc.StatusCode.UNAVAILABLE
    )
    assert answer in ([held] if world.prometheus else []) + [
        Answer(active=grpc.StatusCode.UNAVAILABLE, values=unknown)
    ]


@pytest.mark.parametrize(
    ("body", "values"),
    [
        ("busy-queue", {"queue-depth": 12.0, "concurrency": None}),
        ("idle-after", {"queue-depth": 5.0, "concurrency": 16.0}),
    ],
)
async def test_two_replicas_one_hanging(
    world: World, body: str, values: dict[str, float | None]
) -> None:
    """12 waiting scale up even if the other is idle; none scale in even if it is at target."""
    metadata = await world.serve(capture(body), capture("idle-after")) | BOTH
    await world.scraped()
    async with serving(*world.arguments) as scaler:
        await until(scaler, world, metadata, lambda found: found.active is True)
        world.pages[1].hangs.set()
        answer = await until(
            scaler,
            world,
            metadata,
            lambda found: found.values == values,
            never=lambda found: found.active is not True,
        )
        assert answer.active is True


async def test_latencies_of_what_finished_lately(world: World) -> None:
    """No opinion before anything finished; then the quantile of the 24 requests that did."""
    metadata = await world.serve(capture("idle-fresh")) | {"targetLatencySeconds": "1000"}
    await world.scraped()
    async with serving(*world.arguments) as scaler:
        early = await until(scaler, world, metadata, is_read)
        assert early.values == {"latency": 0.0}
        world.pages[0].body = capture("idle-after")
        answer = await until(
            scaler, world, metadata, lambda found: found.values.get("latency") not in {0.0, None}
        )

    # 18 of the 24 took up to 10 s and all up to 15 s, by the page's own buckets.
    assert isinstance(answer.values["latency"], float)
    assert 10 < answer.values["latency"] <= 15


@pytest.mark.xdist_group("prometheus")
@pytest.mark.parametrize("world", ["prometheus"], indirect=True)
async def test_an_engine_that_nobody_knows(world: World, tmp_path: Path) -> None:
    """Own queries alone: sums over its two replicas, active, and idle on proof."""
    page = "my_running 3\nmy_waiting 7\nmy_cache_ratio 0.5\nmy_seconds 4\n"
    metadata = await world.serve(page, page) | {
        "selector": 'job="pods"',
        "concurrencyQuery": "sum by (pod) (my_running + my_waiting)",
        "queueDepthQuery": "sum(my_waiting)",
        "gpuMemoryQuery": "avg(my_cache_ratio)",
        "latencyQuery": "max by (pod) (my_seconds)",
        "targetQueueDepth": "5",
        "targetGpuMemoryPressure": "85%",
        "targetLatencySeconds": "10",
        "idleSeconds": "1",
    }
    await world.scraped("my_running")
    async with serving(*world.arguments) as scaler:
        busy = await until(scaler, world, metadata, is_read)
        probed = await probe(scaler, tmp_path, world.namespace, metadata)
        for served in world.pages:
            served.body = re.sub(r"(?m) \S+$", " 0", page)
        idle = await until(scaler, world, metadata, lambda found: found.active is False)

    assert busy.values == {"queue-depth": 14.0, "gpu-memory-pressure": 1.0, "latency": 8.0}
    assert "work: concurrency is above 0" in probed
    assert "s0-queue-depth │ 14 │ 5 │ true" in probed
    assert idle.values == {"queue-depth": 0.0, "gpu-memory-pressure": 0.0, "latency": 0.0}


async def probe(scaler: Scaler, folder: Path, namespace: str, metadata: dict[str, str]) -> str:
    """Give what `probe` prints about a trigger, without the layout."""
    manifest = folder / "scaledobject.json"
    trigger = {"type": "external", "metadata": {"scalerAddress": "x:6000"} | metadata}
    manifest.write_text(
        json.dumps(
            {
                "apiVersion": "keda.sh/v1alpha1",
                "kind": "ScaledObject",
                "metadata": {"name": "llama", "namespace": namespace},
                "spec": {"scaleTargetRef": {"name": "llama"}, "triggers": [trigger]},
            }
        )
    )
    process = await asyncio.create_subprocess_exec(
        *(COMMAND, "probe", manifest, "--address", f"127.0.0.1:{scaler.port}"),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    return " ".join(out.decode().split())


async def test_a_target_that_never_scales_in_is_warned_of(tmp_path: Path) -> None:
    """`probe` names the engine, the reason and what is wrong with the trigger."""
    gpu = "nv_gpu_memory_used_bytes 9\nnv_gpu_memory_total_bytes 10\n"
    page = Page(capture("busy-queue") + gpu)
    await page.start()
    metadata = {"gpuMemorySource": "device", "endpoints": page.url}
    async with serving() as scaler:
        text = await probe(scaler, tmp_path, "default", metadata)
    await page.stop()

    assert "work: concurrency is above 0" in text
    assert "the engine is vllm" in text
    assert "WARNING: vllm takes its GPU memory at start and keeps it" in text


async def test_a_scaler_that_is_killed_during_load(world: World) -> None:
    """After kill -9 and a restart there is no inactive answer without new proof."""
    metadata = await world.serve(capture("busy-queue")) | BOTH
    async with serving(*world.arguments) as scaler:
        await until(scaler, world, metadata, lambda found: found.active is True)
        assert await scaler.stop(signal.SIGKILL) == -signal.SIGKILL
    async with serving(*world.arguments) as scaler:
        answer = await until(
            scaler, world, metadata, lambda found: found.active is True, never=sleeps
        )
        assert answer.values == {"queue-depth": 12.0, "concurrency": 16.0}


async def test_sigterm_ends_streams_with_ok_and_exits_with_zero() -> None:
    """KEDA's streams end in order, and Kubernetes sees a clean exit."""
    page = Page(capture("busy-queue"))
    await page.start()
    ref = pb.ScaledObjectRef(name="x", scalerMetadata={"endpoints": page.url})
    async with serving() as scaler:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{scaler.port}") as channel:
            stream = ExternalScalerStub(channel).StreamIsActive(ref)
            first = await stream.read()
            assert isinstance(first, pb.IsActiveResponse)
            assert first.result
            stopping = asyncio.create_task(scaler.stop())
            while await stream.read() is not grpc.aio.EOF:
                pass
            assert await stream.code() is grpc.StatusCode.OK
        assert await stopping == 0
    await page.stop()


async def test_the_lines_that_it_prints_work_as_printed() -> None:
    """`make run` prints a probe line and a grpcurl line; both answer."""
    async with serving("--demo") as scaler:
        assert scaler.process.stdout
        lines: list[str] = []
        while len(lines) < 2:
            line = (await scaler.process.stdout.readline()).decode().strip()
            lines += [line] if line.startswith((".venv", "keda-scaler", "grpcurl", "/")) else []
        for line in lines:
            if line.startswith("grpcurl") and not shutil.which("grpcurl"):
                assert not os.environ.get("CI"), "grpcurl is a development requirement"
                continue
            asked = await asyncio.create_subprocess_shell(
                line, cwd=ROOT, stdout=asyncio.subprocess.PIPE
            )
            out, _ = await asked.communicate()
            assert asked.returncode == 0, line
            assert b"true" in out, out


async def test_metrics_and_health() -> None:
    """What the scaler tells of itself."""
    page = Page(capture("busy-queue"))
    await page.start()
    async with serving() as scaler, aiohttp.ClientSession() as session:
        await scaler.ask("default", {"endpoints": page.url})
        base = f"http://127.0.0.1:{scaler.http_port}"
        async with session.get(f"{base}/metrics") as answer:
            text = await answer.text()
        for path in ("/healthz", "/readyz"):
            async with session.get(base + path) as answer:
                assert answer.status == 200
    await page.stop()
    assert 'keda_scaler_targets{state="active"} 1\n' in text
    assert 'keda_scaler_rpcs_total{code="OK",method="GetMetrics"} 2.0' in text
    assert 'keda_scaler_read_seconds_count{result="ok",source="endpoints"} 1.0' in text


async def test_settings_come_from_flag_environment_and_file(tmp_path: Path) -> None:
    """A flag wins over the environment, that over the file."""
    file = tmp_path / "settings.toml"
    file.write_text('http_address = "127.0.0.1:1"\n[prometheus.main]\nurl = "http://127.0.0.1:9"\n')
    env = {"KEDA_SCALER_HTTP_ADDRESS": "127.0.0.1:2"}
    async with serving("--config", str(file), env=env) as scaler:
        answer = await scaler.ask("default", {"prometheus": "main"})

    assert scaler.http_port > 2
    assert answer.active is grpc.StatusCode.UNAVAILABLE


async def test_a_wrong_setting_is_said_in_one_line() -> None:
    """Exit code 1, and what is accepted."""
    process = await asyncio.create_subprocess_exec(
        *(COMMAND, "serve", "--grpc-address", "6000"), stderr=asyncio.subprocess.PIPE
    )
    _, err = await process.communicate()

    assert process.returncode == 1
    assert json.dumps(err.decode()).count("\\n") == 1
    assert b"grpc_address: HOST:PORT is accepted" in err
