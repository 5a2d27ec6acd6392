"""The subject: one ScaledObject, read as KEDA and the scaler read it, and what stands beside it."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from keda_scaler.core.addresses import AddressRules
from keda_scaler.core.trigger import KEDA_KEYS, Accepts, Trigger, parse_trigger
from keda_scaler.errors import ScaledObjectError, TriggerError
from keda_scaler.keda.scaledobject import KedaTrigger, ScaledObject, read_scaled_object
from keda_scaler.lint.documents import Document, text_at, value_at

MAX_OBJECT_NODES = 5_000
"""Fields of one ScaledObject: every unknown one is compared with all known ones."""

_ANYWHERE = AddressRules.parse(["0.0.0.0/0", "::/0"])
_OWN_KEYS = frozenset(Trigger.keys()) - {"metricType"}
"""Keys by which a trigger is known as ours; others have a metricType too."""


@dataclass(frozen=True, slots=True)
class Ours:
    """A trigger that this scaler answers."""

    keda: KedaTrigger
    trigger: Trigger | None
    """As far as it can be read; None: not at all."""

    problems: tuple[str, ...] = ()

    def path(self, key: str = "") -> str:
        """Give the path of a key of its metadata, or of the trigger itself."""
        base = f"spec.triggers[{self.keda.index}]"
        return f"{base}.metadata.{key}" if key else base


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The other objects of the input, where rules look for them."""

    scalers: Mapping[tuple[str, str, str], tuple[Document, ...]]
    """ScaledObjects and HPAs, by namespace, kind and name of what they scale."""

    named: Mapping[tuple[str, str, str], Document]
    """All objects, by namespace, kind and name."""

    readers: Mapping[tuple[str, str], tuple[Document, ...]]
    """ScaledObjects, by namespace and the Service that a trigger of theirs names."""

    templates: Mapping[str, tuple[Document, ...]]
    """What has a template of pods with labels, by namespace."""

    fronts: Mapping[str, Document]
    """What stands in front of others, by the hosts that it answers for, wildcards as given."""

    @classmethod
    def of(cls, documents: Iterable[Document]) -> "Neighbours":
        """Sort the objects of the input."""
        scalers: defaultdict[tuple[str, str, str], list[Document]] = defaultdict(list)
        named: dict[tuple[str, str, str], Document] = {}
        readers: defaultdict[tuple[str, str], list[Document]] = defaultdict(list)
        templates: defaultdict[str, list[Document]] = defaultdict(list)
        fronts: dict[str, Document] = {}
        for document in documents:
            named[document.namespace, document.kind, document.name] = document
            target = scale_target(document)
            if target is not None:
                scalers[target].append(document)
            for service in _services(document):
                readers[document.namespace, service].append(document)
            if pod_labels(document):
                templates[document.namespace].append(document)
            fronts |= dict.fromkeys(_hosts(document), document)
        return cls(_frozen(scalers), named, _frozen(readers), _frozen(templates), fronts)


_K = TypeVar("_K")


def _frozen(found: Mapping[_K, list[Document]]) -> dict[_K, tuple[Document, ...]]:
    return {key: tuple(documents) for key, documents in found.items()}


def _listed(raw: Any, *keys: str | int) -> list[Any]:
    found = value_at(raw, *keys)
    return found if isinstance(found, list) else []


def _services(document: Document) -> set[str]:
    """Give the Services that the external triggers of a ScaledObject name."""
    if document.kind != "ScaledObject":
        return set()
    return {
        text_at(trigger, "metadata", "service")
        for trigger in _listed(document.raw, "spec", "triggers")
        if text_at(trigger, "type").startswith("external")
    } - {""}


def pod_labels(document: Document) -> Mapping[str, Any]:
    """Give the labels of the pods that a workload makes; empty: it makes none."""
    found = value_at(document.raw, "spec", "template", "metadata", "labels")
    return found if isinstance(found, dict) else {}


def _hosts(document: Document) -> set[str]:
    """Give the hosts that an Ingress, a route or a gateway answers for."""
    spec = value_at(document.raw, "spec")
    match document.kind:
        case "Ingress":
            found = [value_at(rule, "host") for rule in _listed(spec, "rules")]
        case "HTTPRoute" | "GRPCRoute" | "TLSRoute":
            found = _listed(spec, "hostnames")
        case "Gateway":  # the Gateway API's, and Istio's
            found = [value_at(listener, "hostname") for listener in _listed(spec, "listeners")]
            found += [
                host for server in _listed(spec, "servers") for host in _listed(server, "hosts")
            ]
        case "VirtualService":
            found = _listed(spec, "hosts")
        case "Route":
            found = [value_at(spec, "host")]
        case _:
            found = []
    # Istio's may have a namespace in front.
    return {host.rpartition("/")[2].lower() for host in found if isinstance(host, str)} - {"", "*"}


def scale_target(document: Document) -> tuple[str, str, str] | None:
    """Give namespace, kind and name of what an autoscaler scales; None for what is none."""
    if document.kind not in {"ScaledObject", "HorizontalPodAutoscaler"}:
        return None
    reference = value_at(document.raw, "spec", "scaleTargetRef")
    name = text_at(reference, "name")
    kind = text_at(reference, "kind") or "Deployment"
    return (document.namespace, kind, name) if name else None


@dataclass(frozen=True)
class Subject:
    """A ScaledObject that rules look at."""

    document: Document
    scaled_object: ScaledObject
    """As far as it can be read, else the defaults."""

    problems: tuple[str, ...]
    ours: tuple[Ours, ...]
    neighbours: Neighbours

    @property
    def target(self) -> str:
        """NAMESPACE/NAME."""
        return f"{self.document.namespace}/{self.document.name or '?'}"

    def field(self, *keys: str | int) -> Any:
        """Give what stands at a path below `spec`; None where there is nothing."""
        return value_at(self.document.raw, "spec", *keys)

    @cached_property
    def read(self) -> tuple[tuple[Ours, Trigger], ...]:
        """The triggers of ours that can be read."""
        return tuple((ours, ours.trigger) for ours in self.ours if ours.trigger is not None)

    @cached_property
    def cold_start(self) -> float:
        """Seconds that a first replica may take, as far as the triggers tell."""
        return max((trigger.cold_start_seconds for _, trigger in self.read), default=0.0)

    @cached_property
    def formula(self) -> str:
        """The formula of `scalingModifiers`; empty: there is none."""
        return text_at(self.field("advanced", "scalingModifiers"), "formula")

    @cached_property
    def ignored(self) -> tuple[str, ...]:
        """The rules that an annotation switches off."""
        given = text_at(self.document.raw, "metadata", "annotations", IGNORE)
        return tuple(name for name in re.split(r"[\s,]+", given) if name)


IGNORE = "keda-scaler/lint-ignore"
"""The annotation that switches rules off, by their ids."""


def subject_of(document: Document, neighbours: Neighbours) -> Subject:
    """Read a ScaledObject.

    Raises:
        ScaledObjectError: when it is too large.

    """
    if _count(document.raw) > MAX_OBJECT_NODES:
        where = f"{document.place}:{document.line_of('') or ''}".rstrip(":")
        raise ScaledObjectError(
            f"{where}: ScaledObject {document.name[:80]} has more than {MAX_OBJECT_NODES} fields"
        )
    scaled_object, problems = read_scaled_object(document.raw)
    ours = tuple(_read(trigger) for trigger in scaled_object.triggers if is_ours(trigger))
    return Subject(document, scaled_object, problems, ours, neighbours)


def is_ours(trigger: KedaTrigger) -> bool:
    """Whether this scaler is asked, and not another one: by its address, or by its keys."""
    known = "keda-scaler" in (trigger.address or "") or bool(_OWN_KEYS & trigger.metadata.keys())
    return trigger.is_external and known


def _read(keda: KedaTrigger) -> Ours:
    metadata = keda.metadata
    try:
        return Ours(keda, _parse(metadata))
    except TriggerError as error:
        problems = error.problems
    wrong = {problem.partition(":")[0] for problem in problems}
    try:
        rest = {key: value for key, value in metadata.items() if key[:80] not in wrong}
        return Ours(keda, _parse(rest), problems)
    except TriggerError:
        return Ours(keda, None, problems)


def _parse(metadata: Mapping[str, str]) -> Trigger:
    """Parse as a server does whose settings allow everything: these are not known here."""
    named = frozenset({metadata["prometheus"]} if "prometheus" in metadata else ())
    return parse_trigger(metadata, Accepts(named, _ANYWHERE, reports=True))


def own_keys(trigger: KedaTrigger) -> dict[str, str]:
    """Give the metadata without what KEDA reads itself."""
    return {key: value for key, value in trigger.metadata.items() if key not in KEDA_KEYS}


def _count(raw: Any) -> int:
    """Count fields and values. The depth is bounded where objects come from."""
    inner = raw.values() if isinstance(raw, dict) else raw if isinstance(raw, list) else ()
    return 1 + sum(_count(value) for value in inner)
