"""Names in `endpoints`: each address is a replica, and none is left out without a word."""

import asyncio
import math
import socket
import ssl
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest
import trustme
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from endpoint_reading import LOOPBACK, reading
from hostile_servers import ALLOWED, FORBIDDEN, NAME, answer, listening, resolving
from keda_scaler.core.addresses import AddressRules
from keda_scaler.core.readings import Missing
from keda_scaler.core.trigger import Accepts, parse_trigger
from keda_scaler.core.values import without_query
from keda_scaler.errors import SourceError
from keda_scaler.sources import names as module
from keda_scaler.sources.kubernetes import Listing
from keda_scaler.sources.names import MAX_ADDRESSES, NamedPages, Names, listed
from keda_scaler.sources.slices import Endpoint
from metrics_page import capture

BOTH = AddressRules.parse([NAME, f"{ALLOWED}/32", f"{FORBIDDEN}/32"])
ANYWHERE = AddressRules.parse(["0.0.0.0/0", "::/0"])
BUSY = answer(capture("busy-queue").encode())
PAGE = f"http://{NAME}:8000/metrics"
LOOKS_UP = pytest.mark.blocks("the resolver is replaced by one that answers at once")


# What is listed, in simulated time


@dataclass
class Answers(Names):
    """Name servers, as what they answer next; an error for a name that they have none of."""

    given: dict[str, list[str]] = field(default_factory=dict)

    async def addresses(self, host: str) -> frozenset[str]:
        if host not in self.given:
            raise SourceError(f"{host} cannot be resolved: it is unknown")
        return frozenset(self.given[host])


class Pages:
    """The pages of a trigger, and a clock."""

    def __init__(self, endpoints: str = PAGE, **keys: str) -> None:
        trigger = parse_trigger({"endpoints": endpoints, **keys}, Accepts(addresses=ANYWHERE))
        self.now = 100.0
        self.dns = Answers()
        self._pages = NamedPages(self.dns, trigger, lambda: self.now)

    async def listing(self) -> Listing | Missing:
        return await self._pages.listing()

    async def addresses(self, *given: str) -> list[str] | str:
        """List the pages when the name has these addresses; give those, or why there is no list."""
        self.dns.given[NAME] = list(given)
        listing = await self._pages.listing()
        if isinstance(listing, Missing):
            return listing.reason
        return [endpoint.url.split("/")[2].rpartition(":")[0] for endpoint in listing.endpoints]


async def test_pages_at_addresses_are_true_as_long_as_the_trigger() -> None:
    """Nothing is looked up for them."""
    pages = Pages("http://10.0.0.1/metrics,http://[fd00::1]/metrics")

    listing = await pages.listing()

    assert isinstance(listing, Listing)
    assert listing.at == math.inf
    assert [each.replica.name for each in listing.endpoints] == [
        each.url for each in listing.endpoints
    ]
    assert {each.host for each in listing.endpoints} == {None}


async def test_a_name_with_one_address_is_called_by_its_url() -> None:
    """And with several each by its address too. The list is as old as its look-up."""
    pages = Pages(f"{PAGE}?token=a")
    pages.dns.given[NAME] = ["10.0.0.2"]
    one = await pages.listing()
    pages.dns.given[NAME].append("10.0.0.1")
    two = await pages.listing()

    assert isinstance(one, Listing)
    assert isinstance(two, Listing)
    assert (one.at, two.at) == (100.0, 100.0)
    assert [each.replica.name for each in one.endpoints] == [f"{PAGE}?..."]
    assert [each.replica.name for each in two.endpoints] == [
        f"{PAGE}?... (10.0.0.1)",
        f"{PAGE}?... (10.0.0.2)",
    ]
    assert [(each.url, each.host) for each in two.endpoints] == [
        ("http://10.0.0.1:8000/metrics?token=a", f"{NAME}:8000"),
        ("http://10.0.0.2:8000/metrics?token=a", f"{NAME}:8000"),
    ]


async def test_a_name_that_does_not_resolve_makes_the_list_unknown() -> None:
    """Also beside others that do: a list without it would hide its work."""
    pages = Pages(f"http://10.0.0.1/metrics,{PAGE},http://other.example/metrics")
    pages.dns.given = {NAME: ["10.0.0.2"]}

    assert await pages.listing() == Missing("other.example cannot be resolved: it is unknown")


async def test_an_address_that_is_given_in_turn_stays() -> None:
    """Some name servers give a few of many; what has not been given for `staleSeconds` is gone."""
    pages = Pages(staleSeconds="15")

    assert await pages.addresses("10.0.0.1", "10.0.0.2") == ["10.0.0.1", "10.0.0.2"]
    pages.now += 5
    assert await pages.addresses("10.0.0.2", "10.0.0.3") == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    pages.now += 9.9
    assert await pages.addresses("10.0.0.3") == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    pages.now += 0.1
    assert await pages.addresses("10.0.0.3") == ["10.0.0.2", "10.0.0.3"]
    pages.now += 5
    assert await pages.addresses("10.0.0.3") == ["10.0.0.3"]


async def test_more_addresses_than_are_read_make_the_list_unknown() -> None:
    """A part of them would pass for all."""
    pages = Pages()
    many = [f"10.0.{n >> 8}.{n & 255}" for n in range(MAX_ADDRESSES + 1)]

    assert await pages.addresses(*many) == "the names of endpoints have more than 256 addresses"
    pages.now += 3600
    assert len(await pages.addresses(*many[1:])) == MAX_ADDRESSES


HOSTS = st.sampled_from(["a.example", "b.example", "10.0.0.9"])
URLS = st.builds(
    "http://{}{}/metrics{}".format,
    HOSTS,
    st.sampled_from(["", ":1"]),
    st.sampled_from(["", "?a=1", "?a=2"]),
)
FOUND = st.sets(st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::1"]), min_size=1)


@given(st.lists(URLS, min_size=1, unique=True), FOUND, FOUND)
def test_each_address_of_each_url_is_one_replica(urls: list[str], a: set[str], b: set[str]) -> None:
    """Under a name of its own, which does not change with the addresses of another."""
    addresses = {"a.example": a, "b.example": b}
    found = listed(urls, addresses)

    wanted = sum(len(addresses.get(url.split("/")[2].partition(":")[0], " ")) for url in urls)
    assert len({each.replica.name for each in found}) == len(found) == wanted
    assert len({(each.url, each.host) for each in found}) == wanted
    assert all(each.replica.name.startswith(tuple(map(without_query, urls))) for each in found)
    others = listed(urls, addresses | {"b.example": {"10.0.0.8"}})
    assert _of_a(found) == _of_a(others)


def _of_a(endpoints: tuple[Endpoint, ...]) -> list[Endpoint]:
    return [each for each in endpoints if (each.host or "").startswith("a.")]


# Look-ups


@LOOKS_UP
@pytest.mark.parametrize(
    ("found", "says"),
    [
        (["10.0.0.1", "10.0.0.1", "10.0.0.2"], {"10.0.0.1", "10.0.0.2"}),
        (["fd00::1", "10.0.0.1"], {"10.0.0.1"}),
        (["fd00::1", "fd00::2"], {"fd00::1", "fd00::2"}),
        (["10.0.0.1", "192.168.0.1"], f"{NAME} resolves to an address that is not allowed"),
        (["10.0.0.1", "169.254.169.254"], f"{NAME} resolves to an address that is not allowed"),
        (OSError(-2, "unknown name"), f"{NAME} cannot be resolved: unknown name"),
        (OSError(), f"{NAME} cannot be resolved: no address"),
        (UnicodeError("label too long"), f"{NAME} cannot be resolved: no name of a host"),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value)[:30],
)
async def test_what_a_name_has(
    found: list[str] | Exception, says: set[str] | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of its addresses, or why not: none is left out because it may not be read."""

    def look_up(host: str, port: int, *_: Any, **__: Any) -> Any:
        if isinstance(found, Exception):
            raise found
        families = {True: socket.AF_INET6, False: socket.AF_INET}
        return [(families[":" in each], socket.SOCK_STREAM, 6, "", (each, port)) for each in found]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    names = Names(AddressRules.parse(["10.0.0.0/8", "fd00::/16"]))
    (answer,) = await asyncio.gather(names.addresses(NAME), return_exceptions=True)
    await names.close()

    assert (str(answer) if isinstance(answer, SourceError) else answer) == says


@LOOKS_UP
async def test_a_name_server_that_is_silent_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many ask it holds one thread, and who asks once it answers is told."""
    released, asked = threading.Event(), list[str]()

    def look_up(host: str, port: int, *_: Any, **__: Any) -> Any:
        asked.append(host)
        released.wait(20)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ALLOWED, port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(module, "CONNECT_SECONDS", 0.05)
    names = Names(LOOPBACK)
    try:
        answers = await asyncio.gather(
            *(names.addresses(NAME) for _ in range(5)), return_exceptions=True
        )
        assert {str(each) for each in answers} == {f"{NAME} is not resolved within 0.05 s"}
        monkeypatch.setattr(module, "CONNECT_SECONDS", 10)
        later = asyncio.create_task(names.addresses(NAME))
        await asyncio.sleep(0)
        released.set()
        assert await later == {ALLOWED}
        assert asked == [NAME]
    finally:
        released.set()
        await names.close()


# The whole way


@LOOKS_UP
async def test_each_address_of_a_name_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """At that address, and as the URL calls it; one that comes later is found at a poll."""
    async with listening(BUSY, ALLOWED, FORBIDDEN) as (port, (one, other)):
        url = f"http://{NAME}:{port}/metrics"
        with resolving(monkeypatch, [ALLOWED], [ALLOWED, FORBIDDEN]):
            async with reading({"endpoints": url, "pollSeconds": "1"}, BOTH) as notebook:
                await notebook.until(lambda: notebook.queue(url) == 12.0)
                both = [f"{url} ({ALLOWED})", f"{url} ({FORBIDDEN})"]
                await notebook.until(lambda: all(notebook.queue(name) == 12.0 for name in both))

    names = [[replica.name for replica in listing] for listing in notebook.listings]
    assert names[0] == [url]
    assert names[-1] == both
    for listener in (one, other):
        assert listener.requests
        assert all(f"Host: {NAME}:{port}\r\n".encode() in each for each in listener.requests)


@LOOKS_UP
async def test_a_name_that_is_lost_takes_no_replica_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The list is unknown; what was listed is neither taken back nor read no more."""
    async with listening(BUSY, ALLOWED) as (port, (one,)):
        url = f"http://{NAME}:{port}/metrics"
        with resolving(monkeypatch, [ALLOWED], [ALLOWED, "169.254.1.1"]):
            async with reading({"endpoints": url, "pollSeconds": "1"}, BOTH) as notebook:
                await notebook.until(lambda: notebook.problems)
                before = len(one.requests)
                await notebook.until(lambda: len(one.requests) > before)

    assert {len(listing) for listing in notebook.listings} == {1}
    assert notebook.problems[0] == f"{NAME} resolves to an address that is not allowed"


@LOOKS_UP
async def test_tls_is_asked_for_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server with several certificates shows that of the URL's host, which is then checked."""
    asked: list[str | None] = []
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(NAME).configure_cert(context)
    context.sni_callback = lambda _, name, __: asked.append(name)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", trusting)

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=capture("busy-queue"))

    app = web.Application()
    app.router.add_get("/metrics", page)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, ALLOWED, 0, ssl_context=context).start()
    url = f"https://{NAME}:{runner.addresses[0][1]}/metrics"
    try:
        with resolving(monkeypatch, [ALLOWED]):
            async with reading({"endpoints": url}, BOTH) as notebook:
                await notebook.until(lambda: notebook.queue(url) == 12.0)
    finally:
        await runner.cleanup()

    assert set(asked) == {NAME}
