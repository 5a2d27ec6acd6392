"""Names: whether a trigger's names were ever right, and which ones are near where they were not.

Asked only for a target of which Prometheus shows nothing: "no series" may be a model at zero, and
may be a wrong name. A week of series tells which, and what there is instead.
"""

import difflib
from collections.abc import Collection, Iterable, Sequence

from keda_scaler import engines
from keda_scaler.core.matchers import Matcher, quote
from keda_scaler.core.trigger import Trigger
from keda_scaler.engines.prefixes import prefixed
from keda_scaler.engines.samples import Sample
from keda_scaler.engines.spaces import Space
from keda_scaler.errors import SourceError
from keda_scaler.sources.promapi import Pin, Prometheus, sample_of

LOOK_SECONDS = 60.0
"""How often a target looks for its names."""

MAX_LOOKS = 10
"""Targets that look together, one after the other; the others have their turn after them."""

WAIT_SECONDS = 1.0
"""How long a round waits for that."""

MAX_NAMES = 5000
"""Combinations of names and labels that are looked through."""

WEEK = "1w"
"""How far a look goes back."""

_SHOWN = 3
"""Names that are shown."""

_NAMESPACE_LABELS = (
    "exported_namespace",
    "k8s_namespace_name",
    "kubernetes_namespace",
    "kube_namespace",
    "k8s_namespace",
)
"""What OpenTelemetry collectors and others call the label `namespace`."""


async def is_known(prometheus: Prometheus, pin: Pin, namespace: str, trigger: Trigger) -> str:
    """Say why a target's names are not known to be right; empty: they matched within a week.

    Raises:
        SourceError: when Prometheus does not answer.

    """
    wanted = {matcher.name for matcher in trigger.selector} | {"namespace"}
    if trigger.by_queries:
        found = await _ask(prometheus, pin, _of_a_week(wanted, '"up"', namespace))
        if any(all(each.matches(s.labels) for each in trigger.selector) for s in found):
            return ""
    else:
        name = f"~{quote('|'.join(sorted(engines.names(trigger.engine, latencies=False))))}"
        wanted |= {"__name__"} | _model_labels(trigger)
        found = await _ask(prometheus, pin, _of_a_week(wanted, name, namespace))
        space = Space(namespace, [trigger.engine])
        for sample in found:
            space.add(sample)
        selected = space.selected(trigger.selector)
        if selected.concerned(trigger.engine, trigger.model):
            return ""
        if selected.concerned(trigger.engine, None):
            return f"no series of model {_near_model(found, trigger)}"
        found = [each for each in found if engines.shown(each, trigger.engine)]
    wrong = _wrong_matcher(trigger.selector, found)
    if wrong is not None:
        return f"no series of {_whose(trigger)} has {wrong}"
    elsewhere = await _elsewhere(prometheus, pin, namespace, trigger)
    return f"no series of {_whose(trigger)} within a week{elsewhere}"


def _of_a_week(labels: Collection[str], name: str, namespace: str) -> str:
    """Write the query for all values of labels that series of a name had within a week."""
    series = f"{{__name__={name},namespace={quote(namespace)}}}[{WEEK}]"
    return f"group by ({','.join(sorted(labels))}) (last_over_time({series}))"


def _model_labels(trigger: Trigger) -> set[str]:
    """Give the labels in which the engine that a trigger names, or any, has the model."""
    labels = {each.model_label for each in engines.dialects(trigger.engine)}
    return {each for each in labels if each is not None}


def _whose(trigger: Trigger) -> str:
    if trigger.by_queries:
        return "replicas"
    return "a known engine" if trigger.engine == "auto" else trigger.engine


def _near_model(found: Iterable[Sample], trigger: Trigger) -> str:
    labels = _model_labels(trigger)
    models = {each.labels.get(label, "") for each in found for label in labels} - {""}
    return f"{trigger.model!r}; there are: {_nearest(str(trigger.model), models)}"


def _wrong_matcher(matchers: Sequence[Matcher], found: Sequence[Sample]) -> str | None:
    """Name the first condition that no series meets, and what there is instead."""
    for matcher in matchers:
        if found and not any(matcher.matches(each.labels) for each in found):
            values = {each.labels.get(matcher.name, "") for each in found} - {""}
            there = f"there are: {_nearest(matcher.value, values)}" if values else "none has it"
            return f"{matcher.promql}; {there}"
    return "all that the selector says, but each of it alone" if found and matchers else None


async def _elsewhere(prometheus: Prometheus, pin: Pin, namespace: str, trigger: Trigger) -> str:
    """Say what there is instead of an engine's series in the namespace; empty: nothing near."""
    if trigger.by_queries:
        return ""
    counts = engines.counts()
    known = "|".join(sorted(counts))
    within = f"namespace={quote(namespace)}"
    named = f"__name__=~{quote(known)}"
    parts = [
        f"group by (__name__) ({{__name__=~{quote(f'.+(?:{known})')},{within}}})",
        f"group by (__name__) ({{{named},{within}}})",
        *(
            f"group by ({label}) ({{{named},{label}={quote(namespace)}}})"
            for label in _NAMESPACE_LABELS
        ),
    ]
    found = await _ask(prometheus, pin, f"topk({MAX_NAMES}, {' or '.join(parts)})")
    for sample in found:
        for label in _NAMESPACE_LABELS:
            if label in sample.labels:
                return f"; there are some whose label {label} has it, instead of namespace"
    names = sorted(sample.name for sample in found)
    prefix = prefixed("".join(f"{name} 0\n" for name in names).encode(), counts)
    if prefix is not None:
        return f"; there is {prefix}, with a prefix"
    return f"; there is {_nearest('', names)}, of another engine" if names else ""


def _nearest(wanted: str, there: Collection[str]) -> str:
    """Write the names that are nearest, and how many more there are."""
    near = difflib.get_close_matches(wanted, sorted(there), _SHOWN, 0.0) or sorted(there)[:_SHOWN]
    more = len(there) - len(near)
    return ", ".join(near) + (f" and {more} more" if more > 0 else "")


async def _ask(prometheus: Prometheus, pin: Pin, promql: str) -> list[Sample]:
    found = await prometheus.query(promql, pin.unix)
    if len(found) > MAX_NAMES:
        raise SourceError(f"more than {MAX_NAMES} names within a week match the trigger")
    return [sample_of(series, pin) for series in found]
