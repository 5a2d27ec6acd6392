"""SGLang's dialect: ranks, priorities, and prefill and decode that run apart."""

import pytest

from engine_pages import (
    buckets,
    capture,
    engine_of,
    histogram,
    needs_samples,
    numbers,
    read,
    sample,
    without,
)
from keda_scaler.core.readings import Missing
from keda_scaler.core.signals import LATENCIES, Signal

BUSY = capture("sglang__ranks-busy")


def page(waiting: str = "3", running: str = "2", usage: str = "0.5", labels: str = "") -> str:
    own = f'{{model_name="m"{labels}}}'
    return (
        f"sglang:num_queue_reqs{own} {waiting}\n"
        f"sglang:num_running_reqs{own} {running}\n"
        f"sglang:token_usage{own} {usage}\n"
    )


def test_data_parallel_ranks_add_up_and_their_token_usage_averages() -> None:
    """18 in the queue and 2 for a grammar wait, 13 run; 0.9 and 0.5 of two pools are used."""
    assert numbers(read(BUSY)) == (20.0, 33.0, pytest.approx(0.7))


def test_tensor_parallel_ranks_are_not_added_up() -> None:
    """Of processes that share requests the largest number counts, for every rank label."""
    for rank in ("tp_rank", "pp_rank", "moe_ep_rank", "pid"):
        both = page("3", "2", "0.5", f',{rank}="0"') + page("4", "2", "0.25", f',{rank}="1"')

        assert numbers(read(both)) == (4.0, 6.0, 0.5), rank


def test_priority_total_is_not_added_to_its_parts() -> None:
    """The series with an empty priority is the total; those of a priority are parts of it."""
    total = page("3", labels=',priority=""')
    parts = page("1", labels=',priority="1"') + page("2", labels=',priority="None"')

    assert numbers(read(total + parts)) == numbers(read(total)) == (3.0, 5.0, 0.5)
    assert numbers(read(page("3"))) == (3.0, 5.0, 0.5)
    assert numbers(read(parts)) == (None, None, None)


def test_histograms_are_not_multiplied_by_ranks() -> None:
    """Ranks repeat observations; data-parallel ranks and kinds of requests have their own."""
    name = "sglang:inter_token_latency_seconds"
    own = 'model_name="m",dp_rank="0",tp_rank='
    ranks = histogram(name, {"0.1": 5, "+Inf": 8}, own + '"0"') + histogram(
        name, {"0.1": 5, "+Inf": 7}, own + '"1"'
    )
    other = histogram(name, {"0.1": 1, "+Inf": 1}, 'model_name="m",dp_rank="1",tp_rank="2"')

    found = read(page() + ranks + other)[Signal.ITL]
    assert buckets(found) == {0.1: 6.0, float("inf"): 9.0}
    assert buckets(read(BUSY)[Signal.TTFT]) == {0.1: 4, 1.0: 21, 400.0: 31, float("inf"): 31}
    assert buckets(read(BUSY)[Signal.LATENCY]) == {10.0: 18, float("inf"): 20}


def test_histograms_by_priority_add_up_unless_there_is_a_total() -> None:
    """A latency is read whether it is split by priority, as a whole, or both."""
    name = "sglang:e2e_request_latency_seconds"
    total = histogram(name, {"+Inf": 9}, 'model_name="m",priority=""')
    parts = histogram(name, {"+Inf": 4}, 'model_name="m",priority="1"') + histogram(
        name, {"+Inf": 5}, 'model_name="m",priority="2"'
    )

    for split in (total, parts, total + parts):
        assert buckets(read(page() + split)[Signal.LATENCY]) == {float("inf"): 9.0}


def test_grammar_queue_counts_as_waiting() -> None:
    """A request whose grammar is compiled waits, and is not in the queue yet."""
    grammar = 'sglang:num_grammar_queue_reqs{model_name="m"} 6\n'

    assert numbers(read(page() + grammar)) == (9.0, 11.0, 0.5)


def test_queues_of_prefill_and_decode_servers_count_as_waiting() -> None:
    """Where prefill and decode run apart, requests wait in queues of their own."""
    assert numbers(read(capture("sglang__prefill-busy"))) == (9.0, 10.0, 0.25)

    decode = (
        'sglang:num_decode_prealloc_queue_reqs{engine_type="decode",model_name="m"} 4\n'
        'sglang:num_decode_transfer_queue_reqs{engine_type="decode",model_name="m"} 2\n'
    )
    assert numbers(read(page(labels=',engine_type="decode"') + decode)) == (9.0, 11.0, 0.5)


def test_the_older_name_of_the_prefill_queue() -> None:
    """It was called prealloc; a page with both names is counted once."""
    older = 'sglang:num_prefill_prealloc_queue_reqs{model_name="m"} 4\n'

    assert numbers(read(page() + older)) == (7.0, 9.0, 0.5)
    newer = older.replace("prealloc", "bootstrap")
    assert numbers(read(page() + older + newer)) == (7.0, 9.0, 0.5)


def test_a_server_that_runs_nothing_with_a_full_queue_has_work() -> None:
    """A hang shows as a queue with nothing running."""
    assert numbers(read(page("40", "0"))) == (40.0, 40.0, 0.5)


def test_both_spellings() -> None:
    """Some installations write an underscore for the colon."""
    assert numbers(read(BUSY.replace("sglang:", "sglang_"))) == numbers(read(BUSY))


def test_the_old_name_of_the_time_between_tokens() -> None:
    """Either name is read; the newer one is preferred."""
    old = histogram("sglang:time_per_output_token_seconds", {"+Inf": 3}, 'model_name="m"')
    new = histogram("sglang:inter_token_latency_seconds", {"+Inf": 4}, 'model_name="m"')

    assert buckets(read(page() + old)[Signal.ITL]) == {float("inf"): 3.0}
    assert buckets(read(page() + old + new)[Signal.ITL]) == {float("inf"): 4.0}


def test_the_model_filter() -> None:
    """Only series of the model are read."""
    two = page("3") + page("9").replace('"m"', '"other"')

    assert numbers(read(two, model="other"))[0] == 9.0
    assert numbers(read(two))[0] == 12.0
    assert read(two, model="absent")[Signal.ITL] == Missing(
        "no series of model 'absent'; there are: m, other"
    )


def test_a_missing_queue_is_not_zero() -> None:
    """Only the queues that not every server has may be absent."""
    found = read(without(page(), "sglang:num_queue_reqs"))

    assert found[Signal.QUEUE_DEPTH] == Missing("no series of sglang:num_queue_reqs")
    assert isinstance(found[Signal.CONCURRENCY], Missing)


@needs_samples
def test_a_page_that_others_recorded() -> None:
    """An older server with a label for the model only; its slow requests are past all buckets."""
    found = read(sample("sglang"))

    assert engine_of(sample("sglang")) == "sglang"
    assert numbers(found) == (2826.0, 2988.0, 0.28)
    assert buckets(found[Signal.TTFT])[30.0] == 2513
    assert buckets(found[Signal.TTFT])[float("inf")] == 11008
    # A histogram is on the page from its first request on; before, it is empty and not unknown.
    assert all(buckets(found[s]) == {float("inf"): 0.0} for s in LATENCIES - {Signal.TTFT})
