"""GPU exporters: what they print of device memory and utilization, and whose GPU it is. Pure.

A GPU is told by its labels, not by its series: one that several pods share is printed once per pod
with the whole GPU's number, and counts once. Which pod it serves is in `exported_pod` where
Prometheus kept the exporter's own `pod` for itself (dcgm-exporter's chart does), else in `pod`.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from keda_scaler.core.readings import Engine, Lacking, Missing, Readings, Value
from keda_scaler.core.signals import Signal
from keda_scaler.engines.samples import Sample

SENTINEL = 1e15
"""dcgm prints 9223372036854775794 and its like for what it does not know; no GPU has a petabyte."""

ABSENT = Missing("no series of a GPU's memory, such as DCGM_FI_DEV_FB_USED")

_POD_LABELS = ("exported_pod", "kube_pod", "pod_name", "pod")
NAMESPACE_LABELS = ("exported_namespace", "kube_namespace", "pod_namespace", "namespace")
"""Where the namespace of a GPU's pod may stand; `namespace` may be the exporter's own."""


@dataclass(frozen=True, slots=True)
class Exporter:
    """The families of one GPU exporter."""

    title: str

    used: str
    """Sample name of the memory in use; its unit does not matter, for it is that of the rest."""

    rest: tuple[str, ...]
    """Names that, with `used`, add up to the whole memory. Those that are absent count as 0."""

    total: str | None
    """Name of the whole memory, where it is printed; it then wins over the sum."""

    utilization: tuple[tuple[str, float], ...]
    """Sample names of how busy the GPU is, each with what makes it a ratio: 0.01 for percent."""

    identity: tuple[str, ...]
    """Labels that tell one GPU (or one instance of it) from another."""

    not_of_parts: str | None = None
    """Name of a utilization that is 0 for an instance of a partitioned GPU, whatever it does."""

    whole: float | None = None
    """What `used` is a share of where it is a share already: 100 for percent."""

    notes: str = ""

    @property
    def names(self) -> frozenset[str]:
        """Every sample name that is read."""
        names = {self.used, *self.rest, *(name for name, _ in self.utilization)}
        return frozenset(names if self.total is None else {*names, self.total})


_PART = "GPU_I_ID"
"""The label of an instance of a partitioned GPU (MIG)."""

EXPORTERS: tuple[Exporter, ...] = (
    Exporter(
        "dcgm-exporter",
        used="DCGM_FI_DEV_FB_USED",
        rest=("DCGM_FI_DEV_FB_FREE", "DCGM_FI_DEV_FB_RESERVED"),
        total="DCGM_FI_DEV_FB_TOTAL",
        utilization=(
            ("DCGM_FI_DEV_GPU_UTIL", 0.01),
            ("DCGM_FI_PROF_GR_ENGINE_ACTIVE", 1.0),
        ),
        identity=("UUID", _PART),
        not_of_parts="DCGM_FI_DEV_GPU_UTIL",
        notes=(
            "RESERVED is printed from 4.4.0 on; TOTAL only where the counters file names it. Of a"
            f" MIG instance (`{_PART}`) only GR_ENGINE_ACTIVE is read, which needs profiling."
        ),
    ),
    Exporter(
        "NVIDIA's names of nvidia_gpu_prometheus_exporter, and keda-scaler exporter",
        used="nvidia_gpu_memory_used_bytes",
        rest=(),
        total="nvidia_gpu_memory_total_bytes",
        utilization=(("nvidia_gpu_utilization_ratio", 1.0), ("nvidia_gpu_duty_cycle", 0.01)),
        identity=("uuid",),
    ),
    Exporter(
        "nvidia_gpu_exporter",
        used="nvidia_smi_memory_used_bytes",
        rest=(),
        total="nvidia_smi_memory_total_bytes",
        utilization=(("nvidia_smi_utilization_gpu_ratio", 1.0),),
        identity=("uuid",),
        notes="Prints no pod: only the pod that it runs in is known, as a sidecar.",
    ),
    Exporter(
        "Triton",
        used="nv_gpu_memory_used_bytes",
        rest=(),
        total="nv_gpu_memory_total_bytes",
        utilization=(("nv_gpu_utilization", 1.0),),
        identity=("gpu_uuid",),
        notes="Every GPU that the server sees.",
    ),
    Exporter(
        "AMD device-metrics-exporter",
        used="gpu_used_vram",
        rest=(),
        total="gpu_total_vram",
        utilization=(("gpu_gfx_activity", 0.01),),
        identity=("serial_number", "gpu_id"),
    ),
    Exporter(
        "AMD device-metrics-exporter with the prefix amd_",
        used="amd_gpu_used_vram",
        rest=(),
        total="amd_gpu_total_vram",
        utilization=(("amd_gpu_gfx_activity", 0.01),),
        identity=("serial_number", "gpu_id"),
    ),
    Exporter(
        "Intel xpumd",
        used="hw_memory_usage_bytes",
        rest=(),
        total="hw_memory_size_bytes",
        utilization=(("hw_gpu_utilization_ratio", 1.0),),
        identity=("hw_id", "pci_bdf"),
        notes="Of several tasks of a GPU (`hw_gpu_task`) the busiest counts.",
    ),
    Exporter(
        "Intel XPU Manager",
        used="xpum_memory_ratio",
        rest=(),
        total=None,
        utilization=(("xpum_engine_ratio", 0.01),),
        identity=("uuid", "pci_bdf", "sub_dev"),
        whole=100.0,
        notes=(
            "Percent, per tile, as documented for 1.3; newer sources may print a ratio, which reads"
            " as nearly nothing: check it."
        ),
    ),
)
"""In the order of preference: the first that tells of a pod's memory is read, else the first that
tells how busy its GPUs are."""

NAMES = frozenset().union(*(exporter.names for exporter in EXPORTERS))


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU, or one instance of a partitioned GPU."""

    used: float
    total: float
    """More than 0, in the unit of `used`; 0: how much memory is in use is not said."""

    utilization: float | None
    """0 to 1; None: not said."""

    at: float


@dataclass(frozen=True, slots=True)
class DeviceReadings:
    """What the GPUs of one replica say."""

    memory: Value | Missing
    """Share of their memory in use, 0 to 1."""

    utilization: Value | Missing
    """Mean of how busy they are, 0 to 1."""


def pod_of(sample: Sample) -> str:
    """Tell whose GPU a series is of; empty when it does not say."""
    return next((pod for name in _POD_LABELS if (pod := sample.labels.get(name))), "")


def namespace_of(sample: Sample) -> str:
    """Tell the namespace of that pod; empty when it does not say."""
    return next((given for name in NAMESPACE_LABELS if (given := sample.labels.get(name))), "")


def by_pod(samples: Iterable[Sample], namespace: str) -> dict[str, DeviceReadings]:
    """Read the GPUs of every pod of a namespace."""
    pods: defaultdict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.name in NAMES and namespace_of(sample) == namespace and pod_of(sample):
            pods[pod_of(sample)].append(sample)
    return {pod: device_readings(found) for pod, found in pods.items()}


def device_readings(samples: Collection[Sample]) -> DeviceReadings:
    """Read the GPUs of one replica from the series that concern it."""
    known = [sample for sample in samples if sample.name in NAMES]
    busy = DeviceReadings(ABSENT, ABSENT)
    for exporter in EXPORTERS if known else ():
        found = combined(_devices(exporter, [s for s in known if s.name in exporter.names]))
        if isinstance(found.memory, Value):
            return found
        if isinstance(busy.utilization, Missing):
            busy = found
    return busy


def with_devices(
    readings: Readings, devices: DeviceReadings, memory_source: str, engine: Engine | None
) -> Readings:
    """Add what a replica's GPUs say to what its engine says.

    `memory_source` is the trigger's `gpuMemorySource`. With `auto` the GPUs' memory is read only
    where the engine says nothing of its own, and does not keep it from start to end: a target that
    nobody chose must not drive a model to its maximum for good.
    """
    merged = dict(readings)
    merged[Signal.GPU_UTILIZATION] = devices.utilization
    own = readings.get(Signal.GPU_MEMORY_PRESSURE)
    if memory_source == "device":
        merged[Signal.GPU_MEMORY_PRESSURE] = devices.memory
    elif memory_source == "auto" and isinstance(own, Lacking):
        if engine is not None and engine.reserves_memory:
            reason = f"{own.reason}, and keeps its device memory from start to end"
            merged[Signal.GPU_MEMORY_PRESSURE] = Lacking(reason)
        elif isinstance(devices.memory, Value):
            merged[Signal.GPU_MEMORY_PRESSURE] = devices.memory
    return merged


def combined(devices: Sequence[Device]) -> DeviceReadings:
    """Combine the GPUs of one replica: memory is added up, utilization averaged."""
    at = min((device.at for device in devices), default=0.0)
    measured = [device for device in devices if device.total]
    busy = [device.utilization for device in devices if device.utilization is not None]
    used = math.fsum(device.used for device in measured)
    total = math.fsum(device.total for device in measured)
    none = Missing("no series of GPU utilization") if measured else ABSENT
    return DeviceReadings(
        Value(min(1.0, used / total), at, len(measured)) if measured else ABSENT,
        Value(math.fsum(busy) / len(busy), at, len(busy)) if busy else none,
    )


def _devices(exporter: Exporter, samples: Collection[Sample]) -> list[Device]:
    by_gpu: defaultdict[tuple[str, ...], dict[str, Sample]] = defaultdict(dict)
    for sample in samples:
        if not 0 <= sample.number < SENTINEL:
            continue
        gpu = tuple(sample.labels.get(name, "") for name in exporter.identity)
        known = by_gpu[gpu].get(sample.name)
        if known is None or (sample.at, sample.number) > (known.at, known.number):
            by_gpu[gpu][sample.name] = sample
    found = (_device(exporter, numbers) for numbers in by_gpu.values())
    return [device for device in found if device is not None]


def _device(exporter: Exporter, numbers: Mapping[str, Sample]) -> Device | None:
    used, busy = numbers.get(exporter.used), _busy(exporter, numbers)
    total = 0.0 if used is None else _total(exporter, numbers, used.number)
    if used is not None and total:
        return Device(used.number, total, None if busy is None else busy.number, used.at)
    return None if busy is None else Device(0.0, 0.0, busy.number, busy.at)


def _busy(exporter: Exporter, numbers: Mapping[str, Sample]) -> Value | None:
    """Say how busy a GPU is; None: it is not said, or cannot be said of a part of a GPU."""
    for name, scale in exporter.utilization:
        sample = numbers.get(name)
        if sample is not None and not (name == exporter.not_of_parts and sample.labels.get(_PART)):
            return Value(min(1.0, sample.number * scale), sample.at)
    return None


def _total(exporter: Exporter, numbers: Mapping[str, Sample], used: float) -> float:
    """Give the whole memory; 0 where it is not said."""
    if exporter.whole is not None:
        return exporter.whole
    if exporter.total is not None and exporter.total in numbers:
        return numbers[exporter.total].number
    if exporter.rest and exporter.rest[0] in numbers:
        return used + math.fsum(numbers[name].number for name in exporter.rest if name in numbers)
    return 0.0
