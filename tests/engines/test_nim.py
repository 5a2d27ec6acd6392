"""NIM's dialect: names that anyone may use."""

import pytest

from engine_pages import buckets, capture, engine_of, numbers, only, read, without
from keda_scaler import engines
from keda_scaler.core.signals import Signal
from keda_scaler.engines.samples import Sample

BUSY = capture("nim__busy")
VLLM = """\
num_request_max{model_name="m"} 1024
vllm:num_requests_running{engine="0",model_name="m"} 3
vllm:num_requests_running{engine="1",model_name="m"} 1
vllm:num_requests_waiting{engine="0",model_name="m"} 2
vllm:num_requests_waiting{engine="1",model_name="m"} 0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.5
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.25
"""


@pytest.mark.parametrize("engine", ["auto", "nim"])
def test_a_busy_page(engine: str) -> None:
    """2 wait and 7 run; the share of the cache is a ratio in spite of its name."""
    found = read(BUSY, engine)

    assert numbers(found) == (2.0, 9.0, 0.125)
    assert buckets(found[Signal.TTFT]) == {0.25: 30, float("inf"): 34}
    assert buckets(found[Signal.ITL]) == {0.025: 900, float("inf"): 960}
    assert buckets(found[Signal.LATENCY]) == {2.5: 20, float("inf"): 34}


def test_generic_names_alone_are_not_taken_for_a_nim() -> None:
    """Anyone may print them; `auto` does not guess, and a trigger that says so is believed."""
    generic = without(BUSY, "num_request_max")

    assert engine_of(generic) == "no series of a known engine"
    assert engine_of(generic, "nim") == "nim"
    assert numbers(read(generic, "nim")) == (2.0, 9.0, 0.125)


def test_pods_with_generic_names_are_no_replicas() -> None:
    """Through Prometheus, `auto` follows only what is known to be an engine."""
    labels = {"model_name": "m"}

    assert not engines.concerns(Sample("num_requests_waiting", labels, 1.0, 0.0), "auto", None)
    assert engines.concerns(Sample("num_request_max", labels, 1.0, 0.0), "auto", None)
    assert engines.concerns(Sample("num_requests_waiting", labels, 1.0, 0.0), "nim", None)


@pytest.mark.parametrize("engine", ["auto", "nim", "vllm"])
def test_a_nim_that_runs_vllm_is_one_engine(engine: str) -> None:
    """It prints vLLM's families and one of its own, and reads the same under each key."""
    assert engine_of(VLLM, engine) == ("nim" if engine == "nim" else "vllm")
    assert numbers(read(VLLM, engine)) == (2.0, 6.0, 0.375)


def test_the_name_of_the_mark_alone_proves_nothing() -> None:
    """A page of which only the limit is left has no requests to count."""
    assert numbers(read(only(BUSY, ["num_request_max"]))) == (None, None, None)


def test_the_path_of_the_page() -> None:
    """It is below the API's version."""
    assert engines.path("nim") == "/v1/metrics"
