"""LiteLLM's proxy.

`litellm_proxy_total_requests_metric_total` counts every request, also one that fails, under the
model that the client asked for (`requested_model`); a model has no series before its first request.

`litellm_in_flight_requests` counts every HTTP request that the proxy has
(`litellm/proxy/middleware/in_flight_requests_middleware.py`), also that which reads the page: it is
never 0 there, so it is proof of life, not of work.
"""

from keda_scaler.gateways.gateway import Family, Gateway

LITELLM = Gateway(
    name="litellm",
    title="LiteLLM",
    holds="no",
    arrivals=((Family("litellm_proxy_total_requests_metric_total"),),),
    model_labels=("requested_model",),
    marks=("litellm_",),
    heartbeats=frozenset({"litellm_in_flight_requests"}),
    notes=(
        "`model` is the name that clients ask LiteLLM for (`requested_model`). LiteLLM needs "
        '`callbacks: ["prometheus"]`, several workers also `PROMETHEUS_MULTIPROC_DIR`. The '
        "first request fails and wakes the model; clients, or LiteLLM's own retries, must try "
        "again. Health checks that LiteLLM sends as requests for a model keep it awake. "
        "`litellm_in_flight_requests` is not taken for work: it counts the very request that "
        "reads it. Through Prometheus versions without it are unknown until the first request "
        "for any model."
    ),
)
