"""vLLM.

Names and labels: `vllm/v1/metrics/loggers.py` and `ray_wrappers.py`; checked on pages recorded from
vLLM 0.32.0 (`tests/captures`). The label `engine` numbers the data-parallel engines of one server:
requests add up over it, cache usage averages over it. Two look-alikes are kept out:

- `vllm:num_requests_waiting_by_reason` splits `vllm:num_requests_waiting` up again, and would
  count every waiting request twice; names are matched whole.
- The router of production-stack repeats engine names with the label `server` and without
  `model_name`; a series without a model is not an engine's.
"""

from keda_scaler.core.signals import Signal
from keda_scaler.engines.combining import mean
from keda_scaler.engines.dialect import Dialect, Family, Quantity

_WAITING = Quantity((Family("vllm:num_requests_waiting", versions="all"),))
_RUNNING = Quantity((Family("vllm:num_requests_running", versions="all"),))

_KV_CACHE_USAGE = Quantity(
    (
        Family("vllm:kv_cache_usage_perc", versions="0.9.2 and later"),  # a ratio, not percent
        Family("vllm:gpu_cache_usage_perc", versions="to 0.10"),  # 0.9.2 to 0.10 print both
    ),
    combine=mean,
    highest=1.0,
)

VLLM = Dialect(
    name="vllm",
    title="vLLM",
    model_label="model_name",
    signals={
        Signal.QUEUE_DEPTH: (_WAITING,),
        Signal.CONCURRENCY: (_WAITING, _RUNNING),
        Signal.GPU_MEMORY_PRESSURE: (_KV_CACHE_USAGE,),
    },
    latencies={
        Signal.TTFT: (Family("vllm:time_to_first_token_seconds", versions="all"),),
        Signal.ITL: (
            Family("vllm:inter_token_latency_seconds", versions="0.11 and later"),
            Family("vllm:time_per_output_token_seconds", versions="to 0.11"),
        ),
        Signal.LATENCY: (Family("vllm:e2e_request_latency_seconds", versions="all"),),
    },
    # OpenTelemetry and some managed services write `_` for `:`; Ray puts `ray_` in front.
    spellings=(("vllm:", "vllm_"), ("vllm:", "ray_vllm_"), ("vllm:", "ray_vllm:")),
    reserves_memory=True,
    # A NIM that runs vLLM prints vLLM's families and `num_request_max` beside them.
    supersedes=frozenset({"nim"}),
    notes="`--disable-log-stats` turns all of these off: nothing can be known then.",
)
