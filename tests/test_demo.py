"""The demo: a real scaler over real sockets, in a few seconds."""

import asyncio
import io
import re
import signal
import socket
import subprocess
import sys
from dataclasses import replace

import aiohttp
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from keda_scaler.core.trigger import Accepts, parse_trigger
from keda_scaler.demo.command import demo_command, play
from keda_scaler.demo.deployment import Phase, Pod
from keda_scaler.demo.display import curve
from keda_scaler.demo.gateway import Gateway
from keda_scaler.demo.plan import Plan, manifest
from keda_scaler.demo.verdict import Outcome, problems, verdict
from keda_scaler.gateways.epp import EPP
from keda_scaler.gateways.gateway import Scope, Seen
from keda_scaler.keda.client import sent_metadata
from keda_scaler.keda.scaledobject import parse_scaled_object
from keda_scaler.sim.load import Sizes
from keda_scaler.sim.model import EngineModel
from keda_scaler.sim.requests import Request
from keda_scaler.sim.server import SimulatedEngine

FAST = Plan(
    quiet_seconds=0.3,
    burst_seconds=0.3,
    requests_per_second=80,
    sizes=Sizes((20, 60), (10, 40)),
    load_seconds=1.5,  # longer than the scaler's poll, so that it sees all that is held
    cold_start_seconds=10,
    stop_seconds=0.1,
    max_replicas=3,
    polling_interval=1,
    cooldown_period=1,
    sync_seconds=0.5,
    idle_seconds=2,
    up_period=1,
    down_stabilization=1,
    down_period=1,
    limit_seconds=50,
)
GOOD = Outcome(
    seconds=50.2,
    arrived=9,
    served=9,
    losses={},
    peak=4,
    replicas=0,
    pods=0,
    woken_after=0.45,
    woke_unasked=False,
    slept_on=0,
)


def printed(plan: Plan, *, is_terminal: bool) -> tuple[int, str]:
    """Play a demo; give its exit code and all that it printed."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=is_terminal, width=200, _environ={})
    return play(plan, console), file.getvalue()


def test_zero_to_several_and_back() -> None:
    """Replicas go 0 to N and back to 0 with all requests served, each change with its reason."""
    code, shown = printed(FAST, is_terminal=True)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert code == 0, text
    found = re.findall(r"(KEDA|HPA) +(\d+) -> (\d+): (.*)", text)
    changes = [(by, int(before), int(after), reason.strip()) for by, before, after, reason in found]
    by, before, after, reason = changes[0]
    assert (by, before, after) == ("KEDA", 0, 1)
    assert reason.startswith("active: from 0 to 1 (row 3)")
    grown = [change for change in changes if change[2] > change[1] > 0]
    assert grown
    assert all(by == "HPA" and "asks for" in reason for by, _, _, reason in grown)
    by, before, after, reason = changes[-1]
    assert (by, after, reason) == ("KEDA", 0, f"inactive: from {before} to 0 (row 8)")
    assert re.match(r"OK: 0 -> [23] -> 0 replicas in .*none lost", text.splitlines()[-1])
    # The picture was drawn on the way.
    for shown_once in (
        "(gateway)",
        "llama-1",
        "s0-gpu-memory-pressure",
        "active, waking: epp has requests; no replica answers yet",
        "active, settling: no work, but not for idleSeconds (2) yet",
        "active: the HPA decides (row 5)",
    ):
        assert shown_once in text


def test_a_demo_that_runs_out_of_time_fails() -> None:
    """Exit code 1, and the last line says what was missing; plain lines without a terminal."""
    code, text = printed(replace(FAST, limit_seconds=1.0), is_terminal=False)
    assert code == 1
    assert "\x1b" not in text
    last = text.splitlines()[-1]
    assert last.startswith("FAILED after ")
    assert "at most 0 replicas were ready, not 2" in last


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ({"arrived": 0, "served": 0}, "no request came"),
        ({"served": 7}, "2 of 9 requests were not answered"),
        (
            {"served": 8, "losses": {"llama-1: TimeoutError": 1}},
            "lost 1 of 9 requests (llama-1: TimeoutError)",
        ),
        ({"peak": 1}, "at most 1 replicas were ready, not 2"),
        ({"replicas": 1}, "not back at 0 replicas within 90 s"),
        ({"pods": 1}, "not back at 0 replicas within 90 s"),
        ({"woke_unasked": True}, "a replica was woken before there was a request"),
        ({"slept_on": 3}, "scaled to 0 while 3 requests were under way"),
    ],
)
def test_what_makes_a_demo_bad(bad: dict[str, object], problem: str) -> None:
    """Each of these alone does, and the verdict names it."""
    outcome = replace(GOOD, **bad)  # type: ignore[arg-type]  # fields of it
    assert problems(outcome, Plan()) == [problem]
    assert verdict(outcome, Plan()) == f"FAILED after 50 s: {problem}"


def test_a_good_verdict() -> None:
    """One line with what was reached."""
    expected = "OK: 0 -> 4 -> 0 replicas in 50 s, 9 requests served, none lost, woken after 0.5 s"
    assert verdict(replace(GOOD, woken_after=0.46), Plan()) == expected


async def said(gateway: Gateway, scope: Scope) -> tuple[float, float]:
    """Read a gateway's page as the scaler does; give what it holds, and all that is under way."""
    url = f"http://127.0.0.1:{gateway.port}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        samples = EPP.page(await answer.read(), answer.headers["Content-Type"], 0.0)
    seen = EPP.seen(samples, scope)
    assert isinstance(seen, Seen), seen
    return seen.held, seen.in_flight


async def test_a_request_that_a_replica_drops_is_lost() -> None:
    """The gateway holds without a replica, hands on with one, and counts what is not answered."""
    scope = Scope("demo", "llama", EngineModel().name, None, (), trusted=True)
    with socket.socket() as reserved:
        pod = Pod("llama-1", SimulatedEngine(), reserved)
        async with Gateway(Plan(places=1), lambda: [pod] if pod.phase is Phase.READY else []) as it:
            it.submit(Request(10, 1000))
            it.submit(Request(10, 1))
            assert (it.held, it.under_way) == (2, 2)
            assert await said(it, scope) == (2, 2)
            async with pod.engine:
                pod.phase = Phase.READY
                it.hand_on()
                assert (it.held, it.under_way, pod.under_way) == (1, 2, 1)
                assert await said(it, scope) == (1, 2)
                while not pod.engine.state().running:
                    await asyncio.sleep(0)
                pod.phase = Phase.TERMINATING
            async with asyncio.timeout(10):
                await pod.until(lambda: not pod.under_way)
            assert it.losses == {"llama-1 answered HTTP 503": 1}
            assert (it.held, it.under_way, it.served) == (1, 1, 0)


CHAT = {"messages": [{"content": "Hi"}], "max_tokens": 3, "stream": True}


async def test_the_gateway_holds_a_chat_and_passes_its_stream_back() -> None:
    """A client at zero waits for a replica, and then reads its tokens; 502 where it is gone."""
    with socket.socket() as reserved:
        pod = Pod("llama-1", SimulatedEngine(), reserved)
        ready: list[Pod] = []
        async with Gateway(Plan(), lambda: ready) as it, aiohttp.ClientSession() as session:

            async def ask() -> tuple[int, str]:
                async with session.post(it.url + "/v1/chat/completions", json=CHAT) as answer:
                    return answer.status, await answer.text()

            client = asyncio.create_task(ask())
            while not it.held:
                await asyncio.sleep(0)
            async with pod.engine:
                ready.append(pod)
                it.hand_on()
                status, text = await client
            assert (status, text.count("word"), text[-8:]) == (200, 3, "[DONE]\n\n")
            assert (it.served, it.losses) == (1, {})
            assert (await ask())[0] == 502
            assert it.losses == {"llama-1: ClientConnectorError": 1}
            assert (it.under_way, pod.under_way) == (0, 0)


async def test_a_client_that_goes_away_leaves_its_place() -> None:
    """Held or under way, it is counted as lost, and the next one gets its turn."""
    with socket.socket() as reserved:
        pod = Pod("llama-1", SimulatedEngine(EngineModel(step_seconds=100)), reserved)
        ready: list[Pod] = []
        async with (
            pod.engine,
            Gateway(Plan(places=1), lambda: ready) as it,
            aiohttp.ClientSession() as session,
        ):
            url = it.url + "/v1/chat/completions"
            clients = [asyncio.create_task(session.post(url, json=CHAT)) for _ in range(3)]
            while it.held < 3:
                await asyncio.sleep(0)
            clients.pop().cancel()
            while it.held > 2:
                await asyncio.sleep(0)
            ready.append(pod)
            it.hand_on()
            assert (it.held, pod.under_way) == (1, 1)
            for client in clients:
                client.cancel()
            while it.under_way:
                await asyncio.sleep(0)
            assert it.losses == {"the client went away": 3}
            assert (it.served, it.held, pod.under_way) == (0, 0, 0)


def test_interrupt() -> None:
    """Ctrl-C ends it cleanly with exit code 130; the scaler's own reasons were told until then."""
    # What runs in a shell's background ignores Ctrl-C, and all that it starts does.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = f"{heard}; from keda_scaler.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", command, "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "scaler   idle, proven-idle: no work" in line:
                break
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert output.splitlines()[-1] == "interrupted"
    assert not errors


def test_the_manifest_is_one_that_keda_and_the_scaler_take() -> None:
    """--manifest prints the ScaledObject; it parses, and so does its one trigger."""
    app = typer.Typer()
    app.command()(demo_command)
    result = CliRunner().invoke(app, ["--manifest"])
    assert result.exit_code == 0
    (trigger,) = parse_scaled_object(result.output).triggers
    parsed = parse_trigger(sent_metadata(trigger), Accepts())
    assert len(parsed.metrics) == 2
    assert (parsed.wake_from, parsed.wake_service) == ("epp", "llama-epp")
    assert parsed.cold_start_seconds > Plan().load_seconds
    assert parse_scaled_object(manifest(FAST, "h:1")).cooldown_period == 1


def test_curve() -> None:
    """What is above zero is never drawn as zero."""
    assert curve([0, 1, 4, 8, 1000], 8) == " ▁▄██"
    assert curve([0, 1, 1000], 1000) == " ▁█"
