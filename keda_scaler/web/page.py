"""The page for people: all targets at /, one at /ui/{namespace}/{name}.

It is written here and works without JavaScript; page.js asks for it again every few seconds.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web
from markupsafe import Markup

from keda_scaler.core.explain import explain, samples, summarise
from keda_scaler.turns import Turns
from keda_scaler.web import detail, listing
from keda_scaler.web.html import document
from keda_scaler.web.targets import TargetsApi, parse_query

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_ONE = "/{namespace:[^/]+}/{name:[^/]+}"
"""One ScaledObject. By themselves aiohttp's paths take no braces, and names may have them."""

_FILES = {"page.css": "text/css", "page.js": "text/javascript"}
"""Files beside this one that the pages use."""


class Pages:
    """Shows targets to people, and to programs."""

    def __init__(self, api: TargetsApi) -> None:
        self._api = api

    def routes(self) -> list[web.RouteDef]:
        """Give the paths and what answers them."""
        return [
            web.get("/", self.list),
            web.get("/ui" + _ONE, self.one),
            web.get("/targets", self._api.targets),
            web.get("/targets" + _ONE, self._api.target),
            *(web.get(f"/{name}", _file(name, kind)) for name, kind in _FILES.items()),
        ]

    async def list(self, request: web.Request) -> web.Response:
        """Show one page of all targets."""
        visible = await self._api.access.namespaces(request)
        query = parse_query(request.query)
        overview, page = await self._api.overviews.look(query, visible)
        turns = Turns()
        parts = [listing.counts(query, overview), listing.list_head(overview)]
        for target in page:
            known, now = target.known(), time.time()
            past = samples(known, now - known.view.now)
            parts.append(listing.list_row(summarise(known), past, now))
            await turns.take()
        parts += [listing.list_foot(query, overview), listing.sources(overview.sources)]
        head = listing.filters(query, overview.namespaces)
        return _html(document("Targets - keda-scaler", head, parts))

    async def one(self, request: web.Request) -> web.Response:
        """Show everything of the targets of one ScaledObject."""
        found = await self._api.find(request)
        turns = Turns()
        parts: list[Markup] = []
        for number, target in enumerate(found, 1):
            now = time.time()
            explained = explain(target.known(), now)
            for part in detail.target_parts(explained, now, number, len(found)):
                parts.append(part)
                await turns.take()
        namespace, name = found[0].namespace, found[0].name
        head = detail.target_head(namespace, name)
        return _html(document(f"{namespace}/{name} - keda-scaler", head, parts))


def _html(page: Markup) -> web.Response:
    return web.Response(text=page, content_type="text/html", charset="utf-8", headers=_HEADERS)


def _file(name: str, kind: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Serve a file beside this one. It holds nothing of any target."""

    async def get(_: web.Request) -> web.Response:
        text = await asyncio.to_thread((Path(__file__).parent / name).read_text)
        headers = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
        return web.Response(text=text, content_type=kind, charset="utf-8", headers=headers)

    return get
