"""Dynamo's dialect: a frontend whose counts overlap, and workers that belong to their engines."""

from engine_pages import CAPTURES, buckets, capture, engine_of, numbers, read, without
from keda_scaler.core.readings import Lacking, Missing
from keda_scaler.core.signals import Signal

FRONTEND = capture("dynamo__frontend-busy")
WORKER = capture("dynamo__worker-busy")
NOT_QUEUED = without(FRONTEND, "dynamo_frontend_queued_requests")


def test_queued_requests_are_not_added_to_active_ones() -> None:
    """Active counts a request to its end, queued the same one to its first token."""
    assert numbers(read(FRONTEND, model="llama")) == (7.0, 10.0, None)


def test_models_add_up() -> None:
    """Without a model all of them count; the router's queue and the stages are not added."""
    assert numbers(read(FRONTEND)) == (8.0, 12.0, None)


def test_the_deprecated_alias_counts_once() -> None:
    """Active and inflight are the same number; older frontends have the second only."""
    old = without(FRONTEND, "dynamo_frontend_active", "dynamo_frontend_stage")

    assert numbers(read(old)) == numbers(read(FRONTEND))


def test_stages_replace_the_queue_where_it_is_gone() -> None:
    """Only the stages before the first token count, should there be others one day."""
    later = 'dynamo_frontend_stage_requests{phase="",stage="postprocess"} 100\n'

    assert numbers(read(NOT_QUEUED + later)) == (8.0, 12.0, None)


def test_stages_of_all_models_are_not_those_of_one() -> None:
    """They have no label for the model, so the queue of one model is unknown."""
    found = read(NOT_QUEUED, model="llama")

    assert numbers(found) == (None, 10.0, None)
    assert found[Signal.QUEUE_DEPTH] == Missing(
        "no series of dynamo_frontend_queued_requests or dynamo_frontend_stage_requests"
    )
    only_stages = without(
        NOT_QUEUED,
        "dynamo_frontend_active",
        "dynamo_frontend_inflight",
        "dynamo_frontend_t",
        "dynamo_frontend_inter",
        "dynamo_frontend_req",
    )
    assert read(only_stages, model="llama")[Signal.QUEUE_DEPTH] == Missing(
        "no series of model 'llama'; there are: none"
    )


def test_latencies() -> None:
    """All three are the frontend's."""
    found = read(FRONTEND)

    assert buckets(found[Signal.TTFT]) == {0.47: 80, float("inf"): 90}
    assert buckets(found[Signal.ITL]) == {0.019: 8000, 2.0: 9000, float("inf"): 9000}
    assert buckets(found[Signal.LATENCY]) == {2.0: 20, float("inf"): 90}


def test_memory_pressure_of_a_frontend_is_lacking() -> None:
    """It has no GPU; nothing is missing."""
    assert read(FRONTEND)[Signal.GPU_MEMORY_PRESSURE] == Lacking(
        "no series of dynamo_component_kvstats_gpu_cache_usage_percent, which not every Dynamo has"
    )


def test_a_worker_is_read_when_the_trigger_says_dynamo() -> None:
    """It counts what its endpoint generates, and has the share of its cache; it has no queue."""
    assert numbers(read(WORKER, "dynamo")) == (None, 5.0, 0.3)
    assert engine_of(WORKER) == "no series of a known engine"


def test_a_worker_with_series_of_vllm_is_vllms() -> None:
    """The engine knows more of itself than Dynamo does."""
    vllm = (CAPTURES / "vllm-0.32.0__busy-queue.prom").read_text()

    assert engine_of(vllm + WORKER) == "vllm"
    assert numbers(read(vllm + WORKER))[:2] == (12.0, 16.0)
