"""HTML of one target's page."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from markupsafe import Markup

from keda_scaler.core import told
from keda_scaler.core.words import (
    asks,
    condition,
    duration,
    quantity,
    reading,
    replicas_text,
    to_zero,
    unanswered,
)
from keda_scaler.web.html import code, state_badge, table
from keda_scaler.web.plots import Line, band, plot, top, values, wanted


def target_head(namespace: str, name: str) -> Markup:
    """Write what a target's page is about."""
    return Markup('<h1><span class="ns">{}</span>{}</h1>').format(namespace, name)


def target_parts(
    target: told.Explanation, now: float, number: int = 1, of: int = 1
) -> Iterator[Markup]:
    """Write everything of one target, in small pieces; `now` in Unix seconds.

    A ScaledObject may have several triggers of ours: this is the target of that `number`.
    """
    if of > 1:
        yield Markup("<h2>Trigger {} of {}</h2>").format(number, of)
    yield _verdict(target)
    yield _facts(target)
    yield _bounds(target.bound_by)
    yield _plots(target, now)
    if target.replicas:
        signals = [reading.signal for reading in target.replicas[0].readings]
        yield from table("Replicas", ("Replica", "Is", *signals), map(_replica, target.replicas))
    if target.replicas_left_out:
        yield Markup('<p class="dim">and {:,} more</p>').format(target.replicas_left_out)
    heads = ("When", "State", "Reason", "Why", "Wanted", "Answering")
    if target.changes:
        yield from table("Changes", heads, map(_change, target.changes))
    yield _trigger(target.trigger, number)


def _verdict(target: told.Explanation) -> Markup:
    warnings = (Markup('<p class="bad">{}</p>').format(text) for text in target.warnings)
    return Markup(
        '<section class="verdict"><p class="lead">{} <b>{}</b> for {}: {}</p>'
        "<p>What to do: {}</p>{}</section>"
    ).format(
        state_badge(target.state, target.reason, broken=unanswered(target) is not None),
        target.reason,
        duration(target.since_seconds),
        target.text,
        code(target.to_do),
        Markup("").join(warnings),
    )


def _facts(target: told.Explanation) -> Markup:
    demand = target.demand
    list_age = target.list_age_seconds
    facts = [
        ("Replicas", replicas_text(target)),
        ("To zero", to_zero(target)),
        ("Asked about", f"{duration(target.asked_age_seconds)} ago"),
        ("List of replicas", "never known" if list_age is None else f"{duration(list_age)} old"),
    ]
    if target.replicas_listed_missing:
        facts.append(("Listing", target.replicas_listed_missing))
    if demand is not None:
        known = "unknown" if demand.requests is None else f"{demand.requests:g} in flight"
        facts.append((f"Wake source {demand.source}", known))
        if demand.missing:
            facts.append((f"{demand.source} says", demand.missing))
    items = (Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(*fact) for fact in facts)
    return Markup('<dl class="facts">{}</dl>').format(Markup("").join(items))


def _bounds(bounds: Sequence[told.Bound]) -> Markup:
    if not bounds:
        return Markup("")
    items = (
        Markup('<li><span class="kind">{}</span> {}{}</li>').format(
            bound.what,
            bound.text,
            ""
            if bound.seconds_left is None
            else Markup(' <b class="num">{} left</b>').format(duration(bound.seconds_left)),
        )
        for bound in bounds
    )
    return Markup('<section><h2>What decides</h2><ul class="bounds">{}</ul></section>').format(
        Markup("").join(items)
    )


def _plots(target: told.Explanation, now: float) -> Markup:
    parts = [
        Markup('<section><h2>The last hour</h2><div class="plots">'),
        _replica_plot(target, now),
    ]
    for signal in target.signals:
        line = values(signal, target.samples, now)
        text = Markup("{} <b>{}</b>, target {}: {}").format(
            signal.signal,
            quantity(signal.per_replica, signal.unit),
            quantity(signal.target, signal.unit),
            asks(signal),
        )
        parts.append(_figure([line], signal.target, text, signal.unit))
    if target.demand is not None:
        points = [(now - s.unix_seconds, s.demand_requests) for s in target.samples]
        if target.demand.missing is None:
            points.append((0.0, target.demand.requests))
        text = Markup("requests at {}").format(target.demand.source)
        parts.append(_figure([Line("value", points)], None, text, "requests"))
    parts.append(Markup("</div></section>"))
    return Markup("").join(parts)


def _replica_plot(target: told.Explanation, now: float) -> Markup:
    answering = [(now - s.unix_seconds, float(s.replicas_answering)) for s in target.samples]
    answering.append((0.0, float(target.replicas_answering)))
    lines = [Line("answering", answering), wanted(target, target.samples, now)]
    text = Markup(
        'replicas: <b class="wanted">{} wanted</b>, <b class="answering">{} answering</b>; '
        "below, the state"
    ).format(target.replicas_wanted, target.replicas_answering)
    states = [(now - s.unix_seconds, s.state) for s in target.samples]
    known = [*states, (0.0, target.state)]
    merged = [known[0], *(b for a, b in pairwise(known) if a[1] != b[1])]
    told_states = ", ".join(f"{state} since {duration(age)}" for age, state in merged)
    return _figure(lines, None, text, "requests", band(merged, told_states))


_AXIS = Markup('<div class="axis"><span>1 hour ago</span><span>30 min</span><span>now</span></div>')


def _figure(
    lines: Sequence[Line],
    target: float | None,
    text: Markup,
    unit: str,
    below: Markup = Markup(""),  # noqa: B008  # it never changes
) -> Markup:
    return Markup(
        '<figure><figcaption>{}</figcaption><div class="scale"><span>{}</span><span>0</span></div>'
        "<div>{}{}{}</div></figure>"
    ).format(
        text,
        quantity(top(lines, target), unit),
        plot(lines, target, text.striptags()),
        below,
        _AXIS,
    )


def _replica(replica: told.Replica) -> Markup:
    cells = (
        Markup('<td role="cell" data-head="{}">{}</td>').format(each.signal, _reading(each))
        for each in replica.readings
    )
    return Markup(
        '<tr role="row"><th scope="row" role="rowheader">{}</th>'
        '<td role="cell" data-head="Is">{}</td>{}</tr>'
    ).format(replica.name, condition(replica), Markup("").join(cells))


def _reading(read: told.Reading) -> Markup:
    kind = "bad" if read.missing else "num"
    return Markup('<span class="{}">{}</span>').format(kind, reading(read))


def _change(change: told.Change) -> Markup:
    return Markup(
        '<tr role="row"><th scope="row" role="rowheader" class="num">{} ago</th>'
        '<td role="cell" data-head="State">{}</td>'
        '<td role="cell" data-head="Reason">{}</td>'
        '<td role="cell" data-head="Why" class="why">{}</td>'
        '<td role="cell" data-head="Wanted" class="num">{}</td>'
        '<td role="cell" data-head="Answering" class="num">{}</td></tr>'
    ).format(
        duration(change.seconds_ago),
        state_badge(change.state, change.reason),
        change.reason,
        change.text,
        change.replicas_wanted,
        change.replicas_answering,
    )


def _trigger(keys: Mapping[str, str], number: int) -> Markup:
    items = (
        Markup("<div><dt>{}</dt><dd><code>{}</code></dd></div>").format(key, value)
        for key, value in keys.items()
    )
    return Markup(
        '<details id="trigger-{}"><summary>Trigger, with its defaults</summary>'
        '<dl class="facts">{}</dl></details>'
    ).format(number, Markup("").join(items))
