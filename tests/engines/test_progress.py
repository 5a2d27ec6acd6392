"""Progress, and requests that no poll saw: the counters of every engine."""

import math
from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_pages import AT, CAPTURES, TEXT, capture, engine_of, without
from keda_scaler import engines
from keda_scaler.core.readings import Engine
from keda_scaler.core.trigger import Accepts, parse_trigger
from keda_scaler.engines import DIALECTS, devices
from keda_scaler.engines.devices import DeviceReadings
from keda_scaler.engines.dialect import Dialect
from keda_scaler.engines.exposition import parse_page
from keda_scaler.engines.samples import Sample

NO_GPUS = DeviceReadings(devices.ABSENT, devices.ABSENT)

COMPOSED = {
    "dynamo": (
        "dynamo__frontend-busy",
        """\
dynamo_frontend_output_tokens_total{model="llama"} 9000
dynamo_frontend_requests_total{endpoint="chat",model="llama",status="success"} 90
dynamo_frontend_requests_total{endpoint="chat",model="llama",status="error"} 2
""",
        9092.0,
    ),
    "llama.cpp": (
        "llama.cpp__busy",
        """\
llamacpp:n_decode_total 125
llamacpp:prompt_tokens_total 16185
llamacpp:tokens_predicted_total 394
""",
        16704.0,
    ),
    "lmdeploy": (
        "lmdeploy__busy",
        """\
lmdeploy:prompt_tokens_total{engine="0",model_name="internlm"} 800
lmdeploy:generation_tokens_total{engine="0",model_name="internlm"} 70
lmdeploy:request_success_total{engine="0",finished_reason="stop",model_name="internlm"} 7
""",
        877.0,
    ),
    "sglang": (
        "sglang__ranks-busy",
        """\
sglang:realtime_tokens_total{dp_rank="0",mode="decode",model_name="qwen",tp_rank="0"} 500
sglang:realtime_tokens_total{dp_rank="0",mode="decode",model_name="qwen",tp_rank="1"} 499
sglang:realtime_tokens_total{dp_rank="1",mode="decode",model_name="qwen",tp_rank="2"} 40
sglang:generation_tokens_total{model_name="qwen"} 300
sglang:num_requests_total{model_name="qwen"} 31
""",
        871.0,
    ),
}
"""Per engine of whose capture has no counters of progress: which, the counters, and their sum."""

RECORDED = {
    "nim__busy": 4100.0,
    "tgi__busy": 98.0,
    "triton-trtllm__busy": 311.0,
    "triton-vllm__busy": 46107.0,
    "triton__ensemble-busy": 183.0,
    "trtllm-serve__busy": 50.0,
    "vllm-0.32.0__after-abort-0s": 22125.0,
    "vllm-0.32.0__busy-queue": 9213.0,
    "vllm-0.32.0__idle-after": 18768.0,
    "vllm-0.32.0__idle-fresh": 0.0,
}
"""What the counters on captures add up to."""

VLLM = capture("vllm-0.32.0__busy-queue")

by_name = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: str(dialect.name))


def parsed(page: str, names: Collection[str]) -> tuple[Sample, ...]:
    return parse_page(page.encode(), TEXT, names, AT)


def told(samples: Collection[Sample], engine: str = "auto", **keys: str) -> Engine:
    """Give what is told of the engine."""
    trigger = parse_trigger({"service": "a", "engine": engine, **keys}, Accepts())
    _, found = engines.read(samples, trigger, NO_GPUS)
    assert found is not None
    return found


def progress(page: str, engine: str = "auto", **keys: str) -> float | None:
    return told(parsed(page, engines.names(engine, latencies=False)), engine, **keys).progress


def page_with_counters(dialect: Dialect) -> str:
    """Give a page of the engine that has counters of progress."""
    if dialect.name in COMPOSED:
        name, counters, _ = COMPOSED[dialect.name]
        return capture(name) + counters
    return capture(next(name for name in RECORDED if _key_of(name) == dialect.name))


def _key_of(name: str) -> str:
    """Give the engine of a capture."""
    return name.partition("__")[0].removesuffix("-2025").removesuffix("-0.32.0")


@pytest.mark.parametrize(("name", "expected"), RECORDED.items())
def test_progress_on_captures(name: str, expected: float) -> None:
    """It is the sum of the counters on the page, and needs no histogram."""
    assert progress(capture(name)) == expected


@pytest.mark.parametrize("engine", COMPOSED)
def test_progress_on_composed_pages(engine: str) -> None:
    """Ranks of one engine count once, and everything else adds up."""
    name, counters, expected = COMPOSED[engine]

    assert progress(capture(name) + counters) == expected


def test_pages_without_counters_have_no_progress() -> None:
    """What is not counted is unknown, not standing still."""
    rest = {path.stem for path in CAPTURES.glob("*.prom")} - RECORDED.keys()

    assert {name: progress(capture(name), _key_of(name)) for name in rest} == dict.fromkeys(rest)


@by_name
def test_every_counter_moves_it(dialect: Dialect) -> None:
    """One more in any series of any family is one more in all."""
    page = page_with_counters(dialect)
    names = engines.names(dialect.name, latencies=False)
    samples = parsed(page, names)
    before = told(samples, dialect.name).progress
    assert before is not None
    owned = {family.name for family in dialect.progress}
    counters = [s for s in samples if dialect.owns(s) and dialect.canonical[s.name] in owned]
    counters = [s for s in counters if s.labels.get("tp_rank") != "1"]  # the rank that repeats
    assert counters
    for counter in counters:
        more = Sample(counter.name, counter.labels, counter.number + 1, counter.at)
        moved = [more if each is counter else each for each in samples]
        assert told(moved, dialect.name).progress == before + 1, counter


@by_name
def test_nothing_else_moves_it(dialect: Dialect) -> None:
    """Gauges that jump are no progress."""
    page = page_with_counters(dialect)
    samples = parsed(page, engines.names(dialect.name, latencies=False))
    owned = {family.name for family in dialect.progress}
    jumped = [
        s if dialect.canonical[s.name] in owned else Sample(s.name, s.labels, s.number + 1, s.at)
        for s in samples
    ]

    assert jumped != list(samples)
    assert told(jumped, dialect.name).progress == told(samples, dialect.name).progress


@by_name
def test_counters_alone_are_no_engine(dialect: Dialect) -> None:
    """Gateways count tokens as well: a page without one family of a signal is not taken for one."""
    signals = dialect.canonical.keys() - {family.name for family in dialect.progress}
    page = without(
        page_with_counters(dialect), *(f"{name}{end}" for name in signals for end in "{ ")
    )
    if dialect.name in {"triton", "triton-vllm"}:
        # Those of the one are a signal's; those of the other tell it from the one, and are unknown.
        assert engine_of(page, dialect.name) == dialect.name
    else:
        assert engine_of(page, dialect.name) == f"no series of {dialect.name}"
        assert engine_of(page) in {"no series of a known engine", "triton"}


@by_name
def test_it_costs_no_histogram_and_few_names(dialect: Dialect) -> None:
    """Two or three counters are read, in each spelling; queries stay short."""
    names = {family.name for family in dialect.progress}

    assert names <= engines.names(dialect.name, latencies=False)
    assert not any(name.endswith("_bucket") for name in names)
    assert 2 <= len(names) <= 6


@pytest.mark.parametrize("broken", ["NaN", "+Inf", "-1", "1e300", "-nan(ind)"])
def test_a_counter_that_makes_no_sense_hides_progress(broken: str) -> None:
    """A sum without it could stand still while the engine works."""
    own = 'vllm:generation_tokens_total{engine="1",model_name="tiny-llama"}'

    assert progress(VLLM + f"{own} 5\n") == 9218.0
    assert progress(VLLM + f"{own} {broken}\n") is None


def test_a_counter_that_stands_twice_hides_progress() -> None:
    """Which of the two is right is not guessed."""
    own = 'vllm:generation_tokens_total{engine="1",model_name="tiny-llama"} 5\n'

    assert progress(VLLM + own + own) is None


def test_other_spellings_of_counters_are_read() -> None:
    """Some installations write an underscore, or put Ray's prefix in front."""
    assert progress(VLLM.replace("vllm:", "vllm_")) == 9213.0
    assert progress(VLLM.replace("vllm:", "ray_vllm_")) == 9213.0


def test_progress_is_that_of_the_model() -> None:
    """Another model of the same server may work while this one is stuck."""
    two = VLLM + "".join(
        line.replace("tiny-llama", "other").rsplit(" ", 1)[0] + " 1\n"
        for line in VLLM.splitlines()
        if line.startswith(("vllm:num_requests_waiting{", "vllm:prompt_tokens_total"))
    )

    assert progress(two) == 9214.0
    assert progress(two, model="tiny-llama") == 9213.0
    assert progress(two, model="other") == 1.0
    assert progress(two, model="absent") is None


def test_progress_of_a_dynamo_worker() -> None:
    """Its counter has no model; what is not generation does not count."""
    labels = 'dynamo_component="backend",dynamo_namespace="dynamo"'
    page = capture("dynamo__worker-busy") + "".join(
        f'dynamo_component_requests_total{{{labels},dynamo_endpoint="{endpoint}"}} {number}\n'
        for endpoint, number in (("generate", 42), ("clear_kv_blocks", 7))
    )

    assert progress(page, "dynamo") == 42.0


numbers = st.integers(min_value=0, max_value=2**40)
counters = st.lists(
    st.builds(
        lambda name, engine, tp, number: Sample(
            f"sglang:{name}",
            {"model_name": "m", "dp_rank": str(engine), "tp_rank": str(tp)},
            float(number),
            AT,
        ),
        st.sampled_from(["realtime_tokens_total", "generation_tokens_total"]),
        st.integers(0, 2),
        st.integers(0, 2),
        numbers,
    ),
    min_size=1,
    unique_by=lambda sample: (sample.name, tuple(sample.labels.values())),
)
GAUGE = Sample("sglang:num_queue_reqs", {"model_name": "m"}, 3.0, AT)


@given(samples=counters, data=st.data())
def test_progress_does_not_depend_on_the_order_of_samples(
    samples: list[Sample], data: st.DataObject
) -> None:
    """Ranks that differ give the same number however a page sorts them."""
    shuffled = data.draw(st.permutations([GAUGE, *samples]))

    first = told([GAUGE, *samples], "sglang").progress
    assert first is not None
    assert told(shuffled, "sglang").progress == first


@given(samples=counters, more=st.integers(1, 2**40))
def test_progress_never_hides_an_increase_of_all_ranks(samples: list[Sample], more: int) -> None:
    """When every rank gets on, the sum rises by at least as much."""
    later = [Sample(s.name, s.labels, s.number + more, s.at) for s in samples]
    before, after = (told([GAUGE, *each], "sglang").progress for each in (samples, later))

    assert before is not None
    assert after is not None
    assert after >= before + more


@given(values=st.lists(st.floats(), min_size=1, max_size=8))
def test_any_number_gives_a_finite_sum_or_none(values: list[float]) -> None:
    """Nothing that a page may say raises or leaves the range of numbers."""
    samples = [
        Sample("vllm:generation_tokens_total", {"model_name": "m", "engine": str(n)}, value, AT)
        for n, value in enumerate(values)
    ]
    waiting = [Sample("vllm:num_requests_waiting", s.labels, s.number, AT) for s in samples]
    found = told([*waiting, *samples], "vllm").progress

    assert found is None or (math.isfinite(found) and found >= 0)
    assert (found is None) == any(not 0 <= value <= 2.0**53 for value in values)


@by_name
def test_counters_of_requests_and_no_others_tell_what_was_served(dialect: Dialect) -> None:
    """What moves with steps of the model alone may be an engine's own probe."""
    samples = parsed(page_with_counters(dialect), engines.names(dialect.name, latencies=False))
    before = told(samples, dialect.name).served
    owned = {family.name for family in dialect.served}
    assert (before is None) is (not owned)
    for each in samples:
        more = Sample(each.name, each.labels, each.number + 1, each.at)
        moved = [more if sample is each else sample for sample in samples]
        rose = told(moved, dialect.name).served != before
        assert rose is (dialect.canonical.get(each.name) in owned), each


def test_requests_came_and_went_between_two_recorded_pages() -> None:
    """The gauges of both are 0; only the counters tell."""
    fresh, after = (capture(f"vllm-0.32.0__idle-{state}") for state in ("fresh", "after"))
    names = engines.names("vllm")

    assert told(parsed(fresh, names)).served == 0.0
    assert told(parsed(after, names)).served == 4368.0
