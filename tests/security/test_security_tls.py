"""TLS: who is let in at our own port, and whom we trust with a credential."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import trustme

from certificates import context_of, issue, write
from keda_scaler.core.addresses import AddressRules
from keda_scaler.core.reports import Report
from keda_scaler.core.trigger import Accepts
from keda_scaler.errors import ReportsUnavailableError, SettingsError, SourceError
from keda_scaler.pb import externalscaler_pb2 as pb
from keda_scaler.pb.externalscaler_pb2_grpc import ExternalScalerStub
from keda_scaler.rpc.server import Server
from keda_scaler.rpc.servicer import Servicer
from keda_scaler.settings import Tls
from keda_scaler.sources.promapi import Prometheus, PrometheusServer
from keda_scaler.sources.redisreports import RedisReports
from keda_scaler.sources.redisserver import RedisServer
from keda_scaler.store import Store
from keda_scaler.telemetry import Telemetry

REF = pb.ScaledObjectRef(name="llama", namespace="models", scalerMetadata={"service": "llama"})
BAD = ["expired", "not yet valid", "wrong authority"]
NAMED = pytest.mark.parametrize("kind", [*BAD, "wrong name"])

pytestmark = pytest.mark.blocks(
    "certificates are written, and read when a handshake finds a change"
)


@dataclass
class Served:
    """A scaler with mutual TLS, whose files lie in a folder as kubelet mounts a Secret."""

    folder: Path
    server_authority: trustme.CA
    client_authority: trustme.CA
    port: int = 0

    def mount(self, version: str, leaf: trustme.LeafCert, clients: trustme.CA) -> None:
        """Put new files in the place of the old, all at once."""
        (self.folder / version).mkdir()
        write(leaf, self.folder / version)
        clients.cert_pem.write_to_path(self.folder / version / "ca.crt")
        self.switch(version)

    def switch(self, version: str) -> None:
        new = self.folder / "..data_tmp"
        new.symlink_to(version)
        new.replace(self.folder / "..data")

    async def admits(
        self, client: trustme.LeafCert | None, authority: trustme.CA | None = None
    ) -> bool:
        """Whether a call with this certificate is answered; `authority` is who we believe."""
        credentials = grpc.ssl_channel_credentials(
            (authority or self.server_authority).cert_pem.bytes(),
            client.private_key_pem.bytes() if client else None,
            b"".join(blob.bytes() for blob in client.cert_chain_pems) if client else None,
        )
        async with grpc.aio.secure_channel(f"localhost:{self.port}", credentials) as channel:
            return await answers(channel)


async def answers(channel: grpc.aio.Channel) -> bool:
    try:
        return bool((await ExternalScalerStub(channel).GetMetricSpec(REF, timeout=5)).metricSpecs)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNAVAILABLE:  # there is no connection
            return False
        raise


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """Serve with mutual TLS."""
    made = Served(tmp_path, trustme.CA(), trustme.CA())
    made.mount("v1", made.server_authority.issue_cert("localhost"), made.client_authority)
    for name in ("tls.crt", "tls.key", "ca.crt"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    telemetry = Telemetry()
    store = Store(lambda _: lambda: None, telemetry.decided, time.monotonic)
    files = Tls(tmp_path / "tls.crt", tmp_path / "tls.key", tmp_path / "ca.crt")
    server = Server(Servicer(store, Accepts(), telemetry), "localhost:0", files)
    await server.start()
    made.port = server.port
    yield made
    await server.drain()


@pytest.mark.parametrize("kind", [*BAD, "none"])
async def test_mutual_tls_refuses(served: Served, kind: str) -> None:
    """Whoever has no certificate of the authority that is valid today; the next one is served."""
    bad = None if kind == "none" else issue(served.client_authority, kind, "keda")
    assert not await served.admits(bad)
    assert await served.admits(issue(served.client_authority, "good", "keda"))


async def test_a_certificate_of_the_server_is_none_of_a_client(served: Served) -> None:
    """The authority of clients is another than that of servers, and one is not the other."""
    assert not await served.admits(served.server_authority.issue_cert("localhost"))


async def test_plain_text_is_refused(served: Served) -> None:
    """There is no second way in at the same port."""
    async with grpc.aio.insecure_channel(f"localhost:{served.port}") as channel:
        assert not await answers(channel)


async def test_an_authority_that_is_replaced_is_believed_no_more(served: Served) -> None:
    """Certificate, key and authority are taken up together, as kubelet replaces them."""
    old = served.client_authority.issue_cert("keda")
    assert await served.admits(old)
    renewed, clients = trustme.CA(), trustme.CA()
    served.mount("v2", renewed.issue_cert("localhost"), clients)

    assert await served.admits(clients.issue_cert("keda"), renewed)
    assert not await served.admits(old, renewed)


@pytest.mark.parametrize("file", ["tls.crt", "tls.key", "ca.crt"])
@pytest.mark.parametrize("content", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA", None])
async def test_half_of_a_change_changes_nothing(
    served: Served, file: str, content: bytes | None
) -> None:
    """A file that is broken, empty or away: the same are let in as before, and no others."""
    client = served.client_authority.issue_cert("keda")
    served.mount("v2", served.server_authority.issue_cert("localhost"), served.client_authority)
    assert await served.admits(client)
    served.mount("v3", served.server_authority.issue_cert("localhost"), served.client_authority)
    if content is None:
        (served.folder / "v3" / file).unlink()
    else:
        (served.folder / "v3" / file).write_bytes(content)

    assert await served.admits(client)
    assert not await served.admits(None)
    assert not await served.admits(trustme.CA().issue_cert("keda"))
    served.switch("v2")
    assert await served.admits(client)


@pytest.mark.parametrize("file", ["tls.crt", "tls.key", "ca.crt"])
@pytest.mark.parametrize("content", ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA"])
async def test_a_file_that_is_none_is_found_at_the_start(
    served: Served, file: str, content: str
) -> None:
    """Not by the first client that cannot get in."""
    served.mount("v2", served.server_authority.issue_cert("localhost"), served.client_authority)
    (served.folder / "v2" / file).write_text(content)
    store = Store(lambda _: lambda: None, lambda *_: None, time.monotonic)
    folder = served.folder
    files = Tls(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")
    with pytest.raises(SettingsError, match=r"TLS file|--tls-"):
        await Server(Servicer(store, Accepts(), Telemetry()), "localhost:0", files).start()


@contextlib.asynccontextmanager
async def pretending(leaf: trustme.LeafCert) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Listen with a certificate, and keep what is sent to whoever has it."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(4096))
        writer.close()

    server = await asyncio.start_server(serve, "localhost", 0, ssl=context_of(leaf))
    async with server:
        yield server.sockets[0].getsockname()[1], heard


@NAMED
async def test_a_prometheus_with_a_bad_certificate_is_told_nothing(
    kind: str, tmp_path: Path
) -> None:
    """No query, and no token; one with a good certificate is told both."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    (tmp_path / "token").write_text("s3cret-token")
    for each, told in ((kind, 0), ("good", 1)):
        async with pretending(issue(authority, each, "localhost")) as (port, heard):
            server = PrometheusServer(
                f"https://localhost:{port}",
                bearer_token_file=tmp_path / "token",
                ca_file=tmp_path / "ca.crt",
            )
            prometheus = Prometheus(server, AddressRules.parse(["localhost"]))
            with pytest.raises(SourceError):
                await prometheus.query("up")
            prometheus.close()
        assert sum(b"s3cret-token" in each for each in heard) == told


@NAMED
async def test_a_redis_with_a_bad_certificate_is_told_nothing(kind: str, tmp_path: Path) -> None:
    """No password; one with a good certificate is told it."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    (tmp_path / "password").write_text("s3cret-password")
    for each, is_told in ((kind, False), ("good", True)):
        async with pretending(issue(authority, each, "localhost")) as (port, heard):
            server = RedisServer(
                f"rediss://localhost:{port}", tmp_path / "password", tmp_path / "ca.crt"
            )
            reports = RedisReports(server)
            with pytest.raises(ReportsUnavailableError):
                await reports.state([Report("models", "llama", "me", 1, 0, 30.0)])
            await reports.aclose()
        assert (b"s3cret-password" in b"".join(heard)) is is_told
