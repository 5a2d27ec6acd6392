"""Words: numbers as people read them."""

import pytest
from msgspec.structs import replace

from keda_scaler.core import told
from keda_scaler.core.words import (
    asks,
    condition,
    duration,
    plain,
    quantity,
    reading,
    replicas_text,
    to_zero,
    unanswered,
    unit,
)

SIGNAL = told.Signal(
    signal="queue-depth",
    unit="requests",
    target=5.0,
    per_replica=10.0,
    reported=20.0,
    asks_for_replicas=4.0,
    decides=True,
    held=False,
    note="",
    missing=None,
)
SUMMARY = told.Summary(
    namespace="models",
    name="llama",
    state="active",
    reason="work",
    text="",
    since_seconds=1.0,
    seconds_to_zero=None,
    seconds_to_zero_missing="there is work",
    replicas_listed=2,
    replicas_listed_missing=None,
    replicas_answering=1,
    replicas_wanted=3,
    asked_age_seconds=4.0,
    signals=(),
)


def summary(**changed: object) -> told.Summary:
    return replace(SUMMARY, **changed)


def signal(**changed: object) -> told.Signal:
    return replace(SIGNAL, **changed)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((None, "unknown"), (0.0, "0.0 s"), (4.24, "4.2 s"), (9.96, "10 s"), (59.4, "59 s")),
        *((60, "1 min"), (185, "3 min 5 s"), (725, "12 min"), (3600, "1 h"), (7800, "2 h 10 min")),
        *((86400, "1 d"), (100_000, "1 d 3 h")),
    ],
)
def test_a_duration_has_two_units_at_most(seconds: float | None, text: str) -> None:
    """Nobody reads seconds of an hour."""
    assert duration(seconds) == text


def test_what_others_wrote_steers_no_terminal() -> None:
    """Escapes and ends of lines are shown as what they are not: a question mark."""
    assert plain("pod-é \x1b[31m\x9b\n\u202e") == "pod-é ?[31m???"


@pytest.mark.parametrize(
    ("number", "of", "text"),
    [
        *((None, "requests", "unknown"), (0, "requests", "0"), (2.5, "requests", "2.5")),
        *((123456, "requests", "123456"), (0.856, "ratio", "85.6%"), (1.234, "seconds", "1.23 s")),
    ],
)
def test_a_quantity_has_its_unit(number: float | None, of: str, text: str) -> None:
    """Requests have none."""
    assert quantity(number, of) == text


def test_units_are_those_of_the_signals() -> None:
    """Requests, ratios, and latencies in seconds."""
    found = [unit(name) for name in ("concurrency", "gpu-utilization", "itl")]
    assert found == ["requests", "ratio", "seconds"]


def test_replicas_and_the_way_to_zero() -> None:
    """Unknown is said, and never 0."""
    assert replicas_text(summary()) == "1 of 2 answer, 3 wanted"
    assert replicas_text(summary(replicas_listed=None)) == "1 of unknown answer, 3 wanted"
    assert to_zero(summary()) == "there is work"
    assert to_zero(summary(seconds_to_zero=0.0)) == "idle"
    assert to_zero(summary(seconds_to_zero=12.0)) == "12 s"


def test_what_a_signal_asks_for() -> None:
    """Or why that is not known."""
    assert asks(signal()) == "asks for 4"
    assert asks(signal(note="3.2 s")) == "asks for 4; 3.2 s"
    assert asks(signal(asks_for_replicas=None, missing="no news")) == "no news"


def test_a_metric_without_a_value_is_named() -> None:
    """Unless it is held, or all is unknown."""
    broken = signal(missing="never known")
    assert unanswered(summary(signals=(signal(), broken))) == "queue-depth"
    assert unanswered(summary(signals=(signal(), signal(missing="x", held=True)))) is None
    assert unanswered(summary(state="unknown", signals=(broken,))) is None


def test_what_a_replica_is_and_says() -> None:
    """Stuck, loading, leaving; a value with its age, and what is missing."""
    one = told.Replica(
        name="a", engine="vllm", ready=True, terminating=False, stuck=True, readings=()
    )
    assert condition(one) == "stuck, ready, vllm"
    two = told.Replica(
        name="a", engine=None, ready=False, terminating=False, stuck=False, readings=()
    )
    assert condition(two) == "loading, engine unknown"
    read = told.Reading(signal="ttft", value=1.5, age_seconds=3.0, missing=None)
    assert reading(read) == "1.5 s, 3.0 s ago"
    late = told.Reading(signal="ttft", value=1.5, age_seconds=30.0, missing="no news")
    assert reading(late) == "1.5 s, 30 s ago (no news)"
    none = told.Reading(signal="ttft", value=None, age_seconds=None, missing="not read yet")
    assert reading(none) == "not read yet"
