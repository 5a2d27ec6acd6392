"""Polls and syncs together, over simulated hours."""

from collections.abc import Callable
from dataclasses import replace

import grpc
import pytest

from keda_scaler.keda.client import Failure, Measured, MetricResult, TriggerResult
from keda_scaler.keda.cluster import Cluster, hpa_metrics, observe, poll, push, sync_hpa
from keda_scaler.keda.hpa import NoValue
from keda_scaler.keda.scaledobject import Annotations, Fallback, KedaTrigger, ScaledObject

TRIGGER = KedaTrigger(0, "external", {})
OBJECT = ScaledObject("llm", max_replica_count=10, triggers=(TRIGGER,))
BROKEN = Failure("GetMetrics", grpc.StatusCode.UNAVAILABLE, "broken")
UNREACHABLE = Failure("GetMetricSpec", grpc.StatusCode.UNAVAILABLE, "unreachable")


def result(answer: Measured | Failure, index: int = 0) -> TriggerResult:
    """Give a result with one metric of target 5."""
    metric = MetricResult("a", f"s{index}-a", 5.0, answer)
    return TriggerResult(replace(TRIGGER, index=index), (metric,))


BUSY = result(Measured((12.0,), is_active=True))
IDLE = result(Measured((0.0,), is_active=False))
HOLD = result(Measured((), is_active=True))
ERROR = result(BROKEN)
DOWN = TriggerResult(TRIGGER, UNREACHABLE)


def run(
    cluster: Cluster, answer: Callable[[float], TriggerResult], until: int, since: int = 0
) -> tuple[Cluster, dict[int, int]]:
    """Poll every 30 s and sync every 15 s; give the counts by second."""
    counts = {}
    for second in range(since, until, 15):
        now = second + 0.4
        if second % 30 == 0:
            cluster = poll(cluster, [answer(now)], now)
        cluster = sync_hpa(cluster, [answer(now)], now)
        counts[second] = cluster.replicas
    return cluster, counts


def fresh(replicas: int = 0, **more: object) -> Cluster:
    """Give a cluster whose ScaledObject was just created."""
    return Cluster(replace(OBJECT, **more), 0.0, replicas)  # type: ignore[arg-type]  # fields of it


def test_a_day_of_a_model() -> None:
    """Asleep, woken by a request, scaled out by the HPA, and put to sleep after the cooldown."""
    _, counts = run(fresh(), lambda now: BUSY if 60 <= now < 300 else IDLE, 900)
    assert [counts[30], counts[60], counts[75]] == [0, 3, 3]
    assert [counts[555], counts[570]] == [3, 0]  # last active at 270 s, cooldown 300 s


def test_reasons() -> None:
    """Each step says who did what, and why."""
    cluster = poll(fresh(), [BUSY], 7.5)
    assert cluster.last is not None
    assert (cluster.last.by, cluster.last.before, cluster.last.after) == ("KEDA", 0, 1)
    assert (cluster.last.at, cluster.last.reason) == (7.5, "active: from 0 to 1 (row 3)")
    cluster = sync_hpa(cluster, [BUSY], 8.0)
    assert cluster.last is not None
    assert (cluster.last.by, cluster.last.before, cluster.last.after) == ("HPA", 1, 3)
    assert cluster.last.reason == "s0-a asks for 3"


@pytest.mark.parametrize("answer", [ERROR, DOWN, HOLD])
def test_unknown_changes_nothing_for_hours(answer: TriggerResult) -> None:
    """An error and the hold leave running replicas alone, however long they last."""
    cluster, _ = run(fresh(), lambda _: BUSY, 300)
    _, counts = run(cluster, lambda _: answer, 4 * 3600, since=300)
    assert set(counts.values()) == {3}


def test_idle_after_a_long_outage_is_zero_at_once() -> None:
    """Errors do not renew the cooldown, so a wrong `false` after them is deadly; a hold renews."""
    for unknown, replicas in ((DOWN, 0), (HOLD, 3)):
        cluster, _ = run(fresh(), lambda _: BUSY, 300)
        cluster, _ = run(cluster, lambda _, answer=unknown: answer, 1200, since=300)  # type: ignore[misc]  # the default binds it
        assert poll(cluster, [IDLE], 1200.4).replicas == replicas


def test_a_broken_scaler_cannot_wake() -> None:
    """At zero an error stays at zero."""
    _, counts = run(fresh(), lambda _: ERROR, 1200)
    assert set(counts.values()) == {0}


def test_fallback_wakes_and_scales() -> None:
    """Failing values count: above the threshold the fallback's replicas stand."""
    _, counts = run(fresh(fallback=Fallback(2, 4)), lambda _: ERROR, 300)
    assert [counts[30], counts[60]] == [0, 4]
    assert counts[285] == 4


def test_fallback_does_not_know_an_unreachable_scaler() -> None:
    """GetMetricSpec failures are not counted, so nothing happens."""
    _, counts = run(fresh(3, fallback=Fallback(2, 6)), lambda _: DOWN, 1200)
    assert set(counts.values()) == {3}


def test_fallback_to_zero_sleeps_when_unreachable() -> None:
    """With fallback.replicas 0 an unreachable scaler is put to zero after the cooldown."""
    cluster, _ = run(fresh(), lambda _: BUSY, 60)
    _, counts = run(replace(cluster, scaled_object=replace(OBJECT, fallback=Fallback(2, 0))),
                    lambda _: DOWN, 600, since=60)  # fmt: skip
    assert (counts[315], counts[330]) == (3, 0)


def test_push_wakes_between_polls() -> None:
    """A `true` on the stream wakes at once and renews the cooldown."""
    cluster = push(fresh(), 12.7)
    assert (cluster.replicas, cluster.last_active) == (1, 12)


def test_one_trigger_without_specs_takes_all_metrics() -> None:
    """A query fetches the specs of every trigger, so the HPA then only has errors."""
    both = [replace(DOWN, trigger=replace(TRIGGER, index=1)), BUSY]
    assert all(isinstance(metric.value, NoValue) for metric in hpa_metrics(both))
    assert [metric.name for metric in hpa_metrics(both)] == ["s1-?", "s0-a"]


def test_one_trigger_without_values_blocks_scaling_in_only() -> None:
    """A metric that fails for itself leaves the others theirs."""
    both = [result(BROKEN, 1), BUSY]
    assert sync_hpa(fresh(1), both, 0.0).replicas == 3
    assert sync_hpa(fresh(5), both, 1000.0).replicas == 5


def test_any_active_trigger_keeps_awake() -> None:
    """Activity is that of any trigger, and so is an error."""
    cluster = poll(fresh(), [IDLE, result(Measured((9.0,), is_active=True), 1)], 0.0)
    assert cluster.replicas == 1
    cluster = poll(fresh(2), [IDLE, result(BROKEN, 1)], 0.0)
    assert cluster.replicas == 2


def test_the_hpa_compares_with_the_pods_that_exist() -> None:
    """11 of target 5 is tolerated for 2 pods; with a third still there it asks for 3."""
    eleven = result(Measured((11.0,), is_active=True))
    assert sync_hpa(fresh(2), [eleven], 0.0).replicas == 2
    assert sync_hpa(observe(fresh(2), created=3, ready=2), [eleven], 0.0).replicas == 3


def test_paused_means_nothing_happens() -> None:
    """Neither poll nor sync changes anything."""
    cluster = fresh(3, annotations=Annotations(paused=True))
    assert poll(cluster, [IDLE], 1e6).replicas == 3
    assert sync_hpa(cluster, [BUSY], 1e6).replicas == 3


def test_a_paused_direction() -> None:
    """paused-scale-in keeps what runs, paused-scale-out adds nothing."""
    kept = fresh(3, annotations=Annotations(paused_scale_in=True))
    assert run(kept, lambda _: IDLE, 1200)[0].replicas == 3
    stuck = fresh(0, annotations=Annotations(paused_scale_out=True))
    assert run(stuck, lambda _: BUSY, 120)[0].replicas == 0
    assert run(replace(stuck, replicas=1), lambda _: BUSY, 120)[0].replicas == 1
