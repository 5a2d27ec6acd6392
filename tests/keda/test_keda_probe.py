"""The probe command, against a real server."""

import asyncio
import io
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
import typer
from rich.console import Console
from typer.testing import CliRunner, Result

from keda_scaler.keda.scaledobject import parse_scaled_object
from keda_scaler.probe import Options, Output, probe, probe_command
from scripted_scaler import (
    INACTIVE,
    Hang,
    Refusal,
    ScriptedScaler,
    manifest,
    serving,
    spec,
    specs,
    values,
)

BROKEN = Refusal(grpc.StatusCode.UNAVAILABLE, "no fresh reading")


def cli() -> typer.Typer:
    """Give a command line with the command registered as the real one does it."""
    app = typer.Typer()
    app.command("probe")(probe_command)
    app.command("other")(lambda: None)
    return app


async def invoke(*arguments: str) -> Result:
    """Run the command line beside the server's event loop."""
    return await asyncio.to_thread(lambda: CliRunner().invoke(cli(), ["probe", *arguments]))


async def probe_with(
    scaler: ScriptedScaler, tmp_path: Path, *arguments: str, more: Sequence[str] = ()
) -> Result:
    """Serve the script and probe it by --address."""
    path = tmp_path / "scaledobject.yaml"
    path.write_text(manifest(more=more))
    async with serving(scaler) as address:
        return await invoke(str(path), "--address", address, *arguments)


def text_of(result: Result) -> str:
    """Give what was printed, without the layout."""
    return " ".join(result.output.split())


async def test_active(tmp_path: Path) -> None:
    """An active trigger: its metric, what the HPA and KEDA would do, exit code 0."""
    result = await probe_with(ScriptedScaler(), tmp_path)
    assert result.exit_code == 0
    text = text_of(result)
    assert "ScaledObject models/llm: active" in text
    assert "s0-queue-depth │ 12 │ 5 │ true" in text
    assert "0 │ disabled at zero │ active: from 0 to 1 │ 3" in text
    assert "2 │ to 3: s0-queue-depth asks for 3 │ active: the HPA decides │ 5" in text


async def test_idle(tmp_path: Path) -> None:
    """An idle trigger: when KEDA goes to zero, exit code 0."""
    scaler = ScriptedScaler(metrics_script=[values(0)], active_script=[INACTIVE])
    result = await probe_with(scaler, tmp_path, more=["cooldownPeriod: 60"])
    assert result.exit_code == 0
    assert "models/llm: idle" in text_of(result)
    assert "inactive: to 0 once the cooldownPeriod of 60 s is over │ 8" in text_of(result)


@pytest.mark.parametrize(
    ("scaler", "code", "said"),
    [
        (ScriptedScaler(metrics_script=[BROKEN]), 2, "GetMetrics UNAVAILABLE: no fresh reading"),
        (ScriptedScaler(active_script=[BROKEN]), 2, "IsActive UNAVAILABLE: no fresh reading"),
        (ScriptedScaler([specs()]), 2, "GetMetricSpec empty: got empty metric spec"),
        (ScriptedScaler(metrics_script=[values()]), 2, "hold: active without values"),
        (
            ScriptedScaler([Refusal(grpc.StatusCode.INVALID_ARGUMENT, "engine: got 'x'")]),
            *(1, "GetMetricSpec INVALID_ARGUMENT: engine: got 'x'"),
        ),
    ],
    ids=["no values", "no activity", "no specs", "hold", "refused"],
)
async def test_not_known(scaler: ScriptedScaler, code: int, said: str, tmp_path: Path) -> None:
    """What is not known says why: exit code 2, or 1 when the scaler refuses the trigger."""
    result = await probe_with(
        scaler, tmp_path, more=["fallback: {failureThreshold: 1, replicas: 2}"]
    )
    assert result.exit_code == code
    assert "models/llm: unknown" in text_of(result)
    assert said in text_of(result)


async def test_inactive_without_values(tmp_path: Path) -> None:
    """Not the hold: KEDA goes to zero on it, so the probe says that it is not known to be idle."""
    scaler = ScriptedScaler(metrics_script=[values()], active_script=[INACTIVE])
    result = await probe_with(scaler, tmp_path)
    assert result.exit_code == 2
    assert "inactive without values" in text_of(result)


async def test_paused(tmp_path: Path) -> None:
    """A ScaledObject that is paused is asked about all the same, and nothing comes of it."""
    path = tmp_path / "scaledobject.yaml"
    path.write_text(
        manifest().replace("namespace: models", 'annotations: {autoscaling.keda.sh/paused: "true"}')
    )
    async with serving(ScriptedScaler(metrics_script=[values(1, 2)])) as address:
        result = await invoke(str(path), "--address", address)
    assert "1 │ deleted while paused │ nothing: paused │ 1" in text_of(result)
    assert "note: s0-queue-depth: 2 values, which the HPA sums" in text_of(result)


async def test_errors_hold(tmp_path: Path) -> None:
    """With an error and no fallback the table says that KEDA holds."""
    result = await probe_with(ScriptedScaler(metrics_script=[BROKEN]), tmp_path)
    assert "error: holds │ 7" in text_of(result)
    assert "no change: s0-queue-depth: GetMetrics UNAVAILABLE" in text_of(result)


async def test_unreachable(tmp_path: Path) -> None:
    """A scaler that is not there is unknown; the message has its address."""
    path = tmp_path / "scaledobject.yaml"
    path.write_text(manifest("127.0.0.1:1"))
    result = await invoke(str(path))
    assert result.exit_code == 2
    assert "at 127.0.0.1:1: unknown, GetMetricSpec UNAVAILABLE: " in text_of(result)


async def test_a_scaler_that_hangs(tmp_path: Path) -> None:
    """The probe ends with its timeout."""
    result = await probe_with(ScriptedScaler([Hang()]), tmp_path, "--timeout", "0.2")
    assert result.exit_code == 2
    assert "DEADLINE_EXCEEDED" in text_of(result)


async def test_the_triggers_own_address_is_the_default(tmp_path: Path) -> None:
    """Without --address the scaler is called where the trigger says."""
    path = tmp_path / "scaledobject.yaml"
    async with serving(ScriptedScaler()) as address:
        path.write_text(manifest(address))
        assert (await invoke(str(path))).exit_code == 0


async def test_replicas(tmp_path: Path) -> None:
    """--replicas chooses the counts; the default are 0, 1, 2 and the bounds."""
    usual = await probe_with(
        ScriptedScaler(), tmp_path, "--output", "json", more=["maxReplicaCount: 8"]
    )
    assert [one["replicas"] for one in json.loads(usual.output)["replicas"]] == [0, 1, 2, 8]
    chosen = await probe_with(
        ScriptedScaler(), tmp_path, *("--output", "json", "--replicas", "7", "--replicas", "3")
    )
    assert [one["replicas"] for one in json.loads(chosen.output)["replicas"]] == [3, 7]


async def test_json(tmp_path: Path) -> None:
    """One JSON document, with null for what is not known."""
    scaler = ScriptedScaler([specs(spec("a", 2.5), spec("b", 1))], [values(12), BROKEN])
    result = await probe_with(scaler, tmp_path, "--output", "json", "--replicas", "1")
    assert result.exit_code == 2
    assert len(result.output.splitlines()) == 1
    document: dict[str, Any] = json.loads(result.output)
    (trigger,) = document.pop("triggers")
    assert trigger.pop("address").startswith("127.0.0.1:")
    assert document == {
        "scaledObject": {"namespace": "models", "name": "llm"},
        "verdict": "unknown",
        "replicas": [
            {
                "replicas": 1,
                "hpa": {"replicas": 5, "why": "s0-a asks for 5"},
                "keda": {
                    "row": 4,
                    "replicas": None,
                    "words": "active with an error: holds, and the cooldown is not renewed",
                },
            }
        ],
        "notes": [],
    }
    assert trigger["metrics"] == [
        {
            "name": "a",
            "hpaName": "s0-a",
            "target": 2.5,
            "values": [12.0],
            "total": 12.0,
            "isActive": True,
            "error": None,
        },
        {
            "name": "b",
            "hpaName": "s0-b",
            "target": 1.0,
            "values": None,
            "total": None,
            "isActive": None,
            "error": "GetMetrics UNAVAILABLE: no fresh reading",
        },
    ]
    assert trigger["errors"] == [
        {"call": "GetMetrics", "code": "UNAVAILABLE", "details": "no fresh reading"}
    ]


async def test_notes(tmp_path: Path) -> None:
    """What KEDA or the HPA does unexpectedly is noted, and what was not asked."""
    path = tmp_path / "scaledobject.yaml"
    path.write_text(
        manifest(more=["advanced: {scalingModifiers: {formula: a}}"]).replace(
            "service: llm", "tokenFromEnv: TOKEN"
        )
        + "  - {type: cpu, metadata: {}, metricType: Utilization}\n"
    )
    scaler = ScriptedScaler(
        [specs(spec("a", 0.0001), spec("b", 1))], [values(1, 2), values(3)], [INACTIVE]
    )
    async with serving(scaler) as address:
        result = await invoke(str(path), "--address", address)
    text = text_of(result)
    for note in (
        "note: trigger 1 (cpu) was not asked: KEDA reads it itself",
        "note: scalingModifiers combine the metrics",
        "note: not sent, KEDA takes it from the workload's environment: tokenFromEnv",
        "note: s0-a: target 0; the API server refuses such an HPA",
        "note: s0-b: inactive with a value above 0; KEDA goes to zero all the same",
    ):
        assert note in text


WAKING = ("keda-scaler-reason", "waking: epp has requests; no replica answers yet")
STUCK = ("keda-scaler-reason", "stuck: requests stand still for stuckSeconds on llm-0")
IDLE = ("keda-scaler-reason", "proven-idle: no work")


async def test_waking(tmp_path: Path) -> None:
    """A target that wakes is active, and the line says what woke it and what is awaited."""
    scaler = ScriptedScaler(trailers=(WAKING,))
    result = await probe_with(scaler, tmp_path)
    assert result.exit_code == 0
    assert "active, IsActive is true; waking: epp has requests; no replica answers yet" in text_of(
        result
    )


async def test_stuck(tmp_path: Path) -> None:
    """A target that is held because replicas are stuck is unknown; the warning names them."""
    warning = ("keda-scaler-warning", "llm-0 is stuck: onStuck is hold")
    scaler = ScriptedScaler(metrics_script=[values()], trailers=(STUCK, warning))
    result = await probe_with(scaler, tmp_path)
    assert result.exit_code == 2
    text = text_of(result)
    assert "HPA changes nothing; stuck: requests stand still for stuckSeconds on llm-0" in text
    assert "note: trigger 0: WARNING: llm-0 is stuck: onStuck is hold" in text


@pytest.mark.parametrize(
    ("change", "more", "warns"),
    [
        ("service: llm", "", True),
        ("service: llm", "  - {type: cpu, metadata: {}, metricType: Utilization}\n", True),
        ("service: llm", "  - {type: prometheus, metadata: {}}\n", False),
        ("service: llm, wakeFrom: reports", "", False),
        ("engine: reports", "", False),
        ('endpoints: "http://10.0.0.1/metrics"', "", False),
    ],
)
async def test_nothing_can_wake_it(change: str, more: str, warns: bool, tmp_path: Path) -> None:  # noqa: FBT001  # expected
    """Scaled to zero by a trigger that knows of requests only with replicas, it sleeps forever."""
    path = tmp_path / "scaledobject.yaml"
    path.write_text(manifest().replace("service: llm", change) + more)
    scaler = ScriptedScaler(metrics_script=[values(0)], active_script=[INACTIVE], trailers=(IDLE,))
    async with serving(scaler) as address:
        result = await invoke(str(path), "--address", address)
    assert ("WARNING: nothing can wake it" in text_of(result)) is warns


@pytest.mark.parametrize(
    ("endpoints", "named"),
    [
        ("http://10.0.0.1/metrics, http://llm.models.svc:8000/m?token=hush", "llm.models.svc"),
        ("http://LLM.models.svc.cluster.local./metrics", "llm.models.svc.cluster.local"),
        ("http://llm.models/metrics", "llm.models"),
        ("http://llm/metrics", "llm"),
        ("http://10.0.0.1/metrics,http://[fd00::1]/metrics,http://localhost/metrics", None),
        ("http://llm-0.llm.models.svc/metrics,http://llm-0.example.com/metrics", None),
        ("http://[::1/,,none", None),
    ],
)
async def test_one_address_for_several_pods_is_warned_of(
    endpoints: str, named: str | None, tmp_path: Path
) -> None:
    """By the name that shows it, and without what stands behind it in the URL."""
    path = tmp_path / "scaledobject.yaml"
    path.write_text(manifest().replace("service: llm", f'endpoints: "{endpoints}"'))
    async with serving(ScriptedScaler()) as address:
        text = text_of(await invoke(str(path), "--address", address))
    warned = f"note: trigger 0: WARNING: endpoints: {named} reads as the name of a Service"
    assert (warned in text) is (named is not None)
    assert ("reads as" in text) is (named is not None)
    assert "hush" not in text


async def test_one_replica_has_not_to_be_woken(tmp_path: Path) -> None:
    """With minReplicaCount 1 there is nothing to warn of; nor with a scaler that is not ours."""
    scaler = ScriptedScaler(trailers=(IDLE,))
    result = await probe_with(scaler, tmp_path, more=["minReplicaCount: 1"])
    assert "nothing can wake it" not in text_of(result)
    idle = ["minReplicaCount: 1", "idleReplicaCount: 0"]
    assert "nothing can wake it" in text_of(await probe_with(scaler, tmp_path, more=idle))
    result = await probe_with(ScriptedScaler(), tmp_path)
    assert "nothing can wake it" not in text_of(result)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "missing.yaml: No such file or directory"),
        ("kind: Pod\n", "no document of kind ScaledObject"),
        (manifest(more=["minReplicaCount: x"]), "spec.minReplicaCount: got 'x'"),
        (manifest().replace("external", "cron"), "none is of type external or external-push"),
        (manifest(""), "spec.triggers[0].metadata.scalerAddress: missing"),
        (b"\xff\xfe", "not a UTF-8 text"),
    ],
    ids=["missing", "other kind", "bad", "not external", "no address", "binary"],
)
async def test_bad_input(content: str | bytes | None, said: str, tmp_path: Path) -> None:
    """Bad input is said on standard error, with exit code 1 and no traceback."""
    path = tmp_path / ("missing.yaml" if content is None else "scaledobject.yaml")
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    result = await invoke(str(path))
    assert result.exit_code == 1
    assert said in result.stderr
    assert not result.stdout


class Lines(io.StringIO):
    """A file that says when it has three lines."""

    def __init__(self) -> None:
        super().__init__()
        self.three = asyncio.Event()

    def write(self, text: str) -> int:
        """Count the lines."""
        written = super().write(text)
        if self.getvalue().count("\n") >= 3:
            self.three.set()
        return written


async def test_watch() -> None:
    """--watch probes again after the interval, one JSON document a line, until it is stopped."""
    scaler = ScriptedScaler(metrics_script=[values(12), values(30), BROKEN])
    out = Lines()
    async with serving(scaler) as address:
        options = Options(address=address, interval=0.01, output=Output.JSON)
        watching = asyncio.create_task(
            probe(parse_scaled_object(manifest()), options, Console(file=out))
        )
        async with asyncio.timeout(10):
            await out.three.wait()
        watching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watching
    documents = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [one["verdict"] for one in documents[:3]] == ["active", "active", "unknown"]


async def test_watch_ends_when_the_trigger_is_refused(tmp_path: Path) -> None:
    """A refused trigger will not get better: the watch ends with exit code 1."""
    scaler = ScriptedScaler([Refusal(grpc.StatusCode.INVALID_ARGUMENT, "no")])
    result = await probe_with(scaler, tmp_path, "--watch", "--interval", "0.1")
    assert result.exit_code == 1


def test_watch_is_interrupted(tmp_path: Path) -> None:
    """Control-C ends a watch without a traceback, with the shell's code for it."""
    path = tmp_path / "scaledobject.yaml"
    path.write_text(manifest("127.0.0.1:1"))
    # The signal may have been inherited as ignored, if the tests run in a shell's background.
    command = (
        "import signal, typer, keda_scaler.probe as p;"
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        "typer.run(p.probe_command)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", command, str(path), "--watch", "--output", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"Traceback" not in errors


async def test_tls(tmp_path: Path) -> None:
    """TLS with --ca-file and a client certificate; the name checked is the trigger's host."""
    ca = trustme.CA()
    server, client = ca.issue_cert("scaler.keda"), ca.issue_cert("keda")
    credentials = grpc.ssl_server_credentials(
        [(server.private_key_pem.bytes(), server.cert_chain_pems[0].bytes())],
        ca.cert_pem.bytes(),
        require_client_auth=True,
    )
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    client.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    client.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    files = (
        *("--ca-file", str(tmp_path / "ca.pem"), "--cert-file", str(tmp_path / "cert.pem")),
        *("--key-file", str(tmp_path / "key.pem")),
    )
    path = tmp_path / "scaledobject.yaml"
    text = manifest("scaler.keda:6000").replace("service: llm", 'enableTLS: "true"')
    path.write_text(text)
    async with serving(ScriptedScaler(), credentials) as address:
        assert (await invoke(str(path), "--address", address, *files)).exit_code == 0
        assert (await invoke(str(path), "--address", address)).exit_code == 2
        half = await invoke(str(path), "--address", address, *files[:4])
        assert half.exit_code == 1
        assert "give both or none" in half.stderr
        absent = await invoke(str(path), "--address", address, "--ca-file", str(tmp_path / "no"))
        assert absent.exit_code == 1
        assert "No such file" in absent.stderr
