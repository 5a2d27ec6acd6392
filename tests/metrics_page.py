"""A metrics page that a test serves."""

import asyncio
from pathlib import Path

from aiohttp import web

CAPTURES = Path(__file__).parent / "captures"


def capture(state: str) -> str:
    """Give a page that was recorded from vLLM 0.32.0."""
    return (CAPTURES / f"vllm-0.32.0__{state}.prom").read_text()


class Page:
    """A metrics page on a port of its own."""

    def __init__(self, body: str) -> None:
        self.body = body
        self.address = ""
        self.hangs = asyncio.Event()
        """While set, requests are accepted and not answered."""
        app = web.Application()
        app.router.add_get("/metrics", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{self.address}/metrics"

    async def start(self) -> None:
        """Serve."""
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.address = f"{host}:{port}"

    async def stop(self) -> None:
        """Refuse connections from now on."""
        await self._runner.cleanup()

    async def _answer(self, _: web.Request) -> web.Response:
        if self.hangs.is_set():
            await asyncio.Event().wait()
        return web.Response(text=self.body)
