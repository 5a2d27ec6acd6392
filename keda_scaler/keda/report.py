"""What one probe found: the verdict per trigger, and what KEDA and the HPA would make of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import grpc

from keda_scaler.core.names import REPORTS
from keda_scaler.core.values import SHOWN
from keda_scaler.keda.client import Failure, MetricResult, TriggerResult
from keda_scaler.keda.cluster import Cluster, hpa_metrics, situation_of
from keda_scaler.keda.hosts import host_of, service_of
from keda_scaler.keda.hpa import Blocked, Pods, recommend
from keda_scaler.keda.scaledobject import KedaTrigger, ScaledObject
from keda_scaler.keda.scaling import Decision, decide

_OF_PODS = frozenset({"cpu", "memory"})
"""Triggers that measure pods: they say nothing while there is none."""


class Verdict(StrEnum):
    """What a scaler says of a trigger."""

    ACTIVE = "active"
    IDLE = "idle"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Asked:
    """A trigger that was asked for, and where."""

    address: str
    result: TriggerResult

    @property
    def verdict(self) -> Verdict:
        """Unknown on any error and on the hold, which is active without a value."""
        if self.result.is_error or self.result.is_hold:
            return Verdict.UNKNOWN
        return Verdict.ACTIVE if self.result.is_active else Verdict.IDLE

    @property
    def why(self) -> str:
        """What lies behind the verdict, in one line."""
        failures = self.result.failures
        if failures:
            return str(failures[0])
        said = "".join(f"; {reason}" for reason in self.result.remarks("reason")[-1:])
        if not self.result.is_hold:
            return f"IsActive is {str(self.result.is_active).lower()}{said}"
        if self.result.is_active:
            words = "hold: active without values; KEDA keeps it awake and the HPA changes nothing"
            return words + said
        return "inactive without values; the HPA changes nothing, KEDA goes to zero"


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What would happen at a replica count, all of them ready."""

    replicas: int
    hpa_replicas: int | None
    """What the HPA steers for, within its bounds; None: it changes nothing."""

    hpa_words: str
    decision: Decision
    """KEDA's."""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that one probe found."""

    scaled_object: ScaledObject
    asked: tuple[Asked, ...]
    what_ifs: tuple[WhatIf, ...]
    notes: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """The ScaledObject's: unknown if any trigger is, else active if any is."""
        verdicts = {asked.verdict for asked in self.asked}
        order = (Verdict.UNKNOWN, Verdict.ACTIVE, Verdict.IDLE)
        return next((verdict for verdict in order if verdict in verdicts), Verdict.UNKNOWN)

    @property
    def exit_code(self) -> int:
        """0: known; 1: the scaler refuses the trigger; 2: unknown."""
        failures = (failure for asked in self.asked for failure in asked.result.failures)
        if any(failure.code is grpc.StatusCode.INVALID_ARGUMENT for failure in failures):
            return 1
        return 2 if self.verdict is Verdict.UNKNOWN else 0


def report_on(
    scaled_object: ScaledObject, asked: Sequence[Asked], replicas: Sequence[int]
) -> Report:
    """Work out what the answers lead to at each of the given replica counts."""
    results = [one.result for one in asked]
    what_ifs = tuple(_what_if(scaled_object, results, count) for count in replicas)
    return Report(scaled_object, tuple(asked), what_ifs, tuple(_notes(scaled_object, results)))


def _what_if(scaled_object: ScaledObject, results: Sequence[TriggerResult], count: int) -> WhatIf:
    # Just active, so that row 8 tells of the cooldown: how much of it is over is not known here.
    cluster = Cluster(scaled_object, created=0.0, replicas=count, last_active=0.0)
    active = any(result.is_active for result in results)
    error = any(result.is_error for result in results)
    decision = decide(situation_of(cluster, 0.0, active=active, error=error))
    steered, words = _hpa_at(scaled_object, results, count)
    return WhatIf(count, steered, words, decision)


def _hpa_at(
    scaled_object: ScaledObject, results: Sequence[TriggerResult], count: int
) -> tuple[int | None, str]:
    if scaled_object.annotations.paused:
        return None, "deleted while paused"
    if scaled_object.has_scaling_modifiers:
        return None, "not computed: scalingModifiers"
    if count == 0:
        return None, "disabled at zero"
    hpa = scaled_object.hpa
    wanted = recommend(hpa_metrics(results), Pods.all_ready(count), hpa.behavior)
    if isinstance(wanted, Blocked):
        return None, f"no change: {wanted.reason}"
    bounded = min(max(wanted.replicas, hpa.low), hpa.high)
    words = f"{wanted.metric} asks for {wanted.replicas}"
    return bounded, words if bounded == wanted.replicas else f"{words}, bounded to {bounded}"


def _notes(scaled_object: ScaledObject, results: Sequence[TriggerResult]) -> list[str]:
    notes = [
        f"trigger {trigger.index} ({trigger.type}) was not asked: KEDA reads it itself"
        for trigger in scaled_object.triggers
        if not trigger.is_external
    ]
    if scaled_object.has_scaling_modifiers:
        notes.append("scalingModifiers combine the metrics: activity and HPA will differ")
    if scaled_object.may_sleep and _is_deaf(scaled_object, results):
        notes.append(
            "WARNING: nothing can wake it: with no replica no trigger knows of requests; "
            "give wakeFrom, or minReplicaCount 1"
        )
    notes += _hidden_replicas(scaled_object)
    for result in results:
        dropped = [key for key in result.trigger.metadata if key.endswith("FromEnv")]
        if dropped:
            names = ", ".join(sorted(dropped))
            notes.append(f"not sent, KEDA takes it from the workload's environment: {names}")
        if isinstance(result.metrics, Failure):
            continue
        index = result.trigger.index
        notes += [f"trigger {index}: the engine is {key}" for key in result.remarks("engine")]
        notes += [f"trigger {index}: WARNING: {text}" for text in result.remarks("warning")]
        notes += [note for metric in result.metrics if (note := _note_on(metric))]
    return notes


def _hidden_replicas(scaled_object: ScaledObject) -> Iterator[str]:
    """Warn of one address that stands for several pods, as far as a name shows it."""
    for trigger in scaled_object.external_triggers:
        urls = trigger.metadata.get("endpoints", "").split(",")
        for host in dict.fromkeys(map(host_of, urls)):
            if service_of(host) is not None:
                yield (
                    f"trigger {trigger.index}: WARNING: endpoints: {host[:SHOWN]} reads as the "
                    "name of a Service; unless that is headless one pod passes for all of them: "
                    "use service"
                )


def _is_deaf(scaled_object: ScaledObject, results: Sequence[TriggerResult]) -> bool:
    """Whether no trigger can wake it. Of scalers that are not ours nothing is known."""
    ours = all(result.remarks("reason") for result in results)
    return ours and not any(can_wake(trigger) for trigger in scaled_object.triggers)


def can_wake(trigger: KedaTrigger) -> bool:
    """Whether a trigger can become active with no replica; one that is external is ours."""
    if not trigger.is_external:
        return trigger.type not in _OF_PODS
    given = trigger.metadata
    # Endpoints that are named are there whatever KEDA does.
    return bool({"wakeFrom", "endpoints"} & given.keys()) or given.get("engine") == REPORTS


def _note_on(metric: MetricResult) -> str | None:
    if metric.target < 0.001:
        return f"{metric.hpa_name}: target {metric.target:g}; the API server refuses such an HPA"
    if isinstance(metric.answer, Failure):
        return None
    if len(metric.answer.values) > 1:
        return f"{metric.hpa_name}: {len(metric.answer.values)} values, which the HPA sums"
    if metric.answer.total and not metric.answer.is_active:
        return f"{metric.hpa_name}: inactive with a value above 0; KEDA goes to zero all the same"
    return None


def to_json(report: Report) -> dict[str, Any]:
    """Give the report as one JSON document. `null` is what is not known."""
    scaled_object = report.scaled_object
    return {
        "scaledObject": {"namespace": scaled_object.namespace, "name": scaled_object.name},
        "verdict": report.verdict.value,
        "triggers": [_trigger_to_json(asked) for asked in report.asked],
        "replicas": [_what_if_to_json(what_if) for what_if in report.what_ifs],
        "notes": list(report.notes),
    }


def _trigger_to_json(asked: Asked) -> dict[str, Any]:
    result = asked.result
    metrics = () if isinstance(result.metrics, Failure) else result.metrics
    return {
        "index": result.trigger.index,
        "type": result.trigger.type,
        "address": asked.address,
        "metricType": result.metric_type,
        "verdict": asked.verdict.value,
        "why": asked.why,
        "metrics": [_metric_to_json(metric) for metric in metrics],
        "errors": [
            {"call": failure.call, "code": failure.code.name, "details": failure.detail}
            for failure in result.failures
        ],
    }


def _metric_to_json(metric: MetricResult) -> dict[str, Any]:
    answer = None if isinstance(metric.answer, Failure) else metric.answer
    return {
        "name": metric.name,
        "hpaName": metric.hpa_name,
        "target": metric.target,
        "values": None if answer is None else list(answer.values),
        "total": None if answer is None else answer.total,
        "isActive": None if answer is None else answer.is_active,
        "error": str(metric.answer) if isinstance(metric.answer, Failure) else None,
    }


def _what_if_to_json(what_if: WhatIf) -> dict[str, Any]:
    return {
        "replicas": what_if.replicas,
        "hpa": {"replicas": what_if.hpa_replicas, "why": what_if.hpa_words},
        "keda": {
            "row": what_if.decision.row,
            "replicas": what_if.decision.replicas,
            "words": what_if.decision.words,
        },
    }
