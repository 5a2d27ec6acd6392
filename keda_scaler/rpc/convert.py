"""Decisions and triggers to messages of the wire.

Both number fields are always set: KEDA takes the float only when it is above 0 and the integer
otherwise, and KEDA before 2.17 knows only the integer.
"""

import math
import re
from typing import assert_never

from keda_scaler.core.decision import Decision, Held, Reported, State, Unavailable
from keda_scaler.core.signals import Signal
from keda_scaler.core.trigger import Trigger
from keda_scaler.errors import UnavailableError, UnknownMetricError
from keda_scaler.pb import externalscaler_pb2 as pb

MAX_TEXT = 4096
"""Characters of an error or a reason. Clients refuse headers of more than 8 KiB, all together."""

_UNPLAIN = re.compile(r"[^ -~]")


def to_metric_specs(trigger: Trigger) -> pb.GetMetricSpecResponse:
    """Convert what a trigger scales on."""
    return pb.GetMetricSpecResponse(
        metricSpecs=[
            pb.MetricSpec(
                metricName=metric.signal,
                targetSize=max(1, math.ceil(metric.target)),
                targetSizeFloat=metric.target,
            )
            for metric in trigger.metrics
        ]
    )


def to_activity(decision: Decision) -> pb.IsActiveResponse:
    """Convert the state.

    Raises:
        UnavailableError: when it is unknown.

    """
    if decision.state is State.UNKNOWN:
        raise UnavailableError(decision.text)
    return pb.IsActiveResponse(result=decision.state is State.ACTIVE)


def to_trailers(decision: Decision) -> tuple[tuple[str, str], ...]:
    """Say the reason beside the answer. KEDA does not read it; `keda-scaler probe` does."""
    return (
        ("keda-scaler-reason", to_text(f"{decision.reason}: {decision.text}")),
        *(("keda-scaler-engine", engine) for engine in decision.engines),
        *(("keda-scaler-warning", to_text(text)) for text in decision.warnings),
    )


def to_text(text: str) -> str:
    """Write a text with the characters that gRPC's metadata may have, and not too many of them."""
    plain = _UNPLAIN.sub(_escaped, text.replace("\n", " "))
    return plain if len(plain) <= MAX_TEXT else f"{plain[:MAX_TEXT]}..."


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def to_signal(trigger: Trigger, metric_name: str) -> Signal:
    """Find the signal that a metric name means.

    Raises:
        UnknownMetricError: when the trigger has no such metric.

    """
    for metric in trigger.metrics:
        if metric.signal == metric_name:
            return metric.signal
    names = ", ".join(metric.signal for metric in trigger.metrics)
    raise UnknownMetricError(f"no metric {metric_name[:80]!r} in this trigger; it has: {names}")


class Rendered:
    """A decision, and the answers that were made of it: most calls ask what was asked before."""

    __slots__ = ("decision", "metrics", "trailers")

    def __init__(self, decision: Decision) -> None:
        self.decision = decision
        self.trailers = to_trailers(decision)
        self.metrics: dict[str, pb.GetMetricsResponse] = {}


def to_metrics(decision: Decision, signal: Signal) -> pb.GetMetricsResponse:
    """Convert one metric's answer: exactly one value, or none for the hold.

    Raises:
        UnavailableError: when it is unknown.

    """
    answer = decision.answers[signal]
    match answer:
        case Reported(number=number):
            finite = number if math.isfinite(number) and number > 0 else 0.0
            value = pb.MetricValue(
                metricName=signal, metricValue=math.ceil(finite), metricValueFloat=finite
            )
            return pb.GetMetricsResponse(metricValues=[value])
        case Held():
            return pb.GetMetricsResponse()
        case Unavailable(text=text):
            raise UnavailableError(text)
        case _:
            assert_never(answer)
