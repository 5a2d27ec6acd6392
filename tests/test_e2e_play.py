"""The scene of `make e2e`, played without a cluster: a simulated API server, our model of KEDA."""

import contextlib
import functools
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from kubernetes_asyncio import client as kubernetes

import e2e_cluster
from keda_scaler.app import App
from keda_scaler.core import reports as core
from keda_scaler.core.trigger import Accepts, parse_trigger
from keda_scaler.keda.scaledobject import parse_scaled_object
from keda_scaler.settings import load_settings
from scaling_play import Plan, Play, quantity
from simulated_keda import ClusterWithKeda

ROOT = Path(__file__).parent.parent
TOKEN = "a-token-for-the-scene"
quick = functools.partial(Plan, polling=1, cooldown=1, idle=1, look=0.1, patience=30)
"""Makes plans of seconds instead of minutes."""


@dataclass
class Stage:
    """A scaler, and a cluster to play in."""

    cluster: ClusterWithKeda
    url: str
    """Of the API server."""

    plan: Plan

    @contextlib.asynccontextmanager
    async def playing(self, plan: Plan) -> AsyncIterator[Play]:
        async with kubernetes.ApiClient(kubernetes.Configuration(host=self.url)) as api:
            yield Play(plan, api)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"* {TOKEN}\n")
    addresses = {"grpc_address": "127.0.0.1:0", "http_address": "127.0.0.1:0"}
    cluster = ClusterWithKeda()
    async with (
        App(load_settings(addresses | {"report_tokens": tokens})) as app,
        cluster.serving() as url,
    ):
        reports, address = f"http://127.0.0.1:{app.http_port}", f"127.0.0.1:{app.grpc_port}"
        yield Stage(cluster, url, quick("scene", reports, TOKEN, address, "image"))


async def test_the_scene_is_played_to_its_end(
    stage: Stage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """0 to 1, to 3 and to 0, in the cluster of a kubeconfig and by the README's variables."""
    context = {"name": "simulated", "context": {"cluster": "c", "user": "u"}}
    config = {
        "current-context": "simulated",
        "contexts": [context],
        "clusters": [{"name": "c", "cluster": {"server": stage.url}}],
        "users": [{"name": "u", "user": {}}],
    }
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    for name, text in {
        "TOKEN": TOKEN,
        "ADDRESS": stage.plan.scaler_address,
        "REPORTS": stage.plan.reports_url,
        "NAMESPACE": "scene",
    }.items():
        monkeypatch.setenv(f"KEDA_SCALER_E2E_{name}", text)
    monkeypatch.setattr(e2e_cluster, "Plan", quick)
    monkeypatch.setattr(core, "YOUNG_SECONDS", 1.0)

    await e2e_cluster.test_from_zero_to_several_and_back()

    printed = capsys.readouterr().out  # beside what the scaler in this process logs
    assert re.findall(r"(?m)^ *\d+\.\d s  (.+)$", printed) == [
        "made Deployment and ScaledObject scene/sleeper",
        "KEDA is ready, and there is no replica",
        "one request: from 0 to 1",
        "12 wait: from 1 to 3",
        "none: to 0",
        "deleted namespace scene",
    ]
    assert not stage.cluster.objects, "nothing is left"


async def test_a_scene_that_stands_still_says_where(stage: Stage) -> None:
    """The step that did not come, what was there instead; and everything is deleted."""
    stage.cluster.keda_is_broken = True
    async with stage.playing(replace(stage.plan, patience=0.3)) as play:
        with pytest.raises(AssertionError) as raised:
            await play.run()

    assert "KEDA is ready, and there is no replica: not within 0.3 s" in str(raised.value)
    assert "the ScaledObject's Ready is None" in str(raised.value)
    assert not stage.cluster.objects, "nothing is left"


async def test_a_token_that_is_refused_ends_it_before_anything_is_made(stage: Stage) -> None:
    """With the scaler's own words."""
    async with stage.playing(replace(stage.plan, token="another-one-of-its-length")) as play:
        with pytest.raises(AssertionError, match="401"):
            await play.run()

    assert not play.told
    assert not stage.cluster.objects


async def test_a_namespace_that_exists_is_left_alone(stage: Stage) -> None:
    """It is somebody else's: nothing is made in it, and it is not deleted."""
    theirs = {"/api/v1/namespaces/scene": {"kind": "Namespace"}}
    stage.cluster.objects |= theirs
    async with stage.playing(stage.plan) as play:
        with pytest.raises(kubernetes.ApiException, match="409"):
            await play.run()

    assert stage.cluster.objects == theirs


def test_kubernetes_and_keda_take_what_is_made() -> None:
    """By the schemas of Kubernetes, by KEDA's rules and by ours."""
    plan = Plan("scene", "http://127.0.0.1:8080", TOKEN, "keda-scaler.keda:6000", "image")
    for version in ("1.29", kubernetes_validate.latest_version()):
        kubernetes_validate.validate(plan.deployment(), version, strict=True)
    scaled_object = parse_scaled_object(yaml.safe_dump(plan.scaled_object()))
    (trigger,) = scaled_object.triggers

    assert parse_trigger(trigger.metadata, Accepts(reports=True)).by_reports


@pytest.mark.parametrize(("text", "number"), [("4", 4), ("4334m", 4.334), ("2k", 2000)])
def test_quantities_are_read(text: str, number: float) -> None:
    """As the HPA's status spells them."""
    assert quantity(text) == pytest.approx(number)


def test_the_scene_is_found_by_its_own_verb_alone() -> None:
    """`make e2e` collects it, and says what it needs; no other run does."""
    verb = "pytest -c tests/e2e/pytest.ini tests/e2e"
    kept = {name: text for name, text in os.environ.items() if not name.startswith("KUBE")}
    ran = subprocess.run(
        [sys.executable, "-m", *verb.split()],
        cwd=ROOT,
        env=kept,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert verb in (ROOT / "Makefile").read_text()
    assert ran.returncode == 1
    assert "KUBECONFIG and KEDA_SCALER_E2E_TOKEN must be set" in ran.stdout
    assert not re.match(r"test_|.*_test\.py", Path(e2e_cluster.__file__).name)


def test_the_variables_stand_in_the_readme() -> None:
    """Those that are read with their defaults, and only those."""
    readme = (ROOT / "tests/e2e/README.md").read_text()
    code = Path(e2e_cluster.__file__).read_text()
    read = set(re.findall(r'given(?:\.get\(|\[)"([A-Z]+)"', code))

    assert set(re.findall(r"KEDA_SCALER_E2E_(\w+)", readme)) == read
    for default in re.findall(r'given\.get\("[A-Z]+", "(.+?)"\)', code):
        assert f"`{default}`" in readme
