"""TGI's dialect: no labels, gauges that appear late, and no time to first token."""

import pytest

from engine_pages import buckets, capture, numbers, read, without
from keda_scaler.core.readings import Lacking, Missing
from keda_scaler.core.signals import Signal

BUSY = capture("tgi__busy")


def test_a_busy_page() -> None:
    """6 wait and 16 run, which may come to a quarter of the tokens that there is room for."""
    found = read(BUSY)

    assert numbers(found) == (6.0, 22.0, 0.25)
    assert buckets(found[Signal.LATENCY]) == {0.5: 30, 4.5: 90, float("inf"): 98}


def test_a_queue_that_was_never_set_is_unknown_and_not_empty() -> None:
    """A gauge is printed only once it was set."""
    fresh = read(capture("tgi__fresh"))

    assert fresh[Signal.QUEUE_DEPTH] == Missing("no series of tgi_queue_size")
    assert fresh[Signal.CONCURRENCY] == Missing("no series of tgi_queue_size")
    assert fresh[Signal.GPU_MEMORY_PRESSURE] == Missing("no series of tgi_batch_current_max_tokens")
    assert read(without(BUSY, "tgi_batch_max_total_tokens"))[Signal.GPU_MEMORY_PRESSURE] == (
        Missing("no series of tgi_batch_max_total_tokens")
    )


@pytest.mark.parametrize(("used", "there_is"), [("1", "0"), ("96001", "96000")])
def test_a_budget_that_makes_no_sense_is_missing(used: str, there_is: str) -> None:
    """Nothing is divided by nothing, and no more is used than there is."""
    page = f"tgi_batch_current_max_tokens {used}\ntgi_batch_max_total_tokens {there_is}\n"

    assert isinstance(read(page)[Signal.GPU_MEMORY_PRESSURE], Missing)


def test_mean_time_per_token_is_not_the_time_between_tokens() -> None:
    """A mean per request with its prefill in it is not read as what it is not."""
    found = read(BUSY)

    assert found[Signal.ITL] == Lacking("TGI does not expose itl")
    assert found[Signal.TTFT] == Lacking("TGI does not expose ttft")


def test_a_model_has_no_effect() -> None:
    """The page does not say which model it is of."""
    assert numbers(read(BUSY, model="anything")) == numbers(read(BUSY))
