"""A cluster with KEDA for the play's own test: an API server in memory, and our model of KEDA.

It keeps what is posted, and deletes what is deleted. A ScaledObject that is posted is polled,
synced and listened for as KEDA and the HPA do it (`keda_scaler.keda`), over real gRPC, and its
Deployment changes. No pod runs: a replica that is wanted counts as one that is there.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import yaml
from aiohttp import web

from keda_scaler.demo.autoscaler import Autoscaler
from keda_scaler.keda.client import Measured, MetricResult, open_channel
from keda_scaler.keda.cluster import Step
from keda_scaler.keda.scaledobject import parse_scaled_object

SYNC_SECONDS = 0.2

_NAMED = "/apis/{group}/{version}/namespaces/{namespace}/{plural}"

Object = dict[str, Any]


class Target:
    """A Deployment whose pods are there as soon as they are wanted."""

    def __init__(self, deployment: Object) -> None:
        self._spec = deployment["spec"]

    @property
    def created(self) -> int:
        count: int = self._spec["replicas"]
        return count

    def ready(self) -> Sequence[object]:
        return range(self.created)

    def scale(self, count: int) -> None:
        self._spec["replicas"] = count


class ClusterWithKeda:
    """The API server. `objects` is everything that is there, by its path."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.keda_is_broken = False
        """Whether KEDA takes ScaledObjects and does nothing about them."""

        self._events: list[Object] = []
        self._tasks = contextlib.AsyncExitStack()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Serve; give the URL."""
        app = web.Application()
        app.router.add_post("/api/v1/namespaces", self._create)
        app.router.add_delete("/api/v1/namespaces/{name}", self._delete_namespace)
        app.router.add_post(_NAMED, self._create)
        app.router.add_get(_NAMED, self._list_events)
        app.router.add_get(f"{_NAMED}/{{name}}", self._get)
        app.router.add_delete(f"{_NAMED}/{{name}}", self._delete)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await self._tasks.aclose()
            await runner.cleanup()

    async def _create(self, request: web.Request) -> web.Response:
        body: Object = json.loads(await request.read())
        path = f"{request.path}/{body['metadata']['name']}"
        if path in self.objects:
            return web.json_response({"code": 409}, status=409)
        self.objects[path] = body
        if body.get("kind") == "ScaledObject" and not self.keda_is_broken:
            await self._reconcile(body)
        return web.json_response(body, status=201)

    async def _get(self, request: web.Request) -> web.Response:
        found = self.objects.get(request.path)
        return web.json_response(found or {"code": 404}, status=200 if found else 404)

    async def _list_events(self, request: web.Request) -> web.Response:
        assert request.match_info["plural"] == "events"
        return web.json_response({"items": self._events})

    async def _delete(self, request: web.Request) -> web.Response:
        found = self.objects.pop(request.path, None)
        if found is not None and found["kind"] == "ScaledObject":
            await self._tasks.aclose()
        return web.json_response({}, status=200 if found else 404)

    async def _delete_namespace(self, request: web.Request) -> web.Response:
        """Delete it with all that is in it."""
        inside = f"/namespaces/{request.match_info['name']}"
        left = {p: o for p, o in self.objects.items() if f"{p}/".find(f"{inside}/") < 0}
        status = 200 if len(left) < len(self.objects) else 404
        self.objects = left
        return web.json_response({}, status=status)

    # KEDA and the HPA

    async def _reconcile(self, body: Object) -> None:
        scaled_object = parse_scaled_object(yaml.safe_dump(body))
        namespace, name = body["metadata"]["namespace"], body["spec"]["scaleTargetRef"]["name"]
        address = scaled_object.triggers[0].address
        assert address
        channel = await self._tasks.enter_async_context(open_channel(address))
        target = Target(self.objects[f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}"])
        autoscaler = Autoscaler(scaled_object, channel, target)
        autoscaler.on_step = self._record
        hpa: Object = {"kind": "HorizontalPodAutoscaler", "status": {}}
        path = f"/apis/autoscaling/v2/namespaces/{namespace}/horizontalpodautoscalers"
        self.objects[f"{path}/keda-hpa-{scaled_object.name}"] = hpa
        works = [autoscaler.poll(), autoscaler.sync(SYNC_SECONDS)]
        works += [autoscaler.listen(trigger) for trigger in scaled_object.external_triggers]
        works += [self._show(autoscaler, body, hpa)]
        for work in works:
            self._tasks.push_async_callback(_end, asyncio.create_task(work))

    def _record(self, step: Step) -> None:
        """Write the event of a step, under the name that the real ones give it."""
        reason = "SuccessfulRescale"
        if step.by == "KEDA":
            reason = f"KEDAScaleTarget{'Activated' if step.after else 'Deactivated'}"
        self._events.append({"reason": reason, "note": step.reason})

    async def _show(self, autoscaler: Autoscaler, body: Object, hpa: Object) -> None:
        """Keep the statuses of the ScaledObject and of the HPA."""
        while True:
            results = autoscaler.results
            conditions = {
                "Ready": bool(results) and not any(result.is_error for result in results),
                "Active": any(result.is_active for result in results),
            }
            body["status"] = {
                "hpaName": f"keda-hpa-{body['metadata']['name']}",
                "conditions": [
                    {"type": kind, "status": str(holds)} for kind, holds in conditions.items()
                ],
            }
            measured = [
                metric
                for result in results
                if isinstance(result.metrics, tuple)
                for metric in result.metrics
            ]
            replicas = max(autoscaler.cluster.replicas, 1)
            hpa["status"]["currentMetrics"] = [_current(each, replicas) for each in measured]
            await asyncio.sleep(SYNC_SECONDS / 2)


def _current(metric: MetricResult, replicas: int) -> Object:
    total = metric.answer.total if isinstance(metric.answer, Measured) else None
    average = {"averageValue": f"{round((total or 0) / replicas * 1000)}m"}
    external = {"metric": {"name": metric.hpa_name}, "current": average}
    return {"type": "External", "external": external}


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
