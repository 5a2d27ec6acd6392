"""Rules of what stands beside a ScaledObject in the same input."""

from collections.abc import Iterator
from itertools import islice

from keda_scaler.lint.documents import Document, text_at, value_at
from keda_scaler.lint.findings import Hit, Rule, Severity
from keda_scaler.lint.subject import Subject, scale_target

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
        elif not trigger.port.isdecimal() and trigger.port not in names:
            yield Hit(ours.path("port"), f"the Service has: {found}", trigger.port)


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
        "cluster-ip",
        Severity.NOTE,
        "KEDA's one connection stays with one pod of the scaler for as long as that lives.",
        "Set `clusterIP: None`: [a headless Service](keda.md#a-headless-service-for-the-scaler).",
        _cluster_ip,
    ),
)
