"""NVIDIA NIM for LLMs.

Names: NVIDIA's "Observability for NVIDIA NIM for LLMs"; the label `model_name` as on pages that
others published. The names have no prefix and anyone may use them, so `engine: auto` goes by the
odd `num_request_max` alone. A NIM that runs vLLM and passes its families through has only that one
of its own (one published page, not verified further): with `engine: nim` vLLM's names are read
there, and `engine: auto` takes it for vLLM.

`time_per_output_token_seconds` is the time between tokens: a published page has 34 requests, 997
generated tokens and 963 observations of it, one for each token but the first.
"""

from keda_scaler.core.signals import Signal
from keda_scaler.engines.combining import mean
from keda_scaler.engines.dialect import Dialect, Family, Quantity

_OWN = "1.x"
_VLLM = "with vLLM; not verified"


def _families(own: str, *of_vllm: str) -> tuple[Family, ...]:
    return (Family(own, versions=_OWN), *(Family(name, versions=_VLLM) for name in of_vllm))


_WAITING = Quantity(_families("num_requests_waiting", "vllm:num_requests_waiting"))
_RUNNING = Quantity(_families("num_requests_running", "vllm:num_requests_running"))
_KV_CACHE_USAGE = Quantity(
    _families("gpu_cache_usage_perc", "vllm:kv_cache_usage_perc"),  # ratios, not percent
    combine=mean,
    highest=1.0,
)

NIM = Dialect(
    name="nim",
    title="NIM",
    path="/v1/metrics",
    model_label="model_name",
    ranks=("pid",),  # see vLLM
    signals={
        Signal.QUEUE_DEPTH: (_WAITING,),
        Signal.CONCURRENCY: (_WAITING, _RUNNING),
        Signal.GPU_MEMORY_PRESSURE: (_KV_CACHE_USAGE,),
    },
    latencies={
        Signal.TTFT: _families("time_to_first_token_seconds", "vllm:time_to_first_token_seconds"),
        Signal.ITL: _families("time_per_output_token_seconds", "vllm:inter_token_latency_seconds"),
        Signal.LATENCY: _families(
            "e2e_request_latency_seconds", "vllm:e2e_request_latency_seconds"
        ),
    },
    served=(
        *_families("prompt_tokens_total", "vllm:prompt_tokens_total"),
        *_families("request_success_total", "vllm:request_success_total"),
    ),
    steps=_families("generation_tokens_total", "vllm:generation_tokens_total"),
    reserves_memory=True,
    marks=frozenset({"num_request_max"}),
    notes=(
        "The page is at `/v1/metrics` (`/metrics` in early releases), which has to be given as"
        " `path` with `engine: auto`. `auto` knows a NIM by `num_request_max` alone: name the"
        " engine where it does not print that."
    ),
)
