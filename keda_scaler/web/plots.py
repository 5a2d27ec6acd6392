"""Plots: small pictures of the last hour, as SVG that takes its colours from page.css.

A plot is as wide as there is room, so lines are drawn and no text. What it shows stands beside it.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from keda_scaler.core import told

HOUR = 3600.0
_GAP = 150.0
"""Seconds between two samples from which there is a gap: one was not taken."""

_FULL = 96.0
"""Percent of a bar's width that stand for twice the target."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a plot: instants before now, in seconds, and numbers; None: a gap."""

    kind: str
    """The class in page.css: `value`, `wanted` or `answering`."""

    points: Sequence[tuple[float, float | None]]
    """In the order of time, so that ages fall."""


def wanted(target: told.Summary, samples: Iterable[told.Sample], now: float) -> Line:
    """Give how many replicas were wanted until `now`, in Unix seconds."""
    points = [(now - sample.unix_seconds, float(sample.replicas_wanted)) for sample in samples]
    return Line("wanted", [*points, (0.0, float(target.replicas_wanted))])


def values(signal: told.Signal, samples: Iterable[told.Sample], now: float) -> Line:
    """Give what a signal was per replica until `now`, in Unix seconds."""
    points = [(now - s.unix_seconds, s.per_replica.get(signal.signal)) for s in samples]
    return Line("value", [*points, (0.0, signal.per_replica)])


def sparkline(line: Line, target: float | None, what: str) -> Markup:
    """Draw a small plot of one line, and of its target if there is one."""
    return _svg("spark", (90, 20), [line], target, what)


def plot(lines: Sequence[Line], target: float | None, what: str) -> Markup:
    """Draw a plot of several lines that have one scale."""
    return _svg("plot", (720, 120), lines, target, what)


def top(lines: Iterable[Line], target: float | None) -> float:
    """Give the number at the upper edge of a plot; the lower edge is 0."""
    numbers = [number for line in lines for _, number in line.points if number is not None]
    return max([*numbers, (target or 0.0) * 1.15]) or 1.0


def _svg(
    kind: str, size: tuple[int, int], lines: Sequence[Line], target: float | None, what: str
) -> Markup:
    width, height = size
    highest = top(lines, target)
    parts = []
    if target is not None:
        y = _y(target, highest, height)
        parts.append(Markup('<path class="target" d="M0 {}H{}"/>').format(y, width))
    parts += [
        Markup('<path class="{}" d="{}"/>').format(line.kind, _path(line, highest, size))
        for line in lines
    ]
    return Markup(
        '<svg class="{}" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">'
        "{}</svg>"
    ).format(kind, width, height, what, Markup("").join(parts))


def _path(line: Line, highest: float, size: tuple[int, int]) -> str:
    """Write a line as steps from left to right; where something is missing it is interrupted."""
    width, height = size
    parts = []
    before: float | None = None
    for age, number in line.points:
        if number is None:
            before = None
            continue
        x = round(width * (1 - min(age, HOUR) / HOUR), 1)
        y = _y(number, highest, height)
        begins = before is None or before - age > _GAP
        parts.append(f"M{x:g} {y:g}h0" if begins else f"L{x:g} {y:g}")
        before = age
    return "".join(parts)


def _y(number: float, highest: float, height: int) -> float:
    """Place a number, with room for the line's width at both edges."""
    return round(height - 2 - (height - 4) * min(1.0, number / highest), 1)


def band(states: Sequence[tuple[float, str]], what: str) -> Markup:
    """Draw which state held when: ages in seconds, falling, and the state from then on."""
    parts = []
    for (age, state), (until, _) in pairwise([*states, (0.0, "")]):
        left = 720 * (1 - min(age, HOUR) / HOUR)
        right = 720 * (1 - min(until, HOUR) / HOUR)
        rectangle = Markup('<rect class="{}" x="{:.1f}" y="0" width="{:.1f}" height="12"/>')
        parts.append(rectangle.format(state, left, max(right - left, 0.0)))
    return Markup(
        '<svg class="band" viewBox="0 0 720 12" preserveAspectRatio="none" role="img" '
        'aria-label="{}">{}</svg>'
    ).format(what, Markup("").join(parts))


def bar(share: float | None, what: str) -> Markup:
    """Draw a number as a share of its target, which stands in the middle; None: not known."""
    width = 0.0 if share is None or math.isnan(share) else min(max(share, 0.0), 2.0) * _FULL / 2
    kind = "over" if share is not None and share > 1 else "under"
    return Markup(
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" role="img" '
        'aria-label="{}"><rect class="back" width="100" height="8"/>'
        '<rect class="{}" width="{:.1f}" height="8"/><path class="mark" d="M48 0V8"/></svg>'
    ).format(what, kind, width)
