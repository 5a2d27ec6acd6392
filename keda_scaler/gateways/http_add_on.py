"""The interceptor of KEDA's HTTP add-on.

Its admin port answers `GET /queue` with `{"NAMESPACE/NAME": {"Concurrency": 3, "RequestCount":
120}}`, one entry for each route that it knows (`pkg/queue`); before v0.14 without `RequestCount`.
That is turned into the samples that Prometheus has (`interceptor/metrics/instruments.go`), so that
one table serves both. Two differences stay: what `RequestCount` counts at arrival, Prometheus
counts at the answer; and there a route has no series before its first request.

`Concurrency` does not tell requests that are held from those that an engine has, so none counts as
held: all are in flight, and at zero in flight means held.
"""

import json
import math
from collections.abc import Iterator
from typing import Any

from keda_scaler.core.matchers import Matcher
from keda_scaler.engines.exposition import MAX_SAMPLES
from keda_scaler.engines.samples import Sample
from keda_scaler.errors import PageError
from keda_scaler.gateways.gateway import Alternatives, Family, Gateway

_CONCURRENCY = "interceptor_request_concurrency"
_COUNT = "interceptor_request_count_total"


def _of_namespace(namespace: str) -> Alternatives:
    return ((Matcher("route_namespace", "=", namespace),),)


def _read_queue(body: bytes, at: float) -> tuple[Sample, ...]:
    """Turn the queue into samples.

    Raises:
        PageError: when it is not one, or not all of one.

    """
    try:
        queue = json.loads(body)
    except (ValueError, RecursionError):
        raise PageError("the page is not JSON, or was cut off") from None
    if not isinstance(queue, dict):
        raise PageError("the page is not the interceptor's queue")
    if len(queue) > MAX_SAMPLES // 2:
        raise PageError(f"the queue has more than {MAX_SAMPLES // 2} routes")
    return tuple(sample for route, counts in queue.items() for sample in _route(route, counts, at))


def _route(route: str, counts: Any, at: float) -> Iterator[Sample]:
    namespace, _, name = route.partition("/")
    if not (namespace and name and isinstance(counts, dict) and "Concurrency" in counts):
        raise PageError("the page is not the interceptor's queue")
    labels = {"route_namespace": namespace, "route_name": name}
    yield Sample(_CONCURRENCY, labels, _number(counts["Concurrency"]), at)
    if "RequestCount" in counts:
        yield Sample(_COUNT, labels, _number(counts["RequestCount"]), at)


def _number(given: Any) -> float:
    """Give a number; NaN if it is none, so that only its own route is unknown."""
    if isinstance(given, bool) or not isinstance(given, int | float):
        return math.nan
    try:
        return float(given)
    except OverflowError:
        return math.nan


HTTP_ADD_ON = Gateway(
    name="keda-http-add-on",
    title="KEDA HTTP add-on",
    holds="yes",
    path="/queue",
    running=(
        Family(_CONCURRENCY, versions="0.14 and later"),
        Family("interceptor_pending_requests", versions="where it has the same labels"),
    ),
    arrivals=((Family(_COUNT, versions="0.14 and later"),),),
    of_namespace=_of_namespace,
    says_namespace=True,
    shared=True,
    default=("route_name", "name"),
    target="route",
    late=True,
    reader=_read_queue,
    notes=(
        "The fastest path is direct: `wakeService` is the interceptor's admin Service. The "
        "route is that of the ScaledObject's namespace and name, or of another name with "
        '`wakeSelector: route_name="..."`. Requests in flight include those that an engine has. '
        "Use an InterceptorRoute: an HTTPScaledObject makes a ScaledObject of its own, and KEDA "
        "refuses two for one Deployment. Through Prometheus a request is counted only when it "
        "was answered."
    ),
)
