"""vLLM.

Names and labels: `vllm/v1/metrics/loggers.py` and `ray_wrappers.py`; checked on pages recorded from
vLLM 0.32.0 (`tests/captures`). The label `engine` numbers the data-parallel engines of one server:
requests add up over it, cache usage averages over it. With several API servers (0.9.2 to about
0.11) a gauge may be printed once per `pid`, each the last that this server heard of the engine, and
most heard nothing. Two look-alikes are kept out:

- `vllm:num_requests_waiting_by_reason` splits `vllm:num_requests_waiting` up again, and would
  count every waiting request twice; names are matched whole.
- The router of production-stack repeats engine names with the label `server` and without
  `model_name`; a series without a model is not an engine's.

Sleep: `vllm/v1/engine/core.py` and `async_llm.py`. Levels 1 and 2 take the weights and the cache
out of the GPU's memory and by default end all requests; gauges are written with each step, and no
step comes to correct them. Level 0 only pauses: requests are still accepted and wait, so it is no
sleep.
"""

from keda_scaler.core.signals import Signal
from keda_scaler.engines.combining import mean, once_per_rank_group
from keda_scaler.engines.dialect import Absence, Dialect, Family, Quantity

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

_SLEEP = Quantity(
    (
        Family(
            "vllm:engine_sleep_state",
            {"sleep_state": {"weights_offloaded", "discard_all"}},  # levels 1 and 2
            versions="0.12 and later",
        ),
    ),
    combine=once_per_rank_group("sleep_state", then=mean),  # 1 if it is so in every engine
    highest=1.0,
    absence=Absence.ZERO,
)

VLLM = Dialect(
    name="vllm",
    title="vLLM",
    model_label="model_name",
    ranks=("pid",),
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
    served=(
        Family("vllm:prompt_tokens_total", versions="all"),
        Family("vllm:request_success_total", versions="all; of whatever end"),
    ),
    steps=(Family("vllm:generation_tokens_total", versions="all"),),
    sleep=_SLEEP,
    # OpenTelemetry and some managed services write `_` for `:`; Ray puts `ray_` in front.
    spellings=(("vllm:", "vllm_"), ("vllm:", "ray_vllm_"), ("vllm:", "ray_vllm:")),
    reserves_memory=True,
    # A NIM that runs vLLM prints vLLM's families and `num_request_max` beside them. The label
    # `model_name` is not Triton's; Prometheus may have added `model`, which is.
    supersedes=frozenset({"nim", "triton-vllm"}),
    notes=(
        "`--disable-log-stats` turns all of these off: nothing can be known then. In sleep mode"
        " (levels 1 and 2) the gauges stand as the last step left them; queue depth, concurrency"
        " and cache usage are read as 0. At level 0 requests are taken in and wait: that is no"
        " sleep."
        " A version that does not print its sleep state is awake."
    ),
)
