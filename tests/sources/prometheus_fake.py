"""A Prometheus that does what a real one cannot be made to do on demand."""

import asyncio
import re
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Any, Self

from aiohttp import web

from keda_scaler.sources.promapi import SETTLED_SECONDS

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]

POD = {"namespace": "models", "pod": "pod-0", "instance": "10.0.0.1:8000", "job": "vllm"}


class FakePrometheus:
    """Answers queries as a Prometheus with one busy vLLM replica, or as `answer` says instead."""

    def __init__(self, certificate: ssl.SSLContext | None = None) -> None:
        self._certificate = certificate
        app = web.Application()
        app.router.add_get("/api/v1/query", self._query)
        app.router.add_post("/api/v1/query", self._posted)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        self.url = ""
        self.answer: Answer | None = None
        self.requests: list[web.Request] = []
        self.clock_ahead = 0.0
        """By how many seconds its clock is ahead of ours."""

        self.scraped_ago = 0.5
        """How many seconds ago it scraped last."""

        self.silent = False
        """Whether the engine's page has no series any more."""

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._certificate).start()
        scheme = "https" if self._certificate else "http"
        self.url = f"{scheme}://localhost:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._runner.cleanup()

    @property
    def queries(self) -> list[str]:
        """The queries that were asked, in order."""
        return [request.query["query"] for request in self.requests]

    async def _query(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        return await (self.answer or self._as_prometheus)(request)

    async def _posted(self, request: web.Request) -> web.StreamResponse:
        """Take a query in a form for one in the URL."""
        form = {name: str(value) for name, value in (await request.clone().post()).items()}
        return await self._query(request.clone(rel_url=request.rel_url.with_query(form)))

    async def _as_prometheus(self, request: web.Request) -> web.StreamResponse:
        query = request.query["query"]
        now = time.time() + self.clock_ahead
        scraped = now - self.scraped_ago
        if query.startswith("max(timestamp(up))"):
            return success(pinned(now, scraped))
        if query.startswith("up{"):
            return vector(POD, now, 1)
        if query.startswith("last_over_time("):
            return series(query, [("value", [now, "12"])])
        fresh = [("values", [[scraped - 1, "7"], [scraped, "12"]])]
        return series(query, [] if self.silent else fresh)


def pinned(now: float, scraped: float, *, young: bool = False) -> list[dict[str, Any]]:
    """Give when the newest scrape was, and when it was as of four minutes ago."""
    before = {"metric": {"when": "before"}, "value": [now, str(scraped - SETTLED_SECONDS)]}
    return [{"metric": {}, "value": [now, str(scraped)]}, *([] if young else [before])]


def vector(labels: dict[str, str], now: float, number: float) -> web.Response:
    """Answer with one series."""
    return success([{"metric": labels, "value": [now, str(number)]}])


def series(query: str, samples: list[tuple[str, list[Any]]]) -> web.Response:
    """Answer with the engine's series for waiting and running requests, as far as asked for."""
    names = ("vllm:num_requests_waiting", "vllm:num_requests_running")
    labels = POD | {"model_name": "llama", "engine": "0"}
    return success(
        [
            {"metric": labels | {"__name__": name}, key: value}
            for name in names
            if name in re.split('["|]', query)
            for key, value in samples
        ]
    )


def success(result: Any, **more: Any) -> web.Response:
    """Answer as the API does."""
    return web.json_response({"status": "success", "data": {"result": result}} | more)


def always(text: str | bytes, status: int = 200, **headers: str) -> Answer:
    """Give the same to everybody."""

    async def answer(_: web.Request) -> web.StreamResponse:
        body = text.encode() if isinstance(text, str) else text
        return web.Response(body=body, status=status, headers=headers)

    return answer


async def hang(_: web.Request) -> web.StreamResponse:
    """Never answer."""
    await asyncio.Event().wait()
    raise AssertionError


async def drip(request: web.Request) -> web.StreamResponse:
    """Answer one byte at a time, for ever."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.02)


async def flood(request: web.Request) -> web.StreamResponse:
    """Answer with 33 MiB."""
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(33):
        await response.write(b" " * 2**20)
    return response
