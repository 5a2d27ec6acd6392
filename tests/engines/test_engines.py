"""All dialects together: which page is whose, and what every table keeps to."""

import itertools
import math

import pytest

from engine_pages import (
    CAPTURES,
    SAMPLES,
    capture,
    engine_of,
    histogram,
    needs_samples,
    read,
    sample,
)
from keda_scaler import engines
from keda_scaler.core.names import ENGINES
from keda_scaler.core.readings import Engine, Lacking, Missing, Value
from keda_scaler.core.signals import LATENCIES, RATIOS, Signal
from keda_scaler.core.trigger import Accepts, parse_trigger
from keda_scaler.engines import DIALECTS
from keda_scaler.engines.devices import DeviceReadings
from keda_scaler.engines.dialect import (
    LARGEST_COUNT,
    Absence,
    Counted,
    Dialect,
    Ratio,
    families,
    quantities,
)
from keda_scaler.engines.exposition import parse_page

BUSY = {
    "dynamo": "dynamo__frontend-busy",
    "llama.cpp": "llama.cpp__busy",
    "lmdeploy": "lmdeploy__busy",
    "nim": "nim__busy",
    "sglang": "sglang__ranks-busy",
    "tgi": "tgi__busy",
    "triton": "triton__ensemble-busy",
    "triton-trtllm": "triton-trtllm__busy",
    "triton-vllm": "triton-vllm__busy",
    "trtllm-serve": "trtllm-serve__busy",
    "vllm": "vllm-0.32.0__busy-queue",
}

PARTS_OF_ANOTHER = {
    frozenset({"triton", "triton-trtllm"}): "triton-trtllm",
    frozenset({"triton", "triton-vllm"}): "triton-vllm",
    frozenset({"triton-vllm", "vllm"}): "vllm",
    frozenset({"nim", "vllm"}): "vllm",
    frozenset({"nim", "sglang"}): "sglang",
    frozenset({"nim", "trtllm-serve"}): "trtllm-serve",
}
"""Pairs of which one page may have both, and whose it is."""

by_name = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: str(dialect.name))


def test_trigger_keys_and_dialects_are_the_same() -> None:
    """A trigger may name every engine that there is a dialect for, and no other."""
    assert tuple(dialect.name for dialect in DIALECTS) == ENGINES == tuple(sorted(ENGINES))


@by_name
def test_every_engine_is_detected(dialect: Dialect) -> None:
    """Its page is its own, and the same whether it is named or found out."""
    page = capture(BUSY[dialect.name])

    assert engine_of(page) == dialect.name
    assert read(page) == read(page, dialect.name)


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(sorted(BUSY), 2)))
def test_two_engines_on_one_page_are_an_error_that_names_both(one: str, other: str) -> None:
    """Which one is scaled is not guessed, unless one page is known to have both."""
    both = engine_of(capture(BUSY[one]) + capture(BUSY[other]))

    known = PARTS_OF_ANOTHER.get(frozenset({one, other}))
    assert both == (known or f"the page is of {one} and {other}: give the trigger key engine")


@by_name
def test_a_page_of_another_engine_is_not_read(dialect: Dialect) -> None:
    """A trigger that names the wrong engine hears that there is none of its series."""
    other = "tgi" if dialect.name == "vllm" else "vllm"
    page = capture(BUSY[other])
    if dialect.name == "nim":  # which may run vLLM
        page = capture(BUSY["tgi"])

    assert engine_of(page, dialect.name) == f"no series of {dialect.name}"


@by_name
def test_work_can_be_proven_absent(dialect: Dialect) -> None:
    """Every engine says something of its queue and of its requests; else it could never rest."""
    assert {Signal.QUEUE_DEPTH, Signal.CONCURRENCY} <= dialect.signals.keys()


@by_name
def test_tables_are_sound(dialect: Dialect) -> None:
    """Sums have a part that must be there, ratios have a bound, and latencies are histograms."""
    assert not dialect.signals.keys() & LATENCIES
    assert dialect.latencies.keys() <= LATENCIES
    for signal, measure in dialect.signals.items():
        found = quantities(measure)
        assert any(quantity.absence is not Absence.ZERO for quantity in found), signal
        assert all(quantity.families for quantity in found), signal
        assert all(family.versions for family in families(measure)), signal
        if signal in RATIOS and not isinstance(measure, Ratio):
            assert not isinstance(measure, Counted)
            assert all(quantity.highest == 1.0 for quantity in found), signal
        else:
            assert all(quantity.highest == LARGEST_COUNT for quantity in found), signal
    assert dialect.marks <= dialect.canonical.keys()
    assert dialect.progress
    assert all(family.versions and family.scale == 1.0 for family in dialect.progress)
    assert dialect.supersedes <= set(ENGINES)


@by_name
def test_an_empty_page_is_unknown(dialect: Dialect) -> None:
    """Nothing read is never zero."""
    found = read("# EOF\n", dialect.name)

    assert set(found.values()) == {Missing(f"no series of {dialect.name}")}


@by_name
def test_every_family_that_goes_missing_makes_its_signals_unknown(dialect: Dialect) -> None:
    """A signal whose families are all gone has no value, whatever else is there."""
    page = capture(BUSY[dialect.name])
    for signal, measure in dialect.signals.items():
        names = {family.name for family in families(measure)}
        rest = [
            line
            for line in page.splitlines(keepends=True)
            if line.partition("{")[0].partition(" ")[0] not in names
        ]
        assert isinstance(read("".join(rest), dialect.name)[signal], Missing | Lacking), signal


@by_name
def test_histograms_are_read_only_when_they_are_wanted(dialect: Dialect) -> None:
    """Most triggers need none of their many lines; what tells engines is always read."""
    gauges = engines.names(dialect.name, latencies=False)

    assert not any(name.endswith("_bucket") for name in gauges)
    assert dialect.marks <= gauges
    histograms = {f.name for found in dialect.latencies.values() for f in found}
    assert {f"{name}_bucket" for name in histograms} <= engines.names(dialect.name)


@pytest.mark.parametrize(
    ("buckets", "says"),
    [
        ({"0.1": 1.0}, "has no +Inf bucket"),
        ({"fast": 1.0, "+Inf": 2.0}, "has a bucket that is none"),
        ({"NaN": 1.0, "+Inf": 2.0}, "has a bucket that is none"),
        ({"0.1": math.nan, "+Inf": 2.0}, "has a bucket that is none"),
        ({"0.1": 1.0, "+Inf": math.inf}, "has a bucket that is none"),
        ({"0.1": -1.0, "+Inf": 2.0}, "has a bucket that is none"),
    ],
)
def test_a_histogram_that_makes_no_sense_is_missing(buckets: dict[str, float], says: str) -> None:
    """A damaged histogram is no latency."""
    name = "sglang:e2e_request_latency_seconds"
    page = histogram(name, buckets, 'model_name="m"')

    assert read(page)[Signal.LATENCY] == Missing(f"{name} {says}")


def test_what_a_trigger_hears_of_its_engine() -> None:
    """The engine is told with its readings; GPUs are looked at only where the trigger asks."""
    nothing = DeviceReadings(Missing("no GPU"), Missing("no GPU"))
    trigger = parse_trigger({"service": "a", "targetConcurrency": "3"}, Accepts())
    samples = parse_page(capture(BUSY["tgi"]).encode(), "", engines.names("auto"), 7.0)

    found, engine = engines.read(samples, trigger, nothing)
    assert found[Signal.CONCURRENCY] == Value(22.0, 7.0, series=2)
    assert engine == Engine("tgi", reserves_memory=True, served=98.0, progress=98.0)
    assert engines.read([], trigger, nothing) == (
        engines.missing("no series of a known engine"),
        None,
    )


@needs_samples
def test_pages_of_exporters_are_no_engines() -> None:
    """A GPU exporter beside an engine is not taken for one."""
    assert engine_of(sample("dcgm-exporter")) == "no series of a known engine"


@needs_samples
def test_every_page_that_others_recorded_is_known() -> None:
    """New ones need a test of their own."""
    known = {"dcgm-exporter", "llamacpp-current", "sglang", "triton", "vllm", "vllm-v1-busy"}

    assert {path.stem for path in SAMPLES.glob("*.prom")} == known


def test_composed_pages_say_so() -> None:
    """What is not a recording of vLLM is composed from documentation."""
    for path in CAPTURES.glob("*.prom"):
        first = path.read_text().partition("\n")[0]
        if not path.name.startswith("vllm"):
            assert first.startswith("# Composed from the documentation of "), path.name
            assert first.endswith("; not a recording."), path.name


def test_the_path_of_an_engine_that_is_not_known_yet() -> None:
    """Most engines serve /metrics."""
    assert engines.path("auto") == "/metrics"
