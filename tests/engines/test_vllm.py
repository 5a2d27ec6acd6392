"""vLLM's dialect, on recorded pages and on what else a page may be."""

from pathlib import Path

import pytest

from engine_pages import case, readings_of
from keda_scaler import engines
from keda_scaler.core.readings import Missing, Reading, Value
from keda_scaler.core.signals import Signal
from keda_scaler.engines.exposition import parse_page
from keda_scaler.errors import PageError

CAPTURES = Path(__file__).parent.parent / "captures"
SAMPLES = Path(__file__).parents[3] / "shared" / "samples"
TEXT = "text/plain; version=1.0.0; charset=utf-8"


def read(
    page: str | bytes, engine: str = "auto", model: str | None = None
) -> dict[Signal, Reading]:
    body = page if isinstance(page, bytes) else page.encode()
    samples = parse_page(body, TEXT, engines.names(engine), at=7.0)
    return readings_of(samples, engine, model)


GAUGES = (Signal.QUEUE_DEPTH, Signal.CONCURRENCY, Signal.GPU_MEMORY_PRESSURE)


def gauges(readings: dict[Signal, Reading]) -> dict[Signal, Reading]:
    return {signal: readings[signal] for signal in GAUGES}


def page(waiting: str = "3", running: str = "2", kv: str = "0.5", labels: str = "") -> str:
    own = 'engine="0",model_name="m"' + labels
    return (
        f"vllm:num_requests_waiting{{{own}}} {waiting}\n"
        f"vllm:num_requests_running{{{own}}} {running}\n"
        f"vllm:kv_cache_usage_perc{{{own}}} {kv}\n"
    )


@pytest.mark.parametrize(
    ("state", "waiting", "concurrency", "kv"),
    [
        ("idle-fresh", 0, 0, 0.0),
        ("busy-queue", 12, 16, 0.010258915486077158),
        ("idle-after", 0, 0, 0.0),
        ("after-abort-0s", 36, 39, 0.009281875915974624),
    ],
)
def test_recorded_pages(state: str, waiting: float, concurrency: float, kv: float) -> None:
    """What vLLM 0.32.0 printed is what its operators saw. Two series say whether it sleeps."""
    body = (CAPTURES / f"vllm-0.32.0__{state}.prom").read_bytes()

    assert gauges(read(body, model="tiny-llama")) == {
        Signal.QUEUE_DEPTH: Value(waiting, 7.0, series=1 + 2),
        Signal.CONCURRENCY: Value(concurrency, 7.0, series=2 + 2),
        Signal.GPU_MEMORY_PRESSURE: Value(kv, 7.0, series=1 + 2),
    }


@pytest.mark.skipif(not SAMPLES.exists(), reason="other people's pages are not in the repository")
@pytest.mark.parametrize(("sample", "waiting"), [("vllm-v1-busy", 12), ("vllm", 0)])
def test_pages_that_others_recorded(sample: str, waiting: float) -> None:
    """Waiting requests by reason are never counted in."""
    readings = read((SAMPLES / f"{sample}.prom").read_bytes())

    assert readings[Signal.QUEUE_DEPTH] == Value(waiting, 7.0)


def test_data_parallel_engines_add_up_and_average() -> None:
    """Requests are summed over the label engine, cache usage is its mean."""
    both = page("3", "2", "0.2") + page("4", "1", "0.6").replace('engine="0"', 'engine="1"')

    assert gauges(read(both)) == {
        Signal.QUEUE_DEPTH: Value(7.0, 7.0, series=2),
        Signal.CONCURRENCY: Value(10.0, 7.0, series=4),
        Signal.GPU_MEMORY_PRESSURE: Value(0.4, 7.0, series=2),
    }


def test_old_and_new_cache_names() -> None:
    """Either name is read; a version that prints both is counted once."""
    old = page(kv="0.25").replace("kv_cache_usage_perc", "gpu_cache_usage_perc")

    assert read(old)[Signal.GPU_MEMORY_PRESSURE] == Value(0.25, 7.0)
    both = page(kv="0.5") + old.splitlines()[-1] + "\n"
    assert read(both)[Signal.GPU_MEMORY_PRESSURE] == Value(0.5, 7.0)


def test_the_routers_look_alikes_are_ignored() -> None:
    """A router repeats the names with the label server; only the engine's own series count."""
    router = 'vllm:num_requests_waiting{server="http://10.0.0.1:8000"} 99\n'

    assert read(page() + router)[Signal.QUEUE_DEPTH] == Value(3.0, 7.0)
    assert read(router)[Signal.QUEUE_DEPTH] == Missing("no series of a known engine")


def test_the_model_filter() -> None:
    """Only series of the model are read; a model that is not there is not zero."""
    two = page("3") + page("9").replace('"m"', '"other"')

    assert read(two, model="other")[Signal.QUEUE_DEPTH] == Value(9.0, 7.0)
    assert read(two)[Signal.QUEUE_DEPTH] == Value(12.0, 7.0, series=2)
    assert read(two, model="absent")[Signal.QUEUE_DEPTH] == Missing(
        "no series of model 'absent'; there are: m, other"
    )


def test_a_family_that_is_absent_is_missing() -> None:
    """A page without a family says nothing about it; the other signals are read."""
    lines = page().splitlines(keepends=True)

    without_kv = read("".join(lines[:2]))
    assert without_kv[Signal.QUEUE_DEPTH] == Value(3.0, 7.0)
    assert without_kv[Signal.GPU_MEMORY_PRESSURE] == Missing(
        "no series of vllm:kv_cache_usage_perc or vllm:gpu_cache_usage_perc"
    )
    without_running = read(lines[0] + lines[2])
    assert without_running[Signal.CONCURRENCY] == Missing("no series of vllm:num_requests_running")


@pytest.mark.parametrize("wrong", ["NaN", "-nan(ind)", "-1", "+Inf", "-Inf"])
def test_a_number_that_makes_no_sense_is_missing(wrong: str) -> None:
    """NaN, infinity and less than nothing are no readings."""
    assert isinstance(read(page(waiting=wrong))[Signal.QUEUE_DEPTH], Missing)


def test_a_ratio_above_one_is_a_unit_error() -> None:
    """The name says percent and the value is a ratio; a percentage is not read as one."""
    assert read(page(kv="85"))[Signal.GPU_MEMORY_PRESSURE] == Missing(
        "vllm:kv_cache_usage_perc is 85"
    )


def test_a_series_that_stands_twice_is_missing() -> None:
    """Counting it twice or picking one would both be guesses."""
    assert isinstance(read(page() + page())[Signal.QUEUE_DEPTH], Missing)


@pytest.mark.parametrize("label", ["a,b", "}", 'x\\"y', "a\\\\b", "\u2028", "na\\nme"])
def test_label_values_may_hold_anything(label: str) -> None:
    """Braces, quotes, commas and odd line separators in a label value change nothing."""
    assert read(page(labels=f',extra="{label}"'))[Signal.QUEUE_DEPTH] == Value(3.0, 7.0)


def test_the_oldest_sample_dates_a_reading() -> None:
    """A sum of samples is as old as the oldest of them."""
    samples = parse_page(page().encode(), TEXT, engines.names("vllm"), at=5.0)
    later = parse_page(
        page().replace('engine="0"', 'engine="1"').encode(), TEXT, engines.names("vllm"), at=9.0
    )

    readings = readings_of([*later, *samples], "vllm")
    assert readings[Signal.CONCURRENCY] == Value(10.0, 5.0, series=4)


@pytest.mark.parametrize(
    ("body", "content_type", "says"),
    [
        (b"<html></html>", "text/html", "the page is text/html, not metrics"),
        (b"[]", "application/json", "the page is application/json"),
        (b'vllm:num_requests_waiting{a="b} 1\n', TEXT, "not an exposition"),
        (b"vllm:num_requests_waiting 1\n" * 10_001, TEXT, "more than 10000 wanted series"),
    ],
)
def test_a_page_that_is_none_is_an_error(body: bytes, content_type: str, says: str) -> None:
    """What cannot be read is said, never read as nothing."""
    with pytest.raises(PageError, match=says.replace("(", r"\(")):
        parse_page(body, content_type, engines.names("auto"), 0.0)


def test_lines_of_no_interest_do_no_harm() -> None:
    """One broken line of another family does not cost the whole page."""
    assert read("llamacpp:n_busy_slots_per_decode -nan(ind)\n" + page())[
        Signal.QUEUE_DEPTH
    ] == Value(3.0, 7.0)


def test_the_path_of_the_page() -> None:
    """vLLM serves /metrics, and so does what is not known yet."""
    assert engines.path("vllm") == engines.path("auto") == "/metrics"


def test_which_samples_concern_a_trigger() -> None:
    """Samples of another model, or of no model, are none of ours."""
    sample = parse_page(page().encode(), TEXT, engines.names("auto"), 0.0)[0]

    assert engines.concerns(sample, "auto", None)
    assert engines.concerns(sample, "vllm", "m")
    assert not engines.concerns(sample, "vllm", "other")


def test_a_gauge_that_every_api_server_prints_is_the_largest() -> None:
    """All but one have heard nothing of the engine; their mean would be an eighth of the truth."""
    found = read(case("vllm-0.10-api-servers-pid"))

    assert found[Signal.GPU_MEMORY_PRESSURE] == Value(0.95, 7.0, series=8)
    assert found[Signal.CONCURRENCY] == Value(12.0, 7.0, series=2)


def test_api_servers_of_several_engines() -> None:
    """Per engine the largest; over engines requests add up, and usage averages."""
    heard = {("0", "11"): ("3", "4", "0.75"), ("1", "12"): ("1", "2", "0.25")}
    lines = "".join(
        page(*heard.get((engine, pid), ("0", "0", "0")), labels=f',pid="{pid}"').replace(
            'engine="0"', f'engine="{engine}"'
        )
        for engine in "01"
        for pid in ("11", "12")
    )

    assert gauges(read(lines)) == {
        Signal.QUEUE_DEPTH: Value(4.0, 7.0, series=4),
        Signal.CONCURRENCY: Value(10.0, 7.0, series=8),
        Signal.GPU_MEMORY_PRESSURE: Value(0.5, 7.0, series=4),
    }
