"""/targets: what targets say of themselves, as JSON, over a real server."""

import asyncio
import json
import math
import time
from typing import Any

import pytest

from keda_scaler import turns
from keda_scaler.core.explain import Known, explain
from keda_scaler.core.readings import Demand, Missing, Replica, Value
from keda_scaler.core.signals import Signal
from keda_scaler.core.told import Explanation
from keda_scaler.web import targets as web_targets
from keda_scaler.web.overview import MAX_LIMIT, MAX_SOURCES
from shown_targets import Shown, get, showing


async def read(shown: Shown, path: str) -> Any:
    text, headers = await get(shown.url + path)
    assert headers["Content-Type"] == "application/json"
    assert headers["Cache-Control"] == "no-store"
    return json.loads(text)


def names(answer: Any) -> list[str]:
    return [f"{target['namespace']}/{target['name']}" for target in answer["targets"]]


async def test_all_targets_a_line_each() -> None:
    """In order, with state, reason, replicas and what each signal asks for."""
    async with showing() as shown:
        shown.poll(shown.target("b", "qwen", idleSeconds="0"), 0)
        shown.poll(shown.target("a", "llama"), 12, None)
        shown.target("a", "gemma").unlisted("slices: forbidden")
        answer = await read(shown, "/targets")

    assert names(answer) == ["a/gemma", "a/llama", "b/qwen"]
    assert answer["states"] == {"active": 1, "idle": 1, "unknown": 1}
    assert (answer["total"], answer["limit"], answer["offset"]) == (3, 50, 0)
    gemma, llama, qwen = answer["targets"]
    assert (gemma["state"], gemma["reason"]) == ("unknown", "never-known")
    assert gemma["replicasListed"] is None
    assert gemma["replicasListedMissing"] == "slices: forbidden"
    assert gemma["signals"][0]["reported"] is None
    assert (llama["state"], llama["replicasListed"], llama["replicasAnswering"]) == ("active", 2, 1)
    assert llama["signals"][0]["asksForReplicas"] == 2.0
    assert (qwen["state"], qwen["secondsToZero"]) == ("idle", 0.0)


async def test_filters_and_pages() -> None:
    """Counts by state are of the namespace, whatever state is looked for."""
    async with showing() as shown:
        for index in range(9):
            target = shown.target(f"ns-{index % 3}", f"t-{index}", idleSeconds="0")
            shown.poll(target, index % 2)
        one = await read(shown, "/targets?namespace=ns-1")
        idle = await read(shown, "/targets?namespace=ns-1&state=idle")
        page = await read(shown, "/targets?limit=2&offset=4")
        beyond = await read(shown, "/targets?offset=100")

    assert names(one) == ["ns-1/t-1", "ns-1/t-4", "ns-1/t-7"]
    assert one["states"] == {"active": 2, "idle": 1, "unknown": 0}
    assert (names(idle), idle["total"], idle["states"]) == (["ns-1/t-4"], 1, one["states"])
    assert (names(page), page["total"]) == (["ns-1/t-4", "ns-1/t-7"], 9)
    assert (beyond["targets"], beyond["total"]) == ([], 9)
    assert one["namespaces"] == ["ns-0", "ns-1", "ns-2"]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("state=busy", "state: got 'busy'; accepted: active, idle, unknown"),
        ("limit=0", f"limit: got '0'; accepted: a whole number from 1 to {MAX_LIMIT}"),
        (f"limit={MAX_LIMIT + 1}", f"accepted: a whole number from 1 to {MAX_LIMIT}"),
        ("limit=x", "limit: got 'x'"),
        ("offset=-1", "offset: got '-1'"),
        ("offset=" + "9" * 5000, "offset: got '999"),
        ("limit=%D9%A3", "limit: got"),
    ],
)
async def test_a_wrong_query_is_said(query: str, said: str) -> None:
    """The field, what was given and what is accepted."""
    async with showing() as shown:
        text, _ = await get(f"{shown.url}/targets?{query}", 400)

    assert said in text
    assert len(text) < 300


async def test_sources_and_how_they_do() -> None:
    """By kind: who is read, since when there is no news, and what one of them says."""
    async with showing() as shown:
        shown.poll(shown.target("a", "one", wakeFrom="epp", wakeService="epp"), 3, None)
        shown.target("a", "two", prometheus="main").unlisted("main: connection refused")
        shown.clock.now += 3
        shown.poll(shown.target("a", "three"), 1)
        shown.target("a", "four", wakeFrom="epp", wakeService="epp").demanded(Missing("timeout"))
        answer = await read(shown, "/targets")

    found = {source.pop("source"): source for source in answer["sources"]}
    assert found == {
        "Prometheus main": {
            "targets": 1,
            "replicasListed": 0,
            "replicasAnswering": 0,
            "newestSeconds": None,
            "targetsInTrouble": 1,
            "trouble": "main: connection refused",
        },
        "pods of Services": {
            "targets": 3,
            "replicasListed": 3,
            "replicasAnswering": 2,
            "newestSeconds": 0.0,
            "targetsInTrouble": 1,
            "trouble": "not read yet",
        },
        "wake source epp": {
            "targets": 2,
            "replicasListed": None,
            "replicasAnswering": None,
            "newestSeconds": 3.0,
            "targetsInTrouble": 1,
            "trouble": "timeout",
        },
    }


async def test_a_list_that_never_changes_is_no_news() -> None:
    """Of static endpoints the newest news is the newest reading."""
    async with showing() as shown:
        target = shown.target()
        target.listed([Replica("a"), Replica("b")], math.inf)
        unread = await read(shown, "/targets")
        target.read("a", {Signal.CONCURRENCY: Value(1, shown.clock.now)})
        shown.clock.now += 7
        answer = await read(shown, "/targets")
        one = await read(shown, "/targets/models/llama")

    (before,), (after,) = unread["sources"], answer["sources"]
    assert (before["newestSeconds"], before["trouble"]) == (None, "not read yet")
    assert (after["newestSeconds"], after["trouble"]) == (7.0, None)
    assert one["targets"][0]["listAgeSeconds"] == 0.0


async def test_sources_are_bounded() -> None:
    """Triggers may name many a Prometheus; most of them count as one."""
    async with showing() as shown:
        for index in range(MAX_SOURCES + 5):
            target = shown.target("a", f"t-{index}")
            object.__setattr__(target.trigger, "service", None)
            object.__setattr__(target.trigger, "server_address", f"http://p-{index}")
        answer = await read(shown, "/targets")

    assert len(answer["sources"]) == MAX_SOURCES + 1
    assert {s["source"]: s["targets"] for s in answer["sources"]}["others"] == 5


async def test_one_target_with_everything() -> None:
    """Readings with ages, what decides, the trigger, and what happened; two triggers are two."""
    async with showing() as shown:
        target = shown.target(wakeFrom="epp", wakeService="epp", model="llama-3")
        shown.poll(target, 12, None)
        shown.clock.now += 70
        shown.poll(target, 0, 0)
        shown.clock.now += 2
        target.demanded(Demand(1.0, 4.0, arrived=True, at=shown.clock.now))
        shown.target(targetConcurrency="7")
        answer = await read(shown, "/targets/models/llama")

    first, second = answer["targets"]
    assert first["trigger"]["model"] == "llama-3"
    assert second["trigger"]["targetConcurrency"] == "7"
    assert first["demand"] == {
        "source": "epp",
        "requests": 4.0,
        "heldRequests": 1.0,
        "ageSeconds": 0.0,
        "missing": None,
    }
    assert first["boundBy"][0]["what"] == "signal"
    assert first["replicas"][0]["readings"][0] == {
        "signal": "queue-depth",
        "value": 0.0,
        "ageSeconds": 2.0,
        "missing": None,
    }
    assert [sample["perReplica"]["queue-depth"] for sample in first["samples"]] == [5.0, 0.0]
    assert first["changes"][-1]["secondsAgo"] == 72.0
    assert abs(first["changes"][-1]["unixSeconds"] + 72 - time.time()) < 10
    assert second["state"] == "unknown"


async def test_calls_have_their_turn_while_many_triggers_are_explained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A ScaledObject that changed often has many, and each may have a thousand replicas."""
    monkeypatch.setattr(turns, "WORK_SECONDS", 0.0)
    rounds: list[int] = []
    others = 0

    async def call() -> None:
        nonlocal others
        while True:
            others += 1
            await asyncio.sleep(0)

    def spied(known: Known, unix_seconds: float) -> Explanation:
        rounds.append(others)
        return explain(known, unix_seconds)

    monkeypatch.setattr(web_targets, "explain", spied)
    async with showing() as shown:
        for target in range(1, 11):
            shown.poll(shown.target(targetQueueDepth=f"{target}"), 1)
        task = asyncio.create_task(call())
        answer = await read(shown, "/targets/models/llama")
        task.cancel()

    assert len(answer["targets"]) == 10
    assert len(set(rounds)) == 10


@pytest.mark.parametrize("name", ["a b", "<b>", "ä", "a%2Fb", "..%2F..", "%00", "a?b"])
async def test_any_name_can_be_asked_for(name: str) -> None:
    """Whoever calls over gRPC may have made it up; what is not followed is not found."""
    from urllib.parse import quote, unquote  # noqa: PLC0415  # for this test alone

    async with showing() as shown:
        shown.target("models", unquote(name))
        url = f"{shown.url}/targets/models/{quote(unquote(name), safe='')}"
        text, _ = await get(str(url))
        missing, _ = await get(f"{shown.url}/targets/models/nobody", 404)

    assert json.loads(text)["targets"][0]["name"] == unquote(name)
    assert "models/nobody is not followed" in missing


async def test_looking_at_thousands_lets_others_have_their_turn() -> None:
    """A round of the event loop is short, although all are looked at."""
    async with showing() as shown:
        for index in range(5000):
            shown.target(f"ns-{index % 50}", f"t-{index}")
        rounds: list[float] = []

        async def others() -> None:
            while True:
                began = time.perf_counter()
                await asyncio.sleep(0)
                rounds.append(time.perf_counter() - began)

        task = asyncio.create_task(others())
        answer = await read(shown, "/targets?limit=200&offset=4000")
        task.cancel()

    assert (answer["total"], len(answer["targets"])) == (5000, 200)
    assert len(rounds) > 20
    assert sorted(rounds)[len(rounds) // 2] < 0.01
