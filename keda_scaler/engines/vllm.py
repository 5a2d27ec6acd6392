"""vLLM.

Names and labels: `vllm/v1/metrics/loggers.py`; checked on pages recorded from vLLM 0.32.0
(`tests/captures`). The label `engine` numbers the data-parallel engines of one server: requests
add up over it, cache usage averages over it. Two look-alikes are kept out:

- `vllm:num_requests_waiting_by_reason` splits `vllm:num_requests_waiting` up again, and would
  count every waiting request twice; names are matched whole.
- The router of production-stack repeats engine names with the label `server` and without
  `model_name`; a series without a model is not an engine's.
"""

from keda_scaler.core.signals import Signal
from keda_scaler.engines.dialect import Dialect, Quantity, mean, total

_WAITING = Quantity(("vllm:num_requests_waiting",), total)
_RUNNING = Quantity(("vllm:num_requests_running",), total)

_KV_CACHE_USAGE = Quantity(
    (
        "vllm:kv_cache_usage_perc",  # from 0.9.2 on; a ratio in spite of its name
        "vllm:gpu_cache_usage_perc",  # until 0.10; 0.9.2 to 0.10 print both
    ),
    mean,
    highest=1.0,
)

VLLM = Dialect(
    name="vllm",
    path="/metrics",
    model_label="model_name",
    signals={
        Signal.QUEUE_DEPTH: (_WAITING,),
        Signal.CONCURRENCY: (_WAITING, _RUNNING),
        Signal.GPU_MEMORY_PRESSURE: (_KV_CACHE_USAGE,),
    },
)
