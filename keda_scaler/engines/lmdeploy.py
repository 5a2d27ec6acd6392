"""LMDeploy.

Names and labels: `lmdeploy/metrics/loggers.py`. The label `engine` numbers the data-parallel
engines of one server: requests add up over it, cache usage averages. Requests that wait for a free
request handle have not reached the engine yet and are counted apart from those that wait in it.
"""

from keda_scaler.core.signals import Signal
from keda_scaler.engines.combining import mean
from keda_scaler.engines.dialect import Absence, Dialect, Family, Quantity

_SINCE = "0.9.2 and later"

_WAITING = (
    Quantity((Family("lmdeploy:num_requests_waiting", versions=_SINCE),)),
    Quantity(
        (Family("lmdeploy:num_api_requests_waiting", versions="not the first ones"),),
        absence=Absence.ZERO,
    ),
)
_RUNNING = Quantity((Family("lmdeploy:num_requests_running", versions=_SINCE),))

LMDEPLOY = Dialect(
    name="lmdeploy",
    title="LMDeploy",
    model_label="model_name",
    signals={
        Signal.QUEUE_DEPTH: _WAITING,
        Signal.CONCURRENCY: (*_WAITING, _RUNNING),
        Signal.GPU_MEMORY_PRESSURE: (
            Quantity(
                (Family("lmdeploy:gpu_cache_usage_perc", versions=_SINCE),),  # a ratio, not percent
                combine=mean,
                highest=1.0,
            ),
        ),
    },
    latencies={
        Signal.TTFT: (Family("lmdeploy:time_to_first_token_seconds", versions=_SINCE),),
        Signal.ITL: (
            Family("lmdeploy:iter_token_latency", versions="not the first ones"),  # in seconds
            # What the first ones observed for each token. Later ones divide by tokens at once.
            Family("lmdeploy:time_per_output_token_seconds", versions=_SINCE),
        ),
        Signal.LATENCY: (Family("lmdeploy:e2e_request_latency_seconds", versions=_SINCE),),
    },
    served=(
        Family("lmdeploy:prompt_tokens_total", versions=_SINCE),
        Family("lmdeploy:request_success_total", versions="not the first ones"),
    ),
    steps=(Family("lmdeploy:generation_tokens_total", versions=_SINCE),),
    spellings=(("lmdeploy:", "lmdeploy_"),),
    reserves_memory=True,
    notes=(
        "Gauges are renewed every 10 s: polling more often tells nothing more. Before 0.11 metrics"
        " need `--enable-metrics`."
    ),
)
