"""A ScaledObject in a cluster: KEDA's polls, the HPA's syncs and the replica count they lead to.

Plain functions over a frozen `Cluster`, with `now` passed in (seconds of any one clock): a test
drives them through hours at once, a demo in real time. Whoever drives calls `poll` every
pollingInterval, `sync_hpa` every 15 s, `push` for each `true` on a stream, and `observe` when pods
come and go. `last` says what the latest of these did, and why.

Not modelled: scaling modifiers, triggers of other types, and KEDA's race between its two loops that
turns an error into "inactive".
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from keda_scaler.keda.behavior import History
from keda_scaler.keda.client import Failure, TriggerResult
from keda_scaler.keda.fallback import Failures, substitute
from keda_scaler.keda.hpa import Metric, NoValue, Pods, sync
from keda_scaler.keda.scaledobject import ScaledObject
from keda_scaler.keda.scaling import Decision, Situation, decide

HPA_SYNC_SECONDS = 15.0
"""kube-controller-manager's `--horizontal-pod-autoscaler-sync-period` default."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one poll, push or sync did."""

    at: float
    by: str
    """KEDA or HPA."""

    before: int
    after: int
    """`spec.replicas` before and after; the same when nothing changed."""

    reason: str


@dataclass(frozen=True, slots=True)
class Cluster:
    """All that KEDA, the HPA and the scale target know."""

    scaled_object: ScaledObject
    created: float
    """When the ScaledObject was created."""

    replicas: int
    """`spec.replicas` of the scale target."""

    created_pods: int | None = None
    """`status.replicas`; None: as many as wanted."""

    ready_pods: int | None = None
    """None: as many as wanted."""

    last_active: float | None = None
    """When KEDA last saw it active; None: never."""

    failures: Failures = field(default_factory=dict)
    history: History = field(default_factory=History)
    last: Step | None = None
    """The latest step; None before the first."""

    @property
    def pods(self) -> Pods:
        """The scale target's replicas as the HPA counts them."""
        return Pods(
            self.replicas,
            self.replicas if self.created_pods is None else self.created_pods,
            self.replicas if self.ready_pods is None else self.ready_pods,
        )


def observe(cluster: Cluster, *, created: int, ready: int) -> Cluster:
    """Say how many pods exist, and how many of them are ready."""
    return replace(cluster, created_pods=created, ready_pods=ready)


def poll(cluster: Cluster, results: Sequence[TriggerResult], now: float) -> Cluster:
    """Let KEDA poll: between zero and one, and to zero or idle."""
    if cluster.scaled_object.annotations.paused:
        # No poll takes place; the table's row says so.
        return _decided(cluster, decide(situation_of(cluster, now, active=False)), now)
    cluster, results = _with_fallback(cluster, results)
    situation = situation_of(
        cluster,
        now,
        active=any(result.is_active for result in results),
        error=any(result.is_error for result in results),
    )
    return _decided(cluster, decide(situation), now)


def push(cluster: Cluster, now: float) -> Cluster:
    """Let a `true` arrive on the stream of an external-push trigger; a `false` does nothing."""
    return _decided(cluster, decide(situation_of(cluster, now, active=True)), now)


def sync_hpa(cluster: Cluster, results: Sequence[TriggerResult], now: float) -> Cluster:
    """Let the HPA ask KEDA for its metrics, which asks the scaler anew, and scale from 1 to max."""
    if cluster.scaled_object.annotations.paused:
        return _stepped(cluster, Step(now, "HPA", cluster.replicas, cluster.replicas, "paused"))
    if cluster.replicas:
        cluster, results = _with_fallback(cluster, results)  # at zero it asks for nothing
    outcome, history = sync(
        cluster.scaled_object.hpa, cluster.history, hpa_metrics(results), cluster.pods, now
    )
    step = Step(now, "HPA", cluster.replicas, outcome.replicas, outcome.reason)
    return _stepped(replace(cluster, history=history), step)


def situation_of(cluster: Cluster, now: float, *, active: bool, error: bool = False) -> Situation:
    """Give what KEDA's decision looks at."""
    scaled_object = cluster.scaled_object
    fallback, annotations = scaled_object.fallback, scaled_object.annotations
    return Situation(
        is_active=active,
        is_error=error,
        current=cluster.replicas,
        now=now,
        created=cluster.created,
        last_active=cluster.last_active,
        minimum=scaled_object.min_replica_count,
        idle=scaled_object.idle_replica_count,
        fallback_replicas=None if fallback is None else fallback.replicas,
        cooldown=scaled_object.cooldown_period,
        initial_cooldown=scaled_object.initial_cooldown_period,
        paused=annotations.paused,
        paused_scale_in=annotations.paused_scale_in,
        paused_scale_out=annotations.paused_scale_out,
        force_activation=annotations.force_activation,
    )


def hpa_metrics(results: Sequence[TriggerResult]) -> tuple[Metric, ...]:
    """Give the HPA's metrics.

    A query for one metric fetches the specs of every trigger, so one trigger whose GetMetricSpec
    fails takes the metrics of all with it. GetMetrics and IsActive are asked for the queried metric
    alone.
    """
    broken = next((r.metrics for r in results if isinstance(r.metrics, Failure)), None)
    metrics: list[Metric] = []
    for result in results:
        if isinstance(result.metrics, Failure):
            name = f"s{result.trigger.index}-?"
            metrics.append(Metric(name, result.metric_type, 1.0, NoValue(result.metrics.brief)))
            continue
        for metric in result.metrics:
            value: float | NoValue
            if broken is not None:
                value = NoValue(f"another trigger's {broken.brief}")
            elif isinstance(metric.answer, Failure):
                value = NoValue(metric.answer.brief)
            elif metric.answer.total is None:
                value = NoValue("no matching metrics found (the scaler gave no value)")
            else:
                value = metric.answer.total
            metrics.append(Metric(metric.hpa_name, result.metric_type, metric.target, value))
    return tuple(metrics)


def _with_fallback(
    cluster: Cluster, results: Sequence[TriggerResult]
) -> tuple[Cluster, list[TriggerResult]]:
    failures, after = cluster.failures, []
    for result in results:
        substituted = substitute(cluster.scaled_object.fallback, failures, result, cluster.pods)
        failures = substituted.failures
        after.append(substituted.result)
    return replace(cluster, failures=failures), after


def _decided(cluster: Cluster, decision: Decision, now: float) -> Cluster:
    after = cluster.replicas if decision.replicas is None else decision.replicas
    reason = f"{decision.words} (row {decision.row})"
    step = Step(now, "KEDA", cluster.replicas, after, reason)
    return _stepped(replace(cluster, last_active=decision.last_active), step)


def _stepped(cluster: Cluster, step: Step) -> Cluster:
    return replace(cluster, replicas=step.after, last=step)
