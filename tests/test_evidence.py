"""Evidence: what is in a record, what never is, and where it is written."""

import asyncio
import io
import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
import typer
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from keda_scaler.demo.command import play
from keda_scaler.errors import EvidenceError
from keda_scaler.evidence import (
    HIDDEN,
    Observed,
    files_of,
    record,
    require_writable,
    to_markdown,
    write,
)
from keda_scaler.keda.scaledobject import parse_scaled_object
from keda_scaler.probe import probe_command
from scripted_scaler import Refusal, ScriptedScaler, manifest, serving
from test_demo import FAST

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SEEN = Observed(["keda-scaler", "probe", "a b.yaml"], 2, "a line\n", {"verdict": "unknown"})


def with_metadata(metadata: dict[str, str], kind: str = "external") -> Observed:
    """Give what was observed of a ScaledObject with such a trigger."""
    raw = yaml.safe_load(manifest())
    raw["spec"]["triggers"] = [{"type": kind, "metadata": metadata}]
    return replace(SEEN, manifest=raw)


def test_a_record() -> None:
    """Everything that is needed to run it again, as plain JSON."""
    made = record(SEEN, AT)
    assert json.loads(json.dumps(made)) == made
    assert made["at"] == "2026-01-02T03:04:05+00:00"
    assert made["command"] == ["keda-scaler", "probe", "a b.yaml"]
    assert {"keda-scaler", "Python", "grpcio", "KEDA protocol"} <= made["versions"].keys()
    assert made["output"] == {"verdict": "unknown"}
    markdown = to_markdown(made)
    assert markdown.startswith("# Evidence: keda-scaler probe\n")
    assert "keda-scaler probe 'a b.yaml'" in markdown
    assert "| exit code | 2 |" in markdown


@pytest.mark.parametrize(
    ("kind", "key", "value", "shown"),
    [
        ("external", "service", "llama", "llama"),
        ("external-push", "scalerAddress", "scaler:6000", "scaler:6000"),
        ("external", "sevice", "llama", HIDDEN),
        ("external", "tlsClientKey", "x", HIDDEN),
        ("external", "model", "hf_abcdefghijklmnopqrst", HIDDEN),
        ("external", "endpoints", "http://u:p@10.0.0.1/metrics", HIDDEN),
        (
            "external",
            "endpoints",
            "http://10.0.0.1/metrics?key=p",
            f"http://10.0.0.1/metrics?{HIDDEN}",
        ),
        ("prometheus", "service", "llama", HIDDEN),
    ],
)
def test_what_is_shown_of_a_trigger(kind: str, key: str, value: str, shown: str) -> None:
    """Our own keys, unless the value looks like a secret; nothing of other scalers' triggers."""
    made = record(with_metadata({key: value}, kind), AT)
    (trigger,) = made["inputs"]["scaledObject"]["spec"]["triggers"]
    assert trigger["metadata"] == {key: shown}


@given(st.text("abcdefghij0123456789-_.=", min_size=8, max_size=40), st.text(max_size=20))
def test_a_hidden_value_is_hidden_everywhere(secret: str, around: str) -> None:
    """Whatever repeats it, in whatever place: the command, the output, the settings, the text."""
    seen = with_metadata({"someKey": secret})
    said = f"{around}{secret}{around}"
    made = record(
        replace(
            seen,
            command=["keda-scaler", said],
            text=f"{said}\nsecond line",
            output={"a": [{said: said}]},
            settings=[{"name": "a", "value": said, "origin": "flag"}],
            inputs={"more": (said,)},
        ),
        AT,
    )
    del made["versions"], made["platform"], made["format"], made["exitCode"], made["at"]
    assert secret not in json.dumps(made["command"] + [made["text"], made["output"]])
    assert secret not in str(made["inputs"]["settings"]) + str(made["inputs"]["more"])


def test_what_looks_like_a_secret_is_hidden_in_any_text() -> None:
    """Lines with a token are left out, and credentials are cut out of URLs."""
    text = "fine\nAuthorization: Bearer abc\nhttp://user:pass@host/x fails\n-----BEGIN PRIVATE KEY"
    made = record(replace(SEEN, text=text), AT)
    assert made["text"] == f"fine\n{HIDDEN}\nhttp://{HIDDEN}@host/x fails\n{HIDDEN}"


def test_a_text_cannot_leave_its_block() -> None:
    """Markdown in what was printed stays what was printed, and a pipe stays in its cell."""
    settings = [{"name": "a", "value": "x|y\nz", "origin": "flag"}]
    markdown = to_markdown(record(replace(SEEN, text="```\n# no head", settings=settings), AT))
    assert "````text\n```\n# no head\n````\n" in markdown
    assert r"| `a` | x\|y z | flag |" in markdown


def test_where_it_is_written(tmp_path: Path) -> None:
    """One rule: the name without .json or .md at its end, and then both."""
    for name in ("run", "run.json", "run.md"):
        assert files_of(tmp_path / name) == (tmp_path / "run.json", tmp_path / "run.md")
    assert files_of(Path("a.b"))[0] == Path("a.b.json")
    require_writable(None)
    require_writable(tmp_path / "run")
    write(tmp_path / "run", SEEN, AT)
    assert json.loads((tmp_path / "run.json").read_text()) == record(SEEN, AT)
    assert (tmp_path / "run.md").read_text() == to_markdown(record(SEEN, AT))
    (tmp_path / "folder.json").mkdir()
    for wrong in ("folder", "no/run", ".md"):
        with pytest.raises(EvidenceError, match="--record"):
            require_writable(tmp_path / wrong)
    with pytest.raises(EvidenceError, match=r"folder\.json: Is a directory"):
        write(tmp_path / "folder", SEEN, AT)


@pytest.mark.blocks("a test writes files")
async def test_probe_records(tmp_path: Path) -> None:
    """The ScaledObject as it was given, the answers, and what was printed; also of a failure."""
    app = typer.Typer()
    app.command("probe")(probe_command)
    app.command("other")(lambda: None)
    path = tmp_path / "scaledobject.yaml"
    path.write_text(manifest().replace("service: llm", "service: llm, model: tiny"))
    refusal = ScriptedScaler(metrics_script=[Refusal(grpc.StatusCode.UNAVAILABLE, "no")])

    def probe(*more: str) -> Any:
        return CliRunner().invoke(app, ["probe", str(path), "--address", address, *more])

    async with serving(refusal) as address:
        result = await asyncio.to_thread(probe, "--record", str(tmp_path / "run"))
        watched = await asyncio.to_thread(probe, "--record", str(tmp_path / "w"), "--watch")
    assert result.exit_code == 2
    made = json.loads((tmp_path / "run.json").read_text())
    assert made["exitCode"] == 2
    assert made["model"] == "tiny"
    assert made["output"]["verdict"] == "unknown"
    assert made["inputs"]["scaledObject"] == yaml.safe_load(path.read_text())
    assert made["text"] == result.output
    assert watched.exit_code == 2
    assert "not with --watch" in watched.output
    assert not (tmp_path / "w.json").exists()


def test_the_demo_records(tmp_path: Path) -> None:
    """The plan, the ScaledObject, every change with its reason, and the verdict."""
    plan = replace(FAST, limit_seconds=1.0)
    code = play(plan, Console(file=io.StringIO()), tmp_path / "run")
    assert code == 1
    made = json.loads((tmp_path / "run.json").read_text())
    assert made["exitCode"] == 1
    assert made["model"] == FAST.model.name
    assert made["inputs"]["plan"]["limit_seconds"] == 1.0
    assert parse_scaled_object(yaml.safe_dump(made["inputs"]["scaledObject"])).name == "llama"
    assert made["output"]["verdict"].startswith("FAILED")
    assert {"requests", "scaler"} <= {change["by"] for change in made["output"]["journal"]}
    lines = (tmp_path / "run.md").read_text().splitlines()
    assert any(re.search(r"requests +the first one comes", line) for line in lines)
