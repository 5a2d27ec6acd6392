"""Own queries of triggers: asked once, few at a time, and nobody else's trouble."""

import asyncio
import contextlib
import importlib
import json
import re
import time
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from keda_scaler.core.readings import Missing
from keda_scaler.core.signals import Signal
from keda_scaler.core.trigger import Trigger
from keda_scaler.engines import queries
from keda_scaler.errors import SourceError
from keda_scaler.sources import promapi
from keda_scaler.sources.gateways import GatewaysSource
from keda_scaler.sources.kubernetes import ServiceDirectory
from keda_scaler.sources.prometheus import PrometheusServer, PrometheusSource
from prometheus_fake import FakePrometheus, pinned, success, vector
from prometheus_sink import RULES, reading, trigger_of, until
from wake_fixtures import WakeNotebook

WORK, QUEUE = Signal.CONCURRENCY, Signal.QUEUE_DEPTH
RARELY = {"pollSeconds": "3600", "staleSeconds": "3600"}


class OwnSeries:
    """A Prometheus with one pod in every namespace, and a few queries that it can answer."""

    def __init__(self, fake: FakePrometheus) -> None:
        fake.answer = self._answer
        self.fake = fake
        self.job = "mine"
        self.blocked = asyncio.Event()
        """While it is not set, a query of `slow` waits."""
        self.waiting = 0
        self.most = 0
        """Queries of `slow` that waited at the same time."""

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        query, now = request.query["query"], time.time()
        if query.startswith("max(timestamp(up))"):
            return success(pinned(now, now - 0.5))
        found = re.search(r'namespace="([^"]*)"', query)
        assert found, "every query is bound to one namespace"
        labels = {"namespace": found[1], "pod": "pod-0", "instance": "i:1", "job": self.job}
        if query.startswith(("up{", "timestamp(up{")):
            return vector(labels, now, 1 if query.startswith("up{") else now - 0.5)
        if query.startswith("slow"):
            await self._wait()
        if query.startswith("broken"):
            body = {"status": "error", "errorType": "execution", "error": "many-to-many"}
            return web.Response(status=422, text=json.dumps(body))
        count = 3 if query.startswith("many") else 1
        return success(
            [{"metric": labels | {"n": f"{n}"}, "value": [now, "4"]} for n in range(count)]
        )

    async def _wait(self) -> None:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        try:
            await self.blocked.wait()
        finally:
            self.waiting -= 1


@pytest.fixture
async def own() -> AsyncIterator[OwnSeries]:
    async with FakePrometheus() as fake:
        yield OwnSeries(fake)


def trigger(work: str, **keys: str) -> Trigger:
    given = {"selector": 'job="mine"', "targetConcurrency": "5", "concurrencyQuery": work}
    return trigger_of(**given | keys)


def source_of(own: OwnSeries) -> PrometheusSource:
    return PrometheusSource({"main": PrometheusServer(own.fake.url)}, RULES)


async def test_a_query_is_asked_once_for_all_that_have_the_same(own: OwnSeries) -> None:
    """As it is written anew, in each namespace; the engines' families are not asked for at all."""
    source = source_of(own)
    async with contextlib.AsyncExitStack() as stack:
        sinks = [
            await stack.enter_async_context(reading(source, namespace, trigger(work, **RARELY)))
            for namespace in ("a", "b")
            for work in ("fine", " fine  # the same", "fine{}") * 5
        ]
        await until(lambda: all(sink.number("pod-0", WORK) == 4 for sink in sinks))
    asked = [query for query in own.fake.queries if "timestamp" not in query and "up{" not in query]
    assert sorted(asked) == ['fine{namespace="a"}', 'fine{namespace="b"}']
    assert len(own.fake.requests) <= 2 * 4


async def test_a_slow_query_is_nobody_elses_trouble(own: OwnSeries) -> None:
    """Neither of another namespace's own queries, nor of targets without any."""
    source = source_of(own)
    slow = trigger("slow", targetQueueDepth="5", queueDepthQuery="slow * 2")
    more = trigger("slow * 3", pollSeconds="2")
    async with (
        reading(source, "a", slow) as one,
        reading(source, "a", more),
        reading(source, "b", trigger("fine")) as other,
        reading(source, "plain", trigger_of()) as plain,
    ):
        await until(lambda: own.waiting and other.listings >= 2 and len(plain.reasons) >= 2)
        assert not one.listings
        own.blocked.set()
        await until(lambda: one.number("pod-0", QUEUE) == 4)
    assert own.most == 1


async def test_slow_queries_of_many_namespaces_leave_room(own: OwnSeries) -> None:
    """Few run at once, whatever they are for, and what everybody needs is still asked."""
    prometheus = promapi.Prometheus(PrometheusServer(own.fake.url))
    slow = [
        asyncio.create_task(
            prometheus.query_own(f'slow{{namespace="{name}"}}', time.time(), name, wakes=wakes)
        )
        for name in "abcdef"
        for wakes in (False, True)
    ]
    async with asyncio.timeout(5):
        await until(lambda: own.waiting == 2 * promapi.MAX_OWN_IN_FLIGHT)
        assert await prometheus.query("max(timestamp(up))")
        own.blocked.set()
        await asyncio.gather(*slow)
    assert own.most == 2 * promapi.MAX_OWN_IN_FLIGHT
    prometheus.close()


async def test_a_slow_query_to_wake_from_is_nobody_elses_trouble(own: OwnSeries) -> None:
    """However many there are, replicas are read meanwhile, and so are other own queries, and those
    to wake from of another namespace.
    """
    source = source_of(own)
    gateways = GatewaysSource(RULES, ServiceDirectory(), source, lambda *_: None)
    slow = [
        trigger_of(wakeFrom="query", wakeQuery=f"slow * {number}")
        for number in range(2 * promapi.MAX_IN_FLIGHT)
    ]
    tasks = [asyncio.create_task(gateways.run("a", "x", each, WakeNotebook())) for each in slow]
    waking = WakeNotebook()
    fine = trigger_of(wakeFrom="query", wakeQuery="fine")
    await until(lambda: own.waiting)
    tasks.append(asyncio.create_task(gateways.run("b", "x", fine, waking)))
    async with (
        reading(source, "plain", trigger_of()) as plain,
        reading(source, "b", trigger("fine")) as other,
    ):
        await until(lambda: plain.reasons and other.number("pod-0", WORK) == 4)
        await until(lambda: waking.held == 4)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await gateways.aclose()
    assert own.most == 1


async def test_whose_turn_never_comes_is_told_so(
    own: OwnSeries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait is bounded, as each query is."""
    monkeypatch.setattr(promapi, "MAX_OWN_IN_FLIGHT", 1)
    await asyncio.to_thread(importlib.import_module, "keda_scaler.sources.promhttp")  # takes long
    prometheus = promapi.Prometheus(PrometheusServer(own.fake.url), query_seconds=0.2)
    slow = ('slow{namespace="a"}', time.time(), "a")
    first = asyncio.create_task(prometheus.query_own(*slow))
    await until(lambda: own.waiting)
    with pytest.raises(SourceError, match="busy with other own queries"):
        async with asyncio.timeout(5):
            await asyncio.gather(*(prometheus.query_own(*slow) for _ in range(2)))
    with pytest.raises(SourceError):
        await first
    prometheus.close()


async def test_a_query_that_fails_is_the_trouble_of_its_signal(
    own: OwnSeries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is missing, with the reason; so is one with more series than we take."""
    monkeypatch.setattr(queries, "MAX_SERIES", 2)
    source = source_of(own)
    broken = trigger("fine", queueDepthQuery="broken", targetQueueDepth="5")
    many = trigger("many", queueDepthQuery="fine", targetQueueDepth="5")
    async with reading(source, "a", broken) as one, reading(source, "a", many) as other:
        await until(lambda: one.readings and other.readings)
    assert one.number("pod-0", WORK) == 4
    assert one.problem("pod-0") == "queueDepthQuery: Prometheus answered 422 (execution)"
    assert other.number("pod-0", QUEUE) == 4
    assert other.readings["pod-0"][WORK] == Missing("concurrencyQuery: more than 2 series")


async def test_a_selector_that_has_matched_once_is_believed(own: OwnSeries) -> None:
    """Until then what the query tells of pods that it leaves out may be its own replicas' work."""
    own.job = "other"
    async with reading(source_of(own), "a", trigger("fine")) as sink:
        await until(lambda: sink.reasons)
        assert sink.reasons == ["concurrencyQuery tells of requests, but no replica is found"]
        own.job = "mine"
        await until(lambda: sink.names == ["pod-0"])
        own.job = "other"
        await until(lambda: sink.names == [])
