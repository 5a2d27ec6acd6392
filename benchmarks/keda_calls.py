"""KEDA's GetMetrics calls, as bytes: several targets, and a map whose order is never the same.

Go randomizes the order of a map's entries, so the same metadata arrives in another order with
every call. Messages are put together by hand because protobuf's Python library sorts by its own
hash instead.
"""

import random
from collections.abc import Mapping
from typing import Any

import grpc

from keda_scaler.core.signals import Signal
from keda_scaler.pb import externalscaler_pb2 as pb

Context = grpc.aio.ServicerContext[Any, Any]

SERVICE = pb.DESCRIPTOR.services_by_name["ExternalScaler"].full_name
METHOD = "GetMetrics"
METRIC = Signal.QUEUE_DEPTH.value
METRICS = (METRIC, Signal.GPU_MEMORY_PRESSURE.value)

TARGETS = 50
"""ScaledObjects that are asked about in turn."""

ORDERS = 8
"""Orders of the metadata of each."""

_SCALED_OBJECT_REF = 1
_METRIC_NAME = 2
_LENGTH_DELIMITED = 2


def metadata(page: str, poll_seconds: float) -> dict[str, str]:
    """Give a trigger's metadata: twelve keys, as one that spells its defaults out has."""
    return {
        "scalerAddress": "keda-scaler.keda.svc.cluster.local:6000",
        "engine": "vllm",
        "endpoints": page,
        "model": "simulated-llm",
        "targetQueueDepth": "5",
        "targetConcurrency": "20",
        "targetGpuMemoryPressure": "85%",
        "activationRequests": "0",
        "idleSeconds": "30",
        "pollSeconds": f"{poll_seconds:g}",
        "staleSeconds": "600",  # the scaler is stopped now and then, and must not notice
        "onUnknown": "error",  # a hold has no value, and would look like a failed call
    }


def reference(target: int, given: dict[str, str]) -> pb.ScaledObjectRef:
    """Name one target."""
    return pb.ScaledObjectRef(
        name=f"llama-{target}", namespace=f"team-{target % 7}", scalerMetadata=given
    )


def requests(given: dict[str, str], seed: int = 3) -> list[bytes]:
    """Give serialized GetMetricsRequests; neighbours are of different targets."""
    chance = random.Random(seed)
    return [
        metrics_request(reference_bytes(reference(target, {}), given, chance), METRIC)
        for _ in range(ORDERS)
        for target in range(TARGETS)
    ]


def reference_bytes(
    bare: pb.ScaledObjectRef, given: Mapping[str, str], chance: random.Random
) -> bytes:
    """Serialize a reference with the metadata in any order."""
    keys = list(given)
    chance.shuffle(keys)
    entries = (pb.ScaledObjectRef(scalerMetadata={key: given[key]}) for key in keys)
    # Serialized messages one after the other are the serialized sum of them.
    return b"".join(part.SerializeToString() for part in (bare, *entries))


def metrics_request(reference: bytes, metric: str) -> bytes:
    """Serialize a GetMetricsRequest."""
    return _field(_SCALED_OBJECT_REF, reference) + _field(_METRIC_NAME, metric.encode())


def constant_responses() -> dict[str, bytes]:
    """Give the answers of the bare server by method, of the same shapes as ours."""
    value = pb.MetricValue(metricName=METRIC, metricValue=3, metricValueFloat=3.0)
    specs = [pb.MetricSpec(metricName=m, targetSize=5, targetSizeFloat=5.0) for m in METRICS]
    active = pb.IsActiveResponse(result=True).SerializeToString()
    of_specs = pb.GetMetricSpecResponse(metricSpecs=specs).SerializeToString()
    return {
        "GetMetricSpec": of_specs,
        METHOD: pb.GetMetricsResponse(metricValues=[value]).SerializeToString(),
        "IsActive": active,
        "StreamIsActive": active,
        "StreamMetricSpec": of_specs,
    }


def holds_value(payload: bytes) -> bool:
    """Whether a call's data is one whole, uncompressed answer with a value of the metric.

    Cheap on purpose: it looks at every call's answer.
    """
    # Compressed flag and length of gRPC; tag and length of the value; its name.
    return (
        payload[:5] == (len(payload) - 5).to_bytes(5, "big")
        and payload.startswith(b"\n", 5)
        and payload.startswith(_NAME, 7)
    )


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | _LENGTH_DELIMITED]) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


_NAME = _field(1, METRIC.encode())
