"""Triggers: the metadata of a KEDA trigger, parsed and validated once.

Keys are camelCase and every value arrives as a string, as KEDA sends it. All problems of a trigger
are reported at once; each names the key, what was given and what is accepted.
"""

import difflib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from keda_scaler.core.addresses import AddressRules
from keda_scaler.core.combinations import NOT_REPORTED, misplaced, unqueried
from keda_scaler.core.matchers import Matcher, parse_matchers, parse_selector
from keda_scaler.core.names import ENGINES, GATEWAYS, QUERY, REPORTS
from keda_scaler.core.promql import elsewhere
from keda_scaler.core.signals import LATENCIES, Signal
from keda_scaler.core.values import (
    SHOWN,
    choice,
    number,
    parse_endpoints,
    parse_path,
    parse_port,
    parse_ports,
    parse_query,
    parse_server_address,
    parse_wake_service,
    ratio,
    shown,
    text,
)
from keda_scaler.errors import TriggerError

KEDA_KEYS = frozenset(
    {"scalerAddress", "enableTLS", "unsafeSsl", "caCert", "tlsClientCert", "tlsClientKey"}
)
"""Keys that KEDA reads itself and passes on with the rest."""

MAX_PROBLEMS = 20
"""Problems of one trigger that are listed; an error must fit into the trailers of an answer."""

DEFAULT_QUEUE_DEPTH = 5.0
"""Waiting requests per replica; the low end of what GKE's guide for inference starts with (3 to 5)
and what llm-d's autoscaler calls saturated."""

DEFAULT_GPU_MEMORY_PRESSURE = 0.85
"""Just under where a KV cache begins to preempt: llm-d's autoscaler uses 0.8, GKE's samples up to
0.95."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of a trigger: what GetMetricSpec returns."""

    signal: Signal
    target: float
    """Per replica, in the signal's unit; at least 0.001, the precision of KEDA."""


@dataclass(frozen=True, slots=True)
class Accepts:
    """What the server's settings let a trigger name."""

    prometheus: frozenset[str] = frozenset()
    """Names of the Prometheus servers declared in the settings."""

    addresses: AddressRules = field(default_factory=AddressRules)

    reports: bool = False
    """Whether the server takes reports."""

    defaults: Mapping[str, str] = field(default_factory=dict)
    """Trigger keys that a trigger which does not give them has all the same."""


_DEFAULT_METRICS = (
    Metric(Signal.QUEUE_DEPTH, DEFAULT_QUEUE_DEPTH),
    Metric(Signal.GPU_MEMORY_PRESSURE, DEFAULT_GPU_MEMORY_PRESSURE),
)

_Requests = Annotated[float, number(0.001, 1e6, "a number of requests")]
_MoreThan = Annotated[float, number(0, 1e6, "a number of requests")]
_Seconds = Annotated[float, number(0.001, 86400, "seconds")]
_Pressure = Annotated[float, ratio(0.001)]
_Query = Annotated[str, BeforeValidator(parse_query)]


class Trigger(BaseModel):
    """The parsed, validated metadata of a target. Build it with `parse_trigger`."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, validate_default=False
    )

    engine: Annotated[str, choice("auto", *ENGINES, REPORTS)] = "auto"
    """The dialect; `auto` detects it from the families on the page. `reports`: none, what is posted
    to the HTTP API is all there is."""

    service: Annotated[str, text("the name of a Service")] | None = None
    """Kubernetes Service in the ScaledObject's own namespace."""

    port: Annotated[str, BeforeValidator(parse_ports)] | None = None
    """Port of the endpoints; None: the one named `metrics`, else `http`, else the only one.

    With several (`ports_of` takes them apart) a replica has a page at each."""

    path: Annotated[str, BeforeValidator(parse_path)] | None = None
    """Path of the metrics page; None: the engine's, else /metrics."""

    endpoints: Annotated[tuple[str, ...], BeforeValidator(parse_endpoints)] = ()
    """Metrics URLs instead of a Service."""

    prometheus: Annotated[str, text("the name of a Prometheus of the settings")] | None = None
    """Name of a Prometheus declared in the settings."""

    server_address: Annotated[str, BeforeValidator(parse_server_address)] | None = None
    """URL of a Prometheus."""

    selector: Annotated[tuple[Matcher, ...], BeforeValidator(parse_selector)] = ()
    """Further conditions on labels, for series of Prometheus."""

    model: Annotated[str, text("the name of a served model", longest=512)] | None = None
    """Only series of this served model."""

    target_queue_depth: _Requests | None = None
    target_concurrency: _Requests | None = None
    target_gpu_memory_pressure: _Pressure | None = None
    target_gpu_utilization: _Pressure | None = None
    target_ttft_seconds: _Seconds | None = None
    target_itl_seconds: _Seconds | None = None
    target_latency_seconds: _Seconds | None = None

    latency_quantile: Annotated[float, number(0.01, 0.999, "a quantile")] = 0.95
    """Of the latencies."""

    latency_window_seconds: Annotated[float, number(10, 3600, "seconds")] = 120.0
    """How far back latencies are looked at."""

    gpu_memory_source: Annotated[
        Literal["auto", "kv-cache", "device"], choice("auto", "kv-cache", "device")
    ] = "auto"
    """Where gpu-memory-pressure comes from."""

    queue_depth_query: _Query | None = None
    concurrency_query: _Query | None = None
    gpu_memory_query: _Query | None = None
    latency_query: _Query | None = None

    activation_requests: _MoreThan = 0.0
    """Active while waiting + running requests exceed this."""

    activation_queue_depth: _MoreThan | None = None
    activation_concurrency: _MoreThan | None = None
    activation_gpu_memory_pressure: Annotated[float, ratio(0)] | None = None
    activation_gpu_utilization: Annotated[float, ratio(0)] | None = None

    idle_seconds: Annotated[float, number(0, 86400, "seconds")] = 30.0
    """How long proof of idleness must hold; bridges gaps between polls, not KEDA's cooldown."""

    poll_seconds: Annotated[float, number(1, 3600, "seconds")] = 5.0
    """How often pages or queries are read."""

    stale_seconds: Annotated[float, number(1, 86400, "seconds")] | None = None
    """Age from which a reading is unknown; None: three polls, at least 15."""

    on_unknown: Annotated[Literal["hold", "error"], choice("hold", "error")] = "hold"
    hold_seconds: Annotated[float, number(0, 86400, "seconds")] = 900.0
    """Longest hold."""

    wake_from: Annotated[str, choice(*GATEWAYS, QUERY, REPORTS)] | None = None
    """What knows of requests while no replica runs."""

    wake_service: Annotated[str, BeforeValidator(parse_wake_service)] | None = None
    """The gateway's Service, read directly: a name in the ScaledObject's own namespace,
    NAME.NAMESPACE, or an IP address."""

    wake_port: Annotated[str, BeforeValidator(parse_port)] | None = None
    """Port of the gateway's endpoints; None: as with `port`."""

    wake_path: Annotated[str, BeforeValidator(parse_path)] | None = None
    """Path of the gateway's page; None: the gateway's own."""

    wake_selector: Annotated[tuple[Matcher, ...], BeforeValidator(parse_matchers)] = ()
    """Label matchers that tell which of the gateway's series are about this target."""

    wake_query: _Query | None = None
    """PromQL whose result, summed, is the number of requests."""

    cold_start_seconds: Annotated[float, number(0, 86400, "seconds")] = 300.0
    """Longest lease: how long after the last request a target that wakes is active although no
    replica answers."""

    max_pending_factor: Annotated[float, number(1, 1000, "a factor")] = 2.0
    """Of the ready replicas (at least one), how many may be asked for while others load."""

    stuck_seconds: Annotated[float, number(10, 86400, "seconds")] = 600.0
    """How long requests and progress may stand still before a replica is called stuck."""

    on_stuck: Annotated[Literal["hold", "idle"], choice("hold", "idle")] = "hold"

    push_repeat_seconds: Annotated[float, number(1, 3600, "seconds")] = 5.0
    """How often StreamIsActive repeats that a target is active while replicas are wanted."""

    metric_type: Annotated[Literal["AverageValue", "Value"], choice("AverageValue", "Value")] = (
        Field(default="AverageValue")
    )
    """Must equal the trigger's own metricType; decides sum or mean."""

    @cached_property
    def metrics(self) -> tuple[Metric, ...]:
        """What this trigger scales on, in the order of the signals; never empty."""
        targets = {
            Signal.QUEUE_DEPTH: self.target_queue_depth,
            Signal.CONCURRENCY: self.target_concurrency,
            Signal.GPU_MEMORY_PRESSURE: self.target_gpu_memory_pressure,
            Signal.GPU_UTILIZATION: self.target_gpu_utilization,
            Signal.TTFT: self.target_ttft_seconds,
            Signal.ITL: self.target_itl_seconds,
            Signal.LATENCY: self.target_latency_seconds,
        }
        chosen = tuple(Metric(s, target) for s, target in targets.items() if target is not None)
        if chosen:
            return chosen
        if self.by_reports:
            return _DEFAULT_METRICS[:1]
        told = (m for m in _DEFAULT_METRICS if not self.by_queries or m.signal in self.queries)
        return tuple(told) or _DEFAULT_METRICS

    @cached_property
    def by_reports(self) -> bool:
        """Whether reports are all there is, and replicas are not known."""
        return self.engine == REPORTS

    @cached_property
    def by_prometheus(self) -> bool:
        """Whether the replicas are read through Prometheus."""
        return not (self.by_reports or self.service or self.endpoints)

    @cached_property
    def queries(self) -> Mapping[Signal, str]:
        """Own queries, by the signal that each stands for."""
        own = {
            Signal.QUEUE_DEPTH: self.queue_depth_query,
            Signal.CONCURRENCY: self.concurrency_query,
            Signal.GPU_MEMORY_PRESSURE: self.gpu_memory_query,
            Signal.LATENCY: self.latency_query,
        }
        return {signal: query for signal, query in own.items() if query is not None}

    @cached_property
    def by_queries(self) -> bool:
        """Whether own queries are all that is read, because the engine is not named."""
        return bool(self.queries) and self.engine == "auto"

    @cached_property
    def _sought(self) -> frozenset[Signal]:
        """The signals that matter and that no own query gives."""
        signals = {metric.signal for metric in self.metrics} | {s for s, _ in self.activations}
        return frozenset(signals - self.queries.keys())

    @cached_property
    def reads_latencies(self) -> bool:
        """Whether histograms have to be read, which most triggers do not need."""
        return not LATENCIES.isdisjoint(self._sought)

    @cached_property
    def reads_devices(self) -> bool:
        """Whether GPU exporters have to be read."""
        sought = self._sought
        by_memory = Signal.GPU_MEMORY_PRESSURE in sought and self.gpu_memory_source != "kv-cache"
        return by_memory or Signal.GPU_UTILIZATION in sought

    @cached_property
    def prefers_engine_memory(self) -> bool:
        """Whether GPU exporters matter only where the engine says nothing of its memory."""
        return self.gpu_memory_source == "auto" and Signal.GPU_UTILIZATION not in self._sought

    @cached_property
    def activations(self) -> tuple[tuple[Signal, float], ...]:
        """Thresholds of which any one, exceeded, is work: the signal and its threshold."""
        further = {
            Signal.QUEUE_DEPTH: self.activation_queue_depth,
            Signal.CONCURRENCY: self.activation_concurrency,
            Signal.GPU_MEMORY_PRESSURE: self.activation_gpu_memory_pressure,
            Signal.GPU_UTILIZATION: self.activation_gpu_utilization,
        }
        return (
            (Signal.CONCURRENCY, self.activation_requests),
            *((signal, above) for signal, above in further.items() if above is not None),
        )

    @cached_property
    def stale_after(self) -> float:
        """Age in seconds from which a reading is unknown."""
        return (
            max(15.0, 3 * self.poll_seconds) if self.stale_seconds is None else self.stale_seconds
        )

    @classmethod
    def key_of(cls, name: str) -> str:
        """Spell a field as the trigger key that it is."""
        return cls.model_fields[name].alias or name

    @classmethod
    def keys(cls) -> list[str]:
        """Every key that is accepted, as triggers spell it."""
        return [cls.key_of(name) for name in cls.model_fields]


def _unknown_key(key: str, accepted: Collection[str]) -> str:
    """Explain an unknown key without its value, which may be a secret."""
    near = difflib.get_close_matches(key, accepted, n=1, cutoff=0.7)
    return f"{key[:SHOWN]}: unknown key" + (f"; did you mean {near[0]}?" if near else "")


def _wrong_value(problem: Any) -> str:
    error = problem.get("ctx", {}).get("error")
    return f"{problem['loc'][0]}: got {shown(problem['input'])!r}; accepted: {error}"


def _host(address: str) -> str | None:
    """Give the host of a URL, or the address itself."""
    return urlsplit(address).hostname if "//" in address else address


def _refused(trigger: Trigger, accepts: Accepts) -> list[str]:
    """Find what the server's settings do not allow, and values that contradict each other."""
    problems = []
    if trigger.prometheus and trigger.prometheus not in accepts.prometheus:
        known = ", ".join(sorted(accepts.prometheus)) or "none; start the server with --prometheus"
        problems.append(f"prometheus: got {shown(trigger.prometheus)!r}; accepted: {known}")
    addresses = [("endpoints", url) for url in trigger.endpoints]
    if trigger.server_address:
        addresses.append(("serverAddress", trigger.server_address))
    if trigger.wake_service and set(".:") & set(trigger.wake_service):
        addresses.append(("wakeService", trigger.wake_service))
    if REPORTS in {trigger.engine, trigger.wake_from} and not accepts.reports:
        problems.append("reports: the server takes none; start it with --report-tokens")
    problems += [
        f"{key}: {shown(url)!r} is not an address that the server's settings allow "
        "(--allow-address)"
        for key, url in addresses
        if accepts.addresses.refuses_host(_host(url) or "")
    ]
    if trigger.stale_after < trigger.poll_seconds:
        problems.append(
            f"staleSeconds: got {trigger.stale_after:g}; accepted: at least pollSeconds "
            f"({trigger.poll_seconds:g})"
        )
    return problems


def _with_defaults(given: Mapping[str, str], defaults: Mapping[str, str]) -> dict[str, str]:
    """Add what the settings say, but nothing that contradicts what the trigger says itself."""
    left_out = set(given)
    if any(key.startswith("target") for key in given):
        left_out |= {key for key in defaults if key.startswith("target")}
    if "pollSeconds" in given:
        left_out.add("staleSeconds")
    if given.get("engine") == REPORTS:
        left_out |= NOT_REPORTED
    left_out |= unqueried(given).keys()
    return {key: value for key, value in defaults.items() if key not in left_out} | dict(given)


_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def _not_of(namespace: str, trigger: Trigger) -> list[str]:
    """Find what reaches beyond the ScaledObject's namespace."""
    if namespace and not _NAMESPACE.fullmatch(namespace):
        return [f"namespace: got {namespace[:SHOWN]!r}; accepted: the name of a namespace"]
    own = ((name, getattr(trigger, name)) for name in Trigger.model_fields if "query" in name)
    return [
        f"{Trigger.key_of(name)}: got {matcher[:SHOWN]}; accepted: only the ScaledObject's own "
        "namespace"
        for name, query in own
        if query is not None
        for matcher in elsewhere(query, namespace)
    ]


def parse_trigger(
    metadata: Mapping[str, str], accepts: Accepts, namespace: str | None = None
) -> Trigger:
    """Read a trigger's metadata, of a ScaledObject in the namespace; None: in any.

    Raises:
        TriggerError: with every problem of it; of very many, the first.

    """
    given = {key: value for key, value in metadata.items() if key not in KEDA_KEYS}
    given = _with_defaults(given, accepts.defaults)
    accepted = Trigger.keys()
    unknown = sorted(given.keys() - set(accepted))
    problems = [_unknown_key(key, accepted) for key in unknown[:MAX_PROBLEMS]]
    known = {key: value for key, value in given.items() if key in accepted}
    try:
        trigger = Trigger.model_validate(known)
    except ValidationError as error:
        wrong = error.errors()
        problems += [_wrong_value(problem) for problem in wrong]
        # The rest is checked too, so that all problems are reported at once.
        right = known.keys() - {problem["loc"][0] for problem in wrong}
        trigger = Trigger.model_validate({key: known[key] for key in right})
    problems += misplaced(known) + _refused(trigger, accepts)
    problems += [] if namespace is None else _not_of(namespace, trigger)
    if problems:
        further = len(problems) + len(unknown[MAX_PROBLEMS:]) - MAX_PROBLEMS
        more = [f"and {further} more"] if further > 0 else []
        raise TriggerError(problems[:MAX_PROBLEMS] + more)
    return trigger
