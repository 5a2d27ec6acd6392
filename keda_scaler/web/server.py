"""The HTTP server: /metrics, /healthz, /readyz, /v1/reports, and what shows targets."""

import asyncio
from collections.abc import Callable, Sequence

from aiohttp import web

from keda_scaler.errors import SettingsError
from keda_scaler.telemetry import Telemetry
from keda_scaler.web.reports import MAX_BODY_BYTES, ReportsApi, not_enabled

SCRAPE_SECONDS = 30.0
"""How long reading /metrics may take: longer than Prometheus waits by default."""


class WebServer:
    """Serves until it is stopped."""

    def __init__(
        self,
        address: str,
        telemetry: Telemetry,
        is_ready: Callable[[], bool],
        reports: ReportsApi | None = None,
        routes: Sequence[web.RouteDef] = (),
    ) -> None:
        """Take where to listen, and what answers; `reports` is None where none are taken."""
        self._address = address
        self._telemetry = telemetry
        self._is_ready = is_ready
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_post("/v1/reports", reports.post if reports else not_enabled)
        app.add_routes(routes)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            shutdown_timeout=1.0,
            auto_decompress=False,  # a small body must not become a large one
        )
        self.port = 0

    async def start(self) -> None:
        """Begin to answer.

        Raises:
            SettingsError: when the address cannot be listened on.

        """
        host, _, port = self._address.rpartition(":")
        await self._runner.setup()
        site = web.TCPSite(self._runner, host.strip("[]"), int(port))
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise SettingsError(
                f"--http-address: cannot listen on {self._address}: {error.strerror}"
            ) from error
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop answering."""
        await self._runner.cleanup()

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        """Give our own metrics. Who is too slow for them gets no end: half a page is no page."""
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        response = web.StreamResponse(headers=headers)
        try:
            async with asyncio.timeout(SCRAPE_SECONDS):
                await response.prepare(request)
                async for piece in self._telemetry.exposition():
                    await response.write(piece)
                await response.write_eof()
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
        return response

    async def _healthz(self, _: web.Request) -> web.Response:
        """Liveness: the event loop turns. Never whether anything upstream answers."""
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        ready = self._is_ready()
        return web.Response(text="ok\n" if ready else "stopping\n", status=200 if ready else 503)
