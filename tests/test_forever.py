"""What shall run for ever does: an injected death of each such task, and what comes after it."""

import asyncio
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from keda_scaler import app as application
from keda_scaler import forever
from keda_scaler.app import App, serve
from keda_scaler.errors import BrokenError
from keda_scaler.reload import Reloader
from keda_scaler.rpc.server import Server
from keda_scaler.settings import Origin
from keda_scaler.sim.kubernetes import SimulatedCluster, SimulatedEndpoint
from keda_scaler.sources import kubernetes, polls, promrounds, redisreports, supervisor
from keda_scaler.sources.kubernetes import ServiceDirectory, at_url
from keda_scaler.sources.polls import Follower, Polls
from keda_scaler.sources.prometheus import PrometheusServer, PrometheusSource
from keda_scaler.sources.redisserver import RedisServer
from prometheus_fake import FakePrometheus
from prometheus_server import free_port
from prometheus_sink import RULES, reading, trigger_of, until


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(forever, "FIRST_SECONDS", 0.001)
    forever.deaths.clear()
    yield
    forever.deaths.clear()


def dying(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, death: BaseException, times: int = 1
) -> None:
    """Let a coroutine function die so often before it does its work."""
    usual, left = getattr(owner, name), [times]

    async def run(*args: Any, **kwargs: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise death
        return await usual(*args, **kwargs)

    monkeypatch.setattr(owner, name, run)


DEATHS = [RuntimeError("injected"), asyncio.CancelledError()]


@pytest.mark.parametrize("death", [*DEATHS, None], ids=["raises", "is cancelled", "returns"])
async def test_a_death_is_logged_counted_and_made_good(death: BaseException | None) -> None:
    """Whatever it dies of; who owns it can end it all the same."""
    lives: list[int] = []

    async def run() -> None:
        lives.append(1)
        if len(lives) > 2:
            await asyncio.Event().wait()
        if death is not None:
            raise death

    with capture_logs() as logs:
        task = asyncio.create_task(forever.keep("sweep", run))
        await until(lambda: len(lives) == 3)
    task.cancel()
    await asyncio.wait([task], timeout=1)
    assert task.cancelled()
    assert forever.deaths["sweep"] == 2
    assert [each["log_level"] for each in logs] == ["error", "error"]


async def test_who_dies_on_and_on_is_told_of() -> None:
    """And is begun again all the same."""
    told: list[int] = []
    lives: list[int] = []

    async def run() -> None:
        lives.append(1)
        raise RuntimeError("injected")

    with capture_logs():
        task = asyncio.create_task(forever.keep("sweep", run, lambda: told.append(len(lives))))
        await until(lambda: told)
    task.cancel()
    assert told[0] == forever.MAX_DEATHS


def test_pauses_grow_and_have_an_end() -> None:
    """From moments to half a minute, with jitter."""
    assert forever.FIRST_SECONDS / 2 <= forever.pause(1) <= forever.FIRST_SECONDS
    assert forever.pause(100) <= forever.LONGEST_SECONDS


@pytest.mark.parametrize("death", DEATHS, ids=["raises", "is cancelled"])
async def test_a_reader_of_polls(monkeypatch: pytest.MonkeyPatch, death: BaseException) -> None:
    """Targets that follow it later are told, too."""
    dying(monkeypatch, polls._Reader, "_poll", death)
    told: list[object] = []

    async def read() -> int:
        return 7

    pages: Polls[int] = Polls(lambda *_: None, asyncio.get_running_loop().time)
    with capture_logs(), pages.follow("a", "a", read, Follower(None, 5.0, told.append)):
        await until(lambda: told == [7])
    assert forever.deaths["poll"] == 1
    await pages.aclose()


@pytest.mark.parametrize("death", DEATHS, ids=["raises", "is cancelled"])
async def test_rounds(monkeypatch: pytest.MonkeyPatch, death: BaseException) -> None:
    """Of a Prometheus: targets that join later are read."""
    dying(monkeypatch, promrounds.Rounds, "_round", death)
    async with FakePrometheus() as fake:
        source = PrometheusSource({"main": PrometheusServer(fake.url)}, RULES)
        with capture_logs():
            async with reading(source, "models", trigger_of()) as sink:
                await until(lambda: sink.readings)
        await source.aclose()
    assert forever.deaths["rounds"] == 1


async def test_the_watch_of_a_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    """It survives what its own net does not catch."""
    await asyncio.to_thread(importlib.import_module, "kubernetes_asyncio.client")
    dying(monkeypatch, kubernetes._Namespace, "_list", asyncio.CancelledError())
    async with SimulatedCluster() as cluster:
        cluster.put_service("models", "llama", [SimulatedEndpoint("10.0.0.1", "llama-0")])
        directory = ServiceDirectory(configure=at_url(cluster.url))
        with capture_logs():
            async with directory.follow("models") as view:
                await until(lambda: view.was_tried)
        await directory.aclose()
    assert forever.deaths["endpoint slices"] == 1


async def test_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor starts it again."""
    lives: list[int] = []

    async def run() -> None:
        lives.append(1)
        await asyncio.Event().wait()

    dying(monkeypatch, supervisor, "_keep_running", asyncio.CancelledError())
    task = asyncio.create_task(
        forever.keep("source", lambda: supervisor._keep_running(run, lambda _: None))
    )
    with capture_logs():
        await until(lambda: lives)
    task.cancel()
    assert forever.deaths["source"] == 1


@pytest.mark.parametrize("loop", ["_keep_listening", "_keep_reading"])
async def test_loops_of_redis(monkeypatch: pytest.MonkeyPatch, loop: str) -> None:
    """Both begin again, whether or not Redis is there."""
    dying(monkeypatch, redisreports.RedisReports, loop, RuntimeError("injected"))
    server = RedisServer(f"redis://127.0.0.1:{free_port()}")
    reports = redisreports.RedisReports(server)
    told: list[object] = []
    with capture_logs():
        stop = reports.watch("models", "llama", lambda _: told.append(1))
        await until(lambda: forever.deaths["redis"])
    stop()
    await reports.aclose()
    assert forever.deaths["redis"] == 1


@pytest.mark.parametrize(
    ("owner", "name", "kind"),
    [
        (application, "_sweep", "sweep"),
        (application, "keep_frozen", "garbage"),
        (Reloader, "run", "reload"),
    ],
)
async def test_a_task_of_the_whole_process(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, kind: str, tmp_path: Path
) -> None:
    """It begins again; one that dies on and on ends the process, which says so first."""
    file = tmp_path / "settings.toml"
    file.write_text('grpc_address = "127.0.0.1:0"\nhttp_address = "127.0.0.1:0"\n')
    origin = Origin({}, file)
    settings = await asyncio.to_thread(origin.load)
    dying(monkeypatch, owner, name, RuntimeError("injected"))
    with capture_logs():
        async with App(settings, ServiceDirectory(), origin) as app:
            await until(lambda: forever.deaths[kind])
            assert not app.broken.is_set()
        dying(monkeypatch, owner, name, RuntimeError("injected"), times=100)
        states: list[bool] = []
        drain = Server.drain

        async def drained(server: Any) -> None:
            states.append(True)
            await drain(server)

        monkeypatch.setattr(Server, "drain", drained)
        with pytest.raises(BrokenError, match="died again and again"):
            await serve(settings, origin, lambda _: None)
    assert states == [True]
