"""History: what a target was, in few bytes: its last changes, and a sample of every minute.

With two signals it takes 2 KiB at most, half of it samples; texts of changes not counted, which
targets share. A change is another state or reason: what makes a line of the log.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct

from keda_scaler.core.decision import Decision, Reason, Reported, State
from keda_scaler.core.signals import LATENCIES, Signal
from keda_scaler.core.view import View

MAX_CHANGES = 40
"""Changes of one target that are kept."""

MAX_SAMPLES = 60
"""Samples of one target that are kept: an hour."""

SAMPLE_SECONDS = 60.0
"""One sample is kept of so many seconds: of the first decision in them that is no blink."""

BLINK_SECONDS = 0.05
"""What lasts no longer is not kept: when the list of replicas changes, what it means without their
new readings is decided just before what it means with them."""

MAX_TEXT = 200
"""Characters that are kept of a change's text."""

_KINDS = tuple((state, reason) for reason in Reason for state in State)
_CODES = {kind: code for code, kind in enumerate(_KINDS, 1)}
"""A state and its reason in one byte; 0 is none."""

_CHANGE = Struct("<dBHH")
_MOST = 0xFFFF
"""Replicas that a sample can tell."""


@dataclass(frozen=True, slots=True)
class Change:
    """A state or a reason that was another before."""

    at: float
    """In monotonic seconds, as all times here."""

    state: State
    reason: Reason
    text: str
    wanted: int
    answering: int


@dataclass(frozen=True, slots=True)
class Sample:
    """What held at one instant."""

    at: float
    state: State
    reason: Reason
    wanted: int
    answering: int

    demand: float | None
    """Requests at the wake source; None: not known, or there is none."""

    values: Mapping[Signal, float | None]
    """Each metric per replica, as its target is given; None: it had no value."""


def per_replica(view: View, signal: Signal, number: float) -> float:
    """Make of what a metric reports what its target is compared with."""
    if view.trigger.metric_type == "Value" or view.trigger.by_reports:
        return number
    if signal in LATENCIES:
        return number / max(1, sum(replica.replica.ready for replica in view.counted))
    return number / max(1, len(view.counted))


class History:
    """The history of one target. Takes no memory to speak of until something is recorded."""

    __slots__ = (
        "_changes",
        "_code",
        "_due",
        "_newest",
        "_row",
        "_sampled_at",
        "_samples",
        "_signals",
        "_texts",
    )

    def __init__(self) -> None:
        self._code = 0
        self._changes = b""
        self._texts: tuple[str, ...] = ()
        self._due = -math.inf
        self._sampled_at = -math.inf
        self._newest = 0
        self._signals: tuple[Signal, ...] = ()
        self._row: Struct | None = None
        self._samples: bytearray | None = None

    def record(self, view: View, decision: Decision) -> None:
        """Take a decision in. Costs next to nothing unless it is another, or a sample is due."""
        code = _CODES[decision.state, decision.reason]
        if code != self._code:
            self._code = code
            self._change(decision, code, view.now)
        if view.now >= self._due:
            self._due = (view.now // SAMPLE_SECONDS + 1) * SAMPLE_SECONDS
            self._sampled_at = view.now
        if view.now <= self._sampled_at + BLINK_SECONDS:
            self._sample(view, decision)

    @property
    def since(self) -> float | None:
        """When the newest change was; None: there was none."""
        return _CHANGE.unpack(self._changes[-_CHANGE.size :])[0] if self._changes else None

    @property
    def changes(self) -> list[Change]:
        """The last changes, in the order of time."""
        rows = _CHANGE.iter_unpack(self._changes)
        return [
            Change(at, state, reason, text, wanted, answering)
            for (at, code, wanted, answering), text in zip(rows, self._texts, strict=True)
            for state, reason in [_KINDS[code - 1]]
        ]

    @property
    def samples(self) -> list[Sample]:
        """The samples of the last hour, in the order of time."""
        if self._samples is None or self._row is None:
            return []
        found = []
        for step in range(self._newest - MAX_SAMPLES + 1, self._newest + 1):
            at = step % MAX_SAMPLES * self._row.size
            row = self._row.unpack_from(self._samples, at)
            code, second, wanted, answering, demand, *values = row
            if code:
                state, reason = _KINDS[code - 1]
                known = [None if math.isnan(value) else value for value in (demand, *values)]
                by_signal = dict(zip(self._signals, known[1:], strict=True))
                when = step * SAMPLE_SECONDS + second
                found.append(Sample(when, state, reason, wanted, answering, known[0], by_signal))
        return found

    @property
    def size(self) -> int:
        """Bytes that it takes, but for texts: other targets and the log share those."""
        parts = (self, self._changes, self._texts, self._samples)
        return sum(sys.getsizeof(part) for part in parts if part is not None)

    def _change(self, decision: Decision, code: int, now: float) -> None:
        since = self.since
        if since is not None and now <= since + BLINK_SECONDS:
            self._changes, self._texts = self._changes[: -_CHANGE.size], self._texts[:-1]
            if self._changes and _CHANGE.unpack(self._changes[-_CHANGE.size :])[1] == code:
                return
        counts = min(decision.wanted, _MOST), min(decision.answering, _MOST)
        text = _shared(decision.text[:MAX_TEXT])
        kept = self._changes[-(MAX_CHANGES - 1) * _CHANGE.size :]
        self._changes = kept + _CHANGE.pack(now, code, *counts)
        self._texts = (*self._texts[-(MAX_CHANGES - 1) :], text)

    def _sample(self, view: View, decision: Decision) -> None:
        step = int(view.now // SAMPLE_SECONDS)
        signals = tuple(decision.answers)
        if self._samples is None or self._row is None or signals != self._signals:
            self._signals = signals
            self._row = _row(len(signals))
            self._samples = bytearray(self._row.size * MAX_SAMPLES)
            self._newest = step - 1
        row = self._row.pack(
            self._code,
            int(view.now % SAMPLE_SECONDS),
            min(decision.wanted, _MOST),
            min(decision.answering, _MOST),
            math.nan if view.demand is None else view.demand.in_flight,
            *(
                per_replica(view, signal, answer.number)
                if isinstance(answer, Reported)
                else math.nan
                for signal, answer in decision.answers.items()
            ),
        )
        nothing = bytes(len(row))
        for minute in range(max(min(self._newest + 1, step), step - MAX_SAMPLES + 1), step + 1):
            at = minute % MAX_SAMPLES * len(row)
            self._samples[at : at + len(row)] = row if minute == step else nothing
        self._newest = step


@lru_cache(maxsize=4096)
def _shared(text: str) -> str:
    """Give one object for all that say the same. What `sys.intern` takes, Python 3.12 keeps."""
    return text


_ROWS: dict[int, Struct] = {}


def _row(signals: int) -> Struct:
    """Give the form of a sample with so many signals; all targets share it."""
    return _ROWS.setdefault(signals, Struct(f"<BBHH{1 + signals}f"))
