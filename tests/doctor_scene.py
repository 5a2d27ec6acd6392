"""Everything that the doctor looks at, in one process: scaler, cluster, engine, gateway."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import yaml

from keda_scaler.app import App
from keda_scaler.doctor.checks import Check
from keda_scaler.doctor.examine import Case, examine
from keda_scaler.keda.scaledobject import parse_scaled_object
from keda_scaler.probe import TlsFiles
from keda_scaler.settings import Settings
from keda_scaler.sim.kubernetes import SimulatedCluster, SimulatedEndpoint
from keda_scaler.sources.apiserver import at_url
from keda_scaler.sources.kubernetes import ServiceDirectory
from metrics_page import Page, capture
from wake_fixtures import GatewayPage, queue

BUSY = capture("busy-queue")
HPA = "keda-hpa-llama"
WAKE = {"wakeFrom": "epp", "wakeService": "llama-epp"}


def condition(kind: str, status: str, reason: str = "", message: str = "") -> dict[str, str]:
    """Write one condition of a status."""
    return {"type": kind, "status": status, "reason": reason, "message": message}


def settings(**more: Any) -> Settings:
    """Give settings that let loopback be read."""
    given = {"grpc_address": "127.0.0.1:0", "http_address": "127.0.0.1:0"}
    return Settings(**{**given, "allow_address": ("127.0.0.0/8",), **more})


def manifest(*triggers: Mapping[str, str], address: str = "scaler:6000", minimum: int = 0) -> str:
    """Write a ScaledObject with triggers of this metadata."""
    written = [
        {"type": "external", "metadata": {"scalerAddress": address, **each}} for each in triggers
    ]
    spec = {"scaleTargetRef": {"name": "llama"}, "minReplicaCount": minimum, "triggers": written}
    head = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject"}
    metadata = {"name": "llama", "namespace": "models"}
    return yaml.safe_dump({**head, "metadata": metadata, "spec": spec})


@dataclass
class Scene:
    """What there is, all of it in order until a test breaks it."""

    cluster: SimulatedCluster
    page: Page
    gateway: GatewayPage
    settings: Settings
    app: App
    trigger: dict[str, str] = field(default_factory=lambda: {"service": "llama", **WAKE})
    minimum: int = 0
    scaled_object: dict[str, Any] = field(default_factory=dict)
    """Its status in the cluster."""

    hpa: dict[str, Any] = field(default_factory=dict)
    """The status of its HPA."""

    @property
    def address(self) -> str:
        """Where the scaler is."""
        return f"127.0.0.1:{self.app.grpc_port}"

    def event(self, kind: str, reason: str, message: str, at: str = "2026-01-01T00:00:00Z") -> None:
        """Let the cluster have an event about the HPA."""
        about = {"kind": "HorizontalPodAutoscaler", "name": HPA}
        event: dict[str, Any] = {"metadata": {"namespace": "models"}, "involvedObject": about}
        event |= {
            "type": kind,
            "reason": reason,
            "message": message,
            "count": 7,
            "lastTimestamp": at,
        }
        self.cluster.objects.put("v1", "events", event)

    async def checks(self, **more: Any) -> dict[str, Check]:
        """Examine it, and give the checks by name."""
        text = manifest(self.trigger, minimum=self.minimum)
        given: dict[str, Any] = {
            "settings": self.settings,
            "scaled_object": parse_scaled_object(text),
            "address": self.address,
            "configure": at_url(self.cluster.url),
            "tls": TlsFiles(),
        }
        return {check.name: check async for check in examine(Case(**{**given, **more}))}


async def _no_collection(_: Callable[[], int]) -> None:
    """Collect no garbage: that takes longer than all checks, and a scene lives for one test."""
    await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def scene(**more: Any) -> AsyncIterator[Scene]:
    """Build it; `more` are settings of the scaler."""
    page, gateway = Page(BUSY), GatewayPage(queue(0))
    async with contextlib.AsyncExitStack() as exits:
        await page.start()
        exits.push_async_callback(page.stop)
        await gateway.start()
        exits.push_async_callback(gateway.stop)
        cluster = await exits.enter_async_context(SimulatedCluster())
        port = int(page.address.rpartition(":")[2])
        cluster.put_service("models", "llama", [SimulatedEndpoint("127.0.0.1", "llama-0", port)])
        epp = SimulatedEndpoint("127.0.0.1", "epp-0", gateway.port)
        cluster.put_service("models", "llama-epp", [epp])
        directory = ServiceDirectory(configure=at_url(cluster.url))
        with mock.patch("keda_scaler.app.keep_frozen", _no_collection):
            app = await exits.enter_async_context(App(settings(**more), directory))
        found = Scene(cluster, page, gateway, settings(**more), app)
        _put_objects(found)
        yield found


def _put_objects(it: Scene) -> None:
    """Let the cluster have the ScaledObject and its HPA, all well."""
    ready = [condition("Ready", "True"), condition("Active", "True")]
    it.scaled_object |= {"hpaName": HPA, "conditions": ready}
    able = [condition("AbleToScale", "True"), condition("ScalingActive", "True")]
    it.hpa |= {"currentReplicas": 1, "desiredReplicas": 2, "conditions": able}
    applied = yaml.safe_load(manifest(it.trigger)) | {"status": it.scaled_object}
    it.cluster.objects.put("keda.sh/v1alpha1", "scaledobjects", applied)
    hpa = {"metadata": {"namespace": "models", "name": HPA}, "status": it.hpa}
    it.cluster.objects.put("autoscaling/v2", "horizontalpodautoscalers", hpa)
