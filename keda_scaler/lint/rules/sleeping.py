"""Rules of going to zero, of waking, and of fallback."""

from collections.abc import Iterator

from keda_scaler.core.signals import LATENCIES, RATIOS
from keda_scaler.keda.report import can_wake
from keda_scaler.keda.scaledobject import KedaTrigger
from keda_scaler.lint.findings import Hit, Rule, Severity
from keda_scaler.lint.subject import Subject, is_ours

_LONG_SECONDS = 120.0
"""Two windows of at least this length add up to what surprises."""

_SLOW_SECONDS = 30
"""KEDA's default, which is long for a queue of prompts."""


def _wakes(trigger: KedaTrigger) -> bool:
    """Whether a trigger can be active at zero; of another's external scaler it is not known."""
    return can_wake(trigger) or (trigger.is_external and not is_ours(trigger))


def _is_stranded(subject: Subject) -> bool:
    scaled_object = subject.scaled_object
    forced = scaled_object.annotations.force_activation
    return (
        subject.scaled_object.may_sleep
        and not forced
        and not any(map(_wakes, scaled_object.triggers))
    )


def _counts_requests(subject: Subject) -> bool:
    signals = {metric.signal for _, trigger in subject.read for metric in trigger.metrics}
    return not signals or bool(signals - RATIOS - LATENCIES)


def _cannot_wake(subject: Subject) -> Iterator[Hit]:
    if _is_stranded(subject) and _counts_requests(subject):
        yield _at_minimum(subject, "no trigger is active at zero")


def _ratio_alone(subject: Subject) -> Iterator[Hit]:
    if _is_stranded(subject) and not _counts_requests(subject):
        yield _at_minimum(subject, "only ratios or latencies are scaled on, and nothing wakes")


def _at_minimum(subject: Subject, why: str) -> Hit:
    field = "idleReplicaCount" if subject.scaled_object.min_replica_count else "minReplicaCount"
    given = subject.field(field)
    return Hit(f"spec.{field}", f"{'not set, so 0, ' if given is None else ''}{why}", _of(given))


def _of(given: object) -> str | None:
    return None if given is None else str(given)[:80]


def _push(subject: Subject) -> Iterator[Hit]:
    for ours, trigger in subject.read:
        wakes = trigger.wake_from is not None or trigger.by_reports
        # Of what Prometheus has scraped only, a poll is told soon enough.
        scraped = trigger.by_prometheus and trigger.wake_service is None
        if (
            subject.scaled_object.may_sleep
            and ours.keda.type == "external"
            and wakes
            and not (scraped and trigger.wake_from != "reports")
        ):
            interval = subject.scaled_object.polling_interval
            says = f"KEDA learns of a request only at its next poll, up to {interval} s later"
            yield Hit(f"{ours.path()}.type", says, "external")


def _initial_cooldown(subject: Subject) -> Iterator[Hit]:
    given = subject.scaled_object.initial_cooldown_period
    if subject.scaled_object.may_sleep and given < subject.cold_start:
        says = f"less than coldStartSeconds, {subject.cold_start:g}"
        raw = subject.field("initialCooldownPeriod")
        if raw is None:
            says = f"not set, so 0; coldStartSeconds is {subject.cold_start:g}"
        yield Hit("spec.initialCooldownPeriod", says, _of(raw))


def _cooldown(subject: Subject, *, leased: bool) -> Iterator[Hit]:
    given = subject.scaled_object.cooldown_period
    has_lease = any(
        trigger.wake_from is not None or trigger.by_reports for _, trigger in subject.read
    )
    if subject.scaled_object.may_sleep and given < subject.cold_start and has_lease is leased:
        says = f"less than coldStartSeconds, {subject.cold_start:g}"
        yield Hit("spec.cooldownPeriod", says, str(given))


def _short_cooldown(subject: Subject) -> Iterator[Hit]:
    return _cooldown(subject, leased=False)


def _leased_cooldown(subject: Subject) -> Iterator[Hit]:
    return _cooldown(subject, leased=True)


def _idle_adds(subject: Subject) -> Iterator[Hit]:
    cooldown = subject.scaled_object.cooldown_period
    for ours, trigger in subject.read:
        idle = trigger.idle_seconds
        if subject.scaled_object.may_sleep and min(idle, cooldown) >= _LONG_SECONDS:
            says = f"with cooldownPeriod {cooldown} about {idle + cooldown:g} s until zero"
            yield Hit(ours.path("idleSeconds"), says, f"{idle:g}")


def _idle_replicas(subject: Subject) -> Iterator[Hit]:
    given = subject.scaled_object.idle_replica_count
    if given:
        yield Hit("spec.idleReplicaCount", "only 0 works", str(given))


def _unused(subject: Subject) -> Iterator[Hit]:
    cached = any(
        subject.field("triggers", trigger.index, "useCachedMetrics") is True
        for trigger in subject.scaled_object.triggers
    )
    if subject.scaled_object.may_sleep or cached:
        return
    for field in ("pollingInterval", "cooldownPeriod", "initialCooldownPeriod"):
        given = subject.field(field)
        if given is not None:
            yield Hit(f"spec.{field}", "nothing to do: replicas never go to zero", _of(given))


def _slow(subject: Subject) -> Iterator[Hit]:
    given = subject.scaled_object.polling_interval
    if subject.scaled_object.may_sleep and given > _SLOW_SECONDS:
        yield Hit("spec.pollingInterval", "KEDA's own default is 30", str(given))


def _fallback_zero(subject: Subject) -> Iterator[Hit]:
    fallback = subject.scaled_object.fallback
    if fallback is not None and subject.field("fallback", "replicas") == 0:
        yield Hit("spec.fallback.replicas", "zero while the scaler cannot be reached", "0")


def _fallback_value(subject: Subject) -> Iterator[Hit]:
    if subject.scaled_object.fallback is None or not subject.scaled_object.may_sleep:
        return
    for ours in subject.ours:
        if ours.keda.metric_type == "Value":
            yield Hit(f"{ours.path()}.metricType", "fallback has no effect at zero", "Value")


def _fallback_hold(subject: Subject) -> Iterator[Hit]:
    if subject.scaled_object.fallback is None:
        return
    for ours, trigger in subject.read:
        if trigger.on_unknown == "hold" and trigger.hold_seconds > 0:
            says = f"fallback waits for the hold, {trigger.hold_seconds:g} s"
            yield Hit(ours.path("onUnknown"), says, ours.keda.metadata.get("onUnknown"))


def _cpu(subject: Subject) -> Iterator[Hit]:
    for trigger in subject.scaled_object.triggers:
        if trigger.type in {"cpu", "memory"} and subject.scaled_object.may_sleep:
            path = f"spec.triggers[{trigger.index}].type"
            yield Hit(path, "has no say in going to zero", trigger.type)


def _overridden(subject: Subject) -> Iterator[Hit]:
    annotations = subject.scaled_object.annotations
    for name, is_on in (
        ("paused", annotations.paused),
        ("paused-scale-in", annotations.paused_scale_in),
        ("paused-scale-out", annotations.paused_scale_out),
        ("force-activation", annotations.force_activation),
    ):
        if is_on:
            yield Hit(f"metadata.annotations.autoscaling.keda.sh/{name}", "is in force")


RULES = (
    Rule(
        "cannot-wake",
        Severity.ERROR,
        "With no replica there is no page, so that the model sleeps and never wakes.",
        "Set `wakeFrom` ([waking from zero](waking.md)), add a trigger that can be active at zero, "
        "or set `minReplicaCount: 1`.",
        _cannot_wake,
    ),
    Rule(
        "ratio-alone",
        Severity.ERROR,
        "With no replica there is neither memory nor latency to measure, so that the model sleeps "
        "and never wakes.",
        "Set `wakeFrom` ([waking from zero](waking.md)) or `minReplicaCount: 1`.",
        _ratio_alone,
    ),
    Rule(
        "push-needed",
        Severity.WARNING,
        "The scaler looks at a wake source every second, and with `external` it cannot tell KEDA.",
        "Use `type: external-push`.",
        _push,
    ),
    Rule(
        "no-initial-cooldown",
        Severity.WARNING,
        "A ScaledObject that is inactive at its first poll goes to zero at once, also while its "
        "first replica loads.",
        "Set `initialCooldownPeriod` to what a first replica needs to be scheduled and to load: "
        "[initialCooldownPeriod](keda.md#initialcooldownperiod).",
        _initial_cooldown,
    ),
    Rule(
        "short-cooldown",
        Severity.WARNING,
        "What woke the model may be over before it has loaded; without a lease it is then put to "
        "sleep again, and again.",
        "Set `cooldownPeriod` to no less than a cold start, or give `wakeFrom`, which brings the "
        "lease.",
        _short_cooldown,
    ),
    Rule(
        "cooldown-below-lease",
        Severity.NOTE,
        "The lease keeps a loading model awake; the cooldown covers a scaler that restarts before "
        "Kubernetes lists the new pod.",
        "Set `cooldownPeriod` to what the model really takes to load: "
        "[waking from zero](keda.md#waking-from-zero).",
        _leased_cooldown,
    ),
    Rule(
        "idle-adds-to-cooldown",
        Severity.WARNING,
        "`idleSeconds` and `cooldownPeriod` add up: KEDA's cooldown begins only when the scaler "
        "says inactive.",
        "Leave `idleSeconds` small, and let `cooldownPeriod` be the long one: "
        "[how long until zero](keda.md#how-long-until-zero).",
        _idle_adds,
    ),
    Rule(
        "idle-replicas",
        Severity.WARNING,
        "KEDA supports only 0: the HPA lifts anything between it and `minReplicaCount`.",
        "Set `idleReplicaCount: 0`, or leave it out.",
        _idle_replicas,
        is_general=True,
    ),
    Rule(
        "unused-interval",
        Severity.NOTE,
        "KEDA polls for the step between zero and one; from one replica on the HPA asks by itself, "
        "every 15 seconds.",
        "Leave it out, or set `minReplicaCount: 0`.",
        _unused,
    ),
    Rule(
        "slow-polling",
        Severity.NOTE,
        "KEDA goes to zero only at a poll; where it misses a push, only a poll wakes the model.",
        "Set 5 to 15 seconds: [what to set](keda.md#what-to-set).",
        _slow,
    ),
    Rule(
        "fallback-to-zero",
        Severity.ERROR,
        "A scaler that cannot be reached then scales a running model to zero after the cooldown "
        "(tried on KEDA 2.20.2).",
        "Set at least 1, or no fallback: [fallback](keda.md#fallback).",
        _fallback_zero,
    ),
    Rule(
        "fallback-by-value",
        Severity.WARNING,
        "With `Value` KEDA divides by the ready replicas, of which there are none at zero, so that "
        "fallback cannot wake the model.",
        "Use `metricType: AverageValue`, in both places.",
        _fallback_value,
    ),
    Rule(
        "fallback-after-hold",
        Severity.NOTE,
        "A hold counts as success, and sets KEDA's count of failures back.",
        "Set `onUnknown: error` where fallback is to act early: [fallback](keda.md#fallback).",
        _fallback_hold,
    ),
    Rule(
        "cpu-does-not-wake",
        Severity.NOTE,
        "Beside an external trigger KEDA leaves cpu and memory out when it decides on zero: busy "
        "ones do not keep a replica.",
        "Nothing, if it is there for scaling between one and many.",
        _cpu,
    ),
    Rule(
        "overridden",
        Severity.NOTE,
        "While this annotation is there KEDA does not do what the triggers say.",
        "Remove it when it has served its purpose.",
        _overridden,
    ),
)
