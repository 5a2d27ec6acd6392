"""NVIDIA Triton with the TensorRT-LLM backend, which adds its own families to Triton's.

Names: README of `tensorrtllm_backend`, `custom_metrics_reporter.cc` and `all_models/.../model.py`.
What the request types mean is in `model_instance_state.cc`: `waiting` is `active` less `scheduled`,
and `context` is a part of `scheduled`. So `waiting` and `scheduled` make up `active`, which is not
added to them, and `max` is a limit.

Requests also wait in Triton itself, for example when all instances of a BLS model are taken; one
that was handed to the backend is not pending there any more.
"""

from keda_scaler.core.signals import Signal
from keda_scaler.engines.combining import largest
from keda_scaler.engines.dialect import Absence, Dialect, Family, Quantity
from keda_scaler.engines.triton import ENDED, FIRST_RESPONSE, PENDING, REQUEST_SUMMARY

_REQUESTS = "nv_trt_llm_request_metrics"
_BLOCKS = "nv_trt_llm_kv_cache_block_metrics"


def _requests(kind: str) -> Quantity:
    return Quantity((Family(_REQUESTS, {"request_type": {kind}}, versions="all"),))


_WAITING = (_requests("waiting"), Quantity((PENDING,), absence=Absence.ZERO))

TRITON_TRTLLM = Dialect(
    name="triton-trtllm",
    title="Triton with TensorRT-LLM",
    model_label="model",
    signals={
        Signal.QUEUE_DEPTH: _WAITING,
        Signal.CONCURRENCY: (*_WAITING, _requests("scheduled")),
        # Used blocks by all blocks; every model and version has a pool of its own.
        Signal.GPU_MEMORY_PRESSURE: (
            Quantity(
                (Family(_BLOCKS, {"kv_cache_block_type": {"fraction"}}, versions="all"),),
                combine=largest,
                highest=1.0,
            ),
        ),
    },
    latencies={Signal.TTFT: (FIRST_RESPONSE,)},
    summaries={Signal.LATENCY: (REQUEST_SUMMARY,)},
    steps=ENDED,  # also in the signals
    reserves_memory=True,
    supersedes=frozenset({"triton"}),
    marks=frozenset({_REQUESTS, _BLOCKS}),
    notes=(
        "`model` is the name of the model that runs TensorRT-LLM (`tensorrt_llm`), not that of the"
        " ensemble; without `model`, requests that wait for any model count. Progress shows when a"
        " request ends: let `stuckSeconds` be longer than the longest one."
    ),
)
