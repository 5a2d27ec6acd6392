"""From zero to several replicas and back, in a cluster: what is made, stated and looked at.

Everything happens in a namespace of its own: a Deployment without replicas and a ScaledObject that
is scaled by reports alone. The play posts reports to the scaler as a queue's owner would, and looks
at what the API server says: no pod has to run. It ends with everything deleted, however it ends.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
from kubernetes_asyncio import client as kubernetes

if TYPE_CHECKING:
    from kubernetes_asyncio.client import ApiClient

NAME = "sleeper"
METRIC = "s0-queue-depth"
TARGET = 5
"""Waiting requests per replica."""

PEAK = 12
"""Waiting requests at most: three replicas' worth."""

REPLICAS = 3
REQUEST_SECONDS = 15.0

_SUFFIXES = {"m": 1e-3, "k": 1e3, "M": 1e6}

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """Where and how fast. All times in seconds."""

    namespace: str
    """Is created, and deleted at the end."""

    reports_url: str
    """The scaler's HTTP port, as this machine reaches it."""

    token: str
    """May report for the namespace."""

    scaler_address: str
    """The scaler's gRPC port, as KEDA reaches it."""

    image: str
    """Of the Deployment. Nobody minds if it cannot be pulled."""

    polling: int = 5
    cooldown: int = 15
    idle: int = 10
    look: float = 1.0
    """Between two looks at the cluster; each also states the report anew."""

    patience: float = 120.0
    """Longest wait for each step; the HPA syncs every 15 s, KEDA may need a minute to connect."""

    def deployment(self) -> Object:
        """Write the Deployment: none of its replicas, which KEDA is to change."""
        labels = {"app.kubernetes.io/name": NAME}
        container = {"name": NAME, "image": self.image, "args": ["serve"]}
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": NAME, "namespace": self.namespace},
            "spec": {
                "replicas": 0,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
            },
        }

    def scaled_object(self) -> Object:
        """Write the ScaledObject: quick to sleep, and the HPA in no hurry to scale down."""
        metadata = {
            "scalerAddress": self.scaler_address,
            "engine": "reports",
            "targetQueueDepth": str(TARGET),
            "idleSeconds": str(self.idle),
            "coldStartSeconds": str(max(self.idle, 30)),
        }
        return {
            "apiVersion": "keda.sh/v1alpha1",
            "kind": "ScaledObject",
            "metadata": {"name": NAME, "namespace": self.namespace},
            "spec": {
                "scaleTargetRef": {"name": NAME},
                "minReplicaCount": 0,
                "maxReplicaCount": REPLICAS + 1,
                "pollingInterval": self.polling,
                "cooldownPeriod": self.cooldown,
                "initialCooldownPeriod": self.cooldown,
                "triggers": [{"type": "external-push", "metadata": metadata}],
            },
        }


def quantity(text: str) -> float:
    """Read a quantity of the HPA's status: `4` and `4334m`."""
    factor = _SUFFIXES.get(text[-1:], 0.0)
    return float(text[:-1]) * factor if factor else float(text)


class Play:
    """One run. `told` has a line for everything that happened, with its second."""

    def __init__(
        self, plan: Plan, api: "ApiClient", tell: Callable[[str], None] = lambda _: None
    ) -> None:
        self.plan = plan
        self.told: list[str] = []
        self._core = kubernetes.CoreV1Api(api)
        self._objects = kubernetes.CustomObjectsApi(api)  # plain JSON, of any group
        self._tell = tell
        self._began = time.monotonic()
        self._report = {"waiting": 0, "running": 0}

    async def run(self) -> None:
        """Play all of it.

        Raises:
            AssertionError: naming the step that did not come, and what was there instead.

        """
        async with aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {self.plan.token}"},
            timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS),
        ) as session:
            await self._state(session)  # the first thing that fails when the addresses are wrong
            await self._create_namespace()  # one that exists is not ours to delete
            try:
                await self._create()
                await self._play(session)
            finally:
                await self._delete()

    async def _play(self, session: aiohttp.ClientSession) -> None:
        await self._until(session, "KEDA is ready, and there is no replica", self._is_asleep)
        self._report = {"waiting": 1, "running": 0}
        await self._until(session, "one request: from 0 to 1", self._has_woken)
        self._report = {"waiting": PEAK, "running": 1}
        await self._until(session, f"{PEAK} wait: from 1 to {REPLICAS}", self._has_grown)
        self._report = {"waiting": 0, "running": 0}
        await self._until(session, "none: to 0", self._is_asleep_again)

    # What is looked for. Each gives what is still missing; nothing when all is there.

    async def _is_asleep(self) -> str | None:
        return await self._without("Ready") or await self._not_at(0)

    async def _has_woken(self) -> str | None:
        missing = await self._not_at(1) or await self._without("Active")
        return missing or await self._no_event("KEDAScaleTargetActivated")

    async def _has_grown(self) -> str | None:
        missing = await self._not_at(REPLICAS) or await self._no_metric()
        return missing or await self._no_event("SuccessfulRescale")

    async def _is_asleep_again(self) -> str | None:
        return await self._not_at(0) or await self._no_event("KEDAScaleTargetDeactivated")

    async def _not_at(self, replicas: int) -> str | None:
        deployment = await self._get("apps", "v1", "deployments", NAME)
        found = deployment["spec"].get("replicas", 1)
        return None if found == replicas else f"the Deployment is at {found}"

    async def _without(self, condition: str) -> str | None:
        scaled = await self._get("keda.sh", "v1alpha1", "scaledobjects", NAME)
        conditions = {c["type"]: c for c in scaled.get("status", {}).get("conditions", [])}
        found = conditions.get(condition, {})
        if found.get("status") == "True":
            return None
        return f"the ScaledObject's {condition} is {found.get('status')}: {found.get('message')}"

    async def _no_metric(self) -> str | None:
        """Look for our metric in the HPA's status; it is a mean over replicas."""
        scaled = await self._get("keda.sh", "v1alpha1", "scaledobjects", NAME)
        name = scaled.get("status", {}).get("hpaName") or f"keda-hpa-{NAME}"
        hpa = await self._get("autoscaling", "v2", "horizontalpodautoscalers", name)
        found = {
            each["external"]["metric"]["name"]: quantity(
                each["external"]["current"].get("averageValue", "0")
            )
            for each in hpa.get("status", {}).get("currentMetrics") or []
            if each["type"] == "External"
        }
        right = abs(found.get(METRIC, 0) * REPLICAS - PEAK) < 0.05 * PEAK
        return None if right else f"the HPA's metrics are {found}"

    async def _no_event(self, reason: str) -> str | None:
        events = await self._objects.list_namespaced_custom_object(
            "events.k8s.io",
            "v1",
            self.plan.namespace,
            "events",
            _request_timeout=REQUEST_SECONDS,
        )
        reasons = {event.get("reason") for event in events["items"]}
        return None if reason in reasons else f"no event {reason}, but {sorted(map(str, reasons))}"

    # How it is done

    async def _until(
        self, session: aiohttp.ClientSession, step: str, missing: Callable[[], Any]
    ) -> None:
        end = time.monotonic() + self.plan.patience
        while True:
            await self._state(session)
            found = await missing()
            if found is None:
                self._say(step)
                return
            if time.monotonic() > end:
                happened = "\n".join(self.told)
                raise AssertionError(
                    f"{step}: not within {self.plan.patience:g} s; {found}\n{happened}"
                )
            await asyncio.sleep(self.plan.look)

    def _say(self, text: str) -> None:
        line = f"{time.monotonic() - self._began:6.1f} s  {text}"
        self.told.append(line)
        self._tell(line)

    async def _state(self, session: aiohttp.ClientSession) -> None:
        """State the report again, so that it does not expire."""
        body = {"namespace": self.plan.namespace, "name": NAME, "reporter": "e2e", **self._report}
        async with session.post(f"{self.plan.reports_url}/v1/reports", json=body) as answer:
            assert answer.status == 200, f"{answer.status}: {await answer.text()}"

    async def _get(self, group: str, version: str, plural: str, name: str) -> Object:
        """Read an object; empty while there is none."""
        try:
            found: Object = await self._objects.get_namespaced_custom_object(
                *(group, version, self.plan.namespace, plural, name),
                _request_timeout=REQUEST_SECONDS,
            )
        except kubernetes.ApiException as error:
            if error.status != 404:
                raise
            return {}
        return found

    async def _create_namespace(self) -> None:
        namespace = kubernetes.V1Namespace(
            metadata=kubernetes.V1ObjectMeta(name=self.plan.namespace)
        )
        await self._core.create_namespace(namespace, _request_timeout=REQUEST_SECONDS)

    async def _create(self) -> None:
        for group, version, plural, body in (
            ("apps", "v1", "deployments", self.plan.deployment()),
            ("keda.sh", "v1alpha1", "scaledobjects", self.plan.scaled_object()),
        ):
            await self._objects.create_namespaced_custom_object(
                *(group, version, self.plan.namespace, plural, body),
                _request_timeout=REQUEST_SECONDS,
            )
        self._say(f"made Deployment and ScaledObject {self.plan.namespace}/{NAME}")

    async def _delete(self) -> None:
        """Delete all of it: the ScaledObject first, while KEDA can still take its finalizer off."""
        scaled = ("keda.sh", "v1alpha1", self.plan.namespace, "scaledobjects", NAME)
        with contextlib.suppress(kubernetes.ApiException, aiohttp.ClientError, TimeoutError):
            async with asyncio.timeout(self.plan.patience):
                await self._objects.delete_namespaced_custom_object(*scaled)
                while await self._get("keda.sh", "v1alpha1", "scaledobjects", NAME):
                    await asyncio.sleep(self.plan.look)
        with contextlib.suppress(kubernetes.ApiException):
            await self._core.delete_namespace(self.plan.namespace, _request_timeout=REQUEST_SECONDS)
        self._say(f"deleted namespace {self.plan.namespace}")
