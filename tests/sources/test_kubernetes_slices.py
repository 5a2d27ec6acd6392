"""What is made of EndpointSlices: which replicas there are, and where their pages are."""

from collections.abc import Sequence
from typing import Any

import pytest

from keda_scaler.core.readings import Missing, Replica
from keda_scaler.errors import SourceError
from keda_scaler.sources.slices import Slice, Slices, parse_slice, resolve

METRICS = {"name": "metrics", "port": 9090}
HTTP = {"name": "http", "port": 8000}
ADMIN = {"name": "admin", "port": 9000}
SOLE = {"name": "", "port": 8080}


def endpoint(address: str = "10.0.0.1", pod: str | None = "gpu-0", **conditions: Any) -> Any:
    """Write an endpoint as the API does."""
    target = {"targetRef": {"kind": "Pod", "name": pod}} if pod else {}
    return {"addresses": [address], "conditions": conditions, **target}


def part(
    *endpoints: Any,
    ports: Sequence[Any] | None = (HTTP,),
    name: str = "llama-1",
    family: str = "IPv4",
    version: str = "7",
) -> Slice:
    """Parse a slice of the Service llama."""
    labels = {"kubernetes.io/service-name": "llama"}
    metadata = {"name": name, "labels": labels, "resourceVersion": version}
    body = {"addressType": family, "ports": ports, "endpoints": list(endpoints) or None}
    parsed = parse_slice({"metadata": metadata, **body})
    assert parsed is not None
    return parsed


def urls(*parts: Slice, port: str | None = None, path: str = "/metrics") -> list[str] | Missing:
    """Resolve slices, and give the URLs."""
    resolved = resolve("llama", parts, port, path)
    return resolved if isinstance(resolved, Missing) else [found.url for found in resolved]


@pytest.mark.parametrize(
    ("ports", "wanted", "number"),
    [
        ([HTTP, METRICS, ADMIN], None, 9090),
        ([ADMIN, HTTP], None, 8000),
        ([ADMIN], None, 9000),
        ([SOLE], None, 8080),
        ([ADMIN, {**ADMIN, "name": "same"}], None, 9000),
        ([HTTP, METRICS], "http", 8000),
        ([HTTP, METRICS], "8000", 8000),
        ([HTTP, {"name": "8000", "port": 1234}], "8000", 1234),
        ([ADMIN, {**SOLE, "protocol": "UDP"}], None, 9000),
        ([{**ADMIN, "protocol": "TCP"}, {"name": "any", "port": None}], None, 9000),
    ],
)
def test_finds_the_port(ports: Sequence[Any], wanted: str | None, number: int) -> None:
    """The port asked for by name or number, else metrics, else http, else the only TCP one."""
    assert urls(part(endpoint(), ports=ports), port=wanted) == [f"http://10.0.0.1:{number}/metrics"]


@pytest.mark.parametrize(
    ("ports", "wanted", "reason"),
    [
        (
            [{"name": "web", "port": 9000}, {"name": "", "port": 80}],
            None,
            "Service llama has no port named metrics or http; choose of web (9000), unnamed (80)",
        ),
        ([HTTP], "web", "Service llama has no port web; it has http (8000)"),
        ([HTTP], "80", "Service llama has no port 80; it has http (8000)"),
        ([{**HTTP, "protocol": "UDP"}], None, "Service llama has no TCP port"),
        (None, "http", "Service llama has no TCP port"),
    ],
)
def test_names_the_ports_when_none_is_right(
    ports: Sequence[Any] | None, wanted: str | None, reason: str
) -> None:
    """Without the port nothing is known, and the reason names the choices."""
    assert urls(part(endpoint(), ports=ports), port=wanted) == Missing(reason)


def test_a_port_is_found_for_each_slice() -> None:
    """A named target port may be another number in each pod."""
    first = part(endpoint(), name="a")
    second = part(endpoint("10.0.0.2", "gpu-1"), name="b", ports=[{**HTTP, "port": 8001}])

    found = urls(first, second, port="http", path="/m?x=1")

    assert found == ["http://10.0.0.1:8000/m?x=1", "http://10.0.0.2:8001/m?x=1"]


def test_a_replica_without_the_port_makes_the_list_unknown() -> None:
    """Its work must not be hidden by leaving it out."""
    first = part(endpoint(), name="a")
    second = part(endpoint("10.0.0.2", "gpu-1"), name="b", ports=[ADMIN])

    assert urls(first, second, port="http") == Missing(
        "Service llama has no port http; it has admin (9000)"
    )


def test_an_empty_slice_is_a_known_empty_list() -> None:
    """Kubernetes keeps a slice without endpoints and ports for a Service that has none."""
    assert urls(part(ports=None), port="http") == []


def test_only_slices_with_replicas_need_the_port() -> None:
    """The empty slice of a Service's other address family has no ports."""
    assert urls(part(endpoint()), part(ports=None, name="v6", family="IPv6"), port="http") == [
        "http://10.0.0.1:8000/metrics"
    ]


def test_host_names_are_not_read() -> None:
    """Endpoints that are only host names are unknown, not absent; an empty slice does not help."""
    named = part(endpoint("example.org", None), name="names", family="FQDN")

    reason = "Service llama has host names for endpoints, which are not read"
    assert urls(named) == Missing(reason)
    assert urls(named, part()) == Missing(reason)
    assert urls(named, part(endpoint())) == ["http://10.0.0.1:8000/metrics"]


@pytest.mark.parametrize(
    ("conditions", "replica"),
    [
        ({}, Replica("gpu-0")),
        ({"ready": None, "serving": None, "terminating": None}, Replica("gpu-0")),
        ({"ready": False}, Replica("gpu-0", ready=False)),
        ({"ready": False, "serving": False}, Replica("gpu-0", ready=False)),
        ({"ready": True, "terminating": True}, Replica("gpu-0", terminating=True)),
        (
            {"ready": False, "serving": True, "terminating": True},
            Replica("gpu-0", ready=False, terminating=True),
        ),
        ({"ready": False, "terminating": True}, None),
        ({"ready": False, "serving": False, "terminating": True}, None),
    ],
)
def test_conditions(conditions: dict[str, Any], replica: Replica | None) -> None:
    """Unset is ready, serving follows ready, and whoever ends and serves no more is not listed."""
    resolved = resolve("llama", [part(endpoint(**conditions))], None, "/")

    assert not isinstance(resolved, Missing)
    assert [found.replica for found in resolved] == ([replica] if replica else [])


def test_without_a_pod_the_address_is_the_name() -> None:
    """Endpoints that are no pods are told apart by their addresses."""
    other = {"addresses": ["10.0.0.2"], "targetRef": {"kind": "Node", "name": "node-1"}}

    resolved = resolve("llama", [part(endpoint(pod=None), other)], None, "/")

    assert not isinstance(resolved, Missing)
    assert [found.replica.name for found in resolved] == ["10.0.0.1", "10.0.0.2"]


def test_only_the_first_address_counts() -> None:
    """Kubernetes leaves open what further addresses of an endpoint mean."""
    several = {"addresses": ["10.0.0.1", "10.0.0.2"], "targetRef": None, "conditions": None}

    assert urls(part(several)) == ["http://10.0.0.1:8000/metrics"]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("loser", "winner"),
    [
        (
            part(endpoint("fd00::1"), name="v6", family="IPv6", version="9"),
            part(endpoint("10.0.0.7"), name="v4"),
        ),
        (
            part(endpoint("10.0.0.1", ready=True), name="old", version="9"),
            part(endpoint("10.0.0.7", ready=False), name="new", version="10"),
        ),
        (
            part(endpoint("10.0.0.1", ready=False), name="z"),
            part(endpoint("10.0.0.7", ready=True), name="a"),
        ),
        (
            part(endpoint("10.0.0.1", ready=True, terminating=True), name="z", version="x"),
            part(endpoint("10.0.0.7", ready=True), name="a", version="y"),
        ),
        (part(endpoint("10.0.0.1"), name="a"), part(endpoint("10.0.0.7"), name="a")),
    ],
)
def test_a_pod_in_several_slices_counts_once(loser: Slice, winner: Slice, *, reverse: bool) -> None:
    """IPv4 wins, then the slice written last, then what is ready; their order does not matter."""
    parts = [winner, loser] if reverse else [loser, winner]

    assert urls(*parts) == ["http://10.0.0.7:8000/metrics"]


def test_the_newest_slice_says_that_a_pod_is_gone() -> None:
    """A pod that has ended is not kept by an older slice that has not been rewritten yet."""
    old = part(endpoint(ready=True), name="old", version="9")
    new = part(endpoint(ready=False, terminating=True), name="new", version="10")

    assert urls(old, new) == []


def test_endpoints_have_a_cap() -> None:
    """A Service of too many endpoints is unknown, and the reason names the cap."""
    members = [endpoint(f"10.0.{n // 250}.{n % 250}", f"gpu-{n}") for n in range(1001)]

    assert urls(part(*members)) == Missing("Service llama has more than 1000 endpoints")
    assert len(urls(part(*members[1:])) or ()) == 1000  # type: ignore[arg-type]  # no Missing


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"metadata": {"name": "x", "labels": {"kubernetes.io/service-name": "llama"}}},
        {"endpoints": [{"addresses": []}]},
        {"endpoints": [{"addresses": ["evil@example.org"]}]},
        {"endpoints": [{"addresses": ["10.0.0.1/@example.org"]}]},
        {"ports": [{"port": "http"}]},
        {"endpoints": 7},
        [],
    ],
)
def test_what_is_no_slice_is_refused(broken: Any) -> None:
    """Nothing is assumed of a slice that Kubernetes would not write, least of all an address."""
    labels = {"kubernetes.io/service-name": "llama"}
    sound = {"metadata": {"name": "x", "labels": labels}, "addressType": "IPv4"}
    raw = {**sound, **broken} if broken and isinstance(broken, dict) else broken
    if isinstance(broken, dict) and "metadata" in broken:
        raw = broken

    with pytest.raises((LookupError, TypeError, ValueError, AttributeError)):
        parse_slice(raw)


@pytest.mark.parametrize("labels", [None, {}, {"app": "llama"}])
def test_slices_of_no_service_are_left_out(labels: Any) -> None:
    """Slices may be written by hand and belong to no Service."""
    assert parse_slice({"metadata": {"name": "x", "labels": labels}}) is None


def test_tells_whether_anything_is_different() -> None:
    """A version or an annotation that changes is no news; an endpoint that does is."""
    slices = Slices()

    assert slices.put(part(endpoint(), version="1"))
    assert not slices.put(part(endpoint(), version="2"))
    assert slices.by_service["llama"]["llama-1"].version == 2
    assert slices.put(part(endpoint(ready=False), version="3"))
    assert slices.remove("llama-1")
    assert not slices.remove("llama-1")
    assert not slices.by_service


def test_a_namespace_has_caps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices and endpoints of a namespace are bounded; what is replaced or removed is free."""
    monkeypatch.setattr("keda_scaler.sources.slices.MAX_SLICES", 2)
    monkeypatch.setattr("keda_scaler.sources.slices.MAX_NAMESPACE_ENDPOINTS", 2)
    slices = Slices()
    for _ in range(3):
        slices.put(part(endpoint(), name="a"))
        slices.put(part(endpoint(), name="b"))
        slices.remove("b")
    slices.put(part(endpoint(), name="b"))

    with pytest.raises(SourceError, match="more than 2 endpoints"):
        slices.put(part(endpoint(), endpoint("10.0.0.2", "gpu-1"), name="b"))
    slices.put(part(name="b"))
    with pytest.raises(SourceError, match="more than 2 EndpointSlices"):
        slices.put(part(name="c"))


def test_each_of_several_ports_is_a_page_of_the_replica() -> None:
    """In the order of the trigger; one that has a name and a number is one page."""
    ports = [{"name": f"rank-{rank}", "port": 8000 + rank} for rank in range(3)]

    for port in ("8000-8002", "rank-0,rank-1, 8002", "8000,rank-0,8001-8002"):
        found = resolve("llama", [part(endpoint(), ports=ports)], port, "/metrics")
        assert not isinstance(found, Missing)
        (replica,) = found
        assert replica.urls == tuple(f"http://10.0.0.1:{8000 + n}/metrics" for n in range(3))


def test_a_port_that_a_slice_lacks_makes_the_list_unknown() -> None:
    """A replica read at some of its ports would be one with less work than it has."""
    found = resolve("llama", [part(endpoint(), ports=[HTTP])], "8000-8001", "/")

    assert found == Missing("Service llama has no port 8001; it has http (8000)")


def test_a_pod_under_two_names_counts_once() -> None:
    """By its reference in one slice and by its bare address in another: the pod's name wins."""
    named = part(*(endpoint(f"10.0.0.{n}", f"gpu-{n}") for n in range(1, 4)))
    bare = part(*(endpoint(f"10.0.0.{n}", None) for n in range(1, 4)), name="by-hand", version="9")

    for order in ((named, bare), (bare, named)):
        resolved = resolve("llama", order, None, "/metrics")
        assert not isinstance(resolved, Missing)
        assert [each.replica.name for each in resolved] == ["gpu-1", "gpu-2", "gpu-3"]


def test_two_pods_of_a_node_that_share_its_address_are_two() -> None:
    """With the host's network their ports differ."""
    both = part(endpoint(pod="a"), ports=[METRICS]), part(endpoint(pod="b"), name="b")

    assert urls(*both) == ["http://10.0.0.1:9090/metrics", "http://10.0.0.1:8000/metrics"]


@pytest.mark.parametrize("pod", ["gpu-{}", None])
def test_bare_addresses_of_both_families_count_once(pod: str | None) -> None:
    """Seven pods of a dual-stack Service are seven, whatever each slice says of them."""
    four = part(*(endpoint(f"10.0.0.{n}", pod and pod.format(n)) for n in range(7)))
    six = part(*(endpoint(f"fd00::{n}", None) for n in range(7)), name="six", family="IPv6")

    assert urls(four, six) == [f"http://10.0.0.{n}:8000/metrics" for n in range(7)]


def test_addresses_of_one_family_alone_are_replicas_of_their_own() -> None:
    """Where they are not as many as those of the other one, they are not the same."""
    four = part(endpoint("10.0.0.1", None), endpoint("10.0.0.2", None))
    six = part(endpoint("fd00::3", None), name="six", family="IPv6")

    found = urls(four, six)
    assert not isinstance(found, Missing)
    assert len(found) == 3
