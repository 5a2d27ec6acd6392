"""Counters between readings, and demand over pods."""

from hypothesis import given
from hypothesis import strategies as st

from keda_scaler.core.readings import Demand, Missing
from keda_scaler.gateways.counters import Series, combine, rose

COUNTERS = st.dictionaries(
    st.sampled_from("abcd").map(lambda pod: ("requests_total", frozenset({("pod", pod)}))),
    st.integers(0, 5).map(float),
)


def series(pod: str) -> Series:
    return "requests_total", frozenset({("pod", pod)})


@given(before=COUNTERS, now=COUNTERS)
def test_one_counter_that_rose_or_was_born_is_enough(
    before: dict[Series, float], now: dict[Series, float]
) -> None:
    """Whatever the others do."""
    born = any(number > 0 for key, number in now.items() if key not in before)
    higher = any(now[key] > before[key] for key in now.keys() & before.keys())

    assert rose(before, now) is (born or higher)


@given(now=COUNTERS)
def test_the_first_reading_tells_of_nothing(now: dict[Series, float]) -> None:
    """It is what the next one is compared with; nothing has changed since either."""
    assert not rose(None, now)
    assert not rose(now, now)


@given(before=COUNTERS)
def test_a_reset_tells_of_nothing(before: dict[Series, float]) -> None:
    """A restarted gateway has lower counters, or none."""
    assert not rose(before, dict.fromkeys(before, 0.0))
    assert not rose(before, {})


def test_a_birth_at_zero_tells_of_nothing() -> None:
    """Some gateways print their counters before the first request."""
    assert not rose({}, {series("a"): 0.0})
    assert rose({}, {series("a"): 1.0})


DEMANDS = st.lists(
    st.builds(
        lambda held, more, arrived, at: Demand(held, held + more, arrived, at),
        st.integers(0, 3).map(float),
        st.integers(0, 3).map(float),
        st.booleans(),
        st.integers(0, 9).map(float),
    ),
    min_size=1,
)


@given(parts=DEMANDS)
def test_pods_add_up(parts: list[Demand]) -> None:
    """One that is positive is enough, and as new as it is; all must prove that there is nothing."""
    found = combine(parts)

    assert isinstance(found, Demand)
    assert found.held == sum(part.held for part in parts)
    assert found.in_flight == sum(part.in_flight for part in parts) >= found.held
    assert found.arrived is any(part.arrived for part in parts)
    if found.arrived or found.in_flight:
        assert found.at == max(p.at for p in parts if p.arrived or p.in_flight)
    else:
        assert found.at == min(part.at for part in parts)


def test_no_pod_is_no_demand() -> None:
    """It is unknown, not zero."""
    assert combine(()) == Missing("no pod of the gateway answered")
