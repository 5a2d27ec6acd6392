"""Which families of a page a signal is read from, and which are nearest to those it lacks. Pure."""

import difflib
import re
from collections.abc import Collection, Iterable

from keda_scaler import engines
from keda_scaler.core.signals import Signal
from keda_scaler.core.trigger import Trigger
from keda_scaler.engines.dialect import Dialect, families

_MAX_NAMES = 2_000
"""Names of a page that are compared; a vLLM page has 120."""

_NAME = re.compile(rb"^[ \t]*([a-zA-Z_:][a-zA-Z0-9_:]*)", re.MULTILINE)
_PARTS = re.compile(r"_(bucket|sum|count|created)$")
_NEAR = 0.7
"""Likeness from which a name is offered, 0 to 1, as difflib measures it."""

_OFFERED = 3


def names_on(body: bytes) -> frozenset[str]:
    """Give the names of all samples on a page."""
    return frozenset(match[1].decode() for match in _NAME.finditer(body))


def models_on(body: bytes, dialect: Dialect) -> frozenset[str]:
    """Give the served models that a page names; none where the engine names none."""
    if dialect.model_label is None:
        return frozenset()
    found = re.findall(rb'[{,]%b="([^"\\\n]{1,200})"' % dialect.model_label.encode(), body)
    return frozenset(name.decode(errors="replace") for name in found)


def wanted(trigger: Trigger) -> list[Signal]:
    """Give the signals that a trigger looks at: to scale on, and to tell work."""
    signals = {metric.signal for metric in trigger.metrics} | {s for s, _ in trigger.activations}
    return [signal for signal in Signal if signal in signals]


def carriers(dialect: Dialect, signal: Signal) -> tuple[str, ...]:
    """Name what may carry a signal, in the engine's own spelling."""
    late = tuple(f"{family.name}_bucket" for family in dialect.latencies.get(signal, ()))
    late += tuple(family.name for family in dialect.summaries.get(signal, ()))
    measure = dialect.signals.get(signal)
    own = () if measure is None else tuple(family.name for family in families(measure))
    return tuple(dict.fromkeys(own + late))


def present(dialect: Dialect, signal: Signal, names: Collection[str]) -> list[str]:
    """Name what of that a page has, in the page's spelling."""
    known = set(carriers(dialect, signal))
    return sorted(name for name in names if dialect.canonical.get(name) in known)


def nearest(lacking: Iterable[str], names: Collection[str]) -> list[str]:
    """Offer the names of a page that are most like those it lacks, the likest first."""
    page = sorted({_PARTS.sub("", name) for name in names})[:_MAX_NAMES]
    found: dict[str, float] = {}
    for name in lacking:
        bare = _PARTS.sub("", name)
        for near in difflib.get_close_matches(bare, page, n=_OFFERED, cutoff=_NEAR):
            likeness = difflib.SequenceMatcher(None, near, bare).ratio()
            found[near] = max(likeness, found.get(near, 0.0))
    return sorted(found, key=lambda name: (-found[name], name))[:_OFFERED]


def of_engine(engine: str) -> list[str]:
    """Name all that tells of load, of an engine or (`auto`) of any."""
    return sorted(
        {
            name
            for dialect in engines.dialects(engine)
            for signal in Signal
            for name in carriers(dialect, signal)
        }
    )
