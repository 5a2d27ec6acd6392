"""The gRPC server: options, TLS, health, reflection and drain."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

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


class _Unregistered:
    """Adds services to a server, and registers none of their methods.

    grpc.aio waits for the next call of each registered method apart, and for all of them anew with
    every call that comes: with our nine methods that was an eighth of what a call took. All that
    are not registered share one wait.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, *_: object) -> None:
        """Do nothing; generated code also adds the same methods as generic ones."""


class Server:
    """Serves the external scaler until it is drained."""

    def __init__(self, servicer: Servicer, address: str, tls: Tls | None) -> None:
        self._servicer = servicer
        self._address = address
        self._tls = tls
        self.port = 0
        self._server = grpc.aio.server(options=_options(servicer.max_connection_age_seconds))
        self._health = health.aio.HealthServicer()
        unregistered = cast("grpc.aio.Server", _Unregistered(self._server))
        add_ExternalScalerServicer_to_server(servicer, unregistered)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, unregistered)
        names = (_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, unregistered)

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
        await self._server.stop(DRAIN_SECONDS)


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
