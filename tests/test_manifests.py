"""Manifests: what users copy is taken by KEDA and by the scaler."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from examples_world import documents, scaled_objects
from keda_scaler.app import DEMO_HOST
from keda_scaler.core.addresses import AddressRules
from keda_scaler.core.trigger import Accepts, Trigger, parse_trigger
from keda_scaler.keda.report import can_wake
from keda_scaler.keda.scaledobject import ScaledObject, parse_scaled_object
from keda_scaler.settings import load_settings

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "manifests" / "examples").glob("*.yaml"))
TEXT = (ROOT / "docs" / "examples.md").read_text()
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
YAML_BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks() -> list[Any]:
    """Give the YAML blocks of all documents that hold a ScaledObject, or the triggers of one."""
    return [
        pytest.param(document, block, id=f"{name_of(document)}-{number}")
        for document in DOCUMENTS
        for number, block in enumerate(YAML_BLOCK.findall(document.read_text()))
        if re.search(r"^(kind: ScaledObject|triggers:)$", block, re.MULTILINE)
    ]


def accepts(text: str) -> Accepts:
    """Give what a server allows that runs with the flags that a text says it runs with."""
    flags: dict[str, list[str]] = {"--prometheus": [], "--allow-address": []}
    given = shlex.split(" ".join(re.findall(r"--(?:prometheus|allow-address) [^\s`]+", text)))
    for flag, value in zip(given[::2], given[1::2], strict=True):
        flags[flag].append(value)
    settings = load_settings({key[2:].replace("-", "_"): given for key, given in flags.items()})
    demo = [DEMO_HOST] if "`make run`" in text else []
    rules = AddressRules.parse([*settings.allow_address, *demo])
    reports = "--report-tokens" in text
    return Accepts(frozenset(settings.prometheus), rules, reports=reports)


def check(scaled_object: ScaledObject, allowed: Accepts) -> list[Trigger]:
    """Parse every trigger that is ours, as the scaler would."""
    parsed = []
    for trigger in scaled_object.external_triggers:
        parsed.append(parse_trigger(trigger.metadata, allowed))
        assert trigger.address, "KEDA needs scalerAddress"
        assert parsed[-1].metric_type == trigger.metric_type
    return parsed


@pytest.mark.parametrize("path", EXAMPLES, ids=name_of)
def test_examples_are_taken(path: Path) -> None:
    """By KEDA's own checks, and by the scaler with the settings that the comments name."""
    text = path.read_text()

    for each in scaled_objects(path):
        assert check(parse_scaled_object(each), accepts(text)), "a trigger of ours"
    assert name_of(path) in text, "it says how to try it"


@pytest.mark.parametrize("path", EXAMPLES, ids=name_of)
def test_an_example_that_may_sleep_can_wake(path: Path) -> None:
    """Replicas that are not there tell nothing: something else must know of requests."""
    for each in scaled_objects(path):
        scaled_object = parse_scaled_object(each)
        sleeps = 0 in {scaled_object.min_replica_count, scaled_object.idle_replica_count}

        for trigger in check(scaled_object, accepts(path.read_text())):
            assert trigger.cold_start_seconds <= scaled_object.cooldown_period, "docs/keda.md"
        assert any(can_wake(trigger) for trigger in scaled_object.triggers) or not sleeps
        assert scaled_object.fallback is None or scaled_object.fallback.replicas > 0


@pytest.mark.parametrize("path", EXAMPLES, ids=name_of)
def test_an_example_leaves_no_pace_to_defaults(path: Path) -> None:
    """Bounds, cooldowns and the HPA's steps are set: slowly down, and not at the first lull."""
    for each in documents(path):
        if each["kind"] != "ScaledObject":
            continue
        spec = each["spec"]
        assert {"minReplicaCount", "maxReplicaCount", "pollingInterval"} <= spec.keys()
        assert spec["cooldownPeriod"] == 300
        assert spec["initialCooldownPeriod"] >= 300, "a first replica has to load"
        behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        assert behavior["scaleUp"]["policies"]
        assert behavior["scaleDown"]["stabilizationWindowSeconds"] in {300, 600}
        (policy,) = behavior["scaleDown"]["policies"]
        assert policy["value"] / policy["periodSeconds"] <= 1 / 60, "one replica a minute"


def test_the_longer_stabilisation_is_where_the_document_says() -> None:
    """600 s for the examples that docs/examples.md names, 300 s for all others."""
    longer = {
        path.stem.removeprefix("scaledobject-")
        for path in EXAMPLES
        if "stabilizationWindowSeconds: 600" in path.read_text()
    }
    (named,) = re.findall(r"Three of them, (.+), wait for 600 s", TEXT)

    assert longer == set(re.split(r", | and ", named))


@pytest.mark.parametrize(
    ("name", "wakes", "place"),
    [
        ("scaledobject-vllm", "epp", "llama-epp"),
        ("scaledobject-vllm-prometheus", "epp", None),
        ("scaledobject-reports", None, None),
    ],
)
def test_one_trigger_is_enough(name: str, wakes: str | None, place: str | None) -> None:
    """To count the load, to sleep and to wake."""
    text = (ROOT / "manifests" / "examples" / f"{name}.yaml").read_text()

    (trigger,) = check(parse_scaled_object(text), accepts(text))

    assert (trigger.wake_from, trigger.wake_service) == (wakes, place)
    assert trigger.by_reports is (wakes is None)
    assert trigger.cold_start_seconds > trigger.idle_seconds


@pytest.mark.parametrize("path", EXAMPLES, ids=name_of)
def test_every_field_of_an_example_says_why(path: Path) -> None:
    """Examples are read more often than documents. The demo's one is for running only."""
    if path.name == "demo.yaml":
        return
    plain = {
        "apiVersion",
        "kind",
        "metadata",
        "name",
        "spec",
        "scaleTargetRef",
        "triggers",
        "- name",
    }
    plain |= {"---", "key", "secretTargetRef", "authenticationRef"}
    plain |= {"advanced", "scalingModifiers", "horizontalPodAutoscalerConfig"}
    plain |= {"behavior", "scaleUp", "scaleDown", "policies"}
    for line in path.read_text().splitlines():
        key = line.partition(":")[0].strip()
        if key.startswith("#") or key in plain:
            continue
        assert " # " in line, line


@pytest.mark.parametrize(("document", "block"), blocks())
def test_yaml_blocks_are_taken(document: Path, block: str) -> None:
    """A ScaledObject in a document, or the triggers of one, are whole and right."""
    if block.startswith("triggers:"):
        spec = {"scaleTargetRef": {"name": "llama"}, **yaml.safe_load(block)}
        head = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject"}
        block = yaml.safe_dump({**head, "metadata": {"name": "llama"}, "spec": spec})

    check(parse_scaled_object(block), accepts(document.read_text()))


def test_the_document_lists_every_example() -> None:
    """Each file once, also those without KEDA."""
    listed = re.findall(r"\.\./(manifests/examples/\S+?\.yaml)\)", TEXT)

    assert sorted(listed) == sorted(map(name_of, (ROOT / "manifests/examples").rglob("*.yaml")))
