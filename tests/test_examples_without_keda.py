"""The examples without KEDA: objects that Kubernetes takes, with the numbers of those with KEDA."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from examples_world import EXAMPLES, documents
from keda_scaler.core.trigger import Accepts, parse_trigger

WITHOUT_KEDA = EXAMPLES / "without-keda"
OLDEST = "1.29"
FILES = sorted(WITHOUT_KEDA.glob("*.yaml"))


def versions() -> list[str]:
    """Give the oldest Kubernetes that we look at, and the newest that is known."""
    return [OLDEST, kubernetes_validate.latest_version()]


def hpa() -> dict[str, Any]:
    (found,) = documents(WITHOUT_KEDA / "hpa.yaml")
    return found


@pytest.mark.parametrize("version", versions())
@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.name))
def test_kubernetes_takes_it(path: Path, version: str) -> None:
    """By its own schemas, unknown fields refused; the kinds of others have none."""
    for each in documents(path):
        if each.get("apiVersion", "monitoring.coreos.com/v1") != "monitoring.coreos.com/v1":
            kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.name))
def test_it_says_how_it_is_used(path: Path) -> None:
    """By the command that is to be typed."""
    assert str(path.relative_to(EXAMPLES.parent.parent)) in path.read_text()


def test_the_numbers_are_those_of_the_example_with_keda() -> None:
    """The same targets, the same bound, the same pace."""
    scaled, spec = documents(EXAMPLES / "scaledobject-vllm.yaml")[0]["spec"], hpa()["spec"]
    trigger = parse_trigger(scaled["triggers"][0]["metadata"], Accepts())
    targets = {each["pods"]["metric"]["name"]: each["pods"]["target"] for each in spec["metrics"]}

    assert {target["type"] for target in targets.values()} == {"AverageValue"}
    assert {name: float(target["averageValue"]) for name, target in targets.items()} == {
        "inference_queue_depth": trigger.target_queue_depth,
        "inference_gpu_memory_ratio": trigger.target_gpu_memory_pressure,
    }
    assert (trigger.target_queue_depth, trigger.target_gpu_memory_pressure) == (5, 0.85)
    assert spec["maxReplicas"] == scaled["maxReplicaCount"]
    assert spec["behavior"] == scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]


def test_the_hpa_scales_the_deployment_that_has_the_exporter() -> None:
    """One name and one namespace, and Prometheus scrapes what the pods have."""
    config, deployment, monitor = documents(WITHOUT_KEDA / "exporter-sidecar.yaml")
    pod = deployment["spec"]["template"]

    assert hpa()["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    everything = (config, deployment, monitor, hpa())
    assert {each["metadata"]["namespace"] for each in everything} == {"models"}
    assert monitor["spec"]["selector"] == deployment["spec"]["selector"]
    assert deployment["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    ports = {
        port["name"]: port["containerPort"]
        for container in pod["spec"]["containers"]
        for port in container["ports"]
    }
    assert ports[endpoint["port"]] == 9401
