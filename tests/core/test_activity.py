"""Activity: evidence of work, proof of idleness, or unknown."""

import math

import pytest
from msgspec.structs import replace

from keda_scaler.core.activity import Quiet, Unknown, Work
from keda_scaler.core.memory import Memory
from keda_scaler.core.readings import Engine, Missing
from keda_scaler.core.signals import Signal
from keda_scaler.core.snapshot import Snapshot, Spans, absorb
from readings_for_tests import judged, remembered, replica, snapshot, trigger


def test_any_request_is_work() -> None:
    """One running request is evidence, whatever else is unknown."""
    known = snapshot(replica("a", running=1), replica("b", None))

    assert judged(trigger(), known, 1.0) == Work("concurrency is above 0", 15.0)


def test_requests_of_all_replicas_add_up() -> None:
    """activationRequests is a threshold on the sum."""
    known = snapshot(replica("a", waiting=1, running=1), replica("b", running=1))

    assert isinstance(judged(trigger(activationRequests="2"), known, 1.0), Work)
    assert isinstance(judged(trigger(activationRequests="3"), known, 1.0), Quiet)


@pytest.mark.parametrize("waits", ["", "b"])
def test_a_request_between_two_polls_is_work(waits: str) -> None:
    """No gauge has seen it; how many there were at a time is not known, but that there was one."""
    served = replace(replica("a"), has_served=True)
    known = snapshot(served, replica("b", None)) if waits else snapshot(served)

    work = Work("requests were served since the poll before", 15.0)
    assert judged(trigger(), known, 1.0) == work
    assert judged(trigger(activationRequests="0.5"), known, 1.0) == work
    assert not isinstance(judged(trigger(activationRequests="1"), known, 1.0), Work)
    assert not isinstance(judged(trigger(), known, 15.0), Work), "a reading that is stale"


@pytest.mark.parametrize(
    ("polls", "expected"),
    [
        ([7.0, math.nan, 8.0], True),
        ([7.0, math.nan, 7.0], False),
        ([7.0], False),
        ([7.0, 7.0], False),
        ([7.0, 8.0], True),
        ([7.0, 8.0, 8.0], False),
        ([None, 1.0], True),
        ([0.0, None], False),
        ([7.0, 2.0], False),
    ],
    ids=[
        *("one while a poll failed", "none while a poll failed"),
        *("first poll", "none", "one", "long ago", "born with it", "not counted", "restarted"),
    ],
)
def test_what_is_served_between_two_polls(polls: list[float | None], *, expected: bool) -> None:
    """A counter that rose, or was born; not one that fell, nor one never looked at before.

    NaN is a poll that failed.
    """
    known = replica("a", None)
    for second, served in enumerate(polls):
        if served is not None and math.isnan(served):
            known = absorb(known, {Signal.CONCURRENCY: Missing("no answer")}, None, Spans(120.0))
            continue
        told = Engine("vllm", reserves_memory=True, served=served)
        known = absorb(known, replica("a", at=float(second)).values, told, Spans(120.0))
    assert known.has_served is expected

    other = Engine("sglang", reserves_memory=True, served=99.0)
    assert not absorb(known, replica("a", at=9.0).values, other, Spans(120.0)).has_served, (
        "another engine"
    )
    failed = absorb(known, {Signal.CONCURRENCY: Missing("no answer")}, None, Spans(120.0))
    assert failed.has_served is expected, "a poll that fails tells nothing"


def test_an_idle_clock_begins_anew_with_a_request_between_two_polls() -> None:
    """A model that answers in milliseconds is never proven idle while it is asked."""
    asks, memory = trigger(idleSeconds="12"), Memory()
    for second in range(0, 60, 5):
        served = replace(replica("a", at=float(second)), has_served=second % 10 == 0)
        known = snapshot(served, listed_at=float(second))
        memory = remembered(memory, asks, known, float(second))
        assert memory.idle_since is None or second < memory.idle_since + 12


@pytest.mark.parametrize(
    "keys",
    [
        {"activationQueueDepth": "1"},
        {"activationConcurrency": "2"},
        {"activationGpuMemoryPressure": "50%"},
    ],
)
def test_any_one_threshold_suffices(keys: dict[str, str]) -> None:
    """Each activation key makes work of what exceeds it."""
    known = snapshot(replica("a", waiting=2, running=1, kv=0.6), replica("b"))

    assert isinstance(judged(trigger(activationRequests="100", **keys), known, 1.0), Work)


def test_a_ratio_is_not_summed_over_replicas() -> None:
    """Two half-full caches are not one full cache."""
    known = snapshot(replica("a", kv=0.4), replica("b", kv=0.4))
    asks = trigger(activationRequests="100", activationGpuMemoryPressure="0.5")

    assert isinstance(judged(asks, known, 1.0), Quiet)


def test_proof_needs_every_listed_replica() -> None:
    """A replica that never answered, or not for too long, leaves idleness unproven."""
    never = snapshot(replica("a", at=9.0), replica("b", None), listed_at=9.0)
    stale = snapshot(replica("a", at=9.0), replica("b", at=-6.0), listed_at=9.0)

    assert judged(trigger(), never, 9.0) == Unknown("b: no answer within 5 s")
    assert judged(trigger(), stale, 9.0) == Unknown("b: no news")


def test_proof_includes_terminating_and_loading_replicas() -> None:
    """What still serves may still work; what loads has not answered."""
    leaving = snapshot(replica("a", running=1, terminating=True))
    loading = snapshot(replica("a"), replica("b", None, ready=False))

    assert isinstance(judged(trigger(), leaving, 1.0), Work)
    assert isinstance(judged(trigger(), loading, 1.0), Unknown)


def test_proof_needs_a_fresh_list() -> None:
    """Replicas that answer idle prove nothing when there may be others."""
    known = snapshot(replica("a", at=20.0), listed_at=0.0)

    assert judged(trigger(), known, 20.0) == Unknown("the list of replicas is not confirmed")


def test_no_replicas_is_quiet() -> None:
    """An empty list that is known is no error."""
    assert judged(trigger(), snapshot(), 1.0) == Quiet(15.0)


def test_never_listed_is_unknown() -> None:
    """Nothing read yet is not the same as nothing there."""
    assert judged(trigger(), Snapshot(problem="forbidden"), 1.0) == Unknown("forbidden")


def test_evidence_lasts_as_long_as_the_readings_it_needs() -> None:
    """2 requests measured at 10 s and 3 at 12 s exceed 4 as of 10 s, and 2 as of 12 s."""
    known = snapshot(
        replica("a", running=2, at=10.0), replica("b", running=3, at=12.0), listed_at=12.0
    )

    assert judged(trigger(activationRequests="4"), known, 12.0) == Work(
        "concurrency is above 4", 25.0
    )
    assert judged(trigger(activationRequests="2"), known, 12.0) == Work(
        "concurrency is above 2", 27.0
    )


def test_idleness_is_counted_from_where_proof_began() -> None:
    """Proof that goes on keeps its beginning; work, a gap or doubt end it."""
    idle = [snapshot(replica(at=t), listed_at=t) for t in (0.0, 5.0, 10.0, 40.0)]
    memory = remembered(Memory(), trigger(), idle[0], 0.0)
    memory = remembered(memory, trigger(), idle[1], 5.0)

    assert remembered(memory, trigger(), idle[2], 10.0).idle_since == 0.0
    assert remembered(memory, trigger(), idle[3], 40.0).idle_since == 40.0
    busy = remembered(memory, trigger(), snapshot(replica(running=1, at=6.0), listed_at=6.0), 6.0)
    assert busy.idle_since is None
    assert remembered(busy, trigger(), idle[2], 10.0).idle_since == 10.0
    doubt = remembered(memory, trigger(), snapshot(replica("a", None), listed_at=6.0), 6.0)
    assert doubt == Memory(known_until=6.0, at_zero=False)


def test_a_target_that_never_had_a_replica_is_idle_at_once() -> None:
    """Nothing runs that could be put to sleep; a scaler that starts must not wake it either."""
    assert remembered(Memory(), trigger(), snapshot(), 3.0).idle_since == -math.inf


def test_a_target_whose_replicas_are_gone_is_proven_idle_first() -> None:
    """A list that became empty is proof like any other: from now on."""
    memory = remembered(Memory(), trigger(), snapshot(replica(running=1)), 0.0)

    assert remembered(memory, trigger(), snapshot(listed_at=3.0), 3.0).idle_since == 3.0


def test_a_gap_in_the_list_at_zero_wakes_nothing() -> None:
    """An API server that is away for a while is no work: what slept before sleeps on."""
    memory = remembered(Memory(), trigger(), snapshot(), 0.0)
    away = remembered(memory, trigger(), Snapshot((), 0.0, "no answer"), 40.0)
    back = remembered(away, trigger(), snapshot(listed_at=60.0), 60.0)

    assert back.idle_since == -math.inf


def test_a_gap_after_replicas_starts_the_proof_anew() -> None:
    """Replicas that came and went within the gap may have left work behind."""
    memory = remembered(Memory(), trigger(), snapshot(replica()), 0.0)
    away = remembered(memory, trigger(), Snapshot((), 0.0, "no answer"), 40.0)

    assert remembered(away, trigger(), snapshot(listed_at=60.0), 60.0).idle_since == 60.0


def test_unknown_begins_when_knowledge_lapsed() -> None:
    """Since when activity is unknown is known exactly, with or without news."""
    memory = remembered(Memory(), trigger(), snapshot(replica()), 0.0)
    assert memory.known_until == 15.0

    unread = snapshot(replica("a", None), listed_at=50.0)
    assert remembered(memory, trigger(), unread, 50.0).known_until == 15.0
    assert remembered(memory, trigger(), unread, 4.0).known_until == 4.0


def test_a_replica_that_vanishes_unread_is_not_idle_at_once() -> None:
    """Nobody knows what it did: idleSeconds pass first."""
    memory = remembered(Memory(), trigger(), snapshot(replica("a", None)), 1.0)
    memory = remembered(memory, trigger(), snapshot(listed_at=2.0), 2.0)

    assert memory.idle_since == 2.0
