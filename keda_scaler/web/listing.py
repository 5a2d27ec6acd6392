"""HTML of the list of targets."""

from collections.abc import Sequence
from urllib.parse import quote, urlencode

from markupsafe import Markup

from keda_scaler.core import told
from keda_scaler.core.decision import State
from keda_scaler.core.words import duration, quantity, to_zero, unanswered
from keda_scaler.web.html import state_badge, table
from keda_scaler.web.overview import DEFAULT_LIMIT, Overview, Query, Source
from keda_scaler.web.plots import bar, sparkline, values, wanted


def filters(query: Query, namespaces: Sequence[str]) -> Markup:
    """Write the form that filters. It is answered by a link, which can be kept and shared."""
    states = [
        Markup('<option value="{}"{}>{}</option>').format(
            state.value, Markup(" selected") if state is query.state else "", state.value
        )
        for state in State
    ]
    return Markup(
        '<h1>Targets</h1><form class="filters" method="get" action="/" role="search">'
        '<label>Namespace <input name="namespace" list="namespaces" value="{}" placeholder="all" '
        'autocomplete="off" spellcheck="false"></label><datalist id="namespaces">{}</datalist>'
        '<label>State <select name="state"><option value="">all</option>{}</select></label>'
        "<button>Filter</button>{}</form>"
    ).format(
        query.namespace,
        Markup("").join(Markup('<option value="{}">').format(name) for name in namespaces),
        Markup("").join(states),
        Markup(' <a href="/">clear</a>') if query.namespace or query.state else "",
    )


def counts(query: Query, overview: Overview) -> Markup:
    """Write how many targets are in which state; each leads to those."""
    tiles = [
        Markup('<li><a class="tile" href="{}"><b>{:,}</b> {}</a></li>').format(
            link(query, state=state, offset=0),
            overview.states[state.value],
            state_badge(state.value),
        )
        for state in State
    ]
    return Markup('<ul class="tiles">{}</ul>').format(Markup("").join(tiles))


def list_head(overview: Overview) -> Markup:
    """Write the beginning of the table of targets."""
    if not overview.total:
        text = (
            "No target matches."
            if sum(overview.states.values())
            else "No target yet: KEDA has not asked this scaler about any ScaledObject."
        )
        return Markup('<p class="empty">{}</p>').format(text)
    heads = ("Target", "State", "Replicas that answer", "Signals, per replica", "Why", "To zero")
    cells = (Markup('<th scope="col" role="columnheader">{}</th>').format(head) for head in heads)
    return Markup(
        '<table class="targets" role="table"><thead role="rowgroup"><tr role="row">{}</tr></thead>'
        '<tbody role="rowgroup">'
    ).format(Markup("").join(cells))


def list_row(target: told.Summary, samples: Sequence[told.Sample], now: float) -> Markup:
    """Write one target; `now` is the wall clock's time, in Unix seconds."""
    where = f"/ui/{quote(target.namespace, safe='')}/{quote(target.name, safe='')}"
    replicas = Markup('<span class="num">{}</span>{}').format(
        _counted(target),
        sparkline(wanted(target, samples, now), None, "replicas wanted over the last hour"),
    )
    return Markup(
        '<tr role="row"><th scope="row" role="rowheader"><span class="ns">{}</span>'
        '<a href="{}">{}</a></th>'
        '<td role="cell" data-head="State">{}<span class="dim">{} for {}</span></td>'
        '<td role="cell" data-head="Replicas">{}</td>'
        '<td role="cell" data-head="Signals">{}</td>'
        '<td role="cell" data-head="Why" class="why">{}</td>'
        '<td role="cell" data-head="To zero" class="num">{}</td></tr>'
    ).format(
        target.namespace,
        where,
        target.name,
        state_badge(target.state, target.reason, broken=unanswered(target) is not None),
        target.reason,
        duration(target.since_seconds),
        replicas,
        Markup("").join(_signal(signal, samples, now) for signal in target.signals),
        target.text,
        to_zero(target),
    )


def list_foot(query: Query, overview: Overview) -> Markup:
    """Write the end of the table, and the way to its other pages."""
    if not overview.total:
        return Markup("")
    first = min(query.offset + 1, overview.total)
    last = min(query.offset + query.limit, overview.total)
    links = []
    if query.offset:
        before = link(query, offset=max(0, query.offset - query.limit))
        links.append(Markup('<a rel="prev" href="{}">Previous</a>').format(before))
    if last < overview.total:
        after = link(query, offset=query.offset + query.limit)
        links.append(Markup('<a rel="next" href="{}">Next</a>').format(after))
    return Markup(
        '</tbody></table><nav class="pages" aria-label="Pages of targets">'
        "<span>{:,} to {:,} of {:,}</span> {}</nav>"
    ).format(first, last, overview.total, Markup(" ").join(links))


def sources(found: Sequence[Source]) -> Markup:
    """Write what targets are read from, and how well."""
    if not found:
        return Markup("")
    rows = [
        Markup(
            '<tr role="row"><th scope="row" role="rowheader">{}</th>'
            '<td role="cell" data-head="Targets" class="num">{:,}</td>'
            '<td role="cell" data-head="Replicas" class="num">{}</td>'
            '<td role="cell" data-head="Newest news" class="num">{}</td>'
            '<td role="cell" data-head="In trouble">{}</td></tr>'
        ).format(
            source.source,
            source.targets,
            "-"
            if source.replicas_listed is None
            else f"{source.replicas_answering:,} of {source.replicas_listed:,} answer",
            "none yet"
            if source.newest_seconds is None
            else f"{duration(source.newest_seconds)} ago",
            Markup('<span class="bad">{:,}: {}</span>').format(
                source.targets_in_trouble, source.trouble or ""
            )
            if source.targets_in_trouble
            else "none",
        )
        for source in found
    ]
    heads = ("Source", "Targets", "Replicas", "Newest news", "In trouble")
    return Markup("").join(table("Sources", heads, rows))


def link(query: Query, *, state: State | None = None, offset: int | None = None) -> str:
    """Write a query as a link to its page, with something else in it."""
    state = state or query.state
    given: dict[str, str | int] = {}
    if query.namespace:
        given["namespace"] = query.namespace
    if state:
        given["state"] = state.value
    if query.limit != DEFAULT_LIMIT:
        given["limit"] = query.limit
    if offset if offset is not None else query.offset:
        given["offset"] = offset if offset is not None else query.offset
    return "/?" + urlencode(given) if given else "/"


def _counted(target: told.Summary) -> str:
    """Write how many replicas answer, of how many, shorter than elsewhere."""
    listed = "?" if target.replicas_listed is None else target.replicas_listed
    return f"{target.replicas_answering} of {listed}, {target.replicas_wanted} wanted"


def _signal(signal: told.Signal, samples: Sequence[told.Sample], now: float) -> Markup:
    target = quantity(signal.target, signal.unit)
    share = None if signal.per_replica is None else signal.per_replica / signal.target
    number = quantity(signal.per_replica, signal.unit)
    what = f"{number} of {target}"
    return Markup(
        '<div class="signal{}"><span class="name">{}</span>{}<span class="num">{}</span>{}</div>'
    ).format(
        " decides" if signal.decides else "",
        signal.signal,
        bar(share, what),
        what if signal.per_replica is not None else "unknown",
        sparkline(values(signal, samples, now), signal.target, f"{signal.signal}, the last hour"),
    )
