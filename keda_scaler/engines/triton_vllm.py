"""NVIDIA Triton with the vLLM backend, which adds families of vLLM's to Triton's own.

Names: `src/utils/metrics.py` of `vllm_backend`. They are vLLM's, with Triton's labels `model` and
`version`, and each model has an engine of its own. The backend hands a request to vLLM at once and
it is not pending in Triton any more; those of other models that run beside it may be.

A backend that prints counters and no gauges does not say how many requests there are. That is
unknown, for the same page without its `vllm:` families would be plain Triton's with nothing to do.
"""

from keda_scaler.core.signals import Signal
from keda_scaler.engines.combining import largest
from keda_scaler.engines.dialect import Absence, Dialect, Family, Quantity
from keda_scaler.engines.triton import ENDED, PENDING

_SINCE = "with gauges, from early 2025"
_TOKENS = (
    Family("vllm:prompt_tokens_total", versions="all"),
    Family("vllm:generation_tokens_total", versions="all"),
)
_RUNNING = Quantity((Family("vllm:num_requests_running", versions=_SINCE),))
_WAITING = (
    Quantity((Family("vllm:num_requests_waiting", versions=_SINCE),)),
    Quantity((PENDING,), absence=Absence.ZERO),
)

TRITON_VLLM = Dialect(
    name="triton-vllm",
    title="Triton with vLLM",
    model_label="model",
    signals={
        Signal.QUEUE_DEPTH: _WAITING,
        Signal.CONCURRENCY: (*_WAITING, _RUNNING),
        Signal.GPU_MEMORY_PRESSURE: (
            Quantity(
                (
                    Family("vllm:kv_cache_usage_perc", versions="as newer ones of vLLM"),
                    Family("vllm:gpu_cache_usage_perc", versions=_SINCE),  # ratios, not percent
                ),
                combine=largest,
                highest=1.0,
            ),
        ),
    },
    latencies={
        Signal.TTFT: (Family("vllm:time_to_first_token_seconds", versions="all"),),
        Signal.ITL: (
            Family("vllm:inter_token_latency_seconds", versions="as newer ones of vLLM"),
            Family("vllm:time_per_output_token_seconds", versions="all"),
        ),
        Signal.LATENCY: (Family("vllm:e2e_request_latency_seconds", versions="all"),),
    },
    served=_TOKENS[:1],
    steps=(*_TOKENS[1:], *ENDED),
    spellings=(("vllm:", "vllm_"),),
    reserves_memory=True,
    supersedes=frozenset({"triton"}),
    marks=frozenset(
        family.name for family in (*_RUNNING.families, *_WAITING[0].families, *_TOKENS)
    ),
    notes=(
        'The backend prints them only with the parameter `REPORT_CUSTOM_METRICS` of `"true"` in the'
        " model's `config.pbtxt` and without `disable_log_stats` in its `model.json`: else the page"
        " is plain Triton's, which does not say how many requests run. Requests that wait"
        " in Triton, of other models too, are added to those that wait in vLLM. With counters and"
        " no gauges all is unknown."
    ),
)
