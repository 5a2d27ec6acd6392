"""Triton with the vLLM backend: vLLM's families with Triton's labels, beside Triton's own."""

import pytest

from engine_pages import (
    TEXT,
    buckets,
    capture,
    case,
    engine_of,
    numbers,
    only,
    read,
    readings_of,
    without,
)
from keda_scaler import engines
from keda_scaler.core.readings import Missing, Value
from keda_scaler.core.signals import Signal
from keda_scaler.engines.exposition import parse_page
from keda_scaler.engines.spaces import Part, Space

BUSY = capture("triton-vllm__busy")
REPORTED = case("triton-vllm-backend")
GAUGES = ("vllm:num_requests_", "vllm:gpu_cache_usage_perc")


@pytest.mark.parametrize("engine", ["auto", "triton-vllm"])
def test_the_requests_of_the_backend_are_work(engine: str) -> None:
    """Read as plain Triton's, a page with 25 that wait and 40 that run has nothing to do."""
    assert numbers(read(REPORTED, engine)) == (25.0, 65.0, 0.93)
    assert engine_of(REPORTED, engine) == "triton-vllm"


def test_requests_that_wait_in_triton_are_added() -> None:
    """Of other models of the server; with `model` only those of that model."""
    assert numbers(read(BUSY)) == (28.0, 68.0, 0.93)
    assert numbers(read(BUSY, model="llama")) == (25.0, 65.0, 0.93)
    assert numbers(read(without(BUSY, "nv_inference_pending"))) == (25.0, 65.0, 0.93)


def test_latencies_are_those_of_vllm() -> None:
    """In seconds, as vLLM prints them, and without the setting that Triton's own need."""
    found = read(BUSY)

    assert buckets(found[Signal.TTFT])[1.0] == 15
    assert buckets(found[Signal.ITL])[0.05] == 900
    assert buckets(found[Signal.LATENCY])[60.0] == 19


def test_a_model_that_is_not_there_is_said() -> None:
    """With those that are."""
    assert read(BUSY, model="mistral")[Signal.CONCURRENCY] == Missing(
        "no series of model 'mistral'; there are: embed, llama"
    )


def test_counters_without_gauges_are_unknown() -> None:
    """An old backend, or a page that lost them: it is not Triton with nothing to do."""
    page = without(BUSY, *GAUGES)

    assert engine_of(page) == "triton-vllm"
    assert read(page)[Signal.CONCURRENCY] == Missing("no series of vllm:num_requests_waiting")
    assert engine_of(page, "triton") == "triton", "whoever names it is believed"


def test_a_page_of_vllm_is_vllms_although_prometheus_added_a_model() -> None:
    """A label of the pod is often made a label of its series."""
    page = capture("vllm-0.32.0__busy-queue").replace("model_name=", 'model="llama",model_name=')

    assert engine_of(page) == "vllm"
    assert numbers(read(page))[:2] == (12.0, 16.0)


def test_names_as_an_otel_collector_spells_them() -> None:
    """Some installations write `_` for `:`."""
    page = only(BUSY, ("vllm:", "nv_")).replace("vllm:", "vllm_")

    assert numbers(read(page)) == numbers(read(BUSY))
    assert read(page)[Signal.GPU_MEMORY_PRESSURE] == Value(0.93, 7.0)


@pytest.mark.parametrize("engine", ["auto", "triton-vllm"])
def test_a_prometheus_is_asked_for_all_of_it(engine: str) -> None:
    """And a pod with its series is a replica of whoever names the engine, the model, or neither."""
    gauges, latencies = engines.batches(frozenset({engine}), frozenset({engine}))
    asked = frozenset().union(*gauges, *latencies)
    space = Space("models", [engine])
    for sample in parse_page(REPORTED.encode(), TEXT, asked, 7.0):
        labels = {**sample.labels, "namespace": "models", "pod": "triton-0"}
        space.add(type(sample)(sample.name, labels, sample.number, sample.at))

    (found,) = space.parts.values()
    assert numbers(readings_of(found, engine)) == (25.0, 65.0, 0.93)
    for model in (None, "llama"):
        assert list(space.concerned(engine, model)) == [Part("triton-0", "")]
    assert not space.concerned(engine, "mistral")
