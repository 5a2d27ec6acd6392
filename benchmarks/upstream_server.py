"""What the scaler reads, directly or through Prometheus: a fleet's pods, and pages of one engine.

`/pods/PART` is what a Prometheus scrapes with honor_labels: `PODS_OF_A_PAGE` pods of vLLM with the
labels that Kubernetes' discovery gives them, and an `up` for each. `/page/NUMBER` is a page that
vLLM printed.
"""

import argparse
import asyncio
from collections.abc import Iterator
from pathlib import Path

import uvloop
from aiohttp import web

HOST = "127.0.0.1"
PODS_OF_A_PAGE = 1000
PODS_OF_A_NAMESPACE = 25

_PAGE = Path(__file__).parent.parent / "tests" / "captures" / "vllm-0.32.0__busy-queue.prom"
_COUNTED = ("stop", "length", "abort", "error")
_SLEEP = ("awake", "weights_offloaded", "discard_all")


def namespace_of(pod: int) -> str:
    """Name the namespace of a pod."""
    return f"team-{pod // PODS_OF_A_NAMESPACE}"


def model_of(pod: int) -> str:
    """Name the model that a pod serves, alone."""
    return f"llama-{pod}"


def queue_of(pod: int) -> int:
    """Tell how many requests wait at a pod, always."""
    return pod % 7 + 1


def _lines(pod: int) -> Iterator[str]:
    """Write the series of a pod that the scaler asks for."""
    scraped = (
        f'namespace="{namespace_of(pod)}",pod="{model_of(pod)}-0",container="vllm",'
        f'endpoint="http",instance="10.{pod >> 16}.{pod >> 8 & 255}.{pod & 255}:8000",job="vllm",'
        f'service="{model_of(pod)}"'
    )
    own = f'{scraped},model_name="{model_of(pod)}",engine="0"'
    yield f"up{{{scraped}}} 1"
    yield f"vllm:num_requests_waiting{{{own}}} {queue_of(pod)}"
    yield f"vllm:num_requests_running{{{own}}} 4"
    yield f"vllm:kv_cache_usage_perc{{{own}}} 0.5"
    yield f"vllm:prompt_tokens_total{{{own}}} {pod}"
    yield f"vllm:generation_tokens_total{{{own}}} {pod}"
    yield from (f'vllm:request_success_total{{{own},finished_reason="{e}"}} 1' for e in _COUNTED)
    yield from (
        f'vllm:engine_sleep_state{{{own},sleep_state="{e}"}} {int(e == "awake")}' for e in _SLEEP
    )


class Fleet:
    """Serves them, and counts who reads."""

    def __init__(self, pods: int) -> None:
        self._parts = [
            "\n".join(
                line
                for pod in range(start, min(start + PODS_OF_A_PAGE, pods))
                for line in (*_lines(pod),)
            )
            + "\n"
            for start in range(0, pods, PODS_OF_A_PAGE)
        ]
        self._page = _PAGE.read_bytes()

    async def part(self, request: web.Request) -> web.Response:
        """Give the pods of one part of the fleet."""
        return web.Response(text=self._parts[int(request.match_info["part"])])

    async def page(self, _: web.Request) -> web.Response:
        """Give the page."""
        return web.Response(body=self._page, content_type="text/plain", charset="utf-8")


async def _serve(pods: int) -> None:
    fleet = Fleet(pods)
    app = web.Application()
    app.router.add_get("/pods/{part}", fleet.part)
    app.router.add_get("/page/{number}", fleet.page)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0).start()
    print(f"pages {HOST}:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pods", type=int)
    uvloop.run(_serve(parser.parse_args().pods))
