"""Access: who may see which targets.

Names of targets and what their triggers say are no secrets of the scaler, but of those who wrote
them. So what shows them is open on loopback only, unless the settings say otherwise.
"""

import base64
import binascii
from collections.abc import Awaitable, Callable
from ipaddress import ip_address

from aiohttp import web

from keda_scaler.web.tokens import ANY, Tokens

EVERYTHING = frozenset({ANY})

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_CLOSED = """\
The targets are shown to nobody here, because --http-address is not on loopback.

Start the scaler with one of these:
  --http-tokens FILE   shows them to those who have a token of the file
  --http-open          shows them to everybody who can reach this port
"""

_WHO_ARE_YOU = """\
A token of --http-tokens is needed: as a bearer token, or in a browser as the password with any
user name.
"""


class Access:
    """Says which namespaces a request may see."""

    def __init__(
        self, address: str, tokens: Tokens | None = None, *, is_open: bool = False
    ) -> None:
        """Take where the server listens, and what the settings say."""
        self._tokens = tokens
        self._is_open = is_open or _is_loopback(address)

    async def namespaces(self, request: web.Request) -> frozenset[str]:
        """Give the namespaces that a request may see, perhaps `ANY`.

        Raises:
            HTTPForbidden: when nobody may see any here.
            HTTPUnauthorized: when a known token is needed.

        """
        if self._tokens is None:
            if self._is_open:
                return EVERYTHING
            raise web.HTTPForbidden(text=_CLOSED)
        found = await self._tokens.namespaces(token_of(request))
        if not found:
            realm = {"WWW-Authenticate": 'Basic realm="keda-scaler", charset="UTF-8"'}
            raise web.HTTPUnauthorized(text=_WHO_ARE_YOU, headers=realm)
        return found


def token_of(request: web.Request) -> str:
    """Give the bearer token of a request, or the password of basic authentication; empty: none."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    given = given.strip()
    if scheme.lower() == "bearer":
        return given
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(given, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
