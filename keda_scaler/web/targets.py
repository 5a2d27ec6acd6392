"""GET /targets and /targets/{namespace}/{name}: what targets say of themselves, as JSON."""

import time
from collections.abc import Mapping

import msgspec
from aiohttp import web

from keda_scaler.core.decision import State
from keda_scaler.core.explain import explain, summarise
from keda_scaler.core.told import Explanation
from keda_scaler.sources.sink import Clock
from keda_scaler.store import Store, Target
from keda_scaler.turns import Turns
from keda_scaler.web.access import Access
from keda_scaler.web.overview import DEFAULT_LIMIT, MAX_LIMIT, Overviews, Query

MAX_SAME_NAME = 20
"""Targets of one ScaledObject that are explained: its triggers, and what they were before."""

PLAIN = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
"""Headers of what is no page, and must not be taken for one."""

_MAX_OFFSET = 10**6


class Explained(msgspec.Struct, frozen=True):
    """The answer of /targets/{namespace}/{name}."""

    targets: list[Explanation]
    """One for each trigger that KEDA asks about."""


class TargetsApi:
    """Answers about targets."""

    def __init__(self, store: Store, access: Access, clock: Clock = time.monotonic) -> None:
        self.overviews = Overviews(store, clock)
        self.access = access

    async def targets(self, request: web.Request) -> web.Response:
        """Give one page of targets, a line each."""
        visible = await self.access.namespaces(request)
        overview, page = await self.overviews.look(parse_query(request.query), visible)
        turns = Turns()
        summaries = []
        for target in page:
            summaries.append(summarise(target.known()))
            await turns.take()
        return _json(msgspec.structs.replace(overview, targets=summaries))

    async def target(self, request: web.Request) -> web.Response:
        """Explain the targets of one ScaledObject."""
        turns = Turns()
        explained = []
        for target in await self.find(request):
            explained.append(explain(target.known(), time.time()))
            await turns.take()
        return _json(Explained(explained))

    async def find(self, request: web.Request) -> list[Target]:
        """Find the targets that a request names in its path.

        Raises:
            HTTPNotFound: when there is none, or none that it may see.

        """
        visible = await self.access.namespaces(request)
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        found = self.overviews.find(namespace, name, visible)
        if not found:
            raise web.HTTPNotFound(
                text=f"{namespace}/{name} is not followed: KEDA has not asked this scaler about "
                "a ScaledObject of that name in the last minutes\n",
                headers=PLAIN,
            )
        return found[:MAX_SAME_NAME]


def parse_query(given: Mapping[str, str]) -> Query:
    """Read which targets are looked for.

    Raises:
        HTTPBadRequest: naming the field, what was given and what is accepted.

    """
    state = given.get("state", "")
    if state and state not in set(State):
        raise _wrong("state", state, ", ".join(State))
    return Query(
        namespace=given.get("namespace", "").strip()[:253],
        state=State(state) if state else None,
        limit=_whole(given, "limit", DEFAULT_LIMIT, 1, MAX_LIMIT),
        offset=_whole(given, "offset", 0, 0, _MAX_OFFSET),
    )


def _whole(given: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = given.get(name, "")
    if not text:
        return default
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 9 else -1
    if not low <= number <= high:
        raise _wrong(name, text, f"a whole number from {low} to {high}")
    return number


def _wrong(name: str, got: str, accepted: str) -> web.HTTPBadRequest:
    return web.HTTPBadRequest(
        text=f"{name}: got {got[:80]!r}; accepted: {accepted}\n", headers=PLAIN
    )


def _json(answer: msgspec.Struct) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(answer),
        content_type="application/json",
        headers=PLAIN,
    )
