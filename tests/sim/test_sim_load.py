"""Load: repeatable chance, rates, and a driver that keeps time."""

import asyncio
import math
from itertools import islice, takewhile

import pytest

from keda_scaler.sim.engine import Engine
from keda_scaler.sim.load import Arrivals, Burst, Constant, Sizes, Wave, drive
from keda_scaler.sim.model import EngineModel
from keda_scaler.sim.requests import QueueFullError, Request

ONE = Request(1, 1)


def test_the_same_seed_gives_the_same_arrivals() -> None:
    """Arrivals depend on the seed and on nothing else, and start over with each iteration."""
    arrivals = Arrivals(Constant(5.0), seed=1)

    first = list(islice(arrivals, 50))

    assert first == list(islice(arrivals, 50))
    assert first == list(islice(Arrivals(Constant(5.0), seed=1), 50))
    assert first != list(islice(Arrivals(Constant(5.0), seed=2), 50))


def test_constant_rate_is_kept_on_average() -> None:
    """Ten a second for a thousand seconds are ten thousand, give or take four deviations."""
    count = len(list(Arrivals(Constant(10.0, ends=1000.0))))

    assert abs(count - 10_000) < 4 * math.sqrt(10_000)


def test_no_rate_gives_no_arrivals_and_ends() -> None:
    """A rate that is always 0 does not search forever."""
    assert list(Arrivals(Constant(0.0))) == []


def test_wave_rises_falls_and_rests() -> None:
    """The worked example of `Wave`, and no arrival in a trough."""
    wave = Wave(peak=4.0, period=120.0, busy=60.0)

    assert wave.at(30.0) == wave.at(150.0) == pytest.approx(4.0)
    assert wave.at(10.0) == pytest.approx(2.0)
    assert wave.at(60.0) == wave.at(119.9) == 0.0
    arrivals = list(takewhile(lambda arrival: arrival[0] < 600, Arrivals(wave)))
    assert arrivals
    assert all(seconds % 120 < 60 for seconds, _ in arrivals)


@pytest.mark.parametrize(("period", "busy"), [(0.0, 1.0), (1.0, 0.0), (math.inf, 1.0)])
def test_wave_that_never_rises_is_refused(period: float, busy: float) -> None:
    """Its arrivals would be sought forever."""
    with pytest.raises(ValueError, match="more than 0"):
        Wave(period=period, busy=busy)


def test_burst_is_short_and_ends() -> None:
    """All arrivals lie within the burst, and then the iteration is over."""
    times = [seconds for seconds, _ in Arrivals(Burst(peak=20.0, begins=10.0, seconds=2.0))]

    assert 20 < len(times) < 60
    assert all(10.0 <= seconds < 12.0 for seconds in times)
    assert times == sorted(times)


def test_sizes_stay_within_their_bounds() -> None:
    """Prompts and answers are as large as said, the bounds included."""
    sizes = Sizes(prompt_tokens=(3, 5), output_tokens=(7, 8))
    drawn = [request for _, request in islice(Arrivals(Constant(1.0), sizes), 200)]

    assert {request.prompt_tokens for request in drawn} == {3, 4, 5}
    assert {request.output_tokens for request in drawn} == {7, 8}
    assert len({request.finish for request in drawn}) == 2


def test_defaults_queue_visibly_and_rest_long_enough_to_prove_idleness() -> None:
    """Every two minutes ten or more wait, the cache fills, and 35 s have no work at all."""
    engine = Engine(EngineModel())
    states = []
    arrivals = iter(Arrivals(Wave()))
    seconds, request = next(arrivals)
    for now in range(480):
        while seconds <= now:
            engine.submit(request, seconds)
            seconds, request = next(arrivals)
        engine.advance(float(now))
        states.append(engine.state())

    for begin in range(0, 480, 120):
        period = states[begin : begin + 120]
        assert 10 <= max(state.waiting for state in period) <= 20
        assert max(state.kv_cache_usage for state in period) > 0.7
        assert all(state.waiting + state.running == 0 for state in period[-35:])


@pytest.mark.looptime
async def test_driver_keeps_time_without_drift() -> None:
    """Requests are handed over at their times, counted from the start, however long each takes."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    times = [0.5, 0.5, 1.75, 30.0, 3600.0]
    seen: list[float] = []

    rejected = await drive(((t, ONE) for t in times), lambda _: seen.append(loop.time() - start))

    assert seen == pytest.approx(times, abs=0.01)
    assert rejected == 0


@pytest.mark.looptime
async def test_driver_drops_and_counts_what_is_rejected() -> None:
    """A full queue does not stop the load."""
    engine = Engine(EngineModel(max_num_seqs=1, max_waiting=2))
    loop = asyncio.get_running_loop()

    rejected = await drive(
        [(1.0, Request(1, 100))] * 10, lambda request: engine.submit(request, loop.time())
    )

    state = engine.state()
    assert rejected == state.rejected
    assert state.submitted + rejected == 10
    assert rejected >= 7


@pytest.mark.looptime
async def test_driver_stops_when_cancelled() -> None:
    """Endless load ends with its task, and nothing is handed over afterwards."""
    seen: list[Request] = []
    task = asyncio.create_task(drive(Arrivals(Constant(10.0)), seen.append))
    await asyncio.sleep(10)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    count = len(seen)
    await asyncio.sleep(10)

    assert 50 < count == len(seen) < 150


@pytest.mark.looptime
async def test_driver_lets_others_run_when_it_is_late() -> None:
    """A long backlog is handed over at once, yet the loop goes round in between."""
    ran: list[int] = []
    asyncio.get_running_loop().call_soon(ran.append, 1)
    seen_before: list[int] = []

    await drive([(0.0, ONE)] * 3, lambda _: seen_before.append(len(ran)))

    assert seen_before[-1] == 1


def test_queue_full_is_an_error_of_this_package() -> None:
    """Whoever catches what we raise on purpose catches it too."""
    assert QueueFullError.__mro__[1].__name__ == "KedaScalerError"
