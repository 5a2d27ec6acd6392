"""Reload: settings that change while the scaler runs, over a real file and a real connection."""

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import structlog
from aiohttp import web

from keda_scaler import reload
from keda_scaler.app import App
from keda_scaler.pb import externalscaler_pb2 as pb
from keda_scaler.pb.externalscaler_pb2_grpc import ExternalScalerStub
from keda_scaler.reload import Reloader
from keda_scaler.settings import Origin, Settings
from metrics_page import Page, capture
from prometheus_fake import FakePrometheus

if TYPE_CHECKING:  # the stubs have it, the generated module does not
    from keda_scaler.pb.externalscaler_pb2_grpc import ExternalScalerAsyncStub

HEAD = 'grpc_address = "127.0.0.1:0"\nhttp_address = "127.0.0.1:0"\n'
OPEN = HEAD + 'allow_address = ["127.0.0.0/8"]\n'
WAIT_SECONDS = 30.0


def ref(**metadata: str) -> pb.ScaledObjectRef:
    return pb.ScaledObjectRef(name="llama", namespace="models", scalerMetadata=metadata)


async def read(stream: Any) -> Any:
    async with asyncio.timeout(WAIT_SECONDS):
        return await stream.read()


async def read_to_the_end(stream: Any) -> None:
    while await read(stream) is not grpc.aio.EOF:
        pass


def write(file: Path, text: str | None) -> None:
    """Replace a file at once; None: by nothing."""
    if text is None:
        file.unlink()
        return
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


@dataclass
class Running:
    """A scaler whose settings the test writes."""

    app: App
    stub: "ExternalScalerAsyncStub"
    file: Path
    logs: list[Any]

    def write(self, text: str | None) -> None:
        """Replace the file at once."""
        write(self.file, text)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while not condition():
                await asyncio.sleep(0.01)

    async def logged(self, event: str) -> Any:
        """Wait for a line of the log."""
        await self.until(lambda: any(event in line["event"] for line in self.logs))
        return next(line for line in self.logs if event in line["event"])

    async def code(self, call: Any) -> grpc.StatusCode | None:
        """Make a call; give the status that it ends with."""
        with contextlib.suppress(grpc.aio.AioRpcError):
            await call
        status: grpc.StatusCode | None = await call.code()
        return status

    def reloads(self) -> tuple[float | None, float | None]:
        """Give how many reloads were taken up, and how many were wrong."""
        registry = self.app._telemetry.registry
        name = "keda_scaler_settings_reloads_total"
        return (
            registry.get_sample_value(name, {"result": "ok"}),
            registry.get_sample_value(name, {"result": "error"}),
        )


@contextlib.asynccontextmanager
async def running(file: Path, text: str | None = OPEN) -> AsyncIterator[Running]:
    if text is not None:
        write(file, text)
    origin = Origin({}, file)
    with structlog.testing.capture_logs() as logs:
        async with (
            App(await asyncio.to_thread(origin.load), origin=origin) as app,
            grpc.aio.insecure_channel(f"127.0.0.1:{app.grpc_port}") as channel,
        ):
            yield Running(app, ExternalScalerStub(channel), file, logs)


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "LOOK_SECONDS", 0.02)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "settings.toml"


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    page = Page(capture("idle-fresh"))
    await page.start()
    yield page
    await page.stop()


async def test_new_defaults_reach_open_streams(file: Path, page: Page) -> None:
    """The specs are sent anew, no stream ends, and the next edge is told on the old one."""
    target = ref(endpoints=page.url, idleSeconds="0")
    async with running(file) as scaler:
        specs, states = scaler.stub.StreamMetricSpec(target), scaler.stub.StreamIsActive(target)
        assert [spec.metricName for spec in (await read(specs)).metricSpecs] == [
            "queue-depth",
            "gpu-memory-pressure",
        ]
        assert not (await read(states)).result

        scaler.write(f"{OPEN}[defaults]\ntargetQueueDepth = 8\npollSeconds = 1\n")

        sent = await read(specs)
        assert [(spec.metricName, spec.targetSizeFloat) for spec in sent.metricSpecs] == [
            ("queue-depth", 8.0)
        ]
        assert await scaler.stub.GetMetricSpec(target) == sent
        await scaler.until(lambda: scaler.reloads() == (1, 0))
        page.body = capture("busy-queue")
        assert (await read(states)).result
        states.cancel()
        specs.cancel()


async def test_a_reload_forgets_nothing(file: Path, page: Page) -> None:
    """What was read and since when it was idle stays: there is no gap in the answers."""
    target = ref(endpoints=page.url, idleSeconds="0", pollSeconds="3600")
    async with running(file) as scaler:
        assert not (await scaler.stub.IsActive(target)).result
        page.hangs.set()

        scaler.write(f"{OPEN}[defaults]\ntargetConcurrency = 8\n")
        await scaler.until(lambda: scaler.reloads() == (1, 0))

        assert not (await scaler.stub.IsActive(target)).result
        request = pb.GetMetricsRequest(scaledObjectRef=target, metricName="concurrency")
        values = (await scaler.stub.GetMetrics(request)).metricValues
        assert [value.metricValueFloat for value in values] == [0.0]


async def test_another_prometheus_is_read_from_then_on(file: Path) -> None:
    """The name of the trigger is the same, its URL is another."""
    async with FakePrometheus() as before, FakePrometheus() as after:

        async def three(request: web.Request) -> web.StreamResponse:
            found = await after._as_prometheus(request)
            assert isinstance(found, web.Response)
            text = re.sub('"(12|7)"', '"3"', found.text or "")
            return web.Response(text=text, content_type="application/json")

        after.answer = three
        text = HEAD + "[prometheus.main]\nurl = '{}'\n"
        target = ref(prometheus="main", pollSeconds="1", targetQueueDepth="5")
        request = pb.GetMetricsRequest(scaledObjectRef=target, metricName="queue-depth")
        async with running(file, text.format(before.url)) as scaler:
            stream = scaler.stub.StreamIsActive(target)
            assert (await read(stream)).result
            found = await scaler.stub.GetMetrics(request)
            assert found.metricValues[0].metricValueFloat == 12.0

            scaler.write(text.format(after.url))

            async with asyncio.timeout(WAIT_SECONDS):
                while found.metricValues[0].metricValueFloat != 3.0:
                    await asyncio.sleep(0.02)
                    found = await scaler.stub.GetMetrics(request)
            asked = len(before.requests)
            assert len(scaler.app._supervisors) == 1
            await scaler.until(lambda: len(after.requests) > 6)
            assert len(before.requests) == asked
            assert not stream.done()
            stream.cancel()


async def test_a_trigger_is_refused_and_accepted_again(file: Path, page: Page) -> None:
    """Polls and streams get what a new call would get; the next call after it is mended works."""
    target = ref(endpoints=page.url)
    async with running(file) as scaler:
        stream = scaler.stub.StreamIsActive(target)
        await read(stream)

        scaler.write(HEAD)

        async with asyncio.timeout(WAIT_SECONDS):
            while await scaler.code(scaler.stub.IsActive(target)) is grpc.StatusCode.OK:
                await asyncio.sleep(0.01)
        call = scaler.stub.GetMetricSpec(target)
        assert await scaler.code(call) is grpc.StatusCode.INVALID_ARGUMENT
        assert "--allow-address" in (await call.details() or "")
        with pytest.raises(grpc.aio.AioRpcError):
            await read_to_the_end(stream)
        assert await stream.code() is grpc.StatusCode.INVALID_ARGUMENT

        scaler.write(OPEN)

        await scaler.until(lambda: scaler.reloads() == (2, 0))
        assert await scaler.code(scaler.stub.IsActive(target)) is grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("grpc_address = ", "Invalid value"),
        (f"grpc_address = {'[' * 5000}", "recursion"),
        (f"{OPEN}[defaults]\ntargetQueueDepth = -1\n", "defaults.targetQueueDepth: got '-1'"),
        (None, "No such file"),
    ],
)
async def test_a_wrong_file_changes_nothing(
    file: Path, page: Page, text: str | None, says: str
) -> None:
    """The problem is logged and counted once, and the settings before go on."""
    target = ref(endpoints=page.url)
    async with running(file, f"{OPEN}[defaults]\ntargetQueueDepth = 4\n") as scaler:
        before = await scaler.stub.GetMetricSpec(target)
        await looked_at(scaler)
        scaler.write(text)
        line = await scaler.logged("settings are wrong")
        assert says in line["problems"]
        assert line["log_level"] == "error"
        await looked_at(scaler)
        assert scaler.reloads() == (0, 1)
        assert await scaler.stub.GetMetricSpec(target) == before

        scaler.write(f"{OPEN}[defaults]\ntargetQueueDepth = 6\n")

        await scaler.until(lambda: scaler.reloads() == (1, 1))


async def looked_at(scaler: Running) -> None:
    """Wait until the file was looked at twice more: once may have begun before."""
    counted = Counted(scaler.app._reloader)
    await scaler.until(lambda: counted.looks >= 2)


class Counted:
    """Counts how often a reloader looks at its file."""

    def __init__(self, reloader: Reloader | None) -> None:
        assert reloader is not None
        self.looks = 0
        due = reloader._look_is_due

        async def counted() -> bool:
            self.looks += 1
            return await due()

        reloader._look_is_due = counted  # type: ignore[method-assign]  # a look is not told


async def test_what_needs_a_restart_is_named(file: Path) -> None:
    """The old value stays, and what can be taken up is taken up beside it."""
    async with running(file) as scaler:
        scaler.write(OPEN.replace("grpc_address", "tls_cert = 'c'\ntls_key = 'k'\n#", 1))
        await scaler.logged("needs a restart")
        refused = {line["setting"] for line in scaler.logs if "restart" in line["event"]}
        assert refused == {"grpc_address", "tls_cert", "tls_key"}
        assert scaler.reloads() == (0, 0)

        scaler.write(HEAD.replace("127.0.0.1:0", "127.0.0.1:1") + "[defaults]\nidleSeconds = 3\n")

        line = await scaler.logged("settings were taken up")
        assert line["changed"] == ["allow_address", "defaults"]
        assert await scaler.code(scaler.stub.GetMetricSpec(ref(service="x"))) is grpc.StatusCode.OK


async def test_a_mounted_configmap(tmp_path: Path, page: Page) -> None:
    """Kubernetes leaves the file alone and replaces the link to its folder."""
    folder = tmp_path / "mounted"
    file = folder / "settings.toml"

    def swap(name: str, text: str) -> None:
        (folder / name).mkdir(parents=True)
        (folder / name / "settings.toml").write_text(text)
        (folder / "..new").symlink_to(name)
        (folder / "..new").replace(folder / "..data")

    swap("..1", OPEN)
    file.symlink_to("..data/settings.toml")
    async with running(file, None) as scaler:
        stream = scaler.stub.StreamMetricSpec(ref(endpoints=page.url))
        await read(stream)
        swap("..2", f"{OPEN}[defaults]\ntargetQueueDepth = 9\n")
        assert (await read(stream)).metricSpecs[0].targetSizeFloat == 9.0
        stream.cancel()


async def test_nothing_happens_when_nothing_changes(file: Path, page: Page) -> None:
    """Another comment in the file leaves the sources alone; whoever asked is told."""
    async with running(file) as scaler:
        await scaler.stub.IsActive(ref(endpoints=page.url))
        supervisors = list(scaler.app._supervisors)
        scaler.write("# rewritten\n" + OPEN)
        await looked_at(scaler)
        scaler.app.reload()
        await scaler.logged("nothing to take up")

        assert scaler.app._supervisors == supervisors
        assert scaler.reloads() == (0, 0)


async def test_flags_go_on_winning_over_the_file(
    file: Path, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the file is read again."""
    monkeypatch.setenv("KEDA_SCALER_ALLOW_ADDRESS", "127.0.0.0/8")
    async with running(file, HEAD) as scaler:
        scaler.write(f"{HEAD}allow_address = []\n[defaults]\nidleSeconds = 3\n")
        line = await scaler.logged("settings were taken up")
        assert line["changed"] == ["defaults"]
        answer = scaler.stub.GetMetricSpec(ref(endpoints=page.url))
        assert await scaler.code(answer) is grpc.StatusCode.OK


async def test_a_reload_at_shutdown_does_nothing(file: Path, page: Page) -> None:
    """Whatever it was doing: nothing is left behind, and later requests are ignored."""
    async with running(file) as scaler:
        await scaler.stub.IsActive(ref(endpoints=page.url))
        scaler.write(f"{OPEN}[defaults]\ntargetQueueDepth = 8\n")
        scaler.app.reload()
        await asyncio.sleep(0)
    assert scaler.app._supervisors == []
    scaler.app.reload()


async def test_one_reload_at_a_time(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next waits for the one before, and the newest settings are those that stay."""
    monkeypatch.setattr(reload, "LOOK_SECONDS", 3600)
    write(file, OPEN)
    origin = Origin({}, file)
    taken: list[dict[str, str]] = []
    busy, go_on = asyncio.Event(), asyncio.Event()

    async def take_up(settings: Settings) -> None:
        assert not busy.is_set()
        busy.set()
        await go_on.wait()
        busy.clear()
        taken.append(settings.defaults)

    settings = await asyncio.to_thread(origin.load)
    reloader = Reloader(settings, origin, take_up, lambda _: None)
    task = asyncio.create_task(reloader.run())
    async with asyncio.timeout(WAIT_SECONDS):
        for seconds in (1, 2, 3):
            write(file, f"{OPEN}[defaults]\nidleSeconds = {seconds}\n")
            reloader.ask()
            await busy.wait()
        go_on.set()
        while len(taken) < 2:
            await asyncio.sleep(0.01)
    task.cancel()

    assert taken == [{"idleSeconds": "1"}, {"idleSeconds": "3"}]


async def test_a_file_that_changes_while_it_is_looked_at(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is compared is what was loaded: a change that is taken back in between is not missed."""
    first, second = (f"{OPEN}[defaults]\nidleSeconds = {seconds}\n" for seconds in (1, 2))
    write(file, first)
    origin = Origin({}, file)
    running = await asyncio.to_thread(origin.load)
    load = Origin.load

    def change_and_load(self: Origin, *content: bytes | None) -> Settings:
        write(file, second)
        found = load(self, *content)
        write(file, first)
        return found

    async def take_up(settings: Settings) -> None:
        nonlocal running
        running = settings

    monkeypatch.setattr(Origin, "load", change_and_load)
    reloader = Reloader(running, origin, take_up, lambda _: None)
    task = asyncio.create_task(reloader.run())
    counted = Counted(reloader)
    async with asyncio.timeout(WAIT_SECONDS):
        while counted.looks < 4:
            await asyncio.sleep(0.01)
    task.cancel()

    assert running.defaults == {"idleSeconds": "1"}


@pytest.mark.parametrize("where", ["reading", "taking up"])
async def test_a_fault_of_ours_ends_no_later_reload(
    file: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """The next change of the file is taken up."""
    write(file, OPEN)
    origin = Origin({}, file)
    results: list[str] = []
    faults = [RuntimeError("a fault")]

    async def take_up(_: Settings) -> None:
        if faults and where == "taking up":
            raise faults.pop()

    settings = await asyncio.to_thread(origin.load)
    load = origin.load

    def read(_: Origin, content: bytes | None) -> Settings:
        if faults and where == "reading":
            raise faults.pop()
        return load(content)

    monkeypatch.setattr(Origin, "load", read)
    reloader = Reloader(settings, origin, take_up, results.append)
    with structlog.testing.capture_logs():
        task = asyncio.create_task(reloader.run())
        async with asyncio.timeout(WAIT_SECONDS):
            for seconds in (1, 2):
                write(file, f"{OPEN}[defaults]\nidleSeconds = {seconds}\n")
                while len(results) < seconds:
                    await asyncio.sleep(0.01)
        task.cancel()

    assert results == ["error", "ok"]


@pytest.fixture
def command() -> str:
    return str(Path(sys.executable).with_name("keda-scaler"))


async def test_sighup(file: Path, page: Page, command: str) -> None:
    """The running process reads its settings again: streams go on, and hear of new specs."""
    write(file, OPEN)
    process = await asyncio.create_subprocess_exec(
        *(command, "serve", "--config", str(file)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"KEDA_SCALER_HTTP_ADDRESS": "127.0.0.1:0"},
    )
    assert process.stdout
    assert process.stderr
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            printed = (await process.stdout.readline()).decode()
            port = int(printed.rpartition(":")[2])
            process.send_signal(signal.SIGHUP)
            while b"nothing to take up" not in await process.stderr.readline():
                pass
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub = ExternalScalerStub(channel)
                target = ref(endpoints=page.url)
                states, specs = stub.StreamIsActive(target), stub.StreamMetricSpec(target)
                await states.read()
                await specs.read()
                write(file, f"{OPEN}[defaults]\ntargetQueueDepth = 8\n")
                process.send_signal(signal.SIGHUP)
                sent: Any = await specs.read()
                assert sent.metricSpecs[0].targetSizeFloat == 8.0
                assert not states.done()
                process.terminate()
                await read_to_the_end(states)
                for stream in (states, specs):
                    assert await stream.code() is grpc.StatusCode.OK
            await process.communicate()
        assert process.returncode == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
