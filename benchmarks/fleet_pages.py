"""The metrics pages that the scaler reads meanwhile: a recorded vLLM whose queue never stays.

Below /gateway it is that of an endpoint picker in front, with as many requests. SIGUSR2 has every
page tell of no request at all; again, and there are some.
"""

import asyncio
import random
import re
import signal
from pathlib import Path

import uvloop
from aiohttp import web

_PAGE = Path(__file__).parents[1] / "tests" / "captures" / "vllm-0.32.0__busy-queue.prom"
_GAUGE = re.compile(r"^(vllm:num_requests_(?:waiting|running)\{[^}]*\}) \S+$", re.MULTILINE)
_GATEWAY = """\
llm_d_epp_ready_endpoints 1
llm_d_epp_flow_control_queue_size{{inference_pool="llama",model_name="simulated-llm"}} 0
llm_d_epp_request_running{{model_name="simulated-llm",target_model_name="simulated-llm"}} {}
"""
_MOST, _CROWDED = 5, 20
"""Requests that wait, or run: what one replica is enough for, and on every tenth page, what it is
not."""


class Pages:
    """Any number of pages, by any path."""

    def __init__(self) -> None:
        self._template = _PAGE.read_text().replace("tiny-llama", "simulated-llm")
        self._chance = random.Random(5)
        self._is_quiet = False

    def quiet(self) -> None:
        """Tell of no request, or again of some."""
        self._is_quiet = not self._is_quiet

    async def get(self, request: web.Request) -> web.Response:
        """Give a page."""
        most = _CROWDED if request.match_info["path"].startswith("0") else _MOST
        number = 0 if self._is_quiet else self._chance.randint(1, most)
        if request.match_info["path"].startswith("gateway"):
            return web.Response(text=_GATEWAY.format(number))
        return web.Response(text=_GAUGE.sub(rf"\1 {number}.0", self._template))


async def _serve() -> None:
    pages = Pages()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR2, pages.quiet)
    app = web.Application()
    app.router.add_get("/{path:.*}", pages.get)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"pages            127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve())
