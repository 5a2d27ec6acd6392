"""HTML that all pages have in common.

Everything goes through `Markup.format`, which escapes: names, texts and metadata are written by
whoever may create a ScaledObject.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from markupsafe import Markup

from keda_scaler import __version__

_TROUBLE = frozenset({"hold", "stuck"})
"""Reasons of an active target that somebody should look at."""


def document(title: str, head: Markup, live: Iterable[Markup]) -> Markup:
    """Write a whole page; what is `live` is what page.js replaces."""
    return Markup(
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        '<link rel="stylesheet" href="/page.css"><script src="/page.js" defer></script></head>'
        '<body><header><a class="brand" href="/">keda-scaler</a>'
        '<span class="version">{}</span><p id="refresh"></p></header>'
        '<main>{}<div id="live">{}</div></main></body></html>'
    ).format(title, __version__, head, Markup("").join(live))


def table(title: str, heads: Sequence[str], rows: Iterable[Markup]) -> Iterator[Markup]:
    """Write a table with its title, piece by piece."""
    cells = (Markup('<th scope="col" role="columnheader">{}</th>').format(head) for head in heads)
    yield Markup(
        '<section><h2>{}</h2><table role="table"><thead role="rowgroup"><tr role="row">{}</tr>'
        '</thead><tbody role="rowgroup">'
    ).format(title, Markup("").join(cells))
    yield from rows
    yield Markup("</tbody></table></section>")


def state_badge(state: str, reason: str = "", *, broken: bool = False) -> Markup:
    """Write a state; its colour says too what its word says."""
    kind = "trouble" if broken or reason in _TROUBLE else state
    return Markup('<span class="state {}">{}</span>').format(kind, state)


def code(text: str) -> Markup:
    """Show what stands in backquotes as code."""
    pieces = re.split(r"`([^`]*)`", text)
    return Markup("").join(
        Markup("<code>{}</code>").format(piece) if index % 2 else piece
        for index, piece in enumerate(pieces)
    )
