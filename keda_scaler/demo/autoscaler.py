"""KEDA's side and the HPA's, in real time: they ask over gRPC, and scale the Deployment.

What they make of the answers is `keda_scaler.keda`; here are the clocks, the calls and the streams.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import grpc
import grpc.aio

from keda_scaler.keda.client import ScalerClient, TriggerResult, sent_metadata
from keda_scaler.keda.cluster import Cluster, Step, observe, poll, push, sync_hpa
from keda_scaler.keda.scaledobject import KedaTrigger, ScaledObject
from keda_scaler.pb import externalscaler_pb2 as pb
from keda_scaler.pb.externalscaler_pb2_grpc import ExternalScalerStub

if TYPE_CHECKING:
    from keda_scaler.pb.externalscaler_pb2_grpc import ExternalScalerAsyncStub

ASK_SECONDS = 5.0
"""For all calls of one trigger. KEDA's polls have no limit, but nothing here may wait forever."""

REOPEN_SECONDS = 1.0
"""Until a stream that ended is opened again."""


class ScaleTarget(Protocol):
    """What is scaled."""

    @property
    def created(self) -> int:
        """Pods that exist and are not about to end."""

    def ready(self) -> Sequence[object]:
        """Give the pods that are ready."""

    def scale(self, count: int) -> None:
        """Set `spec.replicas`."""


class Autoscaler:
    """KEDA and the HPA of one ScaledObject."""

    def __init__(
        self,
        scaled_object: ScaledObject,
        channel: grpc.aio.Channel,
        scaled: ScaleTarget,
    ) -> None:
        self.cluster = Cluster(scaled_object, asyncio.get_running_loop().time(), replicas=0)
        self.results: tuple[TriggerResult, ...] = ()
        """What the scaler last answered, by trigger; empty before the first answer."""
        self.words: dict[str, str] = {}
        """The latest reason of KEDA and of the HPA."""
        self.on_step: Callable[[Step], None] = lambda _: None
        """Called with every change of the replicas that are wanted, before it takes effect."""
        self._client = ScalerClient(channel)
        self._stub: ExternalScalerAsyncStub = ExternalScalerStub(channel)
        self._scaled = scaled

    async def poll(self) -> None:
        """Be KEDA's loop."""
        while True:
            results = await self._ask()
            self._take(poll(self._observed(), results, _now()))
            await asyncio.sleep(self.cluster.scaled_object.polling_interval)

    async def sync(self, seconds: float) -> None:
        """Be the HPA's loop, every so many seconds."""
        while True:
            await asyncio.sleep(seconds)
            results = await self._ask() if self.cluster.replicas else ()  # disabled at zero
            self._take(sync_hpa(self._observed(), results, _now()))

    async def listen(self, trigger: KedaTrigger) -> None:
        """Be KEDA's end of an external-push trigger's stream."""
        scaled_object = self.cluster.scaled_object
        reference = pb.ScaledObjectRef(
            name=scaled_object.name,
            namespace=scaled_object.namespace,
            scalerMetadata=sent_metadata(trigger),
        )
        while True:
            try:
                async for state in self._stub.StreamIsActive(reference):
                    if state.result:
                        self._take(push(self._observed(), _now()), ", told by a push")
            except grpc.aio.AioRpcError:
                pass  # polls go on, and say what is wrong
            await asyncio.sleep(REOPEN_SECONDS)

    async def _ask(self) -> tuple[TriggerResult, ...]:
        scaled_object = self.cluster.scaled_object
        asked = (
            self._client.ask(scaled_object, trigger, within=ASK_SECONDS)
            for trigger in scaled_object.external_triggers
        )
        self.results = tuple(await asyncio.gather(*asked))
        return self.results

    def _observed(self) -> Cluster:
        return observe(self.cluster, created=self._scaled.created, ready=len(self._scaled.ready()))

    def _take(self, cluster: Cluster, how: str = "") -> None:
        """Carry a step out; `how` it came about, if not by a poll or a sync."""
        self.cluster = cluster
        step = cluster.last
        assert step is not None
        self.words[step.by] = step.reason
        if step.after != step.before:
            self.on_step(replace(step, reason=step.reason + how))
            self._scaled.scale(step.after)


def _now() -> float:
    return asyncio.get_running_loop().time()
