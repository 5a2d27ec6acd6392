"""The metrics page of a simulated engine: the main families of vLLM 0.32.0, in its spelling.

Checked against a page recorded from vLLM 0.32.0 (`tests/captures`): names, types, labels and bucket
bounds are the same. Families that the simulation knows nothing of are left out.
"""

import math
import platform
from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from keda_scaler.sim.engine import EngineState
from keda_scaler.sim.histograms import HistogramState
from keda_scaler.sim.model import EngineModel

CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"
"""What vLLM 0.32.0 says of its page."""

_MEMORY_SHARE = "0.92"
"""vLLM's default for `gpu_memory_utilization`; a label, and nothing here depends on it."""


def render(model: EngineModel, state: EngineState, started: float) -> bytes:
    """Write the page of an engine that started at `started` (Unix seconds)."""
    return generate_latest(_EnginePage(model, state, started))


def render_without_engine(started: float) -> bytes:
    """Write the page of a process that started and has no engine yet, or logs no statistics."""
    return generate_latest(_ProcessPage(started))


class _ProcessPage(Collector):
    """What prints any Python process."""

    def __init__(self, started: float) -> None:
        self._started = started

    def collect(self) -> Iterator[Metric]:
        info = {
            "implementation": platform.python_implementation(),
            **dict(
                zip(("major", "minor", "patchlevel"), platform.python_version_tuple(), strict=True)
            ),
            "version": platform.python_version(),
        }
        yield _gauge("python_info", "The Python that runs this.", {}, [(info, 1)])
        yield GaugeMetricFamily(
            "process_start_time_seconds",
            "When the process started, in Unix seconds.",
            self._started,
        )


class _EnginePage(Collector):
    """A process with an engine."""

    def __init__(self, model: EngineModel, state: EngineState, started: float) -> None:
        self._model = model
        self._state = state
        self._started = started
        self._labels = {"engine": "0", "model_name": model.name}

    def collect(self) -> Iterator[Metric]:
        yield from _ProcessPage(self._started).collect()
        yield from self._gauges()
        yield from self._counters()
        yield from self._histograms()
        yield self._cache_config()

    def _gauges(self) -> Iterator[Metric]:
        state = self._state
        yield self._gauge("vllm:num_requests_running", "Requests in the batch.", state.running)
        yield self._gauge("vllm:num_requests_waiting", "Requests in the queue.", state.waiting)
        yield _gauge(
            "vllm:num_requests_waiting_by_reason",
            "Requests in the queue, by what they wait for.",
            self._labels,
            [({"reason": "capacity"}, state.waiting), ({"reason": "deferred"}, 0)],
        )
        yield _gauge(
            "vllm:engine_sleep_state",
            "Whether the engine is awake, or how deep it sleeps.",
            self._labels,
            [
                ({"sleep_state": "awake"}, 1),
                ({"sleep_state": "weights_offloaded"}, 0),
                ({"sleep_state": "discard_all"}, 0),
            ],
        )
        yield self._gauge(
            "vllm:kv_cache_usage_perc", "Used share of the KV cache, 0 to 1.", state.kv_cache_usage
        )

    def _counters(self) -> Iterator[Metric]:
        state = self._state
        plain: Sequence[tuple[str, str, int]] = (
            ("prefix_cache_queries", "Tokens looked up in the prefix cache.", state.queried_tokens),
            ("prefix_cache_hits", "Tokens found in the prefix cache.", 0),
            ("num_preemptions", "Requests put back into the queue.", state.preemptions),
            ("prompt_tokens", "Prompt tokens read.", state.prompt_tokens),
            ("generation_tokens", "Tokens generated.", state.generation_tokens),
        )
        for name, text, number in plain:
            yield self._counter(name, text, self._labels, [({}, number)])
        finished = {str(reason): count for reason, count in state.finished.items()}
        reasons = ("stop", "length", "abort", "error", "repetition")
        yield self._counter(
            "request_success",
            "Requests that are over, by how they ended.",
            self._labels,
            [({"finished_reason": reason}, finished.get(reason, 0)) for reason in reasons],
        )
        yield self._counter(
            "admission_rejections",
            "Requests that were not taken, by the limit they met.",
            {"model_name": self._model.name},
            [
                ({"reason": "max_num_queued_reqs"}, state.rejected),
                ({"reason": "max_num_queued_tokens"}, 0),
            ],
        )

    def _histograms(self) -> Iterator[Metric]:
        state = self._state
        yield self._histogram(
            "time_to_first_token", "From arrival to the first token, in seconds.", state.ttft
        )
        yield self._histogram(
            "inter_token_latency", "Between two tokens of a request, in seconds.", state.itl
        )
        yield self._histogram(
            "e2e_request_latency", "From arrival to the last token, in seconds.", state.latency
        )
        yield self._histogram(
            "request_queue_time", "From arrival to the batch, in seconds.", state.queue_time
        )

    def _cache_config(self) -> Metric:
        """Tell the KV cache's sizes; these labels only, of the many that vLLM prints."""
        labels = {
            "block_size": str(self._model.block_size),
            "cache_dtype": "auto",
            "enable_prefix_caching": "True",
            "engine": "0",
            "gpu_memory_utilization": _MEMORY_SHARE,
            "num_gpu_blocks": str(self._model.num_blocks),
        }
        return _gauge("vllm:cache_config_info", "How the KV cache is set up.", labels, [({}, 1)])

    def _gauge(self, name: str, text: str, number: float) -> Metric:
        return _gauge(name, text, self._labels, [({}, number)])

    def _counter(
        self,
        name: str,
        text: str,
        labels: Mapping[str, str],
        series: Sequence[tuple[Mapping[str, str], int]],
    ) -> Metric:
        names = (*labels, *series[0][0])
        family = CounterMetricFamily(f"vllm:{name}", text, labels=names)
        for own, number in series:
            family.add_metric((*labels.values(), *own.values()), number, created=self._started)
        return family

    def _histogram(self, name: str, text: str, state: HistogramState) -> Metric:
        family = HistogramMetricFamily(f"vllm:{name}_seconds", text, labels=tuple(self._labels))
        buckets = [
            ("+Inf" if math.isinf(bound) else str(bound), count) for bound, count in state.buckets
        ]
        family.add_metric(tuple(self._labels.values()), buckets, state.sum)
        family.add_sample(f"{family.name}_created", self._labels, self._started)
        return family


def _gauge(
    name: str,
    text: str,
    labels: Mapping[str, str],
    series: Sequence[tuple[Mapping[str, str], float]],
) -> Metric:
    family = GaugeMetricFamily(name, text, labels=(*labels, *series[0][0]))
    for own, number in series:
        family.add_metric((*labels.values(), *own.values()), number)
    return family
