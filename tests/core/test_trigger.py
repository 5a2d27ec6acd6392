"""Triggers: what is accepted, what is refused, and how that is said."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_scaler.core.addresses import AddressRules
from keda_scaler.core.signals import Signal
from keda_scaler.core.trigger import KEDA_KEYS, Accepts, Metric, Trigger, parse_trigger
from keda_scaler.core.values import ports_of
from keda_scaler.errors import TriggerError

ACCEPTS = Accepts(frozenset({"main"}), AddressRules.parse(["10.0.0.0/8", "engine.example"]))
PLACE = {"service": "llama"}


def problems(metadata: dict[str, str], accepts: Accepts = ACCEPTS) -> list[str]:
    with pytest.raises(TriggerError) as caught:
        parse_trigger(metadata, accepts)
    return list(caught.value.problems)


def test_defaults_are_those_of_the_contract() -> None:
    """A trigger with nothing but a place to read from scales on queue depth and memory pressure."""
    trigger = parse_trigger(PLACE, ACCEPTS)

    assert trigger.metrics == (
        Metric(Signal.QUEUE_DEPTH, 5.0),
        Metric(Signal.GPU_MEMORY_PRESSURE, 0.85),
    )
    assert trigger.engine == "auto"
    assert trigger.activations == ((Signal.CONCURRENCY, 0.0),)
    assert (trigger.idle_seconds, trigger.poll_seconds, trigger.stale_after) == (30.0, 5.0, 15.0)
    assert (trigger.on_unknown, trigger.hold_seconds) == ("hold", 900.0)
    assert trigger.metric_type == "AverageValue"


def test_only_the_targets_given_are_scaled_on() -> None:
    """A target that is given switches the default targets off."""
    trigger = parse_trigger(PLACE | {"targetConcurrency": "16"}, ACCEPTS)

    assert trigger.metrics == (Metric(Signal.CONCURRENCY, 16.0),)


@pytest.mark.parametrize(("given", "ratio"), [("0.85", 0.85), ("85%", 0.85), ("1", 1.0)])
def test_a_ratio_may_be_a_percentage(given: str, ratio: float) -> None:
    """0.85 and 85% are the same target."""
    trigger = parse_trigger(PLACE | {"targetGpuMemoryPressure": given}, ACCEPTS)

    assert trigger.metrics == (Metric(Signal.GPU_MEMORY_PRESSURE, ratio),)


def test_stale_seconds_follow_the_poll() -> None:
    """A reading goes stale after three polls, and not before 15 seconds."""
    assert parse_trigger(PLACE | {"pollSeconds": "1"}, ACCEPTS).stale_after == 15.0
    assert parse_trigger(PLACE | {"pollSeconds": "30"}, ACCEPTS).stale_after == 90.0
    assert parse_trigger(PLACE | {"staleSeconds": "7"}, ACCEPTS).stale_after == 7.0


def test_every_activation_threshold_counts() -> None:
    """Each activation key adds a threshold of its own."""
    trigger = parse_trigger(
        PLACE
        | {
            "activationRequests": "2",
            "activationQueueDepth": "1",
            "activationConcurrency": "8",
            "activationGpuMemoryPressure": "5%",
        },
        ACCEPTS,
    )

    assert set(trigger.activations) == {
        (Signal.CONCURRENCY, 2.0),
        (Signal.QUEUE_DEPTH, 1.0),
        (Signal.CONCURRENCY, 8.0),
        (Signal.GPU_MEMORY_PRESSURE, 0.05),
    }


def test_what_keda_passes_through_is_no_problem() -> None:
    """KEDA sends its own keys along with ours."""
    parse_trigger(PLACE | dict.fromkeys(KEDA_KEYS, "x"), ACCEPTS)


def test_all_problems_are_reported_at_once() -> None:
    """Every wrong key is named, with what was given and what is accepted."""
    found = problems(
        {
            "endpoints": "http://192.168.0.1/metrics",
            "targetQueueDepth": "nan",
            "targetGpuMemoryPressure": "850%",
            "engine": "vlm",
            "wakeFrom": "gateway",
            "polSeconds": "3",
            "port": "http",
            "onUnknown": "zero",
        }
    )

    text = "\n".join(found)
    assert len(found) == 8
    assert "targetQueueDepth: got 'nan'; accepted: a number of requests from 0.001" in text
    assert "targetGpuMemoryPressure: got '850%'; accepted: a ratio from 0.001 to 1" in text
    assert "engine: got 'vlm'; accepted: auto, dynamo, llama.cpp, " in text
    assert "trtllm-serve, vllm or reports" in text
    assert "wakeFrom: got 'gateway'; accepted: envoy, epp, istio, " in text
    assert "polSeconds: unknown key; did you mean pollSeconds?" in text
    assert "port: only with service" in text
    assert "onUnknown: got 'zero'; accepted: hold or error" in text
    assert "'http://192.168.0.1/metrics' is not an address that the server's settings allow" in text


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({}, "no place to read from: give one of service, endpoints, prometheus or serverAddress"),
        (PLACE | {"prometheus": "main"}, "service and prometheus: give only one place"),
        ({"prometheus": "other"}, "prometheus: got 'other'; accepted: main"),
        (PLACE | {"gpuMemorySource": "vram"}, "accepted: auto, kv-cache or device"),
        (PLACE | {"idleSeconds": "-1"}, "idleSeconds: got '-1'; accepted: seconds from 0"),
        (PLACE | {"pollSeconds": "0.5"}, "pollSeconds: got '0.5'; accepted: seconds from 1"),
        (PLACE | {"pollSeconds": "60", "staleSeconds": "30"}, "staleSeconds: got 30; accepted"),
        (PLACE | {"targetQueueDepth": "inf"}, "targetQueueDepth: got 'inf'"),
        (PLACE | {"targetQueueDepth": "0"}, "targetQueueDepth: got '0'"),
        (PLACE | {"targetQueueDepth": ""}, "targetQueueDepth: got ''"),
        (PLACE | {"metricType": "Utilization"}, "accepted: AverageValue or Value"),
        (PLACE | {"port": "70000"}, "port: got '70000'"),
        (PLACE | {"port": ""}, "port: got ''"),
        (PLACE | {"port": "8000,"}, "port: got '8000,'"),
        (PLACE | {"port": "8000-8064"}, "several with commas or as FIRST-LAST, at most 64"),
        (PLACE | {"port": "1-99999999"}, "port: got '1-99999999'"),
        (PLACE | {"port": "8007-8000"}, "port: got '8007-8000'"),
        (PLACE | {"port": "0-3"}, "port: got '0-3'"),
        (PLACE | {"port": "65530-65536"}, "port: got '65530-65536'"),
        (PLACE | {"port": "p" * 64}, "port: got 'ppp"),
        (
            {**PLACE, "wakeFrom": "epp", "wakeService": "epp", "wakePort": "9090,9091"},
            "wakePort: got '9090,9091'; accepted: the name of a port",
        ),
        (PLACE | {"model": " "}, "model: got ' '; accepted: the name of a served model"),
        (PLACE | {"model": "m" * 513}, "accepted: the name of a served model"),
        (PLACE | {"path": "metrics"}, "path: got 'metrics'; accepted: a path that starts with /"),
        (PLACE | {"selector": 'job="a"'}, "selector: only with prometheus or serverAddress"),
        ({"endpoints": "ftp://10.0.0.1/"}, "endpoints: got"),
        ({"endpoints": "http://[::1/"}, "endpoints: got"),
        ({"prometheus": "main", "selector": 'a="' + "b" * 1024 + '"'}, "at most 1024 characters"),
        ({"endpoints": " , "}, "1 to 64 comma-separated URLs"),
        ({"serverAddress": "http://10.0.0.1:9090/?q=1"}, "without a query"),
        ({"serverAddress": "http://10.0.0.1/-/quit?"}, "without a query"),
        ({"serverAddress": "http://10.0.0.1/-/quit#"}, "http or https URLs without credentials"),
        ({"serverAddress": "http://elsewhere.example.1e6"}, "not an address that the server's"),
    ],
)
def test_each_rule_has_its_refusal(wrong: dict[str, str], says: str) -> None:
    """Bad input gets a clear error that names the key, the value and what is accepted."""
    assert any(says in problem for problem in problems(wrong))


@pytest.mark.parametrize(
    "selector",
    [
        'job="a"} or up{job="b"',
        'job="a"}[5m',
        'job="a" or cluster="b"',
        'namespace="other"',
        '__name__="up"',
        'job="a"} offset 5m #',
        "job=~",
    ],
)
def test_a_selector_holds_only_matchers(selector: str) -> None:
    """No selector reaches beyond the labels of its own namespace's series."""
    assert any(
        "selector" in problem for problem in problems({"prometheus": "main", "selector": selector})
    )


def test_a_selector_is_written_anew() -> None:
    """Quotes and backslashes of a value stay inside of it."""
    trigger = parse_trigger({"prometheus": "main", "selector": 'job="a\\"b",c=~"d|e"'}, ACCEPTS)

    assert [matcher.promql for matcher in trigger.selector] == ['job="a\\"b"', 'c=~"d|e"']


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("port", "metrics"),
        ("port", "8000"),
        ("port", "8000,8001"),
        ("port", "8000-8063"),
        ("port", "metrics-0, metrics-1"),
        ("path", "/metrics?model=a"),
        ("model", "meta-llama/Llama-3.1-8B"),
    ],
)
def test_what_a_service_trigger_may_say(key: str, value: str) -> None:
    """Ports by name or number, any path, any model."""
    assert getattr(parse_trigger(PLACE | {key: value}, ACCEPTS), key) == value


@pytest.mark.parametrize(
    ("given", "ports"),
    [
        ("metrics", ["metrics"]),
        ("8000 - 8002", ["8000", "8001", "8002"]),
        ("8001,8000-8001, rank-2", ["8001", "8000", "rank-2"]),
        ("8000-8000", ["8000"]),
    ],
)
def test_several_ports_are_taken_apart(given: str, ports: list[str]) -> None:
    """Each once, however often it is named: a page that is read twice would count twice."""
    assert list(ports_of(given)) == ports


def test_a_prometheus_may_be_named_by_its_address() -> None:
    """Where the settings allow the address; the slash at the end is of no meaning."""
    trigger = parse_trigger({"serverAddress": "http://engine.example:9090/"}, ACCEPTS)

    assert trigger.server_address == "http://engine.example:9090"


def test_endpoints_that_stand_twice_count_once() -> None:
    """A page is read once however often it is listed."""
    trigger = parse_trigger({"endpoints": "http://10.0.0.1/m, http://10.0.0.1/m"}, ACCEPTS)

    assert trigger.endpoints == ("http://10.0.0.1/m",)


def test_a_wrong_value_never_repeats_credentials() -> None:
    """Errors land in Kubernetes Events; a password in a URL does not."""
    found = problems(
        {"endpoints": "http://user:hunter2@10.0.0.1/metrics", "tokenFromEnv": "s3cret"}
    )

    assert "hunter2" not in str(found)
    assert "s3cret" not in str(found)


def test_every_key_is_camel_case_and_of_the_contract() -> None:
    """The model's fields are the public keys."""
    assert {"targetQueueDepth", "serverAddress", "onUnknown"} <= set(Trigger.keys())


@given(st.dictionaries(st.sampled_from([*Trigger.keys(), "x"]), st.text(max_size=20)))
def test_any_metadata_is_parsed_or_refused_with_reasons(metadata: dict[str, str]) -> None:
    """Nothing that a trigger says makes the parser fail in another way."""
    try:
        trigger = parse_trigger(metadata, ACCEPTS)
    except TriggerError as error:
        assert error.problems  # noqa: PT017  # either outcome is right
    else:
        assert all(metric.target >= 0.001 for metric in trigger.metrics)


@pytest.mark.parametrize(
    ("keys", "latencies", "gpus", "engine_first"),
    [
        ({}, False, True, True),
        ({"targetQueueDepth": "5"}, False, False, True),
        ({"targetTtftSeconds": "2"}, True, False, True),
        ({"gpuMemorySource": "kv-cache"}, False, False, False),
        ({"gpuMemorySource": "device"}, False, True, False),
        ({"targetGpuUtilization": "80%"}, False, True, False),
        ({"targetItlSeconds": "1", "activationGpuUtilization": "5%"}, True, True, False),
    ],
)
def test_only_what_a_trigger_needs_is_read(
    keys: dict[str, str],
    latencies: bool,  # noqa: FBT001
    gpus: bool,  # noqa: FBT001
    engine_first: bool,  # noqa: FBT001
) -> None:
    """Histograms and GPU exporters cost their readers something."""
    trigger = parse_trigger(PLACE | keys, ACCEPTS)

    assert trigger.reads_latencies is latencies
    assert trigger.reads_devices is gpus
    assert trigger.prefers_engine_memory is engine_first


def test_latency_objectives() -> None:
    """Latency objectives are metrics like the others, in the order of the signals."""
    keys = {"targetLatencySeconds": "30", "targetItlSeconds": "0.1", "targetTtftSeconds": "2"}
    trigger = parse_trigger(PLACE | keys | {"latencyQuantile": "0.9"}, ACCEPTS)

    assert [(metric.signal.value, metric.target) for metric in trigger.metrics] == [
        ("ttft", 2.0),
        ("itl", 0.1),
        ("latency", 30.0),
    ]
    assert (trigger.latency_quantile, trigger.latency_window_seconds) == (0.9, 120.0)
