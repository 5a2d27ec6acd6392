"""The load test: what `make verify` checks, and the locustfile that users run themselves."""

import asyncio
import itertools
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from aiohttp import web

from keda_scaler.demo.gateway import Gateway
from keda_scaler.sim.requests import Request
from load_checks import (
    Loaded,
    LoadPlan,
    Look,
    Phase,
    baseline,
    cold_start,
    no_errors,
    quantile,
    scale_down,
    scale_up,
)
from load_run import LOCUSTFILE, LoadError, kept_awake, read, run_locust
from verify import SHORT, main

PLAN = LoadPlan(users=10)
GOOD = Loaded({"200": 3}, {}, {100.0: 2, 200.0: 1}, {50.0: 3})
SLOW = replace(GOOD, ttft={21_000.0: 1})
FAILED = Loaded({"200": 2, "503": 1}, {"HTTP 503": 1}, {}, {})

ONE = Look(0.0, wanted=1, ready=1, pods=1, arrived=5, under_way=0)
ZERO = Look(0.0, wanted=0, ready=0, pods=0, arrived=5, under_way=0)
UP = (
    ONE,
    replace(ONE, at=10.0, arrived=15, under_way=10),
    replace(ONE, at=30.0, wanted=3, ready=2, pods=3, arrived=30, under_way=9),
    replace(ONE, at=50.0, wanted=3, ready=3, pods=3, arrived=60, under_way=8),
)
DOWN = (
    *UP,
    replace(ONE, at=60.0, wanted=3, ready=3, pods=3),
    replace(ONE, at=145.0, wanted=0, ready=0, pods=1),
    replace(ZERO, at=147.0),
)
WOKEN = (ZERO, replace(ZERO, at=1.0, arrived=6, under_way=1), replace(ONE, at=1.5, arrived=6))


def test_what_is_good() -> None:
    """Everything is as promised, and the lines say by how much."""
    checks = [
        baseline(Phase(GOOD, (ONE,))),
        scale_up(Phase(GOOD, UP), PLAN),
        no_errors(Phase(GOOD, UP)),
        scale_down(DOWN, PLAN),
        cold_start(Phase(replace(GOOD, ttft={16_000.0: 1}), WOKEN), PLAN),
    ]
    assert [str(check) for check in checks] == [
        "PASS  baseline     3 x 200; 1 replica; TTFT median 100 ms, p95 200 ms; ITL median 50 ms",
        (
            "PASS  scale up     1 -> 3 replicas, 2 ready after 20.0 s (limit 60 s), "
            "3 after 40.0 s; 10 requests at once"
        ),
        "PASS  no 5xx       3 x 200; TTFT median 100 ms, p95 200 ms; ITL median 50 ms",
        (
            "PASS  scale down   3 -> 0 replicas, none wanted 95.0 s after the last answer "
            "(at least 85 s), none left after 97.0 s (limit 103.5 s); "
            "0 requests under way at zero"
        ),
        (
            "PASS  cold start   3 x 200; woken after 0.5 s, first token after 16 s "
            "(limit 20 s), of which 15 s load the model"
        ),
    ]


@pytest.mark.parametrize(
    "phase",
    [
        Phase(FAILED, (ONE,)),
        Phase(replace(GOOD, statuses={}), (ONE,)),
        Phase(replace(GOOD, problems={"cut off: no end": 1}), (ONE,)),
        Phase(GOOD, (ONE, replace(ONE, wanted=2))),
        Phase(GOOD, (ONE, replace(ONE, ready=2))),
        Phase(GOOD, (ZERO, ONE)),
    ],
)
def test_a_bad_baseline(phase: Phase) -> None:
    """Not one whole answer, or not one replica all the time."""
    assert not baseline(phase).is_kept


@pytest.mark.parametrize(
    "looks",
    [
        (ONE, replace(ONE, at=10.0, arrived=15, under_way=10)),
        (ONE, replace(ONE, ready=2)),
        (*UP[:2], replace(UP[2], at=70.1)),
        (UP[0], *(replace(look, under_way=8) for look in UP[1:])),
    ],
    ids=["no more replicas", "no request", "too late", "not all users at once"],
)
def test_a_bad_way_up(looks: tuple[Look, ...]) -> None:
    """Each of these alone fails it."""
    assert not scale_up(Phase(GOOD, looks), PLAN).is_kept


@pytest.mark.parametrize(
    "looks",
    [
        DOWN[:-1],
        (*DOWN[:-2], replace(DOWN[-2], at=134.9), DOWN[-1]),
        (*DOWN[:-1], replace(DOWN[-1], at=153.6)),
        (*UP, replace(ZERO, at=51.0, pods=3, under_way=1), *DOWN[-3:]),
    ],
    ids=["a pod is left", "too early", "too late", "with a request"],
)
def test_a_bad_way_down(looks: tuple[Look, ...]) -> None:
    """Each of these alone fails it."""
    assert not scale_down(looks, PLAN).is_kept


def test_clients_that_begin_late_find_it_asleep() -> None:
    """That is no way down: what was before a replica had their requests does not count."""
    asleep = (ONE, replace(ZERO, at=5.0), replace(ZERO, at=6.0, arrived=6, under_way=1))
    assert scale_down((*asleep, *DOWN[1:]), PLAN) == scale_down(DOWN, PLAN)


@pytest.mark.parametrize(
    "phase",
    [
        Phase(FAILED, WOKEN),
        Phase(SLOW, WOKEN),
        Phase(GOOD, (ONE, *WOKEN[1:])),
        Phase(GOOD, WOKEN[:2]),
        Phase(GOOD, (ZERO, replace(ZERO, at=0.5, wanted=1), WOKEN[1])),
    ],
    ids=["no answer", "too slow", "not from zero", "never woken", "woken unasked"],
)
def test_a_bad_cold_start(phase: Phase) -> None:
    """Each of these alone fails it."""
    assert not cold_start(phase, PLAN).is_kept


def test_a_status_that_is_not_200_is_an_error() -> None:
    """One is enough, and the line says which."""
    check = no_errors(Phase(FAILED, UP))
    assert str(check).startswith("FAIL  no 5xx       2 x 200, 1 x 503, 1 x HTTP 503;")


def test_quantile() -> None:
    """As its docstring says."""
    assert quantile({20.0: 1, 10.0: 1}, 0.5) == 10.0
    assert quantile({20.0: 2, 10.0: 1}, 0.5) == 20.0
    assert str(quantile({}, 0.5)) == "nan"


class FakeGateway(Gateway):
    """Where requests are done with at once."""

    def submit(self, request: Request) -> None:
        assert request.output_tokens == 1
        self.arrived += 1
        self.served += 1


@pytest.mark.looptime
@pytest.mark.parametrize("until_asked", [False, True])
async def test_a_replica_is_kept_while_locust_is_slow_to_begin(*, until_asked: bool) -> None:
    """It went to zero before, or while, the first request came, on a machine that was slow."""
    gateway = FakeGateway(SHORT, list)
    async with kept_awake(SHORT, gateway, until_asked=until_asked):
        await asyncio.sleep(10.1 * SHORT.idle_seconds)
        assert gateway.arrived == 20
        gateway.submit(Request(SHORT.prompt_tokens, 1))
        await asyncio.sleep(10 * SHORT.idle_seconds)
    kept = gateway.arrived
    assert (kept == 21) is until_asked
    await asyncio.sleep(10 * SHORT.idle_seconds)
    assert gateway.arrived == kept


def test_a_short_verification(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The real scaler under real load goes from one replica to several, to zero, and wakes."""
    code = main(["--short", "--record", str(tmp_path / "evidence" / "verify")])
    printed = capsys.readouterr().out
    assert code == 0, printed
    names = ["baseline", "scale up", "no 5xx", "scale down", "cold start"]
    assert re.findall(r"^PASS  (.{12})", printed.rpartition("\n\n")[2], re.MULTILINE) == [
        f"{name:<12}" for name in names
    ]
    evidence = json.loads((tmp_path / "evidence" / "verify.json").read_text())
    assert [check["name"] for check in evidence["output"]["checks"]] == names
    assert evidence["command"][:3] == ["python", "tests/load/verify.py", "--short"]
    assert evidence["inputs"]["plan"]["users"] == 16
    assert printed.strip() in (tmp_path / "evidence" / "verify.md").read_text()


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ExceptionGroup("", [LoadError("no locust")]), 2, "not verified: no locust"),
        (TimeoutError(), 1, "not over within 50 s"),
        (None, 1, "0 of 5 checks passed"),
    ],
)
def test_what_was_not_checked_has_not_passed(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception | None,
    code: int,
    said: str,
) -> None:
    """A load that could not be run, a run that did not end, and one that ended too early."""

    async def fail(*_: object) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr("verify.verify", fail)
    assert main(["--short"]) == code
    assert said in capsys.readouterr().out


# The locustfile, and the Job that runs it

JOB = LOCUSTFILE.parent / "job.yaml"
VERSIONS = ("1.29", "1.31", "1.33")

CHUNK = b'data: {"choices": [{"delta": {"content": "word"}, "finish_reason": null}]}\n\n'
LAST = b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n'
ANSWERS = {
    "": [b": a comment\n\n", CHUNK, CHUNK, LAST, b"data: [DONE]\n\n"],
    "cut off: no end": [CHUNK],
    "an error in the stream": [CHUNK, b'data: {"error": {"message": "out of memory"}}\n\n'],
    "not a stream of chat chunks": [b"data: <html>\n\n"],
    "no token": [LAST],
    "HTTP 503": None,
}
"""What a server sends, and what a client must say of it."""


@pytest.fixture
async def bad_server() -> AsyncIterator[tuple[str, list[web.Request]]]:
    """Run a server that answers in every one of these ways in turn; give its address."""
    answers = itertools.cycle(ANSWERS.values())
    asked: list[web.Request] = []

    async def chat(request: web.Request) -> web.StreamResponse:
        asked.append(request)
        body = await request.json()
        assert body["model"] == "llama"
        assert body["stream"] is True
        answer = next(answers)
        if answer is None:
            return web.Response(status=503)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for part in answer:
            await response.write(part)
            await asyncio.sleep(0.01)
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", asked
    await runner.cleanup()


async def test_the_job_counts_every_answer_and_fails_if_one_is_bad(
    bad_server: tuple[str, list[web.Request]], tmp_path: Path
) -> None:
    """Arguments and environment of the Job, as they are, but for whom they ask and how long."""
    host, asked = bad_server
    (container,) = yaml.safe_load(JOB.read_text())["spec"]["template"]["spec"]["containers"]
    environment = {each["name"]: each.get("value", "secret") for each in container["env"]}
    users = str(len(ANSWERS))
    environment |= {"LOCUST_HOST": host, "LOCUST_USERS": users, "LOAD_REQUESTS": users}
    arguments = [arg.replace("/load/", f"{LOCUSTFILE.parent}/") for arg in container["args"]]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "locust", *arguments, "--json-file=stats", "--csv=stats"),
        cwd=tmp_path,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()

    loaded = read(tmp_path / "stats")
    good = len(ANSWERS) - 1
    assert process.returncode == 1, output
    assert loaded.statuses == {"200": good, "503": 1}
    assert loaded.problems == {problem: 1 for problem in ANSWERS if problem}
    assert sum(loaded.ttft.values()) == 3, "of answers that had a token"
    assert sum(loaded.itl.values()) == 1, "of answers that had two"
    assert {request.headers["Authorization"] for request in asked} == {"Bearer secret"}


async def test_locust_that_does_not_run_is_no_load() -> None:
    """What it printed says why."""
    with pytest.raises(LoadError, match="unrecognized arguments: --no-such-flag"):
        await run_locust(PLAN, "http://127.0.0.1:9", {"no_such_flag": 1})


@pytest.mark.parametrize("version", VERSIONS)
def test_the_job_is_valid(version: str) -> None:
    """With the strict schema of Kubernetes."""
    kubernetes_validate.validate(yaml.safe_load(JOB.read_text()), version, strict=True)


def test_the_job_finds_its_locustfile() -> None:
    """The ConfigMap that the comment makes is the one that is mounted where locust looks."""
    text = JOB.read_text()
    made = re.findall(r"create configmap (\S+) --from-file (\S+)", text)
    spec = yaml.safe_load(text)["spec"]["template"]["spec"]
    (name, file) = made[0]
    assert name == spec["volumes"][0]["configMap"]["name"]
    assert Path(file).name == LOCUSTFILE.name
    assert f"/load/{LOCUSTFILE.name}" in spec["containers"][0]["args"]
    assert spec["containers"][0]["volumeMounts"][0]["mountPath"] == "/load"
