"""Our own metrics: the page is true, is taken by Prometheus, and holds up nobody."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from keda_scaler import reload, turns
from keda_scaler.core.readings import Demand, Engine, Missing, Readings, Replica, Value
from keda_scaler.core.signals import Signal
from keda_scaler.core.trigger import Accepts, parse_trigger
from keda_scaler.reload import Reloader
from keda_scaler.settings import Origin
from keda_scaler.store import FORGET_SECONDS, Store, Target
from keda_scaler.telemetry import Telemetry, catalogue, targets
from keda_scaler.telemetry.calls import BOUNDS, Calls
from keda_scaler.telemetry.families import OF_SCALER, OF_TARGETS
from keda_scaler.web import server
from keda_scaler.web.server import WebServer
from telemetry_page import numbers, promtool, real_page

METADATA = {"service": "llama", "idleSeconds": "30", "holdSeconds": "600"}
KEDA = {
    "keda_scaler_active",
    "keda_scaler_metrics_value",
    "keda_scaler_metrics_latency",
    "keda_scaler_metrics_latency_seconds",
    "keda_scaler_detail_errors_total",
    "keda_scaler_errors",
    "keda_scaler_errors_total",
}
"""Metrics of KEDA's operator, from its documentation."""


class Clock:
    """Time that stands still until it is moved."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Scaler:
    """A store that a test writes to, and its page."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.telemetry = Telemetry(self.clock)
        self.store = Store(lambda _: lambda: None, self.telemetry.decided, self.clock)
        self.telemetry.watch(self.store)

    def target(self, name: str = "llama", namespace: str = "models", **keys: str) -> Target:
        trigger = parse_trigger(METADATA | keys, Accepts(reports=True))
        key = f"{namespace}/{name}/{sorted(keys.items())}".encode()
        return self.store.follow(key, namespace, name, trigger)

    async def page(self) -> str:
        with capture_logs():
            return b"".join([piece async for piece in self.telemetry.exposition()]).decode()

    async def of(self, name: str = "llama") -> dict[str, float]:
        """Give what the page says of a target, by the end of the metric's name and its labels."""
        found = numbers(await self.page(), namespace="models", name=name)
        return {key.removeprefix("keda_scaler_target_"): value for key, value in found.items()}


@pytest.fixture
async def scaler() -> AsyncIterator[Scaler]:
    scaler = Scaler()
    yield scaler
    scaler.store.close()


@pytest.fixture(scope="module")
def page() -> str:
    with capture_logs():
        return asyncio.run(real_page())


def reading(concurrency: float, at: float, queue: float = 0.0, kv: float = 0.0) -> Readings:
    return {
        Signal.CONCURRENCY: Value(concurrency, at),
        Signal.QUEUE_DEPTH: Value(queue, at),
        Signal.GPU_MEMORY_PRESSURE: Value(kv, at),
    }


# The page


def test_every_metric_is_as_the_table_says(page: str) -> None:
    """Names, types and labels; none is missing, none is too many, and none is KEDA's."""
    written = {
        (family.name + ("_total" if family.type == "counter" else ""), family.type): set().union(
            *(sample.labels for sample in family.samples)
        )
        - {"le"}
        for family in text_string_to_metric_families(page)
        if not family.name.startswith("process_")
    }

    assert written == {
        (family.name, family.kind): set(family.labels) for family in (*OF_SCALER, *OF_TARGETS)
    }
    assert not KEDA & {name for name, _ in written}


def test_promtool_takes_the_page(page: str) -> None:
    """Names, units, types and help are as the field has them."""
    promtool("check", "metrics", page=page)


def test_what_the_document_says_of_the_process_is_on_the_page(page: str) -> None:
    """And nothing else is."""
    named = {family.name for family in text_string_to_metric_families(page)}
    process = {name for name in named if name.startswith("process_")}

    assert {name.removesuffix("_total") for name in process} == {
        name.removesuffix("_total")
        for name in catalogue.render().replace("`", " ").replace(",", " ").split()
        if name.startswith("process_")
    }


def test_calls_are_counted_by_status(page: str) -> None:
    """A real scaler that was asked about two targets, one that is silent, and one that is wrong."""
    rpcs = numbers(page)

    assert rpcs["keda_scaler_rpcs_total OK GetMetrics"] == 4
    assert rpcs["keda_scaler_rpcs_total UNAVAILABLE GetMetrics"] == 2
    assert rpcs["keda_scaler_rpcs_total UNAVAILABLE IsActive"] == 1
    assert rpcs["keda_scaler_rpcs_total INVALID_ARGUMENT GetMetricSpec"] == 1
    assert rpcs["keda_scaler_rpc_seconds_count OK GetMetrics"] == 4
    for method in ("StreamIsActive", "StreamMetricSpec"):
        assert rpcs[f"keda_scaler_streams {method}"] == 1
        assert rpcs[f"keda_scaler_pushes_total {method}"] == 1


# Calls


def test_durations_are_cumulative() -> None:
    """As histograms of Prometheus are; a stream's duration is none."""
    calls = Calls()
    for seconds in (0.0, 0.002, 0.2, 60.0):
        calls.ended("GetMetrics", "OK", perf_counter() - seconds)
    calls.stream_ended("StreamIsActive", "UNAVAILABLE")
    rpcs, durations = calls.collect()
    found = {sample.labels["le"]: sample.value for sample in durations.samples[: len(BOUNDS) + 1]}

    assert [found[le] for le in ("0.0001", "0.001", "0.003", "0.1", "0.3", "3.0", "+Inf")] == [
        *(1, 1, 2, 2, 3, 3, 4)
    ]
    assert durations.samples[-1].value == pytest.approx(60.202, abs=0.01)
    assert {(*sample.labels.values(), sample.value) for sample in rpcs.samples} == {
        ("GetMetrics", "OK", 4),
        ("StreamIsActive", "UNAVAILABLE", 1),
    }
    assert {sample.labels["method"] for sample in durations.samples} == {"GetMetrics"}


# Targets


async def test_a_busy_target(scaler: Scaler) -> None:
    """Its signals and their targets, what they ask for, and how old all that is."""
    target = scaler.target()
    target.polled({Replica("a"): (reading(20, 1000, 16, 0.5), None)}, 1000.0)
    scaler.clock.now = 1007.0
    target.decision_for_metrics()
    scaler.clock.now = 1010.0

    assert await scaler.of() == {
        "state active work": 1,
        "signal queue-depth": 16,
        "signal gpu-memory-pressure": 0.5,
        "signal_target queue-depth": 5,
        "signal_target gpu-memory-pressure": 0.85,
        "held_signals": 0,
        "unknown_signals": 0,
        "capped_signals": 0,
        "wanted_replicas": 4,
        "answering_replicas": 1,
        "stuck_replicas": 0,
        "reading_age_seconds": 10,
        "stale_after_seconds": 15,
        "asked_age_seconds": 3,
    }


async def test_the_way_to_idle(scaler: Scaler) -> None:
    """The countdown runs while proof holds, ends at 0, and is gone when work comes."""
    target = scaler.target()
    seen = []
    for work in (0, 0, 0, 0, 0, 1):
        target.polled({Replica("a"): (reading(work, scaler.clock.now), None)}, scaler.clock.now)
        seen.append((await scaler.of()).get("idle_in_seconds"))
        scaler.clock.now += 10

    assert seen == [30, 20, 10, 0, 0, None]


async def test_a_target_that_falls_silent(scaler: Scaler) -> None:
    """Its readings age, it is held without a value, and then KEDA gets errors."""
    target = scaler.target()
    target.polled({Replica("a"): (reading(1, 1000), None)}, 1000.0)
    seen = []
    for scaler.clock.now in (1014.0, 1016.0, 1614.0, 1616.0):
        target.listed([Replica("a")], scaler.clock.now)
        found = await scaler.of()
        names = ("held_signals", "unknown_signals", "reading_age_seconds")
        seen.append((*(found[name] for name in names), "signal queue-depth" in found))

    assert seen == [
        (0, 0, 14, True),
        (2, 0, 16, False),
        (2, 0, 614, False),
        (0, 2, 616, False),
    ]
    assert "state unknown hold-over" in found


async def test_the_oldest_of_what_is_known_is_the_age(scaler: Scaler) -> None:
    """One replica of many, the list, or the wake source; what was never read has no age."""
    target = scaler.target(wakeFrom="epp", wakeService="epp")
    assert "reading_age_seconds" not in await scaler.of()
    seen = []
    changes: list[Callable[[], None]] = [
        lambda: target.listed([Replica("a"), Replica("b"), Replica("c")], 1002.0),
        lambda: target.demanded(Demand(0.0, 0.0, arrived=False, at=1001.0)),
        lambda: target.read("a", reading(0, 1000.0)),
        lambda: target.read("b", reading(0, 1009.0)),
        lambda: target.read("c", dict.fromkeys(Signal, Missing("refused"))),
        lambda: target.read("a", reading(0, 1009.0)),
    ]
    scaler.clock.now = 1010.0
    for change in changes:
        change()
        seen.append((await scaler.of())["reading_age_seconds"])

    assert seen == [8, 9, 10, 10, 10, 9]


async def test_requests_at_the_wake_source(scaler: Scaler) -> None:
    """Those that it has, held or handed on; none is told where it fell silent."""
    target = scaler.target(wakeFrom="epp", wakeService="epp")
    target.demanded(Demand(2.0, 7.0, arrived=False, at=1000.0))
    seen = []
    for scaler.clock.now in (1010.0, 1016.0):
        seen.append((await scaler.of()).get("demand_requests"))

    assert seen == [7, None]


async def test_changes_are_counted_by_what_they_became(scaler: Scaler) -> None:
    """Of state or reason; that the engine is found is none."""
    target = scaler.target()
    for engine in (None, Engine("vllm", reserves_memory=True)):
        target.polled({Replica("a"): (reading(2, 1000.0), engine)}, 1000.0)
        scaler.clock.now += 1

    assert numbers(await scaler.page())["keda_scaler_decisions_total work active"] == 1


async def test_a_stuck_replica(scaler: Scaler) -> None:
    """It is counted, of its target and of all."""
    target = scaler.target(stuckSeconds="60")
    engine = Engine("vllm", reserves_memory=True, progress=7.0)
    with capture_logs():
        for _ in range(8):
            target.polled({Replica("a"): (reading(2, scaler.clock.now), engine)}, scaler.clock.now)
            scaler.clock.now += 10

    found = await scaler.of()
    assert found["stuck_replicas"] == 1
    assert found["held_signals"] == 2
    assert "state active stuck" in found
    assert numbers(await scaler.page())["keda_scaler_stuck_replicas"] == 1


async def test_a_target_that_asks_for_less_than_it_would(scaler: Scaler) -> None:
    """Replicas load, and the queue that grows meanwhile is no reason for more."""
    target = scaler.target()
    capped = []
    for queue in (8, 80):
        polled: dict[Replica, tuple[Readings, Engine | None]] = {
            Replica("a"): (reading(queue, scaler.clock.now, queue), None),
            Replica("b", ready=False): (dict.fromkeys(Signal, Missing("loads")), None),
        }
        target.polled(polled, scaler.clock.now)
        capped.append((await scaler.of())["capped_signals"])
        scaler.clock.now += 5

    assert capped == [0, 1]


async def test_targets_that_are_forgotten_are_counted(scaler: Scaler) -> None:
    """Their series end with them."""
    scaler.target("a")
    scaler.clock.now += 1
    scaler.target("b")
    scaler.clock.now += FORGET_SECONDS - 1
    scaler.store.forget()

    found = numbers(await scaler.page())
    assert found["keda_scaler_targets_forgotten_total"] == 1
    assert found["keda_scaler_targets unknown"] == 1
    assert not await scaler.of("a")
    assert await scaler.of("b")


# Labels


async def test_triggers_of_one_scaled_object_are_told_apart(scaler: Scaler) -> None:
    """Two times the same series would cost Prometheus the whole page."""
    scaler.target(targetQueueDepth="5")
    scaler.target(targetQueueDepth="6")
    page = await scaler.page()

    promtool("check", "metrics", page=page)
    series = [line.rpartition(" ")[0] for line in page.splitlines() if line[0] != "#"]
    assert len(series) == len(set(series))
    targets_of = [line for line in page.splitlines() if "signal_target{" in line]
    assert [line.rpartition(" ")[2] for line in targets_of] == ["5.0", "6.0"]


async def test_a_collision_costs_a_target_its_series_and_not_the_page(
    scaler: Scaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever writes metadata may look for one: 32 bits are not many."""
    same = SimpleNamespace(hexdigest=lambda: "00000000")
    monkeypatch.setattr(targets, "blake2s", lambda *_, **__: same)
    scaler.target(targetQueueDepth="5")
    scaler.target(targetQueueDepth="6")
    page = await scaler.page()

    assert page.count("keda_scaler_target_state{") == 1
    assert numbers(page)["keda_scaler_targets_not_shown"] == 1
    assert numbers(page)["keda_scaler_targets unknown"] == 2


TEXT = st.text(max_size=300)


@given(TEXT, TEXT)
def test_any_name_is_a_label(namespace: str, name: str) -> None:
    """Names are what a caller says they are: it may be anybody, and say anything."""
    target: Any = SimpleNamespace(namespace=namespace, name=name)
    line = f"a{{{targets.labels_of(b'key', target)}}} 1\n"
    (family,) = text_string_to_metric_families(line)

    assert "\n" not in line[:-1]
    assert family.samples[0].labels == {
        "namespace": namespace[:253],
        "name": name[:253],
        "trigger": "364a6eaf",
    }


async def test_promtool_takes_any_name(scaler: Scaler) -> None:
    """Quotes, backslashes, ends of lines, and no ASCII."""
    scaler.target('"} 1\n# EOF', "\\\r\n\x00é🦙" * 100)

    promtool("check", "metrics", page=await scaler.page())


# Bounds


async def test_only_so_many_targets_have_series(
    scaler: Scaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of later ones the totals tell, and how many they are is said."""
    monkeypatch.setattr(targets, "MAX_SHOWN", 2)
    for name in "abc":
        scaler.target(name)
    page = await scaler.page()

    assert page.count("keda_scaler_target_state{") == 2
    assert numbers(page)["keda_scaler_targets unknown"] == 3
    assert numbers(page)["keda_scaler_targets_not_shown"] == 1


async def test_a_target_has_as_many_series_as_documented(scaler: Scaler) -> None:
    """At most: with proof of idleness, and every signal there is."""
    keys = {
        "targetQueueDepth": "5",
        "targetConcurrency": "5",
        "targetGpuMemoryPressure": "0.8",
        "targetGpuUtilization": "0.8",
        "targetTtftSeconds": "1",
        "targetItlSeconds": "1",
        "targetLatencySeconds": "1",
    }
    target = scaler.target(**keys, wakeFrom="epp", wakeService="epp")
    target.polled({}, 1000.0)
    target.demanded(Demand(0.0, 0.0, arrived=False, at=1000.0))
    found = await scaler.of()

    assert len(target.trigger.metrics) == len(Signal)
    assert len(found) == catalogue.ALWAYS + catalogue.PER_SIGNAL * len(Signal)


async def test_calls_have_their_turn_while_thousands_are_written(
    scaler: Scaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop goes round for others between targets, and between pieces of the page."""
    monkeypatch.setattr(turns, "WORK_SECONDS", 0.0)
    for number in range(1000):
        scaler.target(str(number))
    rounds = 0

    async def others() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    with capture_logs():
        pieces = [len(piece) async for piece in scaler.telemetry.exposition()]
    task.cancel()

    assert rounds > 1000
    assert max(pieces) < 100_000


class Endless(Telemetry):
    """A page that never ends."""

    async def exposition(self) -> AsyncIterator[bytes]:
        while True:
            yield b"# HELP a b\n" * 1000


async def test_who_reads_too_slowly_gets_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a page must not pass for a page: Prometheus would take what lacks for gone."""
    monkeypatch.setattr(server, "SCRAPE_SECONDS", 0.1)
    web = WebServer("127.0.0.1:0", Endless(), lambda: True)
    await web.start()
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{web.port}/metrics") as answer:
            assert answer.status == 200
            with pytest.raises(aiohttp.ClientError):
                await answer.read()
        async with session.get(f"http://127.0.0.1:{web.port}/healthz") as answer:
            assert answer.status == 200
    await web.stop()


# Settings


async def test_wrong_settings_are_seen_until_they_are_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when they are mended by what they were before, which changes nothing."""
    monkeypatch.setattr(reload, "LOOK_SECONDS", 0.01)
    scaler = Scaler()
    file = tmp_path / "settings.toml"

    def write(text: str) -> None:
        new = file.with_suffix(".new")
        new.write_text(text)
        new.replace(file)

    async def until(is_ok: float) -> None:
        async with asyncio.timeout(20):
            while is_ok != numbers(await scaler.page())["keda_scaler_settings_last_reload_ok"]:
                await asyncio.sleep(0.01)

    async def take_up(_: object) -> None:
        raise AssertionError

    write("")
    origin = Origin({}, file)
    settings = await asyncio.to_thread(origin.load)
    with capture_logs():
        task = asyncio.create_task(
            Reloader(settings, origin, take_up, scaler.telemetry.reloaded).run()
        )
        write("no_such_key = 1\n")
        await until(0)
        write("")
        await until(1)
    task.cancel()
    found = numbers(await scaler.page())

    assert found["keda_scaler_settings_reloads_total error"] == 1
    assert found["keda_scaler_settings_reloads_total ok"] == 0
