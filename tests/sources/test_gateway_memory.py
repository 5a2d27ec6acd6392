"""What the reading of gateways through Prometheus remembers, against a Prometheus that lies."""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from keda_scaler.core.readings import Demand
from keda_scaler.sources import polls, promapi
from keda_scaler.sources.gateways import GatewaysSource
from keda_scaler.sources.kubernetes import ServiceDirectory
from keda_scaler.sources.prometheus import PrometheusServer, PrometheusSource
from prometheus_fake import FakePrometheus, pinned, success
from prometheus_sink import until
from wake_fixtures import LOOPBACK, WakeNotebook, wake_trigger

ROUTER = {"job": "router", "instance": "10.0.0.1:8000", "namespace": "models"}
COUNTER = ROUTER | {"__name__": "vllm:num_incoming_requests_total", "model": "llama"}
HEARTBEAT = ROUTER | {"__name__": "router_cpu_usage_percent"}


class Lying:
    """What a Prometheus says of one router."""

    def __init__(self, fake: FakePrometheus) -> None:
        self.fake = fake
        fake.answer = self._answer
        self.count: int | None = None
        """Of requests; None: there is no such series."""
        self.of_the_hour: int | None = None
        """The same, as of the last hour."""
        self.up: int | None = 1
        """None: it is scraped no more."""
        self.scraped_ago = 0.0
        """How many seconds ago it scraped this router last; others it scrapes all the time."""
        self.elsewhere = False
        """Whether another router of the same job is up, and was asked for no model yet."""

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        query = request.query["query"]
        now = time.time() + self.fake.clock_ahead
        scraped = now - self.fake.scraped_ago
        if query.startswith("max(timestamp(up))"):
            return success(pinned(now, scraped))
        if query.startswith("max by (job, instance) (up{"):
            found = []
            if self.up is not None:
                labels = {key: ROUTER[key] for key in ("job", "instance")}
                since = re.search(r">= bool ([0-9.]+)", query)
                is_new = since is None or now - self.scraped_ago >= float(since[1])
                found.append({"metric": labels, "value": [now, str(self.up * is_new)]})
            if self.up or self.elsewhere:
                found.append({"metric": {"job": "router"}, "value": [now, "1"]})
            return success(found)
        if query.startswith("last_over_time("):
            return success(self._series(self.of_the_hour, "value", [now]))
        if query.startswith("{"):
            window = float(query.rpartition("[")[2].removesuffix("s]"))
            is_there = self.scraped_ago <= window
            return success(self._series(self.count, "values", [scraped], is_there=is_there))
        return success([{"metric": {}, "value": [now, "3"]}])

    def _series(
        self, count: int | None, key: str, times: list[float], *, is_there: bool = True
    ) -> list[object]:
        found: list[tuple[dict[str, str], int]] = []
        if self.up and is_there:
            found.append((HEARTBEAT, 1))
        if self.elsewhere:
            found.append((HEARTBEAT | {"instance": "10.0.0.2:8000"}, 1))
        if count is not None and is_there:
            found.append((COUNTER, count))
        return [
            {"metric": labels, key: self._samples(number, key, times)} for labels, number in found
        ]

    def _samples(self, number: int, key: str, times: list[float]) -> object:
        samples = [[at, str(number)] for at in times]
        return samples if key == "values" else samples[0]


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a second be a tenth of one."""
    monkeypatch.setattr(polls, "WAKE_SECONDS", 0.1)
    monkeypatch.setattr(promapi, "PIN_SECONDS", 0.01)


@pytest.fixture
async def lying() -> AsyncIterator[Lying]:
    async with FakePrometheus() as fake:
        yield Lying(fake)


@contextlib.asynccontextmanager
async def source_of(lying: Lying) -> AsyncIterator[GatewaysSource]:
    lender = PrometheusSource({"main": PrometheusServer(lying.fake.url)}, LOOPBACK)
    directory = ServiceDirectory()
    source = GatewaysSource(LOOPBACK, directory, lender, lambda *_: None)
    yield source
    await source.aclose()
    await lender.aclose()
    await directory.aclose()


@contextlib.asynccontextmanager
async def reading(source: GatewaysSource, **keys: str) -> AsyncIterator[WakeNotebook]:
    given = {"prometheus": "main", "wakeFrom": "vllm-router", "model": "llama", **keys}
    sink = WakeNotebook()
    task = asyncio.create_task(source.run("models", "llama", wake_trigger(given), sink))
    try:
        yield sink
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def polled(sink: WakeNotebook) -> None:
    """Wait for two polls, the second of which began after now."""
    told = len(sink.told)
    await sink.until(lambda: len(sink.told) >= told + 2)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["alone", "beside another"])
async def test_a_gap_in_the_scrapes_is_no_birth(lying: Lying, elsewhere: bool) -> None:  # noqa: FBT001  # a parameter
    """A counter that comes back as it was after its router could not be scraped wakes nothing."""
    lying.count, lying.elsewhere = 5, elsewhere
    async with source_of(lying) as source, reading(source) as sink:
        await sink.until(lambda: sink.held == 0)
        lying.count, lying.up = None, 0
        await sink.until(lambda: sink.reason.startswith("Prometheus cannot scrape"))
        await polled(sink)
        lying.count, lying.up = 5, 1
        await sink.until(lambda: sink.held == 0)
        await polled(sink)
        assert sink.arrivals == 0
        lying.count = 6
        await sink.until(lambda: sink.arrivals == 1)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["alone", "beside another"])
async def test_a_router_that_was_not_scraped_again_yet_is_unknown(
    lying: Lying,
    elsewhere: bool,  # noqa: FBT001  # a parameter
) -> None:
    """Prometheus has begun anew, or its interval exceeds staleSeconds: `up` is of long ago too."""
    lying.count, lying.elsewhere = 5, elsewhere
    async with source_of(lying) as source, reading(source) as sink:
        await sink.until(lambda: sink.held == 0)
        lying.scraped_ago = 60.0
        await polled(sink)
        await sink.until(lambda: sink.reason.startswith("Prometheus cannot scrape"))
        lying.scraped_ago = 0.0
        await sink.until(lambda: sink.held == 0)
        await polled(sink)
        assert sink.arrivals == 0
        lying.count = 6
        await sink.until(lambda: sink.arrivals == 1)


async def test_requests_during_a_gap_show_later(lying: Lying) -> None:
    """What was counted while the router could not be scraped is an arrival afterwards."""
    lying.count = 5
    async with source_of(lying) as source, reading(source) as sink:
        await sink.until(lambda: sink.held == 0)
        lying.count, lying.up = None, 0
        await sink.until(lambda: sink.reason != "")
        lying.count, lying.up = 7, 1
        await sink.until(lambda: sink.arrivals == 1)


async def test_a_router_that_began_anew_is_forgotten(lying: Lying) -> None:
    """While it is up, a series that is gone is gone: its next birth is a request."""
    lying.count = 5
    async with source_of(lying) as source, reading(source) as sink:
        await sink.until(lambda: sink.held == 0)
        lying.count = None
        await polled(sink)
        assert (sink.held, sink.arrivals) == (0, 0)
        lying.count = 1
        await sink.until(lambda: sink.arrivals == 1)


async def test_a_new_target_looks_back_an_hour(lying: Lying) -> None:
    """A router that fell silent before is unknown; its counter is compared when it is back."""
    lying.of_the_hour, lying.up = 5, 0
    async with source_of(lying) as source, reading(source) as sink:
        await sink.until(lambda: sink.reason.startswith("Prometheus cannot scrape"))
        lying.count, lying.up = 5, 1
        await sink.until(lambda: sink.held == 0)
        await polled(sink)
    assert sink.arrivals == 0
    looks = [query for query in lying.fake.queries if query.startswith("last_over_time(")]
    assert len(looks) == len(set(looks)), "only once"


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_router_that_is_scraped_no_more(lying: Lying, elsewhere: bool) -> None:  # noqa: FBT001  # a parameter
    """It is unknown, unless another of its job is up and has taken its place."""
    lying.of_the_hour, lying.up, lying.elsewhere = 5, None, elsewhere
    async with source_of(lying) as source, reading(source) as sink:
        await until(lambda: sink.told)
    assert sink.held == (0 if elsewhere else None)
    assert sink.reason.startswith("" if elsewhere else "Prometheus cannot scrape")


@pytest.mark.parametrize("keys", [{}, {"wakeFrom": "query", "wakeQuery": "sum(x)", "model": "m"}])
async def test_a_frozen_prometheus_proves_nothing(lying: Lying, keys: dict[str, str]) -> None:
    """Samples of long ago, or of a clock that is off, are unknown; it is said why."""
    lying.fake.scraped_ago, lying.count = 6, 1
    async with source_of(lying) as source, reading(source, **keys) as sink:
        await sink.until(lambda: "newest sample of Prometheus is older" in sink.reason)
        lying.fake.scraped_ago, lying.fake.clock_ahead = 0.5, 60
        await sink.until(lambda: "the clocks of Prometheus" in sink.reason)
        lying.fake.clock_ahead = 0
        await sink.until(lambda: sink.held is not None)
    last = sink.told[-1]
    assert isinstance(last, Demand)
    assert 0.4 < time.monotonic() - last.at < 3


async def test_one_query_serves_all_targets_of_a_namespace(lying: Lying) -> None:
    """However many they are; those of the same own query share it as well."""
    lying.count = 1
    own = {"wakeFrom": "query", "wakeQuery": "sum(x)"}
    async with source_of(lying) as source, contextlib.AsyncExitStack() as stack:
        sinks = [await stack.enter_async_context(reading(source)) for _ in range(100)]
        sinks += [await stack.enter_async_context(reading(source, **own)) for _ in range(100)]
        for sink in sinks:
            await sink.until(lambda sink=sink: len(sink.told) > 1)  # type: ignore[misc]
        told = max(len(sink.told) for sink in sinks)
        windows = [query for query in lying.fake.queries if query.startswith("{")]
        sums = [query for query in lying.fake.queries if query.startswith("sum(")]
    assert len(windows) <= (told + 1) * len(set(windows))
    assert len(sums) <= told + 1
    assert set(sums) == {'sum(x{namespace="models"})'}


async def test_a_prometheus_that_is_away_is_unknown(lying: Lying) -> None:
    """No answer is no zero."""
    lying.count = 1
    async with source_of(lying) as source, reading(source) as sink:
        await sink.until(lambda: sink.held == 0)
        await lying.fake.__aexit__()
        await sink.until(lambda: sink.reason == "Prometheus refused the connection")
