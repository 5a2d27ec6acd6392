"""Connections to a Prometheus: to judged addresses only, and such that they can be cut.

An address that a trigger names is judged after its name is resolved, and the connection goes to the
very address that was judged: a name cannot resolve to something else in between.
"""

import contextlib
import socket
from collections.abc import Callable, Sequence
from functools import partial
from http.client import HTTPResponse
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from keda_scaler.core.addresses import AddressRules
from keda_scaler.errors import SourceError

CONNECT_SECONDS = 3.0
"""Per address; within a cluster a connection takes milliseconds."""

MAX_ADDRESSES = 3
"""Addresses of one name that are tried."""

READ_BYTES = 256 * 2**10
"""Read from a connection at a time. After each read the thread waits for the interpreter's lock,
5 ms if the event loop is busy: a thousand reads for an answer of 8 MiB would take 5 s."""

_SHOWN = 300


class Dialer:
    """Makes the connections of one client, one at a time. Any thread may abort."""

    def __init__(self, rules: AddressRules | None) -> None:
        """Judge addresses by the rules; None: trust them, because the settings name them."""
        self._rules = rules
        self._aborted = False
        self._handle: socket.socket | None = None

    def dial(self, host: str, port: int) -> socket.socket:
        """Connect.

        Raises:
            SourceError: when that fails, or is not allowed.

        """
        failure = SourceError("Prometheus cannot be reached")
        for family, address in self._addresses(host, port)[:MAX_ADDRESSES]:
            try:
                connection = _connected(family, address)
            except ConnectionRefusedError:
                failure = SourceError("Prometheus refused the connection")
            except TimeoutError:
                failure = SourceError("Prometheus did not accept a connection in time")
            except OSError as error:
                failure = explained("Prometheus cannot be reached", error)
            else:
                self._keep_handle(connection)
                return connection
        raise failure

    def abort(self) -> None:
        """Cut the connection, also one that is yet to be made."""
        self._aborted = True
        if self._handle is not None:
            _cut(self._handle)

    def close(self) -> None:
        """Let go of the connection."""
        if self._handle is not None:
            self._handle.close()

    def _addresses(self, host: str, port: int) -> Sequence[tuple[int, tuple[Any, ...]]]:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise explained("the host name of Prometheus cannot be resolved", error) from error
        addresses = [(family, address) for family, _, _, _, address in found]
        if self._rules is None:
            return addresses
        allowed = [
            (family, address)
            for family, address in addresses
            if self._rules.allows_resolved(host, str(address[0]))
        ]
        if not allowed:
            raise SourceError(
                "the address of Prometheus is not one that the server's settings allow "
                "(--allow-address)"
            )
        return allowed

    def _keep_handle(self, connection: socket.socket) -> None:
        """Keep a second descriptor of the connection: the first moves into TLS and out of reach."""
        if self._handle is not None:
            self._handle.close()
        self._handle = connection.dup()
        if self._aborted:  # looked at after the handle is there: one of the two sees the other
            _cut(connection)


class DialingAdapter(HTTPAdapter):
    """Sends requests over connections that a dialer makes, and never again after a failure."""

    def __init__(self, dialer: Dialer) -> None:
        self._dialer = dialer
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Take pools whose connections are dialled."""
        super().init_poolmanager(*args, **kwargs)
        pools: Any = {  # typed as classes, used as what makes pools
            "http": partial(_pool, HTTPConnectionPool, _HTTPConnection, self._dialer),
            "https": partial(_pool, HTTPSConnectionPool, _HTTPSConnection, self._dialer),
        }
        self.poolmanager.pool_classes_by_scheme = pools


def explained(text: str, cause: BaseException) -> SourceError:
    """Make an error whose text is fit for everybody, with the cause in a note, for the log."""
    error = SourceError(text)
    error.add_note(f"{type(cause).__name__}: {cause}"[:_SHOWN])
    return error


def _pool(
    kind: type[HTTPConnectionPool],
    connection: Callable[..., Any],
    dialer: Dialer,
    *args: Any,
    **kwargs: Any,
) -> HTTPConnectionPool:
    pool = kind(*args, **kwargs)
    pool.ConnectionCls = partial(connection, dialer=dialer)  # type: ignore[assignment]  # only called
    return pool


class _Response(HTTPResponse):
    """A response that is read with few calls of the system."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = sock.makefile("rb", READ_BYTES)  # type: ignore[assignment]  # typed as less


class _HTTPConnection(HTTPConnection):
    response_class = _Response

    def __init__(self, *args: Any, dialer: Dialer, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._dialer = dialer

    def _new_conn(self) -> socket.socket:
        return self._dialer.dial(self.host.strip("[]"), self.port)


class _HTTPSConnection(HTTPSConnection):
    response_class = _Response

    def __init__(self, *args: Any, dialer: Dialer, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._dialer = dialer

    def _new_conn(self) -> socket.socket:
        return self._dialer.dial(self.host.strip("[]"), self.port)


def _connected(family: int, address: tuple[Any, ...]) -> socket.socket:
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(CONNECT_SECONDS)
        connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it may be gone already
        connection.shutdown(socket.SHUT_RDWR)
