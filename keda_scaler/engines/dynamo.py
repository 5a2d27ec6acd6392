"""NVIDIA Dynamo: its frontend, and what its workers print for all engines.

Names: Dynamo's "Metrics" (v1.3), `lib/llm/src/http/service/metrics.rs` and
`lib/runtime/src/metrics`. `dynamo_frontend_active_requests` counts a request from the HTTP handler
to the end of the stream, and `dynamo_frontend_queued_requests` counts it until its first token: the
second is a part of the first and is not added to it.

A worker's page has the families of the engine in it, such as vLLM's, and is taken for that engine:
what tells Dynamo is the frontend.
"""

from keda_scaler.core.signals import Signal
from keda_scaler.engines.combining import largest
from keda_scaler.engines.dialect import Absence, Dialect, Family, Quantity

_ACTIVE = "dynamo_frontend_active_requests"
_INFLIGHT = "dynamo_frontend_inflight_requests"
_QUEUED = "dynamo_frontend_queued_requests"
_STAGE = "dynamo_frontend_stage_requests"

_WAITING = Quantity(
    (
        Family(_QUEUED, versions="all; deprecated"),
        Family(
            _STAGE,
            {"stage": {"preprocess", "route", "dispatch"}},  # those up to the first token
            versions="1.3 and later",
            of_all_models=True,
        ),
    )
)
_IN_ENGINE = Quantity(
    (
        Family(_ACTIVE, versions="1.3 and later"),
        Family(_INFLIGHT, versions="all; deprecated"),
        Family(
            "dynamo_component_inflight_requests",
            {"dynamo_endpoint": {"generate"}},
            versions="workers",
            of_all_models=True,
        ),
    )
)
_KV_CACHE_USAGE = Quantity(
    (
        Family(
            "dynamo_component_kvstats_gpu_cache_usage_percent",  # a ratio, not percent
            versions="workers",
            of_all_models=True,
        ),
    ),
    combine=largest,
    highest=1.0,
    absence=Absence.LACKING,
)

DYNAMO = Dialect(
    name="dynamo",
    title="Dynamo",
    model_label="model",
    signals={
        Signal.QUEUE_DEPTH: (_WAITING,),
        Signal.CONCURRENCY: (_IN_ENGINE,),
        Signal.GPU_MEMORY_PRESSURE: (_KV_CACHE_USAGE,),
    },
    late_histograms=True,
    latencies={
        Signal.TTFT: (Family("dynamo_frontend_time_to_first_token_seconds", versions="all"),),
        Signal.ITL: (Family("dynamo_frontend_inter_token_latency_seconds", versions="all"),),
        Signal.LATENCY: (Family("dynamo_frontend_request_duration_seconds", versions="all"),),
    },
    served=(Family("dynamo_frontend_requests_total", versions="all"),),
    steps=(
        Family("dynamo_frontend_output_tokens_total", versions="newer ones; while they come"),
        Family(  # it counts the probes of workers as well
            "dynamo_component_requests_total",
            {"dynamo_endpoint": {"generate"}},
            versions="workers",
            of_all_models=True,
        ),
    ),
    reserves_memory=True,
    marks=frozenset({_ACTIVE, _INFLIGHT, _QUEUED, _STAGE}),
    notes=(
        "Read the frontend. Queue depth counts requests until their first token, so also those in"
        " prefill. Once `dynamo_frontend_queued_requests` is gone, queue depth is that of all"
        " models, and unknown with `model`. The frontend has no memory pressure. A worker's page"
        " with an engine's own families is that engine's. Time between tokens ends at 2 s with the"
        " default buckets."
    ),
)
