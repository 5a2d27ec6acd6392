"""A simulated engine behind HTTP: vLLM's metrics page, its completions, and a switch for failures.

    GET  /metrics              the page, or what the failure mode makes of it
    GET  /health               200
    POST /v1/completions       {"prompt"?, "prompt_tokens"?, "max_tokens"?}; answers when it is done
    POST /v1/chat/completions  {"messages", "stream"?, ...}; a stream answers with every token
    POST /control              {"mode"?, "load"?: {"requests", "prompt_tokens"?, "output_tokens"?}}

Nothing runs while nothing is asked: the engine is moved to the present when a page is read or a
request arrives or leaves, and a timer is set only while a completion is being waited for: until one
is over or, where there are streams, until the next token.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from enum import StrEnum
from types import TracebackType
from typing import Any, Self, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from keda_scaler.sim.engine import Engine, EngineState
from keda_scaler.sim.model import EngineModel
from keda_scaler.sim.openai import MAX_TOKENS, STREAM_END, Chat, Completion, chat, chunk, completion
from keda_scaler.sim.page import CONTENT_TYPE, render, render_without_engine
from keda_scaler.sim.requests import Finished, QueueFullError, Request

_MAX_BODY = 256 * 1024
"""Bytes of a request's body; more than any prompt worth simulating."""

_MIN_TIMER = 0.005
"""Seconds between two looks at the engine for completions; what a finish may be late."""

_SHUTDOWN_SECONDS = 1.0
"""For answers under way when the server closes; hanging ones are let go first."""

_CLOSING = "the server is closing"


class FailureMode(StrEnum):
    """What is wrong with the metrics page. The value is what /control takes."""

    OK = "ok"
    HANG = "hang"
    """No answer until another mode is set, or the server closes."""

    ERROR = "error"
    """Status 500."""

    GARBAGE = "garbage"
    """Status 200 and the right content type, but not an exposition."""

    NO_FAMILIES = "no-families"
    """A page without any vllm: family, as with --disable-log-stats."""

    FREEZE = "freeze"
    """Gauges keep their values; counters and histograms go on."""


class _Load(BaseModel):
    """Requests that all arrive at once."""

    model_config = ConfigDict(extra="forbid")

    requests: int = Field(ge=1, le=10_000)
    prompt_tokens: int = Field(default=100, ge=1, le=MAX_TOKENS)
    output_tokens: int = Field(default=100, ge=1, le=MAX_TOKENS)


class _Control(BaseModel):
    """The body of /control."""

    model_config = ConfigDict(extra="forbid")

    mode: FailureMode | None = None
    load: _Load | None = None


_Body = TypeVar("_Body", bound=BaseModel)
_Waiter = asyncio.Future[Finished | None]
"""Gets the end of a request; None: the server closes."""

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class SimulatedEngine:
    """One simulated engine and its HTTP server; an async context manager.

    Use it from the event loop's thread only. Port 0 takes a free one; `port` and `url` tell which.
    """

    def __init__(
        self, model: EngineModel | None = None, *, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.model = model or EngineModel()
        self.port = port
        """The real one, once entered."""

        self._host = host
        self._engine = Engine(self.model, self._on_finish)
        self._mode = FailureMode.OK
        self._answering = asyncio.Event()  # not set while metrics requests hang
        self._answering.set()
        self._frozen: EngineState | None = None  # what a frozen page shows; None in other modes
        self._started = time.time()
        self._waiters: dict[int, _Waiter] = {}
        self._streams = 0  # how many of the waiters want every token
        self._moved = asyncio.Event()  # set, and replaced, whenever there may be another token
        self._timer: asyncio.TimerHandle | None = None
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Where it serves, such as http://127.0.0.1:8000."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self.port}"

    @property
    def mode(self) -> FailureMode:
        """What is wrong with the metrics page now."""
        return self._mode

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=_MAX_BODY, middlewares=[_refuse])
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/health", self._health)
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/control", self._control)
        # A client that goes away cancels its handler, and so aborts its request.
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=_SHUTDOWN_SECONDS,
        )
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self.port).start()
        except BaseException:
            await self._runner.cleanup()
            raise
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._answering.set()
        if self._timer is not None:
            self._timer.cancel()
        for waiter in self._waiters.values():
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()
        self._let_streams_look()
        if self._runner is not None:
            await self._runner.cleanup()

    def submit(self, request: Request) -> int:
        """Let a request arrive now, and give its id.

        Raises:
            ValueError: it is larger than the KV cache.
            QueueFullError: too many wait already.

        """
        return self._engine.submit(request, _now())

    def submit_all(self, request: Request, times: int) -> int:
        """Let the same request arrive so many times at once; give how many were taken.

        Raises:
            ValueError: it is larger than the KV cache.

        """
        now = _now()
        taken = 0
        with contextlib.suppress(QueueFullError):
            for _ in range(times):
                self._engine.submit(request, now)
                taken += 1
        return taken

    def abort(self, request_id: int) -> bool:
        """End a request now; False when there is no such request any more."""
        return self._engine.abort(request_id, _now())

    def set_mode(self, mode: FailureMode) -> None:
        """Switch what is wrong with the metrics page; requests that hang are answered."""
        self._mode = mode
        self._frozen = self.state() if mode is FailureMode.FREEZE else None
        if mode is FailureMode.HANG:
            self._answering.clear()
        else:
            self._answering.set()

    def state(self) -> EngineState:
        """Tell the engine's state now, whatever the page says."""
        self._engine.advance(_now())
        return self._engine.state()

    async def _metrics(self, _: web.Request) -> web.Response:
        while not self._answering.is_set():
            await self._answering.wait()
        match self._mode:
            case FailureMode.ERROR:
                return web.Response(status=500, text="the simulated engine fails on request\n")
            case FailureMode.GARBAGE:
                body = b'<html>\nvllm:num_requests_waiting{engine="0" is not a sample\n</html>\n'
            case FailureMode.NO_FAMILIES:
                body = render_without_engine(self._started)
            case FailureMode.OK | FailureMode.FREEZE | FailureMode.HANG:  # hang: it is closing
                body = render(self.model, self._shown(), self._started)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})

    def _shown(self) -> EngineState:
        state = self.state()
        if self._frozen is None:
            return state
        return replace(
            state,
            waiting=self._frozen.waiting,
            running=self._frozen.running,
            blocks=self._frozen.blocks,
            kv_cache_usage=self._frozen.kv_cache_usage,
        )

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _complete(self, http: web.Request) -> web.StreamResponse:
        asked = await _parse(http, Completion)
        with self._waiting_for(asked.to_request()) as (_, waiter):
            return self._whole(completion, await waiter)

    async def _chat(self, http: web.Request) -> web.StreamResponse:
        asked = await _parse(http, Chat)
        with self._waiting_for(asked.to_request()) as (request_id, waiter):
            if asked.stream:
                return await self._stream(http, request_id, waiter)
            return self._whole(chat, await waiter)

    @contextlib.contextmanager
    def _waiting_for(self, request: Request) -> Iterator[tuple[int, _Waiter]]:
        """Submit a request, give its id and what its end is told to; abort it if it is left."""
        request_id = self.submit(request)
        waiter: _Waiter = asyncio.get_running_loop().create_future()
        self._waiters[request_id] = waiter
        self._set_timer()
        try:
            yield request_id, waiter
        finally:
            if self._waiters.pop(request_id, None) is not None:  # the client is gone
                self.abort(request_id)

    def _whole(
        self, answer: Callable[[str, Finished], dict[str, Any]], finished: Finished | None
    ) -> web.Response:
        if finished is None:
            return _error(503, _CLOSING)
        return web.json_response(answer(self.model.name, finished))

    async def _stream(
        self, http: web.Request, request_id: int, waiter: _Waiter
    ) -> web.StreamResponse:
        """Send tokens as they come. The status is sent with the first, as in vLLM."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        sent = 0
        self._streams += 1
        self._set_timer()
        try:
            while True:
                moved = self._moved
                finished = waiter.result() if waiter.done() else None
                if waiter.done() and finished is None:
                    return response if response.prepared else _error(503, _CLOSING)
                there = finished.generated if finished else self._engine.generated(request_id)
                if there == sent and not finished:
                    await moved.wait()
                    continue
                if not response.prepared:
                    await response.prepare(http)
                reason = finished.reason if finished else None
                await response.write(chunk(self.model.name, request_id, there - sent, reason))
                sent = there
                if finished:
                    await response.write(STREAM_END)
                    return response
        finally:
            self._streams -= 1

    async def _control(self, http: web.Request) -> web.Response:
        control = await _parse(http, _Control)
        if control.load is not None:
            request = Request(control.load.prompt_tokens, control.load.output_tokens)
            self.submit_all(request, control.load.requests)
        if control.mode is not None:
            self.set_mode(control.mode)
        state = self.state()
        return web.json_response(
            {"mode": self.mode, "waiting": state.waiting, "running": state.running}
        )

    def _on_finish(self, finished: Finished) -> None:
        waiter = self._waiters.pop(finished.id, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(finished)

    def _set_timer(self) -> None:
        """Look at the engine when the next request may be over, while a client waits for one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._engine.next_step() if self._streams else self._engine.next_finish()
        if self._waiters and due is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(due, loop.time() + _MIN_TIMER), self._tick)

    def _tick(self) -> None:
        self._engine.advance(_now())
        self._let_streams_look()
        self._set_timer()

    def _let_streams_look(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()


def _now() -> float:
    """Give the loop's time: that of the engine."""
    return asyncio.get_running_loop().time()


async def _parse(http: web.Request, kind: type[_Body]) -> _Body:
    """Read a JSON body; `_refuse` answers for what cannot be read."""
    return kind.model_validate_json(await http.read())


@web.middleware
async def _refuse(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Answer for what cannot be read, or cannot be taken."""
    try:
        return await handler(request)
    except QueueFullError as error:
        return _error(503, str(error))
    except ValidationError as error:
        problems = (
            f"{'.'.join(map(str, each['loc'])) or 'body'}: {each['msg']}" for each in error.errors()
        )
        return _error(400, "; ".join(problems))
    except ValueError as error:
        return _error(400, str(error))


def _error(status: int, text: str) -> web.Response:
    return web.json_response({"error": {"message": text}}, status=status)
