"""Gateways' pages in few words."""

from keda_scaler.core.readings import Missing
from keda_scaler.core.trigger import Accepts, parse_trigger
from keda_scaler.engines.samples import Sample
from keda_scaler.gateways import GATEWAYS
from keda_scaler.gateways.gateway import Scope, Seen

TEXT = "text/plain; version=0.0.4; charset=utf-8"
AT = 7.0
SELECTORS = {"envoy": 'envoy_cluster_name=~".+"', "nginx": 'ingress="llama"'}


def scope(name: str, *, trusted: bool = True, **keys: str) -> Scope:
    """Give the scope of ScaledObject team-a/llama whose trigger wakes from a gateway."""
    given = {"service": "llama", "wakeFrom": name, "wakeService": "gateway", **keys}
    if name in SELECTORS:
        given.setdefault("wakeSelector", SELECTORS[name])
    return Scope.of("team-a", "llama", parse_trigger(given, Accepts()), trusted=trusted)


def samples(name: str, page: str) -> tuple[Sample, ...]:
    return GATEWAYS[name].page(page.encode(), TEXT, AT)


def read(name: str, page: str, *, trusted: bool = True, **keys: str) -> Seen | Missing:
    """Read a page of a gateway."""
    return GATEWAYS[name].seen(samples(name, page), scope(name, trusted=trusted, **keys))


def seen(name: str, page: str, *, trusted: bool = True, **keys: str) -> tuple[float, float, float]:
    """Give the requests held, those in flight, and all that ever arrived."""
    found = read(name, page, trusted=trusted, **keys)
    assert isinstance(found, Seen), found
    assert found.at == AT
    return found.held, found.in_flight, sum(found.counters.values())


def sample(series: str, number: float, /, **labels: str) -> Sample:
    """Build a sample as Prometheus gives it, of the ScaledObject's namespace."""
    return Sample(series, {"namespace": "team-a", "job": "gateway", **labels}, number, AT)
