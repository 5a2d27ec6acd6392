"""The replicas behind a Kubernetes Service, watched through the API server.

Rules:
    - One task lists and watches a namespace's EndpointSlices, however many Services and followers
      it has; it ends when the last follower leaves.
    - A list is confirmed by what the server says of it: a list, an event, a bookmark, the end of a
      watch as agreed. An open watch that is silent confirms nothing: its connection may be dead, or
      end at a proxy whose server is gone.
    - So watches are short: the server ends each within a third of the time after which a follower
      takes a list for stale, and says what there is up to then. Of very many namespaces they are
      longer, so that the server is not asked more than `MAX_WATCHES_PER_SECOND` times a second.
    - What was listed stands while nothing confirms it; only its time does, so that it goes stale by
      its age. No error empties a list.

A watch resumes from the last version that it saw when its connection was lost, and lists anew
after any other failure. The client's own `Watch` is not used: it deserialises every event twice.
"""

import asyncio
import json
import math
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlsplit

import aiohttp
import structlog

from keda_scaler.core.readings import Missing
from keda_scaler.errors import SourceError
from keda_scaler.forever import keep
from keda_scaler.sources.apiserver import (
    ApiError,
    ApiServer,
    Configure,
    Timings,
    at_url,
    from_surroundings,
    is_in_sight,
    lines,
    refusal,
    unreachable,
)
from keda_scaler.sources.slices import MAX_SLICES, Endpoint, Slices, parse_slice, resolve

__all__ = ["Endpoint", "Listing", "NamespaceView", "ServiceDirectory", "Timings", "at_url"]

MAX_WATCHES_PER_SECOND = 100
"""Watches that are opened a second, of all namespaces together. The API server answers them from
memory; for more than 500 namespaces with the usual `staleSeconds` they last longer than a third of
it."""

PREPARE_SECONDS = 5.0
"""Longest wait at the start for the client of the API server and its first answer."""

MIN_WATCH_SECONDS = 2.0
"""Shortest watch: it must hold until the failures before it are forgiven."""

_ROUNDING = 1.0
"""The API server is told whole seconds."""

_P = ParamSpec("_P")
_T = TypeVar("_T")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Listing:
    """The endpoints of a Service, ordered by the replica's name."""

    endpoints: tuple[Endpoint, ...]
    """All but those that terminate and no longer serve; empty: known to have none."""

    at: float
    """Monotonic seconds as of which the API server has confirmed this."""


def judged(listing: Listing | Missing, allows: Callable[[str], bool]) -> Listing | Missing:
    """Refuse a list with an address that may not be read: without it the list would hide work."""
    if isinstance(listing, Listing):
        for endpoint in listing.endpoints:
            if not allows(urlsplit(endpoint.url).hostname or ""):
                return Missing(f"the address of {endpoint.replica.name} is not allowed")
    return listing


class ServiceDirectory:
    """The endpoints of every Service that somebody follows. One per process."""

    def __init__(
        self,
        *,
        configure: Configure | None = None,
        clock: Callable[[], float] = time.monotonic,
        timings: Timings | None = None,
    ) -> None:
        self._timings = timings or Timings()
        self._is_given = configure is not None
        self._api = ApiServer(configure or from_surroundings, self._timings)
        self._clock = clock
        self._namespaces: dict[str, _Namespace] = {}

    async def prepare(self) -> None:
        """Import the client and have the API server answer, so that the first list is not late.

        Without a cluster in sight that does nothing, and what fails will be said when it is needed.
        """
        if not self._is_given and not is_in_sight():
            return
        try:
            async with asyncio.timeout(PREPARE_SECONDS):
                await self._api.greet()
        except (ApiError, TimeoutError) as error:
            reason = str(error) or f"no answer within {PREPARE_SECONDS:g} s"
            log.warning("the Kubernetes API server does not answer at the start", reason=reason)

    @asynccontextmanager
    async def follow(
        self, namespace: str, stale_after: float = math.inf
    ) -> "AsyncIterator[NamespaceView]":
        """Keep the namespace's endpoints known while inside; needs no answer to enter.

        `stale_after` is the age in seconds from which the follower does not believe a list.
        """
        shared = self._namespaces.get(namespace)
        if shared is None:
            shared = _Namespace(namespace, self._api, self._timings, self._clock, self._turn)
            self._namespaces[namespace] = shared
        shared.stale_after[stale_after] += 1
        try:
            yield NamespaceView(shared)
        finally:
            shared.stale_after -= Counter((stale_after,))
            if not shared.stale_after and self._namespaces.get(namespace) is shared:
                del self._namespaces[namespace]
                await shared.stop()

    def _turn(self) -> float:
        """Say how many seconds a watch must last at least, for all to have their turn."""
        return len(self._namespaces) / MAX_WATCHES_PER_SECOND

    async def aclose(self) -> None:
        """Stop all watches and close all connections."""
        namespaces, self._namespaces = list(self._namespaces.values()), {}
        await asyncio.gather(*(shared.stop() for shared in namespaces))
        await self._api.aclose()


class NamespaceView:
    """What one follower sees of a namespace. It answers from memory."""

    def __init__(self, shared: "_Namespace") -> None:
        self._shared = shared
        self._seen = shared.changes

    @property
    def was_tried(self) -> bool:
        """Whether the first attempt to list has ended, in whatever way."""
        return self._shared.is_listed or self._shared.failing is not None

    def endpoints(self, service: str, port: str | None, path: str) -> Listing | Missing:
        """Give the endpoints of a Service, or the reason why they are not known.

        `port` is the name or number of an endpoint port; None: the one named `metrics`, else
        `http`, else the only one.
        """
        shared = self._shared
        if not shared.is_listed:
            reason = f"EndpointSlices of namespace {shared.name} not listed yet"
            return Missing(shared.failing or reason)
        parts = shared.slices.by_service.get(service)
        if not parts:
            # An existing Service with a selector has at least one slice, if an empty one.
            return Missing(f"no EndpointSlice of Service {service}: does it exist?")
        endpoints = resolve(service, parts.values(), port, path)
        return endpoints if isinstance(endpoints, Missing) else Listing(endpoints, shared.at)

    async def changed(self, timeout: float) -> None:  # noqa: ASYNC109  # running out is no error
        """Return when anything of the namespace has changed since the last return, or in time."""
        try:
            async with asyncio.timeout(timeout):
                await self._shared.wait_past(self._seen)
        except TimeoutError:
            pass
        self._seen = self._shared.changes


class _Namespace:
    """What is known of one namespace, and the task that keeps knowing it."""

    def __init__(
        self,
        name: str,
        api: ApiServer,
        timings: Timings,
        clock: Callable[[], float],
        turn: Callable[[], float],
    ) -> None:
        self.name = name
        self.stale_after: Counter[float] = Counter()
        """How old a list may be for its followers, each counted."""
        self.changes = 0
        """Counts whatever a follower may want to hear of."""
        self.slices = Slices()
        self.is_listed = False
        self.failing: str | None = None
        """Why it cannot be read; None while it can, and while it has not been tried."""
        self._api = api
        self._timings = timings
        self._clock = clock
        self._turn = turn
        self._version: str | None = None
        """Where a watch goes on from; None: list first."""
        self.at = clock()
        """Monotonic seconds as of which the slices are confirmed."""
        self._failures = 0
        """In a row; forgiven when a watch holds for a while."""
        self._has_settled = False
        """Whether the latest watch has held for that while."""
        self._has_relisted = False
        """Whether a compacted version was already answered with a list at once."""
        self._change = asyncio.Event()
        self._task = asyncio.create_task(
            keep("endpoint slices", self._keep), name=f"endpoint slices of {name}"
        )

    async def wait_past(self, changes: int) -> None:
        """Wait for a change after the given count of them."""
        while self.changes == changes:
            await self._change.wait()

    async def stop(self) -> None:
        """End the task."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _tell(self) -> None:
        self.changes += 1
        change, self._change = self._change, asyncio.Event()
        change.set()

    async def _keep(self) -> None:
        while True:
            try:
                if self._version is None:
                    await self._list()
                await self._watch()
            except ApiError as failure:
                await self._retry(failure)
            except Exception as error:  # noqa: BLE001  # a source's loop: it must not die silently
                unexpected = ApiError(
                    f"unexpected {type(error).__name__} in reading EndpointSlices"
                )
                unexpected.__cause__ = error
                await self._retry(unexpected)

    async def _list(self) -> None:
        slices = Slices()
        token = None
        async with self._api.lists:
            asked_at = self._clock()  # not when it is answered: it may have changed meanwhile
            for _ in range(MAX_SLICES):  # a page holds at least one slice
                metadata = _understood(_put_page, slices, await self._api.page(self.name, token))
                token = metadata.get("continue")
                if not token:
                    break
            else:
                raise ApiError("a list of EndpointSlices does not end")
        is_different = not self.is_listed or slices.by_service != self.slices.by_service
        self.slices, self.is_listed, self.at = slices, True, asked_at
        self._version = str(metadata["resourceVersion"])
        if is_different:
            self._tell()

    async def _watch(self) -> None:
        """Apply events until the watch ends as agreed."""
        loop, seconds = asyncio.get_running_loop(), self._watch_seconds()
        response = await self._api.watch(self.name, self._version, seconds)
        began, self._has_settled = loop.time(), False
        settling = loop.call_later(self._timings.settled, self._settle)
        try:
            async with aclosing(lines(response.content)) as events:
                async for line in events:
                    _understood(self._apply, line)
                    self.at = self._clock()
        except TimeoutError as error:
            raise ApiError("a watch of EndpointSlices went silent", resume=True) from error
        except (aiohttp.ClientError, OSError) as error:
            raise unreachable(error) from error
        finally:
            settling.cancel()
            response.close()
        if not self._has_settled:
            raise ApiError("the Kubernetes API server ends watches at once", resume=True)
        if loop.time() > began + seconds - _ROUNDING:  # else a proxy may have ended it
            self.at = self._clock()

    def _watch_seconds(self) -> float:
        """Say how long the next watch may last; after a failure one that tells soon how it is."""
        wanted = min(self._timings.watch, min(self.stale_after, default=math.inf) / 3)
        if self._failures:
            wanted = 0.0
        least = min(self._timings.watch, MIN_WATCH_SECONDS)
        return max(wanted * random.uniform(0.8, 1.0), least, self._turn())  # spreads load

    def _apply(self, line: bytes) -> None:
        event = json.loads(line)
        kind, raw = event["type"], event["object"]
        if kind == "ERROR":
            raise refusal(int(raw["code"]), "watch", self.name)
        version, is_different = str(raw["metadata"]["resourceVersion"]), False
        if kind in {"ADDED", "MODIFIED", "DELETED"}:
            parsed = parse_slice(raw) if kind != "DELETED" else None
            name = raw["metadata"]["name"]
            is_different = self.slices.put(parsed) if parsed else self.slices.remove(name)
        elif kind != "BOOKMARK":
            raise ValueError(kind)
        self._version = version
        if is_different:
            self._tell()

    def _settle(self) -> None:
        """Forgive what failed before: this watch holds."""
        self._has_settled, self._failures, self._has_relisted = True, 0, False
        if self.failing is not None:
            self.failing = None
            log.info("endpoint slices are read again", namespace=self.name)
            self._tell()

    async def _retry(self, failure: ApiError) -> None:
        """Report a failure, and wait until the next attempt is due."""
        self._failures += 1
        is_drop = failure.resume and self._version is not None and failure.retry_after is None
        if not failure.resume:
            self._version = None
        if failure.gone and not self._has_relisted:
            self._has_relisted = True  # at once, but not in turns with a server that keeps nothing
            return
        if not is_drop or self._failures > 1:  # whether a drop matters, the next attempt tells
            self._report(failure)
        await self._timings.sleep(self._timings.delay(self._failures, failure.retry_after))

    def _report(self, failure: ApiError) -> None:
        reason = str(failure)
        if self.failing is None:
            log.warning(
                "endpoint slices cannot be read",
                namespace=self.name,
                reason=reason,
                consequence="its replicas stand as last listed, and are unknown once that is stale",
                exc_info=failure.__cause__ if reason.startswith("unexpected") else None,
            )
        if self.failing != reason:
            self.failing = reason
            self._tell()


def _understood(read: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Read an answer of the API server; whatever it trips over is a failure of the attempt."""
    try:
        return read(*args, **kwargs)
    except ApiError:
        raise
    except SourceError as error:  # more than is kept of a namespace
        raise ApiError(str(error)) from error
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ApiError("an answer of the Kubernetes API server is not understood") from error


def _put_page(slices: Slices, page: bytes) -> dict[str, Any]:
    """Add the slices of a list's page, and give its metadata."""
    answer = json.loads(page)
    for raw in answer["items"] or ():
        parsed = parse_slice(raw)
        if parsed:
            slices.put(parsed)
    metadata: dict[str, Any] = answer["metadata"]
    metadata["resourceVersion"]  # a list without is none
    return metadata
