"""The supervisor: which sources a target has, and what becomes of one that fails."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

import pytest
from structlog.testing import capture_logs

from keda_scaler.core.readings import Demand, Engine, Missing, Readings, Replica
from keda_scaler.core.trigger import Accepts, Trigger, parse_trigger
from keda_scaler.errors import SourceError
from keda_scaler.sources.sink import Answer, Sink, TargetSink, WakeSink
from keda_scaler.sources.supervisor import RESTART_SECONDS, Supervisor

pytestmark = pytest.mark.looptime


class Told:
    """A sink of all that a target's sources tell."""

    is_waking = True

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def listed(self, replicas: Sequence[Replica], at: float) -> None:
        raise AssertionError

    def polled(
        self, answers: Mapping[Replica, Answer], at: float, doubt: str | None = None
    ) -> None:
        raise AssertionError

    def unlisted(self, reason: str) -> None:
        self.reasons.append(f"replicas: {reason}")

    def read(self, replica: str, readings: Readings, engine: Engine | None = None) -> None:
        raise AssertionError

    def demanded(self, demand: Demand | Missing, doubt: str | None = None) -> None:
        assert isinstance(demand, Missing)
        self.reasons.append(f"wake: {demand.reason}")


class World:
    """A supervisor, and who runs."""

    def __init__(self) -> None:
        self.running: list[str] = []
        self.broken: set[str] = set()
        self.error: Exception = RuntimeError("broken")
        self.closed: list[str] = []
        self.sink = Told()
        self.supervisor = Supervisor(
            endpoints=Replicas("endpoints", self),
            prometheus=Replicas("prometheus", self),
            gateways=Waking("gateways", self),
            reports=Waking("reports", self),
        )

    async def run(self, what: str, about: str) -> None:
        if what in self.broken:
            raise self.error
        self.running.append(f"{what} {about}")
        try:
            await asyncio.Event().wait()
        finally:
            self.running.remove(f"{what} {about}")


class Replicas:
    """A source of replicas."""

    def __init__(self, what: str, world: World) -> None:
        self._what = what
        self._world = world

    async def run(self, namespace: str, trigger: Trigger, sink: Sink) -> None:
        assert sink is self._world.sink
        await self._world.run(self._what, namespace)

    async def aclose(self) -> None:
        self._world.closed.append(self._what)


class Waking:
    """A source of what waits; of reports, of both."""

    def __init__(self, what: str, world: World) -> None:
        self._what = what
        self._world = world

    async def run(
        self, namespace: str, name: str, trigger: Trigger, sink: WakeSink | TargetSink
    ) -> None:
        assert sink is self._world.sink
        await self._world.run(self._what, f"{namespace}/{name}")

    async def aclose(self) -> None:
        self._world.closed.append(self._what)


def trigger_of(**keys: str) -> Trigger:
    return parse_trigger(keys, Accepts(frozenset({"main"}), reports=True))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.supervisor.aclose()


EPP = {"wakeFrom": "epp", "wakeService": "epp"}


@pytest.mark.parametrize(
    ("keys", "running"),
    [
        ({"service": "llama"}, ["endpoints a"]),
        ({"prometheus": "main"}, ["prometheus a"]),
        ({"service": "llama", **EPP}, ["endpoints a", "gateways a/b"]),
        ({"prometheus": "main", **EPP}, ["prometheus a", "gateways a/b"]),
        ({"service": "llama", "wakeFrom": "reports"}, ["endpoints a", "reports a/b"]),
        ({"engine": "reports"}, ["reports a/b"]),
        (
            {"service": "x", "prometheus": "main", "wakeFrom": "query", "wakeQuery": "up"},
            ["endpoints a", "gateways a/b"],
        ),
    ],
)
async def test_the_sources_of_a_target(
    world: World, keys: dict[str, str], running: list[str]
) -> None:
    """Its replicas are read where the trigger says, and what waits in front of them elsewhere."""
    stop = world.supervisor.follow("a", "b", trigger_of(**keys), world.sink)
    await asyncio.sleep(0.1)
    assert world.running == running
    stop()
    await asyncio.sleep(0.1)
    assert world.running == []


@pytest.mark.parametrize(("what", "of"), [("endpoints", "replicas"), ("gateways", "wake")])
async def test_a_source_that_fails_is_started_again(world: World, what: str, of: str) -> None:
    """Its readings are unknown, the other source goes on, and a pause later it is back."""
    world.broken.add(what)
    with capture_logs() as logs:
        world.supervisor.follow("a", "b", trigger_of(service="x", **EPP), world.sink)
        await asyncio.sleep(0.1)
        assert len(world.running) == 1
        world.broken.clear()
        await asyncio.sleep(1.3 * RESTART_SECONDS)

    assert world.sink.reasons == [f"{of}: internal error, see the scaler's log"]
    assert sorted(world.running) == ["endpoints a", "gateways a/b"]
    assert len(logs) == 1


async def test_a_source_that_may_not_be_read_says_why(world: World) -> None:
    """That is no fault of ours, and not in the log; it is tried again likewise."""
    world.broken.add("prometheus")
    world.error = SourceError("there are too many")
    with capture_logs() as logs:
        world.supervisor.follow("a", "b", trigger_of(prometheus="main"), world.sink)
        await asyncio.sleep(0.1)
        world.broken.clear()
        await asyncio.sleep(1.3 * RESTART_SECONDS)

    assert world.sink.reasons == ["replicas: there are too many"]
    assert world.running == ["prometheus a"]
    assert not logs


async def test_the_end_stops_and_closes_everything() -> None:
    """Gateways are closed before the Prometheus whose connections they use."""
    world = World()
    world.supervisor.follow("a", "b", trigger_of(service="x", **EPP), world.sink)
    await asyncio.sleep(0.1)
    await world.supervisor.aclose()

    assert world.running == []
    assert sorted(world.closed) == ["endpoints", "gateways", "prometheus", "reports"]
    assert world.closed.index("gateways") < world.closed.index("prometheus")
