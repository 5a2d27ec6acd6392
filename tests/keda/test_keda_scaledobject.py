"""What is read from a ScaledObject, and what is refused."""

from dataclasses import replace

import pytest

from keda_scaler.errors import ScaledObjectError
from keda_scaler.keda.behavior import DEFAULT_DOWN, DEFAULT_UP, Behavior, Policy, Rules
from keda_scaler.keda.hpa import Hpa
from keda_scaler.keda.scaledobject import (
    Annotations,
    Fallback,
    KedaTrigger,
    ScaledObject,
    parse_scaled_object,
)
from scripted_scaler import manifest

FULL = """
apiVersion: v1
kind: Service
metadata: {name: llm}
---
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: llm
  namespace: models
  annotations:
    autoscaling.keda.sh/paused-scale-in: "true"
    autoscaling.keda.sh/paused-scale-out: "false"
    autoscaling.keda.sh/force-activation: "yes"
spec:
  scaleTargetRef: {name: llm}
  minReplicaCount: 2
  maxReplicaCount: 8
  idleReplicaCount: 0
  pollingInterval: 5
  cooldownPeriod: 0
  initialCooldownPeriod: 600
  fallback: {failureThreshold: 3, replicas: 4, behavior: currentReplicas}
  advanced:
    restoreToOriginalReplicaCount: true
    horizontalPodAutoscalerConfig:
      behavior:
        scaleUp:
          policies:
          - {type: Pods, value: 1, periodSeconds: 60}
          - {type: Percent, value: 50, periodSeconds: 120}
          selectPolicy: Min
          stabilizationWindowSeconds: 30
          tolerance: 50m
        scaleDown:
          stabilizationWindowSeconds: 0
  triggers:
  - type: cpu
    metricType: Utilization
    metadata: {value: "60"}
  - type: external-push
    name: queue
    metricType: Value
    metadata: {scalerAddress: "scaler.keda:6000", enableTLS: "true", service: llm}
---
kind: ScaledObject
metadata: {name: another}
"""


def test_everything_that_decides_is_read() -> None:
    """Every field ends up in its place, from the first ScaledObject of several documents."""
    assert parse_scaled_object(FULL) == ScaledObject(
        name="llm",
        namespace="models",
        min_replica_count=2,
        max_replica_count=8,
        idle_replica_count=0,
        polling_interval=5,
        cooldown_period=0,
        initial_cooldown_period=600,
        fallback=Fallback(3, 4, "currentReplicas"),
        behavior=Behavior(
            Rules((Policy("Pods", 1, 60), Policy("Percent", 50, 120)), "Min", 30, 0.05),
            replace(DEFAULT_DOWN, stabilization_seconds=0),
        ),
        triggers=(
            KedaTrigger(0, "cpu", {"value": "60"}),
            KedaTrigger(
                1,
                "external-push",
                {"scalerAddress": "scaler.keda:6000", "enableTLS": "true", "service": "llm"},
                "Value",
                "queue",
            ),
        ),
        annotations=Annotations(paused_scale_in=True, force_activation=True),
    )


def test_only_external_triggers_are_called() -> None:
    """Other triggers are kept, so that indices stay KEDA's, and are not called."""
    (trigger,) = parse_scaled_object(FULL).external_triggers
    assert (trigger.index, trigger.address, trigger.uses_tls) == (1, "scaler.keda:6000", True)


def test_defaults_are_those_of_keda() -> None:
    """What a short manifest leaves out has KEDA's defaults."""
    found = parse_scaled_object(manifest())
    assert found == ScaledObject(
        name="llm",
        namespace="models",
        triggers=(KedaTrigger(0, "external", {"scalerAddress": "127.0.0.1:1", "service": "llm"}),),
    )
    assert (found.min_replica_count, found.max_replica_count) == (0, 100)
    assert (found.polling_interval, found.cooldown_period) == (30, 300)
    assert (found.initial_cooldown_period, found.idle_replica_count) == (0, None)
    without = manifest().replace(", namespace: models", "")
    assert parse_scaled_object(without).namespace == "default"


def test_the_hpa_of_a_scaled_object() -> None:
    """The HPA starts at 1, and a direction that is paused is disabled."""
    plain = parse_scaled_object(manifest())
    assert plain.hpa == Hpa(1, 100, None)
    paused = replace(plain, annotations=Annotations(paused_scale_in=True, paused_scale_out=True))
    assert paused.hpa.behavior == Behavior(
        replace(DEFAULT_UP, select="Disabled"), replace(DEFAULT_DOWN, select="Disabled")
    )


@pytest.mark.parametrize(
    ("annotation", "paused"),
    [
        ('paused: "true"', True),
        ('paused: "false"', False),
        ('paused: "unclear"', True),
        ('paused-replicas: "0"', True),
    ],
)
def test_pausing(annotation: str, *, paused: bool) -> None:
    """Either annotation pauses; a value that is no boolean counts as true."""
    text = manifest().replace(
        "namespace: models", f"annotations: {{autoscaling.keda.sh/{annotation}}}"
    )
    assert parse_scaled_object(text).annotations.paused is paused


REFUSED = {
    "minReplicaCount: -1": "spec.minReplicaCount: got -1; accepted: a whole number, at least 0",
    "minReplicaCount: 1.5": "spec.minReplicaCount: got 1.5; accepted: a whole number, at least 0",
    "minReplicaCount: true": "spec.minReplicaCount: got True; accepted: a whole number",
    "maxReplicaCount: 0": "spec.maxReplicaCount: got 0; accepted: a whole number, at least 1",
    "minReplicaCount: 101": "got 101; accepted: at most maxReplicaCount (100)",
    "idleReplicaCount: 0": "spec.idleReplicaCount: got 0; accepted: less than minReplicaCount (0)",
    "pollingInterval: 0": "spec.pollingInterval: got 0; accepted: a whole number, at least 1",
    "pollingInterval: 5s": "spec.pollingInterval: got '5s'; accepted: a whole number, at least 1",
    "cooldownPeriod: -1": "spec.cooldownPeriod: got -1; accepted: a whole number, at least 0",
    "minReplicas: 1": "spec.minReplicas: unknown field; did you mean minReplicaCount?",
    "fallback: {replicas: 1}": "spec.fallback.failureThreshold: missing",
    "fallback: 3": "spec.fallback: got 3; accepted: a mapping",
    "fallback: {failureThreshold: 1, replicas: 1, behavior: x}": (
        "spec.fallback.behavior: got 'x'; accepted: static or currentReplicas or"
    ),
}


@pytest.mark.parametrize(("line", "problem"), REFUSED.items(), ids=REFUSED)
def test_a_refused_field_is_named_with_what_is_accepted(line: str, problem: str) -> None:
    """A problem names the field, what was given and what is accepted."""
    with pytest.raises(ScaledObjectError) as caught:
        parse_scaled_object(manifest(more=[line]))
    assert problem in str(caught.value)


RULES = {
    "policies: []": "policies: got []; accepted: at least one policy",
    "policies: {}": "policies: got {}; accepted: a list",
    "policies: [null]": "policies[0]: got null; accepted: a mapping",
    "policies: [{type: Pod, value: 1, periodSeconds: 1}]": "accepted: Pods or Percent",
    "policies: [{type: Pods, value: 0, periodSeconds: 1}]": "policies[0].value: got 0",
    "policies: [{type: Pods, value: 1, periodSeconds: 1801}]": "from 1 to 1800",
    "policies: [{type: Pods, value: 1}]": "policies[0].periodSeconds: missing",
    "stabilizationWindowSeconds: 3601": "from 0 to 3600",
    "selectPolicy: Most": "accepted: Max or Min or Disabled",
    "tolerance: -1": "accepted: a quantity such as 0.05 or 50m, at least 0",
    "tolerance: much": "accepted: a quantity such as 0.05 or 50m, at least 0",
}


@pytest.mark.parametrize(("rule", "problem"), RULES.items(), ids=RULES)
def test_a_refused_scaling_rule(rule: str, problem: str) -> None:
    """The HPA's own rules are checked too, because KEDA would fail to create it."""
    line = f"advanced: {{horizontalPodAutoscalerConfig: {{behavior: {{scaleUp: {{{rule}}}}}}}}}"
    with pytest.raises(ScaledObjectError) as caught:
        parse_scaled_object(manifest(more=[line]))
    assert problem in str(caught.value)


TRIGGERS = {
    "{type: external, metadata: {targetQueueDepth: 5}}": (
        'spec.triggers[0].metadata.targetQueueDepth: got 5; accepted: a string; quote it, as in "5"'
    ),
    "{type: external, metadata: {a: null}}": "metadata.a: got null; accepted: a string",
    "{type: external, metricType: Utilization, metadata: {}}": (
        "metricType: got 'Utilization'; accepted: AverageValue or Value"
    ),
    "{type: external, metadata: {enableTLS: 'yes'}}": (
        'spec.triggers[0].metadata.enableTLS: got \'yes\'; accepted: "true" or "false"'
    ),
    "{type: external}": "spec.triggers[0].metadata: missing",
    "{metadata: {}}": "spec.triggers[0].type: missing",
    "{type: external, metadata: {}, metricTypes: Value}": "did you mean metricType?",
    "7": "spec.triggers[0]: got 7; accepted: a mapping",
    "{type: external, metadata: {}, name: a}, {type: cron, metadata: {}, name: a}": (
        "spec.triggers[1].name: got 'a'; accepted: a name that no other trigger has"
    ),
    "": "spec.triggers: got []; accepted: a list of at least one trigger",
}


@pytest.mark.parametrize(("triggers", "problem"), TRIGGERS.items(), ids=TRIGGERS)
def test_a_refused_trigger(triggers: str, problem: str) -> None:
    """Triggers are checked as the API server and KEDA check them."""
    head = manifest().split("  triggers:")[0]
    with pytest.raises(ScaledObjectError) as caught:
        parse_scaled_object(f"{head}  triggers: [{triggers}]\n")
    assert problem in str(caught.value)


def test_all_problems_at_once() -> None:
    """Every problem is told, one a line."""
    text = "kind: ScaledObject\nmetadata: {}\nspec: {minReplicaCount: x, pollingInterval: y}\n"
    with pytest.raises(ScaledObjectError) as caught:
        parse_scaled_object(text)
    assert len(str(caught.value).splitlines()) == 6


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no document of kind ScaledObject; found no Kubernetes object at all"),
        ("kind: Service\n---\nkind: Pod\n", "found only Service, Pod"),
        ("a: [", "not YAML"),
        ("[" * 100_000, "not YAML"),
        ("\x00", "not YAML"),
        ("x" * (1024 * 1024 + 1), "more than"),
        ("kind: ScaledObject\napiVersion: v1\n", "apiVersion: got 'v1'"),
        (manifest().replace("name: llm,", f"name: {'x' * 64},"), "at most 63 characters"),
        (manifest().replace("name: llm,", "name: 7,"), "metadata.name: got 7; accepted: a string"),
    ],
    ids=["empty", "other kinds", "broken", "deep", "binary", "huge", "version", "long", "number"],
)
def test_a_text_that_is_no_scaled_object(text: str, problem: str) -> None:
    """Whatever the text is, the answer is a ScaledObjectError that says why."""
    with pytest.raises(ScaledObjectError, match=problem.replace("(", r"\(")):
        parse_scaled_object(text)


def test_an_explicit_minimum_of_zero_allows_idle() -> None:
    """KEDA takes a written minReplicaCount of 0 for the HPA's 1, so idle 0 passes beside it."""
    text = manifest(more=["minReplicaCount: 0", "idleReplicaCount: 0"])
    assert parse_scaled_object(text).idle_replica_count == 0
