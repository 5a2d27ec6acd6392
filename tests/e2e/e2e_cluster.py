"""`make e2e`: from zero to several replicas and back in the cluster that KUBECONFIG names."""

import os
import secrets

import pytest
from kubernetes_asyncio import client as kubernetes
from kubernetes_asyncio import config

from scaling_play import Plan, Play

PREFIX = "KEDA_SCALER_E2E_"


def plan() -> Plan:
    """Read the plan from the environment; fail where something is missing."""
    given = {
        name.removeprefix(PREFIX): text
        for name, text in os.environ.items()
        if name.startswith(PREFIX) and text
    }
    if not os.environ.get("KUBECONFIG") or "TOKEN" not in given:
        reason = f"KUBECONFIG and {PREFIX}TOKEN must be set: see tests/e2e/README.md"
        pytest.fail(reason, pytrace=False)
    return Plan(
        namespace=given.get("NAMESPACE", f"scaler-e2e-{secrets.token_hex(4)}"),
        reports_url=given.get("REPORTS", "http://127.0.0.1:8080"),
        token=given["TOKEN"],
        scaler_address=given.get("ADDRESS", "keda-scaler.keda.svc.cluster.local:6000"),
        image=given.get("IMAGE", "keda-scaler:latest"),
    )


async def test_from_zero_to_several_and_back() -> None:
    """One request wakes, a queue adds replicas, and proof of idleness puts to sleep."""
    planned, configuration = plan(), kubernetes.Configuration()
    await config.load_kube_config(
        config_file=os.environ.get("KUBECONFIG"), client_configuration=configuration
    )
    async with kubernetes.ApiClient(configuration) as api:
        await Play(planned, api, print).run()
