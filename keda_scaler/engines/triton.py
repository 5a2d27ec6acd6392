"""NVIDIA Triton with any backend.

Names: `docs/user_guide/metrics.md` of the server, `src/metrics.cc` and `metric_model_reporter.cc`
of the core. Each version of a model has its own series. An ensemble's own count of pending requests
stays 0, because its members count them: so the sum over models counts a request once.

How many requests run is not exposed. What shows that some did are the counters of those that ended.

Summaries are in microseconds, and their quantiles cannot be combined over servers: the slowest
server's is taken. Not read: cumulative `..._duration_us`, which are no histograms. GPU memory and
utilization (`nv_gpu_...`) are read as a GPU exporter's: `devices.py`.
"""

from keda_scaler.core.signals import Signal
from keda_scaler.engines.dialect import Counted, Dialect, Family, Quantity

PENDING = Family("nv_inference_pending_request_count", versions="23.09 and later")

ENDED = (
    Family("nv_inference_request_success", versions="all"),
    Family("nv_inference_request_failure", versions="all"),
)

FIRST_RESPONSE = Family(
    "nv_inference_first_response_histogram_ms",
    scale=0.001,
    versions="24.11 and later, with --metrics-config histogram_latencies=true",
)

REQUEST_SUMMARY = Family(
    "nv_inference_request_summary_us",
    scale=1e-6,
    versions="with --metrics-config summary_latencies=true",
)

TRITON = Dialect(
    name="triton",
    title="Triton",
    model_label="model",
    signals={
        Signal.QUEUE_DEPTH: (Quantity((PENDING,)),),
        Signal.CONCURRENCY: Counted(
            waiting=Quantity((PENDING,)),
            ever=tuple(Quantity((family,)) for family in ENDED),
        ),
    },
    latencies={Signal.TTFT: (FIRST_RESPONSE,)},
    summaries={Signal.LATENCY: (REQUEST_SUMMARY,)},
    steps=ENDED,  # also in the signals
    notes=(
        "How many requests run is not exposed: concurrency is those that wait, and one more when"
        " requests have ended since the last poll. A request that runs alone is not seen until it"
        " ends: let `idleSeconds` and `stuckSeconds` be longer than the longest request. The time"
        " to the first response is that of every model: name one with `model` where several form a"
        " pipeline. It ends at 5 s with the default buckets."
    ),
)
