"""LMDeploy's dialect: two places to wait in, and data-parallel engines."""

from engine_pages import buckets, capture, numbers, read, without
from keda_scaler.core.readings import Missing
from keda_scaler.core.signals import Signal

BUSY = capture("lmdeploy__busy")


def test_requests_that_wait_for_a_handle_count_as_waiting() -> None:
    """6 wait in the engines and 6 before them, and 15 run; the caches average."""
    assert numbers(read(BUSY)) == (12.0, 27.0, 0.5)


def test_older_servers_do_not_count_those() -> None:
    """A part that the first versions do not have may be absent, the queue itself may not."""
    assert numbers(read(without(BUSY, "lmdeploy:num_api"))) == (6.0, 21.0, 0.5)
    assert read(without(BUSY, "lmdeploy:num_requests_waiting"))[Signal.QUEUE_DEPTH] == Missing(
        "no series of lmdeploy:num_requests_waiting"
    )


def test_routed_requests_are_not_counted() -> None:
    """Those with a handle wait or run in the engine, where they are counted."""
    assert read(without(BUSY, "lmdeploy:num_api_requests_routed")) == read(BUSY)


def test_latencies() -> None:
    """The time between tokens has no unit in its name and is in seconds."""
    found = read(BUSY)

    assert buckets(found[Signal.TTFT]) == {0.5: 18, float("inf"): 21}
    assert buckets(found[Signal.ITL]) == {0.05: 600, float("inf"): 800}
    assert buckets(found[Signal.LATENCY]) == {10.0: 6, float("inf"): 7}
    first = read(without(BUSY, "lmdeploy:iter_token_latency"))
    assert buckets(first[Signal.ITL]) == {0.05: 700, float("inf"): 800}


def test_both_spellings() -> None:
    """Some installations write an underscore for the colon."""
    assert numbers(read(BUSY.replace("lmdeploy:", "lmdeploy_"))) == numbers(read(BUSY))


def test_the_model_filter() -> None:
    """Only series of the model are read."""
    two = BUSY + BUSY.replace('"internlm"', '"other"')

    assert numbers(read(two, model="other")) == (12.0, 27.0, 0.5)
    assert numbers(read(two)) == (24.0, 54.0, 0.5)
