"""Pages that lost something since the poll before: what is gone is unknown, and never 0."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_pages import TEXT, capture, case, only, without
from keda_scaler import engines
from keda_scaler.core.readings import Replica
from keda_scaler.core.signals import Signal
from keda_scaler.core.snapshot import ReplicaReadings, Spans, absorb
from keda_scaler.core.trigger import Accepts, parse_trigger
from keda_scaler.engines.devices import device_readings
from keda_scaler.engines.exposition import parse_page
from keda_scaler.errors import PageError

TRIGGER = parse_trigger(
    {"service": "a", "targetTtftSeconds": "1", "targetGpuUtilization": "50%"}, Accepts()
)
NAMES = engines.names("auto", gpus=True)
REQUESTS = (Signal.QUEUE_DEPTH, Signal.CONCURRENCY)
BEFORE, NOW = 100.0, 105.0


def two_engines(page: str) -> str:
    """Give a page of two data-parallel engines, of which the second has the work."""
    gauges = only(page, ["vllm:num_requests_", "vllm:kv_cache", "vllm:engine_sleep", "vllm:time_"])
    return page + gauges.replace('engine="0"', 'engine="1"')


VLLM = capture("vllm-0.32.0__busy-queue")
PAGES = {
    **{
        name: capture(name)
        for name in (
            "dynamo__frontend-busy",
            "llama.cpp__busy",
            "lmdeploy__busy",
            "nim__busy",
            "sglang__prefill-busy",
            "sglang__ranks-busy",
            "tgi__busy",
            "triton-trtllm__busy",
            "triton-vllm__busy",
            "triton__ensemble-busy",
            "trtllm-serve__busy",
        )
    },
    "vllm": VLLM,
    "vllm, data parallel": two_engines(VLLM),
    "vllm, api servers": case("vllm-0.10-api-servers-pid"),
    "triton, vllm backend": case("triton-vllm-backend"),
}
by_page = pytest.mark.parametrize("page", PAGES.values(), ids=PAGES.keys())


def taken(known: ReplicaReadings, page: str, at: float) -> ReplicaReadings:
    """Take a poll of a page in, as the scaler does."""
    try:
        samples = parse_page(page.encode(), TEXT, NAMES, at)
    except PageError as error:
        return absorb(known, engines.missing(str(error)), None, Spans(120.0, held_since=0.0))
    readings, engine = engines.read(samples, TRIGGER, device_readings(samples))
    return absorb(known, readings, engine, Spans(120.0, held_since=0.0))


def first(page: str) -> ReplicaReadings:
    return taken(ReplicaReadings(Replica("a")), page, BEFORE)


def loses_nothing(before: ReplicaReadings, now: ReplicaReadings) -> bool:
    """Whether each count is missing, or new and no smaller than it was on the whole page."""
    return all(
        signal in now.problems
        or (
            now.values[signal].at == NOW
            and now.values[signal].number >= before.values[signal].number
        )
        for signal in REQUESTS
    )


def damaged(page: str) -> Iterator[str]:
    """Give what is left of a page that ends early, and of one that lost a line."""
    lines = page.splitlines(keepends=True)
    for number, line in enumerate(lines):
        yield "".join(lines[:number])
        if not line.startswith("#"):
            yield "".join(lines[:number] + lines[number + 1 :])


@by_page
def test_no_line_that_is_lost_makes_fewer_requests(page: str) -> None:
    """Not one of the page, and not all behind one: the poll before had them."""
    before = first(page)

    assert not set(REQUESTS) & before.problems.keys()
    assert loses_nothing(before, taken(before, page, NOW)), "the whole page loses nothing"
    assert not set(REQUESTS) & taken(before, page, NOW).problems.keys()
    for rest in set(damaged(page)):
        assert loses_nothing(before, taken(before, rest, NOW)), rest[-200:]


@given(data=st.data(), page=st.sampled_from(list(PAGES.values())))
def test_a_page_that_is_cut_off_anywhere_makes_no_fewer_requests(
    data: st.DataObject, page: str
) -> None:
    """Within a line it is an error, and at its end it is unknown."""
    before = first(page)
    end = data.draw(st.integers(0, len(page) - 1))

    assert loses_nothing(before, taken(before, page[:end], NOW))


def test_a_histogram_that_lost_an_engine_starts_no_new_count() -> None:
    """Its sum would fall as if the process were new, and rise by all that it ever saw when back."""
    page = two_engines(VLLM)
    before = first(page)
    lost = taken(before, VLLM, NOW)
    back = taken(lost, page, NOW + 5)

    assert "series that it had are gone" in lost.problems[Signal.TTFT].reason
    assert lost.windows[Signal.TTFT] == before.windows[Signal.TTFT]
    assert Signal.TTFT not in back.problems
    assert len(back.windows[Signal.TTFT].points) == 2


def test_a_flag_that_is_lost_puts_no_engine_to_sleep() -> None:
    """Of two engines the one that sleeps is left on the page; the other has all the requests."""
    one = 'vllm:engine_sleep_state{{engine="{}",model_name="tiny-llama",sleep_state="{}"}} {}\n'
    states = ("weights_offloaded", "discard_all")
    asleep = one.format(0, states[0], 1) + one.format(0, states[1], 0)
    awake = one.format(1, states[0], 0) + one.format(1, states[1], 0)
    gauges = without(two_engines(VLLM), "vllm:engine_sleep_state")
    before = first(gauges + asleep + awake)

    now = taken(before, gauges + asleep, NOW)

    assert before.values[Signal.CONCURRENCY].number == 32
    assert now.engine is not None
    assert now.engine.asleep
    assert set(REQUESTS) <= now.problems.keys()
    assert now.values == before.values


def test_an_engine_whose_histograms_come_late_had_them_already() -> None:
    """An absent one is empty before its first request, and lost after it."""
    page = capture("dynamo__frontend-busy")
    bare = without(page, "dynamo_frontend_time_to_first_token_seconds")

    assert Signal.TTFT not in first(bare).problems
    assert Signal.TTFT in taken(first(page), bare, NOW).problems


def test_what_some_versions_lack_is_not_lacking_where_it_was() -> None:
    """llama.cpp printed how full its cache was until mid-2025: this one did a poll ago."""
    page = capture("llama.cpp-2025__idle")
    bare = without(page, "llamacpp:kv_cache_usage_ratio")
    before = first(page)
    now = taken(before, bare, NOW)

    assert Signal.GPU_MEMORY_PRESSURE in first(bare).lacking
    assert Signal.GPU_MEMORY_PRESSURE not in now.lacking
    assert now.values[Signal.GPU_MEMORY_PRESSURE] == before.values[Signal.GPU_MEMORY_PRESSURE]
    assert now.problems[Signal.GPU_MEMORY_PRESSURE].reason == "1 of 1 series that it had are gone"
