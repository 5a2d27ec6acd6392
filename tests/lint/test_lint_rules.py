"""Each rule finds what it is about, at its field, and nothing beside it."""

from dataclasses import dataclass, field

import pytest
import yaml

from keda_scaler.lint.rules import RULES
from lint_manifests import CLEAN, METADATA, TRIGGER, Changes, changed, found, lint

WINDOW = "spec.advanced.horizontalPodAutoscalerConfig.behavior.scaleDown.stabilizationWindowSeconds"
HPA_NAME = "spec.advanced.horizontalPodAutoscalerConfig.name"
FORMULA = "spec.advanced.scalingModifiers.formula"
FALLBACK: Changes = {
    "spec.fallback": {"failureThreshold": 3, "replicas": 2},
    f"{METADATA}.onUnknown": "error",
}
ASLEEP: Changes = {f"{METADATA}.wakeFrom": None, f"{METADATA}.wakeService": None}
"""Nothing wakes it."""
PROMETHEUS: Changes = {f"{METADATA}.service": None, f"{METADATA}.prometheus": "main"}
THROUGH_PROMETHEUS: Changes = PROMETHEUS | {
    f"{METADATA}.wakeService": None,
    f"{METADATA}.staleSeconds": "120",
}
NAMED: Changes = {f"{METADATA}.service": None}
"""The pages are named one by one."""
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIE"


def other(kind: str, name: str, spec: str, annotations: str = "") -> str:
    return (
        f"kind: {kind}\nmetadata: {{name: {name}, namespace: models{annotations}}}\nspec: {spec}\n"
    )


def workloads(selector: str, **labels: str) -> str:
    """Write a Service and Deployments, with the labels of their pods."""
    pods = "{template: {metadata: {labels: %s}}}"
    deployments = (other("Deployment", name, pods % its) for name, its in labels.items())
    return "---\n".join([other("Service", "llama", f"{{selector: {selector}}}"), *deployments])


@dataclass(frozen=True)
class Case:
    """What a rule finds, and what it leaves alone although it is close."""

    rule: str
    path: str
    bad: Changes = field(default_factory=dict)
    good: Changes = field(default_factory=dict)
    also: tuple[str, ...] = ()
    """Other rules that the bad one does not keep either."""
    beside_bad: str = ""
    beside_good: str = ""


CASES = [
    # What is refused, and wiring
    Case("refused-by-keda", "spec.cooldownPeriod", {"spec.cooldownPeriod": -1}),
    Case(
        "refused-by-keda",
        "spec.minReplicaCount",
        {"spec.minReplicaCount": 9},
        {"spec.maxReplicaCount": 9},
        also=("unused-interval",),
    ),
    Case("refused-by-keda", "spec.coolDownPeriod", {"spec.coolDownPeriod": 5}),
    Case(
        "refused-by-scaler",
        f"{METADATA}.targetQueueDepth",
        {f"{METADATA}.targetQueueDepth": "many"},
        {f"{METADATA}.targetQueueDepth": "7"},
    ),
    Case(
        "refused-by-scaler",
        TRIGGER,
        {f"{METADATA}.service": None},
        PROMETHEUS | {f"{METADATA}.staleSeconds": "60"},
    ),
    Case(
        "unknown-key",
        f"{METADATA}.targetQueDepth",
        {f"{METADATA}.targetQueDepth": "5"},
        {f"{METADATA}.targetQueueDepth": "5"},
    ),
    Case(
        "metric-type-differs",
        f"{METADATA}.metricType",
        {f"{TRIGGER}.metricType": "Value"},
        {f"{TRIGGER}.metricType": "Value", f"{METADATA}.metricType": "Value"},
    ),
    Case("scaler-address", f"{METADATA}.scalerAddress", {f"{METADATA}.scalerAddress": None}),
    Case(
        "scaler-address",
        f"{METADATA}.scalerAddress",
        {f"{METADATA}.scalerAddress": "http://keda-scaler.keda:6000"},
        {f"{METADATA}.scalerAddress": "dns:///keda-scaler.keda:6000"},
    ),
    Case(
        "scaler-address",
        f"{METADATA}.scalerAddress",
        {f"{METADATA}.scalerAddress": "keda-scaler.keda"},
        {f"{METADATA}.scalerAddress": "unix:///run/keda-scaler.sock"},
    ),
    Case(
        "name-too-long", "metadata.name", {"metadata.name": "n" * 55}, {"metadata.name": "n" * 54}
    ),
    Case(
        "name-too-long",
        HPA_NAME,
        {HPA_NAME: "n" * 64},
        {HPA_NAME: "short", "metadata.name": "n" * 63},
    ),
    Case(
        "secret-in-metadata",
        f"{METADATA}.apiKey",
        {f"{METADATA}.apiKey": "abc"},
        {f"{METADATA}.model": "tokenizer"},
        also=("unknown-key",),
    ),
    Case(
        "secret-in-metadata",
        f"{METADATA}.tlsClientKey",
        {f"{METADATA}.tlsClientKey": PEM},
        {f"{METADATA}.enableTLS": "true"},
    ),
    Case(
        "secret-in-metadata",
        f"{METADATA}.serverAddress",
        {
            f"{METADATA}.service": None,
            f"{METADATA}.staleSeconds": "120",
            f"{METADATA}.serverAddress": "http://joe:hunter2@prometheus.example.com",
        },
        also=("refused-by-scaler",),
    ),
    Case(
        "tls-in-metadata",
        f"{METADATA}.caCert",
        {f"{METADATA}.caCert": "/etc/ca.pem"},
        {f"{TRIGGER}.authenticationRef": {"name": "ca"}},
    ),
    Case(
        "unsafe-ssl-alone",
        f"{METADATA}.unsafeSsl",
        {f"{METADATA}.unsafeSsl": "true"},
        {f"{METADATA}.unsafeSsl": "true", f"{METADATA}.enableTLS": "true"},
    ),
    Case(
        "same-trigger-twice",
        "spec.triggers[1]",
        {
            "spec.triggers[1]": {
                "type": "external-push",
                "metadata": {
                    "scalerAddress": "keda-scaler.keda:6000",
                    "engine": "vllm",
                    "service": "llama",
                    "wakeFrom": "epp",
                    "wakeService": "llama-epp",
                },
            }
        },
        {
            "spec.triggers[1]": {
                "type": "external-push",
                "metadata": {"scalerAddress": "keda-scaler.keda:6000", "service": "other"},
            }
        },
    ),
    Case(
        "not-ours",
        "spec.triggers",
        {
            TRIGGER + ".metadata": {
                "scalerAddress": "keda-add-ons-http:9090",
                "httpScaledObject": "x",
            }
        },
    ),
    Case(
        "unknown-ignore",
        "metadata.annotations.keda-scaler/lint-ignore",
        {"metadata.annotations.keda-scaler/lint-ignore": "no-maximun"},
        {"metadata.annotations.keda-scaler/lint-ignore": "no-maximum, cpu-does-not-wake"},
    ),
    Case("scaled-job", "kind", {"kind": "ScaledJob"}),
    # Sleeping and waking
    Case(
        "cannot-wake",
        "spec.minReplicaCount",
        ASLEEP,
        ASLEEP | {"spec.triggers[1]": {"type": "cron", "metadata": {"timezone": "UTC"}}},
    ),
    Case(
        "cannot-wake",
        "spec.minReplicaCount",
        ASLEEP | {"spec.minReplicaCount": None},
        ASLEEP | {"spec.minReplicaCount": 1},
    ),
    Case(
        "cannot-wake",
        "spec.idleReplicaCount",
        ASLEEP | {"spec.minReplicaCount": 2, "spec.idleReplicaCount": 0},
        {"spec.minReplicaCount": 2, "spec.idleReplicaCount": 0},
    ),
    Case(
        "ratio-alone",
        "spec.minReplicaCount",
        ASLEEP | {f"{METADATA}.targetTtftSeconds": "2"},
        {f"{METADATA}.targetTtftSeconds": "2"},
    ),
    Case(
        "push-needed",
        f"{TRIGGER}.type",
        {f"{TRIGGER}.type": "external"},
        THROUGH_PROMETHEUS | {f"{TRIGGER}.type": "external"},
    ),
    Case(
        "no-initial-cooldown",
        "spec.initialCooldownPeriod",
        {"spec.initialCooldownPeriod": None},
        {"spec.initialCooldownPeriod": 300},
    ),
    Case(
        "no-initial-cooldown",
        "spec.initialCooldownPeriod",
        {"spec.initialCooldownPeriod": 299},
        {"spec.initialCooldownPeriod": 10, f"{METADATA}.coldStartSeconds": "10"},
    ),
    Case(
        "short-cooldown",
        "spec.cooldownPeriod",
        ASLEEP
        | {
            "spec.cooldownPeriod": 120,
            "spec.triggers[1]": {"type": "cron", "metadata": {"timezone": "UTC"}},
        },
        ASLEEP
        | {
            "spec.cooldownPeriod": 300,
            "spec.triggers[1]": {"type": "cron", "metadata": {"timezone": "UTC"}},
        },
    ),
    Case(
        "cooldown-below-lease",
        "spec.cooldownPeriod",
        {"spec.cooldownPeriod": 299},
        {"spec.cooldownPeriod": 300},
    ),
    Case(
        "idle-adds-to-cooldown",
        f"{METADATA}.idleSeconds",
        {f"{METADATA}.idleSeconds": "300"},
        {f"{METADATA}.idleSeconds": "60"},
    ),
    Case(
        "idle-replicas",
        "spec.idleReplicaCount",
        {"spec.minReplicaCount": 2, "spec.idleReplicaCount": 1},
        {"spec.minReplicaCount": 2, "spec.idleReplicaCount": 0},
        also=("unused-interval",),
    ),
    Case(
        "unused-interval",
        "spec.pollingInterval",
        {"spec.minReplicaCount": 1},
        {
            "spec.minReplicaCount": 1,
            "spec.pollingInterval": None,
            "spec.cooldownPeriod": None,
            "spec.initialCooldownPeriod": None,
        },
    ),
    Case(
        "slow-polling",
        "spec.pollingInterval",
        {"spec.pollingInterval": 31},
        {"spec.pollingInterval": None},
    ),
    Case(
        "fallback-to-zero",
        "spec.fallback.replicas",
        FALLBACK | {"spec.fallback.replicas": 0},
        FALLBACK,
    ),
    Case(
        "fallback-by-value",
        f"{TRIGGER}.metricType",
        FALLBACK | {f"{TRIGGER}.metricType": "Value", f"{METADATA}.metricType": "Value"},
        FALLBACK,
    ),
    Case(
        "fallback-after-hold",
        f"{METADATA}.onUnknown",
        FALLBACK | {f"{METADATA}.onUnknown": "hold"},
        FALLBACK,
    ),
    Case(
        "cpu-does-not-wake",
        "spec.triggers[1].type",
        {
            "spec.triggers[1]": {
                "type": "cpu",
                "metricType": "Utilization",
                "metadata": {"value": "50"},
            }
        },
    ),
    Case(
        "overridden",
        "metadata.annotations.autoscaling.keda.sh/paused",
        {"metadata.annotations.{autoscaling.keda.sh/paused}": "true"},
        {"metadata.annotations.{autoscaling.keda.sh/paused}": "false"},
    ),
    # Scaling
    Case(
        "device-memory",
        f"{METADATA}.gpuMemorySource",
        {f"{METADATA}.gpuMemorySource": "device"},
        {f"{METADATA}.gpuMemorySource": "device", f"{METADATA}.engine": "triton"},
    ),
    Case(
        "device-memory",
        f"{METADATA}.activationGpuMemoryPressure",
        {
            f"{METADATA}.gpuMemorySource": "device",
            f"{METADATA}.engine": "auto",
            f"{METADATA}.targetQueueDepth": "5",
            f"{METADATA}.activationGpuMemoryPressure": "0.5",
        },
        {f"{METADATA}.activationGpuMemoryPressure": "0.5"},
    ),
    Case(
        "utilization-alone",
        f"{METADATA}.targetGpuUtilization",
        {f"{METADATA}.targetGpuUtilization": "0.8"},
        {f"{METADATA}.targetGpuUtilization": "0.8", f"{METADATA}.targetQueueDepth": "5"},
    ),
    Case(
        "memory-alone",
        f"{METADATA}.targetGpuMemoryPressure",
        {f"{METADATA}.targetGpuMemoryPressure": "0.8"},
        {
            f"{METADATA}.targetGpuMemoryPressure": "0.8",
            "spec.triggers[1]": {"type": "cron", "metadata": {"timezone": "UTC"}},
        },
    ),
    Case("no-maximum", "spec.maxReplicaCount", {"spec.maxReplicaCount": None}),
    Case("no-stabilization", WINDOW, {WINDOW: None}, {WINDOW: None, "spec.maxReplicaCount": 1}),
    Case("short-stabilization", WINDOW, {WINDOW: 0}, {WINDOW: 60}),
    Case(
        "cached-metrics",
        f"{TRIGGER}.useCachedMetrics",
        {f"{TRIGGER}.useCachedMetrics": True, "spec.pollingInterval": 30},
        {f"{TRIGGER}.useCachedMetrics": True, "spec.pollingInterval": 15},
    ),
    Case(
        "stale-default",
        f"{METADATA}.staleSeconds",
        PROMETHEUS,
        PROMETHEUS | {f"{METADATA}.pollSeconds": "30"},
    ),
    Case(
        "stale-default",
        f"{METADATA}.staleSeconds",
        {f"{METADATA}.prometheus": "main", f"{METADATA}.wakeService": None},
        {
            f"{METADATA}.prometheus": "main",
            f"{METADATA}.wakeService": None,
            f"{METADATA}.staleSeconds": "120",
        },
    ),
    Case(
        "formula-names",
        FORMULA,
        {FORMULA: "max([llama, lama])", f"{METADATA}.targetQueueDepth": "5"},
        {
            FORMULA: "let twice = llama * 2; twice > 5 and 'lama' != '' ? max([twice]) : 0.5",
            f"{METADATA}.targetQueueDepth": "5",
        },
    ),
    Case(
        "formula-metrics",
        TRIGGER,
        {FORMULA: "llama"},
        {FORMULA: "llama", f"{METADATA}.targetConcurrency": "5"},
    ),
    Case(
        "fallback-formula",
        "spec.fallback.behavior",
        FALLBACK | {"spec.fallback.behavior": "scalingModifiers"},
        FALLBACK
        | {
            "spec.fallback.behavior": "scalingModifiers",
            FORMULA: "llama",
            "spec.advanced.scalingModifiers.target": "5",
            f"{METADATA}.targetQueueDepth": "5",
        },
    ),
    Case(
        "fallback-target",
        "spec.advanced.scalingModifiers.target",
        FALLBACK
        | {
            FORMULA: "llama",
            "spec.advanced.scalingModifiers.target": "2.5",
            f"{METADATA}.targetQueueDepth": "5",
        },
        {
            FORMULA: "llama",
            "spec.advanced.scalingModifiers.target": "2.5",
            f"{METADATA}.targetQueueDepth": "5",
        },
    ),
    # What stands beside it
    Case(
        "two-scalers",
        "spec.scaleTargetRef.name",
        beside_bad=other("HorizontalPodAutoscaler", "mine", "{scaleTargetRef: {name: llama}}"),
        beside_good=other(
            "HorizontalPodAutoscaler", "keda-hpa-llama", "{scaleTargetRef: {name: llama}}"
        ),
    ),
    Case(
        "two-scalers",
        "spec.scaleTargetRef.name",
        good={
            HPA_NAME: "mine",
            "metadata.annotations.{scaledobject.keda.sh/transfer-hpa-ownership}": "true",
        },
        beside_bad=other("HorizontalPodAutoscaler", "mine", "{scaleTargetRef: {name: llama}}"),
        beside_good=other("HorizontalPodAutoscaler", "mine", "{scaleTargetRef: {name: llama}}"),
    ),
    Case(
        "fixed-replicas",
        "spec.scaleTargetRef.name",
        beside_bad=other("Deployment", "llama", "{replicas: 2}"),
        beside_good=other("Deployment", "llama", "{}"),
    ),
    Case(
        "port-not-in-service",
        f"{METADATA}.port",
        {f"{METADATA}.port": "metrics"},
        beside_bad=other("Service", "llama", "{ports: [{name: web, port: 80}]}"),
        beside_good=other("Service", "llama", "{ports: [{name: web, port: 80}]}"),
    ),
    Case(
        "port-not-in-service",
        f"{METADATA}.port",
        beside_bad=other("Service", "llama", "{ports: [{name: a, port: 1}, {name: b, port: 2}]}"),
        beside_good=other("Service", "llama", "{ports: [{name: a, port: 1}, {name: http}]}"),
    ),
    Case(
        "port-not-in-service",
        f"{METADATA}.port",
        {f"{METADATA}.port": "web,metrics"},
        {f"{METADATA}.port": "web,8000-8007"},
        beside_bad=other("Service", "llama", "{ports: [{name: web, port: 80}]}"),
        beside_good=other("Service", "llama", "{ports: [{name: web, port: 80}]}"),
    ),
    Case(
        "endpoints-names-service",
        f"{METADATA}.endpoints",
        NAMED
        | {f"{METADATA}.endpoints": "http://10.0.0.1:8000/metrics, http://llama.models/metrics"},
        NAMED | {f"{METADATA}.endpoints": "http://10.0.0.1:8000/metrics, http://localhost/metrics"},
    ),
    Case(
        "endpoints-names-service",
        f"{METADATA}.endpoints",
        NAMED | {f"{METADATA}.endpoints": "http://llama.models.svc.cluster.local:8000/metrics"},
        NAMED | {f"{METADATA}.endpoints": "http://llama-0.llama.models.svc:8000/metrics"},
    ),
    Case(
        "endpoints-names-service",
        f"{METADATA}.endpoints",
        NAMED | {f"{METADATA}.endpoints": "http://llama.models.svc:8000/metrics"},
        NAMED | {f"{METADATA}.endpoints": "http://llama.models.svc:8000/metrics"},
        beside_bad=other("Service", "llama", "{clusterIP: 10.96.0.7}"),
        beside_good=other("Service", "llama", "{clusterIP: None}"),
    ),
    Case(
        "endpoints-names-service",
        f"{METADATA}.endpoints",
        NAMED | {f"{METADATA}.endpoints": "https://llama.models.example.com/metrics"},
        NAMED | {f"{METADATA}.endpoints": "https://llama.models.example.com/metrics"},
        beside_bad=other("Ingress", "edge", "{rules: [{host: llama.models.example.com}]}"),
        beside_good=other("Ingress", "edge", "{rules: [{host: other.example.com}, {}]}"),
    ),
    Case(
        "endpoints-names-service",
        f"{METADATA}.endpoints",
        NAMED | {f"{METADATA}.endpoints": "https://llama.models.example.com/metrics"},
        NAMED | {f"{METADATA}.endpoints": "https://llama.models.example.com/metrics"},
        beside_bad=other("HTTPRoute", "edge", '{hostnames: ["*.models.example.com"]}'),
        beside_good=other("HTTPRoute", "edge", '{hostnames: ["*.example.com", 7]}'),
    ),
    Case(
        "endpoints-names-service",
        f"{METADATA}.endpoints",
        NAMED | {f"{METADATA}.endpoints": "https://llama.models.example.com/metrics"},
        NAMED | {f"{METADATA}.endpoints": "https://llama.models.example.com/metrics"},
        beside_bad=other("VirtualService", "edge", '{hosts: ["llama.models.example.com"]}'),
        beside_good=other("ServiceEntry", "edge", '{hosts: ["llama.models.example.com"]}'),
    ),
    Case(
        "shared-service",
        f"{METADATA}.service",
        beside_bad=changed({"metadata.name": "b", "spec.scaleTargetRef.name": "b"}),
        beside_good=changed(
            {"metadata.name": "b", "spec.scaleTargetRef.name": "b", f"{METADATA}.service": "b"}
        ),
    ),
    Case(
        "shared-service",
        f"{METADATA}.service",
        beside_bad=changed({"metadata.name": "b", "spec.scaleTargetRef.name": "b"}),
        beside_good=changed({"metadata.namespace": "b"}),
    ),
    Case(
        "service-selects-others",
        f"{METADATA}.service",
        beside_bad=workloads("{app: llama, role: leader}", llama="{app: llama}"),
        beside_good=workloads("{app: llama}", llama="{app: llama, role: leader}"),
    ),
    Case(
        "service-selects-others",
        f"{METADATA}.service",
        beside_bad=workloads("{app: llama}", llama="{app: llama}", canary="{app: llama, v: b}"),
        beside_good=workloads(
            "{app: llama, v: a}", llama="{app: llama, v: a}", canary="{app: llama, v: b}"
        ),
    ),
    Case(
        "cluster-ip",
        f"{METADATA}.scalerAddress",
        {f"{METADATA}.scalerAddress": "keda-scaler.models.svc:6000"},
        {f"{METADATA}.scalerAddress": "keda-scaler.models.svc:6000"},
        beside_bad=other("Service", "keda-scaler", "{ports: []}"),
        beside_good=other("Service", "keda-scaler", "{clusterIP: None}"),
    ),
]


def test_every_rule_has_its_cases() -> None:
    """A rule that nothing breaks, or that nothing keeps, is no rule."""
    assert {case.rule for case in CASES} == {rule.id for rule in RULES}
    assert len({rule.id for rule in RULES}) == len(RULES)


def test_a_good_manifest_is_clean() -> None:
    """Whoever follows all advice is left alone, also by notes."""
    assert not lint(CLEAN).findings


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule}-{case.path}")
def test_a_rule_finds_what_it_is_about(case: Case) -> None:
    """At the field, with its severity, and no other rule complains of the same."""
    result = lint(changed(case.bad), case.beside_bad)

    assert found(result) == {case.rule, *case.also}
    assert case.path in {it.hit.path for it in result.findings if it.rule.id == case.rule}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule}-{case.path}")
def test_a_rule_leaves_alone_what_is_only_close(case: Case) -> None:
    """A warning too many teaches people not to read them."""
    result = lint(changed(case.good), case.beside_good)

    assert not [it for it in result.findings if it.rule.id in {case.rule, "refused-by-keda"}]


def test_two_scaled_objects_on_one_target_are_both_told() -> None:
    """Whichever one looks at, the other one is named. Another namespace is another target."""
    second = changed({"metadata.name": "second"})
    elsewhere = changed({"metadata.name": "third", "metadata.namespace": "others"})

    result = lint(CLEAN, second, elsewhere)

    assert [(it.target, it.hit.says) for it in result.findings] == [
        ("models/llama", "ScaledObject second scales it too"),
        ("models/second", "ScaledObject llama scales it too"),
    ]


def test_two_scaled_objects_on_one_service_are_both_told() -> None:
    """Each reads the pods of both. Two triggers of one ScaledObject are one reader."""
    second = changed({"metadata.name": "b", "spec.scaleTargetRef.name": "b"})
    triggers = yaml.safe_load(CLEAN)["spec"]["triggers"]
    twice = changed(
        {"metadata.name": "c", "metadata.namespace": "c", "spec.triggers": triggers * 2}
    )

    result = lint(CLEAN, second, twice)

    assert [
        (it.target, it.hit.says) for it in result.findings if it.rule.id == "shared-service"
    ] == [
        ("models/llama", "ScaledObject b reads it too"),
        ("models/b", "ScaledObject llama reads it too"),
    ]


def test_what_a_service_selects_beside_or_instead_is_said() -> None:
    """A label that the pods lack, or the other workload by its name."""
    lacks = workloads("{app: llama, role: leader}", llama="{app: llama}")
    more = workloads("{app: llama}", llama="{app: llama}", canary="{app: llama}")

    (none,), (both,) = lint(CLEAN, lacks).findings, lint(CLEAN, more).findings

    assert none.hit.says == "it selects role=leader, which the pods of Deployment llama do not have"
    assert both.hit.says == "it selects the pods of Deployment canary too"


def test_what_hides_replicas_is_named() -> None:
    """The Service to use instead, or who stands in front."""
    named = changed(NAMED | {f"{METADATA}.endpoints": "http://llama.models.svc/x?token=a"})

    (finding,) = lint(named).findings

    assert finding.hit.says == (
        "llama.models.svc reads as the name of a Service, which shows one pod at a time"
    )
    assert "token" not in str(finding.hit)


def test_an_unknown_key_comes_with_a_suggestion() -> None:
    """And without its value, which may be a secret."""
    (finding,) = lint(changed({f"{METADATA}.targetQueDepth": "hunter2"})).findings

    assert finding.hit.says == "unknown key; did you mean targetQueueDepth?"
    assert "hunter2" not in str(finding)


def test_all_problems_of_a_trigger_are_findings() -> None:
    """None hides behind another, and what is right beside them is still looked at."""
    result = lint(
        changed(
            {
                f"{METADATA}.targetQueueDepth": "many",
                f"{METADATA}.pollSeconds": "0",
                f"{METADATA}.colour": "blue",
                f"{METADATA}.idleSeconds": "600",
            }
        )
    )

    assert [it.rule.id for it in result.findings] == [
        *("refused-by-scaler", "refused-by-scaler", "unknown-key", "idle-adds-to-cooldown")
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {f"{METADATA}.apiKey": "hunter2"},
        {f"{METADATA}.password": 40229},
        {f"{METADATA}.scalerAddress": "http://joe:hunter2@keda-scaler:6000"},
        {f"{METADATA}.serverAddress": "http://joe:hunter2@prometheus"},
        {f"{METADATA}.model": "Bearer hunter2", f"{METADATA}.engine": "Bearer hunter2"},
        {f"{METADATA}.tlsClientKey": f"{PEM}hunter2"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_secrets_are_found_and_never_shown(changes: Changes) -> None:
    """What lint prints ends up in logs of CI that many can read."""
    result = lint(changed(changes))

    assert found(result) & {"secret-in-metadata", "refused-by-keda"}
    assert "hunter2" not in str(result.findings)
    assert "40229" not in str(result.findings)
