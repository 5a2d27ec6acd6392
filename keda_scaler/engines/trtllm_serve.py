"""TensorRT-LLM's own server, `trtllm-serve`.

Names: `tensorrt_llm/metrics/collector.py`. `trtllm_num_requests_running` is its `numActiveRequests`
and `trtllm_num_requests_waiting` its `numQueuedRequests`: those not taken in yet, so the two add
up.

Not read:

- `trtllm_time_per_output_token_seconds`: one mean per finished request, whose quantile is not one
  of the time between tokens.
- The names without a prefix of 1.1.0rc: histograms only, nothing that says how many wait or run,
  and names that others print too.
"""

from keda_scaler.core.signals import Signal
from keda_scaler.engines.combining import mean
from keda_scaler.engines.dialect import Dialect, Family, Quantity

_SINCE = "2026-03 and later"

_WAITING = Quantity((Family("trtllm_num_requests_waiting", versions=_SINCE),))
_RUNNING = Quantity((Family("trtllm_num_requests_running", versions=_SINCE),))

TRTLLM_SERVE = Dialect(
    name="trtllm-serve",
    title="trtllm-serve",
    path="/prometheus/metrics",
    model_label="model_name",
    signals={
        Signal.QUEUE_DEPTH: (_WAITING,),
        Signal.CONCURRENCY: (_WAITING, _RUNNING),
        Signal.GPU_MEMORY_PRESSURE: (
            Quantity(
                (Family("trtllm_kv_cache_utilization", versions=_SINCE),), combine=mean, highest=1.0
            ),
        ),
    },
    late_histograms=True,
    latencies={
        Signal.TTFT: (Family("trtllm_time_to_first_token_seconds", versions=_SINCE),),
        Signal.LATENCY: (Family("trtllm_e2e_request_latency_seconds", versions=_SINCE),),
    },
    served=(
        Family("trtllm_request_success_total", versions=_SINCE),
        Family("trtllm_request_error_total", versions="newer ones"),
    ),
    steps=(Family("trtllm_kv_cache_gen_alloc_blocks_total", versions="newer ones"),),
    # Some versions of Dynamo print the names of its workers so.
    spellings=(("trtllm_", "trtllm:"),),
    reserves_memory=True,
    supersedes=frozenset({"nim"}),
    notes=(
        "Needs `return_perf_metrics: true`, and `enable_iter_perf_stats: true` for all but the"
        " latencies. `/metrics` is JSON; the page is at `/prometheus/metrics`, which has to be"
        " given as `path` with `engine: auto`. Without `trtllm_kv_cache_gen_alloc_blocks_total`,"
        " which moves while tokens are generated, progress shows only when a request ends: let"
        " `stuckSeconds` be longer than the longest one."
    ),
)
