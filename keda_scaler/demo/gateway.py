"""A simulated gateway: holds requests until a replica has room for them.

    GET  /metrics              what it holds and has handed on, as llm-d's endpoint picker says it
    POST /v1/chat/completions  passed on to a replica, and its answer passed back as it comes

Rule: a request is held, under way at one replica, served, or lost; it is never counted twice. One
whose client goes away is lost.
"""

import asyncio
import collections
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import web

from keda_scaler.demo.deployment import HOST, Pod
from keda_scaler.demo.plan import SERVICE, StackPlan
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

_Answer = aiohttp.ClientResponse
_JSON = {"Content-Type": "application/json"}

_MAX_CONNECTIONS = 256
"""To replicas."""


@dataclass(slots=True, eq=False)
class _Place:
    """Where a request is, and what has become of it."""

    pod: Pod | None = None
    """None: it is held."""

    handed_on: asyncio.Event = field(default_factory=asyncio.Event)
    loss: str = "the client went away"
    """Why it is lost if it ends now; empty: it is served."""


class Gateway:
    """The gateway; an async context manager."""

    def __init__(self, plan: StackPlan, ready: Callable[[], Sequence[Pod]]) -> None:
        self.arrived = 0
        self.served = 0
        self.losses: collections.Counter[str] = collections.Counter()
        """Requests that no replica answered, by what went wrong."""
        self.port = 0
        """Of the page and of the API, once entered."""
        self._plan = plan
        self._ready = ready
        self._held: collections.deque[_Place] = collections.deque()
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
        app.router.add_post("/v1/chat/completions", self._pass_on)
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=_SHUTDOWN_SECONDS
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, 0).start()
        self.port = self._runner.addresses[0][1]
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_MAX_CONNECTIONS),
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

    @property
    def url(self) -> str:
        """Where clients ask, once entered."""
        return f"http://{HOST}:{self.port}"

    def submit(self, request: Request) -> None:
        """Let a request arrive whose client does not read the answer."""
        task = asyncio.create_task(self._send(request, self._arrive()), name="request")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def hand_on(self) -> None:
        """Give held requests to the replicas that have the fewest, as long as one has room."""
        while self._held:
            free = [pod for pod in self._ready() if pod.under_way < self._plan.places]
            if not free:
                return
            place = self._held.popleft()
            place.pod = min(free, key=lambda pod: pod.under_way)
            place.pod.under_way += 1
            place.handed_on.set()

    def _arrive(self) -> _Place:
        self.arrived += 1
        place = _Place()
        self._held.append(place)
        self.hand_on()
        return place

    @asynccontextmanager
    async def _replica(self, place: _Place) -> AsyncIterator[None]:
        """Wait for a request's replica, and count what becomes of the request.

        A replica that does not answer is no error: what is done with it then ends early.
        """
        try:
            await place.handed_on.wait()
            yield
        except (aiohttp.ClientError, OSError) as error:
            assert place.pod is not None
            place.loss = f"{place.pod.name}: {type(error).__name__}"
        finally:
            self._leave(place)

    def _leave(self, place: _Place) -> None:
        if place.loss:
            self.losses[place.loss] += 1
        else:
            self.served += 1
        if place.pod is not None:
            place.pod.finish_one()
        elif place in self._held:
            self._held.remove(place)
        self.hand_on()

    @asynccontextmanager
    async def _post(self, place: _Place, path: str, body: bytes) -> AsyncIterator[_Answer]:
        """Ask the replica that has the request."""
        assert self._session is not None
        assert place.pod is not None
        url = place.pod.engine.url + path
        async with self._session.post(url, data=body, headers=_JSON) as answer:
            yield answer
        is_good = answer.status == 200
        place.loss = "" if is_good else f"{place.pod.name} answered HTTP {answer.status}"

    async def _send(self, request: Request, place: _Place) -> None:
        body = {"prompt_tokens": request.prompt_tokens, "max_tokens": request.output_tokens}
        async with (
            self._replica(place),
            self._post(place, "/v1/completions", json.dumps(body).encode()) as answer,
        ):
            await answer.read()

    async def _pass_on(self, http: web.Request) -> web.StreamResponse:
        body = await http.read()
        place = self._arrive()
        passed = web.StreamResponse()
        async with self._replica(place), self._post(place, http.path, body) as answer:
            passed.set_status(answer.status)
            passed.content_type = answer.content_type
            await passed.prepare(http)
            async for data in answer.content.iter_any():
                await passed.write(data)
        if passed.prepared:  # cut off, if the answer was
            return passed
        return web.Response(status=502, text="the replica does not answer\n")

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
