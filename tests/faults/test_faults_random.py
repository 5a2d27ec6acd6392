"""Random faults, for hours: what holds for every row of the fault table holds for all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fault_play import SCALED_OBJECT, Play
from fault_scene import Fault, Hits, Load, Scene
from keda_scaler.core.decision import State
from keda_scaler.store import Target

POLL_SECONDS, IDLE_SECONDS, HOLD_SECONDS = 15, 60, 300
KEYS = {
    "pollSeconds": str(POLL_SECONDS),
    "idleSeconds": str(IDLE_SECONDS),
    "holdSeconds": str(HOLD_SECONDS),
    "coldStartSeconds": "120",
}
WAKE = {"wakeFrom": "epp", "wakeService": "epp"}
COOLDOWN, INTERVAL = SCALED_OBJECT.cooldown_period, SCALED_OBJECT.polling_interval
EXAMPLES = 25
"""Scenes per promise; each is up to an hour and a half."""

AWAY = frozenset({Hits.PAGES, Hits.PAGE, Hits.LIST, Hits.SOURCE, Hits.GATEWAY, Hits.SCALER})

pytestmark = pytest.mark.xdist_group("faults")


@dataclass(frozen=True)
class Phase:
    """So many polls of the same kind."""

    polls: int
    busy: bool
    hits: frozenset[Hits] = frozenset()
    """What is away."""


def phases(hits: frozenset[Hits], most: int) -> st.SearchStrategy[list[Phase]]:
    """Draw up to so many phases in which any of these may be away."""
    one = st.builds(
        Phase,
        polls=st.sampled_from([1, 1, 2, 3, 5, 10, 25, 60]),
        busy=st.sampled_from([False, False, True]),
        hits=st.one_of(
            st.just(frozenset[Hits]()), st.frozensets(st.sampled_from(sorted(hits)), max_size=2)
        ),
    )
    return st.lists(one, min_size=1, max_size=most)


def scene_of(drawn: Sequence[Phase], keys: Mapping[str, str]) -> Scene:
    """Put phases one after the other: begin well and busy, and end well and idle."""
    second = 0
    loads, faults = [], []
    for phase in [Phase(4, busy=True), *drawn, Phase(35, busy=False)]:
        until = second + phase.polls * POLL_SECONDS
        if phase.busy:
            loads.append(Load(second, until, 4))
        for hits in phase.hits:
            # A restart takes a moment, however long the phase is.
            ends = min(until, second + 20) if hits is Hits.SCALER else until
            faults.append(Fault(hits, second, ends, "away"))
        second = until
    return Scene(
        seconds=second,
        replicas=2,
        load=tuple(loads),
        faults=tuple(faults),
        keys={**KEYS, **keys},
    )


async def test_sleep_takes_proof() -> None:
    """Nothing sleeps without proof for idleSeconds and KEDA's cooldown, through any faults.

    KEDA's race has two exceptions: the scaler knew nothing for as long as the hold and the cooldown
    together; or it lost its memory, knew nothing since, and the last work was a cooldown ago.
    """

    @given(drawn=phases(AWAY, 6), keys=st.sampled_from([{}, WAKE]), race=st.booleans())
    @settings(max_examples=EXAMPLES)
    def check(*, drawn: list[Phase], keys: Mapping[str, str], race: bool) -> None:
        for sleep in Play(scene_of(drawn, keys), race=race).run().sleeps:
            if sleep.proven >= COOLDOWN + IDLE_SECONDS - INTERVAL:
                continue
            assert race, sleep
            unheld = sleep.silent >= HOLD_SECONDS + COOLDOWN - INTERVAL
            forgotten = sleep.forgot and sleep.quiet >= COOLDOWN - INTERVAL
            assert unheld or forgotten, sleep

    check()


async def test_two_replicas_of_the_scaler_say_the_same() -> None:
    """KEDA asks them in turns: fed the same at the same times, they agree at any time."""

    @given(drawn=phases(AWAY, 5), keys=st.sampled_from([{}, WAKE]))
    @settings(max_examples=EXAMPLES)
    def check(drawn: list[Phase], keys: Mapping[str, str]) -> None:
        def watch(targets: tuple[Target, ...]) -> None:
            assert len({repr(target.decision()) for target in targets}) <= 1

        alone = Play(scene_of(drawn, keys)).run()
        both = Play(scene_of(drawn, keys), scalers=2).run(watch)
        assert both.said == alone.said
        assert both.replicas == alone.replicas

    check()


async def test_nothing_is_idle_soon_after_a_restart() -> None:
    """While replicas are listed, a scaler that began anew waits for its idleSeconds."""

    @given(drawn=phases(AWAY, 5), keys=st.sampled_from([{}, WAKE]))
    @settings(max_examples=EXAMPLES)
    def check(drawn: list[Phase], keys: Mapping[str, str]) -> None:
        began = -1
        second = -1

        def watch(targets: tuple[Target, ...]) -> None:
            nonlocal began, second
            second += 1
            if not targets:
                began = second + 1
            elif second < began + IDLE_SECONDS and targets[0].snapshot.replicas:
                assert targets[0].decision().state is not State.IDLE

        restarted = [Phase(1, busy=False, hits=frozenset({Hits.SCALER})), *drawn]
        Play(scene_of(restarted, keys)).run(watch)

    check()
