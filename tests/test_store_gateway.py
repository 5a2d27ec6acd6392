"""What the wake source says is pushed within its own poll: no second of it is waited for."""

import asyncio

import pytest

from keda_scaler.core.decision import Decision, State
from keda_scaler.core.readings import Demand, Missing
from keda_scaler.core.trigger import Accepts, parse_trigger
from keda_scaler.store import Store, Target

TRIGGER = parse_trigger({"service": "llama", "wakeFrom": "epp", "wakeService": "epp"}, Accepts())
"""Replicas are read every five seconds, and the wake source every second at zero."""


class Followed:
    """A target at zero, and what was observed of it without anybody asking."""

    def __init__(self) -> None:
        self.now = 100.0
        self.states: list[State] = []
        self.woken = 0
        store = Store(lambda _: lambda: None, self._observe, lambda: self.now)
        self.target = store.follow(b"llama", "models", "llama", TRIGGER)
        self.close = store.close

    def _observe(self, _: Target, before: Decision | None, after: Decision) -> None:
        if before is None or before.state is not after.state:
            self.states.append(after.state)

    def wake(self) -> None:
        self.woken += 1

    def hears(self, requests: float, *, arrived: bool = False) -> None:
        """A second later the wake source says so."""
        self.now += 1
        self.target.demanded(Demand(requests, requests, arrived=arrived, at=self.now))


@pytest.mark.parametrize(("requests", "arrived"), [(0, True), (1, False)])
async def test_a_new_request_is_pushed_at_the_poll_that_sees_it(
    requests: float, *, arrived: bool
) -> None:
    """A gauge that rises, and a counter whose gauge stays 0; what is the same may wait."""
    it = Followed()
    it.target.listed([], it.now)
    it.hears(0)
    with it.target.streamed(it.wake):
        it.hears(0)
        assert (it.states, it.woken) == ([State.IDLE], 0)
        it.hears(requests, arrived=arrived)
        assert (it.states, it.woken) == ([State.IDLE, State.ACTIVE], 1)
    it.close()
    await asyncio.sleep(0)


async def test_a_request_after_an_outage_is_pushed_at_once() -> None:
    """The same answer as before the outage is news."""
    it = Followed()
    it.target.listed([], it.now)
    it.hears(0)
    it.target.demanded(Missing("refused"))
    it.hears(1)
    assert it.states == [State.IDLE, State.ACTIVE]
    it.close()
    await asyncio.sleep(0)
