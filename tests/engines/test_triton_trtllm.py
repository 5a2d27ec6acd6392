"""Triton with the TensorRT-LLM backend: request types, and two families of requests that wait."""

from engine_pages import capture, engine_of, needs_samples, numbers, read, sample, without
from keda_scaler.core.readings import Missing
from keda_scaler.core.signals import Signal

BUSY = capture("triton-trtllm__busy")


def test_active_requests_are_not_added_to_their_parts() -> None:
    """Waiting and scheduled make up active; context is a part of scheduled, max a limit."""
    found = read(BUSY, model="tensorrt_llm")

    assert numbers(found) == (4.0, 20.0, 0.75)


def test_several_models_add_up_and_the_fullest_cache_counts() -> None:
    """Requests of a BLS model wait in Triton, before TensorRT-LLM knows of them."""
    assert numbers(read(BUSY)) == (9.0, 28.0, 0.75)


def test_a_server_without_pending_requests_is_read() -> None:
    """Triton before 23.09 does not have them."""
    assert numbers(read(without(BUSY, "nv_inference_pending"))) == (4.0, 23.0, 0.75)


def test_a_missing_request_type_is_not_zero() -> None:
    """The family alone does not prove anything."""
    bare = without(
        BUSY,
        "nv_inference",
        *(
            f'nv_trt_llm_request_metrics{{model="{model}",request_type="waiting"'
            for model in ("tensorrt_llm", "draft")
        ),
    )

    assert read(bare)[Signal.QUEUE_DEPTH] == Missing("no series of nv_trt_llm_request_metrics")


def test_it_supersedes_triton() -> None:
    """The page has all of Triton's families; it can still be read as plain Triton's."""
    assert engine_of(BUSY) == "triton-trtllm"
    assert engine_of(BUSY, "triton") == "triton"
    assert engine_of(without(BUSY, "nv_trt_llm")) == "triton"


@needs_samples
def test_a_page_that_others_recorded() -> None:
    """The README's page; its parts do not agree with each other."""
    found = read(sample("triton"))

    assert engine_of(sample("triton")) == "triton-trtllm"
    assert numbers(found) == (1.0, 2.0, 0.4875)
