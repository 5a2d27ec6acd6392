"""What a trigger's own queries say of each replica."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keda_scaler.core.matchers import parse_selector
from keda_scaler.core.readings import Engine, Missing, Quantiles, Reading, Value
from keda_scaler.core.signals import Signal
from keda_scaler.core.trigger import Accepts, Trigger, parse_trigger
from keda_scaler.engines.queries import (
    UNSCRAPED,
    UNTIMED,
    Found,
    Replicas,
    of_replicas,
    read,
    scraped,
    shows_work,
)
from keda_scaler.engines.samples import Sample
from keda_scaler.engines.spaces import Space

QUEUE, WORK = Signal.QUEUE_DEPTH, Signal.CONCURRENCY
MEMORY, LATENCY = Signal.GPU_MEMORY_PRESSURE, Signal.LATENCY
PAIR: Replicas = {"a": ({}, None), "b": ({}, None)}
AT = {"a": 7.0, "b": 8.0}


def trigger() -> Trigger:
    keys = {
        "prometheus": "main",
        "selector": 'job="mine"',
        "concurrencyQuery": "x",
        "targetConcurrency": "8",
        "latencyQuantile": "0.9",
    }
    return parse_trigger(keys, Accepts(frozenset({"main"})))


def series(number: float, **labels: str) -> Sample:
    return Sample("", labels, number, 0.0)


def told(signal: Signal, *answer: Sample, replicas: Replicas = PAIR) -> dict[str, Reading]:
    """Give what an answer makes of the readings of each replica."""
    found = read(trigger(), replicas, {signal: answer}, AT)
    return {name: readings[signal] for name, (readings, _) in found.items()}


def reasons(readings: dict[str, Reading]) -> set[str]:
    assert all(isinstance(each, Missing) for each in readings.values())
    return {each.reason for each in readings.values() if isinstance(each, Missing)}


def test_a_series_with_a_pod_is_that_replicas() -> None:
    """As old as its last scrape; one of a pod that is no replica changes nothing."""
    answer = series(3, pod="a"), series(0, pod="b"), series(9, pod="other")

    assert told(WORK, *answer) == {"a": Value(3, 7.0), "b": Value(0, 8.0)}


def test_without_a_pod_the_instance_tells() -> None:
    """As with the series of engines; where there are both, the pod."""
    answer = series(3, instance="a"), series(4, pod="b", instance="a")

    assert told(WORK, *answer) == {"a": Value(3, 7.0), "b": Value(4, 8.0)}


@pytest.mark.parametrize("labels", [{}, {"job": "mine", "pod": ""}])
def test_one_number_of_requests_is_shared_out(labels: dict[str, str]) -> None:
    """So that the sum over replicas is the number."""
    assert told(WORK, series(5, **labels)) == {"a": Value(2.5, 7.0), "b": Value(2.5, 8.0)}
    assert told(QUEUE, series(0, **labels)) == {"a": Value(0, 7.0), "b": Value(0, 8.0)}


def test_one_ratio_or_latency_holds_for_each() -> None:
    """It is a mean, or a quantile over all of them."""
    assert told(MEMORY, series(0.5)) == {"a": Value(0.5, 7.0), "b": Value(0.5, 8.0)}
    assert told(LATENCY, series(2)) == {
        "a": Quantiles(((0.9, 2.0),), 7.0),
        "b": Quantiles(((0.9, 2.0),), 8.0),
    }


def test_no_series_is_missing_and_never_zero() -> None:
    """Of all, or of one replica."""
    assert reasons(told(WORK)) == {"concurrencyQuery gives no series of it"}
    one = told(WORK, series(1, pod="a"))
    assert one["a"] == Value(1, 7.0)
    assert one["b"] == Missing("concurrencyQuery gives no series of it")


def test_several_series_of_a_replica_are_refused() -> None:
    """Whether they add up, only the query can say: two jobs may scrape the same pod."""
    twice = told(
        QUEUE, series(1, pod="a", job="x"), series(1, pod="a", job="y"), series(1, pod="b")
    )

    assert twice["a"] == Missing(
        "queueDepthQuery gives 2 series of it: aggregate them by pod or instance"
    )
    assert twice["b"] == Value(1, 8.0)


@pytest.mark.parametrize(
    "answer",
    [
        (series(1, pod="a"), series(2, pod="b"), series(0)),  # sum by (pod) (x) or vector(0)
        (series(1, job="x"), series(2, job="y")),
    ],
)
def test_an_answer_of_both_kinds_or_of_neither_is_refused(answer: tuple[Sample, ...]) -> None:
    """Which of the numbers to believe cannot be told."""
    reason = "neither one series for all replicas nor one for each, with a label pod or instance"
    assert reasons(told(WORK, *answer)) == {f"concurrencyQuery gives {reason}"}


@pytest.mark.parametrize(
    ("signal", "number", "says"),
    [
        (WORK, math.nan, "concurrencyQuery gives nan; accepted: requests, from 0"),
        (WORK, math.inf, "concurrencyQuery gives inf; accepted: requests, from 0"),
        (QUEUE, -1.0, "queueDepthQuery gives -1; accepted: requests, from 0"),
        (MEMORY, 85.0, "gpuMemoryQuery gives 85; accepted: a ratio from 0 to 1"),
        (MEMORY, math.nan, "gpuMemoryQuery gives nan; accepted: a ratio from 0 to 1"),
        (LATENCY, math.inf, "latencyQuery gives inf; accepted: seconds, from 0"),
        (LATENCY, -1.0, "latencyQuery gives -1; accepted: seconds, from 0"),
    ],
)
def test_a_number_that_cannot_be_the_signal_is_missing(
    signal: Signal, number: float, says: str
) -> None:
    """The reason names the key, the number and what is accepted."""
    assert reasons(told(signal, series(number, pod="a"), series(number, pod="b"))) == {says}


def test_a_ratio_may_be_rounded_above_one() -> None:
    """By a division; it is one all the same."""
    assert told(MEMORY, series(1 + 1e-12))["a"] == Value(1.0, 7.0)


def test_a_latency_of_no_requests_is_no_opinion() -> None:
    """NaN, as `histogram_quantile` gives; it is kept as it is for the report."""
    found = told(LATENCY, series(math.nan))["a"]

    assert isinstance(found, Quantiles)
    assert math.isnan(found.points[0][1])


def test_a_query_that_fails_says_why() -> None:
    """And names its key, whatever the others give."""
    found = read(trigger(), PAIR, {WORK: Missing("Prometheus answered 422"), QUEUE: ()}, AT)

    assert found["a"][0][WORK] == Missing("concurrencyQuery: Prometheus answered 422")


def test_a_named_engine_keeps_what_else_was_read() -> None:
    """The query stands for its signal, also where the engine has none."""
    engine = Engine("vllm", reserves_memory=True)
    known: Replicas = {"a": ({QUEUE: Value(1, 5.0), WORK: Missing("no series of x")}, engine)}

    found = read(trigger(), known, {WORK: [series(4)]}, AT)

    assert found == {"a": ({QUEUE: Value(1, 5.0), WORK: Value(4, 7.0)}, engine)}


def test_a_replica_that_cannot_be_scraped_stays_unknown() -> None:
    """`or vector(0)` is no proof of its idleness; the others take what there is."""
    down = dict.fromkeys((WORK, QUEUE), Missing(UNSCRAPED))
    known: Replicas = {"a": ({}, None), "b": (down, None), "unscraped": ({}, None)}

    found = told(WORK, series(6), replicas=known | {"unscraped": (down, None)})

    assert found == {"a": Value(6, 7.0), "b": Missing(UNSCRAPED), "unscraped": Missing(UNSCRAPED)}


def test_a_replica_without_a_time_is_unknown() -> None:
    """What its engine says does not stand in for the query, and it has no share of the number."""
    known: Replicas = {"a": ({}, None), "untimed": ({WORK: Value(1, 5.0)}, None)}

    found = told(WORK, series(6), replicas=known)

    assert found == {"a": Value(6, 7.0), "untimed": Missing(UNTIMED)}


def test_replicas_are_what_is_scraped_and_selected() -> None:
    """By `up` alone: a replica is up when one job reaches each of its addresses."""
    space = Space("models", ())
    for number, labels in (
        (1, {"job": "mine", "pod": "a", "instance": "1"}),
        (1, {"job": "mine", "pod": "half", "instance": "2"}),
        (0, {"job": "mine", "pod": "half", "instance": "3"}),
        (0, {"job": "mine", "pod": "twice", "instance": "4", "service": "x"}),
        (1, {"job": "mine", "pod": "twice", "instance": "4", "service": "y"}),
        (1, {"job": "mine", "instance": "5"}),
        (1, {"job": "other", "pod": "other", "instance": "6"}),
    ):
        space.add_scrape(Sample("up", labels, number, 0.0))

    found = scraped(space, parse_selector('job="mine"'), [WORK])

    assert found == {
        "5": ({}, None),
        "a": ({}, None),
        "half": ({WORK: Missing(UNSCRAPED)}, None),
        "twice": ({}, None),
    }


def test_a_replica_is_as_old_as_its_oldest_address() -> None:
    """Of jobs that scrape the same address the newest counts."""
    space = Space("models", ())
    for unix, labels in (
        (10, {"pod": "a", "instance": "1", "job": "slow"}),
        (20, {"pod": "a", "instance": "1", "job": "fast"}),
        (15, {"pod": "a", "instance": "2"}),
    ):
        space.add_scrape_time(Sample("", labels, unix, 0.0))

    assert of_replicas(space.scrape_times, ()) == {"a": 15}


@pytest.mark.parametrize(
    ("found", "key"),
    [
        ({}, None),
        ({WORK: [series(0)], QUEUE: [series(0, pod="a"), series(2, pod="b")]}, "queueDepthQuery"),
        ({WORK: [series(0.5)]}, "concurrencyQuery"),
        ({WORK: [series(math.nan)], QUEUE: [series(-1)]}, None),
        ({WORK: Missing("no answer"), MEMORY: [series(1)]}, None),
        ({WORK: [series(3, pod="other")]}, None),
        ({WORK: [series(3, pod="other"), series(1, pod="a")]}, "concurrencyQuery"),
    ],
)
def test_requests_of_nobody_known_are_noticed(found: dict[Signal, Found], key: str | None) -> None:
    """What no replica is found for must not pass for no work; what others have may."""
    assert shows_work(found, {"other"}) == key


numbers = st.floats(allow_nan=True, allow_infinity=True)
answers = st.lists(
    st.builds(
        Sample,
        st.just(""),
        st.dictionaries(
            st.sampled_from(("pod", "instance", "job")), st.sampled_from(("a", "b", "c", ""))
        ),
        numbers,
        st.just(0.0),
    ),
    max_size=5,
)


@given(st.sampled_from((QUEUE, WORK, MEMORY, LATENCY)), answers)
@example(QUEUE, [Sample("", {}, -5e-324, 0.0)])
def test_whatever_comes_a_value_is_one_that_was_given(signal: Signal, answer: list[Sample]) -> None:
    """No answer makes up a number, and the parts of a sum are never more than it."""
    readings = told(signal, *answer)

    values = [each.number for each in readings.values() if isinstance(each, Value)]
    given_numbers = [sample.number for sample in answer]
    assert set(readings) == set(PAIR)
    assert not values or answer
    for value in values:
        assert math.isfinite(value)
        assert value >= 0
        assert min(given_numbers) / 2 <= value <= max(given_numbers) * (1 + 1e-9)
