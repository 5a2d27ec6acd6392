"""Combinations: which trigger keys go together, and which do not."""

from collections.abc import Mapping

from keda_scaler.core.names import GATEWAYS, QUERY, REPORTS
from keda_scaler.core.values import is_address, one_of

_SELECTED_GATEWAYS = {
    "envoy": 'envoy_cluster_name="..."',
    "nginx": 'ingress="..."',
}
"""Gateways that serve many and say of whom only by labels of their own, with an example."""

_DIRECT = ("service", "endpoints")
_PROMETHEUS = ("prometheus", "serverAddress")
_WAKE_PLACE = ("wakePort", "wakePath")
_OF_GATEWAYS = ("wakeService", *_WAKE_PLACE, "wakeSelector")

_QUERIES: Mapping[str, tuple[str, ...]] = {
    "queueDepthQuery": ("targetQueueDepth", "activationQueueDepth"),
    "concurrencyQuery": ("targetConcurrency", "activationConcurrency"),
    "gpuMemoryQuery": ("targetGpuMemoryPressure", "activationGpuMemoryPressure"),
    "latencyQuery": ("targetLatencySeconds",),
}
"""Own queries, and the keys that each one's signal is for."""

_WITHOUT_TARGET = ("queueDepthQuery", "gpuMemoryQuery")
"""Queries whose signals are scaled on when no target is given."""

_OF_ENGINES = (
    *("targetGpuUtilization", "targetTtftSeconds", "targetItlSeconds"),
    "activationGpuUtilization",
)
"""Keys whose signals no query gives."""

NOT_REPORTED = frozenset(
    {
        *_QUERIES,
        *(*_DIRECT, *_PROMETHEUS, "selector", "model", "wakeFrom"),
        *("targetGpuMemoryPressure", "targetGpuUtilization"),
        *("targetTtftSeconds", "targetItlSeconds", "targetLatencySeconds"),
        *("activationGpuMemoryPressure", "activationGpuUtilization"),
    }
)
"""Keys that ask for what a report does not say."""


def misplaced(given: Mapping[str, str]) -> list[str]:
    """Find keys that do not go together."""
    problems = []
    if given.get("engine") == REPORTS:
        problems += [
            f"{key}: not with engine reports" for key in sorted(NOT_REPORTED & given.keys())
        ]
        if given.get("metricType") == "Value":
            problems.append("metricType: with engine reports only AverageValue")
    else:
        problems += _misplaced_source(given)
    if "service" not in given:
        problems += [f"{key}: only with service" for key in ("port", "path") if key in given]
    if "selector" in given and not set(_PROMETHEUS) & set(given):
        problems.append("selector: only with prometheus or serverAddress")
    return problems + _misplaced_queries(given) + _misplaced_wake(given)


def _is_of_queries(given: Mapping[str, str]) -> bool:
    """Whether own queries are all that is read, because the engine is not named."""
    return not _QUERIES.keys().isdisjoint(given) and given.get("engine", "auto") == "auto"


def unqueried(given: Mapping[str, str]) -> dict[str, str]:
    """Find keys that own queries leave without anything to read, each with what it needs."""
    found = {}
    if "gpuMemoryQuery" in given:
        found["gpuMemorySource"] = "not with gpuMemoryQuery"
    if _is_of_queries(given):
        found |= dict.fromkeys(_OF_ENGINES, "beside own queries only with an engine by name")
        for query, keys in _QUERIES.items():
            if query not in given:
                found |= dict.fromkeys(keys, f"needs {query}, or an engine by name")
    return found


def _misplaced_queries(given: Mapping[str, str]) -> list[str]:
    own = [key for key in _QUERIES if key in given]
    if not own or given.get("engine") == REPORTS:
        return []
    problems = [f"{key}: {why}" for key, why in unqueried(given).items() if key in given]
    if set(_DIRECT) & set(given) or not set(_PROMETHEUS) & set(given):
        problems += [
            f"{key}: only where the replicas are read through prometheus or serverAddress"
            for key in own
        ]
    has_target = any(key.startswith("target") for key in given)
    for key in own:
        is_used = key == "concurrencyQuery" or not set(_QUERIES[key]).isdisjoint(given)
        if not is_used and (has_target or key not in _WITHOUT_TARGET):
            problems.append(f"{key}: only with {one_of(_QUERIES[key])}")
    if _is_of_queries(given):
        if "concurrencyQuery" not in given:
            problems.append(
                f"{own[0]}: without concurrencyQuery, or an engine by name, nothing can prove that "
                "a target is idle"
            )
        if "selector" not in given:
            problems.append(
                "selector: own queries need it, or an engine by name, to tell which of the scraped "
                'pods are the replicas; accepted: label matchers such as job="my-engine"'
            )
        if not has_target and not set(_WITHOUT_TARGET) & set(own):
            problems.append("no target: give targetConcurrency, or queueDepthQuery")
    return problems


def _misplaced_source(given: Mapping[str, str]) -> list[str]:
    direct = [key for key in _DIRECT if key in given]
    through = [key for key in _PROMETHEUS if key in given]
    if not direct and not through:
        return [f"no place to read from: give one of {one_of((*_DIRECT, *_PROMETHEUS))}"]
    # Replicas may be read directly and their wake source through Prometheus.
    both = len(direct) == len(through) == 1 and _wakes_by_prometheus(given)
    if len(direct) + len(through) > 1 and not both:
        return [f"{' and '.join(direct + through)}: give only one place to read from"]
    return []


def _wakes_by_prometheus(given: Mapping[str, str]) -> bool:
    source = given.get("wakeFrom")
    return source == QUERY or (source in GATEWAYS and "wakeService" not in given)


def _misplaced_wake(given: Mapping[str, str]) -> list[str]:
    source = given.get("wakeFrom")
    by_prometheus = set(_PROMETHEUS) & set(given)
    problems = []
    if source is None:
        return [
            f"{key}: only with wakeFrom" for key in (*_OF_GATEWAYS, "wakeQuery") if key in given
        ]
    if source in GATEWAYS:
        if "wakeService" not in given and not by_prometheus:
            problems.append(
                f"wakeFrom: {source} needs wakeService, or the prometheus or serverAddress where "
                "it is scraped"
            )
        example = _SELECTED_GATEWAYS.get(source)
        if example and "wakeSelector" not in given:
            problems.append(f"wakeFrom: {source} needs wakeSelector, such as {example}")
    elif source in {QUERY, REPORTS}:
        problems += [f"{key}: not with wakeFrom {source}" for key in _OF_GATEWAYS if key in given]
    if "wakeService" not in given:
        problems += [f"{key}: only with wakeService" for key in _WAKE_PLACE if key in given]
    elif is_address(given["wakeService"]) and not given.get("wakePort", "").strip().isdecimal():
        problems.append("wakePort: with an IP address as wakeService, give the number of a port")
    if source == QUERY and not ("wakeQuery" in given and by_prometheus):
        problems.append("wakeFrom: query needs wakeQuery, and prometheus or serverAddress")
    if source != QUERY and "wakeQuery" in given:
        problems.append("wakeQuery: only with wakeFrom query")
    return problems
