"""Rounds: many targets of one Prometheus, served by few queries that are told apart by us."""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from keda_scaler.core.signals import Signal
from keda_scaler.sources import promanswer, promnames, promrounds, promspaces
from keda_scaler.sources.prometheus import PrometheusServer, PrometheusSource
from prometheus_fake import FakePrometheus, hang, pinned, success
from prometheus_sink import RULES, RememberingSink, reading, trigger_of, until

NAMES = ("vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:kv_cache_usage_perc")
QUEUE = Signal.QUEUE_DEPTH
RARELY = {"pollSeconds": "3600", "staleSeconds": "3600"}


class Fleet:
    """A Prometheus with one pod for each namespace, whose queue tells them apart."""

    def __init__(self, fake: FakePrometheus) -> None:
        fake.answer = self._answer
        self.fake = fake
        self.queues: dict[str, int] = {}
        self.careless = False
        """Whether it answers with all namespaces, whatever it was asked for."""
        self.histogram = ""
        """A namespace whose series are of another kind."""

    @property
    def windows(self) -> list[str]:
        return [query for query in self.fake.queries if query.startswith("{")]

    @property
    def looks_back(self) -> list[str]:
        return [query for query in self.fake.queries if query.startswith("last_over_time(")]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        query = request.query["query"]
        now = time.time()
        if query.startswith("max(timestamp(up))"):
            return success(pinned(now, now - 0.5))
        asked = namespaces_of(query)
        found = [n for n in self.queues if self.careless or n in asked]
        if query.startswith("up{"):
            return success([{"metric": pod_of(each), "value": [now, "1"]} for each in found])
        names = [name for name in NAMES if name in re.split('["|]', query)]
        at = now if query.startswith("last_over_time(") else now - 0.5
        key = "value" if query.startswith("last_over_time(") else "values"
        return success([self._series(each, name, key, at) for each in found for name in names])

    def _series(self, namespace: str, name: str, key: str, at: float) -> dict[str, Any]:
        point = [at, str(self.queues[namespace] if name == NAMES[0] else 0)]
        metric = pod_of(namespace) | {"__name__": name, "model_name": "llama"}
        if namespace == self.histogram:
            return {"metric": metric, "histogram": [at, {}]}
        return {"metric": metric, key: [point] if key == "values" else point}


def pod_of(namespace: str) -> dict[str, str]:
    return {"namespace": namespace, "pod": f"{namespace}-0", "instance": "i:1", "job": "vllm"}


def namespaces_of(query: str) -> set[str]:
    found = re.search(r'namespace=~?"([^"]*)"', query)
    assert found, "every query about replicas is bound to namespaces"
    return {re.sub(r"\\+(.)", r"\1", each) for each in found[1].split("|")}


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    async with FakePrometheus() as fake:
        yield Fleet(fake)


@contextlib.asynccontextmanager
async def following(
    fleet: Fleet, namespaces: Iterable[str], **keys: str
) -> AsyncIterator[dict[str, RememberingSink]]:
    """Read for a target in each namespace."""
    source = PrometheusSource({"main": PrometheusServer(fleet.fake.url)}, RULES)
    async with contextlib.AsyncExitStack() as stack:
        yield {
            each: await stack.enter_async_context(reading(source, each, trigger_of(**keys)))
            for each in namespaces
        }


@pytest.mark.parametrize("count", [1, 10, 300])
async def test_the_number_of_queries_is_the_same(fleet: Fleet, count: int) -> None:
    """For one target and for many; each sees its own namespace and nothing else."""
    fleet.queues = {f"team-{number}": number for number in range(count)}
    async with following(fleet, fleet.queues, engine="vllm", **RARELY) as sinks:
        await until(lambda: all(sink.readings for sink in sinks.values()))
    for namespace, sink in sinks.items():
        assert sink.names == [f"{namespace}-0"]
        assert sink.number(f"{namespace}-0", QUEUE) == fleet.queues[namespace]
    assert (len(fleet.looks_back), len(fleet.windows)) == (3, 3)
    assert len(fleet.fake.requests) == 8
    posted = {request.method for request in fleet.fake.requests[1:]}
    assert posted == {"GET" if count < 300 else "POST"}


async def test_whatever_is_answered_nobody_sees_another_namespace(fleet: Fleet) -> None:
    """A server that disregards matchers, and a name that is a pattern, change nothing."""
    fleet.careless = True
    fleet.queues = {"a": 1, "b": 2, "a|b": 3, ".*": 4, "other": 5}
    async with following(fleet, ["a", "a|b", ".*", "empty"]) as sinks:
        await until(lambda: all(sink.listings for sink in sinks.values()))
    for namespace in ("a", "a|b", ".*"):
        assert sinks[namespace].names == [f"{namespace}-0"]
        assert sinks[namespace].number(f"{namespace}-0", QUEUE) == fleet.queues[namespace]
    assert sinks["empty"].names == []


async def test_new_targets_look_back_together(fleet: Fleet) -> None:
    """In one look for all of them, and not for those that were there before."""
    fleet.queues = {f"team-{number}": number for number in range(50)}
    old, new = "team-0", [f"team-{number}" for number in range(1, 50)]
    source = PrometheusSource({"main": PrometheusServer(fleet.fake.url)}, RULES)
    trigger = trigger_of(engine="vllm", **RARELY)
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(reading(source, old, trigger))
        await until(lambda: first.readings)
        sinks = [await stack.enter_async_context(reading(source, each, trigger)) for each in new]
        await until(lambda: all(sink.readings for sink in sinks))
    looks = [namespaces_of(query) for query in fleet.looks_back]
    assert looks == [{old}] * 3 + [set(new)] * 3
    assert [namespaces_of(query) for query in fleet.windows] == looks
    assert first.listings == 1


async def test_a_namespace_with_too_many_series_harms_no_other(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found by halves, and asked for alone from then on."""
    monkeypatch.setattr(promanswer, "MAX_SERIES", 20)
    fleet.queues = {f"team-{number}": number for number in range(7)}
    flood = "team-3"
    answer = fleet._answer

    async def flooded(request: web.Request) -> web.StreamResponse:
        query = request.query["query"]
        if query.startswith("{") and NAMES[2] in query and flood in namespaces_of(query):
            metric = pod_of(flood) | {"__name__": NAMES[2]}
            return success(
                [{"metric": metric | {"n": f"{n}"}, "values": [[1, "1"]]} for n in range(21)]
            )
        return await answer(request)

    fleet.fake.answer = flooded
    with capture_logs() as logs:
        async with following(fleet, fleet.queues) as sinks:
            await until(lambda: all(sink.listings or sink.reasons for sink in sinks.values()))
            queries = len(fleet.windows)
            await until(lambda: len(sinks[flood].reasons) >= 3)
            await until(lambda: all(s.listings >= 3 for n, s in sinks.items() if n != flood))
    assert set(sinks[flood].reasons) == {"Prometheus answered more than 20 series"}
    assert not sinks[flood].listings
    assert all(not sink.reasons for name, sink in sinks.items() if name != flood)
    assert len(fleet.windows) < 4 * queries
    assert [(entry["namespace"], entry["log_level"]) for entry in logs] == [(flood, "warning")]


async def test_many_that_are_too_much_only_together_are_asked_in_halves(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not tried together again at each round."""
    monkeypatch.setattr(promanswer, "MAX_SERIES", 8)
    fleet.queues = {f"team-{number}": number for number in range(7)}
    async with following(fleet, fleet.queues, engine="vllm") as sinks:
        await until(lambda: all(sink.listings >= 2 for sink in sinks.values()))
        sizes = [len(namespaces_of(query)) for query in fleet.windows[-9:]]
    assert 7 not in sizes


async def test_a_series_without_a_number_is_the_trouble_of_its_namespace(fleet: Fleet) -> None:
    """A native histogram under the name of a gauge, for instance."""
    fleet.queues = {"good": 1, "bad": 2}
    fleet.histogram = "bad"
    async with following(fleet, fleet.queues) as sinks:
        await until(lambda: sinks["good"].readings and sinks["bad"].reasons)
        fleet.histogram = ""
        await until(lambda: sinks["bad"].readings)
    assert sinks["bad"].reasons[0] == "the answer is not one of Prometheus' API"
    assert not sinks["good"].reasons


async def test_more_namespaces_than_a_query_names(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are asked for in turns."""
    monkeypatch.setattr(promspaces, "MAX_NAMESPACES", 4)
    fleet.queues = {f"team-{number}": number for number in range(10)}
    async with following(fleet, fleet.queues) as sinks:
        await until(lambda: all(sink.readings for sink in sinks.values()))
    assert {len(namespaces_of(query)) for query in fleet.windows} <= {1, 2, 3, 4}


async def test_targets_of_one_namespace_share_its_series(fleet: Fleet) -> None:
    """Each applies its own selector and model to them."""
    fleet.queues = {"a": 1}
    source = PrometheusSource({"main": PrometheusServer(fleet.fake.url)}, RULES)
    wanted = [{}, {"selector": 'job="vllm"'}, {"selector": 'job!~"v.*"'}, {"model": "qwen"}]
    async with contextlib.AsyncExitStack() as stack:
        sinks = [
            await stack.enter_async_context(reading(source, "a", trigger_of(**keys)))
            for keys in wanted
        ]
        await until(lambda: all(sink.listings or sink.reasons for sink in sinks))
    assert [sink.names for sink in sinks] == [["a-0"], ["a-0"], None, None]


async def test_latencies_are_asked_only_for_those_who_want_them(fleet: Fleet) -> None:
    """Histograms are most of an engine's series."""
    fleet.queues = {"a": 1, "b": 2}
    source = PrometheusSource({"main": PrometheusServer(fleet.fake.url)}, RULES)
    late = trigger_of(engine="vllm", targetTtftSeconds="1")
    async with (
        reading(source, "a", trigger_of(engine="vllm")) as one,
        reading(source, "b", late) as other,
    ):
        await until(lambda: one.readings and other.readings)
    histograms = [query for query in fleet.windows if "_bucket" in query]
    assert histograms
    assert {frozenset(namespaces_of(query)) for query in histograms} == {frozenset({"b"})}


async def test_a_target_that_cannot_take_its_readings_harms_no_other(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told that it is our fault; so are all, if nobody can be read for."""
    fleet.queues = {"a": 1, "b": 2}
    take = promrounds.Target.take

    def fail(target: promrounds.Target, *args: Any) -> None:
        if target.namespace == "a":
            raise RuntimeError
        take(target, *args)

    monkeypatch.setattr(promrounds.Target, "take", fail)
    with capture_logs() as logs:
        async with following(fleet, fleet.queues) as sinks:
            await until(lambda: sinks["b"].listings >= 2 and sinks["a"].reasons)
    assert set(sinks["a"].reasons) == {"internal error, see the scaler's log"}
    assert {entry["log_level"] for entry in logs} == {"error"}


async def test_whoever_leaves_during_a_round_is_told_nothing(fleet: Fleet) -> None:
    """Its sink is closed by then."""
    fleet.queues = {"a": 1, "b": 2}
    answer = fleet.fake.answer
    fleet.fake.answer = hang
    source = PrometheusSource({"main": PrometheusServer(fleet.fake.url)}, RULES)
    async with reading(source, "b", trigger_of()) as stays:
        async with reading(source, "a", trigger_of()) as leaves:
            await until(lambda: fleet.fake.requests)
            fleet.fake.answer = answer
        await asyncio.sleep(0)
        assert not stays.listings
    assert (leaves.listings, leaves.reasons) == (0, [])


async def test_who_looks_for_names_keeps_nobody_waiting(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A week of series may take Prometheus long: others are read meanwhile."""
    monkeypatch.setattr(promnames, "WAIT_SECONDS", 0.05)
    fleet.queues = {"a": 1}
    usual = fleet._answer

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.query["query"].startswith("group by"):
            return await hang(request)
        return await usual(request)

    fleet.fake.answer = answer
    async with following(fleet, ["a", "nobody"]) as sinks:
        await until(lambda: sinks["a"].listings >= 3 and sinks["nobody"].reasons)
    assert sinks["nobody"].reasons[0] == "whether there ever were series of it is not known yet"
