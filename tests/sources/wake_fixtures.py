"""What the tests of wake sources share: a gateway's page, and a sink that writes down."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

from aiohttp import web

from keda_scaler.core.addresses import AddressRules
from keda_scaler.core.readings import Demand, Missing
from keda_scaler.core.trigger import Accepts, Trigger, parse_trigger
from keda_scaler.sources.sink import WakeSink

LOOPBACK = AddressRules.parse(["127.0.0.0/8", "localhost"])


def wake_trigger(keys: Mapping[str, str], rules: AddressRules = LOOPBACK) -> Trigger:
    """Parse a trigger that wakes from an EPP, unless it says otherwise."""
    given = {"wakeFrom": "epp", "pollSeconds": "1", "staleSeconds": "5", **keys}
    if not {"service", "prometheus", "serverAddress"} & set(given):
        given["service"] = "llama"
    return parse_trigger(given, Accepts(frozenset({"main"}), rules))


def queue(number: float, model: str = "llama") -> str:
    """Write the page of an EPP that holds so many requests."""
    return (
        "llm_d_epp_ready_endpoints 0\n"
        f'llm_d_epp_flow_control_queue_size{{target_model_name="{model}"}} {number}\n'
    )


def incoming(**models: int) -> str:
    """Write the page of a router of production-stack: how many requests came for each model."""
    rows = "".join(
        f'vllm:num_incoming_requests_total{{model="{model}"}} {number}\n'
        for model, number in models.items()
    )
    return "# TYPE vllm:num_incoming_requests_total counter\nrouter_cpu_usage_percent 1\n" + rows


class GatewayPage:
    """A gateway's page on a port of its own; counts who reads it."""

    def __init__(self, body: str) -> None:
        self.body = body
        self.status = 200
        self.port = 0
        self.fetches: list[float] = []
        """When it was read, in monotonic seconds."""
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Serve."""
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Refuse connections from now on."""
        await self._runner.cleanup()

    async def _answer(self, _: web.Request) -> web.Response:
        self.fetches.append(time.monotonic())
        return web.Response(text=self.body, status=self.status)


@contextlib.asynccontextmanager
async def page(body: str) -> AsyncIterator[GatewayPage]:
    """Serve a page while inside."""
    served = GatewayPage(body)
    await served.start()
    try:
        yield served
    finally:
        await served.stop()


@dataclass(eq=False)
class WakeNotebook:
    """A sink of a wake source that writes down what it is told."""

    is_waking: bool = True
    told: list[Demand | Missing] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def demanded(self, demand: Demand | Missing, doubt: str | None = None) -> None:
        self.told.append(demand)
        self.news.set()

    @property
    def reason(self) -> str:
        """Why nothing is known; empty when something is, or nothing was said."""
        last = self.told[-1] if self.told else None
        return last.reason if isinstance(last, Missing) else ""

    @property
    def held(self) -> float | None:
        """How many requests are held; None: unknown."""
        last = self.told[-1] if self.told else None
        return last.held if isinstance(last, Demand) else None

    @property
    def arrivals(self) -> int:
        """How often requests have arrived."""
        return sum(isinstance(each, Demand) and each.arrived for each in self.told)

    async def until(self, condition: Callable[[], bool], seconds: float = 10) -> None:
        """Wait until something holds; it is looked at whenever something is told."""
        async with asyncio.timeout(seconds):
            while not condition():
                self.news.clear()
                await self.news.wait()


def _is_a_sink(notebook: WakeNotebook) -> WakeSink:
    return notebook  # for the type checker
