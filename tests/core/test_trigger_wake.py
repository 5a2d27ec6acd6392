"""Triggers: the keys of waking, reports and defaults."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_scaler.core.addresses import AddressRules
from keda_scaler.core.matchers import Matcher
from keda_scaler.core.names import GATEWAYS
from keda_scaler.core.signals import Signal
from keda_scaler.core.trigger import Accepts, Metric, parse_trigger
from keda_scaler.core.values import MAX_QUERY
from keda_scaler.errors import TriggerError

RULES = AddressRules.parse(["10.0.0.0/8", "gateway.ingress"])
ACCEPTS = Accepts(frozenset({"main"}), RULES, reports=True)
PLACE = {"service": "llama"}
EPP = PLACE | {"wakeFrom": "epp", "wakeService": "epp"}


def problems(metadata: dict[str, str], accepts: Accepts = ACCEPTS) -> list[str]:
    with pytest.raises(TriggerError) as caught:
        parse_trigger(metadata, accepts)
    return list(caught.value.problems)


@pytest.mark.parametrize(
    "metadata",
    [
        EPP | {"wakePort": "9090", "wakePath": "/metrics"},
        PLACE | {"wakeFrom": "epp", "prometheus": "main"},
        {"endpoints": "http://10.0.0.1/metrics", "wakeFrom": "epp", "prometheus": "main"},
        {"prometheus": "main", "wakeFrom": "istio"},
        {"prometheus": "main", "wakeFrom": "epp", "wakeService": "epp"},
        {"prometheus": "main", "wakeFrom": "query", "wakeQuery": "sum(requests) or vector(0)"},
        PLACE | {"wakeFrom": "query", "wakeQuery": "1", "prometheus": "main"},
        PLACE | {"wakeFrom": "nginx", "wakeService": "n", "wakeSelector": 'ingress="llama"'},
        PLACE | {"wakeFrom": "epp", "wakeService": "gateway.ingress"},
        PLACE | {"wakeFrom": "epp", "wakeService": "10.1.2.3", "wakePort": "9090"},
        PLACE | {"wakeFrom": "reports"},
        {"engine": "reports", "targetConcurrency": "4"},
    ],
)
def test_what_a_trigger_may_wake_from(metadata: dict[str, str]) -> None:
    """Directly, through the target's Prometheus, through another one, or by reports."""
    assert parse_trigger(metadata, ACCEPTS).metrics


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (PLACE | {"wakeFrom": "epp"}, "wakeFrom: epp needs wakeService, or the prometheus or"),
        (PLACE | {"wakeService": "epp"}, "wakeService: only with wakeFrom"),
        (PLACE | {"wakeQuery": "1"}, "wakeQuery: only with wakeFrom"),
        (EPP | {"wakeQuery": "1"}, "wakeQuery: only with wakeFrom query"),
        (EPP | {"prometheus": "main"}, "service and prometheus: give only one place"),
        (
            PLACE | {"wakeFrom": "epp", "prometheus": "main", "serverAddress": "http://10.0.0.1"},
            "service and prometheus and serverAddress: give only one place",
        ),
        (
            {"prometheus": "main", "wakeFrom": "epp", "wakePath": "/metrics"},
            "wakePath: only with wakeService",
        ),
        (PLACE | {"wakeFrom": "query", "wakeQuery": "1"}, "wakeFrom: query needs wakeQuery, and"),
        ({"prometheus": "main", "wakeFrom": "query"}, "wakeFrom: query needs wakeQuery, and"),
        ({"prometheus": "main", "wakeFrom": "query", "wakeQuery": "sum("}, "accepted: PromQL ("),
        (
            {"prometheus": "main", "wakeFrom": "query", "wakeQuery": "x" * (MAX_QUERY + 1)},
            f"PromQL of at most {MAX_QUERY} characters",
        ),
        (PLACE | {"wakeFrom": "reports", "wakeService": "x"}, "wakeService: not with wakeFrom"),
        (PLACE | {"wakeFrom": "envoy", "wakeService": "e"}, "wakeFrom: envoy needs wakeSelector"),
        (EPP | {"wakeService": "10.1.2.3"}, "wakePort: with an IP address as wakeService, give"),
        (
            EPP | {"wakeService": "10.1.2.3", "wakePort": "metrics"},
            "wakePort: with an IP address as wakeService, give",
        ),
        (EPP | {"wakeSelector": 'a=~"("'}, "wakeSelector: got"),
        (EPP | {"wakeSelector": 'a=~"b{1001}"'}, "a has no regular expression"),
        (EPP | {"wakeSelector": '__name__="a"'}, "wakeSelector: got"),
        (EPP | {"wakeService": "Epp"}, "the name of a Service, NAME.NAMESPACE, or an IP address"),
        (EPP | {"wakeService": "a.b.c"}, "the name of a Service, NAME.NAMESPACE, or an IP address"),
        (EPP | {"wakeService": "169.254.169.254"}, "'169.254.169.254' is not an address that"),
        (EPP | {"wakeService": "::1"}, "'::1' is not an address that the server's"),
        (EPP | {"maxPendingFactor": "0.5"}, "maxPendingFactor: got '0.5'; accepted: a factor"),
        (EPP | {"onStuck": "kill"}, "onStuck: got 'kill'; accepted: hold or idle"),
        ({"engine": "reports", "service": "llama"}, "service: not with engine reports"),
        ({"engine": "reports", "wakeFrom": "reports"}, "wakeFrom: not with engine reports"),
        ({"engine": "reports", "metricType": "Value"}, "metricType: with engine reports only"),
        (
            {"engine": "reports", "targetGpuMemoryPressure": "0.8"},
            "targetGpuMemoryPressure: not with engine reports",
        ),
    ],
)
def test_each_rule_of_waking_has_its_refusal(wrong: dict[str, str], says: str) -> None:
    """Bad input gets a clear error that names the key, the value and what is accepted."""
    assert any(says in problem for problem in problems(wrong)), problems(wrong)


def test_addresses_of_gateways_are_those_of_the_settings() -> None:
    """A gateway of another namespace is read only where the settings name it."""
    elsewhere = EPP | {"wakeService": "gateway.ingress"}
    nowhere = Accepts(frozenset({"main"}), AddressRules(), reports=True)

    assert parse_trigger(elsewhere, ACCEPTS).wake_service == "gateway.ingress"
    assert "'gateway.ingress' is not an address" in problems(elsewhere, nowhere)[0]
    assert parse_trigger(EPP, nowhere).wake_service == "epp"


def test_reports_need_a_server_that_takes_them() -> None:
    """Else nothing would ever wake the target."""
    deaf = Accepts()

    for metadata in ({"engine": "reports"}, PLACE | {"wakeFrom": "reports"}):
        assert problems(metadata, deaf) == [
            "reports: the server takes none; start it with --report-tokens"
        ]


def test_reports_alone_are_scaled_on_by_queue_depth() -> None:
    """They say nothing of memory."""
    trigger = parse_trigger({"engine": "reports"}, ACCEPTS)

    assert trigger.metrics == (Metric(Signal.QUEUE_DEPTH, 5.0),)
    assert trigger.by_reports
    assert not trigger.by_prometheus


def test_a_wake_selector_is_taken_apart() -> None:
    """The same matchers serve a page, which we filter, and a query."""
    trigger = parse_trigger(EPP | {"wakeSelector": 'pool="a",stage=~"x|y"'}, ACCEPTS)

    assert trigger.wake_selector == (Matcher("pool", "=", "a"), Matcher("stage", "=~", "x|y"))
    assert [matcher.promql for matcher in trigger.wake_selector] == ['pool="a"', 'stage=~"x|y"']


@pytest.mark.parametrize(
    ("matcher", "value", "matches"),
    [
        (Matcher("a", "=", "x"), "x", True),
        (Matcher("a", "=", "x"), "xy", False),
        (Matcher("a", "=", ""), None, True),
        (Matcher("a", "!=", "x"), None, True),
        (Matcher("a", "!=", "x"), "x", False),
        (Matcher("a", "=~", "x|y"), "y", True),
        (Matcher("a", "=~", "x"), "xx", False),
        (Matcher("a", "!~", "x.*"), "xx", False),
        (Matcher("a", "!~", "x"), None, True),
    ],
)
def test_matchers_match_as_those_of_prometheus(
    matcher: Matcher, value: str | None, *, matches: bool
) -> None:
    """Regular expressions match whole values, and what is absent is empty."""
    assert matcher.matches({} if value is None else {"a": value}) is matches


@given(st.text(alphabet="a(*+|)", max_size=12), st.text(alphabet="a", max_size=60))
def test_no_pattern_takes_long_or_fails_later(pattern: str, text: str) -> None:
    """A pattern is refused when the trigger is parsed, or matches in linear time."""
    metadata = EPP | {"wakeSelector": f'a=~"{pattern}"'}
    try:
        trigger = parse_trigger(metadata, ACCEPTS)
    except TriggerError:
        return
    assert trigger.wake_selector[0].matches({"a": text}) in {True, False}


def test_defaults_stand_where_a_trigger_says_nothing() -> None:
    """A default target counts only for a trigger that names none at all."""
    defaults = {"targetQueueDepth": "8", "pollSeconds": "2"}
    accepts = Accepts(defaults=defaults)

    plain = parse_trigger(PLACE, accepts)
    assert plain.metrics == (Metric(Signal.QUEUE_DEPTH, 8.0),)
    assert plain.poll_seconds == 2.0
    own = parse_trigger(PLACE | {"targetConcurrency": "4", "pollSeconds": "9"}, accepts)
    assert own.metrics == (Metric(Signal.CONCURRENCY, 4.0),)
    assert own.poll_seconds == 9.0


def test_no_default_contradicts_a_trigger() -> None:
    """What a fleet wants of most triggers refuses none of them."""
    defaults = {"targetGpuMemoryPressure": "0.7", "staleSeconds": "20"}
    accepts = Accepts(reports=True, defaults=defaults | {"activationGpuUtilization": "0.1"})

    alone = parse_trigger({"engine": "reports"}, accepts)
    assert alone.metrics == (Metric(Signal.QUEUE_DEPTH, 5.0),)
    slow = parse_trigger(PLACE | {"pollSeconds": "30"}, Accepts(defaults=defaults))
    assert slow.stale_after == 90.0
    assert parse_trigger(PLACE, Accepts(defaults=defaults)).stale_after == 20.0


def test_gateways_are_sorted() -> None:
    """Errors list them in the order in which people look for them."""
    assert tuple(sorted(GATEWAYS)) == GATEWAYS
