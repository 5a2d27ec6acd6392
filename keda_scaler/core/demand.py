"""Demand: what one metric reports, given what its replicas say and what they do not.

The HPA computes `ceil(value / target)` for AverageValue, so the value is a sum over replicas; for
Value it scales its replicas by `value / target`, so the value is a mean. Terminating replicas are
left out: the HPA does not count them either, and new replicas do not get their requests.
"""

import math
from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from keda_scaler.core.memory import Memory
from keda_scaler.core.readings import Missing
from keda_scaler.core.signals import LATENCIES, Signal
from keda_scaler.core.snapshot import ReplicaReadings
from keda_scaler.core.trigger import Metric
from keda_scaler.core.view import View
from keda_scaler.core.waking import ceiling, given_away
from keda_scaler.core.windows import Quantile, growth, merged, quantile, slowest

MAX_VALUE = 1e12
"""The HPA computes with thousandths in 64 bits and wraps above about 9e15."""

MIN_OBSERVATIONS = 10
"""Fewer requests (or tokens) than this in a window have no opinion: the 0.95 quantile of nine is
just the slowest of them."""

MAX_LATENCY_RATIO = 2.0
"""A latency asks for at most this many times the ready replicas at once: twice the replicas seldom
means half the latency, and the next window shows what they did."""

CAPPED = "capped"
"""What the text begins with of a metric that reports less than it would, because replicas load."""

_REQUESTS = frozenset({Signal.QUEUE_DEPTH, Signal.CONCURRENCY})
"""Signals that what a gateway holds adds to."""


_PRECISION = 1e-6
"""What rounding may add to a whole number of replicas."""


class Report(Struct, frozen=True, gc=False):
    """What a metric reports."""

    number: float
    """Finite, from 0 to just below `MAX_VALUE`."""

    text: str = ""
    """What is noteworthy about it, for people; empty: nothing."""

    is_repeated: bool = False
    """Whether it is what it was before, because something is missing."""


class Unmoved(Struct, frozen=True, gc=False):
    """What is known asks for no change, so that there is no value."""

    reason: str


def report(metric: Metric, view: View, memory: Memory) -> Report | Missing | Unmoved:
    """Compute what a metric reports.

    A list of replicas that is empty is zero. While replicas are woken it is what waits, at least
    one replica's worth. Where something is missing, see `_in_spite_of`. Replicas whose engine lacks
    the signal have no say in it.
    """
    wakes = not view.answering and memory.leases(view.now)
    concerned = [each for each in view.counted if metric.signal not in each.lacking]
    reported: Report | Missing | Unmoved
    if wakes:
        reported = _while_waking(metric, view, memory, concerned)
    elif view.counted and not concerned:
        reported = Report(0.0, view.counted[0].lacking[metric.signal].reason)
    elif not concerned:
        reported = Report(0.0)
    elif metric.signal in LATENCIES:
        reported = _latency(metric, view, memory, concerned)
    else:
        reported = _in_spite_of(metric, view, memory, _sum(metric, view, memory, concerned))
    return _bounded(metric, view, memory, reported) if isinstance(reported, Report) else reported


def _bounded(metric: Metric, view: View, memory: Memory, total: Report) -> Report:
    """Give a sum as the HPA wants it, and no more than may be asked for while replicas load."""
    most = ceiling(view, memory) * metric.target
    number, text = total.number, total.text
    if number > most:
        text = f"{CAPPED}: would be {number:.3g}, but replicas that were asked for still load"
        number = most
    if view.trigger.metric_type == "Value":
        if view.mean_of:
            number /= view.mean_of
        elif view.counted and number:
            number = metric.target  # it is multiplied with no replica: the only way to keep those
    return Report(min(number, MAX_VALUE * 0.999), text, total.is_repeated)


def total_of(view: View, number: float) -> float:
    """Give the sum over replicas that a metric's number stands for."""
    return number if view.trigger.metric_type == "AverageValue" else number * max(1, view.mean_of)


def replicas_for(metric: Metric, view: View, number: float) -> float:
    """Say how many replicas a metric asks for, as the HPA computes it; not rounded yet."""
    return total_of(view, number) / metric.target


def whole(replicas: float) -> int:
    """Round up to whole replicas, as the HPA does, but for what rounding added to a whole number.

    Worked example: 15 requests for a target of 5 ask for 3 (tests/core/test_demand.py,
    test_replicas_are_whole).
    """
    return math.ceil(replicas - _PRECISION)


class _Sum(Struct, frozen=True, gc=False):
    """What replicas say of a metric, and what they do not."""

    low: float
    """Of those that are known."""

    high: float
    """With each of those that are missing at its target, or at what it last said if that is more;
    infinite where one that is missing never said anything."""

    known: int
    told: int
    """Replicas that said something since they were listed: known ones, and missing ones."""

    awaited: int
    """Missing ones that never said anything."""

    lapsed: bool
    """Whether one of those that are missing said it too long ago to be replayed."""

    problem: str
    """Why one of them is missing; empty: none is."""

    @property
    def is_complete(self) -> bool:
        return not self.problem


def _sum(metric: Metric, view: View, memory: Memory, concerned: Sequence[ReplicaReadings]) -> _Sum:
    """Add up what the replicas say, and beside it what the gateway holds back from them."""
    signal, trigger = metric.signal, view.trigger
    low = unknown = 0.0
    known = told = awaited = 0
    lapsed, problem = False, ""
    for replica in concerned:
        value = replica.values.get(signal)
        is_known = value is not None and view.is_known(replica, signal)
        if value is not None and is_known and not view.is_stuck(replica):
            known, told = known + 1, told + 1
            low += value.number
        elif view.is_missing(replica, signal):
            problem = problem or _problem(view, replica, signal)
            if value is None:
                awaited += 1
            else:
                told += 1
                unknown += max(metric.target, value.number)
                lapsed |= not view.is_fresh(value.at) or view.is_stuck(replica)
        elif is_known:  # stuck, and idle by choice
            known, told = known + 1, told + 1
    if signal in _REQUESTS and trigger.wake_from is not None:
        silent = _is_silent(view) and memory.held > 0
        low += 0.0 if silent else _held_back(view, concerned)
        given, _ = given_away(memory, view)
        if given or silent:
            unknown += math.inf if silent else given
            problem = problem or f"{trigger.wake_from}: who has what it held is not read yet"
            lapsed |= view.demand is None
    high = math.inf if awaited else low + unknown
    return _Sum(low, high, known, told, awaited, lapsed, problem)


def _problem(view: View, replica: ReplicaReadings, signal: Signal) -> str:
    if view.is_stuck(replica):
        return f"{replica.replica.name}: its requests stand still"
    return replica.problem(signal)


def _held_back(view: View, replicas: Sequence[ReplicaReadings]) -> float:
    """Say how many requests the gateway holds, but for those that replicas got since it told."""
    demand, before = view.demand, view.snapshot.beside
    if demand is None or not demand.held:
        return 0.0
    if before is None:
        return demand.held
    values = ((each, view.value(each, Signal.CONCURRENCY)) for each in replicas)
    got = sum(
        max(0.0, value.number - before.get(each.replica.name, 0.0))
        for each, value in values
        if value is not None
    )
    return max(0.0, demand.held - got)


def _is_silent(view: View) -> bool:
    """Whether a wake source that told something before tells nothing now, for `holdSeconds`."""
    demand, trigger = view.snapshot.demand, view.trigger
    if demand is None or view.now >= demand.at + trigger.stale_after + trigger.hold_seconds:
        return False
    return view.demand is None or view.snapshot.demand_problem is not None


def _in_spite_of(
    metric: Metric, view: View, memory: Memory, found: _Sum
) -> Report | Missing | Unmoved:
    """Report a sum; what is missing moves nothing, in either direction.

    When the known ones alone ask for more than the replicas that count, and for no fewer than
    before, that is reported. When the sum asks for fewer of both even with every missing one at its
    target, or at what it last said, that is. In between it is what it was before, until a reading
    is stale; then it has no value, and KEDA and the HPA change nothing. Replicas that count have
    answered since they were listed, or are ready.

    Worked examples, two replicas of which one is missing, target 5, 10 before: a known sum of 12
    stays 12 (asks for 3), 7 gives no value, 0 becomes 5 (asks for 1); see
    tests/core/test_demand.py, test_what_is_missing_moves_nothing.
    """
    if found.is_complete and found.known:
        return Report(found.low)
    reported_at = memory.reported_at.get(metric.signal, view.now)
    is_replayed = not found.lapsed and not found.awaited and view.is_fresh(reported_at)
    if not found.known and not (found.told and is_replayed):
        return Missing(found.problem or _first_problem(metric, view))
    before = memory.totals.get(metric.signal)
    asked = 0 if before is None else whole(before / metric.target)
    at_least = whole(found.low / metric.target)
    if at_least > found.told + found.awaited and at_least >= asked:
        return Report(found.low)
    if before is not None and is_replayed:
        return Report(max(before, found.low), is_repeated=found.low < before)
    at_most = math.inf if math.isinf(found.high) else whole(found.high / metric.target)
    if before is not None and at_most < found.told and at_most <= max(1, asked):
        return Report(found.high)
    return Unmoved(found.problem)


def _first_problem(metric: Metric, view: View) -> str:
    return next(
        each.problem(metric.signal) for each in view.counted if metric.signal not in each.lacking
    )


def _while_waking(
    metric: Metric, view: View, memory: Memory, concerned: Sequence[ReplicaReadings]
) -> Report | Unmoved:
    """Report what waits for the replicas that load, at least one replica's worth.

    How many of them are listed says nothing. Where it is not known what waits, what was asked for
    stays asked for.
    """
    low, high = _waiting(view, metric.signal) if metric.signal in _REQUESTS else (0.0, 0.0)
    total, before = max(metric.target, low), memory.totals.get(metric.signal)
    is_more = whole(total / metric.target) > len(concerned)
    if before is not None and total >= before and (low == high or is_more):
        return Report(total, _WAKING)
    if low < high:
        return Unmoved("whether what is in flight waits is not known")
    missing = [each for each in concerned if view.is_missing(each, metric.signal)]
    if missing:
        return Unmoved(missing[0].problem(metric.signal))
    if not view.trigger.by_reports and (view.counted or before is not None):
        if view.demand is None or view.snapshot.demand_problem is not None:
            return Unmoved("what waits for the replicas that load is not known")
        if before is None and not high:
            return Unmoved("what the replicas that load were asked for is not known")
    return Report(total, _WAKING)


_WAKING = "while no replica answers"


def _waiting(view: View, signal: Signal) -> tuple[float, float]:
    """Add up the requests that wait although no replica answers: at least, and at most.

    Those in flight may be with a replica that cannot be read: one that answered before, that is
    ready, that is not listed yet, or of which Prometheus does not know whether it is ready. What
    one last said before its page failed may be what another, or the gateway, has now.
    """
    snapshot = view.snapshot
    known = [each for each in snapshot.replicas if view.is_known(each, signal)]
    engines = sum(each.values[signal].number for each in known)
    if view.demand is None:
        return engines, engines
    at_most = max(engines, view.demand.in_flight)
    is_listed = snapshot.listed_at is not None and view.is_fresh(snapshot.listed_at)
    may_work = snapshot.problem is not None or any(
        each.has_answered or each.replica.ready or view.trigger.by_prometheus
        for each in view.counted
    )
    return max(engines, view.demand.held) if may_work or not is_listed else at_most, at_most


def _latency(
    metric: Metric, view: View, memory: Memory, replicas: Sequence[ReplicaReadings]
) -> Report | Missing | Unmoved:
    """Report a quantile over all replicas' requests of the window.

    It is multiplied by the ready replicas, so that the HPA shows the quantile. With no request
    anywhere it is 0, whatever the window has: a latency never keeps idle replicas.
    """
    trigger, signal = view.trigger, metric.signal
    found = _observed(signal, view, replicas)
    if isinstance(found, Missing):
        return found
    if not _may_work(view, replicas):
        return Report(0.0, "no request waits or runs")
    if found is None:
        if signal in trigger.queries:
            return Unmoved("latencyQuery gives NaN: nothing observed")
        seconds = trigger.latency_window_seconds
        return Unmoved(f"fewer than {MIN_OBSERVATIONS} observed in {seconds:g} s")
    ready = max(1, sum(each.replica.ready and each.has_answered for each in replicas))
    total = min(found.seconds, MAX_LATENCY_RATIO * metric.target) * ready
    text = f"{'at least ' if found.is_bound else ''}{found.seconds:.3g} s"
    missing = [each for each in replicas if view.is_missing(each, signal)]
    told = [each for each in replicas if each.measured_at(signal) is not None]
    awaited = sum(each.measured_at(signal) is None for each in missing)
    problem = missing[0].problem(signal) if missing else ""
    lapsed = any(not view.is_fresh(each.measured_at(signal) or 0.0) for each in missing)
    of_all = _Sum(total, math.inf, 1, len(told), awaited, lapsed, problem)
    reported = _in_spite_of(metric, view, memory, of_all)
    return replace(reported, text=text) if isinstance(reported, Report) else reported


def _observed(
    signal: Signal, view: View, replicas: Sequence[ReplicaReadings]
) -> Quantile | Missing | None:
    """Find the quantile of what all replicas observed; None: that is too little."""
    share = view.trigger.latency_quantile
    windows = [view.window(replica, signal) for replica in replicas]
    known = [window for window in windows if window is not None]
    if known:
        buckets = merged(growth(window) for window in known)
        enough = bool(buckets) and buckets[-1][1] >= MIN_OBSERVATIONS
        return quantile(share, buckets) if enough else None
    summaries = [replica.quantiles.get(signal) for replica in replicas]
    fresh = [each for each in summaries if each is not None and view.is_fresh(each.at)]
    return slowest(share, fresh) if fresh else Missing(replicas[0].problem(signal))


def _may_work(view: View, replicas: Sequence[ReplicaReadings]) -> bool:
    """Whether requests wait or run, or did since the poll before, or that is not known."""
    return any(
        not view.is_known(each, Signal.CONCURRENCY)
        or each.has_served
        or each.values[Signal.CONCURRENCY].number > 0
        for each in replicas
        if each.has_answered
    )
