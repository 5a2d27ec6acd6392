"""Istio: the standard metrics of its proxies.

`istio_requests_total` of the side that sends (`reporter="source"`: an ingress gateway, or the
client's sidecar). At zero replicas `response_flags` has `UH` (no healthy host), `NC` (no cluster)
or `NR` (no route), perhaps beside others, separated by commas. The series is born with the first
such request. The proxy's own namespace does not matter: the labels name the destination's.
"""

from keda_scaler.core.matchers import Matcher
from keda_scaler.gateways.gateway import Alternatives, Family, Gateway

_REFUSED = (
    Matcher("reporter", "=", "source"),
    Matcher("response_flags", "=~", "(.*,)?(UH|NC|NR)(,.*)?"),
)


def _of_namespace(namespace: str) -> Alternatives:
    return ((Matcher("destination_service_namespace", "=", namespace),),)


ISTIO = Gateway(
    name="istio",
    title="Istio",
    holds="no",
    path="/stats/prometheus",
    arrivals=((Family("istio_requests_total", _REFUSED),),),
    of_namespace=_of_namespace,
    says_namespace=True,
    shared=True,
    default=("destination_service_name", "service"),
    example='destination_service_name="..."',
    marks=("istio_", "envoy_"),
    late=True,
    notes=(
        "Read the gateway that faces the clients (port 15090), or their sidecars through "
        "Prometheus. The destination is `service` of the trigger, or another with `wakeSelector: "
        'destination_service_name="..."`; a trigger without `service` must give it. The first '
        "request fails with 503 and wakes the model; clients must try again. A request for which "
        "there is no route carries no destination, and wakes nothing."
    ),
)
