"""What a cluster says: rights of whoever runs this, KEDA's conditions, the HPA and its events."""

from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from typing import Any

from keda_scaler.core.trigger import Trigger
from keda_scaler.core.values import is_address
from keda_scaler.doctor.checks import Check, fail, ok, plain, skipped, some, warn
from keda_scaler.doctor.kubernetes import Cluster, ForbiddenError, NotThereError
from keda_scaler.errors import SourceError
from keda_scaler.keda.scaledobject import ScaledObject, read_scaled_object

_EVENTS = 3
"""Events that are shown, the newest ones."""

_SLICES = ("discovery.k8s.io", "endpointslices")


def namespaces_read(namespace: str, triggers: Iterable[Trigger]) -> list[str]:
    """Name the namespaces whose EndpointSlices are read for these triggers."""
    found = []
    for trigger in triggers:
        if trigger.service is not None:
            found.append(namespace)
        host = trigger.wake_service
        if host is not None and not is_address(host):
            found.append(host.partition(".")[2] or namespace)
    return list(dict.fromkeys(found))


async def check_rights(cluster: Cluster, namespaces: list[str] | None) -> Check:
    """Ask whether EndpointSlices may be listed and watched; None: no ScaledObject says where."""
    lacking = []
    try:
        for namespace in [""] if namespaces is None else namespaces:
            where = namespace or "all namespaces"
            lacking += [
                f"{verb} in {where}"
                for verb in ("list", "watch")
                if not await cluster.may(verb, *_SLICES, namespace)
            ]
        if namespaces is not None and not namespaces:
            await cluster.may("list", *_SLICES, "")  # reachable is what counts
    except SourceError as error:
        return fail("kubernetes", str(error), "see the kubeconfig, or the pod's service account")
    if not lacking:
        where = "all namespaces" if namespaces is None else some(namespaces)
        says = f"endpointslices may be listed and watched in {where}"
        return ok("kubernetes", says if where else "reachable; no trigger names a Service")
    says = f"endpointslices may not be read: {some(lacking)}"
    if namespaces is None:
        return warn("kubernetes", says, "it needs that only in namespaces with a `service`")
    then = "give a Role with list and watch on endpointslices of discovery.k8s.io; this asks for"
    return fail("kubernetes", says, f"{then} whoever runs it: run it in the scaler's pod")


async def check_keda(cluster: Cluster, scaled_object: ScaledObject) -> AsyncGenerator[Check, None]:
    """Say what KEDA made of a ScaledObject, and the HPA of that."""
    namespace, name = scaled_object.namespace, scaled_object.name
    try:
        found = await cluster.scaled_object(namespace, name)
    except NotThereError:
        says = f"the cluster has no ScaledObject {namespace}/{name}"
        yield warn("keda", says, "apply it; without KEDA's resource definitions install KEDA")
        yield skipped("hpa", "no ScaledObject in the cluster")
        return
    except ForbiddenError:
        yield skipped("keda", "not allowed to get scaledobjects here")
        found = {}
    except SourceError as error:
        yield fail("keda", str(error), "see the API server")
        yield skipped("hpa", "the ScaledObject could not be read")
        return
    status = _mapping(found, "status")
    if found:
        yield _conditions(status, is_other=_is_other(found, scaled_object))
    hpa = str(status.get("hpaName") or f"keda-hpa-{name}")
    try:
        yield _hpa(hpa, _mapping(await cluster.hpa(namespace, hpa), "status"))
        yield _events(await cluster.events_of_hpa(namespace, hpa))
    except NotThereError:
        says = f"there is no HPA {hpa}"
        yield warn("hpa", says, "KEDA creates it once every trigger gives its metrics: see `keda`")
    except ForbiddenError:
        yield skipped("hpa", "not allowed to read the HPA or its events")
    except SourceError as error:
        yield fail("hpa", str(error), "see the API server")


def _mapping(raw: Any, key: str) -> Mapping[str, Any]:
    inner = raw.get(key) if isinstance(raw, dict) else None
    return inner if isinstance(inner, dict) else {}


def _by_type(status: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    listed = status.get("conditions")
    conditions = [it for it in listed if isinstance(it, dict)] if isinstance(listed, list) else []
    return {str(it.get("type")): it for it in conditions}


def _words(condition: Mapping[str, Any]) -> str:
    return f"{condition.get('reason', '')}: {condition.get('message', '')}".strip(": ")


def _is_other(found: Any, scaled_object: ScaledObject) -> bool:
    """Whether the cluster's ScaledObject has other triggers of ours than the file."""
    theirs, _ = read_scaled_object(found)
    ours = [(each.type, dict(each.metadata)) for each in scaled_object.external_triggers]
    return ours != [(each.type, dict(each.metadata)) for each in theirs.external_triggers]


def _conditions(status: Mapping[str, Any], *, is_other: bool) -> Check:
    conditions = _by_type(status)
    ready = conditions.get("Ready", {})
    if not conditions:
        return warn("keda", "the ScaledObject has no conditions", "does KEDA's operator run?")
    if ready.get("status") != "True":
        says = f"not ready: {_words(ready)}"
        return fail("keda", says, "see `answers`, and the log of KEDA's operator")
    failing = list(_failing(status))
    if failing:
        return warn("keda", f"ready, but failing: {some(failing)}", "see `answers`")
    for name in ("Fallback", "Paused"):
        if conditions.get(name, {}).get("status") == "True":
            says = f"ready, {name.lower()}: {_words(conditions[name])}"
            return warn("keda", says, "what is reported has no effect meanwhile")
    if is_other:
        return warn(
            "keda", "ready, with other triggers than this file has", "apply it: kubectl diff"
        )
    active = conditions.get("Active", {}).get("status", "Unknown")
    return ok("keda", f"ready; active: {active}")


def _failing(status: Mapping[str, Any]) -> Iterator[str]:
    for metric, health in _mapping({"status": status.get("health")}, "status").items():
        if isinstance(health, dict) and health.get("status") == "Failing":
            yield f"{metric} ({health.get('numberOfFailures')} in a row)"


def _hpa(name: str, status: Mapping[str, Any]) -> Check:
    conditions = _by_type(status)
    for kind in ("AbleToScale", "ScalingActive"):
        condition = conditions.get(kind, {})
        if condition.get("status") == "False":
            if condition.get("reason") == "ScalingDisabled":
                return ok("hpa", f"{name}: disabled at zero replicas, as it should be")
            then = "see `answers`; the metrics API server of KEDA must reach its operator"
            return fail("hpa", f"{name}: {kind} is False, {_words(condition)}", then)
    has, wants = status.get("currentReplicas", 0), status.get("desiredReplicas", 0)
    return ok("hpa", f"{name}: has {has} and wants {wants} replicas")


def _events(events: list[Any]) -> Check:
    warnings = [it for it in events if it.get("type") == "Warning"]
    if not warnings:
        return ok("events", f"no warnings about the HPA in {len(events)} events")
    latest = sorted(warnings, key=_when, reverse=True)[:_EVENTS]
    shown = "; ".join(
        plain(f"{it.get('reason')} x{it.get('count') or 1}: {it.get('message')}")[:120]
        for it in latest
    )
    return warn("events", shown, "events stay for an hour: they may be over; see `hpa`")


def _when(event: Mapping[str, Any]) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or "")
