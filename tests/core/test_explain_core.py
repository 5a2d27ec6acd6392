"""Explain: what a target says of itself is what its decision was made of; nothing is made up."""

import math
from collections.abc import Mapping, Sequence

import msgspec
import pytest

from keda_scaler.core import told
from keda_scaler.core.addresses import AddressRules
from keda_scaler.core.decision import ask
from keda_scaler.core.explain import MAX_REPLICAS, Binding, Known, effective, explain, summarise
from keda_scaler.core.history import History
from keda_scaler.core.memory import Memory
from keda_scaler.core.readings import (
    Demand,
    Distribution,
    Engine,
    Lacking,
    Missing,
    Quantiles,
    Reading,
    Value,
)
from keda_scaler.core.signals import Signal
from keda_scaler.core.snapshot import ReplicaReadings, Snapshot, Spans, absorb
from keda_scaler.core.trigger import Accepts, Trigger, parse_trigger
from keda_scaler.core.view import View
from readings_for_tests import asked, decision_of, remembered, replica, snapshot, trigger

UNIX = 1_700_000_000.0
WAKE = {"wakeFrom": "epp", "wakeService": "epp"}
SIGNALS = (Signal.QUEUE_DEPTH, Signal.CONCURRENCY, Signal.GPU_MEMORY_PRESSURE)


def known(
    *events: tuple[float, Snapshot], now: float | None = None, asks: Trigger | None = None
) -> Known:
    """Replay changes as the store does, and once more at `now`."""
    asks = asks or trigger()
    memory, history = Memory(), History()
    end = events[-1][0] if now is None else now
    last = events[0][1]
    for at, snap in [*events, (end, None)]:
        if snap is not None:
            last = snap
            memory = remembered(memory, asks, last, at)
        view = View(asks, last, at)
        decision = decision_of(asks, last, memory, at)
        memory = ask(memory, view, decision)
        history.record(view, decision)
    return Known("models", "llama", view, memory, decision, history, asked_at=events[-1][0])


def explained(
    *events: tuple[float, Snapshot], now: float, asks: Trigger | None = None
) -> told.Explanation:
    return explain(known(*events, now=now, asks=asks), UNIX)


def bounds(target: told.Explanation) -> list[tuple[str, float | None]]:
    return [(bound.what, bound.seconds_left) for bound in target.bound_by]


def with_readings(readings: Mapping[Signal, Reading], name: str = "a") -> ReplicaReadings:
    return absorb(replica(name, 1), readings, Engine("vllm", reserves_memory=True), Spans(120.0))


def test_a_busy_target_says_what_each_signal_asks_for() -> None:
    """The one that asks for the most decides; values are per replica and as reported."""
    known_at = snapshot(replica("a", 20, kv=0.85), replica("b", 4, kv=0.17))
    target = explained((0.0, known_at), now=2.0)

    queue, memory = target.signals
    assert (queue.per_replica, queue.reported, queue.asks_for_replicas) == (12.0, 24.0, 4.8)
    assert (memory.per_replica, memory.reported, memory.asks_for_replicas) == (0.51, 1.02, 1.2)
    assert (queue.decides, memory.decides) == (True, False)
    assert (queue.unit, memory.unit) == ("requests", "ratio")
    assert [bound.text for bound in target.bound_by] == [
        "queue-depth asks for the most, 4.8 replicas"
    ]
    assert (target.replicas_listed, target.replicas_answering, target.replicas_wanted) == (2, 2, 5)
    assert (target.since_seconds, target.list_age_seconds) == (2.0, 2.0)
    assert target.asked_age_seconds == 2.0
    assert (target.seconds_to_zero, target.seconds_to_zero_missing) == (None, "there is work")
    assert target.demand is None


def test_readings_have_ages_and_say_what_is_missing() -> None:
    """A replica that does not answer stands first, with the reason."""
    silent = replica("b", None)
    target = explained((0.0, snapshot(replica("a", 3), silent, replica("c", 1))), now=4.0)

    assert [each.name for each in target.replicas] == ["b", "a", "c"]
    first, second, _ = target.replicas
    assert {(r.value, r.age_seconds, r.missing) for r in first.readings} == {
        (None, None, "no answer within 5 s")
    }
    assert [(r.signal, r.value, r.age_seconds, r.missing) for r in second.readings] == [
        ("queue-depth", 3.0, 4.0, None),
        ("concurrency", 3.0, 4.0, None),
        ("gpu-memory-pressure", 0.0, 4.0, None),
    ]
    assert (Binding.MISSING_REPLICAS, None) in bounds(target)


def test_what_is_too_old_or_was_not_read_last_time_says_so() -> None:
    """Its last value stands beside the reason."""
    old = absorb(replica("a", 3), dict.fromkeys(SIGNALS, Missing("no answer")), None, Spans(120.0))
    fresh = absorb(
        replica("b", 3), {Signal.QUEUE_DEPTH: Missing("no family x")}, None, Spans(120.0)
    )

    target = explained((0.0, snapshot(old)), now=20.0)
    assert {(r.age_seconds, r.missing) for r in target.replicas[0].readings} == {
        (20.0, "no answer")
    }
    silent = explained((0.0, snapshot(replica("a", 3))), now=20.0)
    assert {r.missing for r in silent.replicas[0].readings} == {"no news"}
    target = explained((0.0, snapshot(fresh)), now=2.0)
    assert [(r.value, r.missing) for r in target.replicas[0].readings][:2] == [
        (3.0, "no family x"),
        (3.0, None),
    ]


def test_what_an_engine_lacks_is_no_zero() -> None:
    """It abstains, and says why."""
    lacking = with_readings({Signal.GPU_MEMORY_PRESSURE: Lacking("tgi does not say")})
    target = explained((0.0, snapshot(lacking)), now=0.0)

    reading = target.replicas[0].readings[-1]
    assert (reading.value, reading.age_seconds, reading.missing) == (None, None, "tgi does not say")
    assert target.replicas[0].engine == "vllm"
    assert target.signals[1].note == "tgi does not say"


def test_the_idle_countdown() -> None:
    """Seconds until the scaler says idle, if nothing comes."""
    quiet = snapshot(replica("a"))
    target = explained((0.0, quiet), now=12.0)

    assert bounds(target) == [(Binding.IDLE_COUNTDOWN, 18.0), (Binding.ONE_REPLICA, None)]
    assert (target.seconds_to_zero, target.seconds_to_zero_missing) == (18.0, None)


def test_an_idle_target() -> None:
    """Nothing binds it, and nothing is to be done."""
    target = explained((0.0, snapshot(replica("a"))), now=0.0, asks=trigger(idleSeconds="0"))

    assert (target.state, target.seconds_to_zero, target.bound_by) == ("idle", 0.0, ())
    assert target.to_do.startswith("Nothing.")


def test_the_lease_has_seconds_left() -> None:
    """Of coldStartSeconds, from the last request."""
    woken = snapshot(listed_at=0.0, demand=asked(3))
    target = explained((0.0, woken), now=10.0, asks=trigger(**WAKE, coldStartSeconds="60"))

    assert target.reason == "waking"
    assert bounds(target)[0] == (Binding.LEASE, 50.0)
    assert target.seconds_to_zero_missing == "it is being woken"
    assert target.signals[0].note == "while no replica answers"
    assert target.demand == told.Demand(
        source="epp", requests=3.0, held_requests=3.0, age_seconds=10.0, missing=None
    )


def test_the_limit_while_replicas_load() -> None:
    """maxPendingFactor times those that answer."""
    loading = replica("b", None, ready=False)
    target = explained((0.0, snapshot(replica("a", 50), loading)), now=1.0)

    assert (Binding.PENDING_LIMIT, None) in bounds(target)
    (text,) = (b.text for b in target.bound_by if b.what is Binding.PENDING_LIMIT)
    assert text == "queue-depth asks for at most 2 replicas until those that were asked for answer"


def test_a_hold_has_seconds_left() -> None:
    """Of holdSeconds, from when activity was no longer known."""
    target = explained((0.0, snapshot(replica("a", 3))), now=100.0)

    assert target.reason == "hold"
    assert bounds(target) == [(Binding.HOLD, 815.0)]  # 15 s until stale, 900 s of hold
    assert {(s.held, s.per_replica, s.asks_for_replicas) for s in target.signals} == {
        (True, None, None)
    }
    assert target.seconds_to_zero_missing == "activity is unknown"
    assert target.replicas_listed_missing == "the list is not confirmed"


def test_one_metric_alone_may_be_held_or_be_an_error() -> None:
    """Held while it was known lately; an error, and something to do, if it never was."""
    asks = trigger(targetQueueDepth="5", targetGpuMemoryPressure="0.8")
    absent = {Signal.GPU_MEMORY_PRESSURE: Missing("no family kv")}
    before = snapshot(absorb(replica("a", 3, kv=0.5), absent, None, Spans(120.0)))
    values = {signal: Value(3.0, 20.0) for signal in SIGNALS[:2]}
    later = absorb(before.replicas[0], {**values, **absent}, None, Spans(120.0))
    after = snapshot(later, listed_at=20.0)

    held = explained((0.0, before), (20.0, after), now=20.0, asks=asks)
    assert (Binding.HOLD, 895.0) in bounds(held)  # 0 + 15 + 900 - 20
    assert held.to_do.startswith("Nothing.")

    never = ReplicaReadings(replica("a").replica, values, absent)
    error = explained((20.0, snapshot(never, listed_at=20.0)), now=20.0, asks=asks)
    assert (Binding.ERROR, None) in bounds(error)
    assert error.to_do.startswith("KEDA gets an error for gpu-memory-pressure")
    assert error.signals[1].missing == "gpu-memory-pressure was never known: a: no family kv"


def test_unknown_is_an_error() -> None:
    """KEDA gets nothing, and no number is told."""
    failed = Snapshot(problem="slices: forbidden")
    target = explained((0.0, failed), now=5.0)

    assert (target.state, target.reason) == ("unknown", "never-known")
    assert [(b.what, b.text) for b in target.bound_by] == [
        (Binding.ERROR, "activity was never known: slices: forbidden")
    ]
    assert (target.replicas_listed, target.list_age_seconds) == (None, None)
    assert target.replicas_listed_missing == "slices: forbidden"
    assert {(s.per_replica, s.reported, s.held) for s in target.signals} == {(None, None, False)}
    nothing = summarise(known((0.0, Snapshot())))
    assert nothing.replicas_listed_missing == "nothing was read yet"


def test_a_stuck_replica() -> None:
    """It is named, and what to do about it."""
    engine = Engine("vllm", reserves_memory=True, progress=7.0)
    still = replica("a", 3)
    for at in (0.0, 5.0):
        values: Mapping[Signal, Reading] = {signal: Value(3.0, at) for signal in SIGNALS}
        still = absorb(still, values, engine, Spans(120.0))
    asks = trigger(stuckSeconds="10", staleSeconds="60")
    target = explained((5.0, snapshot(still, listed_at=5.0)), now=20.0, asks=asks)

    assert bounds(target) == [(Binding.STUCK, None)]
    assert target.replicas[0].stuck
    assert "restart" in target.to_do
    assert target.seconds_to_zero_missing == "requests stand still, and onStuck is hold"
    assert "a is stuck" in target.warnings[0]


def histogram(count: float, at: float) -> Distribution:
    return Distribution(((1.0, 0.0), (8.0, count), (math.inf, count)), at, None)


@pytest.mark.parametrize(
    ("counts", "value", "missing", "bound"),
    [
        ((0, 100), 7.65, None, [Binding.SIGNAL, Binding.LATENCY_LIMIT]),
        ((0, 5), None, "fewer than 10 observed", [Binding.MISSING_REPLICAS]),
        ((0,), None, "fewer than 10 observed", [Binding.MISSING_REPLICAS]),
    ],
)
def test_a_latency_asks_for_at_most_twice_the_ready(
    counts: Sequence[int], value: float | None, missing: str | None, bound: list[Binding]
) -> None:
    """And of each replica its own quantile is told, or that too little was observed."""
    one = replica("a", 0, running=1)
    for at, count in enumerate(counts):
        readings: dict[Signal, Reading] = {Signal.CONCURRENCY: Value(1, at)}
        readings[Signal.TTFT] = histogram(count, at)
        one = absorb(one, readings, None, Spans(120.0))
    target = explained((1.0, snapshot(one)), now=1.0, asks=trigger(targetTtftSeconds="1"))

    reading = next(r for r in target.replicas[0].readings if r.signal == "ttft")
    assert (reading.value, reading.missing) == (value, missing)
    found = [b.what for b in target.bound_by if b.what is not Binding.IDLE_COUNTDOWN]
    assert found == bound


def test_a_summary_is_a_quantile_too() -> None:
    """Engines that have no histogram say it themselves."""
    readings = {Signal.LATENCY: Quantiles(((0.5, 1.0), (0.95, 2.5)), 0.0)}
    one = absorb(replica("a"), readings, None, Spans(120.0))
    target = explained((0.0, snapshot(one)), now=0.0, asks=trigger(targetLatencySeconds="4"))

    assert target.replicas[0].readings[-1].value == 2.5


@pytest.mark.parametrize(
    ("known_demand", "problem", "missing"),
    [
        (None, None, "not read yet"),
        (None, "connection refused", "connection refused"),
        (asked(2), None, "no news"),
        (asked(2), "connection refused", "connection refused"),
    ],
)
def test_a_wake_source_that_says_nothing_says_why(
    known_demand: Demand | None, problem: str | None, missing: str
) -> None:
    """What it said last stands beside it."""
    silent = Snapshot((), 0.0, None, known_demand, problem)
    target = explained((0.0, silent), now=50.0, asks=trigger(**WAKE))

    assert target.demand is not None
    assert target.demand.missing == missing
    assert (target.demand.requests is None) == (known_demand is None)


def test_changes_and_samples_have_the_time_of_the_wall_clock() -> None:
    """The newest change first, samples in the order of time."""
    target = explained((0.0, snapshot(replica("a", 3))), now=100.0)

    assert [(c.reason, c.unix_seconds, c.seconds_ago) for c in target.changes] == [
        ("hold", UNIX, 0.0),
        ("work", UNIX - 100, 100.0),
    ]
    assert [sample.unix_seconds for sample in target.samples] == [UNIX - 100, UNIX]
    assert target.samples[0].per_replica == {"queue-depth": 3.0, "gpu-memory-pressure": 0.0}
    assert target.samples[1].per_replica == {"queue-depth": None, "gpu-memory-pressure": None}


def test_only_so_many_replicas_are_told_of() -> None:
    """How many are not is told."""
    many = snapshot(*(replica(f"pod-{i}") for i in range(MAX_REPLICAS + 7)))
    target = explained((0.0, many), now=0.0)

    assert (len(target.replicas), target.replicas_left_out) == (MAX_REPLICAS, 7)


def test_the_keys_in_effect_hide_what_may_be_a_secret() -> None:
    """Queries of URLs and paths; own PromQL is shown, and so are defaults."""
    keys = {
        "endpoints": "http://10.0.0.1:8000/metrics?token=secret,http://10.0.0.2/metrics",
        "model": "<llama>",
        "wakeFrom": "query",
        "wakeQuery": 'sum(gateway_waiting{model="llama"})',
        "serverAddress": "http://prometheus:9090",
    }
    accepts = Accepts(addresses=AddressRules.parse(["10.0.0.0/8", "prometheus"]))
    shown = effective(parse_trigger(keys, accepts))

    assert shown["endpoints"] == "http://10.0.0.1:8000/metrics?...,http://10.0.0.2/metrics"
    assert shown["wakeQuery"] == keys["wakeQuery"]
    assert (shown["idleSeconds"], shown["onUnknown"]) == ("30", "hold")
    assert (shown["targetQueueDepth"], shown["targetGpuMemoryPressure"]) == ("5", "0.85")
    assert "secret" not in str(shown)
    assert "targetTtftSeconds" in effective(trigger(targetTtftSeconds="2"))
    chosen = trigger(wakeFrom="envoy", wakeService="gw", wakeSelector='a="b"', wakePath="/m?x=y")
    assert effective(chosen)["wakeSelector"] == 'a="b"'
    assert effective(chosen)["wakePath"] == "/m?..."
    assert "targetConcurrency" in effective(
        parse_trigger({"engine": "reports", "targetConcurrency": "3"}, Accepts(reports=True))
    )


def test_it_survives_json() -> None:
    """What is read is what was written, with names in camel case."""
    target = explained((0.0, snapshot(replica("a", 3), demand=asked(1))), now=1.0)
    body = msgspec.json.encode(target)

    assert msgspec.json.decode(body, type=told.Explanation) == target
    assert b'"secondsToZeroMissing":"there is work"' in body


def test_a_value_that_is_replayed_says_what_is_missing() -> None:
    """It is reported as before, and nobody wonders why it does not move."""
    refused = dict.fromkeys(SIGNALS, Missing("refused"))
    pods = snapshot(replica("a", 3), replica("b", 3))
    failed = snapshot(replica("a", 3, at=2.0), absorb(replica("b", 3), refused, None, Spans(120.0)))
    target = explained((0.0, pods), (2.0, failed), now=2.0)

    assert "queue-depth of b is missing, which moves nothing" in [b.text for b in target.bound_by]
    assert target.signals[0].reported == 6.0
