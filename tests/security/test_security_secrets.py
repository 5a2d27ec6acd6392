"""Secrets are planted wherever there are any; a real scaler fails in every way and tells none."""

import asyncio
import contextlib
import io
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
import structlog
import trustme
from aiohttp import web

from certificates import write
from keda_scaler import telemetry
from keda_scaler.errors import SettingsError
from keda_scaler.pb import externalscaler_pb2 as pb
from keda_scaler.pb.externalscaler_pb2_grpc import ExternalScalerStub
from keda_scaler.settings import load_settings

COMMAND = Path(sys.executable).with_name("keda-scaler")
MARK = "s3cret"
"""Part of every secret that is planted; none other."""

WAIT_SECONDS = 50.0

FAILURES = ("answered 400", "list EndpointSlices", "HTTP 404", "Redis answers", "not trusted")
"""What is said when each way to read something has failed."""

pytestmark = [
    pytest.mark.timeout(150),  # a process that starts on a busy machine
    pytest.mark.blocks("files are written"),
]


def secret(name: str) -> str:
    return f"{MARK}-{name}-0123456789"


async def echo(request: web.Request) -> web.Response:
    """Refuse, and repeat all that was sent, as many proxies do when they are asked to debug."""
    told = f"{request.raw_path} {dict(request.headers)}"
    body = {"status": "error", "errorType": "bad_data", "error": told, "message": told}
    return web.json_response(body, status=int(request.match_info.get("status", "400")), reason=told)


async def redis(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Refuse every command, and repeat it."""
    while said := await reader.read(4096):
        told = re.sub(rb"[\r\n]+", b" ", said)
        writer.write(b"-ERR you said" + told + b"\r\n" + b"-ERR and" + told + b"\r\n")
        await writer.drain()
    writer.close()


@dataclass
class World:
    """A scaler that was given every kind of secret, and all that it has said."""

    folder: Path
    http: int
    """Port of the server that repeats what it is sent."""

    said: list[str] = field(default_factory=list)
    http_port: int = 0
    process: asyncio.subprocess.Process | None = None

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def everything(self) -> str:
        return "\n".join([*self.said, self.log])

    def file(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    async def ask(self, channel: grpc.aio.Channel, metadata: dict[str, str]) -> None:
        """Ask all that KEDA asks, and keep what is answered."""
        stub = ExternalScalerStub(channel)
        ref = pb.ScaledObjectRef(name="llama", namespace="models", scalerMetadata=metadata)
        request = pb.GetMetricsRequest(scaledObjectRef=ref, metricName="queue-depth")
        header = (("authorization", f"Bearer {secret('header')}"),)
        calls: list[grpc.aio.UnaryUnaryCall[Any, Any]] = [
            stub.GetMetricSpec(ref, timeout=5, metadata=header),
            stub.GetMetrics(request, timeout=5, metadata=header),
            stub.IsActive(ref, timeout=5, metadata=header),
        ]
        for call in calls:
            code = await call.code()
            trailers = await call.trailing_metadata()
            self.said.append(f"{code} {await call.details()} {trailers}")


def config(world: World, redis_port: int) -> str:
    """Write settings with a credential wherever there may be one."""
    token = world.file("bearer", secret("bearer"))
    password = world.file("password", secret("password"))
    url = f"http://127.0.0.1:{world.http}"
    return f"""
allow_address = ["127.0.0.0/8"]
report_tokens = "{world.file("tokens", f"models {secret('reports')}")}"
http_tokens = "{world.file("viewers", f"* {secret('viewer')}")}"
redis_url = "redis://user@127.0.0.1:{redis_port}/0"
redis_password_file = "{world.file("redis", secret("redis"))}"
tls_cert = "{world.folder / "tls.crt"}"
tls_key = "{world.folder / "tls.key"}"
[prometheus.bearer]
url = "{url}/400"
bearer_token_file = "{token}"
[prometheus.basic]
url = "{url}/401"
username = "{secret("username")}"
password_file = "{password}"
[prometheus.tls]
url = "https://127.0.0.1:{world.http}"
bearer_token_file = "{token}"
"""


def kubeconfig(world: World) -> Path:
    return world.file(
        "kubeconfig",
        f"""
apiVersion: v1
kind: Config
current-context: x
contexts: [{{name: x, context: {{cluster: x, user: x}}}}]
clusters: [{{name: x, cluster: {{server: "http://127.0.0.1:{world.http}/403"}}}}]
users: [{{name: x, user: {{token: {secret("kubernetes")}}}}}]
""",
    )


@contextlib.asynccontextmanager
async def serving(world: World, settings: Path) -> AsyncIterator[int]:
    """Run the scaler, and keep all that it prints; give its port."""
    proxy = f"http://user:{secret('proxy')}@127.0.0.1:9"
    environment = {"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy, "NO_PROXY": "127.0.0.1"}
    environment["KUBECONFIG"] = str(kubeconfig(world))
    with (world.folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(COMMAND, "serve", "--config", settings),
            *("--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0"),
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            env=os.environ | environment,
        )
    assert process.stdout
    try:
        printed = ""
        async with asyncio.timeout(WAIT_SECONDS):
            while "metrics, health" not in printed:
                line = await process.stdout.readline()
                assert line, printed + world.log
                printed += line.decode()
        ports = [int(port) for port in re.findall(r":(\d+)$", printed, re.MULTILINE)]
        world.said.append(printed)
        world.http_port, world.process = ports[1], process
        yield ports[0]
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        out, _ = await process.communicate()
        world.said.append(out.decode())


def triggers(world: World) -> list[dict[str, str]]:
    """Give metadata with secrets in it, right and wrong, each of which fails in its own way."""
    url, query = f"http://127.0.0.1:{world.http}", f"token={secret('query')}"
    userinfo = f"http://user:{secret('userinfo')}@127.0.0.1:{world.http}"
    keda = dict.fromkeys(("caCert", "tlsClientCert", "tlsClientKey"), secret("keda"))
    return [
        {"prometheus": "bearer", **keda},
        {"prometheus": "basic", "wakeFrom": "query", "wakeQuery": "up"},
        {"prometheus": "tls"},
        {"service": "llama", "path": f"/metrics?{query}", "port": "8000"},
        {"endpoints": f"{url}/404/metrics?{query}&x=1, {url}/500/metrics?{query}&x=2"},
        {"endpoints": f"{url}/200/metrics?{query}"},
        {"endpoints": f"http://127.0.0.1:9/metrics?{query}"},
        {"endpoints": f"http://10.0.0.1/metrics?{query}"},
        {"endpoints": userinfo + "/metrics"},
        {"serverAddress": userinfo},
        {"serverAddress": f"{url}/?{query}"},
        {"serverAddress": f"{url}/400", "wakeFrom": "nginx", "wakeSelector": 'ingress="x"'},
        {"service": "llama", "password": secret("value"), "targetQueueDepths": secret("value")},
        {"engine": "reports"},
        {
            "service": "llama",
            "wakeFrom": "epp",
            "wakeService": "127.0.0.1",
            "wakePort": str(world.http),
            "wakePath": f"/500/metrics?{query}",
        },
    ]


async def report(world: World, session: aiohttp.ClientSession) -> None:
    """Report with the right token, with wrong ones, and what is no report."""
    url = f"http://127.0.0.1:{world.http_port}/v1/reports"
    good = {"namespace": "models", "name": "llama", "waiting": 1}
    posts: list[tuple[str, Any]] = [
        (f"Bearer {secret('reports')}", good),
        (f"Bearer {secret('reports')}", good | {"namespace": "other"}),
        (f"Bearer {secret('reports')}", good | {"password": secret("field")}),
        (f"Bearer {secret('unknown')}", good),
        (f"Basic {secret('unknown')}", good),
    ]
    for authorization, body in posts:
        headers = {"Authorization": authorization}
        async with session.post(url, json=body, headers=headers) as answer:
            world.said.append(f"{answer.status} {answer.headers} {await answer.text()}")


async def look(world: World, session: aiohttp.ClientSession) -> None:
    """Look at the metrics and at every page that shows targets, with and without a token."""
    for path in ("/metrics", "/", "/targets", "/targets/models/llama", "/ui/models/llama"):
        for token in (secret("viewer"), secret("unknown"), ""):
            headers = {"Authorization": f"Bearer {token}"}
            url = f"http://127.0.0.1:{world.http_port}{path}?token={secret('viewer')}"
            async with session.get(url, headers=headers) as answer:
                world.said.append(f"{path} {answer.status} {answer.headers} {await answer.text()}")
    command = await asyncio.create_subprocess_exec(
        *(COMMAND, "explain", "models/llama", "--token-file", world.folder / "viewers"),
        *("--address", f"http://127.0.0.1:{world.http_port}"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    world.said.append((await command.communicate())[0].decode())


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    app = web.Application()
    app.router.add_route("*", "/{status:[0-9]{3}}{path:.*}", echo)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield World(tmp_path, runner.addresses[0][1])
    await runner.cleanup()


async def test_no_secret_is_told_to_anybody(world: World) -> None:
    """Not in the log, nor in what is printed, answered over gRPC or HTTP, or counted."""
    authority = trustme.CA()
    write(authority.issue_cert("localhost"), world.folder)
    async with await asyncio.start_server(redis, "127.0.0.1", 0) as keeper:
        text = config(world, keeper.sockets[0].getsockname()[1])
        settings = world.file("settings.toml", text)
        async with serving(world, settings) as port, aiohttp.ClientSession() as session:
            credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
            async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
                await report(world, session)
                async with asyncio.timeout(WAIT_SECONDS):
                    while not all(part in world.everything for part in FAILURES):
                        for metadata in triggers(world):
                            await world.ask(channel, metadata)
                        await asyncio.sleep(0.1)
                await report(world, session)
            for broken in (f"bearer_token = '{secret('setting')}'", f"x = {secret('setting')}"):
                settings.write_text(f"{broken}\n{text}")
                before = world.log.count("settings are wrong")
                assert world.process
                world.process.send_signal(signal.SIGHUP)
                async with asyncio.timeout(WAIT_SECONDS):
                    while world.log.count("settings are wrong") == before:
                        await asyncio.sleep(0.02)
            await look(world, session)

    key = (world.folder / "tls.key").read_text().splitlines()[1]
    everything = world.everything
    leaks = [line for line in everything.splitlines() if MARK in line or key in line]
    assert leaks == []
    pages = ("/targets/models/llama 200", "/ui/models/llama 200", "/targets 401", "to zero:")
    for part in (*FAILURES, *pages):
        assert part in everything, "the failures have happened"


async def test_the_exporter_tells_no_query_of_its_engine() -> None:
    """Neither at the start nor when the engine does not answer."""
    process = await asyncio.create_subprocess_exec(
        *(COMMAND, "exporter", "--no-gpu", "--listen", "127.0.0.1:0", "--interval", "1"),
        *("--engine-url", f"http://127.0.0.1:9/metrics?token={secret('engine')}"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout
    async with asyncio.timeout(WAIT_SECONDS):
        said = await process.stdout.readline() + await process.stdout.readline()
        process.terminate()
        said += (await process.communicate())[0]

    assert b"cannot connect" in said
    assert b"metrics?..." in said
    assert MARK.encode() not in said


@pytest.mark.parametrize(
    "flags",
    [
        {"prometheus": [f"http://user:{MARK}@host"]},
        {"prometheus": [f"http://host/?token={MARK}"]},
        {"prometheus": [f"main=http://user:{MARK}@host"]},
        {"prometheus": [f"main=http://host/?token={MARK}"]},
        {"redis_url": f"redis://:{MARK}@host"},
        {"redis_url": f"http://user:{MARK}@host"},
        {"redis_url": f"redis://host?password={MARK}"},
    ],
)
def test_no_setting_that_is_wrong_is_repeated_with_a_secret(flags: dict[str, Any]) -> None:
    """What is accepted is said instead; it stands in the log of a pod that does not start."""
    with pytest.raises(SettingsError) as caught:
        load_settings(flags)

    assert MARK not in str(caught.value)


def test_a_readable_log_shows_no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours has its traceback in the log, and not what its functions worked with."""
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(telemetry, "Lines", lambda file: file)

    def fault(token: str) -> None:
        raise RuntimeError(str(len(token)))

    telemetry.configure_logging()
    try:
        fault(secret("variable"))
    except RuntimeError:
        structlog.get_logger().exception("a fault")
    finally:
        structlog.reset_defaults()

    assert "in fault" in terminal.getvalue()
    assert MARK not in terminal.getvalue()
