"""Reports from the request that brings them to the answer that KEDA gets."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc
import pytest

from keda_scaler.app import App
from keda_scaler.core import reports as core
from keda_scaler.pb import externalscaler_pb2 as pb
from keda_scaler.pb.externalscaler_pb2_grpc import ExternalScalerStub
from keda_scaler.settings import load_settings
from redis_server import RedisProcess

if TYPE_CHECKING:
    from keda_scaler.pb.externalscaler_pb2_grpc import ExternalScalerAsyncStub

TOKEN = "models-0123456789abcdef"
METADATA = {"engine": "reports", "idleSeconds": "1", "coldStartSeconds": "0"}
REF = pb.ScaledObjectRef(name="worker", namespace="models", scalerMetadata=METADATA)
WAIT_SECONDS = 20.0


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever keeps reports is soon no longer new to them."""
    monkeypatch.setattr(core, "YOUNG_SECONDS", 0.5)


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    file = tmp_path / "tokens"
    file.write_text(f"models {TOKEN}\n")
    return file


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisProcess]:
    running = RedisProcess(tmp_path)
    running.start()
    yield running
    running.kill()


class Scaler:
    """A scaler in this process, as reporters and KEDA see it."""

    def __init__(
        self, app: App, session: aiohttp.ClientSession, stub: "ExternalScalerAsyncStub"
    ) -> None:
        self._url = f"http://127.0.0.1:{app.http_port}/v1/reports"
        self._session = session
        self.stub = stub

    async def report(self, waiting: int, reporter: str = "queue") -> int:
        body = {"namespace": "models", "name": "worker", "waiting": waiting, "reporter": reporter}
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with self._session.post(self._url, json=body, headers=headers) as answer:
            return answer.status

    async def active(self) -> bool | grpc.StatusCode:
        try:
            return bool((await self.stub.IsActive(REF, timeout=5)).result)
        except grpc.aio.AioRpcError as error:
            return error.code()

    async def until(self, *, active: bool) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while await self.active() is not active:
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def serving(**flags: Any) -> AsyncIterator[Scaler]:
    addresses = {"grpc_address": "127.0.0.1:0", "http_address": "127.0.0.1:0"}
    async with (
        App(load_settings(addresses | flags)) as app,
        aiohttp.ClientSession() as session,
        grpc.aio.insecure_channel(f"127.0.0.1:{app.grpc_port}") as channel,
    ):
        yield Scaler(app, session, ExternalScalerStub(channel))


async def test_reports_alone_wake_and_put_to_sleep(tokens: Path) -> None:
    """Unknown before the first report, active with work, idle only when zero is stated."""
    async with serving(report_tokens=tokens) as scaler:
        assert await scaler.active() is grpc.StatusCode.UNAVAILABLE
        assert await scaler.report(7) == 200
        assert await scaler.active() is True
        request = pb.GetMetricsRequest(scaledObjectRef=REF, metricName="queue-depth")
        found = await scaler.stub.GetMetrics(request, timeout=5)
        assert found.metricValues[0].metricValueFloat == 7
        assert await scaler.report(0) == 200
        await scaler.until(active=False)


async def test_a_restart_waits_for_all_who_report(
    tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a batch stated is lost with the scaler that kept it; the queue's zero is no proof."""
    monkeypatch.setattr(core, "YOUNG_SECONDS", 600.0)
    async with serving(report_tokens=tokens) as scaler:
        assert await scaler.report(3, "batch") == 200
        assert await scaler.active() is True
    async with serving(report_tokens=tokens) as scaler:
        assert await scaler.report(0) == 200
        await asyncio.sleep(1.5)  # longer than idleSeconds
        assert await scaler.active() is grpc.StatusCode.UNAVAILABLE
        assert await scaler.report(3, "batch") == 200
        assert await scaler.active() is True


async def test_an_open_stream_hears_of_a_report_to_another_scaler(
    tokens: Path, redis: RedisProcess
) -> None:
    """KEDA streams from one replica of the scaler, and the gateway posts to another."""
    flags = {"report_tokens": tokens, "redis_url": redis.url}
    async with serving(**flags) as one, serving(**flags) as other:
        assert await one.report(0) == 200
        await other.until(active=False)
        stream = other.stub.StreamIsActive(REF)

        async def heard() -> None:
            async for message in stream:
                if message.result:
                    return

        hearing = asyncio.create_task(heard())
        assert await one.report(1) == 200
        async with asyncio.timeout(WAIT_SECONDS):
            await hearing
        stream.cancel()


async def test_a_redis_that_is_lost_puts_nothing_to_sleep(
    tokens: Path, redis: RedisProcess
) -> None:
    """A report is refused; the last one stands, then it is unknown; a new Redis mends it."""
    async with serving(report_tokens=tokens, redis_url=redis.url) as scaler:
        assert await scaler.report(5) == 200
        await scaler.until(active=True)
        redis.kill()
        assert await scaler.report(0) == 503
        assert await scaler.active() is True
        redis.start()
        async with asyncio.timeout(WAIT_SECONDS):
            while await scaler.report(5) != 200:
                assert await scaler.active() is not False
                await asyncio.sleep(0.05)
        await scaler.until(active=True)
