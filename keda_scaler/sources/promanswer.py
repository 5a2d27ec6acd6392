"""Answers of Prometheus' API: bytes to series.

Whatever holds the interpreter's lock holds up every call of KEDA. So an answer is decoded in pieces
of a millisecond or less, into types that are known beforehand, and the labels of a series, which
are the same from poll to poll, are not decoded at all until somebody looks at them.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from keda_scaler.errors import SourceError, TooMuchError

MAX_SERIES = 50_000
"""Series in one answer. 5,000 replicas of vLLM have 25,000 of three families."""

_PIECE = 1000
"""Series that are decoded at a time: half a millisecond."""

_BROKEN = "the answer is not one of Prometheus' API"


class Point(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True, gc=False):
    """One sample of a series."""

    unix: float
    """When it was taken: seconds since 1970 by the clock of what took it. Of an instant vector,
    when the query was evaluated."""

    number: str
    """As Prometheus writes it: may be `NaN` or `+Inf`."""


class Series(msgspec.Struct, frozen=True, gc=False):
    """One series of an answer."""

    metric: msgspec.Raw
    """Its labels, as they came."""

    value: Point | None = None
    """Of an instant vector; None: there is none."""

    values: list[Point] = []
    """Of a range."""

    @property
    def labels(self) -> dict[str, str]:
        """With `__name__` where the series has one.

        Raises:
            SourceError: when they are not labels.

        """
        return labels_of(self.metric)

    @property
    def newest(self) -> Point:
        """Its newest sample.

        Raises:
            SourceError: when it has none that is a number, such as a native histogram.

        """
        point = self.values[-1] if self.values else self.value
        if point is None:
            raise SourceError(_BROKEN)
        return point

    @property
    def number(self) -> float:
        """Of its newest sample; may be NaN or infinite.

        Raises:
            SourceError: when there is none.

        """
        try:
            return float(self.newest.number)
        except ValueError as error:
            raise SourceError(_BROKEN) from error


class _Data(msgspec.Struct):
    result: msgspec.Raw


class _Answer(msgspec.Struct, rename="camel"):
    data: _Data
    warnings: list[Any] | None = None
    is_partial: bool | None = None


_ANSWER = msgspec.json.Decoder(_Answer)
_PIECES = msgspec.json.Decoder(list[msgspec.Raw])
_SERIES = msgspec.json.Decoder(Series)
_SCALAR = msgspec.json.Decoder(Point)
_LABELS = msgspec.json.Decoder(dict[str, str])

_WRONG = (msgspec.MsgspecError, ValueError, RecursionError)


def decode(body: bytes, pause: Callable[[float], None] = time.sleep) -> list[Series]:
    """Decode an answer in a worker thread, which lets others have their turn meanwhile.

    Raises:
        SourceError: when it is none, or not all of one.

    """
    try:
        answer = _ANSWER.decode(body)
        if answer.warnings or answer.is_partial:
            # Marks of Prometheus and Thanos, and of VictoriaMetrics.
            raise SourceError("Prometheus gave only part of the data, and says so in a warning")
        pieces = _PIECES.decode(answer.data.result)
        if pieces and not bytes(pieces[0]).lstrip().startswith(b"{"):  # a scalar, not a vector
            return [Series(msgspec.Raw(b"{}"), _SCALAR.decode(answer.data.result))]
        if len(pieces) > MAX_SERIES:
            raise TooMuchError(f"Prometheus answered more than {MAX_SERIES} series")
        found: list[Series] = []
        for start in range(0, len(pieces), _PIECE):
            found += map(_SERIES.decode, pieces[start : start + _PIECE])
            pause(0)
    except _WRONG as error:
        raise SourceError(_BROKEN) from error
    return found


def labels_of(metric: msgspec.Raw | bytes) -> dict[str, str]:
    """Give labels as they came.

    Raises:
        SourceError: when they are none.

    """
    try:
        return _LABELS.decode(metric)
    except _WRONG as error:
        raise SourceError(_BROKEN) from error


class LabelSets:
    """The label sets of the series of the latest polls, each decoded once.

    Series repeat themselves from poll to poll. What was not in the latest two is forgotten.
    """

    def __init__(self) -> None:
        self._now: dict[bytes, tuple[str, Mapping[str, str]]] = {}
        self._before: dict[bytes, tuple[str, Mapping[str, str]]] = {}

    def find(self, metric: msgspec.Raw) -> tuple[str, Mapping[str, str]]:
        """Give the name and the other labels of a series.

        Raises:
            SourceError: when they are none.

        """
        key = bytes(metric)
        known = self._now.get(key)
        if known is None:
            known = self._before.get(key)
            if known is None:
                labels = labels_of(metric)
                known = labels.pop("__name__", ""), labels
            self._now[key] = known
        return known

    def turn(self) -> None:
        """End a poll."""
        self._before, self._now = self._now, {}
