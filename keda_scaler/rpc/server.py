"""The gRPC server: options, TLS, health, reflection and drain.

gRPC stops in an order of its own: it cancels every call that it has received and not handed to us
yet, and also those that come before clients have heard that it stops; then it tells them. With
hundreds of calls under way that were many. So a drain first takes in what has come, and answers
none of it: whoever waits for an answer sends nothing more, and the line becomes empty. Then it
stops, which tells every client to go, and answers after that, on the same connections.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, cast

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from keda_scaler.errors import SettingsError
from keda_scaler.pb import externalscaler_pb2 as pb
from keda_scaler.pb.externalscaler_pb2_grpc import add_ExternalScalerServicer_to_server
from keda_scaler.rpc.servicer import Servicer
from keda_scaler.settings import Tls

DRAIN_SECONDS = 5.0
"""How long calls that are under way may take at shutdown; ours take milliseconds, so this is for
slow readers. Well inside Kubernetes' default grace of 30 s."""

HOLD_SECONDS = 1.0
"""How long at most answers are held back until no call is left in line: clients that do not wait
for answers would have us wait for ever."""

LOOK_SECONDS = 0.002
"""How often is looked whether one has come."""

QUIET_LOOKS = 10
"""So many looks in a row that saw none have seen the end of the line: gRPC takes half a dozen
rounds of the event loop for a call."""

_SERVICE = pb.DESCRIPTOR.services_by_name["ExternalScaler"].full_name

OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.so_reuseport", 0),  # else a second server shares the port silently
    ("grpc.http2.max_ping_strikes", 0),  # never end KEDA's one connection over its pings
    # gRPC refuses calls beyond 1,000 that wait to be accepted, as when KEDA reopens its streams.
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 100_000),
    ("grpc.max_receive_message_length", 1 << 20),  # a trigger is a few kilobytes
)


def _options(max_connection_age_seconds: float) -> tuple[tuple[str, int], ...]:
    """Add the age of connections, 0 for none. Streams end themselves before it is over."""
    if not max_connection_age_seconds:
        return OPTIONS
    age = round(max_connection_age_seconds * 1000)
    aged = (("grpc.max_connection_age_ms", age), ("grpc.max_connection_age_grace_ms", age))
    return (*OPTIONS, *aged)


class _Door(grpc.GenericRpcHandler):
    """Where all calls come in: counts them, and holds their answers back once told so.

    Services are added to it as to a server, and none of their methods is registered: grpc.aio waits
    for the next call of each registered method apart, and for all of them anew with every call that
    comes. With our nine methods that was an eighth of what a call took. All that are not registered
    share one wait.
    """

    def __init__(self) -> None:
        self.entered = 0
        """Calls that have come in so far."""
        self._services: list[grpc.GenericRpcHandler] = []
        self._opens: asyncio.Event | None = None
        """When answers are given; None: at once."""

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Add a service."""
        self._services += handlers

    def add_registered_method_handlers(self, *_: object) -> None:
        """Do nothing; generated code also adds the same methods as generic ones."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Give what handles a call; None: nothing does."""
        self.entered += 1
        found = (service.service(handler_call_details) for service in self._services)
        handler: Any = next(filter(None, found), None)
        if self._opens is None or handler is None or handler.unary_unary is None:
            return handler
        return grpc.unary_unary_rpc_method_handler(
            _held(handler.unary_unary, self._opens),
            handler.request_deserializer,
            handler.response_serializer,
        )

    def hold(self) -> None:
        """Hold back the answers to later calls. Streams go on: they end by themselves."""
        self._opens = asyncio.Event()

    def release(self) -> None:
        """Give them."""
        if self._opens is not None:
            self._opens.set()


def _held(answer: Callable[..., Awaitable[Any]], opens: asyncio.Event) -> Any:
    async def call(request: Any, context: Any) -> Any:
        await opens.wait()
        return await answer(request, context)

    return call


class Server:
    """Serves the external scaler until it is drained."""

    def __init__(self, servicer: Servicer, address: str, tls: Tls | None) -> None:
        self._servicer = servicer
        self._address = address
        self._tls = tls
        self.port = 0
        self._server = grpc.aio.server(options=_options(servicer.max_connection_age_seconds))
        self._health = health.aio.HealthServicer()
        self._door = _Door()
        door = cast("grpc.aio.Server", self._door)
        add_ExternalScalerServicer_to_server(servicer, door)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, door)
        names = (_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, door)
        self._server.add_generic_rpc_handlers([self._door])

    async def start(self) -> None:
        """Begin to answer.

        Raises:
            SettingsError: when the address cannot be listened on, or the certificate not be read.

        """
        try:
            self.port = self._listen()
        except SettingsError:
            await self._server.stop(None)
            raise
        await self._server.start()
        for name in ("", _SERVICE):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    def _listen(self) -> int:
        address, tls = self._address, self._tls
        try:
            if tls is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, _credentials(tls))
        except RuntimeError as error:
            # gRPC says of either only that it failed.
            files = "" if tls is None else ", or a file of --tls-... does not fit the others"
            raise SettingsError(
                f"--grpc-address: cannot listen on {address}{files}: {error}"
            ) from error

    async def drain(self) -> None:
        """Say NOT_SERVING, end streams with OK, let calls finish, stop."""
        await self._health.enter_graceful_shutdown()
        self._servicer.end_streams()
        self._door.hold()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HOLD_SECONDS):
                await self._line_is_empty()
        stopping = asyncio.ensure_future(self._server.stop(DRAIN_SECONDS))
        await asyncio.sleep(0)  # clients are told to go
        self._door.release()
        await stopping

    async def _line_is_empty(self) -> None:
        """Wait until no call has come in for a while."""
        entered, looks = self._door.entered, 0
        while looks < QUIET_LOOKS:
            await asyncio.sleep(LOOK_SECONDS)
            looks = looks + 1 if self._door.entered == entered else 0
            entered = self._door.entered


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    """Read certificates, and read them again when a handshake finds them changed."""
    initial = _configuration(tls)
    return grpc.dynamic_ssl_server_credentials(
        initial,
        _reread(tls),  # type: ignore[arg-type]  # the stubs forget that None means unchanged
        require_client_authentication=tls.client_ca is not None,
    )


def _configuration(tls: Tls) -> grpc.ServerCertificateConfiguration:
    try:
        key, chain = _pem(tls.key), _pem(tls.cert)
        client_ca = _pem(tls.client_ca) if tls.client_ca else None
    except OSError as error:
        raise SettingsError(f"TLS file {error.filename}: {error.strerror}") from error
    return grpc.ssl_server_certificate_configuration([(key, chain)], client_ca)


def _pem(file: Path) -> bytes:
    """Read a file; gRPC itself takes an empty one for an authority that nobody is of."""
    content = file.read_bytes()
    if b"-----BEGIN " not in content:
        raise SettingsError(f"TLS file {file}: it holds no PEM")
    return content


def _reread(tls: Tls) -> Callable[[], grpc.ServerCertificateConfiguration | None]:
    """Give a fetcher that returns a new configuration when a file has changed, else None."""
    files: list[Path] = [file for file in (tls.cert, tls.key, tls.client_ca) if file]

    def stamps() -> list[tuple[int, int]]:
        return [(file.stat().st_mtime_ns, file.stat().st_ino) for file in files]

    seen = stamps()

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal seen
        try:
            now = stamps()
            if now == seen:
                return None
            configuration = _configuration(tls)
        except (OSError, SettingsError):
            return None  # half-written: keep the old ones until the next handshake
        seen = now
        return configuration

    return fetch
