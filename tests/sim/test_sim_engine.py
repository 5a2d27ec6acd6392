"""The model of an engine: its arithmetic, and what holds whatever happens."""

import contextlib
import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keda_scaler.sim.engine import Engine, EngineState
from keda_scaler.sim.model import EngineModel
from keda_scaler.sim.requests import Finished, FinishReason, QueueFullError, Request

PLAIN = EngineModel(
    max_num_seqs=2,
    num_blocks=100,
    block_size=16,
    prefill_rate=1000.0,
    step_seconds=0.02,
    step_seconds_per_request=0.001,
)


def test_one_request_takes_the_time_that_the_module_says() -> None:
    """The worked example of the module: first token after 0.12 s, done after 0.16 s."""
    over: list[Finished] = []
    engine = Engine(PLAIN, over.append)
    engine.submit(Request(100, 3), 10.0)

    engine.advance(10.119)
    before = engine.state()
    engine.advance(10.12)
    first = engine.state()
    engine.advance(10.16)
    after = engine.state()

    assert (before.running, before.generation_tokens, before.prompt_tokens) == (1, 0, 0)
    assert (first.running, first.generation_tokens, first.prompt_tokens) == (1, 1, 100)
    assert (after.running, after.generation_tokens, after.waiting) == (0, 3, 0)
    assert after.ttft.sum == pytest.approx(0.12)
    assert after.itl.sum == pytest.approx(0.04)
    assert after.latency.sum == pytest.approx(0.16)
    assert after.queue_time.sum == 0.0
    assert over == [Finished(1, Request(100, 3), FinishReason.STOP, 3, 10.16)]


def test_requests_that_come_at_once_fill_the_batch_and_the_rest_waits() -> None:
    """Without any time passing, the batch is full and the others are in the queue."""
    engine = Engine(PLAIN)
    for _ in range(5):
        engine.submit(Request(16, 10), 0.0)

    state = engine.state()

    assert (state.running, state.waiting) == (2, 3)
    assert state.kv_cache_usage == 2 / 100


def test_queue_is_first_in_first_out() -> None:
    """Equal requests are over in the order in which they came."""
    over: list[Finished] = []
    engine = Engine(PLAIN, over.append)
    ids = [engine.submit(Request(16, 10), 0.01 * step) for step in range(8)]

    engine.advance(1000.0)

    assert [each.id for each in over] == ids


def test_newest_request_is_preempted_when_blocks_run_out_and_still_finishes() -> None:
    """With too few blocks for both, the older one goes on and the newer one comes back later."""
    model = EngineModel(max_num_seqs=2, num_blocks=3, block_size=16)
    over: list[Finished] = []
    engine = Engine(model, over.append)
    old = engine.submit(Request(16, 17), 0.0)
    new = engine.submit(Request(16, 17), 0.0)

    engine.advance(0.1)
    during = engine.state()
    engine.advance(1000.0)
    after = engine.state()

    assert (during.running, during.waiting, during.preemptions, during.blocks) == (1, 1, 1, 2)
    assert [each.id for each in over] == [old, new]
    assert after.generation_tokens == 34
    assert after.prompt_tokens == 32
    assert after.blocks == 0


@pytest.mark.parametrize("running", [True, False])
def test_abort_frees_what_the_request_holds_at_once(*, running: bool) -> None:
    """An aborted request neither waits nor runs, is counted, and leaves no latency behind."""
    engine = Engine(EngineModel(max_num_seqs=1))
    ids = [engine.submit(Request(100, 100), 0.0) for _ in range(2)]

    aborted = engine.abort(ids[0 if running else 1], 0.5)
    again = engine.abort(ids[0 if running else 1], 0.5)
    state = engine.state()
    engine.advance(1000.0)
    after = engine.state()

    assert aborted
    assert not again
    assert state.running + state.waiting == 1
    assert state.finished[FinishReason.ABORT] == 1
    assert after.finished == {
        FinishReason.STOP: 1,
        FinishReason.LENGTH: 0,
        FinishReason.ABORT: 1,
    }
    assert after.latency.buckets[-1][1] == 1


def test_requests_that_could_never_be_served_are_refused() -> None:
    """A request larger than the cache, or one too many in the queue, does not get in."""
    engine = Engine(EngineModel(max_num_seqs=1, num_blocks=4, block_size=16, max_waiting=1))
    with pytest.raises(ValueError, match="larger than the KV cache"):
        engine.submit(Request(32, 34), 0.0)

    engine.submit(Request(32, 33), 0.0)  # the last token needs no place: exactly 64
    engine.submit(Request(1, 1), 0.0)
    with pytest.raises(QueueFullError):
        engine.submit(Request(1, 1), 0.0)

    state = engine.state()
    assert (state.submitted, state.rejected, state.running, state.waiting) == (2, 1, 1, 1)


@pytest.mark.parametrize(
    "sizes",
    [
        {"max_num_seqs": 0},
        {"num_blocks": 0},
        {"block_size": -1},
        {"max_waiting": 0},
        {"prefill_rate": 0.0},
        {"prefill_rate": float("nan")},
        {"step_seconds": 0.0},
        {"step_seconds_per_request": -0.1},
    ],
)
def test_models_that_would_never_finish_are_refused(sizes: dict[str, float]) -> None:
    """Sizes and speeds have a lower bound."""
    with pytest.raises(ValueError, match="at least"):
        EngineModel(**sizes)  # type: ignore[arg-type]  # floats that are whole where ints belong


@pytest.mark.parametrize(
    ("prompt_tokens", "output_tokens", "finish"),
    [(0, 1, FinishReason.STOP), (1, 0, FinishReason.STOP), (1, 1, FinishReason.ABORT)],
)
def test_requests_without_tokens_or_born_aborted_are_refused(
    prompt_tokens: int, output_tokens: int, finish: FinishReason
) -> None:
    """A request has a prompt, an answer, and an end of its own."""
    with pytest.raises(ValueError, match=r"at least 1|stop or length"):
        Request(prompt_tokens, output_tokens, finish)


def test_a_long_gap_costs_little() -> None:
    """Two million tokens in one call are a matter of milliseconds, not of seconds."""
    engine = Engine(EngineModel(num_blocks=1_000_000))
    for _ in range(20):
        engine.submit(Request(100, 100_000), 0.0)

    begin = time.process_time()
    engine.advance(1e6)
    spent = time.process_time() - begin

    assert engine.state().generation_tokens == 2_000_000
    assert spent < 0.5


def test_time_does_not_run_backwards() -> None:
    """A time before the last one counts as the last one."""
    engine = Engine(PLAIN)
    engine.submit(Request(16, 10), 5.0)
    engine.advance(5.1)
    before = engine.state()

    engine.advance(4.0)

    assert engine.state() == before


def test_next_finish_is_when_an_undisturbed_request_is_over() -> None:
    """The estimate is exact when nothing else happens, and None when idle."""
    over: list[Finished] = []
    engine = Engine(PLAIN, over.append)
    idle = engine.next_finish()
    engine.submit(Request(100, 30), 1.0)

    due = engine.next_finish()
    engine.advance(1000.0)

    assert idle is None
    assert due == over[0].at
    assert engine.next_finish() is None


# What follows holds for any model and any sequence of calls.

models = st.builds(
    EngineModel,
    max_num_seqs=st.integers(1, 5),
    num_blocks=st.integers(8, 24),  # eight hold the largest request
    block_size=st.just(4),
    prefill_rate=st.sampled_from([333.0, 5000.0]),
    step_seconds=st.sampled_from([0.01, 0.0173]),
    step_seconds_per_request=st.sampled_from([0.0, 0.0011]),
    max_waiting=st.integers(1, 10),
)
requests = st.builds(
    Request,
    prompt_tokens=st.integers(1, 16),
    output_tokens=st.integers(1, 17),
    finish=st.sampled_from([FinishReason.STOP, FinishReason.LENGTH]),
)
gaps = st.one_of(st.just(0.0), st.sampled_from([0.01, 0.02, 0.0173]), st.floats(0, 0.4))
calls = st.lists(st.tuples(gaps, st.one_of(requests, st.integers(1, 30))), max_size=40)
"""Each after a gap in seconds: a request to submit, or the id of one to abort."""


def _play(
    engine: Engine, played: list[tuple[float, Request | int]], pieces: int
) -> list[EngineState]:
    """Make the calls, moving through each gap in so many pieces; give the state after each."""
    states = []
    now = 100.0
    for gap, call in played:
        for piece in range(1, pieces):
            engine.advance(now + gap * piece / pieces)
        now += gap
        if isinstance(call, int):
            engine.abort(call, now)
        else:
            with contextlib.suppress(QueueFullError):
                engine.submit(call, now)
        states.append(engine.state())
    for piece in range(1, pieces):
        engine.advance(now + piece / pieces)
    engine.advance(now + 1000)
    return [*states, engine.state()]


@given(models, calls)
@settings(max_examples=150, deadline=None)
def test_the_books_balance(model: EngineModel, played: list[tuple[float, Request | int]]) -> None:
    """Nothing exceeds its size, nothing is lost, counters only grow, and everything ends."""
    states = _play(Engine(model), played, 1)

    for state in states:
        assert 0 <= state.running <= model.max_num_seqs
        assert state.waiting >= 0
        assert 0 <= state.blocks <= model.num_blocks
        assert 0 <= state.kv_cache_usage <= 1
        assert state.submitted == state.waiting + state.running + sum(state.finished.values())
    for old, new in itertools.pairwise(states):
        assert all(a <= b for a, b in zip(_counters(old), _counters(new), strict=True))
    last = states[-1]
    assert (last.waiting, last.running, last.blocks) == (0, 0, 0)
    over = last.finished[FinishReason.STOP] + last.finished[FinishReason.LENGTH]
    assert last.latency.buckets[-1][1] == last.queue_time.buckets[-1][1] == over
    assert last.ttft.buckets[-1][1] + last.itl.buckets[-1][1] == last.generation_tokens


def _counters(state: EngineState) -> list[float]:
    histograms = (state.ttft, state.itl, state.latency, state.queue_time)
    return [
        *(state.submitted, state.rejected, state.preemptions, state.queried_tokens),
        *(state.prompt_tokens, state.generation_tokens, *state.finished.values()),
        *(count for histogram in histograms for _, count in histogram.buckets),
        *(histogram.sum for histogram in histograms),
    ]


@given(models, calls, st.integers(2, 60))
@settings(max_examples=150, deadline=None)
def test_how_often_it_is_advanced_changes_nothing(
    model: EngineModel, played: list[tuple[float, Request | int]], pieces: int
) -> None:
    """Many small advances and one large one give the same state, to the last bit."""
    assert _play(Engine(model), played, pieces) == _play(Engine(model), played, 1)


def test_the_tests_above_do_preempt() -> None:
    """The sizes that the properties are checked with are small enough for blocks to run out."""
    engine = Engine(EngineModel(max_num_seqs=5, num_blocks=8, block_size=4))
    for _ in range(5):
        engine.submit(Request(4, 17), 0.0)

    engine.advance(1000.0)

    assert engine.state().preemptions > 0
