"""trtllm-serve's dialect."""

from engine_pages import buckets, capture, engine_of, histogram, numbers, read, without
from keda_scaler import engines
from keda_scaler.core.readings import Lacking, Missing
from keda_scaler.core.signals import Signal

BUSY = capture("trtllm-serve__busy")


def test_a_busy_page() -> None:
    """3 are queued and 12 more are active; active ones are not queued."""
    found = read(BUSY)

    assert numbers(found) == (3.0, 15.0, 0.375)
    assert buckets(found[Signal.TTFT]) == {0.5: 40, float("inf"): 50}
    assert buckets(found[Signal.LATENCY]) == {10.0: 30, float("inf"): 50}


def test_mean_time_per_output_token_is_not_the_time_between_tokens() -> None:
    """It is one mean per finished request."""
    assert read(BUSY)[Signal.ITL] == Lacking("trtllm-serve does not expose itl")


def test_without_iteration_statistics_the_gauges_are_missing() -> None:
    """They need an option of their own; latencies do not."""
    bare = without(BUSY, "trtllm_num", "trtllm_kv")

    assert read(bare)[Signal.QUEUE_DEPTH] == Missing("no series of trtllm_num_requests_waiting")
    assert buckets(read(bare)[Signal.TTFT])


def test_the_names_that_dynamo_prints_of_it() -> None:
    """Some versions of Dynamo put a colon behind the prefix; its worker is read as the engine."""
    renamed = BUSY.replace("trtllm_", "trtllm:")
    worker = capture("dynamo__worker-busy")

    assert engine_of(renamed + worker) == "trtllm-serve"
    assert numbers(read(renamed + worker)) == numbers(read(BUSY))


def test_names_without_a_prefix_are_not_read() -> None:
    """Early releases print histograms that any server might; they say nothing of requests."""
    early = histogram("time_to_first_token_seconds", {"+Inf": 3}, 'model_name="undefined"')

    assert engine_of(early) == "no series of a known engine"
    assert engine_of(early, "trtllm-serve") == "no series of trtllm-serve"


def test_the_path_of_the_page() -> None:
    """/metrics is JSON."""
    assert engines.path("trtllm-serve") == "/prometheus/metrics"
