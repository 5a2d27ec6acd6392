"""Pages: fetched over HTTP within bounds, and not all at once.

At most `MAX_QUICK` pages are fetched at a time. One that has not come after `SLOW_SECONDS` gives
its place to the next and goes on beside them, so that pages which hang take from the others no more
than that. Whoever waits for a place does not use up the time of its own page.
"""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from keda_scaler.core.addresses import AddressRules
from keda_scaler.errors import PageError, SourceError
from keda_scaler.sources.bodies import unpacked_at_most
from keda_scaler.sources.sink import Clock

PAGE_SECONDS = 5.0
"""Longest time for one page. A busy engine answers late; a reading older than this is of no use."""

CONNECT_SECONDS = 2.0
"""Longest time for name resolution and connection."""

MAX_PAGE_BYTES = 8 << 20
"""Longest page, unpacked; a vLLM page has 51 kB."""

MAX_QUICK = 64
"""Pages that are fetched at a time: a thousand that answer in 10 ms pass in a fifth of a second."""

SLOW_SECONDS = 0.25
"""How long a page may keep a place among those; five times a slow answer within a cluster."""

MAX_OPEN = 1024
"""Pages that are fetched at a time, those that hang included. With all of them hanging, two hundred
others still have their turn each second."""

MAX_RESOLVED = 64
"""Names that are looked up at a time; one that no name server answers takes a thread for seconds,
whoever still waits for it."""

IDLE_SECONDS = 75.0
"""How long a connection is kept open between two polls; the next poll is seldom later."""


_Found = Sequence[tuple[int, int, int, str, tuple[Any, ...]]]
"""What `getaddrinfo` gives: family, type, protocol, canonical name and address of each."""


class CheckedResolver(AbstractResolver):
    """Resolves names, and refuses addresses that the settings do not allow.

    It has threads of its own: the event loop looks up two names at a time, and two that are never
    answered would hold up all others.
    """

    def __init__(self, rules: AddressRules) -> None:
        self._rules = rules
        self._threads = ThreadPoolExecutor(MAX_RESOLVED, thread_name_prefix="resolver")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Resolve a name to the addresses that may be connected to."""
        allowed = [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=port,
                family=found_family,
                proto=proto,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for found_family, _, proto, _, address in await self._look_up(host, port, family)
            if self._rules.allows_resolved(host, str(address[0]))
        ]
        if not allowed:
            raise OSError(None, f"{host} resolves to an address that is not allowed")
        return allowed

    async def addresses(self, host: str) -> frozenset[str]:
        """Give every address of a name; of one that has IPv4 addresses these.

        Raises:
            OSError, ValueError: when it has none.
            SourceError: when one of them may not be connected to.

        """
        found = await self._look_up(host)
        by_ipv4 = [address for family, *_, address in found if family == socket.AF_INET]
        addresses = {str(each[0]) for each in by_ipv4 or [address for *_, address in found]}
        if not all(self._rules.allows_resolved(host, address) for address in addresses):
            raise SourceError(f"{host} resolves to an address that is not allowed")
        return frozenset(addresses)

    async def _look_up(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> _Found:
        kind, flags = socket.SOCK_STREAM, socket.AI_ADDRCONFIG
        look_up = partial(socket.getaddrinfo, host, port, family, kind, flags=flags)
        return await asyncio.get_running_loop().run_in_executor(self._threads, look_up)

    async def close(self) -> None:
        """Close the resolver; a name that is being looked up keeps its thread."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class Places:
    """Places for pages that are being fetched."""

    def __init__(self) -> None:
        self._open = asyncio.Semaphore(MAX_OPEN)
        self._quick = asyncio.Semaphore(MAX_QUICK)

    @contextlib.asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Wait for a place, and keep it while inside: the better one for `SLOW_SECONDS` only."""
        async with self._open:
            await self._quick.acquire()
            place = contextlib.ExitStack()
            place.callback(self._quick.release)
            leave = asyncio.get_running_loop().call_later(SLOW_SECONDS, place.close)
            try:
                yield
            finally:
                leave.cancel()
                place.close()  # the second time it does nothing


_OF_CACHES = ("X-Cache", "X-Cache-Status", "X-Proxy-Cache", "CF-Cache-Status")
"""Headers in which caches that need not say how old an answer is say that it is theirs."""

_STALE = ("110", "111", "112")
"""Warnings of RFC 7234 that an answer is stale."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A page as it came."""

    body: bytes
    content_type: str
    asked_at: float
    """When it was asked for, in monotonic seconds."""

    age: float = 0.0
    """How long caches on the way had kept it, in seconds."""

    dated: float | None = None
    """When it was made by the server's own clock, in Unix seconds; by ours where it does not say.
    None: nobody asks."""

    @property
    def at(self) -> float:
        """When it was made, in monotonic seconds."""
        return self.asked_at - self.age


class Pages:
    """Fetches pages within bounds; connections stay open for the next time."""

    def __init__(
        self, rules: AddressRules, clock: Clock, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._places = Places()
        self._resolver = CheckedResolver(rules)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=self._resolver, limit=MAX_OPEN, keepalive_timeout=IDLE_SECONDS
            ),
            timeout=aiohttp.ClientTimeout(total=PAGE_SECONDS, connect=CONNECT_SECONDS),
            headers={
                "Accept": "text/plain;version=0.0.4,*/*;q=0.1",
                "Accept-Encoding": "gzip",
                "Cache-Control": "no-cache",
            },
            auto_decompress=False,  # it takes half a stream for a whole one
            cookie_jar=aiohttp.DummyCookieJar(),  # else one page could write what others are sent
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()
        await self._resolver.close()

    async def fetch(self, url: str, host: str | None = None) -> Fetched:
        """Fetch a page; with a `host` from a server that is called so, wherever the URL leads.

        Raises:
            SourceError: when it could not be read.

        """
        async with self._places.taken():
            at, unix = self._clock(), self._wall_clock()
            try:
                async with self._session.get(
                    url,
                    headers=None if host is None else {"Host": host},
                    server_hostname=None if host is None else urlsplit(f"//{host}").hostname,
                    allow_redirects=False,
                ) as response:
                    if response.status != 200:
                        raise PageError(f"the page answers HTTP {response.status}")
                    body, age = await _body(response), _cached_seconds(response)
                    kind = response.headers.get("Content-Type", "")
                    return Fetched(body, kind, at, age, _dated(response, unix - age))
            except aiohttp.ConnectionTimeoutError:
                raise SourceError(f"no connection within {CONNECT_SECONDS:g} s") from None
            except TimeoutError:
                raise SourceError(f"no answer within {PAGE_SECONDS:g} s") from None
            except aiohttp.ClientConnectorError as error:
                raise SourceError(f"cannot connect: {_why(error)}") from error
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise SourceError(f"cannot read the page: {type(error).__name__}") from error


def _why(error: aiohttp.ClientConnectorError) -> str:
    """Say why there is no connection; the system's own text names the address, ours does not."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return error.os_error.strerror or "the name cannot be resolved"
    number = error.os_error.errno
    return os.strerror(number) if number else "no address answers"


async def _body(response: aiohttp.ClientResponse) -> bytes:
    body = await unpacked_at_most(response, MAX_PAGE_BYTES)
    if body is None:
        raise PageError(f"the page is longer than {MAX_PAGE_BYTES >> 20} MiB")
    return body


def _cached_seconds(response: aiohttp.ClientResponse) -> float:
    """Say how long an answer has been in caches on its way to us.

    Raises:
        PageError: when a cache answered that does not say.

    """
    headers = response.headers
    ages = headers.getall("Age", [])
    try:
        age = max(map(int, ages), default=0)
    except ValueError:
        age = -1
    hit = any(headers.get(name, "").lower().startswith(("hit", "stale")) for name in _OF_CACHES)
    hit = hit or any(warning.startswith(_STALE) for warning in headers.getall("Warning", []))
    if age < 0 or (hit and not ages):
        raise PageError("the page is a cache's, which does not say how old it is")
    return float(min(age, 2**31))  # RFC 9111 has nothing older


def _dated(response: aiohttp.ClientResponse, unix: float) -> float:
    """Say when an answer was made by the server's own clock, else by ours: `unix`."""
    try:
        return parsedate_to_datetime(response.headers.get("Date", "")).timestamp()
    except (ValueError, OverflowError):
        return unix
