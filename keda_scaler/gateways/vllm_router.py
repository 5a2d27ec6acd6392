"""The router of vLLM's production-stack.

`src/vllm_router/services/metrics_service`: the counter `vllm:num_incoming_requests_total` exists
since September 2025, counts requests also when there is no backend, and has no series for a model
before its first request; its header is on the page from the start. The router's gauges repeat the
engine's names for each backend, are not reset, or are never set: they are not read. Its own load
(`router_cpu_usage_percent`) has no labels and is always there.
"""

from keda_scaler.gateways.gateway import Family, Gateway

VLLM_ROUTER = Gateway(
    name="vllm-router",
    title="vLLM router",
    holds="no",
    arrivals=((Family("vllm:num_incoming_requests_total", versions="September 2025 and later"),),),
    model_labels=("model",),
    marks=("vllm:num_incoming_requests",),  # an engine's page has `vllm:` as well
    heartbeats=frozenset({"router_cpu_usage_percent"}),
    notes=(
        "The router of production-stack. Without a backend the first request fails and wakes the "
        "model; clients must try again. Give `model`, else a request for any model wakes it."
    ),
)
