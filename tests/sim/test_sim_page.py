"""The page of a simulated engine, beside one of a real vLLM."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client import CONTENT_TYPE_LATEST, Metric
from prometheus_client.parser import text_string_to_metric_families

from engine_pages import readings_of
from keda_scaler.core.readings import Value
from keda_scaler.core.signals import Signal
from keda_scaler.engines import names
from keda_scaler.engines.exposition import parse_page
from keda_scaler.sim.engine import Engine
from keda_scaler.sim.model import EngineModel
from keda_scaler.sim.page import CONTENT_TYPE, render, render_without_engine
from keda_scaler.sim.requests import FinishReason, Request

CAPTURE = Path(__file__).parents[1] / "captures" / "vllm-0.32.0__busy-queue.prom"
STARTED = 1_700_000_000.5
MODEL = EngineModel(name="tiny-llama", max_num_seqs=4)

_OF_ONE_SETUP = {"vllm:cache_config_info", "python_info"}
"""Families whose labels tell how a server was set up, and differ from one to the next."""


def _busy() -> Engine:
    engine = Engine(MODEL)
    for index in range(12):
        finish = FinishReason.LENGTH if index % 2 else FinishReason.STOP
        engine.submit(Request(100, 20), 0.0) if index < 6 else engine.submit(
            Request(100, 100, finish), 1.0
        )
    engine.abort(12, 1.5)
    engine.advance(2.0)
    return engine


def _page() -> bytes:
    return render(MODEL, _busy().state(), STARTED)


def _families(page: str) -> Mapping[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(page)}


def _series(family: Metric) -> set[tuple[str, frozenset[tuple[str, str]]]]:
    return {(sample.name, frozenset(sample.labels.items())) for sample in family.samples}


def test_families_have_the_types_and_series_that_vllm_prints() -> None:
    """Every family is one of vLLM's, with its type, sample names, labels and bucket bounds."""
    ours = _families(_page().decode())
    theirs = _families(CAPTURE.read_text())

    assert set(ours) <= set(theirs)
    for name, family in ours.items():
        assert family.type == theirs[name].type, name
        if name in _OF_ONE_SETUP:
            assert set(family.samples[0].labels) <= set(theirs[name].samples[0].labels)
        else:
            assert _series(family) == _series(theirs[name]), name


def test_page_has_the_families_that_scalers_read() -> None:
    """What is left out of vLLM's page is not what anybody scales on."""
    families = _families(_page().decode())

    assert {
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:num_requests_waiting_by_reason",
        "vllm:kv_cache_usage_perc",
        "vllm:engine_sleep_state",
        "vllm:cache_config_info",
        "vllm:prefix_cache_queries",
        "vllm:prefix_cache_hits",
        "vllm:num_preemptions",
        "vllm:prompt_tokens",
        "vllm:generation_tokens",
        "vllm:request_success",
        "vllm:time_to_first_token_seconds",
        "vllm:inter_token_latency_seconds",
        "vllm:e2e_request_latency_seconds",
        "vllm:request_queue_time_seconds",
        "process_start_time_seconds",
    } <= set(families)
    assert all(family.documentation for family in families.values())


def test_page_says_what_the_engine_does() -> None:
    """Numbers come through: gauges, counters by reason, histograms with their sums."""
    engine = _busy()
    state = engine.state()
    families = _families(render(MODEL, state, STARTED).decode())
    samples = {
        (
            sample.name,
            *(sample.labels.get(key, "") for key in ("reason", "finished_reason", "le")),
        ): (sample.value)
        for family in families.values()
        for sample in family.samples
    }

    assert state.running == 4
    assert samples["vllm:num_requests_running", "", "", ""] == state.running
    assert samples["vllm:num_requests_waiting", "", "", ""] == state.waiting > 0
    assert samples["vllm:num_requests_waiting_by_reason", "capacity", "", ""] == state.waiting
    assert samples["vllm:kv_cache_usage_perc", "", "", ""] == state.kv_cache_usage > 0
    assert samples["vllm:generation_tokens_total", "", "", ""] == state.generation_tokens
    assert samples["vllm:request_success_total", "", "stop", ""] == 6
    assert samples["vllm:request_success_total", "", "abort", ""] == 1
    assert samples["vllm:request_success_total", "", "error", ""] == 0
    assert samples["vllm:time_to_first_token_seconds_sum", "", "", ""] == state.ttft.sum
    assert (
        samples["vllm:time_to_first_token_seconds_bucket", "", "", "+Inf"]
        == (samples["vllm:time_to_first_token_seconds_count", "", "", ""])
    )
    assert samples["process_start_time_seconds", "", "", ""] == STARTED


@pytest.mark.parametrize("number", ["0.0", "1.0", "0.5"])
def test_gauges_are_spelled_as_vllm_spells_them(number: str) -> None:
    """Numbers are written as Python's floats, like in the capture."""
    state = Engine(EngineModel(num_blocks=2, block_size=16, max_num_seqs=2))
    for _ in range({"0.0": 0, "0.5": 1, "1.0": 2}[number]):
        state.submit(Request(16, 1), 0.0)

    page = render(MODEL, state.state(), STARTED).decode()

    assert f'vllm:kv_cache_usage_perc{{engine="0",model_name="tiny-llama"}} {number}\n' in page


def test_our_own_dialect_reads_it() -> None:
    """The page passes through the same code that reads real engines."""
    state = _busy().state()
    samples = parse_page(render(MODEL, state, STARTED), CONTENT_TYPE, names("auto"), 7.0)

    read = readings_of(samples, "auto", "tiny-llama")

    assert read[Signal.QUEUE_DEPTH] == Value(state.waiting, 7.0, series=3)
    assert read[Signal.CONCURRENCY] == Value(state.waiting + state.running, 7.0, series=4)
    assert read[Signal.GPU_MEMORY_PRESSURE] == Value(state.kv_cache_usage, 7.0, series=3)


def test_page_without_an_engine_is_valid_and_has_no_engine_family() -> None:
    """It is an exposition of a process, as vLLM's with statistics turned off."""
    families = _families(render_without_engine(STARTED).decode())

    assert "process_start_time_seconds" in families
    assert not [name for name in families if name.startswith("vllm:")]


def test_content_type_is_that_of_the_format() -> None:
    """The page is announced as what prometheus_client writes."""
    assert CONTENT_TYPE == CONTENT_TYPE_LATEST


def test_odd_model_names_survive() -> None:
    """Quotes, backslashes and line ends in a model's name are escaped."""
    model = EngineModel(name='a"b\\c\nd')

    families = _families(render(model, Engine(model).state(), STARTED).decode())

    assert families["vllm:num_requests_running"].samples[0].labels["model_name"] == 'a"b\\c\nd'
