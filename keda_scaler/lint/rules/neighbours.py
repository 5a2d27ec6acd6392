"""Rules of what stands beside a ScaledObject in the same input."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from keda_scaler.core.values import ports_of
from keda_scaler.keda.hosts import host_of, service_of
from keda_scaler.lint.documents import Document, text_at, value_at
from keda_scaler.lint.findings import Hit, Rule, Severity
from keda_scaler.lint.subject import Subject, pod_labels, scale_target

_SHOWN = 3
"""Other scalers that are named."""

_TRANSFER = "scaledobject.keda.sh/transfer-hpa-ownership"


def _two_scalers(subject: Subject) -> Iterator[Hit]:
    target = scale_target(subject.document)
    if target is None:
        return
    mine = (subject.document.kind, subject.document.name)
    others = (
        other
        for other in subject.neighbours.scalers.get(target, ())
        if (other.kind, other.name) != mine and not _is_kedas(other, subject)
    )
    for other in islice(others, _SHOWN):
        says = f"{other.kind} {other.name[:80]} scales it too"
        yield Hit("spec.scaleTargetRef.name", says, target[2][:80])


def _is_kedas(other: Document, subject: Subject) -> bool:
    """Whether an HPA is what KEDA makes of a ScaledObject, or takes over from its author."""
    if other.kind != "HorizontalPodAutoscaler":
        return False
    name = subject.field("advanced", "horizontalPodAutoscalerConfig", "name")
    owners = value_at(other.raw, "metadata", "ownerReferences")
    owned = isinstance(owners, list) and any(text_at(o, "kind") == "ScaledObject" for o in owners)
    transfer = text_at(subject.document.raw, "metadata", "annotations", _TRANSFER)
    taken = transfer == "true" and name == other.name
    return owned or taken or other.name.startswith("keda-hpa-")


def _fixed_replicas(subject: Subject) -> Iterator[Hit]:
    target = scale_target(subject.document)
    other = subject.neighbours.named.get(target) if target else None
    replicas = None if other is None else value_at(other.raw, "spec", "replicas")
    if other is not None and replicas is not None:
        line = other.line_of("spec.replicas")
        where = f"{other.place}:{line}" if line else other.place
        says = f"its manifest sets spec.replicas: {str(replicas)[:80]} ({where})"
        yield Hit("spec.scaleTargetRef.name", says, other.name[:80])


def _port(subject: Subject) -> Iterator[Hit]:
    for ours, trigger in subject.read:
        service = subject.neighbours.named.get(
            (subject.document.namespace, "Service", trigger.service or "")
        )
        ports = value_at(service.raw, "spec", "ports") if service is not None else None
        if not isinstance(ports, list):
            continue
        names = [text_at(port, "name") for port in ports]
        found = ", ".join(name[:40] or "one without a name" for name in names[:8]) or "none"
        if trigger.port is None:
            if len(ports) != 1 and not {"metrics", "http"} & set(names):
                yield Hit(ours.path("port"), f"not set; none is metrics or http, but: {found}")
        elif any(not it.isdecimal() and it not in names for it in ports_of(trigger.port)):
            yield Hit(ours.path("port"), f"the Service has: {found}", trigger.port)


def _shared_service(subject: Subject) -> Iterator[Hit]:
    target = scale_target(subject.document)
    for ours, trigger in subject.read:
        others = [
            other
            for other in subject.neighbours.readers.get(
                (subject.document.namespace, trigger.service or ""), ()
            )
            # Two on one target are another rule's.
            if other.name != subject.document.name and scale_target(other) != target
        ]
        for other in others[:_SHOWN]:
            says = f"ScaledObject {other.name[:80]} reads it too"
            yield Hit(ours.path("service"), says, trigger.service)


def _selects_others(subject: Subject) -> Iterator[Hit]:
    namespace, target = subject.document.namespace, scale_target(subject.document)
    for ours, trigger in subject.read:
        service = subject.neighbours.named.get((namespace, "Service", trigger.service or ""))
        selector = None if service is None else value_at(service.raw, "spec", "selector")
        if target is None or not isinstance(selector, dict) or not selector:
            continue
        for workload in subject.neighbours.templates.get(namespace, ()):
            says = _selection(workload, target, selector)
            if says:
                yield Hit(ours.path("service"), says, trigger.service)


def _selection(
    workload: Document, target: tuple[str, str, str], selector: Mapping[str, Any]
) -> str | None:
    """Say what is wrong with what a Service selects of a workload's pods; None: nothing is."""
    labels, whose = pod_labels(workload), f"{workload.kind} {workload.name[:80]}"
    lacking = [f"{key}={value}"[:80] for key, value in selector.items() if labels.get(key) != value]
    if (workload.namespace, workload.kind, workload.name) == target:
        lack = f"it selects {', '.join(lacking[:_SHOWN])}, which the pods of {whose} do not have"
        return lack if lacking else None
    return None if lacking else f"it selects the pods of {whose} too"


def _hidden_replicas(subject: Subject) -> Iterator[Hit]:
    for ours, trigger in subject.read:
        for host in dict.fromkeys(map(host_of, trigger.endpoints)):
            says = _hides(host, subject)
            if says:
                yield Hit(
                    ours.path("endpoints"), f"{host[:80]} {says}, which shows one pod at a time"
                )


def _hides(host: str, subject: Subject) -> str | None:
    """Say how a host shows one of several replicas at a time; None: it is not known to."""
    neighbours, service = subject.neighbours, service_of(host)
    front = neighbours.fronts.get(host) or neighbours.fronts.get(f"*.{host.partition('.')[2]}")
    if front is not None:
        return f"is a host of {front.kind} {front.name[:80]}"
    if service is None:
        return None
    known = neighbours.named.get((service[1], "Service", service[0]))
    if known is not None and value_at(known.raw, "spec", "clusterIP") == "None":
        return None
    return "reads as the name of a Service"


def _cluster_ip(subject: Subject) -> Iterator[Hit]:
    for ours in subject.ours:
        host = (ours.keda.address or "").rsplit("/", 1)[-1].partition(":")[0].split(".")
        if len(host) < 2:
            continue
        service = subject.neighbours.named.get((host[1], "Service", host[0]))
        if service is not None and value_at(service.raw, "spec", "clusterIP") != "None":
            says = "its Service has a cluster IP"
            yield Hit(ours.path("scalerAddress"), says, ours.keda.address)


RULES = (
    Rule(
        "two-scalers",
        Severity.ERROR,
        "Two autoscalers undo each other's work; KEDA's webhook refuses a second one, if it runs.",
        "Leave one of them, with the triggers of both.",
        _two_scalers,
        is_general=True,
    ),
    Rule(
        "fixed-replicas",
        Severity.WARNING,
        "Each time the manifest is applied it sets the number of replicas back: it takes away "
        "replicas that serve, and starts one that sleeps.",
        "Leave `replicas` out of the manifest of what is scaled.",
        _fixed_replicas,
    ),
    Rule(
        "port-not-in-service",
        Severity.ERROR,
        "The scaler does not find the metrics page, and knows nothing.",
        "Name a port of the Service, or give the pod's port as a number.",
        _port,
    ),
    Rule(
        "shared-service",
        Severity.ERROR,
        "Each of the two reads all pods of the Service: both get the whole sum, scale for the "
        "requests of the other, and keep each other awake.",
        "Give each its own Service, which selects only its own pods.",
        _shared_service,
    ),
    Rule(
        "service-selects-others",
        Severity.ERROR,
        "The pods of the Service are taken for the replicas of what is scaled: one too many adds "
        "requests that are not its own, and one that is left out has its work not seen.",
        "Let the Service select exactly the pods of the scale target, with a label that no other "
        "workload has.",
        _selects_others,
    ),
    Rule(
        "endpoints-names-service",
        Severity.ERROR,
        "One address hides all pods behind it: each poll reads any one of them, and a model is put "
        "to sleep while the others work.",
        "Use `service`, which reads every pod; where that cannot be, a headless Service, or an "
        "address for each pod: [endpoints](triggers.md#endpoints-by-name).",
        _hidden_replicas,
    ),
    Rule(
        "cluster-ip",
        Severity.NOTE,
        "KEDA's one connection stays with one pod of the scaler for as long as that lives.",
        "Set `clusterIP: None`: [a headless Service](keda.md#a-headless-service-for-the-scaler).",
        _cluster_ip,
    ),
)
