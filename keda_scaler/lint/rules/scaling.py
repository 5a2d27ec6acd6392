"""Rules of scaling between one and many: signals, bounds, behaviour, formulas."""

import re
from collections.abc import Iterator

from keda_scaler.core.names import REPORTS
from keda_scaler.core.signals import Signal
from keda_scaler.core.trigger import Trigger
from keda_scaler.engines import DIALECTS
from keda_scaler.lint.documents import text_at
from keda_scaler.lint.findings import Hit, Rule, Severity
from keda_scaler.lint.subject import Subject

_SCRAPE_SECONDS = 60.0
"""Prometheus' default interval."""

_HPA_SECONDS = 15
"""How often the HPA asks."""

_SHORT_SECONDS = 60
"""A stabilization window below this does not outlast one burst of prompts."""

_RESERVING = frozenset(str(dialect.name) for dialect in DIALECTS if dialect.reserves_memory)

_STRING = re.compile(r"'[^']*'|\"[^\"]*\"")
_NAME = re.compile(r"(?<![\w.#])([A-Za-z_]\w*)(?!\w*\s*\()")
_LET = re.compile(r"\blet\s+(\w+)\s*=")
_WORDS = frozenset(
    {
        *("and", "or", "not", "in", "true", "false", "nil", "let", "if", "else"),
        *("matches", "contains", "startsWith", "endsWith"),
    }
)
"""What the formula's language (expr) keeps for itself."""


def _holds_memory(trigger: Trigger) -> bool:
    """Whether the memory of its GPUs is read, and may be what the engine keeps from the start."""
    return trigger.gpu_memory_source == "device" and trigger.engine in {"auto", *_RESERVING}


def _device_memory(subject: Subject) -> Iterator[Hit]:
    for ours, trigger in subject.read:
        if not _holds_memory(trigger):
            continue
        engine = "most engines keep" if trigger.engine == "auto" else f"{trigger.engine} keeps"
        says = f"{engine} the GPU memory from start to end"
        signals = {metric.signal for metric in trigger.metrics}
        if Signal.GPU_MEMORY_PRESSURE in signals:
            yield Hit(ours.path("gpuMemorySource"), says, "device")
        above = trigger.activation_gpu_memory_pressure
        if above is not None:
            yield Hit(ours.path("activationGpuMemoryPressure"), f"{says}: never idle", f"{above:g}")


def _alone(subject: Subject, signal: Signal, key: str) -> Iterator[Hit]:
    if len(subject.scaled_object.triggers) != len(subject.read):
        return  # another trigger may have what this one lacks
    if {metric.signal for _, trigger in subject.read for metric in trigger.metrics} == {signal}:
        for ours, _ in subject.read:
            yield Hit(ours.path(key), "nothing else is scaled on")


def _memory_alone(subject: Subject) -> Iterator[Hit]:
    return _alone(subject, Signal.GPU_MEMORY_PRESSURE, "targetGpuMemoryPressure")


def _utilization_alone(subject: Subject) -> Iterator[Hit]:
    return _alone(subject, Signal.GPU_UTILIZATION, "targetGpuUtilization")


def _no_maximum(subject: Subject) -> Iterator[Hit]:
    if subject.field("maxReplicaCount") is None:
        yield Hit("spec.maxReplicaCount", "not set, so 100")


def _window(subject: Subject) -> int | None:
    given = subject.field(
        *("advanced", "horizontalPodAutoscalerConfig", "behavior"),
        *("scaleDown", "stabilizationWindowSeconds"),
    )
    return given if isinstance(given, int) else None


_WINDOW = (
    "spec.advanced.horizontalPodAutoscalerConfig.behavior.scaleDown.stabilizationWindowSeconds"
)


def _no_window(subject: Subject) -> Iterator[Hit]:
    if _window(subject) is None and subject.scaled_object.max_replica_count > 1:
        yield Hit(_WINDOW, "not set, so 300, or what the cluster's controller is told")


def _short_window(subject: Subject) -> Iterator[Hit]:
    given = _window(subject)
    if given is not None and 0 <= given < _SHORT_SECONDS:
        yield Hit(_WINDOW, "seconds; a replica needs longer to come back", str(given))


def _cached(subject: Subject) -> Iterator[Hit]:
    interval = subject.scaled_object.polling_interval
    for ours in subject.ours:
        cached = subject.field("triggers", ours.keda.index, "useCachedMetrics")
        if cached is True and interval > _HPA_SECONDS:
            says = f"the HPA scales on values up to {interval} s old"
            yield Hit(f"{ours.path()}.useCachedMetrics", says, "true")


def _stale(subject: Subject) -> Iterator[Hit]:
    for ours, trigger in subject.read:
        unset = trigger.stale_seconds is None and trigger.stale_after < _SCRAPE_SECONDS
        wakes = trigger.wake_from not in {None, REPORTS} and trigger.wake_service is None
        if unset and (trigger.by_prometheus or wakes):
            says = f"not set, so {trigger.stale_after:g}; Prometheus scrapes every 60 s by default"
            yield Hit(ours.path("staleSeconds"), says)


def _unnamed(subject: Subject) -> Iterator[Hit]:
    plain = _STRING.sub("", subject.formula[:4096])
    known = {trigger.name for trigger in subject.scaled_object.triggers}
    known |= set(_LET.findall(plain)) | _WORDS
    missing = sorted(set(_NAME.findall(plain)) - known)
    if missing:
        says = f"no trigger is named {', '.join(missing)[:80]}"
        yield Hit("spec.advanced.scalingModifiers.formula", says, subject.formula[:80])


def _several(subject: Subject) -> Iterator[Hit]:
    for ours, trigger in subject.read:
        if subject.formula and len(trigger.metrics) > 1:
            names = ", ".join(metric.signal for metric in trigger.metrics)
            yield Hit(ours.path(), f"{len(trigger.metrics)} metrics ({names}) under one name")


def _fallback_formula(subject: Subject) -> Iterator[Hit]:
    fallback = subject.scaled_object.fallback
    if fallback is not None and fallback.behavior == "scalingModifiers" and not subject.formula:
        yield Hit("spec.fallback.behavior", "there is no formula", "scalingModifiers")


def _fallback_target(subject: Subject) -> Iterator[Hit]:
    target = text_at(subject.field("advanced", "scalingModifiers"), "target")
    if subject.formula and subject.scaled_object.fallback and not target.isdecimal():
        yield Hit("spec.advanced.scalingModifiers.target", "no whole number", target[:80] or None)


RULES = (
    Rule(
        "device-memory",
        Severity.WARNING,
        "What an engine takes at start and never gives back is no load: the target scales out and "
        "never in.",
        "Use `gpuMemorySource: kv-cache`; with an engine that gives memory back, name it in "
        "`engine`.",
        _device_memory,
    ),
    Rule(
        "utilization-alone",
        Severity.WARNING,
        "One request keeps a GPU busy: utilization tells busy from idle, and not how much.",
        "Scale on `targetQueueDepth` or `targetConcurrency` as well.",
        _utilization_alone,
    ),
    Rule(
        "memory-alone",
        Severity.NOTE,
        "Long prompts queue while the KV cache is far from full: its use alone does not show that "
        "an engine is saturated.",
        "Scale on `targetQueueDepth` as well.",
        _memory_alone,
    ),
    Rule(
        "no-maximum",
        Severity.WARNING,
        "KEDA's default is 100 replicas, each with its GPUs.",
        "Set `maxReplicaCount` to what the GPUs and the budget allow.",
        _no_maximum,
    ),
    Rule(
        "no-stabilization",
        Severity.NOTE,
        "How long the HPA waits before it takes a replica away is then up to the cluster "
        "(`--horizontal-pod-autoscaler-downscale-stabilization`).",
        "Set it under `advanced.horizontalPodAutoscalerConfig.behavior.scaleDown`; 300 is usual.",
        _no_window,
    ),
    Rule(
        "short-stabilization",
        Severity.WARNING,
        "Every pause between two prompts takes replicas away, and each costs a cold start to get "
        "back.",
        "Set 300, or more where loading takes longer.",
        _short_window,
    ),
    Rule(
        "cached-metrics",
        Severity.WARNING,
        "The scaler answers from memory, so that a cache saves nothing: it only makes values older "
        "and repeats errors.",
        "Leave `useCachedMetrics` out.",
        _cached,
    ),
    Rule(
        "stale-default",
        Severity.WARNING,
        "A reading is as old as the last scrape: what is known keeps lapsing between two scrapes.",
        "Set `staleSeconds` to at least twice the scrape interval: "
        "[staleSeconds](keda.md#staleseconds-through-prometheus).",
        _stale,
    ),
    Rule(
        "formula-names",
        Severity.ERROR,
        "KEDA only logs that a formula fails and takes it for inactive: the model goes to zero.",
        "Name the triggers as the formula does, with `name`.",
        _unnamed,
    ),
    Rule(
        "formula-metrics",
        Severity.ERROR,
        "A formula knows a trigger by its name, and gets any one of its metrics.",
        "Give exactly one `target...` key in each trigger, and one trigger for each signal.",
        _several,
    ),
    Rule(
        "fallback-formula",
        Severity.ERROR,
        "Past the threshold KEDA then takes the error for inactive: the model goes to zero.",
        "Give a formula, or another `behavior`.",
        _fallback_formula,
    ),
    Rule(
        "fallback-target",
        Severity.WARNING,
        "With a formula KEDA reads the target as a whole number, and silently has no fallback "
        "otherwise.",
        "Give a whole number as `scalingModifiers.target`, and scale the formula to it.",
        _fallback_target,
    ),
)
