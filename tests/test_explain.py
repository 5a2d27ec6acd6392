"""`keda-scaler explain`: what a running scaler says of a target, for people and programs."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import grpc
import msgspec
import pytest
import typer
from aiohttp import web
from structlog.testing import capture_logs
from typer.testing import CliRunner, Result

from keda_scaler import explain as explaining
from keda_scaler.app import App
from keda_scaler.core import told
from keda_scaler.core.readings import Demand, Missing
from keda_scaler.errors import ExplainError
from keda_scaler.explain import explain_command, happened
from keda_scaler.pb import externalscaler_pb2 as pb
from keda_scaler.pb.externalscaler_pb2_grpc import ExternalScalerStub
from keda_scaler.settings import load_settings
from keda_scaler.web.access import Access
from keda_scaler.web.tokens import Tokens
from prometheus_server import free_port
from shown_targets import Shown, showing

ROOT = Path(__file__).parents[1]
WAKE = {"wakeFrom": "epp", "wakeService": "epp"}
command = typer.Typer()
command.command()(explain_command)


async def run(*arguments: str) -> str:
    """Give what it prints."""
    result = await attempt(*arguments)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.output


async def attempt(*arguments: str) -> Result:
    runner = CliRunner(env={"COLUMNS": "160"})
    return await asyncio.to_thread(runner.invoke, command, arguments)


async def refusal(*arguments: str) -> str:
    """Give the error that it ends with."""
    error = (await attempt(*arguments)).exception
    assert isinstance(error, ExplainError), error
    return str(error)


def busy_hour(shown: Shown) -> None:
    """Have a model work, sleep, and be in trouble."""
    shown.clock.now = 120_000.0
    target = shown.target(idleSeconds="20", **WAKE)
    for minute in range(10):
        for second in (0, 10, 20, 30, 40, 50):
            shown.clock.now = 120_000.0 + 60 * minute + second
            waiting = 0 if 3 <= minute < 5 else 4 + minute
            shown.poll(target, waiting, waiting)
            target.demanded(Demand(0, 0, arrived=False, at=shown.clock.now))
    shown.clock.now += 4
    shown.poll(target, 13, None)
    target.demanded(Missing("connection refused"))


async def test_it_says_all_that_is_known() -> None:
    """State, reason, what to do, what decides, signals, replicas with ages, changes."""
    async with showing() as shown:
        busy_hour(shown)
        said = await run("models/llama", "--address", shown.url)

    for part in (
        "models/llama: active, work for 4 min 54 s: epp has requests",
        "to do: Nothing.",
        "replicas: 2 of 2 answer, 4 wanted",
        "to zero: there is work",
        "asked about: 9 min 54 s ago",
        "signal: queue-depth asks for the most, 4 replicas",
        "missing-replicas: queue-depth of pod-1 is missing, which moves nothing",
        "10           5       4",
        "wake source epp: 13 requests, 0.0 s ago (connection refused)",
        "13, 4.0 s ago (no answer within 5 s)",
        "pod-1    ready, vllm",
        "last changes (--timeline: all)",
        "no work, but not for idleSeconds (20) yet",
    ):
        assert part in said


async def test_the_timeline_has_all_that_happened() -> None:
    """Changes of state, and between them minutes in which replicas changed; newest first."""
    async with showing() as shown:
        busy_hour(shown)
        said = await run("models/llama", "--address", shown.url, "--timeline")

    rows = [line.split("ago")[1].split() for line in said.splitlines() if "ago" in line]
    assert [row[:2] for row in rows if row[0] == "idle"] == [["idle", "proven-idle"]]
    assert "wanted instead of" in said
    assert rows[-1][:2] == ["active", "work"]
    assert "replica " not in said


async def test_json_is_what_the_scaler_answers() -> None:
    """On one line, for programs."""
    async with showing() as shown:
        shown.poll(shown.target("models", "[bold]llama"), 3)
        said = await run("models/[bold]llama", "--address", shown.url, "--output", "json")

    assert json.loads(said)["targets"][0]["name"] == "[bold]llama"
    assert said.count("\n") == 1


async def test_what_others_typed_is_no_markup_of_the_terminal() -> None:
    """Names and reasons are printed as they are."""
    async with showing() as shown:
        target = shown.target("models", "[red]x[/red]", **WAKE)
        target.unlisted("[link=http://x]click[/link] \x1b]0;title\x07")
        said = await run("models/[red]x[/red]", "--address", shown.url)

    assert "\x1b" not in said
    assert "models/[red]x[/red]: unknown" in said
    assert "[link=http://x]click[/link]" in said
    assert "wake source epp: not read yet" in said
    assert "replicas: 0 of unknown answer, 0 wanted" in said


async def test_many_replicas_and_warnings_are_told() -> None:
    """How many are left out, and what makes the trigger misbehave."""
    async with showing() as shown:
        target = shown.target(targetGpuUtilization="0.8", targetQueueDepth="5")
        shown.poll(target, *range(1, 206))
        said = await run("models/llama", "--address", shown.url)

    assert "and 5 replicas more" in said
    assert "warning: one request is enough to keep a GPU busy" in said


async def test_a_token_is_sent(tmp_path: Path) -> None:
    """Alone in its file, or as --http-tokens reads it."""
    for content in ("all-0123456789abcdef\n", "* all-0123456789abcdef"):
        (tmp_path / "token").write_text(content)
        (tmp_path / "tokens").write_text("* all-0123456789abcdef\n")
        tokens = await asyncio.to_thread(Tokens, tmp_path / "tokens", setting="--http-tokens")
        async with showing(Access("0.0.0.0:0", tokens)) as shown:
            shown.target().unlisted("x")
            where = ("models/llama", "--address", shown.url)
            assert "401: A token of --http-tokens is needed" in await refusal(*where)
            await run(*where, "--token-file", str(tmp_path / "token"))


async def test_what_cannot_be_told_is_an_error(tmp_path: Path) -> None:
    """It names what was given, or what the scaler said."""
    dead = f"http://127.0.0.1:{free_port()}"
    (tmp_path / "empty").write_text("")
    async with showing() as shown:
        here = ("--address", shown.url)
        assert "got 'llama'; accepted: NAMESPACE/NAME" in await refusal("llama", *here)
        assert "answers 404: models/llama is not followed" in await refusal("models/llama", *here)
        assert "--output: got 'x'" in await refusal("a/b", *here, "--output", "x")
        for file, said in (("absent", "cannot be read"), ("empty", "one token is accepted")):
            assert said in await refusal("a/b", *here, "--token-file", str(tmp_path / file))
    assert f"{dead} does not answer: Connection refused" in await refusal("a/b", "--address", dead)
    for wrong in ("localhost:8080", "http://[::1"):
        assert "accepted: a URL" in await refusal("a/b", "--address", wrong)


async def test_what_is_no_scaler_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another server at that port, one that never stops talking, and one that breaks off."""

    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"targets": [{"name": "x" * 100}]})

    async def broken(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"targets": [')
        assert request.transport is not None
        request.transport.close()
        return response

    app = web.Application()
    app.router.add_get("/targets/a/broken", broken)
    app.router.add_get("/{any:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        assert "gave no answer of a keda-scaler" in await refusal("a/b", "--address", url)
        as_json = ("a/b", "--address", url, "--output", "json")
        assert "gave no answer of a keda-scaler" in await refusal(*as_json)
        assert "does not answer: " in await refusal("a/broken", "--address", url)
        monkeypatch.setattr(explaining, "MAX_ANSWER_BYTES", 50)
        assert "answers with over 50 bytes" in await refusal("a/b", "--address", url)
    finally:
        await runner.cleanup()


async def test_minutes_are_in_order_and_of_the_same_state() -> None:
    """A minute in which the state changed is told by the change."""
    async with showing() as shown:
        busy_hour(shown)
        text = await run("models/llama", "--address", shown.url, "--output", "json")

    body = json.dumps(json.loads(text)["targets"][0]).encode()
    told_by = happened(msgspec.json.decode(body, type=told.Explanation))
    times = [change.unix_seconds for change in told_by]
    assert times == sorted(times, reverse=True)
    assert len(told_by) > len(json.loads(text)["targets"][0]["changes"])


async def test_what_keda_asks_about_can_be_explained() -> None:
    """From the call over gRPC to the command, through the whole scaler; the log says the same."""
    where = dict.fromkeys(("grpc_address", "http_address"), "127.0.0.1:0")
    settings = load_settings(where | {"allow_address": ["127.0.0.0/8"]})
    page = f"http://127.0.0.1:{free_port()}/metrics"
    ref = pb.ScaledObjectRef(
        name="llama", namespace="models", scalerMetadata={"endpoints": page, "model": "llama-3"}
    )
    with capture_logs() as lines:
        async with App(settings) as app:
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{app.grpc_port}")
            async with channel:
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await ExternalScalerStub(channel).IsActive(ref, timeout=5)
            address = f"http://127.0.0.1:{app.http_port}"
            text = await run("models/llama", "--address", address, "--output", "json")
            said = await run("models/llama", "--address", address)

    (target,) = json.loads(text)["targets"]
    assert (target["state"], target["reason"]) == ("unknown", "never-known")
    assert target["trigger"]["endpoints"] == page
    (line,) = (line for line in lines if line["event"] == "decision")
    assert {key: line[key] for key in ("state", "reason", "text")} == {
        key: target[key] for key in ("state", "reason", "text")
    }
    assert refused.value.details() == target["text"]
    assert target["text"] in said


async def test_the_command_line_has_it() -> None:
    """And ends with 1 and one line when nobody answers."""
    address = f"http://127.0.0.1:{free_port()}"
    code = "import sys; from keda_scaler.cli import main; sys.argv[0] = 'keda-scaler'; main()"
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", code, "explain", "a/b", "--address", address],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )

    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"keda-scaler: {address} does not answer: Connection refused\n"
