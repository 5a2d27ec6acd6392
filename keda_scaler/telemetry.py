"""What the scaler tells of itself: its metrics and its log."""

import logging
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TextIO, cast

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from keda_scaler.core.decision import Answer, Decision, Reported, State
from keda_scaler.errors import KedaScalerError
from keda_scaler.lines import Lines
from keda_scaler.store import Target

_log = structlog.get_logger()


def configure_logging() -> None:
    """Log one JSON object a line, or readable lines when a person watches."""
    readable = sys.stderr.isatty()
    # The renderer's own tracebacks show the variables of every frame, credentials among them.
    console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info if not readable else structlog.dev.set_exc_info,
            console if readable else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", Lines(sys.stderr))),
        cache_logger_on_first_use=True,
    )


def _line(decision: Decision) -> tuple[object, ...]:
    """Reduce a decision to what makes a new line of the log."""
    return decision.state, decision.reason, decision.engines


def _short(answer: Answer) -> float | str:
    """Write an answer as its value, or as why there is none."""
    if not isinstance(answer, Reported):
        return answer.text
    number = round(answer.number, 3)
    return f"{number:g} ({answer.text})" if answer.text else number


class _Targets(Collector):
    """How many targets are in which state, counted when asked."""

    def __init__(self, decisions: Callable[[], Iterable[Decision]]) -> None:
        self._decisions = decisions

    def collect(self) -> Iterable[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "keda_scaler_targets", "Targets that are followed, by their state.", labels=["state"]
        )
        counts = dict.fromkeys(State, 0)
        for decision in self._decisions():
            counts[decision.state] += 1
        for state, count in counts.items():
            family.add_metric([state], count)
        yield family


class _Stuck(Collector):
    """How many replicas are stuck, counted when asked."""

    def __init__(self, decisions: Callable[[], Iterable[Decision]]) -> None:
        self._decisions = decisions

    def collect(self) -> Iterable[GaugeMetricFamily]:
        yield GaugeMetricFamily(
            "keda_scaler_stuck_replicas",
            "Replicas whose requests and counters stand still, of all targets.",
            value=sum(len(decision.stuck) for decision in self._decisions()),
        )


class _Rpcs(Collector):
    """How many calls there were. Plain numbers: a counter with a lock costs a call more."""

    def __init__(self) -> None:
        self.counts: defaultdict[tuple[str, str], int] = defaultdict(int)

    def collect(self) -> Iterable[CounterMetricFamily]:
        family = CounterMetricFamily(
            "keda_scaler_rpcs_total",
            "Calls of KEDA, by method and result (ok, or the kind of error).",
            labels=["method", "result"],
        )
        for labels, count in sorted(self.counts.items()):
            family.add_metric(labels, count)
        yield family


class Telemetry:
    """The scaler's own metrics. Labels are closed sets: nothing that a trigger says becomes one."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._rpcs = _Rpcs()
        self.registry.register(self._rpcs)
        self._reads = Histogram(
            "keda_scaler_read_seconds",
            "Time that reading a page or a Prometheus took, by source and result.",
            ["source", "result"],
            buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10),
            registry=self.registry,
        )
        self._decisions = Counter(
            "keda_scaler_decisions_total",
            "Changes of a target's state or reason, by what they became.",
            ["state", "reason"],
            registry=self.registry,
        )
        self._reloads = Counter(
            "keda_scaler_settings_reloads_total",
            "Settings that changed while the scaler ran, by whether they were taken up.",
            ["result"],
            registry=self.registry,
        )
        for result in ("ok", "error"):  # an alert needs the 0 before the 1
            self._reloads.labels(result)

    def count_targets(self, decisions: Callable[[], Iterable[Decision]]) -> None:
        """Show how many targets are in which state, and how many replicas are stuck."""
        self.registry.register(_Targets(decisions))
        self.registry.register(_Stuck(decisions))

    def rpc_answered(self, method: str) -> None:
        """Count a call that was answered."""
        self._rpcs.counts[method, "ok"] += 1

    def rpc_failed(self, method: str, error: Exception) -> None:
        """Count a call that ended with an error."""
        kind = type(error).__name__ if isinstance(error, KedaScalerError) else "internal"
        self._rpcs.counts[method, kind] += 1

    def read(self, source: str, result: str, seconds: float) -> None:
        """Count one reading of a page or a Prometheus: result is `ok` or `error`."""
        self._reads.labels(source, result).observe(seconds)

    def reloaded(self, result: str) -> None:
        """Count settings that were read again: result is `ok` or `error`."""
        self._reloads.labels(result).inc()

    def decided(self, target: Target, before: Decision | None, decision: Decision) -> None:
        """Log a decision whose state or reason changed: one line with the reason."""
        if decision.warnings and (before is None or before.warnings != decision.warnings):
            for text in decision.warnings:
                _log.warning("trigger", namespace=target.namespace, name=target.name, text=text)
        if before is not None and _line(before) == _line(decision):
            return
        self._decisions.labels(decision.state, decision.reason).inc()
        _log.info(
            "decision",
            namespace=target.namespace,
            name=target.name,
            engines=decision.engines,
            state=decision.state.value,
            reason=decision.reason.value,
            text=decision.text,
            answers={signal.value: _short(answer) for signal, answer in decision.answers.items()},
        )

    def exposition(self) -> bytes:
        """Render all metrics as text."""
        return generate_latest(self.registry)
