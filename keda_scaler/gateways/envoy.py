"""Envoy, by itself or under Envoy Gateway, Contour or another control plane.

`/stats/prometheus` of the admin port; per cluster, in `envoy_cluster_name`. A request that waits
for a connection is pending; one that has a connection is active, and no longer pending. With no
healthy endpoint Envoy answers 503 at once, so that `upstream_rq_pending_active` stays 0 and only
`upstream_cx_none_healthy` rises.

An Envoy serves many namespaces, and says of which a cluster is only by the cluster's name:
`httproute/NS/NAME/rule/0` (Envoy Gateway), `outbound|80||NAME.NS.svc.cluster.local` (Istio),
`NS/NAME/80/HASH` (Contour). The namespace is looked for where each of these has it, so that a
Service with the name of somebody's namespace is not mistaken for it.
"""

import re
from functools import lru_cache

from keda_scaler.core.matchers import Matcher
from keda_scaler.gateways.gateway import Alternatives, Family, Gateway


@lru_cache(maxsize=1024)
def _of_namespace(namespace: str) -> Alternatives:
    name = re.escape(namespace)
    clusters = (
        rf"[a-z]+route/{name}/.+",
        rf"{name}/[^/]+/[0-9]+(/[^/]*)?",
        rf"outbound\|[0-9]+\|[^|]*\|[^.|]+\.{name}\.svc([.].+)?",
    )
    return (
        (Matcher("namespace", "=", namespace),),
        (
            Matcher("namespace", "!=", namespace),
            Matcher("envoy_cluster_name", "=~", "|".join(clusters)),
        ),
    )


ENVOY = Gateway(
    name="envoy",
    title="Envoy",
    holds="no",
    path="/stats/prometheus",
    held=(Family("envoy_cluster_upstream_rq_pending_active"),),
    running=(Family("envoy_cluster_upstream_rq_active"),),
    arrivals=((Family("envoy_cluster_upstream_cx_none_healthy"),),),
    of_namespace=_of_namespace,
    says_namespace=True,
    example='envoy_cluster_name="..."',
    target="cluster",
    marks=("envoy_",),
    notes=(
        "`wakeSelector` names the cluster. Of an Envoy in another namespace, and through "
        "Prometheus, the series' `namespace` must be the ScaledObject's, or the cluster's name "
        "must have it: `httproute/NS/...`, `NS/NAME/PORT`, `outbound|PORT||NAME.NS.svc...`. At "
        "zero replicas the first request fails with 503 and wakes the model; clients must try "
        "again. Check that `envoy_cluster_upstream_cx_none_healthy` moves then: a control plane "
        "that answers 503 without a cluster, and statistics that are left out (Istio's proxies "
        "leave out most), hide the request."
    ),
)
