"""The five calls of the external scaler.

No handler waits for anything outside the process, but for the first reading of a new target: KEDA
sets no deadline and holds a lock while it asks.
"""

import contextlib
import functools
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from time import perf_counter
from typing import Any, TypeVar

import grpc
import structlog
from google.protobuf.message import Message

from keda_scaler.core.decision import Decision
from keda_scaler.core.trigger import Accepts, Trigger, parse_trigger
from keda_scaler.errors import KedaScalerError, TriggerError
from keda_scaler.pb import externalscaler_pb2 as pb
from keda_scaler.pb.externalscaler_pb2_grpc import ExternalScalerServicer
from keda_scaler.rpc.convert import (
    Rendered,
    to_activity,
    to_metric_specs,
    to_metrics,
    to_signal,
    to_text,
)
from keda_scaler.rpc.pushes import ActivityPushes, SpecPushes
from keda_scaler.rpc.status import status_of
from keda_scaler.rpc.streams import OpenStreams
from keda_scaler.store import Follow, Key, Store, Target
from keda_scaler.telemetry import Telemetry
from keda_scaler.turns import Turns

FIRST_READING_SECONDS = 1.0
"""Longest wait for the first reading of a new target."""

MAX_REMEMBERED = 2_000
"""Metadata of no target that is remembered, parsed or refused."""

MAX_REFERENCE_BYTES = 64 * 2**10
"""Name, namespace and metadata of a ScaledObject, which are kept. A trigger with every key has less
than 20 KiB; what is left is for certificates that stand there by mistake."""

_log = structlog.get_logger()
_Response = TypeVar("_Response", bound=Message)
_Context = grpc.aio.ServicerContext[Any, Any]
_Handler = Callable[[Any, Any, Target, _Context], _Response]
_Unary = Callable[[Any, Any, _Context], Awaitable[_Response]]
_Stream = Callable[[Any, Any, _Context], Awaitable[None]]


async def _fail(
    telemetry: Telemetry, error: Exception, method: str, context: _Context, began: float | None
) -> None:
    """Count a failed call, and end it with the status of its error. Raises, always.

    `began` is None for a stream.
    """
    status = status_of(error)
    if began is None:
        telemetry.calls.stream_ended(method, status.name)
    else:
        telemetry.calls.ended(method, status.name, began)
    if isinstance(error, KedaScalerError):
        await context.abort(status, to_text(str(error)))
    _log.error("a call failed by our fault; please report it", rpc=method, exc_info=error)
    await context.abort(status, "internal error, see the scaler's log")


def _about(
    reference: Callable[[Any], pb.ScaledObjectRef],
) -> Callable[[_Handler[_Response]], _Unary[_Response]]:
    """Find the target that a call is about, answer, count, and turn our errors into a status.

    This is where the time goes: KEDA asks 17 times in 30 s for each ScaledObject. So the handlers
    are plain functions, and the one wait there is stands here.
    """

    def wrap(handler: _Handler[_Response]) -> _Unary[_Response]:
        method = handler.__name__

        @functools.wraps(handler)
        async def call(self: "Servicer", request: Any, context: _Context) -> _Response:
            began = perf_counter()
            try:
                target = self.target(reference(request))
                if not target.first_reading.is_set():
                    await target.wait_for_first_reading(FIRST_READING_SECONDS)
                    target = self.target(reference(request))  # a reload may have dropped it
                response = handler(self, request, target, context)
            except Exception as error:
                await _fail(self.telemetry, error, method, context, began)
                raise
            self.telemetry.calls.ended(method, "OK", began)
            return response

        return call

    return wrap


def _stream(handler: _Stream) -> Any:
    """Count a stream when it ends, and turn our errors into its status.

    The generated base class knows streams as generators; gRPC takes coroutines that write as well.
    """
    method = handler.__name__

    @functools.wraps(handler)
    async def call(self: "Servicer", request: Any, context: _Context) -> None:
        try:
            await handler(self, request, context)
        except Exception as error:  # noqa: BLE001  # _fail ends the call with it
            await _fail(self.telemetry, error, method, context, None)
        self.telemetry.calls.stream_ended(method, "OK")

    return call


class Triggers:
    """Metadata to triggers. Those of no target are remembered for a while.

    KEDA asks for the specs of a target before it asks for anything else, and again and again about
    metadata that is refused. The trigger of a target that is followed stands in the store: whoever
    makes metadata up cannot make it be parsed anew.
    """

    def __init__(self, accepts: Accepts) -> None:
        self._accepts = accepts
        self._known: OrderedDict[Key, Trigger | TriggerError] = OrderedDict()

    def parse(self, key: Key, ref: pb.ScaledObjectRef) -> Trigger:
        """Parse a reference, of which `key` is the canonical form; see `parse_trigger`."""
        known = self._known.get(key)
        if known is None:
            if len(key) > MAX_REFERENCE_BYTES:
                accepted = f"at most {MAX_REFERENCE_BYTES}, names included"
                raise TriggerError([f"metadata: got {len(key)} bytes; accepted: {accepted}"])
            try:
                known = parse_trigger(ref.scalerMetadata, self._accepts, ref.namespace)
            except TriggerError as error:
                # KEDA shows these to nobody: a failing GetMetricSpec stays in its operator's log.
                _log.warning("a trigger is refused", problems=error.problems)
                known = error
            self._known[key] = known
            if len(self._known) > MAX_REMEMBERED:
                self._known.popitem(last=False)
        if isinstance(known, TriggerError):
            raise TriggerError(known.problems)
        return known

    def parse_key(self, key: Key) -> Trigger:
        """Parse the reference that a key was made of; see `parse_trigger`."""
        return self.parse(key, pb.ScaledObjectRef.FromString(key))


def _key(ref: pb.ScaledObjectRef) -> Key:
    """Write a reference in its canonical form: the order of a map on the wire is any."""
    return ref.SerializeToString(deterministic=True)


class Servicer(ExternalScalerServicer):
    """Answers KEDA from the store."""

    def __init__(
        self,
        store: Store,
        accepts: Accepts,
        telemetry: Telemetry,
        max_connection_age_seconds: float = 0.0,
    ) -> None:
        self.telemetry = telemetry
        self.max_connection_age_seconds = max_connection_age_seconds
        """After how long the server asks a client to connect anew; 0: never."""
        self._store = store
        self._triggers = Triggers(accepts)
        self._streams = OpenStreams(max_connection_age_seconds)
        telemetry.count_streams(self._streams.open_by_method, self._streams.pushes)

    @property
    def streams_made(self) -> int:
        """Streams that there have been so far."""
        return self._streams.made

    def end_streams(self) -> None:
        """End every open stream, and every later one, with OK: KEDA then comes back soon."""
        self._streams.end()

    async def accept(self, accepts: Accepts, follow: Follow) -> None:
        """Judge all triggers by other settings from now on, and follow their targets anew.

        Targets keep what is known of them. One whose trigger is refused now is dropped, and its
        streams end with that error.
        """
        triggers = Triggers(accepts)
        parsed: dict[Key, Trigger] = {}
        async for key in _slowly(self._store.keys()):
            with contextlib.suppress(TriggerError):
                parsed[key] = triggers.parse_key(key)
        # All at once: every call gets all of the old settings, or all of the new ones.
        self._triggers = triggers
        self._store.follow_anew(lambda key: parsed.get(key) or triggers.parse_key(key), follow)
        self._streams.wake()
        async for key in _slowly(self._store.keys()):
            target = self._store.find(key)
            if target is not None:
                target.decision()

    async def GetMetricSpec(
        self, request: pb.ScaledObjectRef, context: _Context
    ) -> pb.GetMetricSpecResponse:
        """Give the metrics of a trigger, a function of its metadata and the settings."""
        began = perf_counter()
        try:
            specs = self._specs(_key(request), request)
        except Exception as error:
            await _fail(self.telemetry, error, "GetMetricSpec", context, began)
            raise
        self.telemetry.calls.ended("GetMetricSpec", "OK", began)
        return specs

    @_about(lambda request: request.scaledObjectRef)
    def GetMetrics(
        self, request: pb.GetMetricsRequest, target: Target, context: _Context
    ) -> pb.GetMetricsResponse:
        """Give the value of one metric."""
        decision = target.decision_for_metrics()
        kept = _rendered(target, decision)
        response = kept.metrics.get(request.metricName)
        if response is None:
            signal = to_signal(target.trigger, request.metricName)
            response = kept.metrics[signal] = to_metrics(decision, signal)
        return response

    @_about(lambda request: request)
    def IsActive(
        self, request: pb.ScaledObjectRef, target: Target, context: _Context
    ) -> pb.IsActiveResponse:
        """Say whether there is work, and beside it why."""
        decision = target.decision_for_activity()
        context.set_trailing_metadata(_rendered(target, decision).trailers)
        return to_activity(decision)

    @_stream
    async def StreamIsActive(self, request: pb.ScaledObjectRef, context: _Context) -> None:
        """Push the state at once, at every change, and again from time to time while active."""
        target = self.target(request)
        await target.wait_for_first_reading(FIRST_READING_SECONDS)
        await self._streams.serve(context, ActivityPushes(target), target.streamed)
        self._triggers.parse(_key(request), request)  # a reload may have refused it

    @_stream
    async def StreamMetricSpec(self, request: pb.ScaledObjectRef, context: _Context) -> None:
        """Send the specs on open, and again when a reload of the settings changes them."""
        key = _key(request)
        pushes = SpecPushes(lambda: self._specs(key, request))
        await self._streams.serve(context, pushes, lambda _: contextlib.nullcontext())

    def _specs(self, key: Key, ref: pb.ScaledObjectRef) -> pb.GetMetricSpecResponse:
        """Give what a trigger scales on; of a target that is followed it is made once."""
        target = self._store.find(key)
        if target is None:
            return to_metric_specs(self._triggers.parse(key, ref))
        if not isinstance(target.specs, pb.GetMetricSpecResponse):
            target.specs = to_metric_specs(target.trigger)
        return target.specs

    def target(self, ref: pb.ScaledObjectRef) -> Target:
        """Find the target, or begin to follow it."""
        key = _key(ref)
        target = self._store.find(key)
        if target is None:
            self._store.require_room(ref.namespace)  # a flood is not worth parsing
            trigger = self._triggers.parse(key, ref)
            target = self._store.follow(key, ref.namespace, ref.name, trigger)
        return target


async def _slowly(keys: Sequence[Key]) -> AsyncGenerator[Key, None]:
    """Give keys, and let calls be answered between them."""
    turns = Turns()
    for key in keys:
        yield key
        await turns.take()


def _rendered(target: Target, decision: Decision) -> Rendered:
    """Find what was made of a decision before, or begin anew."""
    kept = target.rendered
    if not isinstance(kept, Rendered) or kept.decision is not decision:
        target.rendered = kept = Rendered(decision)
    return kept
