"""The command: what it reads, what it prints, and with which code it ends."""

import asyncio
import json
import os
import pty
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pydantic_sarif.model import StaticAnalysisResultsFormatSarifVersion210JsonSchema as Sarif
from typer.testing import CliRunner, Result

from keda_scaler.errors import ScaledObjectError
from keda_scaler.lint import cluster as clusters
from keda_scaler.lint.cluster import read_cluster
from keda_scaler.lint.command import lint_command
from keda_scaler.lint.output import without_markup
from keda_scaler.lint.rules import RULES
from keda_scaler.sim.kubernetes import SimulatedCluster
from keda_scaler.sources.apiserver import at_url
from lint_manifests import CLEAN, METADATA, TRIGGER, changed

NO_MAXIMUM = changed({"spec.maxReplicaCount": None})
SLEEPS_FOR_EVER = changed({f"{METADATA}.wakeFrom": None, f"{METADATA}.wakeService": None})
NOTE = changed({"spec.cooldownPeriod": 299})
FIX = "Set maxReplicaCount to what the GPUs and the budget allow."
MAIN = [sys.executable, "-c", "from keda_scaler.cli import main; main()", "lint"]


def cli() -> typer.Typer:
    """Give a command line with the command registered as the real one does it."""
    app = typer.Typer()
    app.command("lint")(lint_command)
    app.command("other")(lambda: None)
    return app


def run(*arguments: str, stdin: str = "", **more: str) -> Result:
    """Run the command, in a narrow terminal."""
    environment = {"COLUMNS": "40"} | more
    return CliRunner().invoke(cli(), ["lint", *arguments], input=stdin, env=environment)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder of manifests."""
    for name, text in {
        "clean": CLEAN,
        "warning": NO_MAXIMUM,
        "error": SLEEPS_FOR_EVER,
        "note": NOTE,
        "service": "kind: Service\nmetadata: {name: a}\n",
        "job": CLEAN.replace("ScaledObject", "ScaledJob"),
        "broken": "a: [",
    }.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("clean.yaml", 0),
        ("note.yaml", 0),
        ("job.yaml", 0),
        ("note.yaml --fail-on note", 1),
        ("warning.yaml", 1),
        ("warning.yaml --fail-on error", 0),
        ("clean.yaml error.yaml --fail-on error", 1),
        ("broken.yaml error.yaml", 2),
        ("missing.yaml", 2),
        (".", 2),
        ("service.yaml", 2),
    ],
)
def test_the_exit_code_tells_ci(folder: Path, arguments: str, code: int) -> None:
    """Findings are told from what could not be looked at."""
    names = [str(folder / it) if it.endswith((".yaml", ".")) else it for it in arguments.split()]

    result = run(*names)

    assert result.exit_code == code, result.output


@pytest.mark.parametrize("arguments", ["", "clean.yaml --cluster", "clean.yaml --namespace models"])
def test_a_wrong_command_is_not_a_finding(arguments: str) -> None:
    """Of the other commands it is 1, which means findings here."""
    result = subprocess.run(
        [*MAIN, *arguments.split()], capture_output=True, text=True, timeout=30, check=False
    )

    assert (result.returncode, result.stdout) == (2, "")
    assert "Traceback" not in result.stderr


def test_a_finding_says_where_why_and_what_to_do(folder: Path) -> None:
    """One line with file, line, object, severity, rule, field and what is wrong; never wrapped."""
    path = folder / "warning.yaml"
    line = NO_MAXIMUM.splitlines().index("spec:") + 1

    result = run(str(path))

    assert result.stdout.splitlines() == [
        f"{path}:{line}: models/llama: warning: no-maximum: spec.maxReplicaCount: not set, so 100",
        "    KEDA's default is 100 replicas, each with its GPUs.",
        f"    {FIX} See docs/lint.md#no-maximum",
        "0 errors, 1 warning, 0 notes in 1 ScaledObject",
    ]


def test_standard_input_and_files_are_one_input(folder: Path) -> None:
    """What is piped in may be at odds with what lies in a file."""
    other = changed({"metadata.name": "other"})

    result = run("-", str(folder / "clean.yaml"), stdin=other)

    assert "-:9: models/other: error: two-scalers" in result.stdout
    assert "clean.yaml:9: models/llama: error: two-scalers" in result.stdout


def test_what_can_be_read_is_reported_beside_what_cannot(folder: Path) -> None:
    """One broken file hides nothing, and JSON stays JSON."""
    result = run(*(str(folder / f"{it}.yaml") for it in ("broken", "error")), "--format", "json")

    assert [it["rule"] for it in json.loads(result.stdout)["findings"]] == ["cannot-wake"]
    assert result.stderr.startswith(f"keda-scaler: {folder}/broken.yaml: not YAML: ")


def test_an_annotation_switches_a_rule_off(tmp_path: Path) -> None:
    """That rule on that object only, and the summary says so."""
    annotation = {"metadata.annotations.keda-scaler/lint-ignore": "no-maximum, cannot-wake"}
    path = tmp_path / "so.yaml"
    path.write_text(
        changed({"spec.maxReplicaCount": None, "spec.cooldownPeriod": 299} | annotation)
    )

    result = run(str(path))

    assert result.exit_code == 0
    assert "no-maximum" not in result.stdout
    assert result.stdout.endswith("1 note in 1 ScaledObject; 1 ignored by annotation\n")


def test_json_has_every_field(folder: Path) -> None:
    """For scripts: what the text says, and the value by itself."""
    findings = json.loads(run(str(folder / "note.yaml"), "--format", "json").stdout)

    (finding,) = findings.pop("findings")
    assert finding.pop("reason").endswith(".")
    assert finding.pop("fix").endswith(".")
    assert finding == {
        "rule": "cooldown-below-lease",
        "severity": "note",
        "file": str(folder / "note.yaml"),
        "line": NOTE.splitlines().index("  cooldownPeriod: 299") + 1,
        "scaledObject": "models/llama",
        "path": "spec.cooldownPeriod",
        "value": "299",
        "message": "less than coldStartSeconds, 300",
        "docs": "docs/lint.md#cooldown-below-lease",
    }
    assert findings == {
        "summary": {"scaledObjects": 1, "ignored": 0, "errors": 0, "warnings": 0, "notes": 1}
    }


@pytest.mark.parametrize("name", ["clean", "error"])
def test_sarif_is_what_its_schema_asks_for(folder: Path, name: str) -> None:
    """Version 2.1.0; the schema refuses what it does not know."""
    raw = json.loads(run(str(folder / f"{name}.yaml"), "--format", "sarif").stdout)

    (log,) = Sarif.model_validate(raw).runs
    driver = log.tool.driver
    assert [rule.id for rule in driver.rules or []] == [rule.id for rule in RULES]
    results = log.results or []
    assert [it.ruleId for it in results] == (["cannot-wake"] if name == "error" else [])
    for result in results:
        assert RULES[result.ruleIndex or 0].id == result.ruleId
        (place,) = raw["runs"][0]["results"][0]["locations"]
        assert place["physicalLocation"]["artifactLocation"]["uri"] == f"{folder}/error.yaml"
        assert place["physicalLocation"]["region"] == {
            "startLine": SLEEPS_FOR_EVER.splitlines().index("  minReplicaCount: 0") + 1
        }
        assert place["logicalLocations"] == [
            {"fullyQualifiedName": "models/llama/spec.minReplicaCount"}
        ]


def test_a_terminal_gets_colours_and_a_file_does_not(folder: Path) -> None:
    """And what the manifest holds cannot steer the terminal."""
    path = folder / "so.yaml"
    path.write_text(changed({METADATA + ".{a\x1b[31mb}": "x", TRIGGER + ".type": "external"}))
    primary, secondary = pty.openpty()
    environment = {key: it for key, it in os.environ.items() if key != "NO_COLOR"}
    with subprocess.Popen(
        [*MAIN, str(path)], stdout=secondary, env=environment | {"TERM": "xterm"}
    ) as process:
        os.close(secondary)
        shown = b""
        try:
            while part := os.read(primary, 4096):
                shown += part
        except OSError:  # how Linux tells that the other end is closed
            pass
        os.close(primary)
    assert process.returncode == 1

    plain = run(str(path)).stdout

    assert b"\x1b[" in shown
    assert b"a\x1b[31mb" not in shown
    assert "\x1b" not in plain
    assert "metadata.a?[31mb: unknown key" in plain


def test_links_of_the_documents_are_readable_in_a_terminal() -> None:
    """As paths of the repository."""
    markdown = "Set `wakeFrom` ([waking](waking.md)), or less: [fallback](keda.md#fallback)."

    assert without_markup(markdown) == (
        "Set wakeFrom (docs/waking.md), or less (docs/keda.md#fallback)."
    )


# A cluster


def raw(text: str) -> dict[str, Any]:
    """Give an object as the API server lists it: without its kind."""
    content: dict[str, Any] = yaml.safe_load(text)
    del content["kind"], content["apiVersion"]
    return content


KUBECONFIG = pytest.mark.blocks("a kubeconfig is read by a loop of its own, in a thread")
HPA = {
    "metadata": {"name": "mine", "namespace": "models"},
    "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "llama"}},
}
TWICE = "spec.scaleTargetRef.name = llama: HorizontalPodAutoscaler mine scales it too"
ELSEWHERE = changed({"metadata.namespace": "others", "spec.maxReplicaCount": None})


@pytest.fixture
async def cluster() -> AsyncIterator[SimulatedCluster]:
    """Give a cluster with two ScaledObjects, and an HPA on the target of one."""
    async with SimulatedCluster() as cluster:
        cluster.objects.put("keda.sh/v1alpha1", "scaledobjects", raw(CLEAN), raw(ELSEWHERE))
        cluster.objects.put("autoscaling/v2", "horizontalpodautoscalers", HPA)
        yield cluster


async def run_on(cluster: SimulatedCluster, folder: Path, *arguments: str) -> Result:
    """Run the command with a kubeconfig of the cluster."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": cluster.url}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return await asyncio.to_thread(run, "--cluster", *arguments, KUBECONFIG=str(path))


@KUBECONFIG
async def test_a_cluster_is_read_and_only_read(cluster: SimulatedCluster, tmp_path: Path) -> None:
    """By lists, of all namespaces; findings name the object, and no line."""
    result = await run_on(cluster, tmp_path)

    assert result.exit_code == 1
    assert [line for line in result.stdout.splitlines() if not line.startswith(" ")] == [
        f"cluster: models/llama: error: two-scalers: {TWICE}",
        "cluster: others/llama: warning: no-maximum: spec.maxReplicaCount: not set, so 100",
        "1 error, 1 warning, 0 notes in 2 ScaledObjects",
    ]
    assert [path.partition("?")[0] for path in cluster.objects.requests] == [
        "/apis/keda.sh/v1alpha1/scaledobjects",
        "/apis/autoscaling/v2/horizontalpodautoscalers",
    ]


@KUBECONFIG
async def test_one_namespace_is_enough(cluster: SimulatedCluster, tmp_path: Path) -> None:
    """For those who have no rights elsewhere; SARIF of a cluster has no files."""
    arguments = ("--namespace", "others", "--format", "sarif")

    result = await run_on(cluster, tmp_path, *arguments)

    (found,) = json.loads(result.stdout)["runs"][0]["results"]
    Sarif.model_validate_json(result.stdout)
    assert found["locations"] == [
        {"logicalLocations": [{"fullyQualifiedName": "others/llama/spec.maxReplicaCount"}]}
    ]
    assert all("/namespaces/others/" in path for path in cluster.objects.requests)


@KUBECONFIG
async def test_hpas_that_may_not_be_listed_are_said(
    cluster: SimulatedCluster, tmp_path: Path
) -> None:
    """What is not seen is not taken for good; the rest is looked at."""
    cluster.objects.forbidden.add("horizontalpodautoscalers")

    result = await run_on(cluster, tmp_path)

    assert (result.exit_code, "two-scalers" in result.stdout) == (1, False)
    assert result.stderr == (
        "keda-scaler: cluster: not allowed to list horizontalpodautoscalers in the cluster; "
        "try --namespace: HPAs on the same target are not seen\n"
    )


@KUBECONFIG
async def test_scaled_objects_that_may_not_be_listed_are_an_error(
    cluster: SimulatedCluster, tmp_path: Path
) -> None:
    """Not an empty, clean cluster."""
    cluster.objects.forbidden.add("scaledobjects")

    result = await run_on(cluster, tmp_path, "--namespace", "models")

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "keda-scaler: cluster: not allowed to list scaledobjects in namespace models\n"
    )


async def test_a_cluster_without_keda_says_so() -> None:
    """The API server does not know the kind."""
    async with SimulatedCluster() as cluster:
        with pytest.raises(ScaledObjectError, match="is KEDA installed"):
            await read_cluster(at_url(cluster.url), None)


async def test_an_api_server_that_is_not_there_is_told() -> None:
    """Without its address, and soon."""
    with pytest.raises(ScaledObjectError, match=r"cannot reach .* \(ClientConnector"):
        await read_cluster(at_url("http://127.0.0.1:1"), None)


async def test_large_clusters_are_read_in_pages(
    cluster: SimulatedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each page is bounded, and so is the whole."""
    many = [raw(changed({"metadata.name": f"so-{n}"})) for n in range(8)]
    cluster.objects.put("keda.sh/v1alpha1", "scaledobjects", *many)

    monkeypatch.setattr(clusters, "_PAGE_OBJECTS", 4)
    documents, _ = await read_cluster(at_url(cluster.url), "models")

    assert [it.name for it in documents if it.kind == "ScaledObject"] == [
        "llama",
        *(f"so-{n}" for n in range(8)),
    ]
    assert len(cluster.objects.requests) == 4, "three pages, and the HPAs"
    monkeypatch.setattr(clusters, "MAX_OBJECTS", 8)
    with pytest.raises(ScaledObjectError, match="more than 8 scaledobjects"):
        await read_cluster(at_url(cluster.url), "models")
