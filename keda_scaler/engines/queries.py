"""What a trigger's own queries say of each replica. Pure.

Rules
1. A series with a label `pod`, else `instance`, is about that replica, as with engines' series. One
   without either is about all replicas: requests are shared out evenly, a ratio or a latency is
   each one's.
2. Whether several series of one replica add up, only the query can say. They are missing, and so is
   all of an answer with series of both kinds.
3. No series, and a number that cannot be the signal, is missing and never zero. Only a latency may
   be NaN: that is what Prometheus makes of no requests, and is no opinion.
4. A replica that cannot be scraped has nothing to say, whatever a query says: `or vector(0)` does
   not turn an outage into a proof of no work.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

from keda_scaler.core.matchers import Matcher
from keda_scaler.core.readings import Engine, Missing, Quantiles, Reading, Readings, Value
from keda_scaler.core.signals import LATENCIES, RATIOS, Signal
from keda_scaler.core.trigger import Trigger
from keda_scaler.engines.dialect import LARGEST_COUNT
from keda_scaler.engines.samples import Sample
from keda_scaler.engines.spaces import Part, Space

MAX_SERIES = 1000
"""Series of one query's answer; a Service has no more endpoints that we read either."""

UNSCRAPED = "Prometheus cannot scrape it (up is 0)"
UNTIMED = "Prometheus does not say when it was scraped"

KEYS = {
    Signal.QUEUE_DEPTH: "queueDepthQuery",
    Signal.CONCURRENCY: "concurrencyQuery",
    Signal.GPU_MEMORY_PRESSURE: "gpuMemoryQuery",
    Signal.LATENCY: "latencyQuery",
}
"""The trigger key of each signal that a query may give."""

Found = Sequence[Sample] | Missing
"""The answer to one query, or why there is none."""

Replicas = dict[str, tuple[Readings, Engine | None]]
"""Listed replicas by name, with the readings of each and its engine."""


def name_of(labels: Mapping[str, str]) -> str:
    """Name the replica that a series is about; empty: all of them."""
    return labels.get("pod") or labels.get("instance", "")


def of_replicas(samples: Iterable[Sample], selector: Collection[Matcher]) -> dict[str, float]:
    """Give a number of each replica that is selected, from those of its scrapes.

    Of jobs that scrape the same address the largest counts, of several addresses the smallest: a
    replica is up when one job reaches each of them.
    """
    parts: dict[Part, float] = {}
    for sample in samples:
        if all(matcher.matches(sample.labels) for matcher in selector):
            part = Part.of(sample.labels)
            parts[part] = max(sample.number, parts.get(part, -math.inf))
    names: dict[str, float] = {}
    for part, number in sorted(parts.items()):
        name = part.pod or part.instance
        names[name] = min(number, names.get(name, math.inf))
    return names


def scraped(space: Space, selector: Collection[Matcher], signals: Iterable[Signal]) -> Replicas:
    """List the replicas of an engine that nobody knows: what is scraped and selected.

    Those that cannot be scraped have every signal missing, the others none of them yet.
    """
    down = dict.fromkeys(signals, Missing(UNSCRAPED))
    up = of_replicas(space.scrapes, selector)
    return {name: ({} if number == 1 else down, None) for name, number in up.items()}


def read(
    trigger: Trigger, replicas: Replicas, found: Mapping[Signal, Found], at: Mapping[str, float]
) -> Replicas:
    """Put what the queries say in the place of what was read of those signals.

    `at` is when each replica was scraped last, in monotonic seconds.
    """
    told: dict[str, dict[Signal, Reading]] = {
        name: dict.fromkeys(found, Missing(UNTIMED))
        for name, (readings, _) in replicas.items()
        if not _is_silent(readings)
    }
    timed = [name for name in told if name in at]
    for signal, answer in found.items():
        for name, number in _numbers(signal, answer, timed).items():
            told[name][signal] = _reading(trigger, signal, number, at[name])
    return {
        name: ({**readings, **told.get(name, {})}, engine)
        for name, (readings, engine) in replicas.items()
    }


def shows_work(found: Mapping[Signal, Found], others: Collection[str]) -> str | None:
    """Name the query that tells of requests, unless they are all of `others`; None: none does."""
    for signal in (Signal.CONCURRENCY, Signal.QUEUE_DEPTH):
        answer = found.get(signal, ())
        if isinstance(answer, Missing):
            continue
        if any(each.number > 0 and name_of(each.labels) not in others for each in answer):
            return KEYS[signal]
    return None


def _is_silent(readings: Readings) -> bool:
    """Whether a replica gave nothing at all."""
    return bool(readings) and all(isinstance(each, Missing) for each in readings.values())


def _numbers(
    signal: Signal, answer: Found, replicas: Collection[str]
) -> dict[str, float | Missing]:
    """Give the number of each replica, or why there is none."""
    key = KEYS[signal]
    if isinstance(answer, Missing):
        return dict.fromkeys(replicas, Missing(f"{key}: {answer.reason}"))
    by_name: dict[str, list[float]] = {}
    for sample in answer:
        by_name.setdefault(name_of(sample.labels), []).append(sample.number)
    of_all = by_name.pop("", None)
    if of_all is not None:
        if by_name or len(of_all) > 1:
            what = "one series for all replicas nor one for each, with a label pod or instance"
            return dict.fromkeys(replicas, Missing(f"{key} gives neither {what}"))
        share = len(replicas) if signal not in RATIOS | LATENCIES else 1
        number = of_all[0]  # if it is negative that is shown, and no half of it that is -0
        return dict.fromkeys(replicas, number / max(1, share) if number > 0 else number)
    return {name: _only(key, by_name.get(name, ())) for name in replicas}


def _only(key: str, numbers: Sequence[float]) -> float | Missing:
    if len(numbers) == 1:
        return numbers[0]
    if not numbers:
        return Missing(f"{key} gives no series of it")
    return Missing(f"{key} gives {len(numbers)} series of it: aggregate them by pod or instance")


def _reading(trigger: Trigger, signal: Signal, number: float | Missing, at: float) -> Reading:
    if isinstance(number, Missing):
        return number
    if signal in LATENCIES and (math.isnan(number) or 0 <= number < math.inf):
        return Quantiles(((trigger.latency_quantile, number),), at)
    highest = 1.0 if signal in RATIOS else LARGEST_COUNT
    if signal in LATENCIES or not 0 <= number <= highest + _ROUNDING:
        return Missing(f"{KEYS[signal]} gives {number:g}; accepted: {_ACCEPTED[signal]}")
    return Value(min(number, highest), at)


_ROUNDING = 1e-9
"""What a division may add to a ratio."""

_ACCEPTED = {
    Signal.QUEUE_DEPTH: "requests, from 0",
    Signal.CONCURRENCY: "requests, from 0",
    Signal.GPU_MEMORY_PRESSURE: "a ratio from 0 to 1",
    Signal.LATENCY: "seconds, from 0",
}
