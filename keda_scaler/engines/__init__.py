"""Engines: exposition text to readings, pure. One file per dialect, and the table below."""

from collections.abc import Collection
from functools import cache, lru_cache

from keda_scaler.core.readings import Engine, Missing, Readings
from keda_scaler.core.signals import Signal
from keda_scaler.core.trigger import Trigger
from keda_scaler.engines import devices
from keda_scaler.engines.devices import DeviceReadings
from keda_scaler.engines.dialect import Dialect, families
from keda_scaler.engines.dynamo import DYNAMO
from keda_scaler.engines.llamacpp import LLAMA_CPP
from keda_scaler.engines.lmdeploy import LMDEPLOY
from keda_scaler.engines.nim import NIM
from keda_scaler.engines.page import STARTED, read_page
from keda_scaler.engines.prefixes import prefixed
from keda_scaler.engines.samples import Sample
from keda_scaler.engines.sglang import SGLANG
from keda_scaler.engines.tgi import TGI
from keda_scaler.engines.triton import TRITON
from keda_scaler.engines.triton_trtllm import TRITON_TRTLLM
from keda_scaler.engines.triton_vllm import TRITON_VLLM
from keda_scaler.engines.trtllm_serve import TRTLLM_SERVE
from keda_scaler.engines.vllm import VLLM

DIALECTS: tuple[Dialect, ...] = (
    DYNAMO,
    LLAMA_CPP,
    LMDEPLOY,
    NIM,
    SGLANG,
    TGI,
    TRITON,
    TRITON_TRTLLM,
    TRITON_VLLM,
    TRTLLM_SERVE,
    VLLM,
)
"""Every engine we know, sorted by name. `keda_scaler.core.names.ENGINES` has the same keys."""

BATCH = 3
"""Families of an engine that are asked for together. Of three of vLLM a replica has up to
5 series."""


def dialects(engine: str) -> tuple[Dialect, ...]:
    """Give the dialects that may fit a trigger's `engine`: all of them for `auto`."""
    return tuple(dialect for dialect in DIALECTS if engine in {"auto", dialect.name})


@cache
def names(engine: str, *, latencies: bool = True, gpus: bool = False) -> frozenset[str]:
    """Give every sample name worth reading for a trigger's `engine`.

    With or without the histograms, with or without what exporters say of GPUs.
    """
    wanted = devices.NAMES if gpus else frozenset()
    known = dialects(engine)
    if not latencies:
        return wanted.union(*(dialect.gauge_names for dialect in known))
    return wanted.union({STARTED}, *(dialect.canonical for dialect in known))


Batches = tuple[frozenset[str], ...]
"""Sample names that are asked for together. No name is in two of them."""


@lru_cache(maxsize=256)
def batches(
    engine_names: frozenset[str], with_latencies: frozenset[str]
) -> tuple[Batches, Batches]:
    """Give the names of all gauges and counters, and those of latencies, as Prometheus is asked.

    For triggers with these `engine`s, and for those of them that read latencies. Each batch has at
    most `BATCH` families of an engine, so that an answer about thousands of replicas is not one,
    and there are as many for one replica as for thousands.
    """
    taken: set[str] = set()
    gauges = _batched(engine_names, taken, latencies=False)
    latencies = _batched(with_latencies, taken, latencies=True)
    return gauges, (*latencies, frozenset({STARTED})) if with_latencies else ()


def _batched(engine_names: Collection[str], taken: set[str], *, latencies: bool) -> Batches:
    found: dict[int, set[str]] = {}
    for dialect in DIALECTS:
        if "auto" not in engine_names and dialect.name not in engine_names:
            continue
        families: dict[str, list[str]] = {}
        for name, own in sorted(dialect.canonical.items()):
            if (name in dialect.gauge_names) is not latencies and name not in taken:
                families.setdefault(own, []).append(name)
        for place, spellings in enumerate(families.values()):
            found.setdefault(place // BATCH, set()).update(spellings)
            taken.update(spellings)
    return tuple(map(frozenset, found.values()))


def path(engine: str) -> str:
    """Give the path of the metrics page; that of most engines when the engine is not known yet."""
    chosen = dialects(engine)
    return chosen[0].path if len(chosen) == 1 else "/metrics"


def shown(sample: Sample, engine: str) -> list[Dialect]:
    """Give the dialects that a sample shows to be the right ones, among those of `engine`.

    A trigger that names its engine is believed; `auto` needs a name that no one else uses.
    """
    return [
        dialect
        for dialect, label in _tellers(sample.name, engine)
        if label is None or sample.labels.get(label)
    ]


@lru_cache(maxsize=4096)
def _tellers(name: str, engine: str) -> tuple[tuple[Dialect, str | None], ...]:
    """Give the dialects that a sample's name tells of, most often one or none.

    Each with the label that the sample must have; None: it need not have any.
    """
    found: list[tuple[Dialect, str | None]] = []
    for dialect in dialects(engine):
        bare = Sample(name, {}, 0.0, 0.0)
        tells = dialect.marked_by if engine == "auto" else dialect.fits
        label = dialect.model_label
        if tells(bare):
            found.append((dialect, None))
        elif label is not None and tells(Sample(name, {label: "any"}, 0.0, 0.0)):
            found.append((dialect, label))
    return tuple(found)


def concerns(sample: Sample, engine: str, model: str | None) -> bool:
    """Whether a sample is of the engine and the model that a trigger names."""
    return any(dialect.is_of(sample, model) for dialect in shown(sample, engine))


def detect(samples: Collection[Sample], engine: str) -> Dialect | Missing:
    """Tell whose page this is, or why that cannot be told."""
    showing = {dialect.name for sample in samples for dialect in shown(sample, engine)}
    found = [dialect for dialect in dialects(engine) if dialect.name in showing]
    hidden = frozenset().union(*(dialect.supersedes for dialect in found))
    found = [dialect for dialect in found if dialect.name not in hidden]
    if len(found) == 1:
        return found[0]
    if found:
        both = " and ".join(dialect.name for dialect in found)
        return Missing(f"the page is of {both}: give the trigger key engine")
    return Missing(f"no series of {'a known engine' if engine == 'auto' else engine}")


@cache
def counts() -> frozenset[str]:
    """Give the names of all that counts requests, of every engine in all spellings."""
    found: set[str] = set()
    for dialect in DIALECTS:
        measures = (dialect.signals[signal] for signal in (Signal.QUEUE_DEPTH, Signal.CONCURRENCY))
        own = {family.name for measure in measures for family in families(measure)}
        found.update(name for name, of in dialect.canonical.items() if of in own)
    return frozenset(found)


def hint(body: bytes, samples: Collection[Sample]) -> str:
    """Say what a page has instead of an engine's families; empty: it has some, or nothing near."""
    if any(sample.name in names("auto") and sample.name != STARTED for sample in samples):
        return ""
    near = prefixed(body, counts())
    return f"; the page has {near}, with a prefix" if near else ""


def read(
    samples: Collection[Sample], trigger: Trigger, gpus: DeviceReadings, instead: str = ""
) -> tuple[Readings, Engine | None]:
    """Read the signals of one replica as a trigger wants them, and tell its engine.

    `gpus` is what exporters say of the replica's GPUs, `instead` what `hint` says of its page.
    None: the engine is not known.
    """
    dialect = detect(samples, trigger.engine)
    if isinstance(dialect, Missing):
        found, engine = missing(f"{dialect.reason}{instead}"), None
    else:
        found, engine = read_page(dialect, samples, trigger.model)
    if not trigger.reads_devices:
        return found, engine
    return devices.with_devices(found, gpus, trigger.gpu_memory_source, engine), engine


def missing(reason: str) -> Readings:
    """Say of every signal that nothing was measured."""
    return dict.fromkeys(Signal, Missing(reason))
