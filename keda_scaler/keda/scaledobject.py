"""KEDA's ScaledObject: the part of a manifest that decides how many replicas there are.

Checks what KEDA's custom resource definition, its webhook and the HPA it creates would refuse, so
that a manifest which passes here is one that KEDA takes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import yaml

from keda_scaler.errors import ScaledObjectError
from keda_scaler.keda.behavior import (
    DEFAULT_DOWN,
    DEFAULT_UP,
    Behavior,
    Policy,
    Rules,
)
from keda_scaler.keda.fields import Fields, parse_bool
from keda_scaler.keda.hpa import Hpa, MetricType

MAX_MANIFEST_CHARACTERS = 1024 * 1024
"""Kubernetes itself takes no object above about 1.5 MB."""

EXTERNAL_TYPES = frozenset({"external", "external-push"})
"""Trigger types whose scaler is called over gRPC."""

FallbackBehavior = Literal[
    "static",
    "currentReplicas",
    "currentReplicasIfHigher",
    "currentReplicasIfLower",
    "scalingModifiers",
]
_FALLBACK_BEHAVIORS: tuple[FallbackBehavior, ...] = (
    "static",
    "currentReplicas",
    "currentReplicasIfHigher",
    "currentReplicasIfLower",
    "scalingModifiers",
)
_METRIC_TYPES: tuple[MetricType, ...] = ("AverageValue", "Value")
_POLICY_TYPES: tuple[Literal["Pods", "Percent"], ...] = ("Pods", "Percent")
_SELECTS: tuple[Literal["Max", "Min", "Disabled"], ...] = ("Max", "Min", "Disabled")

_SPEC_FIELDS = (
    *("scaleTargetRef", "triggers", "advanced", "fallback"),
    *("minReplicaCount", "maxReplicaCount", "idleReplicaCount"),
    *("pollingInterval", "cooldownPeriod", "initialCooldownPeriod"),
)
_TRIGGER_FIELDS = (
    *("type", "name", "metadata", "metricType"),
    *("authenticationRef", "useCachedMetrics"),
)


@dataclass(frozen=True, slots=True)
class KedaTrigger:
    """One entry of `spec.triggers`."""

    index: int
    """Its place among all triggers: the N in the metric name's prefix sN-."""

    type: str
    metadata: Mapping[str, str]
    """What the scaler receives, all of it."""

    metric_type: MetricType = "AverageValue"
    name: str | None = None

    @property
    def is_external(self) -> bool:
        """Whether KEDA asks a gRPC scaler for it."""
        return self.type in EXTERNAL_TYPES

    @property
    def address(self) -> str | None:
        """Where KEDA calls the scaler; None when the trigger does not say."""
        return self.metadata.get("scalerAddress") or None

    @property
    def uses_tls(self) -> bool:
        """Whether the trigger itself turns TLS on; `unsafeSsl` alone does not."""
        return parse_bool(self.metadata.get("enableTLS", "false")) or False


@dataclass(frozen=True, slots=True)
class Fallback:
    """What KEDA reports in place of a metric that keeps failing."""

    failure_threshold: int
    """Consecutive failures that are still tolerated; the next one activates the fallback."""

    replicas: int
    behavior: FallbackBehavior = "static"


@dataclass(frozen=True, slots=True)
class Annotations:
    """What annotations on the ScaledObject switch on."""

    paused: bool = False
    """Neither KEDA nor the HPA (which is deleted) does anything."""

    paused_scale_in: bool = False
    paused_scale_out: bool = False
    force_activation: bool = False
    """The triggers count as active whatever they say."""


@dataclass(frozen=True, slots=True)
class ScaledObject:
    """A ScaledObject, its defaults filled in."""

    name: str
    namespace: str = "default"
    min_replica_count: int = 0
    max_replica_count: int = 100
    idle_replica_count: int | None = None
    """None: not set."""

    polling_interval: int = 30
    """Seconds between KEDA's polls."""

    cooldown_period: int = 300
    """Seconds after the last activity until zero (or idle)."""

    initial_cooldown_period: int = 0
    """Seconds after creation until zero (or idle) while it was never active."""

    fallback: Fallback | None = None
    behavior: Behavior | None = None
    """`advanced.horizontalPodAutoscalerConfig.behavior`; None: the HPA has none."""

    triggers: tuple[KedaTrigger, ...] = ()
    annotations: Annotations = field(default_factory=Annotations)
    has_scaling_modifiers: bool = False
    """A formula combines the metrics into one. Its effect is not modelled here."""

    @property
    def external_triggers(self) -> tuple[KedaTrigger, ...]:
        """The triggers for which a gRPC scaler is asked."""
        return tuple(trigger for trigger in self.triggers if trigger.is_external)

    @property
    def may_sleep(self) -> bool:
        """Whether KEDA may take away the last replica."""
        return 0 in {self.min_replica_count, self.idle_replica_count}

    @property
    def hpa(self) -> Hpa:
        """The HPA that KEDA creates: minReplicas is at least 1, a paused direction is disabled."""
        behavior = self.behavior
        if self.annotations.paused_scale_in:
            behavior = behavior or Behavior()
            behavior = replace(behavior, down=replace(behavior.down, select="Disabled"))
        if self.annotations.paused_scale_out:
            behavior = behavior or Behavior()
            behavior = replace(behavior, up=replace(behavior.up, select="Disabled"))
        return Hpa(max(self.min_replica_count, 1), self.max_replica_count, behavior)


def parse_scaled_object(text: str) -> ScaledObject:
    """Read the first ScaledObject of a YAML text, which may hold several documents.

    Raises:
        ScaledObjectError: with every problem, one a line.

    """
    scaled_object, problems = read_scaled_object(find_manifest(text))
    if problems:
        raise ScaledObjectError("\n".join(problems))
    return scaled_object


def read_scaled_object(manifest: Any) -> tuple[ScaledObject, tuple[str, ...]]:
    """Read a ScaledObject as far as it can be read, and tell every problem of it."""
    problems: list[str] = []
    return _read(Fields(manifest, "", problems)), tuple(problems)


def find_manifest(text: str) -> Any:
    """Give the first ScaledObject of a YAML text as it stands there.

    Raises:
        ScaledObjectError: when there is none, or no such text.

    """
    if len(text) > MAX_MANIFEST_CHARACTERS:
        raise ScaledObjectError(f"more than {MAX_MANIFEST_CHARACTERS} characters")
    kinds: list[str] = []
    try:
        for document in yaml.safe_load_all(text):
            kind = document.get("kind") if isinstance(document, dict) else None
            if kind == "ScaledObject":
                return document
            if kind is not None:
                kinds.append(str(kind)[:80])
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ScaledObjectError(f"not YAML: {' '.join(str(error).split())[:300]}") from error
    found = f"only {', '.join(kinds[:8])}" if kinds else "no Kubernetes object at all"
    raise ScaledObjectError(f"no document of kind ScaledObject; found {found}")


def _read(manifest: Fields) -> ScaledObject:
    manifest.require("apiVersion", "metadata", "spec")
    metadata, spec = manifest.under("metadata"), manifest.under("spec")
    if manifest.text("apiVersion", "keda.sh/v1alpha1") != "keda.sh/v1alpha1":
        manifest.refuse("apiVersion", "keda.sh/v1alpha1")
    spec.only(_SPEC_FIELDS)
    spec.require("scaleTargetRef", "triggers")
    if "scaleTargetRef" in spec:
        spec.under("scaleTargetRef").require("name")
    advanced = spec.under("advanced")
    minimum = spec.integer("minReplicaCount", 0)
    maximum = spec.integer("maxReplicaCount", 1)
    idle = spec.integer("idleReplicaCount", 0)
    _check_bounds(spec, minimum, 100 if maximum is None else maximum, idle)
    return ScaledObject(
        name=_read_name(metadata),
        namespace=metadata.text("namespace", "default") or "default",
        min_replica_count=minimum or 0,
        max_replica_count=100 if maximum is None else maximum,
        idle_replica_count=idle,
        polling_interval=spec.integer("pollingInterval", 1) or 30,
        cooldown_period=_or(spec.integer("cooldownPeriod", 0), 300),
        initial_cooldown_period=_or(spec.integer("initialCooldownPeriod", 0), 0),
        fallback=_read_fallback(spec),
        behavior=_read_behavior(advanced.under("horizontalPodAutoscalerConfig")),
        triggers=_read_triggers(spec),
        annotations=_read_annotations(metadata.strings("annotations")),
        has_scaling_modifiers="scalingModifiers" in advanced,
    )


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def _read_name(metadata: Fields) -> str:
    metadata.require("name")
    name = metadata.text("name")
    if len(name) > 63:
        metadata.refuse("name", "at most 63 characters")
    return name


def _check_bounds(spec: Fields, minimum: int | None, maximum: int, idle: int | None) -> None:
    """Check as KEDA does, which takes an explicit minReplicaCount of 0 for the HPA's least, 1."""
    least = 0 if minimum is None else max(minimum, 1)
    if least > maximum:
        spec.refuse("minReplicaCount", f"at most maxReplicaCount ({maximum})")
    if idle is not None and idle >= least:
        spec.refuse("idleReplicaCount", f"less than minReplicaCount ({least})")


def _read_fallback(spec: Fields) -> Fallback | None:
    if "fallback" not in spec:
        return None
    fallback = spec.under("fallback")
    fallback.require("failureThreshold", "replicas")
    return Fallback(
        _or(fallback.integer("failureThreshold", 0), 0),
        _or(fallback.integer("replicas", 0), 0),
        fallback.choice("behavior", _FALLBACK_BEHAVIORS, "static"),
    )


def _read_behavior(config: Fields) -> Behavior | None:
    if "behavior" not in config:
        return None
    behavior = config.under("behavior")
    behavior.only(("scaleUp", "scaleDown"))
    return Behavior(
        _read_rules(behavior.under("scaleUp"), DEFAULT_UP),
        _read_rules(behavior.under("scaleDown"), DEFAULT_DOWN),
    )


def _read_rules(rules: Fields, default: Rules) -> Rules:
    rules.only(("policies", "selectPolicy", "stabilizationWindowSeconds", "tolerance"))
    policies = tuple(_read_policy(policy) for policy in rules.items("policies"))
    if "policies" in rules and not policies:
        rules.refuse("policies", "at least one policy")
    tolerance = rules.quantity("tolerance")
    return Rules(
        policies or default.policies,
        rules.choice("selectPolicy", _SELECTS, default.select),
        _or(rules.integer("stabilizationWindowSeconds", 0, 3600), default.stabilization_seconds),
        default.tolerance if tolerance is None else tolerance,
    )


def _read_policy(policy: Fields) -> Policy:
    policy.only(("type", "value", "periodSeconds"))
    policy.require("type", "value", "periodSeconds")
    return Policy(
        policy.choice("type", _POLICY_TYPES, "Pods"),
        policy.integer("value", 1) or 1,
        policy.integer("periodSeconds", 1, 1800) or 1,
    )


def _read_triggers(spec: Fields) -> tuple[KedaTrigger, ...]:
    triggers: list[KedaTrigger] = []
    for index, entry in enumerate(spec.items("triggers")):
        trigger = _read_trigger(index, entry)
        if trigger.name is not None and trigger.name in {other.name for other in triggers}:
            entry.refuse("name", "a name that no other trigger has")
        triggers.append(trigger)
    if "triggers" in spec and not triggers:
        spec.refuse("triggers", "a list of at least one trigger")
    return tuple(triggers)


def _read_trigger(index: int, entry: Fields) -> KedaTrigger:
    entry.only(_TRIGGER_FIELDS)
    entry.require("type", "metadata")
    kind = entry.text("type")
    metadata = entry.strings("metadata")
    # Utilization is for the cpu and memory triggers, whose metricType is of no interest here.
    metric_type: MetricType = "AverageValue"
    if kind in EXTERNAL_TYPES:
        metric_type = entry.choice("metricType", _METRIC_TYPES, "AverageValue")
        for key in ("enableTLS", "unsafeSsl"):
            if key in metadata and parse_bool(metadata[key]) is None:
                entry.under("metadata").refuse(key, '"true" or "false"')
    return KedaTrigger(index, kind, metadata, metric_type, entry.text("name") or None)


def _read_annotations(annotations: Mapping[str, str]) -> Annotations:
    def is_on(name: str) -> bool:
        value = annotations.get(f"autoscaling.keda.sh/{name}")
        # A value that is no boolean counts as true: the annotation is there.
        return value is not None and parse_bool(value) is not False

    return Annotations(
        paused=is_on("paused") or "autoscaling.keda.sh/paused-replicas" in annotations,
        paused_scale_in=is_on("paused-scale-in"),
        paused_scale_out=is_on("paused-scale-out"),
        force_activation=is_on("force-activation"),
    )
