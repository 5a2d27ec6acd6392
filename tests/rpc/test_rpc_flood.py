"""Somebody makes metadata up: memory is bounded, and those who are known notice nothing."""

import time
from collections.abc import Callable

import grpc
import pytest

from keda_scaler import store
from keda_scaler.core.trigger import Accepts, parse_trigger
from keda_scaler.pb import externalscaler_pb2 as pb
from keda_scaler.pb.externalscaler_pb2_grpc import ExternalScalerStub
from keda_scaler.rpc import servicer
from keda_scaler.rpc.server import Server
from keda_scaler.rpc.servicer import Servicer
from keda_scaler.store import Store, Target
from keda_scaler.telemetry import Telemetry

FLOOD = 400


def follow(target: Target) -> Callable[[], None]:
    target.listed([], time.monotonic())
    return lambda: None


def reference(name: str, **keys: str) -> pb.ScaledObjectRef:
    return pb.ScaledObjectRef(
        name=name, namespace="default", scalerMetadata={"service": name, **keys}
    )


async def test_a_flood_of_made_up_triggers_hurts_nobody_who_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beyond the cap each is told so at once; no known trigger is dropped, or parsed again."""
    monkeypatch.setattr(store, "MAX_TARGETS", 50)
    monkeypatch.setattr(servicer, "MAX_REMEMBERED", 20)
    parsed: list[str] = []
    parse = parse_trigger

    def counted(metadata: dict[str, str], accepts: Accepts, namespace: str) -> object:
        parsed.append(metadata["service"])
        return parse(metadata, accepts, namespace)

    monkeypatch.setattr(servicer, "parse_trigger", counted)
    telemetry = Telemetry()
    targets = Store(follow, telemetry.decided, time.monotonic)
    under_test = Servicer(targets, Accepts(), telemetry)
    server = Server(under_test, "127.0.0.1:0", None)
    await server.start()
    codes = []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = ExternalScalerStub(channel)
        known = reference("known")
        await stub.IsActive(known)
        for number in range(FLOOD):
            try:
                await stub.IsActive(reference(f"made-up-{number}"), timeout=5)
            except grpc.aio.AioRpcError as error:
                codes.append(error.code())
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.GetMetricSpec(reference(f"wrong-{number}", nonsense="1"))
            assert not (await stub.IsActive(known)).result
            assert len((await stub.GetMetricSpec(known)).metricSpecs) == 2
        assert len(targets) == 50
        assert len(under_test._triggers._known) <= 20
    await server.drain()
    targets.close()

    assert codes == [grpc.StatusCode.RESOURCE_EXHAUSTED] * (FLOOD - 49)
    assert parsed.count("known") == 1
