"""The doctor as it is typed: its options, what it prints, its exit code, its evidence."""

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner, Result

from doctor_scene import Scene, manifest, scene
from keda_scaler import __version__, cli
from keda_scaler.doctor.command import doctor_command
from keda_scaler.doctor.facts import settings_in_use
from keda_scaler.errors import KedaScalerError
from keda_scaler.settings import Origin

SECRETS = {
    "in a key that is not ours": "hunter2-hunter2",
    "in a URL of ours": "hush-hush-hush",
    "in another trigger": "postgres-pass-1",
    "in an annotation": "annotated-secret",
    "in a kubeconfig": "kube-token-1234",
    "in a token file": "bearer-token-77",
    "in a model": "sk-aaaabbbbccccdddd1234",
}
MAIN = [sys.executable, "-c", "from keda_scaler.cli import main; main()", "doctor"]


async def invoke(*arguments: str) -> Result:
    """Run the command beside the event loop of what it looks at."""
    app = typer.Typer()
    app.command("doctor")(doctor_command)
    app.command("other")(lambda: None)
    return await asyncio.to_thread(lambda: CliRunner().invoke(app, ["doctor", *arguments]))


def kubeconfig(folder: Path, url: str) -> Path:
    """Write a kubeconfig."""
    path = folder / "kubeconfig"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "a", "cluster": {"server": url}}],
        "users": [{"name": "a", "user": {"token": SECRETS["in a kubeconfig"]}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        "current-context": "a",
    }
    path.write_text(yaml.safe_dump(content))
    return path


def prepare(it: Scene, folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Write what the command reads; give its arguments."""
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(folder, it.cluster.url)))
    path = folder / "scaledobject.yaml"
    path.write_text(text)
    arguments = [str(path), "--address", it.address, "--allow-address", "127.0.0.0/8"]
    monkeypatch.setattr(sys, "argv", ["/usr/bin/keda-scaler", "doctor", *arguments])
    return arguments


@pytest.mark.blocks("a test writes files")
async def test_it_prints_what_is_in_use_and_each_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Versions, files, settings with their origin, then a line for each check, and the counts."""
    monkeypatch.setenv("KEDA_SCALER_HTTP_ADDRESS", "127.0.0.1:8181")
    async with scene() as it:
        arguments = prepare(it, tmp_path, manifest(it.trigger), monkeypatch)
        file = tmp_path / "settings.toml"
        file.write_text("[defaults]\npollSeconds = 2\n")
        result = await invoke(*arguments, "--config", str(file))
    assert result.exit_code == 0, result.output
    for line in (
        rf"keda-scaler +{re.escape(__version__)}",
        r"Python +3\..*",
        r"grpcio +1\..*",
        r"KEDA protocol +2\.21 \(5 calls\)",
        r"command +/usr/bin/keda-scaler",
        rf"settings file +{re.escape(str(file))}",
        rf"Kubernetes +kubeconfig {re.escape(str(tmp_path))}/kubeconfig",
        r"http_address +environment +127\.0\.0\.1:8181",
        r"allow_address +flag +127\.0\.0\.0/8",
        r"defaults +file +pollSeconds=2",
        r"grpc_address +default +0\.0\.0\.0:6000",
        r"ok +scaler +127\.0\.0\.1:\d+ answers \(plain text\)",
        r"ok +kubernetes +endpointslices may be listed and watched in models",
        r"ok +wake +epp is read: 0 requests held, 0 in all",
        r"13 ok",
    ):
        assert re.search(f"^{line}$", result.output, re.MULTILINE), line
    assert "event=" not in result.output  # no line of the log


def test_a_scaled_object_from_a_pipe() -> None:
    """A pod has no file of it: it comes on standard input."""
    done = subprocess.run(
        [*MAIN, "-", "--address", "127.0.0.1:1"],
        input=manifest({"engine": "reports"}).encode(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert b"fail     trigger 0      reports: the server takes none" in done.stdout


@pytest.mark.blocks("a test writes files")
async def test_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record has the command, versions, model, inputs and what was observed; in both forms."""
    async with scene() as it:
        arguments = prepare(it, tmp_path, manifest(it.trigger), monkeypatch)
        it.page.body = it.page.body.replace("vllm:num_requests_waiting{", "vllm:num_waiting{")
        result = await invoke(*arguments, "--record", str(tmp_path / "run.md"))
    assert result.exit_code == 1
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["command"] == ["keda-scaler", "doctor", *arguments]
    assert record["exitCode"] == 1
    assert record["versions"]["keda-scaler"] == __version__
    assert record["model"] == "tiny-llama"
    assert record["inputs"]["scaledObject"] == yaml.safe_load(manifest(it.trigger))
    origins = {each["name"]: each["origin"] for each in record["inputs"]["settings"]}
    assert origins["allow_address"] == "flag"
    checks = {each["check"]: each for each in record["output"]["checks"]}
    assert checks["families"]["status"] == "fail"
    assert "vllm:num_waiting" in checks["families"]["says"]
    assert record["text"] == result.output
    markdown = (tmp_path / "run.md").read_text()
    assert f"keda-scaler doctor {arguments[0]} --address" in markdown
    assert "service: llama" in markdown
    assert "fail     families" in markdown


@pytest.mark.blocks("a test writes files")
async def test_no_secret_is_printed_or_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Secrets are planted wherever somebody may put one, and none comes out anywhere."""
    token = tmp_path / "token"
    token.write_text(SECRETS["in a token file"])
    file = tmp_path / "settings.toml"
    file.write_text(
        f'[prometheus.main]\nurl = "http://127.0.0.1:1"\nbearer_token_file = "{token}"\n'
    )
    async with scene() as it:
        url = f"{it.page.url}?key={SECRETS['in a URL of ours']}"
        text = manifest(
            {"endpoints": url},
            {"service": "llama", "password": SECRETS["in a key that is not ours"]},
            {"prometheus": "main", "model": SECRETS["in a model"]},
        )
        raw: dict[str, Any] = yaml.safe_load(text)
        raw["metadata"]["annotations"] = {"last-applied": SECRETS["in an annotation"]}
        connection = f"postgres://u:{SECRETS['in another trigger']}@db"
        other = {"connection": connection, "password": SECRETS["in another trigger"]}
        raw["spec"]["triggers"].append({"type": "postgresql", "metadata": other})
        arguments = prepare(it, tmp_path, yaml.safe_dump(raw), monkeypatch)
        record = ["--record", str(tmp_path / "run"), "--config", str(file)]
        result = await invoke(*arguments, *record)
    texts = [
        result.output,
        *(tmp_path.joinpath(f"run.{end}").read_text() for end in ("json", "md")),
    ]
    assert "page [0]" in result.output
    for where, secret in SECRETS.items():
        printed = [secret in text for text in texts]
        assert not any(printed), (where, printed)
    assert "password: (hidden)" in texts[2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{}/bad.yaml"], "no document of kind ScaledObject"),
        (["{}/none.yaml"], "No such file"),
        (["--ca-file", "{}/none.pem"], "No such file"),
        (["--grpc-address", "nowhere"], "grpc_address: HOST:PORT is accepted"),
        (["--config", "{}/none.toml"], "No such file"),
        (["--record", "{}/no/run"], "no/run.json cannot be written"),
        (["--record", "{}/.json"], "accepted: the name of a file"),
    ],
)
async def test_what_cannot_be_used_is_said_at_once(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    """Bad input, bad settings, a record that cannot be written: exit code 1, before any check."""
    await asyncio.to_thread((tmp_path / "bad.yaml").write_text, "kind: Pod\n")
    result = await invoke(*(each.format(tmp_path) for each in arguments))
    assert result.exit_code == 1
    problem = result.exception
    assert said in (str(problem) if isinstance(problem, KedaScalerError) else result.stderr)
    assert not result.stdout


def test_a_wrong_command() -> None:
    """It is said without a traceback, and so is an error of ours; exit code 1."""
    for arguments, said in ((["--nonsense"], "No such option"), (["--record", "/"], "name of a")):
        done = subprocess.run([*MAIN, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_an_interrupt_ends_it(tmp_path: Path) -> None:
    """Ctrl-C ends it with the shell's code for it."""
    command = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from keda_scaler.cli import main; main()"
    )
    path = tmp_path / "scaledobject.yaml"
    path.write_text(manifest({"service": "llama"}))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with subprocess.Popen(
            [sys.executable, "-u", "-c", command, "doctor", str(path), "--address", address],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            server.settimeout(20)
            connection, _ = server.accept()  # it is within its first check
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=20)
            connection.close()
    assert process.returncode == 130
    assert "Traceback" not in errors


def test_it_takes_the_flags_of_serve() -> None:
    """Whatever the scaler is started with can be given to the doctor."""
    app = typer.Typer()
    app.command("doctor")(doctor_command)
    ours = {option for each in typer.main.get_command(app).params for option in each.opts}
    group: Any = typer.main.get_command(cli.app)
    theirs = {option for each in group.commands["serve"].params for option in each.opts}
    assert theirs <= ours


def test_a_later_place_of_a_setting_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flag over environment over file over default, as when they are loaded."""
    file = tmp_path / "settings.toml"
    file.write_text(
        'grpc_address = "1.1.1.1:1"\nhttp_address = "1.1.1.1:1"\ndemo = true\n'
        '[prometheus.main]\nurl = "http://10.0.0.1:9090"\nusername = "u"\npassword_file = "/p"\n'
    )
    monkeypatch.setenv("KEDA_SCALER_HTTP_ADDRESS", "2.2.2.2:2")
    monkeypatch.setenv("KEDA_SCALER_GRPC_ADDRESS", "2.2.2.2:2")
    monkeypatch.setenv("KEDA_SCALER_TLS_CERT", "")
    origin = Origin({"grpc_address": "3.3.3.3:3", "demo": None, "allow_address": []}, file)
    found = {
        it["name"]: (it["origin"], it["value"]) for it in settings_in_use(origin.load(), origin)
    }
    assert found["grpc_address"] == ("flag", "3.3.3.3:3")
    assert found["http_address"] == ("environment", "2.2.2.2:2")
    assert found["demo"] == ("file", "true")
    assert found["tls_cert"] == ("default", "none")
    assert found["allow_address"] == ("default", "none")
    shown = "main=http://10.0.0.1:9090 (username=u, password_file=/p)"
    assert found["prometheus"] == ("file", shown)
