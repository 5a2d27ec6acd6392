"""llama.cpp's server.

Names: `tools/server/server-task.cpp` (`server_task_result_metrics::to_metrics`). Nothing has a
label, so a trigger's `model` cannot be told and is not looked at. There are no histograms, so no
latencies. How full the KV cache is was printed until mid-2025, and not after (pull request 13660).
Nothing on the page says whether the model sleeps (`--sleep-idle-seconds`); an idle server sleeps.
"""

from keda_scaler.core.signals import Signal
from keda_scaler.engines.combining import mean
from keda_scaler.engines.dialect import Absence, Dialect, Family, Quantity

_WAITING = Quantity((Family("llamacpp:requests_deferred", versions="all"),))
_RUNNING = Quantity((Family("llamacpp:requests_processing", versions="all"),))

LLAMA_CPP = Dialect(
    name="llama.cpp",
    title="llama.cpp",
    signals={
        Signal.QUEUE_DEPTH: (_WAITING,),
        Signal.CONCURRENCY: (_WAITING, _RUNNING),
        Signal.GPU_MEMORY_PRESSURE: (
            Quantity(
                (Family("llamacpp:kv_cache_usage_ratio", versions="to mid-2025"),),
                combine=mean,
                highest=1.0,
                absence=Absence.LACKING,
            ),
        ),
    },
    served=(Family("llamacpp:prompt_tokens_total", versions="all"),),  # it counts no requests
    steps=(
        Family("llamacpp:n_decode_total", versions="not the first ones; steps of the model"),
        Family("llamacpp:tokens_predicted_total", versions="all"),
    ),
    spellings=(("llamacpp:", "llamacpp_"),),
    reserves_memory=True,
    notes=(
        "Prints metrics only with `--metrics`; a router needs `path: /metrics?model=NAME`. With"
        " `--sleep-idle-seconds` the page is answered while the model sleeps. Builds b7010 to b7170"
        " print the page as one JSON string: that is an error."
    ),
)
