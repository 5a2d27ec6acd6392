"""Rules of what is refused, of addresses, and of what does not belong into metadata."""

import re
from collections.abc import Iterator

from keda_scaler.keda.fields import parse_bool
from keda_scaler.keda.scaledobject import KedaTrigger
from keda_scaler.keda.secrets import is_secret
from keda_scaler.lint.findings import Hit, Rule, Severity
from keda_scaler.lint.subject import Subject, own_keys

_HPA_PREFIX = "keda-hpa-"


def _refused_by_keda(subject: Subject) -> Iterator[Hit]:
    for problem in subject.problems:
        path, _, says = problem.partition(": ")
        if is_secret(path, says):
            says = "not accepted; the value is not shown, it looks like a secret"
        yield Hit(path, says)


def _problems(subject: Subject, *, unknown: bool) -> Iterator[Hit]:
    """Give what the scaler says of triggers: either of unknown keys, or of all else."""
    for ours in subject.ours:
        for problem in ours.problems:
            key, _, says = problem.partition(": ")
            named = [name for name in ours.keda.metadata if name[:80] == key]
            if says.startswith("unknown key") is not unknown:
                continue
            if not named:
                yield Hit(ours.path(), problem)
            elif not unknown and is_secret(key, ours.keda.metadata[named[0]]):
                yield Hit(ours.path(key), "not accepted; the value looks like a secret")
            else:
                yield Hit(ours.path(key), says)


def _refused_by_scaler(subject: Subject) -> Iterator[Hit]:
    return _problems(subject, unknown=False)


def _unknown_key(subject: Subject) -> Iterator[Hit]:
    return _problems(subject, unknown=True)


def _metric_type(subject: Subject) -> Iterator[Hit]:
    for ours in subject.ours:
        given = ours.keda.metadata.get("metricType")
        read = given or "AverageValue"
        if read in {"AverageValue", "Value"} and read != ours.keda.metric_type:
            says = f"the scaler takes {read}, and KEDA {ours.keda.metric_type}"
            yield Hit(ours.path("metricType"), says, given)


def _address(subject: Subject) -> Iterator[Hit]:
    for ours in subject.ours:
        address = ours.keda.address
        if address is None:
            yield Hit(ours.path("scalerAddress"), "missing")
        elif address.startswith(("http://", "https://")):
            yield Hit(ours.path("scalerAddress"), "a URL, and not HOST:PORT", address)
        elif not address.startswith("unix:") and not re.search(r":\d+$", address):
            yield Hit(ours.path("scalerAddress"), "no port, so gRPC takes 443", address)


def _name(subject: Subject) -> Iterator[Hit]:
    name = subject.field("advanced", "horizontalPodAutoscalerConfig", "name")
    own = subject.document.name
    if isinstance(name, str):
        if len(name) > 63:
            path = "spec.advanced.horizontalPodAutoscalerConfig.name"
            yield Hit(path, "more than 63 characters", name)
    elif len(_HPA_PREFIX + own) > 63 >= len(own):  # above that KEDA's own check has it
        yield Hit("metadata.name", f"{_HPA_PREFIX}{own} has more than 63 characters", own)


def _secret(subject: Subject) -> Iterator[Hit]:
    for ours in subject.ours:
        for key, value in ours.keda.metadata.items():
            # What KEDA fills in from an environment variable is not in the manifest.
            if value and not key.endswith("FromEnv") and is_secret(key, value):
                yield Hit(ours.path(key[:80]), "looks like a secret; its value is not shown")


def _tls_in_metadata(subject: Subject) -> Iterator[Hit]:
    for ours in subject.ours:
        for key in ("caCert", "tlsClientCert"):
            if key in ours.keda.metadata:
                yield Hit(ours.path(key), "KEDA does not read it here")


def _unsafe_ssl(subject: Subject) -> Iterator[Hit]:
    for ours in subject.ours:
        is_set = parse_bool(ours.keda.metadata.get("unsafeSsl", "")) is True
        referred = subject.field("triggers", ours.keda.index, "authenticationRef")
        if is_set and not ours.keda.uses_tls and referred is None:
            yield Hit(ours.path("unsafeSsl"), "enableTLS is not set", "true")


def _not_ours(subject: Subject) -> Iterator[Hit]:
    if not subject.ours:
        types = ", ".join(sorted({trigger.type[:40] for trigger in subject.scaled_object.triggers}))
        yield Hit("spec.triggers", f"no trigger of keda-scaler's ({types or 'none at all'})")


def _twice(subject: Subject) -> Iterator[Hit]:
    def same(one: KedaTrigger, other: KedaTrigger) -> bool:
        return one.index < other.index and own_keys(one) == own_keys(other)

    for ours in subject.ours:
        first = next((one for one in subject.ours if same(one.keda, ours.keda)), None)
        if first is not None:
            yield Hit(ours.path(), f"the same metadata as trigger {first.keda.index}")


def _elsewhere(_: Subject) -> Iterator[Hit]:
    """Find nothing: what this rule is about is not a ScaledObject."""
    return iter(())


SCALED_JOB = Rule(
    "scaled-job",
    Severity.NOTE,
    "KEDA has neither cooldown nor push for jobs, and these rules are about ScaledObjects.",
    "Use a ScaledObject for a model server.",
    _elsewhere,
)

RULES = (
    Rule(
        "refused-by-keda",
        Severity.ERROR,
        "KEDA's resource definition, its webhook or the HPA that it creates refuses this.",
        "Give what is accepted.",
        _refused_by_keda,
        is_general=True,
    ),
    Rule(
        "refused-by-scaler",
        Severity.ERROR,
        "The scaler answers every call for this trigger with INVALID_ARGUMENT: a new ScaledObject "
        "is not ready and is not scaled.",
        "Give what is accepted: [trigger keys](triggers.md).",
        _refused_by_scaler,
    ),
    Rule(
        "unknown-key",
        Severity.ERROR,
        "The scaler refuses a trigger with a key that it does not know, so that a typing error "
        "cannot go unnoticed.",
        "Correct or remove the key: [trigger keys](triggers.md).",
        _unknown_key,
    ),
    Rule(
        "metric-type-differs",
        Severity.ERROR,
        "KEDA does not pass the trigger's `metricType` on; where the two differ, the HPA is wrong "
        "by a factor of the number of replicas.",
        "Write the same `metricType` in both places: [metricType](keda.md#metrictype).",
        _metric_type,
    ),
    Rule(
        "scaler-address",
        Severity.ERROR,
        "KEDA's webhook takes it, and no call ever reaches the scaler.",
        "Give HOST:PORT, such as keda-scaler.keda.svc.cluster.local:6000.",
        _address,
    ),
    Rule(
        "name-too-long",
        Severity.ERROR,
        "The HPA is named after the ScaledObject, `keda-hpa-NAME`, and KEDA's webhook takes at "
        "most 63 characters for both.",
        "Shorten the name to 54 characters, or set `advanced.horizontalPodAutoscalerConfig.name`.",
        _name,
        is_general=True,
    ),
    Rule(
        "secret-in-metadata",
        Severity.ERROR,
        "Whoever may read the ScaledObject reads it, and KEDA sends the whole metadata with every "
        "call.",
        "Name a Prometheus of the scaler's settings, where credentials are files; put TLS keys in "
        "a TriggerAuthentication.",
        _secret,
    ),
    Rule(
        "tls-in-metadata",
        Severity.WARNING,
        "KEDA takes certificates only from a TriggerAuthentication; in metadata they are passed on "
        "to the scaler and have no effect.",
        "Refer to a TriggerAuthentication that holds it, with `authenticationRef`.",
        _tls_in_metadata,
    ),
    Rule(
        "unsafe-ssl-alone",
        Severity.WARNING,
        "`unsafeSsl` does not turn TLS on: KEDA calls in plain text (seen on KEDA 2.20.2).",
        'Set `enableTLS: "true"` too, or leave it out.',
        _unsafe_ssl,
    ),
    Rule(
        "same-trigger-twice",
        Severity.WARNING,
        "KEDA asks for every trigger at each query of the HPA: the second one multiplies the calls "
        "and says nothing new.",
        "Remove one of them.",
        _twice,
    ),
    Rule(
        "not-ours",
        Severity.NOTE,
        "A trigger is known as ours by an address that names keda-scaler, or by one of our keys; "
        "most rules are about these.",
        "Nothing, if it is another scaler's.",
        _not_ours,
        is_general=True,
    ),
)
