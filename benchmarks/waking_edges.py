"""Edges from idle to active: made from outside, and timed until an open stream says so.

Every target has a StreamIsActive open, all on one connection, as KEDA has them. Which target wakes
next is drawn among those that have been idle for `REST_SECONDS`.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

import aiohttp
import grpc
from aiohttp import web

from keda_scaler.pb import externalscaler_pb2 as pb
from keda_scaler.pb.externalscaler_pb2_grpc import ExternalScalerStub
from keda_scaler.rpc.pushes import PUSH_SECONDS

if TYPE_CHECKING:
    from keda_scaler.pb.externalscaler_pb2_grpc import ExternalScalerAsyncStub

HOST = "127.0.0.1"
NAMESPACE = "models"
TOKEN = "of-the-benchmark-0123456789"  # of a server that nobody else reaches

REST_SECONDS = 1.25 * PUSH_SECONDS
"""From "idle" to the next edge of a target: a stream that has just spoken is silent for most of
that, which is a limit of ours and not what is measured."""

EDGE_SECONDS = 20.0
"""Longest wait for anything that must come."""

GAP_SECONDS = 0.05
"""Between two edges of a gateway, on average: they overlap, as each waits for a poll."""

_LOOK_SECONDS = 0.01
"""How often is looked for a target that may wake."""


class EdgeError(Exception):
    """An edge did not come, or a server failed."""


class Target:
    """One target, as its stream tells of it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._is_active: bool | None = None
        self._quiet_at = 0.0
        self._woken: asyncio.Future[float] | None = None

    @property
    def is_rested(self) -> bool:
        """Whether it may wake."""
        is_idle = self._is_active is False and self._woken is None
        return is_idle and now() >= self._quiet_at + REST_SECONDS

    def expect(self) -> "asyncio.Future[float]":
        """Give what becomes the time at which the stream says "active"."""
        self._woken = asyncio.get_running_loop().create_future()
        return self._woken

    def hears(self, *, active: bool) -> None:
        """Take what the stream says."""
        self._is_active = active
        if not active:
            self._quiet_at = now()
        elif self._woken is not None:
            self._woken.set_result(now())
            self._woken = None


class Targets:
    """All targets of a server, and their streams. A context manager."""

    def __init__(self, port: int, metadata: Mapping[str, Mapping[str, str]]) -> None:
        """Take the port of a gRPC server, and each target's trigger metadata by its name."""
        self._port = port
        self._metadata = metadata
        self._targets = [Target(name) for name in metadata]
        self._tasks: list[asyncio.Task[None]] = []
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> Self:
        channel = grpc.aio.insecure_channel(f"{HOST}:{self._port}")
        stub: ExternalScalerAsyncStub = ExternalScalerStub(
            await self._exits.enter_async_context(channel)
        )
        self._tasks = [asyncio.create_task(self._listen(stub, each)) for each in self._targets]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._exits.aclose()

    async def rested(self) -> Target:
        """Draw a target that may wake.

        Raises:
            EdgeError: when there is none in time, or a stream has ended.

        """
        try:
            async with asyncio.timeout(EDGE_SECONDS):
                while True:
                    self._check()
                    rested = [each for each in self._targets if each.is_rested]
                    if rested:
                        return random.choice(rested)
                    await asyncio.sleep(_LOOK_SECONDS)
        except TimeoutError:
            raise EdgeError(f"no target became idle within {EDGE_SECONDS:g} s") from None

    async def _listen(self, stub: "ExternalScalerAsyncStub", target: Target) -> None:
        metadata = self._metadata[target.name]
        reference = pb.ScaledObjectRef(
            name=target.name, namespace=NAMESPACE, scalerMetadata=metadata
        )
        async for state in stub.StreamIsActive(reference, wait_for_ready=True):
            target.hears(active=state.result)

    def _check(self) -> None:
        for task in self._tasks:
            if task.done():
                raise EdgeError(f"a stream ended: {task.exception() or 'with OK'}")


class Reporter:
    """Posts reports to one server."""

    def __init__(self, session: aiohttp.ClientSession, port: int) -> None:
        self._session = session
        self._url = f"http://{HOST}:{port}/v1/reports"

    async def state(self, waiting: int, *names: str) -> None:
        """State how many requests wait for each.

        Raises:
            EdgeError: when that is not accepted.

        """
        given = {"namespace": NAMESPACE, "waiting": waiting, "ttlSeconds": 3600}
        reports = [{**given, "name": name} for name in names]
        body = reports[0] if len(reports) == 1 else reports
        headers = {"Authorization": f"Bearer {TOKEN}"}
        try:
            async with self._session.post(self._url, json=body, headers=headers) as answer:
                if answer.status != 200:
                    raise EdgeError(f"HTTP {answer.status}: {(await answer.text())[:200]}")
                await answer.read()
        except (aiohttp.ClientError, OSError) as error:
            raise EdgeError(f"no report can be posted: {error!r}") from error


class GatewayPage:
    """An endpoint picker's page with a queue for each target. Knows when each number was read."""

    def __init__(self, names: list[str]) -> None:
        self.port = 0
        self._held = dict.fromkeys(names, 0)
        self._read: dict[str, asyncio.Future[float]] = {}

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Self]:
        """Serve it, while inside."""
        app = web.Application()
        app.router.add_get("/metrics", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, HOST, 0).start()
            self.port = runner.addresses[0][1]
            yield self
        finally:
            await runner.cleanup()

    def hold(self, name: str, number: int) -> "asyncio.Future[float]":
        """Let so many requests be held; give what becomes the time at which that is first read."""
        self._held[name] = number
        self._read[name] = read = asyncio.get_running_loop().create_future()
        return read

    async def _answer(self, _: web.Request) -> web.Response:
        for read in self._read.values():
            read.set_result(now())
        self._read.clear()
        lines = (
            f'llm_d_epp_flow_control_queue_size{{target_model_name="{name}"}} {number}\n'
            for name, number in self._held.items()
        )
        return web.Response(text="llm_d_epp_ready_endpoints 0\n" + "".join(lines))


async def by_reports(targets: Targets, reporter: Reporter, edges: int) -> list[float]:
    """Wake by reports, one after the other; give seconds from the POST to the message."""
    seconds = []
    for _ in range(edges):
        target = await targets.rested()
        woken = target.expect()
        began = now()
        await reporter.state(1, target.name)
        seconds.append(await _awaited(woken, target) - began)
        await reporter.state(0, target.name)
        await asyncio.sleep(random.uniform(0, _LOOK_SECONDS))
    return seconds


async def by_page(
    targets: Targets, page: GatewayPage, edges: int
) -> tuple[list[float], list[float]]:
    """Wake by a gateway's page, at any time; give seconds to the message.

    First those from the change of the page, then those from the poll that first reads it.
    """
    from_change, from_poll = [], []

    async def wake(target: Target, woken: "asyncio.Future[float]") -> None:
        began = now()
        read = page.hold(target.name, 1)
        at = await _awaited(woken, target)
        from_change.append(at - began)
        from_poll.append(at - read.result())
        page.hold(target.name, 0)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(edges):
                target = await targets.rested()
                group.create_task(wake(target, target.expect()))
                await asyncio.sleep(random.uniform(0, 2 * GAP_SECONDS))
    except* EdgeError as errors:
        raise errors.exceptions[0] from None
    return from_change, from_poll


async def _awaited(woken: "asyncio.Future[float]", target: Target) -> float:
    try:
        async with asyncio.timeout(EDGE_SECONDS):
            return await woken
    except TimeoutError:
        raise EdgeError(f"{target.name} was not woken within {EDGE_SECONDS:g} s") from None


def now() -> float:
    """Give the time of all that is measured, in seconds. A loop's own clock counts milliseconds."""
    return time.perf_counter()
