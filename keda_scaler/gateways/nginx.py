"""ingress-nginx.

`nginx_ingress_controller_requests` (`internal/ingress/metric/collectors/socket.go`), a counter
without `_total`. Its labels `namespace` and `ingress` are the Ingress' own. A ServiceMonitor that
does not honor labels makes `namespace` the controller's and renames the Ingress' to
`exported_namespace`: where that is there, it counts. A status has no series before its first
answer.
"""

from keda_scaler.core.matchers import Matcher
from keda_scaler.gateways.gateway import Alternatives, Family, Gateway

_REFUSED = (Matcher("status", "=", "503"),)


def _of_namespace(namespace: str) -> Alternatives:
    return (
        (Matcher("exported_namespace", "=", namespace),),
        (Matcher("exported_namespace", "=", ""), Matcher("namespace", "=", namespace)),
    )


NGINX = Gateway(
    name="nginx",
    title="ingress-nginx",
    holds="no",
    arrivals=((Family("nginx_ingress_controller_requests", _REFUSED),),),
    of_namespace=_of_namespace,
    says_namespace=True,
    shared=True,
    example='ingress="..."',
    marks=("nginx_ingress_controller_",),
    late=True,
    notes=(
        "`wakeSelector` names the Ingress; do not rely on `service`, which may be empty without "
        "endpoints. The first request fails with 503 and wakes the model; clients must try again. "
        "An engine that answers 503 itself, because it is full, counts too. Other exporters of "
        "NGINX say nothing of Ingresses and are not read."
    ),
)
