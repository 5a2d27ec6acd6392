"""Sleep: an engine that has put its model away has no requests, whatever its gauges say."""

import itertools

import pytest

from engine_pages import AT, TEXT, capture, numbers, without
from keda_scaler import engines
from keda_scaler.core.readings import Distribution, Engine, Readings
from keda_scaler.core.signals import Signal
from keda_scaler.core.trigger import Accepts, parse_trigger
from keda_scaler.engines import devices
from keda_scaler.engines.devices import DeviceReadings
from keda_scaler.engines.exposition import parse_page
from keda_scaler.engines.samples import Sample

BUSY = capture("vllm-0.32.0__busy-queue")
AWAKE, LEVEL_1, LEVEL_2 = "awake", "weights_offloaded", "discard_all"
IDLE = (0.0, 0.0, 0.0)
PAIRS = list(itertools.product([AWAKE, LEVEL_1, LEVEL_2], repeat=2))


def flag(state: str, number: str, engine: str = "0") -> str:
    labels = f'engine="{engine}",model_name="tiny-llama",sleep_state="{state}"'
    return f"vllm:engine_sleep_state{{{labels}}} {number}\n"


def asleep(level: str, engine: str = "0") -> str:
    """Write the flags of an engine at a level of sleep, or awake."""
    states = (AWAKE, LEVEL_1, LEVEL_2)
    return "".join(flag(each, "1.0" if each == level else "0.0", engine) for each in states)


def busy(*flags: str) -> str:
    """Give a busy page with other flags of sleep."""
    return without(BUSY, "vllm:engine_sleep_state") + "".join(flags)


def second(page: str) -> str:
    """Give the gauges of the page once more, for a second data-parallel engine."""
    lines = (line for line in page.splitlines(keepends=True) if line.startswith("vllm:"))
    return "".join(line.replace('engine="0"', 'engine="1"') for line in lines)


def read(page: str, **keys: str) -> tuple[Readings, Engine | None]:
    trigger = parse_trigger({"service": "a", **keys}, Accepts())
    samples = parse_page(page.encode(), TEXT, engines.names("auto"), AT)
    return engines.read(samples, trigger, DeviceReadings(devices.ABSENT, devices.ABSENT))


def is_asleep(page: str, **keys: str) -> bool:
    _, engine = read(page, **keys)
    assert engine is not None
    return engine.asleep


def test_an_engine_that_is_awake() -> None:
    """Its gauges are what they say."""
    found, engine = read(BUSY)

    assert numbers(dict(found))[:2] == (12.0, 16.0)
    assert engine is not None
    assert not engine.asleep


@pytest.mark.parametrize("level", [LEVEL_1, LEVEL_2])
def test_an_engine_that_sleeps_has_no_requests(level: str) -> None:
    """Its gauges froze when it fell asleep; what it has done so far stands."""
    found, engine = read(busy(asleep(level)))

    assert numbers(dict(found)) == IDLE
    assert isinstance(found[Signal.TTFT], Distribution)
    assert engine == Engine(
        "vllm", reserves_memory=True, asleep=True, served=2180.0, progress=9213.0
    )


def test_a_pause_is_no_sleep() -> None:
    """At level 0 requests are taken in and wait: they must not be read as none."""
    page = busy(flag(AWAKE, "0.0"), flag(LEVEL_1, "0.0"), flag(LEVEL_2, "0.0"))

    assert numbers(dict(read(page)[0]))[:2] == (12.0, 16.0)
    assert not is_asleep(page)


def test_versions_without_the_flag_are_awake() -> None:
    """What is not said is not assumed."""
    assert numbers(dict(read(busy())[0]))[:2] == (12.0, 16.0)
    assert not is_asleep(busy())


@pytest.mark.parametrize("levels", PAIRS, ids="-".join)
def test_all_engines_of_a_server_have_to_sleep(levels: tuple[str, str]) -> None:
    """One data-parallel engine that is awake may have all the requests."""
    flags = [asleep(level, str(engine)) for engine, level in enumerate(levels)]
    page = busy(*flags) + second(busy())

    assert is_asleep(page) == (AWAKE not in levels)
    assert numbers(dict(read(page)[0]))[:2] == ((24.0, 32.0) if AWAKE in levels else (0.0, 0.0))


@pytest.mark.parametrize("broken", ["NaN", "+Inf", "-1", "2", "0.5"])
def test_a_flag_that_makes_no_sense_is_not_sleep(broken: str) -> None:
    """Only a plain 1 is believed."""
    assert not is_asleep(busy(flag(LEVEL_1, broken)))
    assert is_asleep(busy(flag(LEVEL_1, "1")))


def test_flags_that_stand_twice_are_not_sleep() -> None:
    """Two answers to one question are none."""
    assert not is_asleep(busy(asleep(LEVEL_1), asleep(LEVEL_1)))


def test_sleep_is_that_of_the_model() -> None:
    """A server that sleeps with one model may serve another."""
    other = second(busy(asleep(AWAKE))).replace("tiny-llama", "other")
    page = busy(asleep(LEVEL_1)) + other

    assert not is_asleep(page)
    assert is_asleep(page, model="tiny-llama")
    assert not is_asleep(page, model="other")


def test_other_spellings_of_the_flag_are_read() -> None:
    """As those of the gauges."""
    assert is_asleep(busy(asleep(LEVEL_2)).replace("vllm:", "ray_vllm_"))


def test_the_flag_dates_the_zeros() -> None:
    """They are as old as the proof."""
    old = [
        Sample("vllm:num_requests_waiting", {"model_name": "m"}, 3.0, 9.0),
        Sample("vllm:engine_sleep_state", {"model_name": "m", "sleep_state": LEVEL_1}, 1.0, 5.0),
    ]
    trigger = parse_trigger({"service": "a"}, Accepts())
    found, _ = engines.read(old, trigger, DeviceReadings(devices.ABSENT, devices.ABSENT))

    assert getattr(found[Signal.QUEUE_DEPTH], "at", None) == 5.0
    assert getattr(found[Signal.QUEUE_DEPTH], "number", None) == 0.0


def test_the_flag_alone_is_no_engine() -> None:
    """Sleep without a gauge of requests is not the page of an engine."""
    assert read(asleep(LEVEL_1))[1] is None
