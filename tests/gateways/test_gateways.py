"""What holds for every gateway: names, pages, preferences, and what is unknown."""

import json
import math
from typing import Any

import msgspec
import promql_parser
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_readings import AT, SELECTORS, TEXT, read, sample, samples, scope, seen
from keda_scaler.core import names
from keda_scaler.core.matchers import Matcher
from keda_scaler.core.readings import Missing
from keda_scaler.core.trigger import Accepts, Trigger, parse_trigger
from keda_scaler.engines.dialect import LARGEST_COUNT
from keda_scaler.engines.samples import Sample
from keda_scaler.errors import PageError, TriggerError
from keda_scaler.gateways import GATEWAYS
from keda_scaler.gateways.gateway import Gateway, Scope, Seen
from keda_scaler.gateways.page import PAGE, Page

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"

FRESH = {
    "envoy": "# TYPE envoy_server_live gauge\nenvoy_server_live{} 1\n",
    "epp": 'inference_pool_ready_pods{name="llama"} 0\n',
    "istio": '# TYPE istio_build gauge\nistio_build{component="proxy"} 1\n',
    "keda-http-add-on": "{}",
    "litellm": "# HELP litellm_proxy_total_requests_metric_total Requests.\n",
    "nginx": "# TYPE nginx_ingress_controller_build_info gauge\n",
    "vllm-router": "# HELP vllm:num_incoming_requests_total Total valid requests.\n",
}
"""What each prints before its first request."""

LISTS_ALL = {"envoy", "keda-http-add-on"}


def at(time: float, sample: Sample) -> Sample:
    """Measure a sample at another time."""
    return msgspec.structs.replace(sample, at=time)


every = pytest.mark.parametrize("gateway", GATEWAYS.values(), ids=lambda gateway: str(gateway.name))
of_text = pytest.mark.parametrize("name", sorted(GATEWAYS.keys() - {"keda-http-add-on"}))


def test_every_gateway_that_a_trigger_may_name_has_a_table() -> None:
    """Under the same key, in the same order."""
    assert tuple(GATEWAYS) == names.GATEWAYS
    assert all(key == gateway.name for key, gateway in GATEWAYS.items())


@every
def test_names_are_told_apart(gateway: Gateway) -> None:
    """No name carries two numbers, and none is of the page as a whole."""
    groups = (gateway.held, gateway.running, *gateway.arrivals)
    spelled = [family.name for group in groups for family in group]

    assert len(spelled) == len(set(spelled))
    assert gateway.names == {*spelled, *gateway.heartbeats}
    assert PAGE not in gateway.names
    assert all(f.name.endswith(("_total", "_healthy", "_requests")) for f in gateway.arrivals[0])


@every
def test_prometheus_is_asked_for_one_namespace_only(gateway: Gateway) -> None:
    """Every selector is PromQL and bound to the namespace, however that is spelled."""
    namespace = 'a.b"c\\d'

    for selector in gateway.promql(namespace):
        parsed: Any = promql_parser.parse(selector)
        conditions = {m.name: (str(m.op), m.value) for m in parsed.matchers.matchers}
        bound = [v for _, v in conditions.values() if v == namespace or "/a\\.b" in v]
        assert bound
        assert set(conditions.pop("__name__")[1].split("|")) <= gateway.names
    asked = "".join(gateway.promql(namespace))
    assert all(name in asked for name in gateway.names)


# Pages


@pytest.mark.parametrize("name", sorted(FRESH))
def test_a_fresh_gateway_has_no_requests(name: str) -> None:
    """Unless its page lists its targets: then one that is not there is unknown."""
    if name in LISTS_ALL:
        assert isinstance(read(name, FRESH[name]), Missing)
    else:
        assert seen(name, FRESH[name]) == (0, 0, 0)


@of_text
@pytest.mark.parametrize("page", ["", "up 1\n", "x_litellm_ 1\n# istio_ vllm:num_ envoy_ nginx_\n"])
def test_a_page_of_something_else_is_an_error(name: str, page: str) -> None:
    """It is not taken for a gateway without requests."""
    with pytest.raises(PageError, match=r"the page is not of .*: it has no .*_"):
        samples(name, page)


@of_text
def test_half_a_page_is_an_error(name: str) -> None:
    """Also where it was cut off in a line that nobody reads."""
    with pytest.raises(PageError, match="cut off"):
        samples(name, f"{FRESH[name]}other_family 1")


@of_text
def test_pages_may_be_open_metrics(name: str) -> None:
    """They end with their mark, with or without a line feed."""
    page = FRESH[name].encode()

    for end in (b"# EOF", b"# EOF\n"):
        assert GATEWAYS[name].page(page + end, OPEN_METRICS, AT)
    with pytest.raises(PageError, match="cut off"):
        GATEWAYS[name].page(page, OPEN_METRICS, AT)


@every
@given(body=st.binary() | st.text().map(str.encode), kind=st.sampled_from(["", TEXT, "text/html"]))
def test_a_page_is_read_or_refused(gateway: Gateway, body: bytes, kind: str) -> None:
    """Whatever it holds, nothing else happens."""
    try:
        found = gateway.page(body, kind, AT)
    except PageError:
        return
    assert isinstance(gateway.seen(found, scope(gateway.name)), Seen | Missing)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("Concurrency"), inner),
)


@given(queue=st.dictionaries(st.sampled_from(["team-a/llama", "a/b", "x"]), JSON) | JSON)
def test_a_queue_is_read_or_refused(queue: Any) -> None:
    """Whatever JSON it is."""
    try:
        found = samples("keda-http-add-on", json.dumps(queue))
    except PageError:
        return
    reading = GATEWAYS["keda-http-add-on"].seen(found, scope("keda-http-add-on"))
    assert isinstance(reading, Missing) or 0 <= reading.in_flight < math.inf


# What is unknown


@pytest.mark.parametrize("number", ["NaN", "-1", "+Inf", str(LARGEST_COUNT * 2), "0,5"])
def test_a_number_that_is_none_makes_its_target_unknown(number: str) -> None:
    """And only this one."""
    page = (
        f'llm_d_epp_request_running{{model_name="a"}} {number}\n'
        'llm_d_epp_request_running{model_name="b"} 2\n'
    )

    found = read("epp", page, model="a")
    assert isinstance(found, Missing)
    assert found.reason.startswith("llm_d_epp_request_running is ")
    assert seen("epp", page, model="b") == (0, 2, 0)


def test_a_series_that_stands_twice_makes_its_target_unknown() -> None:
    """Nobody can say which of the two is right."""
    page = "llm_d_epp_request_running 1\n" * 2

    assert read("epp", page) == Missing("llm_d_epp_request_running has the same series twice")


@pytest.mark.parametrize("name", ["epp", "litellm", "vllm-router"])
def test_a_page_of_another_namespace_must_be_narrowed(name: str) -> None:
    """Its series say nothing of namespaces, so the trigger must name what is its own."""
    needs = Missing(f"{name} of another namespace needs model or wakeSelector")

    assert read(name, FRESH[name], trusted=False) == needs
    assert seen(name, FRESH[name], trusted=False, model="a") == (0, 0, 0)
    assert seen(name, FRESH[name], trusted=False, wakeSelector='a="b"') == (0, 0, 0)


@pytest.mark.parametrize("name", ["envoy", "istio", "nginx"])
def test_a_gateway_of_many_targets_needs_a_selector(name: str) -> None:
    """The trigger is refused with the words with which the page would be; Istio has a default."""
    gateway = GATEWAYS[name]
    bare = Scope("team-a", "llama", None, None, (), trusted=True)

    needs = f"{name} needs wakeSelector, such as {gateway.example}"
    assert gateway.seen(samples(name, FRESH[name]), bare) == Missing(needs)
    if name in SELECTORS:
        keys = {"service": "llama", "wakeFrom": name, "wakeService": "gateway"}
        with pytest.raises(TriggerError) as caught:
            parse_trigger(keys, Accepts())
        assert list(caught.value.problems) == [f"wakeFrom: {needs}"]


# Prometheus


@pytest.mark.parametrize("name", ["epp", "litellm", "vllm-router"])
def test_through_prometheus_a_heartbeat_makes_absence_zero(name: str) -> None:
    """Without one nothing says that the gateway is scraped, however fresh the answer."""
    gateway = GATEWAYS[name]
    target = scope(name, trusted=False)

    for heartbeat in gateway.heartbeats:
        alive = [at(5, sample(heartbeat, 1)), at(6, sample(heartbeat, 1, pod="b"))]
        assert gateway.seen(alive, target) == Seen(0, 0, {}, 5)
    absent = Missing(f"Prometheus has no series of {gateway.title}")
    assert gateway.seen((), target) == gateway.seen((), target, AT) == absent


@pytest.mark.parametrize("name", ["istio", "nginx", "keda-http-add-on"])
def test_through_a_fresh_prometheus_what_is_born_late_is_zero(name: str) -> None:
    """So that the very first request is a birth, and wakes; without its word it is unknown."""
    gateway = GATEWAYS[name]
    target = scope(name, trusted=False)

    assert gateway.seen((), target, AT) == Seen(0, 0, {}, AT)
    assert isinstance(gateway.seen((), target), Missing)


def test_other_targets_of_the_gateway_prove_that_it_is_scraped() -> None:
    """A model that nobody asked for yet has no requests."""
    others = [sample("vllm:num_incoming_requests_total", 9, model="other")]

    found = GATEWAYS["vllm-router"].seen(others, scope("vllm-router", trusted=False, model="a"))
    assert found == Seen(0, 0, {}, AT)


def test_labels_of_prometheus_belong_to_the_series() -> None:
    """Pods of a gateway add up, and their counters are compared one by one."""
    name = "vllm:num_incoming_requests_total"
    both = [sample(name, 3, model="a", pod="x"), sample(name, 4, model="a", pod="y")]

    found = GATEWAYS["vllm-router"].seen(both, scope("vllm-router", trusted=False))
    assert isinstance(found, Seen)
    assert sorted(found.counters.values()) == [3, 4]
    assert {dict(labels)["pod"] for _, labels in found.counters} == {"x", "y"}


@pytest.mark.parametrize(("number", "measured"), [(0, 3.0), (2, 5.0)])
def test_requests_are_as_new_as_the_newest_that_is_there(number: float, measured: float) -> None:
    """And their absence as old as the oldest sample."""
    running = "llm_d_epp_request_running"
    parts = [
        at(4, sample(running, number, pod="x")),
        at(5, sample(running, number, pod="y")),
        at(3, sample("llm_d_epp_info", 1, pod="z")),
        at(6, sample(running, 0, pod="z")),
    ]

    found = GATEWAYS["epp"].seen(parts, scope("epp", trusted=False))
    assert isinstance(found, Seen)
    assert (found.in_flight, found.at) == (2 * number, measured)


def test_the_better_name_is_chosen_for_each_process() -> None:
    """One prints a number under both names, another only under the old one."""
    new, old = "llm_d_epp_request_running", "inference_objective_running_requests"
    parts = [sample(old, 2, pod="x"), sample(new, 2, pod="x"), sample(old, 3, pod="y")]

    for order in (parts, parts[::-1]):
        found = GATEWAYS["epp"].seen(order, scope("epp", trusted=False))
        assert isinstance(found, Seen)
        assert found.in_flight == 5


def test_a_scope_is_what_the_trigger_says() -> None:
    """It takes the model, the service and the selector over."""
    given = scope("litellm", model="m", wakeSelector='a="b"', trusted=False)

    assert (given.namespace, given.name, given.model, given.service, given.trusted) == (
        *("team-a", "llama", "m", "llama"),
        False,
    )
    assert [matcher.promql for matcher in given.matchers] == ['a="b"']
    bare = Scope.of("n", "o", Trigger(), trusted=True)
    assert bare == Scope("n", "o", None, None, (), trusted=True)


@every
def test_the_page_itself_concerns_nobody(gateway: Gateway) -> None:
    """What stands for a page, and what shows that a gateway is alive, are no requests."""
    target = scope(gateway.name)

    assert not gateway.concerns(sample(PAGE, 1), target)
    assert not any(gateway.concerns(sample(name, 1), target) for name in gateway.heartbeats)


def test_targets_of_one_page_look_only_at_their_own_series() -> None:
    """A thousand models behind one picker cost each target its own few series, not all of them."""
    looked_at = 0

    class Counting(dict[str, str]):
        def get(self, key: str, default: str | None = None) -> str | None:  # type: ignore[override]
            nonlocal looked_at
            looked_at += 1
            return super().get(key, default)

    epp = GATEWAYS["epp"]
    name = "llm_d_epp_flow_control_queue_size"
    lines = (f'{name}{{target_model_name="m{i}"}} {i}\n' for i in range(1000))
    parsed = epp.page("".join(lines).encode(), "text/plain", 1.0)
    page = Page(msgspec.structs.replace(each, labels=Counting(each.labels)) for each in parsed)

    def held(model: str) -> float:
        seen = epp.seen(page, Scope("models", "llama", model, None, (), trusted=True))
        assert isinstance(seen, Seen)
        return seen.held

    assert held("m7") == 7.0
    looked_at = 0
    assert [held(f"m{i}") for i in range(10)] == [float(i) for i in range(10)]
    assert looked_at < 200


def test_a_model_and_a_selector_narrow_together() -> None:
    """What is found by the one is still judged by the other."""
    epp = GATEWAYS["epp"]
    series = 'llm_d_epp_flow_control_queue_size{inference_pool="%s",target_model_name="%s"} 1\n'
    body = "".join(series % pair for pair in (("a", "m"), ("a", "n"), ("b", "m"))).encode()
    of_both = Scope(
        "models", "llama", "m", None, (Matcher("inference_pool", "=", "a"),), trusted=False
    )

    found = epp.seen(epp.page(body, "text/plain", 1.0), of_both)
    assert isinstance(found, Seen)
    assert found.held == 1.0
