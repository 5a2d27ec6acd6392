"""Each gateway: its pages, which of its series are a target's, and what they say."""

import json

import pytest

from gateway_readings import read, sample, samples, scope, seen
from keda_scaler.core.readings import Missing
from keda_scaler.engines.exposition import MAX_SAMPLES
from keda_scaler.errors import PageError
from keda_scaler.gateways import GATEWAYS
from keda_scaler.gateways.gateway import Seen

# EPP

QUEUED = (
    'fairness_id="default",priority="0",inference_pool="llama",'
    'model_name="chat",target_model_name="llama-8b"'
)
EPP = f"""\
# HELP inference_extension_flow_control_queue_size Requests in the queue.
# TYPE inference_extension_flow_control_queue_size gauge
inference_extension_flow_control_queue_size{{{QUEUED}}} 3
inference_extension_flow_control_pool_saturation{{inference_pool="llama"}} 1
inference_objective_running_requests{{model_name="chat"}} 2
llm_d_epp_flow_control_queue_size{{{QUEUED}}} 3
llm_d_epp_flow_control_pool_saturation{{inference_pool="llama",stage="admission"}} 1
llm_d_epp_request_running{{{QUEUED}}} 2
llm_d_epp_request_total{{{QUEUED}}} 11
inference_objective_request_total{{model_name="chat",target_model_name="llama-8b"}} 11
llm_d_epp_request_error_total{{error_code="ServiceUnavailable",model_name="chat"}} 5
llm_d_epp_request_error_total{{error_code="BadRequest",model_name="chat"}} 90
llm_d_epp_ready_endpoints{{name="llama"}} 0
"""


def test_epp_counts_each_request_once() -> None:
    """Held and running add up; what stands under an old name as well, and saturation, do not."""
    assert seen("epp", EPP) == (3, 5, 16)


@pytest.mark.parametrize(
    ("model", "requests"), [("llama-8b", (3, 5, 11)), ("chat", (0, 0, 5)), ("other", (0, 0, 0))]
)
def test_epp_goes_by_the_model_that_is_served(
    model: str, requests: tuple[float, float, float]
) -> None:
    """The model that the client asked for counts only where no other is named."""
    assert seen("epp", EPP, model=model) == requests


def test_epp_names_no_model_before_1_3() -> None:
    """Its queue is then one of every model, because a request that is not seen wakes nothing."""
    page = 'inference_extension_flow_control_queue_size{fairness_id="a",priority="0"} 1\n'

    assert seen("epp", page, model="llama-8b") == (1, 1, 0)


def test_epp_of_before_1_0_is_read() -> None:
    """It has other names, and another code for an empty pool."""
    page = """\
inference_model_running_requests{model_name="a"} 1
inference_model_request_total{model_name="a",target_model_name="b"} 4
inference_model_request_error_total{error_code="InferencePoolResourceExhausted",model_name="a"} 2
inference_pool_ready_pods{name="pool"} 0
"""
    assert seen("epp", page) == (0, 1, 6)


def test_epp_is_narrowed_by_its_pool() -> None:
    """The selector is about the gateway's own labels."""
    assert seen("epp", EPP, wakeSelector='inference_pool="other"') == (0, 0, 0)
    assert seen("epp", EPP, wakeSelector='inference_pool="llama"') == (3, 5, 11)


# KEDA HTTP add-on

QUEUE = json.dumps(
    {
        "team-a/llama": {"Concurrency": 3, "RequestCount": 120},
        "team-a/other": {"Concurrency": 1, "RequestCount": 7},
        "team-b/llama": {"Concurrency": 50, "RequestCount": 999},
        "team-a/broken": {"Concurrency": "1", "RequestCount": True},
        "team-a/huge": {"Concurrency": 10**400},
        "team-a/old": {"Concurrency": 2, "RPS": 0.5},
    }
)
ADD_ON = "keda-http-add-on"


def test_the_add_on_is_read_by_route() -> None:
    """That of the ScaledObject's namespace and name, or of another name with a selector."""
    assert seen(ADD_ON, QUEUE) == (0, 3, 120)
    assert seen(ADD_ON, QUEUE, wakeSelector='route_name="other"') == (0, 1, 7)
    assert seen(ADD_ON, QUEUE, wakeSelector='route_name=~"llama|other"') == (0, 4, 127)
    assert seen(ADD_ON, QUEUE, wakeSelector='route_name="old"') == (0, 2, 0)


@pytest.mark.parametrize("name", ["broken", "huge"])
def test_a_route_of_the_add_on_without_a_number_is_unknown(name: str) -> None:
    """The other routes are read."""
    found = read(ADD_ON, QUEUE, wakeSelector=f'route_name="{name}"')

    assert found == Missing("interceptor_request_concurrency is nan")


def test_a_route_that_the_add_on_does_not_list_is_unknown() -> None:
    """It lists every route that it has, so the trigger or the route is wrong."""
    assert read(ADD_ON, '{"team-b/llama": {"Concurrency": 1}}') == Missing(
        'no route of team-a has route_name="llama"'
    )


@pytest.mark.parametrize(
    ("page", "says"),
    [
        ('{"team-a/llama": {"Concurrency": 1', "not JSON, or was cut off"),
        ("<html>\n", "not JSON, or was cut off"),
        ("[" * 100_000, "not JSON, or was cut off"),
        ("[]", "not the interceptor's queue"),
        ('{"llama": {"Concurrency": 1}}', "not the interceptor's queue"),
        ('{"/llama": {"Concurrency": 1}}', "not the interceptor's queue"),
        ('{"team-a/llama": 1}', "not the interceptor's queue"),
        ('{"team-a/llama": {"RequestCount": 1}}', "not the interceptor's queue"),
        (
            json.dumps({f"a/{i}": {"Concurrency": 0} for i in range(MAX_SAMPLES // 2 + 1)}),
            f"more than {MAX_SAMPLES // 2} routes",
        ),
    ],
)
def test_what_is_no_queue_of_the_add_on_is_an_error(page: str, says: str) -> None:
    """Its text names no route, for the routes are other people's."""
    with pytest.raises(PageError, match=says):
        samples(ADD_ON, page)


def test_the_add_on_is_the_same_through_prometheus() -> None:
    """With the labels of the interceptor's own namespace; another's route is not read."""
    route = {"route_namespace": "team-a", "route_name": "llama", "namespace": "keda"}
    parts = [
        sample("interceptor_request_concurrency", 2, pod="a", **route),
        sample("interceptor_request_concurrency", 3, pod="b", **route),
        sample("interceptor_request_count_total", 9, pod="a", code="200", **route),
        sample("interceptor_request_concurrency", 9, **(route | {"route_namespace": "team-b"})),
        sample("interceptor_pending_requests", 9, namespace="keda", host="llama"),
    ]

    found = GATEWAYS[ADD_ON].seen(parts, scope(ADD_ON, trusted=False), 7.0)
    assert isinstance(found, Seen)
    assert (found.held, found.in_flight, sum(found.counters.values())) == (0, 5, 9)


# vLLM router

ROUTER = """\
# HELP vllm:num_requests_running Number of running requests
vllm:num_requests_running{server="http://10.0.0.1:8000"} 4
vllm:num_requests_waiting{server="http://10.0.0.1:8000"} 4
# HELP vllm:num_incoming_requests_total Total valid incoming requests to router.
# TYPE vllm:num_incoming_requests_total counter
vllm:num_incoming_requests_total{model="llama-8b"} 12.0
vllm:num_incoming_requests_total{model="other"} 5.0
vllm:num_incoming_requests_created{model="llama-8b"} 1.7e+09
router_cpu_usage_percent 3.5
"""


def test_the_router_is_read_by_its_counter() -> None:
    """Its gauges are the engine's, seen from outside."""
    assert seen("vllm-router", ROUTER) == (0, 0, 17)
    assert seen("vllm-router", ROUTER, model="llama-8b") == (0, 0, 12)
    assert seen("vllm-router", ROUTER, model="new") == (0, 0, 0)


def test_an_engine_is_not_the_router() -> None:
    """Though it has `vllm:` in front of its names as well."""
    with pytest.raises(PageError, match=r"not of vLLM router: it has no vllm:num_incoming_req"):
        samples("vllm-router", 'vllm:num_requests_running{model_name="llama-8b"} 0\n')


# Envoy


def cluster(name: str, pending: int = 1, active: int = 2, unhealthy: int = 3) -> str:
    return f"""\
envoy_cluster_upstream_rq_pending_active{{envoy_cluster_name="{name}"}} {pending}
envoy_cluster_upstream_rq_active{{envoy_cluster_name="{name}"}} {active}
envoy_cluster_upstream_cx_none_healthy{{envoy_cluster_name="{name}"}} {unhealthy}
"""


def test_envoy_adds_requests_that_wait_and_those_that_run() -> None:
    """Of the clusters that the selector names."""
    page = cluster("llama") + cluster("llama-canary", 10, 20, 30) + cluster("other", 9, 9, 9)

    assert seen("envoy", page, wakeSelector='envoy_cluster_name="llama"') == (1, 3, 3)
    assert seen("envoy", page, wakeSelector='envoy_cluster_name=~"llama.*"') == (11, 33, 33)
    assert read("envoy", page, wakeSelector='envoy_cluster_name="lama"') == Missing(
        'no cluster of team-a has envoy_cluster_name="lama"'
    )


OWN = (
    "httproute/team-a/llama/rule/0",
    "grpcroute/team-a/llama/rule/0/match/0",
    "outbound|80||llama.team-a.svc.cluster.local",
    "outbound|80|v2|llama.team-a.svc",
    "team-a/llama/80",
    "team-a/llama/80/0a1b2c",
)
FOREIGN = (
    "llama",
    "httproute/team-b/team-a/rule/0",
    "httproute/team-a-2/llama/rule/0",
    "httproute/x-team-a/llama/rule/0",
    "outbound|80||team-a.team-b.svc.cluster.local",
    "outbound|80||llama.team-a.example.com",
    "outbound|80||team-a.svc.cluster.local",
    "outbound|80||x.llama.team-a.svc.cluster.local",
    "team-b/team-a/80",
    "team-b/llama/80/team-a",
    "team-a/llama",
)


@pytest.mark.parametrize("name", OWN + FOREIGN)
def test_envoy_of_another_namespace_is_read_by_the_names_of_its_clusters(name: str) -> None:
    """The namespace stands where the control plane writes it, or the cluster is someone else's."""
    if name in OWN:
        assert seen("envoy", cluster(name), trusted=False) == (1, 3, 3)
    else:
        assert isinstance(read("envoy", cluster(name), trusted=False), Missing)
    assert seen("envoy", cluster(name)) == (1, 3, 3)


@pytest.mark.parametrize("name", OWN + FOREIGN)
@pytest.mark.parametrize("namespace", ["team-a", "envoy"])
def test_envoy_through_prometheus_is_fetched_once(name: str, namespace: str) -> None:
    """A series of the own namespace, or of a cluster that carries it, meets exactly one list of
    conditions; another series none.
    """
    gateway = GATEWAYS["envoy"]
    found = sample("envoy_cluster_upstream_rq_active", 1, namespace=namespace)
    labels = {**found.labels, "envoy_cluster_name": name}

    met = [
        all(matcher.matches(labels) for matcher in alternative)
        for alternative in gateway.of_namespace("team-a")
    ]
    assert sum(met) == (namespace == "team-a" or name in OWN)


# Istio


def refused(service: str, flags: str, number: int = 1, **labels: str) -> str:
    of = {
        "reporter": "source",
        "destination_workload": "unknown",
        "destination_service_name": service,
        "destination_service_namespace": "team-a",
        "response_code": "503",
        "response_flags": flags,
        **labels,
    }
    written = ",".join(f'{label}="{value}"' for label, value in of.items())
    return f"istio_requests_total{{{written}}} {number}\n"


ISTIO = (
    refused("llama", "UH", 1)
    + refused("llama", "URX,UH", 10)
    + refused("llama", "NC", 100)
    + refused("llama", "NR", 1000)
    + refused("llama", "-", 7, response_code="200")
    + refused("llama", "UHX", 7)
    + refused("llama", "UH", 7, reporter="destination")
    + refused("llama", "UH", 7, destination_service_namespace="team-b")
    + refused("other", "UH", 5)
)


@pytest.mark.parametrize("trusted", [True, False])
def test_istio_is_read_by_its_flags_and_the_destination(trusted: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Of the trigger's own Service, or the one that the selector names; of one namespace only."""
    assert seen("istio", ISTIO, trusted=trusted) == (0, 0, 1111)
    other = 'destination_service_name="other"'
    assert seen("istio", ISTIO, trusted=trusted, wakeSelector=other) == (0, 0, 5)
    narrowed = 'response_flags="NC"'
    assert seen("istio", ISTIO, trusted=trusted, wakeSelector=narrowed) == (0, 0, 100)


# ingress-nginx

NGINX = """\
nginx_ingress_controller_requests{status="503",namespace="team-a",ingress="llama",path="/"} 4
nginx_ingress_controller_requests{status="503",namespace="team-a",ingress="llama",path="/v1"} 2
nginx_ingress_controller_requests{status="200",namespace="team-a",ingress="llama",path="/"} 90
nginx_ingress_controller_requests{status="503",namespace="team-a",ingress="other",path="/"} 30
nginx_ingress_controller_requests{status="503",namespace="team-b",ingress="llama",path="/"} 50
"""


@pytest.mark.parametrize("trusted", [True, False])
def test_nginx_is_read_by_status_and_ingress(trusted: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Of the ScaledObject's namespace, wherever the controller runs."""
    assert seen("nginx", NGINX, trusted=trusted) == (0, 0, 6)


def test_nginx_through_a_service_monitor_has_its_namespace_renamed() -> None:
    """An Ingress of the controller's own namespace is not that of the ScaledObject's."""
    name = "nginx_ingress_controller_requests"
    labels = {"status": "503", "ingress": "llama"}
    parts = [
        sample(name, 1, namespace="nginx", exported_namespace="team-a", **labels),
        sample(name, 2, namespace="team-a", exported_namespace="team-b", **labels),
        sample(name, 4, namespace="team-a", **labels),
    ]

    found = GATEWAYS["nginx"].seen(parts, scope("nginx", trusted=False))
    assert isinstance(found, Seen)
    assert sorted(found.counters.values()) == [1, 4]


# LiteLLM

LITELLM = """\
# HELP litellm_in_flight_requests Number of HTTP requests currently in-flight on this uvicorn worker
# TYPE litellm_in_flight_requests gauge
litellm_in_flight_requests 1.0
# TYPE litellm_proxy_total_requests_metric_total counter
litellm_proxy_total_requests_metric_total{requested_model="llama-8b",status_code="429"} 3.0
litellm_proxy_total_requests_metric_total{requested_model="llama-8b",status_code="200"} 4.0
litellm_proxy_total_requests_metric_total{requested_model="",status_code="401"} 8.0
"""


def test_litellm_is_read_by_its_counter() -> None:
    """Its gauge counts the request that reads the page: taken for work it would never be 0."""
    assert seen("litellm", LITELLM) == (0, 0, 15)
    assert seen("litellm", LITELLM, model="llama-8b") == (0, 0, 7)
    assert seen("litellm", LITELLM, model="llama-8b", trusted=False) == (0, 0, 7)
    assert seen("litellm", LITELLM, wakeSelector='status_code="429"') == (0, 0, 3)


@pytest.mark.parametrize(("namespace", "is_own"), [("team-a", True), ("team-b", False)])
def test_series_of_another_namespace_are_not_read(namespace: str, is_own: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Also if Prometheus gives them."""
    found = sample("litellm_proxy_total_requests_metric_total", 1, namespace=namespace)

    assert GATEWAYS["litellm"].concerns(found, scope("litellm", trusted=False)) is is_own
