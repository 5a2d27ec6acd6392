"""What the scaler tells of itself: its metrics and its log."""

import asyncio
import json
import logging
import platform
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import TextIO, cast

import grpc
import msgspec
import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from keda_scaler import KEDA_PROTO, __version__, forever
from keda_scaler.core.decision import Answer, Decision, Reported
from keda_scaler.lines import Lines
from keda_scaler.sources.sink import Clock
from keda_scaler.store import Store, Target
from keda_scaler.telemetry import families
from keda_scaler.telemetry.calls import Calls
from keda_scaler.telemetry.families import Family
from keda_scaler.telemetry.targets import write

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
            console if readable else structlog.processors.JSONRenderer(_json),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", Lines(sys.stderr))),
        cache_logger_on_first_use=True,
    )


def _json(event: Mapping[str, object], **_: object) -> str:
    """Write a line of the log; what JSON has no form for as Python shows it."""
    try:
        return msgspec.json.encode(event, enc_hook=repr).decode()
    except UnicodeEncodeError:  # half a character, as an error of a Prometheus may have it
        return json.dumps(event, default=repr)


def _line(decision: Decision) -> tuple[object, ...]:
    """Reduce a decision to what makes a new line of the log."""
    return decision.state, decision.reason, decision.engines


def _short(answer: Answer) -> float | str:
    """Write an answer as its value, or as why there is none."""
    if not isinstance(answer, Reported):
        return answer.text
    number = round(answer.number, 3)
    return f"{number:g} ({answer.text})" if answer.text else number


class _Scaler(Collector):
    """What is counted elsewhere, and read when asked."""

    def __init__(self) -> None:
        self.store: Store | None = None
        self.streams: Callable[[], Mapping[str, int]] = dict
        self.pushes: Mapping[str, int] = {}

    def collect(self) -> Iterable[Metric]:
        build = _gauge(families.BUILD)
        python = platform.python_version()
        build.add_metric([__version__, python, grpc.__version__, KEDA_PROTO], 1)
        yield build
        streams = _gauge(families.STREAMS)
        for method, count in self.streams().items():
            streams.add_metric([method], count)
        yield streams
        pushes = _counter(families.PUSHES)
        for method, count in self.pushes.items():
            pushes.add_metric([method], count)
        yield pushes
        forgotten = _counter(families.FORGOTTEN)
        forgotten.add_metric([], self.store.forgotten if self.store else 0)
        yield forgotten
        died = _counter(families.DEATHS)
        for kind in forever.KINDS:  # an alert needs the 0 before the 1
            died.add_metric([kind], forever.deaths[kind])
        yield died


def _gauge(family: Family) -> GaugeMetricFamily:
    return GaugeMetricFamily(family.name, family.text, labels=family.labels)


def _counter(family: Family) -> CounterMetricFamily:
    return CounterMetricFamily(family.name, family.text, labels=family.labels)


class Telemetry:
    """The scaler's own metrics, as `families` lists them."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        """`clock` is that of the store."""
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.calls = Calls()
        """Calls of KEDA, as they end."""
        self.registry.register(self.calls)
        self._clock = clock
        self._scaler = _Scaler()
        self.registry.register(self._scaler)
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        self._reads = Histogram(
            families.READS.name,
            families.READS.text,
            families.READS.labels,
            buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10),
            registry=self.registry,
        )
        decisions, reloads = families.DECISIONS, families.RELOADS
        self._decisions = Counter(
            decisions.name, decisions.text, decisions.labels, registry=self.registry
        )
        self._reloads = Counter(reloads.name, reloads.text, reloads.labels, registry=self.registry)
        for result in ("ok", "error"):  # an alert needs the 0 before the 1
            self._reloads.labels(result)
        self._reload_ok = Gauge(
            families.RELOAD_OK.name, families.RELOAD_OK.text, registry=self.registry
        )
        self._reload_ok.set(1)

    def watch(self, store: Store) -> None:
        """Show the targets of a store."""
        self._scaler.store = store

    def count_streams(
        self, streams: Callable[[], Mapping[str, int]], pushes: Mapping[str, int]
    ) -> None:
        """Show streams that are open and messages that were written to them, by method."""
        self._scaler.streams, self._scaler.pushes = streams, pushes

    def read(self, source: str, result: str, seconds: float) -> None:
        """Count one reading of a page or a Prometheus: result is `ok` or `error`."""
        self._reads.labels(source, result).observe(seconds)

    def reloaded(self, result: str) -> None:
        """Count settings that were read again: result is `ok`, `error`, or `unchanged`."""
        if result != "unchanged":
            self._reloads.labels(result).inc()
        self._reload_ok.set(result != "error")

    def decided(self, target: Target, before: Decision | None, decision: Decision) -> None:
        """Log a decision whose state, reason or engines changed: one line with the reason."""
        if decision.warnings and (before is None or before.warnings != decision.warnings):
            for text in decision.warnings:
                _log.warning("trigger", namespace=target.namespace, name=target.name, text=text)
        if before is not None and _line(before) == _line(decision):
            return
        if before is None or _line(before)[:2] != _line(decision)[:2]:
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

    async def exposition(self) -> AsyncIterator[bytes]:
        """Write all metrics as text, in pieces; calls have their turn between them."""
        yield generate_latest(self.registry)
        yield await asyncio.to_thread(generate_latest, self._process)  # it reads files
        store = self._scaler.store
        async for piece in write([] if store is None else store.targets(), self._clock):
            yield piece
