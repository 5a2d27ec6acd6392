"""What the exporter publishes: the table of names, and what is known written under them.

Absent is absent: what is not known has no sample, and a family without samples is not on the page.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import Metric

from keda_scaler.exporter.engine import EngineAnswer, histogram_of
from keda_scaler.gpu.nvml import Gpu
from keda_scaler.gpu.podresources import Holders


@dataclass(frozen=True, slots=True)
class Gauge:
    """One published metric."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    """The labels that it can have; one whose value is not known is left out."""


_GPU = ("uuid", "gpu")
_HELD_GPU = (*_GPU, "namespace", "pod", "container")

ENGINE_UP = Gauge("inference_engine_up", "Whether the engine's page was read the last time.")
ENGINE_INFO = Gauge("inference_engine_info", "Always 1; the label names the engine.", ("engine",))
QUEUE_DEPTH = Gauge("inference_queue_depth", "Requests that wait in the engine.", ("model",))
RUNNING = Gauge("inference_requests_running", "Requests in the engine's running batch.", ("model",))
KV_CACHE = Gauge(
    "inference_kv_cache_usage_ratio", "Share of the KV cache that is in use, 0 to 1.", ("model",)
)
DRIVER_UP = Gauge("nvidia_driver_up", "Whether the NVIDIA driver answered the last time.")
GPU_UP = Gauge("nvidia_gpu_up", "Whether all that the GPU has could be read.", _GPU)
GPU_INFO = Gauge(
    "nvidia_gpu_info",
    "Always 1; the labels name the product, and the GPU that a MIG device is a part of.",
    (*_GPU, "name", "parent_uuid"),
)
MEMORY_USED = Gauge("nvidia_gpu_memory_used_bytes", "GPU memory that is allocated.", _HELD_GPU)
MEMORY_TOTAL = Gauge(
    "nvidia_gpu_memory_total_bytes", "GPU memory: used, free and reserved.", _HELD_GPU
)
UTILIZATION = Gauge(
    "nvidia_gpu_utilization_ratio",
    "Share of the last second or less in which a kernel ran, 0 to 1.",
    _HELD_GPU,
)

GAUGES = (
    *(ENGINE_UP, ENGINE_INFO, QUEUE_DEPTH, RUNNING, KV_CACHE),
    *(DRIVER_UP, GPU_UP, GPU_INFO, MEMORY_USED, MEMORY_TOTAL, UTILIZATION),
)
"""Everything that is published, in the order of the page."""

HISTOGRAM_HELP = "A latency histogram of the engine, as its page has it."

_Labels = Mapping[str, str | None]
_Point = tuple[Gauge, _Labels, float | None]


@dataclass(frozen=True, slots=True)
class Known:
    """All that is known at one instant."""

    engine_up: bool | None
    """None: no engine is asked, or it was not asked yet."""

    engine: EngineAnswer | None
    """The newest answer that is not stale."""

    driver_up: bool | None
    """None: the driver is not asked, or was never there."""

    gpus: tuple[Gpu, ...]
    """The newest reading that is not stale."""

    holders: Holders
    """Who holds which GPU, as far as it is known."""


def families(known: Known) -> list[Metric]:
    """Write down what is known."""
    metrics = {gauge: Metric(gauge.name, gauge.help, "gauge") for gauge in GAUGES}
    for gauge, labels, value in _points(known):
        if value is not None:
            given = {name: text for name, text in labels.items() if text}
            metrics[gauge].add_sample(gauge.name, given, float(value))
    return [metric for metric in metrics.values() if metric.samples] + _histograms(known)


def _histograms(known: Known) -> list[Metric]:
    """Repeat the engine's latency histograms, under its own names."""
    found: dict[str, Metric] = {}
    for sample in known.engine.histograms if known.engine is not None else ():
        name = histogram_of(sample) or sample.name
        metric = found.setdefault(name, Metric(name, HISTOGRAM_HELP, "histogram"))
        metric.add_sample(sample.name, dict(sample.labels), sample.number)
    return list(found.values())


def _points(known: Known) -> Iterator[_Point]:
    yield ENGINE_UP, {}, known.engine_up
    if known.engine is not None:
        yield from _engine_points(known.engine)
    yield DRIVER_UP, {}, known.driver_up
    for gpu in known.gpus:
        yield from _gpu_points(gpu, known.holders)


def _engine_points(answer: EngineAnswer) -> Iterator[_Point]:
    yield ENGINE_INFO, {"engine": answer.engine}, 1
    for load in answer.loads:
        labels = {"model": load.model}
        yield QUEUE_DEPTH, labels, load.queue_depth
        yield RUNNING, labels, load.requests_running
        yield KV_CACHE, labels, load.kv_cache_usage_ratio


def _gpu_points(gpu: Gpu, holders: Holders) -> Iterator[_Point]:
    own = {"uuid": gpu.uuid, "gpu": gpu.index}
    yield GPU_UP, own, gpu.problem is None
    yield GPU_INFO, own | {"name": gpu.name, "parent_uuid": gpu.parent_uuid}, 1
    for held in _held(gpu, holders):
        yield MEMORY_USED, own | held, gpu.used_bytes
        yield MEMORY_TOTAL, own | held, gpu.total_bytes
        yield UTILIZATION, own | held, gpu.utilization_ratio


def _held(gpu: Gpu, holders: Holders) -> Iterable[dict[str, str | None]]:
    """Give the labels of each container that holds the GPU; none for a GPU that nobody holds."""
    found = holders.get(gpu.uuid or "", ())
    return [
        {"namespace": each.namespace, "pod": each.pod, "container": each.container}
        for each in found
    ] or [{}]
