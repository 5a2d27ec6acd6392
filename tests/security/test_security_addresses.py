"""Where triggers can make us connect to, once names are resolved and answers come."""

import asyncio
import socket
import threading
import time
from typing import Any

import pytest

from hostile_servers import (
    ALLOWED,
    FORBIDDEN,
    NAME,
    RULES,
    answer,
    listening,
    reader,
    resolving,
)
from keda_scaler.core.addresses import AddressRules
from keda_scaler.core.trigger import Accepts, parse_trigger
from keda_scaler.errors import TriggerError
from keda_scaler.sources.pages import MAX_RESOLVED, Fetched, Pages

VECTOR = b'{"status":"success","data":{"resultType":"vector","result":[]}}'
CLIENTS = pytest.mark.parametrize("kind", ["page", "prometheus"])

pytestmark = pytest.mark.blocks("the resolver is replaced by one that answers at once")


@CLIENTS
async def test_a_name_that_is_bound_to_another_address_meanwhile(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection goes to the address that was judged; what comes later is judged again."""
    async with listening(answer(VECTOR), ALLOWED, FORBIDDEN) as (port, (allowed, forbidden)):
        with resolving(monkeypatch, [ALLOWED], [FORBIDDEN]) as asked:
            async with reader(kind, NAME, port) as first:
                assert not isinstance(await first.read(), str)
                assert len(asked) == 1
            async with reader(kind, NAME, port) as second:
                assert "not " in str(await second.read())

    assert (len(allowed.requests), len(forbidden.requests)) == (1, 0)


@CLIENTS
async def test_of_several_addresses_only_allowed_ones_are_tried(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In whatever order a name server gives them."""
    async with listening(answer(VECTOR), ALLOWED, FORBIDDEN) as (port, (allowed, forbidden)):
        with resolving(monkeypatch, [FORBIDDEN, ALLOWED, FORBIDDEN]):
            async with reader(kind, NAME, port) as client:
                assert not isinstance(await client.read(), str)

    assert (len(allowed.requests), len(forbidden.requests)) == (1, 0)


@CLIENTS
async def test_a_redirect_leads_nowhere(kind: str) -> None:
    """Not even to where we might have gone by ourselves."""
    head = f"HTTP/1.1 307 Moved\r\nLocation: http://{FORBIDDEN}:{{}}/\r\nContent-Length: 0\r\n\r\n"
    async with (
        listening(answer(VECTOR), FORBIDDEN) as (elsewhere, (forbidden,)),
        listening(head.format(elsewhere).encode(), ALLOWED) as (port, (allowed,)),
        reader(kind, ALLOWED, port) as client,
    ):
        assert "307" in str(await client.read())

    assert (len(allowed.requests), len(forbidden.requests)) == (1, 0)


@CLIENTS
async def test_no_proxy_of_the_environment_comes_in_between(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was judged is what is asked."""
    async with (
        listening(answer(VECTOR), FORBIDDEN) as (elsewhere, (proxy,)),
        listening(answer(VECTOR), ALLOWED) as (port, (allowed,)),
    ):
        for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(variable, f"http://{FORBIDDEN}:{elsewhere}")
        async with reader(kind, ALLOWED, port) as client:
            assert not isinstance(await client.read(), str)

    assert (len(allowed.requests), len(proxy.requests)) == (1, 0)


@CLIENTS
async def test_a_page_cannot_leave_anything_that_is_sent_later(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No cookies: the connections of all targets would carry them."""
    cookie = "Set-Cookie: a=b; Domain=engine.example; Path=/"
    async with listening(answer(VECTOR, cookie), ALLOWED) as (port, (allowed,)):
        with resolving(monkeypatch, [ALLOWED]):
            async with reader(kind, NAME, port) as client:
                for _ in range(2):
                    assert isinstance(await client.read(), Fetched | list)

    assert len(allowed.requests) == 2
    assert not any(b"cookie" in request.lower() for request in allowed.requests)


async def test_names_that_are_never_answered_hold_up_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A page whose name server is silent waits alone; others are found and read meanwhile."""
    released = threading.Event()

    def look_up(host: str, port: int, *_: Any, **__: Any) -> Any:
        if host != NAME:
            released.wait(20)
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (ALLOWED, port))]

    async with listening(answer(b"up 1\n"), ALLOWED) as (port, _):
        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        pages = Pages(RULES, time.monotonic)
        urls = [f"http://silent-{number}.example/" for number in range(MAX_RESOLVED - 1)]
        silent = [asyncio.create_task(pages.fetch(url)) for url in urls]
        await asyncio.sleep(0)
        try:
            assert (await pages.fetch(f"http://{NAME}:{port}/")).body == b"up 1\n"
            assert not any(each.done() for each in silent)
        finally:
            released.set()
            await asyncio.gather(*silent, return_exceptions=True)
            await pages.close()


@pytest.mark.parametrize(
    "host",
    [
        *("127.1", "2130706433", "0x7f.0.0.1", "0177.0.0.1", "169.254.169.254", "[::1]"),
        *("[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "[fe80::1%25eth0]", "１２７.0.0.1"),  # noqa: RUF001  # full-width digits
        *("127。0。0。1", "[v1.a:b]", "engine.example\\@127.0.0.1"),
        *("engine.example@127.0.0.1", "127.0.0.1#@engine.example", "127.0.0.1 @engine.example"),
    ],
)
@pytest.mark.parametrize("key", ["endpoints", "serverAddress"])
def test_no_way_to_write_an_address_gets_past_the_settings(key: str, host: str) -> None:
    """The trigger is refused before anything is resolved."""
    accepts = Accepts(addresses=AddressRules.parse(["10.0.0.0/8", NAME]))
    with pytest.raises(TriggerError, match=key):
        parse_trigger({key: f"http://{host}:80/metrics"}, accepts)
