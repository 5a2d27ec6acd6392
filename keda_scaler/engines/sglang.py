"""SGLang.

Names and labels: `python/sglang/srt/observability/metrics_collector.py` (`srt/metrics/collector.py`
before) and `scheduler_metrics_mixin.py`. Every scheduler process prints its own series:

- `dp_rank` numbers engines with requests of their own: those add up, and token usage averages.
- `tp_rank`, `pp_rank`, `moe_ep_rank` and `pid` number processes that share the work of each
  request. Only one of them prints, but with `--enable-metrics-for-all-schedulers` all do.
- With priority scheduling a queue is printed as a whole (`priority` is empty) and once per
  priority; only the whole is read.
- Where prefill and decode run apart (`engine_type`), requests wait in queues of their own, which
  `num_queue_reqs` does not count. Other servers print them as 0, or not at all.

`realtime_tokens_total` moves while requests run, after a number of steps; the other counters of
progress move when a request ends.
"""

from keda_scaler.core.signals import Signal
from keda_scaler.engines.combining import mean
from keda_scaler.engines.dialect import Absence, Dialect, Family, Quantity

_WHOLE = {"priority": {""}}


def _queue(name: str, versions: str, *older: Family) -> Quantity:
    """Make a queue that not every version or server has."""
    families = (Family(name, _WHOLE, versions=versions), *older)
    return Quantity(families, absence=Absence.ZERO)


_WAITING = (
    Quantity((Family("sglang:num_queue_reqs", _WHOLE, versions="all"),)),
    # Requests whose grammar is being compiled; they join the queue afterwards.
    _queue("sglang:num_grammar_queue_reqs", "not the first ones"),
    _queue(
        "sglang:num_prefill_bootstrap_queue_reqs",
        "newer ones, with PD disaggregation",
        Family("sglang:num_prefill_prealloc_queue_reqs", _WHOLE, versions="older ones, likewise"),
    ),
    _queue("sglang:num_prefill_inflight_queue_reqs", "with PD disaggregation"),
    _queue("sglang:num_decode_prealloc_queue_reqs", "with PD disaggregation"),
    _queue("sglang:num_decode_transfer_queue_reqs", "with PD disaggregation"),
)
_RUNNING = Quantity((Family("sglang:num_running_reqs", _WHOLE, versions="all"),))

_TOKEN_USAGE = Quantity(
    (Family("sglang:token_usage", _WHOLE, versions="all"),), combine=mean, highest=1.0
)


def _histogram(name: str, versions: str = "all") -> tuple[Family, ...]:
    """Make a histogram of which, should it be split by priority, the whole is read if there is one.

    The API server observes latencies, once per request. `is_streaming` splits two of them in two.
    """
    return (
        Family(name, _WHOLE, versions=versions),
        Family(name, versions=f"{versions}; all priorities"),
    )


SGLANG = Dialect(
    name="sglang",
    title="SGLang",
    model_label="model_name",
    ranks=("tp_rank", "pp_rank", "moe_ep_rank", "pid"),
    signals={
        Signal.QUEUE_DEPTH: _WAITING,
        Signal.CONCURRENCY: (*_WAITING, _RUNNING),
        Signal.GPU_MEMORY_PRESSURE: (_TOKEN_USAGE,),
    },
    late_histograms=True,
    latencies={
        Signal.TTFT: _histogram("sglang:time_to_first_token_seconds"),
        Signal.ITL: (
            *_histogram("sglang:inter_token_latency_seconds", "0.4.5 and later"),
            *_histogram("sglang:time_per_output_token_seconds", "to 0.4.4"),
        ),
        Signal.LATENCY: _histogram("sglang:e2e_request_latency_seconds"),
    },
    # Its health check generates a token, which these leave out and the one below may not.
    served=(
        Family("sglang:generation_tokens_total", versions="all"),
        Family("sglang:num_requests_total", versions="not the first ones"),
    ),
    steps=(Family("sglang:realtime_tokens_total", versions="newer ones"),),
    spellings=(("sglang:", "sglang_"),),
    reserves_memory=True,
    supersedes=frozenset({"nim"}),
    notes=(
        "Prints metrics only with `--enable-metrics`. Versions before 2026-07 let gauges of an idle"
        " server stand for up to 30 s. Old versions' histograms end at 30 s: a latency above that"
        " is reported as 30 s. Without `sglang:realtime_tokens_total` progress shows only when a"
        " request ends: let `stuckSeconds` be longer than the longest request."
    ),
)
