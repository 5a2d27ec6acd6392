"""Own queries in triggers: which go with what, and how a wrong one is refused."""

import pytest

from keda_scaler.core.signals import Signal
from keda_scaler.core.trigger import Accepts, Metric, Trigger, parse_trigger
from keda_scaler.errors import TriggerError

PLACE = {"prometheus": "main"}
UNKNOWN = PLACE | {"selector": 'job="mine"', "concurrencyQuery": "sum by (pod) (running)"}
"""The least of a trigger for an engine that nobody knows, but for what to scale on."""


def parsed(keys: dict[str, str], **defaults: str) -> Trigger:
    return parse_trigger(keys, Accepts(frozenset({"main"}), reports=True, defaults=defaults))


@pytest.mark.parametrize(
    ("keys", "metrics"),
    [
        ({"targetConcurrency": "8"}, [Metric(Signal.CONCURRENCY, 8.0)]),
        ({"queueDepthQuery": "sum(w)"}, [Metric(Signal.QUEUE_DEPTH, 5.0)]),
        ({"gpuMemoryQuery": "avg(g)"}, [Metric(Signal.GPU_MEMORY_PRESSURE, 0.85)]),
        (
            {"queueDepthQuery": "sum(w)", "gpuMemoryQuery": "avg(g)"},
            [Metric(Signal.QUEUE_DEPTH, 5.0), Metric(Signal.GPU_MEMORY_PRESSURE, 0.85)],
        ),
        (
            {"latencyQuery": "max(s)", "targetLatencySeconds": "3"},
            [Metric(Signal.LATENCY, 3.0)],
        ),
    ],
)
def test_an_engine_that_nobody_knows(keys: dict[str, str], metrics: list[Metric]) -> None:
    """It is scaled on what its queries give, and nothing else is read of it."""
    trigger = parsed(UNKNOWN | keys)

    assert list(trigger.metrics) == metrics
    assert trigger.by_queries
    assert (trigger.reads_devices, trigger.reads_latencies) == (False, False)


def test_an_engine_that_is_named_keeps_its_other_signals() -> None:
    """A query stands for its own signal only."""
    latency = {"latencyQuery": "max(s)", "targetLatencySeconds": "3", "targetTtftSeconds": "1"}
    memory = {"gpuMemoryQuery": "avg(g)", "targetGpuMemoryPressure": "0.9"}
    trigger = parsed(PLACE | {"engine": "vllm"} | latency | memory)

    assert not trigger.by_queries
    assert list(trigger.queries) == [Signal.GPU_MEMORY_PRESSURE, Signal.LATENCY]
    assert trigger.reads_latencies
    assert not trigger.reads_devices
    assert not parsed(PLACE | {"engine": "vllm"} | dict(list(latency.items())[:2])).reads_latencies


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (
            {"service": "llama", "concurrencyQuery": "x", "targetConcurrency": "1"},
            "concurrencyQuery: only where the replicas are read through prometheus or serverAddr",
        ),
        (
            PLACE | {"service": "llama", "wakeFrom": "query", "wakeQuery": "x"} | UNKNOWN,
            "concurrencyQuery: only where the replicas are read through prometheus or serverAddr",
        ),
        ({"engine": "reports", "queueDepthQuery": "x"}, "queueDepthQuery: not with engine reports"),
        (UNKNOWN, "no target: give targetConcurrency, or queueDepthQuery"),
        (
            PLACE | {"selector": 'job="a"', "queueDepthQuery": "x"},
            "queueDepthQuery: without concurrencyQuery, or an engine by name, nothing can prove",
        ),
        (
            PLACE | {"concurrencyQuery": "x", "targetConcurrency": "1"},
            "selector: own queries need it, or an engine by name",
        ),
        (
            UNKNOWN | {"targetQueueDepth": "5"},
            "targetQueueDepth: needs queueDepthQuery, or an engine by name",
        ),
        (
            UNKNOWN | {"targetConcurrency": "5", "activationGpuMemoryPressure": "0.1"},
            "activationGpuMemoryPressure: needs gpuMemoryQuery, or an engine by name",
        ),
        (
            UNKNOWN | {"targetTtftSeconds": "1"},
            "targetTtftSeconds: beside own queries only with an engine by name",
        ),
        (
            UNKNOWN | {"targetConcurrency": "1", "latencyQuery": "x"},
            "latencyQuery: only with targetLatencySeconds",
        ),
        (
            PLACE | {"engine": "vllm", "latencyQuery": "x"},
            "latencyQuery: only with targetLatencySeconds",
        ),
        (
            UNKNOWN | {"targetConcurrency": "1", "queueDepthQuery": "x"},
            "queueDepthQuery: only with targetQueueDepth or activationQueueDepth",
        ),
        (
            PLACE | {"engine": "vllm", "gpuMemoryQuery": "x", "gpuMemorySource": "device"},
            "gpuMemorySource: not with gpuMemoryQuery",
        ),
        (UNKNOWN | {"targetConcurrency": "1", "concurrencyQuery": "sum("}, "accepted: PromQL ("),
        (
            UNKNOWN | {"targetConcurrency": "1", "concurrencyQuery": "up[5m]"},
            "accepted: PromQL that gives one number per series",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(keys: dict[str, str], says: str) -> None:
    """A query that would not count, and a signal that nothing gives, are errors with the remedy."""
    with pytest.raises(TriggerError) as caught:
        parsed(keys)

    assert any(says in problem for problem in caught.value.problems), caught.value.problems


def test_defaults_of_the_settings_never_ask_for_what_queries_do_not_give() -> None:
    """A target that the settings add to every trigger does not make one wrong."""
    defaults = {"targetGpuMemoryPressure": "0.9", "gpuMemorySource": "device"}
    queue = parsed(UNKNOWN | {"queueDepthQuery": "sum(w)"}, **defaults)
    memory = parsed(UNKNOWN | {"gpuMemoryQuery": "avg(g)"}, **defaults)

    assert list(queue.metrics) == [Metric(Signal.QUEUE_DEPTH, 5.0)]
    assert list(memory.metrics) == [Metric(Signal.GPU_MEMORY_PRESSURE, 0.9)]
    assert memory.gpu_memory_source == "auto"
