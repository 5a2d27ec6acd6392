"""How KEDA's external scaler client asks, and what it makes of the answers.

Source: `pkg/scalers/external_scaler.go` and `pkg/scaling/cache/scalers_cache.go`, KEDA 2.20.2. For
each trigger: GetMetricSpec, then for each spec GetMetrics and IsActive, one after the other. What
fails is tried once more at once. GetMetrics and IsActive succeed or fail as one.
"""

import asyncio
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import grpc
import grpc.aio

from keda_scaler.keda.hpa import MetricType
from keda_scaler.keda.scaledobject import KedaTrigger, ScaledObject
from keda_scaler.pb import externalscaler_pb2 as pb
from keda_scaler.pb.externalscaler_pb2_grpc import ExternalScalerStub

if TYPE_CHECKING:
    from keda_scaler.pb.externalscaler_pb2_grpc import ExternalScalerAsyncStub

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")

HPA_DEADLINE_SECONDS = 60.0
"""What the API server gives an HPA's query. KEDA's own polls have no deadline at all."""

REMARK_PREFIX = "keda-scaler-"
"""How the keys of our scaler's trailers begin."""

_MAX_REMARKS = 50

_MAX_DETAIL = 500
"""Characters of an error's text that are kept."""

_CHANNEL_OPTIONS: tuple[tuple[str, str | int], ...] = (
    ("grpc.service_config", '{"loadBalancingConfig":[{"round_robin":{}}]}'),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),  # a proxy for the operator's browser is none for the cluster
    ("grpc.use_local_subchannel_pool", 1),  # no back-off inherited from an earlier channel
)


@dataclass(frozen=True, slots=True)
class Failure:
    """A call that failed twice."""

    call: str
    """GetMetricSpec, GetMetrics or IsActive."""

    code: grpc.StatusCode
    """OK when the answer itself is the problem."""

    detail: str

    @property
    def brief(self) -> str:
        """The call and its status."""
        status = "empty" if self.code is grpc.StatusCode.OK else self.code.name
        return f"{self.call} {status}"

    def __str__(self) -> str:
        """Give it as one line."""
        return f"{self.brief}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Measured:
    """The answers to GetMetrics and IsActive."""

    values: tuple[float, ...]
    """At least 0, in thousandths. None at all is the hold: the HPA then changes nothing."""

    is_active: bool

    remarks: tuple[tuple[str, str], ...] = ()
    """What our scaler says beside the answer, which KEDA does not read: `reason`, `engine` and
    `warning`, each with its text."""

    @property
    def total(self) -> float | None:
        """What the HPA sees: it sums, because KEDA gives all values the same name."""
        return sum(self.values) if self.values else None


@dataclass(frozen=True, slots=True)
class MetricResult:
    """One metric spec of a trigger and what became of it."""

    name: str
    """As the scaler spelled it."""

    hpa_name: str
    """As the HPA knows it: sN- before the name, N the trigger's index."""

    target: float
    answer: Measured | Failure


@dataclass(frozen=True, slots=True)
class TriggerResult:
    """What asking for one trigger gave."""

    trigger: KedaTrigger
    metrics: tuple[MetricResult, ...] | Failure
    """Never empty; a Failure when the specs could not be had."""

    @property
    def is_error(self) -> bool:
        """Whether any call failed, which is what KEDA's decision looks at."""
        return bool(self.failures)

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Every call that failed."""
        if isinstance(self.metrics, Failure):
            return (self.metrics,)
        return tuple(m.answer for m in self.metrics if isinstance(m.answer, Failure))

    @property
    def is_active(self) -> bool:
        """What KEDA's poll takes for the activity: that of the last spec that answered."""
        if isinstance(self.metrics, Failure):
            return False
        answers = [m.answer.is_active for m in self.metrics if isinstance(m.answer, Measured)]
        return bool(answers) and answers[-1]

    @property
    def is_hold(self) -> bool:
        """Whether a metric was answered without a value."""
        return not isinstance(self.metrics, Failure) and any(
            isinstance(metric.answer, Measured) and not metric.answer.values
            for metric in self.metrics
        )

    def remarks(self, kind: str) -> tuple[str, ...]:
        """Give what the scaler said beside its answers, each once: reason, engine or warning."""
        if isinstance(self.metrics, Failure):
            return ()
        said = (m.answer.remarks for m in self.metrics if isinstance(m.answer, Measured))
        return tuple(dict.fromkeys(text for each in said for known, text in each if known == kind))

    @property
    def metric_type(self) -> MetricType:
        """How the HPA uses the values; the scaler is not told."""
        return self.trigger.metric_type


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files for the connection; None: gRPC's own roots, or no client certificate."""

    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None
    server_name: str | None = None
    """What the server's certificate must name; None: the host that is called."""


def read_number(real: float, whole: int) -> float:
    """Read one of the wire's pairs of a float and a deprecated integer field, as KEDA does.

    The float counts only when above 0, which NaN is not; infinity cannot be written as a quantity
    and becomes 0; quantities have three decimals. Examples: (0.0, 30) is 30, (inf, 7) is 0,
    (nan, 16) is 16, (-5, -5) is 0 (test_keda_client.py, `test_numbers`).
    """
    if real > 0:
        return float(f"{real:.3f}") if math.isfinite(real) else 0.0
    return float(max(whole, 0))


def sent_metadata(trigger: KedaTrigger) -> dict[str, str]:
    """Give what the scaler receives: everything but `...FromEnv` keys.

    KEDA resolves those from the workload's containers and drops the ones it cannot resolve. None
    can be resolved here.
    """
    return {k: value for k, value in trigger.metadata.items() if not k.endswith("FromEnv")}


def open_channel(address: str, tls: Tls | None = None) -> grpc.aio.Channel:
    """Open a channel as KEDA does: round robin over all addresses, no retries, no keepalive."""
    options = list(_CHANNEL_OPTIONS)
    if tls is None:
        return grpc.aio.insecure_channel(address, options=options)
    if tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    credentials = grpc.ssl_channel_credentials(tls.ca, tls.key, tls.certificate)
    return grpc.aio.secure_channel(address, credentials, options=options)


class ScalerClient:
    """KEDA's client of one external scaler."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = ExternalScalerStub(channel)

    async def ask(
        self, scaled_object: ScaledObject, trigger: KedaTrigger, *, within: float | None
    ) -> TriggerResult:
        """Ask everything that KEDA asks for a trigger at one poll.

        `within` bounds all calls together, in seconds; None waits without end, as KEDA's poll does.
        """
        reference = pb.ScaledObjectRef(
            name=scaled_object.name,
            namespace=scaled_object.namespace,
            scalerMetadata=sent_metadata(trigger),
        )
        deadline = None if within is None else asyncio.get_running_loop().time() + within
        questions = _Questions(self._stub, reference, deadline)
        specs = await questions.specs()
        if isinstance(specs, Failure):
            return TriggerResult(trigger, specs)
        metrics = [
            MetricResult(
                spec.metricName,
                f"s{trigger.index}-{spec.metricName}",
                read_number(spec.targetSizeFloat, spec.targetSize),
                await questions.measure(spec.metricName),
            )
            for spec in specs
        ]
        return TriggerResult(trigger, tuple(metrics))


class _Questions:
    """The calls of one poll of one trigger, under one deadline."""

    def __init__(
        self, stub: "ExternalScalerAsyncStub", reference: pb.ScaledObjectRef, deadline: float | None
    ) -> None:
        self._stub = stub
        self._reference = reference
        self._deadline = deadline

    async def specs(self) -> list[pb.MetricSpec] | Failure:
        first = await self._specs_once()
        return await self._specs_once() if isinstance(first, Failure) else first

    async def measure(self, name: str) -> Measured | Failure:
        first = await self._measure_once(name)
        return await self._measure_once(name) if isinstance(first, Failure) else first

    async def _specs_once(self) -> list[pb.MetricSpec] | Failure:
        answer = await self._call("GetMetricSpec", self._stub.GetMetricSpec, self._reference)
        if isinstance(answer, Failure):
            return answer
        if not answer.metricSpecs:
            return Failure("GetMetricSpec", grpc.StatusCode.OK, "got empty metric spec")
        return list(answer.metricSpecs)

    async def _measure_once(self, name: str) -> Measured | Failure:
        request = pb.GetMetricsRequest(scaledObjectRef=self._reference, metricName=name)
        metrics = await self._call("GetMetrics", self._stub.GetMetrics, request)
        if isinstance(metrics, Failure):
            return metrics
        remarks: list[tuple[str, str]] = []
        activity = await self._call("IsActive", self._stub.IsActive, self._reference, remarks)
        if isinstance(activity, Failure):
            return activity
        values = (read_number(v.metricValueFloat, v.metricValue) for v in metrics.metricValues)
        return Measured(tuple(values), activity.result, tuple(remarks))

    async def _call(
        self,
        name: str,
        method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        remarks: list[tuple[str, str]] | None = None,
    ) -> _Response | Failure:
        """Call once; fill `remarks` with what stands beside the answer."""
        timeout = None
        if self._deadline is not None:
            timeout = max(0.0, self._deadline - asyncio.get_running_loop().time())
        try:
            call = method(request, timeout=timeout)
            answer = await call
            if remarks is not None:
                remarks += _remarks(await call.trailing_metadata())
        except grpc.aio.AioRpcError as error:
            return Failure(name, error.code(), _printable(error.details() or ""))
        return answer


def _remarks(trailers: Iterable[tuple[str, str | bytes]] | None) -> Iterator[tuple[str, str]]:
    """Pick our scaler's remarks out of a call's trailers."""
    for key, text in islice(trailers or (), _MAX_REMARKS):
        kind = key.removeprefix(REMARK_PREFIX)
        if kind != key and isinstance(text, str):
            yield kind, _printable(text)


def _printable(text: str) -> str:
    """Keep a foreign text from steering a terminal."""
    shown = "".join(char if char.isprintable() else " " for char in text[:_MAX_DETAIL])
    return " ".join(shown.split()) or "no details"
