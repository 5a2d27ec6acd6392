"""The endpoint picker (EPP) of the Gateway API Inference Extension, now llm-d's router.

Names and labels: `pkg/epp/metrics` of the extension up to v1.5, `docs/metrics.md` of llm-d-router
from v0.9, which prints old names as well. Nothing on the page names a namespace: a picker serves
one pool, in its own.

- Requests that flow control holds are in the queue gauge. The gauge of running requests takes over
  when the picker has chosen an endpoint, so the two never count the same request.
- Labelled families print nothing before their first request.
- Without flow control a picker that has no endpoint refuses at once: neither gauge moves, only the
  counter of errors does. Codes at zero: `ServiceUnavailable`, before v1.0
  `InferencePoolResourceExhausted`.
- Pool saturation is 1 for an empty pool, so it says nothing of requests.
"""

from keda_scaler.core.matchers import Matcher
from keda_scaler.gateways.gateway import Family, Gateway

_REFUSED = (Matcher("error_code", "=~", "ServiceUnavailable|.*ResourceExhausted"),)

EPP = Gateway(
    name="epp",
    title="EPP",
    holds="with flow control",
    held=(
        Family("llm_d_epp_flow_control_queue_size", versions="llm-d-router 0.9 and later"),
        Family("inference_extension_flow_control_queue_size", versions="1.1 and later"),
    ),
    running=(
        Family("llm_d_epp_request_running", versions="llm-d-router 0.9 and later"),
        Family("inference_objective_running_requests", versions="1.0 and later"),
        Family("inference_model_running_requests", versions="before 1.0"),
    ),
    arrivals=(
        (
            Family("llm_d_epp_request_total", versions="llm-d-router 0.9 and later"),
            Family("inference_objective_request_total", versions="1.0 and later"),
            Family("inference_model_request_total", versions="before 1.0"),
        ),
        (
            Family("llm_d_epp_request_error_total", _REFUSED, "llm-d-router 0.9 and later"),
            Family("inference_objective_request_error_total", _REFUSED, "1.0 and later"),
            Family("inference_model_request_error_total", _REFUSED, "before 1.0"),
        ),
    ),
    model_labels=("target_model_name", "model_name"),
    unnamed_is_any=True,  # the queue gauge names models from v1.3 on
    marks=(
        *("llm_d_epp_", "inference_extension_", "inference_pool_"),
        *("inference_objective_", "inference_model_"),
    ),
    heartbeats=frozenset(
        {
            *("llm_d_epp_info", "llm_d_epp_ready_endpoints"),
            *("inference_extension_info", "inference_pool_ready_pods"),
        }
    ),
    notes=(
        "Turn `flowControl` on and set `noEndpointRequestTTL` above the time of a cold start: held "
        "requests are refused when it is over. Without it the first request fails, its refusal is "
        "what wakes the model, and clients must try again. Its page asks for a bearer token by "
        "default; read it through Prometheus, or turn that off. Pool saturation is never read: it "
        "is 1 for an empty pool. Above 1,000 models their names become `other`, which matches no "
        "`model`. Before 1.3 the queue names no model and counts for each."
    ),
)
