"""GPU exporters: units, shared GPUs, whose GPU it is, and what is no number at all."""

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from engine_pages import case, without
from keda_scaler import engines
from keda_scaler.core.readings import Engine, Lacking, Missing, Reading, Value
from keda_scaler.core.signals import Signal
from keda_scaler.core.trigger import Accepts, parse_trigger
from keda_scaler.engines import devices
from keda_scaler.engines.devices import (
    ABSENT,
    EXPORTERS,
    DeviceReadings,
    by_pod,
    device_readings,
    with_devices,
)
from keda_scaler.engines.exposition import parse_page
from keda_scaler.engines.samples import Sample

SAMPLES = Path(__file__).parents[3] / "shared" / "samples"
MEMORY = Signal.GPU_MEMORY_PRESSURE
RESERVING, MOVING = Engine("vllm", reserves_memory=True), Engine("triton", reserves_memory=False)


def sample(name: str, number: float, **labels: str) -> Sample:
    return Sample(name, labels, number, 7.0)


def dcgm(
    used: float, free: float, reserved: float | None = None, busy: float = 0.0, **labels: str
) -> list[Sample]:
    own = {"UUID": "GPU-1", **labels}
    found = [
        sample("DCGM_FI_DEV_FB_USED", used, **own),
        sample("DCGM_FI_DEV_FB_FREE", free, **own),
        sample("DCGM_FI_DEV_GPU_UTIL", busy, **own),
    ]
    if reserved is not None:
        found.append(sample("DCGM_FI_DEV_FB_RESERVED", reserved, **own))
    return found


def test_dcgm_total_is_used_free_and_reserved() -> None:
    """The exporter prints no total by default; older ones print no reserved memory either."""
    found = device_readings(dcgm(600, 300, 100, busy=50))

    assert found == DeviceReadings(Value(0.6, 7.0), Value(0.5, 7.0))
    assert device_readings(dcgm(600, 300)).memory == Value(600 / 900, 7.0)


def test_a_total_that_is_printed_wins() -> None:
    """A counters file may add DCGM_FI_DEV_FB_TOTAL."""
    with_total = [*dcgm(600, 300), sample("DCGM_FI_DEV_FB_TOTAL", 1200, UUID="GPU-1")]

    assert device_readings(with_total).memory == Value(0.5, 7.0)


def test_a_gpu_that_several_pods_share_counts_once() -> None:
    """Time slicing prints the whole GPU once per pod; for one replica it is one GPU."""
    shared = dcgm(600, 400, pod="a", container="x") + dcgm(600, 400, pod="a", container="y")

    assert device_readings(shared).memory == Value(0.6, 7.0)


def test_several_gpus_of_a_replica_add_up() -> None:
    """Memory is added up over GPUs, utilization is their mean."""
    two = dcgm(900, 100, busy=100) + dcgm(100, 900, busy=0, UUID="GPU-2")

    both = Value(0.5, 7.0, series=2)
    assert device_readings(two) == DeviceReadings(both, both)


def test_instances_of_a_partitioned_gpu_are_told_apart() -> None:
    """MIG instances have the UUID of their GPU and an id of their own."""
    two = dcgm(90, 10, GPU_I_ID="1") + dcgm(10, 90, GPU_I_ID="2")

    assert device_readings(two).memory == Value(0.5, 7.0, series=2)


def test_an_instance_of_a_partitioned_gpu_is_as_busy_as_its_engines() -> None:
    """The exporter's utilization of an instance is 0, whatever it does: it is never read."""
    page = case("dcgm-mig")

    found = device_readings(parse_page(page.encode(), "text/plain", devices.NAMES, 7.0))
    assert found == DeviceReadings(ABSENT, Value(0.97, 7.0))
    unprofiled = without(page, "DCGM_FI_PROF")
    found = device_readings(parse_page(unprofiled.encode(), "text/plain", devices.NAMES, 7.0))
    assert found == DeviceReadings(ABSENT, ABSENT)


def test_an_instance_with_its_memory_and_no_profiling() -> None:
    """Its memory is its own, and how busy it is nobody says. A whole GPU is told by either."""
    part = dcgm(600, 400, busy=0.0, GPU_I_ID="7")
    whole = sample("DCGM_FI_PROF_GR_ENGINE_ACTIVE", 0.25, UUID="GPU-1", GPU_I_ID="")

    says = Missing("no series of GPU utilization")
    assert device_readings(part) == DeviceReadings(Value(0.6, 7.0), says)
    assert device_readings([*dcgm(600, 400, busy=50), whole]).utilization == Value(0.5, 7.0)
    assert device_readings([whole]).utilization == Value(0.25, 7.0)


def test_memory_decides_which_of_two_exporters_is_read() -> None:
    """The other may say how busy the GPU is and nothing of its memory."""
    busy = sample("DCGM_FI_DEV_GPU_UTIL", 50, UUID="GPU-1")
    other = [
        sample("nvidia_smi_memory_used_bytes", 3, uuid="a"),
        sample("nvidia_smi_memory_total_bytes", 4, uuid="a"),
    ]
    idle = sample("gpu_gfx_activity", 0, gpu_id="0")

    assert device_readings([busy, *other]).memory == Value(0.75, 7.0)
    assert device_readings([busy, idle]) == DeviceReadings(ABSENT, Value(0.5, 7.0))


@pytest.mark.parametrize("wrong", [9223372036854775794.0, float("nan"), -1.0])
def test_sentinel_values_are_dropped(wrong: float) -> None:
    """dcgm prints a huge number for what it does not know."""
    assert device_readings(dcgm(wrong, 100)).memory == ABSENT


def test_bandwidth_is_not_capacity() -> None:
    """DCGM_FI_DEV_MEM_COPY_UTIL says how busy the memory bus is; it is never read."""
    assert "DCGM_FI_DEV_MEM_COPY_UTIL" not in devices.NAMES


def test_a_pod_is_in_exported_pod_or_pod() -> None:
    """With honorLabels off, `pod` and `namespace` are the exporter's own."""
    theirs: Any = {"pod": "dcgm-x", "namespace": "gpu-operator"}
    samples = [
        *dcgm(600, 400, exported_pod="llama-0", exported_namespace="models", **theirs),
        *dcgm(300, 700, UUID="GPU-2", pod="llama-1", namespace="models"),
        *dcgm(900, 100, UUID="GPU-3", **theirs),
        *dcgm(800, 200, UUID="GPU-4", pod="llama-0", namespace="other"),
    ]

    found = by_pod(samples, "models")

    assert {pod: gpus.memory for pod, gpus in found.items()} == {
        "llama-0": Value(0.6, 7.0),
        "llama-1": Value(0.3, 7.0),
    }


@pytest.mark.parametrize(
    ("page", "memory", "busy"),
    [
        (
            ("nvidia_gpu_memory_used_bytes 3e9\nnvidia_gpu_memory_total_bytes 4e9\n"
            "nvidia_gpu_utilization_ratio 0.5\n"),
            0.75,
            0.5,
        ),
        (
            ("nvidia_smi_memory_used_bytes 3e9\nnvidia_smi_memory_total_bytes 4e9\n"
            "nvidia_smi_utilization_gpu_ratio 0.5\n"),
            0.75,
            0.5,
        ),
        (
            "nv_gpu_memory_used_bytes 3e9\nnv_gpu_memory_total_bytes 4e9\nnv_gpu_utilization 0.5\n",
            0.75,
            0.5,
        ),
        ("gpu_used_vram 3000\ngpu_total_vram 4000\ngpu_gfx_activity 50\n", 0.75, 0.5),
        ("amd_gpu_used_vram 3000\namd_gpu_total_vram 4000\namd_gpu_gfx_activity 50\n", 0.75, 0.5),
        ("hw_memory_usage_bytes 3e9\nhw_memory_size_bytes 4e9\nhw_gpu_utilization_ratio 0.5\n",
         0.75, 0.5),
        ("xpum_memory_ratio 75\nxpum_engine_ratio 50\n", 0.75, 0.5),
        (("nvidia_gpu_memory_used_bytes 3e9\nnvidia_gpu_memory_total_bytes 4e9\n"
         "nvidia_gpu_duty_cycle 50\n"), 0.75, 0.5),
    ],
)  # fmt: skip
def test_every_exporter_in_its_own_units(page: str, memory: float, busy: float) -> None:
    """MiB, MB, bytes, ratios and percentages become ratios."""
    found = device_readings(parse_page(page.encode(), "text/plain", devices.NAMES, 7.0))

    assert found == DeviceReadings(Value(memory, 7.0), Value(busy, 7.0))


@pytest.mark.skipif(not SAMPLES.exists(), reason="other people's pages are not in the repository")
def test_a_page_that_others_recorded() -> None:
    """5120 MiB used of 15358, 91 % busy."""
    body = (SAMPLES / "dcgm-exporter.prom").read_bytes()
    found = device_readings(parse_page(body, "text/plain", devices.NAMES, 7.0))

    assert found == DeviceReadings(Value(5120 / 15358, 7.0), Value(0.91, 7.0))


def test_no_exporter_shares_a_name_with_another() -> None:
    """A name tells its exporter."""
    names = [name for exporter in EXPORTERS for name in sorted(exporter.names)]

    assert len(names) == len(set(names))


def merged(own: Reading, source: str, engine: Engine | None = MOVING) -> Reading:
    gpus = DeviceReadings(Value(0.9, 7.0), Value(1.0, 7.0))
    return with_devices({MEMORY: own}, gpus, source, engine)[MEMORY]


def test_which_memory_counts() -> None:
    """KV cache where the engine reports it, else the device; or as the trigger says."""
    kv, lacking, missing = Value(0.2, 7.0), Lacking("not exposed"), Missing("family absent")

    assert merged(kv, "auto") == kv
    assert merged(kv, "device") == Value(0.9, 7.0)
    assert merged(missing, "auto") == missing
    assert merged(lacking, "auto") == Value(0.9, 7.0)
    assert merged(lacking, "kv-cache") == lacking


def test_auto_never_takes_the_memory_of_an_engine_that_keeps_it() -> None:
    """It would be full from the first minute to the last, and drive the model to its maximum."""
    found = merged(Lacking("llama.cpp does not expose it"), "auto", RESERVING)

    assert isinstance(found, Lacking)
    assert found.reason.endswith("keeps its device memory from start to end")
    assert merged(Lacking("not exposed"), "device", RESERVING) == Value(0.9, 7.0)


def test_a_page_with_gpus_of_its_own() -> None:
    """What a replica's own page says of GPUs is of its GPUs, whatever their labels."""
    page = (
        'vllm:num_requests_waiting{model_name="m"} 0\nvllm:num_requests_running{model_name="m"} 0\n'
        'nv_gpu_memory_used_bytes{gpu_uuid="x"} 1\nnv_gpu_memory_total_bytes{gpu_uuid="x"} 2\n'
    )
    trigger = parse_trigger({"service": "x", "gpuMemorySource": "device"}, Accepts())
    names = engines.names("auto", gpus=True)
    samples = parse_page(page.encode(), "text/plain", names, 7.0)

    readings, engine = engines.read(samples, trigger, device_readings(samples))

    assert readings[MEMORY] == Value(0.5, 7.0)
    assert engine == RESERVING


def test_the_newest_of_two_samples_counts() -> None:
    """A range of Prometheus may hold a GPU under an older and a newer label set."""
    old = [replace(each, at=1.0) for each in dcgm(900, 100, pod="a")]
    new = dcgm(600, 400, pod="a", modelName="x")

    for order in (old + new, new + old):
        assert device_readings(order).memory == Value(0.6, 7.0)


def test_a_gpu_without_its_whole_or_used_memory_is_none() -> None:
    """Half of what is needed is nothing."""
    assert device_readings([sample("DCGM_FI_DEV_FB_USED", 600, UUID="a")]).memory == ABSENT
    assert device_readings([sample("DCGM_FI_DEV_FB_FREE", 600, UUID="a")]).memory == ABSENT


def test_without_a_gpu_series_auto_stays_with_the_engine() -> None:
    """Nothing is known of either: the engine's own word stands."""
    lacking = Lacking("not exposed")

    found = with_devices({MEMORY: lacking}, DeviceReadings(ABSENT, ABSENT), "auto", MOVING)
    assert found[MEMORY] == lacking


def test_the_busiest_task_of_a_gpu_counts() -> None:
    """Intel's newer exporter splits utilization by task, and names the pod in labels of its own."""
    memory = {"hw_id": "gpu-0", "pci_bdf": "0000:03:00.0"}
    samples = [
        sample("hw_memory_usage_bytes", 1, **memory),
        sample("hw_memory_size_bytes", 4, **memory),
        sample("hw_gpu_utilization_ratio", 0.7, **memory, hw_gpu_task="compute-all"),
        sample("hw_gpu_utilization_ratio", 0.1, **memory, hw_gpu_task="media-all"),
    ]

    assert device_readings(samples) == DeviceReadings(Value(0.25, 7.0), Value(0.7, 7.0))
    theirs: Any = {"kube_pod": "llama-0", "kube_namespace": "models", "pod": "xpum-exporter"}
    xpum = sample("xpum_memory_ratio", 50, uuid="a", namespace="intel", **theirs)
    assert by_pod([xpum], "models")["llama-0"].memory == Value(0.5, 7.0)
