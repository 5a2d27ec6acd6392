"""A simulated gateway: holds requests until a replica has room for them.

Rule: a request is held, under way at one replica, served, or lost; it is never counted twice. The
page has the names of llm-d's endpoint picker: what it holds, and what it has handed on.
"""

import asyncio
import collections
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import web

from keda_scaler.demo.deployment import HOST, Pod
from keda_scaler.demo.plan import SERVICE, Plan
from keda_scaler.sim.requests import Request

_PAGE = """\
# HELP llm_d_epp_flow_control_queue_size Requests that are held until a replica has room.
# TYPE llm_d_epp_flow_control_queue_size gauge
llm_d_epp_flow_control_queue_size{{{labels},inference_pool="{pool}",priority="0"}} {held}
# HELP llm_d_epp_request_running Requests that replicas have.
# TYPE llm_d_epp_request_running gauge
llm_d_epp_request_running{{{labels}}} {handed_on}
# HELP llm_d_epp_ready_endpoints Replicas that are ready.
# TYPE llm_d_epp_ready_endpoints gauge
llm_d_epp_ready_endpoints{{name="{pool}"}} {ready}
"""

_SHUTDOWN_SECONDS = 1.0
"""For answers under way when the server closes."""


class Gateway:
    """The gateway and its page; an async context manager."""

    def __init__(self, plan: Plan, ready: Callable[[], Sequence[Pod]]) -> None:
        self.arrived = 0
        self.served = 0
        self.losses: collections.Counter[str] = collections.Counter()
        """Requests that no replica answered, by what went wrong."""
        self.port = 0
        """Of the page, once entered."""
        self._plan = plan
        self._ready = ready
        self._held: collections.deque[Request] = collections.deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession | None = None
        self._runner: web.AppRunner | None = None

    @property
    def held(self) -> int:
        """Requests that no replica has yet."""
        return len(self._held)

    @property
    def under_way(self) -> int:
        """Requests that came and were neither served nor lost yet, held ones included."""
        return self.arrived - self.served - self.losses.total()

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/metrics", self._page)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, 0).start()
        self.port = self._runner.addresses[0][1]
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=256),
            timeout=aiohttp.ClientTimeout(total=self._plan.limit_seconds),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._held.clear()  # else the requests that end now would make room for others
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
        if self._runner is not None:
            await self._runner.cleanup()

    def submit(self, request: Request) -> None:
        """Let a request arrive."""
        self.arrived += 1
        self._held.append(request)
        self.hand_on()

    def hand_on(self) -> None:
        """Give held requests to the replicas that have the fewest, as long as one has room."""
        while self._held:
            free = [pod for pod in self._ready() if pod.under_way < self._plan.places]
            if not free:
                return
            pod = min(free, key=lambda pod: pod.under_way)
            pod.under_way += 1
            task = asyncio.create_task(self._send(self._held.popleft(), pod), name="request")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _send(self, request: Request, pod: Pod) -> None:
        assert self._session is not None
        body = {"prompt_tokens": request.prompt_tokens, "max_tokens": request.output_tokens}
        try:
            async with self._session.post(f"{pod.engine.url}/v1/completions", json=body) as answer:
                await answer.read()
                if answer.status == 200:
                    self.served += 1
                else:
                    self.losses[f"{pod.name} answered HTTP {answer.status}"] += 1
        except (aiohttp.ClientError, OSError) as error:
            self.losses[f"{pod.name}: {type(error).__name__}"] += 1
        finally:
            pod.finish_one()
            self.hand_on()

    async def _page(self, _: web.Request) -> web.Response:
        model = self._plan.model.name
        text = _PAGE.format(
            labels=f'model_name="{model}",target_model_name="{model}"',
            pool=SERVICE,
            held=self.held,
            handed_on=self.under_way - self.held,
            ready=len(self._ready()),
        )
        return web.Response(text=text)
