"""Hugging Face Text Generation Inference (TGI).

Names: `docs/source/reference/metrics.md`, `backends/v3/src/queue.rs` and `backend.rs`. Nothing has
a label, so a trigger's `model` cannot be told and is not looked at. There is no time to first
token. `tgi_request_mean_time_per_token_duration` is one mean per request, with the prefill in it
(inference time by tokens): a quantile of it is not one of the time between tokens, and is not read.
"""

from keda_scaler.core.signals import Signal
from keda_scaler.engines.dialect import Dialect, Family, Quantity, Ratio

_WAITING = Quantity((Family("tgi_queue_size", versions="all"),))
_RUNNING = Quantity((Family("tgi_batch_current_size", versions="all"),))

TGI = Dialect(
    name="tgi",
    title="TGI",
    signals={
        Signal.QUEUE_DEPTH: (_WAITING,),
        Signal.CONCURRENCY: (_WAITING, _RUNNING),
        # Tokens that the running batch may come to, of those that the KV cache has room for.
        Signal.GPU_MEMORY_PRESSURE: Ratio(
            used=Quantity((Family("tgi_batch_current_max_tokens", versions="all"),)),
            available=Quantity((Family("tgi_batch_max_total_tokens", versions="3 and later"),)),
        ),
    },
    latencies={Signal.LATENCY: (Family("tgi_request_duration", versions="all"),)},
    served=(
        Family("tgi_request_success", versions="all"),
        Family("tgi_request_failure", versions="all"),
    ),
    steps=(Family("tgi_batch_inference_success", versions="all; steps of the model"),),
    reserves_memory=True,
    notes=(
        "A gauge is printed only after it was set once: the queue of a server that had no request"
        " yet is unknown, not empty. Memory pressure is what the running batch may come to, not"
        " what it uses."
    ),
)
