"""Scenes that are known to go wrong where what is missing moves something; each was seen once.

The random worlds of `test_adversary.py` may come upon them too; here they stand one by one.
"""

import pytest

from adversary_plan import Event, Hit, Plan, Work
from adversary_play import Play, Played
from adversary_pods import Fate, Pace

ALWAYS = 100_000.0
BUSY = Work(waiting=4 * 4, running=40, kv=2.4)
"""What four replicas are right for, by the default targets: 4 of 5 wait on each, 0.6 of 0.85."""


def played(plan: Plan) -> Played:
    found = Play(plan, traced=True).run()
    assert not found.faults, "\n".join([*map(str, found.faults), *plan.lines(), *found.trace])
    return found


@pytest.mark.parametrize("surge", [1, 2, 4])
@pytest.mark.parametrize("load", [45.0, 180.0, 600.0])
def test_a_rolling_update_at_steady_load_asks_for_no_more(surge: int, load: float) -> None:
    """It went from 4 to 24 replicas: pods that load counted as at target, and made more of them."""
    rollout = Event(Hit.ROLLOUT, 120)
    plan = Plan(
        seconds=6 * 60 + 6 * load,
        replicas=4,
        phases=((0, BUSY),),
        events=(rollout,),
        pace=Pace(load=load),
        surge=surge,
    )

    assert {count for _, count in played(plan).replicas} == {4}


def test_a_rolling_update_of_one_idle_replica_asks_for_no_more() -> None:
    """It went from 1 to 12, with hardly a request."""
    plan = Plan(
        seconds=3600,
        replicas=1,
        phases=((0, Work(0, 1, 0.05)),),
        events=(Event(Hit.ROLLOUT, 120),),
        pace=Pace(load=600),
    )

    assert played(plan).most == 1


def test_workers_without_a_page_ask_for_nothing() -> None:
    """A LeaderWorkerSet of two pods a group went 1, 2, 4, 7, 12, 20."""
    plan = Plan(
        seconds=3600,
        replicas=1,
        phases=((0, Work(4, 10, 0.5)),),
        kind="LeaderWorkerSet",
    )

    assert played(plan).most == 1


def test_no_request_at_all_asks_for_no_second_replica() -> None:
    """Two workers without a page counted as at target: 2 replicas for nobody, for ever."""
    plan = Plan(seconds=2400, replicas=2, phases=((0, Work()),), kind="LeaderWorkerSet", minimum=1)

    assert played(plan).most_asked(plan) <= 1


@pytest.mark.parametrize("fate", [Fate.CRASHES, Fate.NEVER])
@pytest.mark.parametrize("unavailable", [0, 1])
def test_a_version_that_crashes_asks_for_no_more(fate: Fate, unavailable: int) -> None:
    """It went to maxReplicaCount."""
    plan = Plan(
        seconds=3600,
        replicas=3,
        phases=((0, Work(9, 30, 1.8)),),
        events=(Event(Hit.ROLLOUT, 120, fate=fate),),
        unavailable=unavailable,
    )

    assert played(plan).most == 3


@pytest.mark.parametrize("kind", ["StatefulSet", "LeaderWorkerSet"])
def test_pods_that_are_replaced_one_after_the_other_ask_for_no_more(kind: str) -> None:
    """Their names stay, and one of them is always away."""
    plan = Plan(
        seconds=3600,
        replicas=3,
        phases=((0, Work(9, 30, 1.8)),),
        events=(Event(Hit.ROLLOUT, 120),),
        kind=kind,  # type: ignore[arg-type]  # two of its words
        pace=Pace(load=120),
    )

    assert played(plan).most == 3


def test_one_waiting_request_asks_for_one_replica_while_none_comes() -> None:
    """It went from 1 to 24 in ten syncs: what waking asks for counted what was listed."""
    never = [Event(Hit.ROLLOUT, at, fate=Fate.NEVER) for at in (10, 100)]
    plan = Plan(
        seconds=1800,
        replicas=0,
        phases=((0, Work()), (60, Work(1, 0, 0.0))),
        events=tuple(never),
        gateway="held",
    )

    found = played(plan)
    assert found.most_asked(plan) <= 1
    assert found.most == 1


def test_nothing_more_is_asked_for_until_what_was_asked_for_has_come() -> None:
    """`maxPendingFactor` ended after `coldStartSeconds`, although no replica had come: 4 to 60."""
    plan = Plan(
        seconds=1800,
        replicas=2,
        phases=((0, Work(10, 20, 0.0)), (120, Work(20, 20, 0.0)), (200, Work(300, 20, 0.0))),
        events=(Event(Hit.ROLLOUT, 110, fate=Fate.PENDING),),
        keys={"targetQueueDepth": "5"},
        maximum=60,
    )

    assert played(plan).most == 4


def test_a_queue_that_is_handed_over_to_a_page_that_fails_stays_asked_for() -> None:
    """It went from 2 to 1 with 14 waiting, and the HPA took back what was asked for."""
    # Asked for at 61 and 63; both take 50 s. All requests go to the first.
    plan = Plan(
        seconds=900,
        replicas=0,
        phases=((0, Work()), (60, Work(14, 0, 0.0))),
        events=(Event(Hit.REFUSE, 105, 240, which=1),),
        keys={"targetQueueDepth": "7"},
        gateway="held",
        routing="first",
        at_once=True,
        pace=Pace(load=45),
    )

    assert [count for _, count in played(plan).replicas] == [0, 1, 2]


def test_a_scaler_that_was_away_for_longer_than_the_cooldown_holds() -> None:
    """It said "never known", KEDA's race made that "inactive", and 14 requests lost theirs."""
    plan = Plan(
        seconds=1200,
        replicas=1,
        phases=((0, Work(4, 10, 0.5)),),
        events=(Event(Hit.SCALER, 60, 546.8), Event(Hit.HANG, 540, 700)),
        cooldown=60,
        race=True,
    )

    assert [count for _, count in played(plan).replicas] == [1]


def test_a_page_that_fails_as_work_comes_proves_nothing() -> None:
    """A model went to zero 2 s after its page had begun to fail, and work to come."""
    # Idle since 30, so that KEDA's cooldown is over at its poll at 397. Pages are read at 395.5.
    plan = Plan(
        seconds=600,
        replicas=1,
        phases=((0, Work(0, 1)), (30, Work()), (396, Work(4, 4, 0.3))),
        events=(Event(Hit.REFUSE, 395.2, 600),),
        keys={"pollSeconds": "5", "staleSeconds": "60"},
        cooldown=330,
    )

    assert [count for _, count in played(plan).replicas] == [1]


def test_pages_that_fail_behind_a_gateway_that_knows_of_all_requests_ask_for_no_more() -> None:
    """It went from 2 to 4: all that was in flight was taken for what waits."""
    plan = Plan(
        seconds=900,
        replicas=2,
        phases=((0, Work(7, 10, 0.5)),),
        events=(Event(Hit.REFUSE, 120, 600),),
        keys={"targetQueueDepth": "5"},
        gateway="in-flight",
    )

    assert {count for _, count in played(plan).replicas} == {2}


def test_an_agent_that_dies_does_not_say_that_its_pods_are_gone() -> None:
    """With `staleSeconds` of 90 the end of `up` was taken for the end of the pod."""
    plan = Plan(
        seconds=1200,
        replicas=1,
        phases=((0, Work(4, 10, 0.5)),),
        events=(Event(Hit.AGENT, 97, 900),),
        keys={"pollSeconds": "30"},
        scraped_every=10.0,
        cooldown=60,
    )

    assert [count for _, count in played(plan).replicas] == [1]
