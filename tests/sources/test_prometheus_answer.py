"""Answers of Prometheus' API: what becomes of bytes."""

import json
import math
from typing import Any

import msgspec
import pytest

from keda_scaler.errors import SourceError, TooMuchError
from keda_scaler.sources import promanswer
from keda_scaler.sources.promanswer import LabelSets, decode


def answer(result: Any, **more: Any) -> bytes:
    return json.dumps({"status": "success", "data": {"result": result}} | more).encode()


def test_vectors_ranges_and_scalars() -> None:
    """The newest sample counts, with its own time; numbers may be none."""
    found = decode(
        answer(
            [
                {"metric": {"a": "\u00e4\n"}, "value": [1.5, "NaN"]},
                {"metric": {}, "values": [[1, "7"], [2, "+Inf"]]},
            ]
        )
    )
    (scalar,) = decode(answer([3, "1e3"]))

    assert [series.labels for series in found] == [{"a": "\u00e4\n"}, {}]
    assert [series.newest.unix for series in found] == [1.5, 2]
    assert math.isnan(found[0].number)
    assert found[1].number == math.inf
    assert (scalar.labels, scalar.newest.unix, scalar.number) == ({}, 3, 1000)
    assert decode(answer([])) == []


@pytest.mark.parametrize("mark", [{"warnings": ["x"]}, {"isPartial": True}])
def test_part_of_an_answer_is_none(mark: dict[str, Any]) -> None:
    """Marks of Prometheus, Thanos and VictoriaMetrics; a label cannot imitate them."""
    with pytest.raises(SourceError, match="only part of the data"):
        decode(answer([], **mark))
    imitation = {"warnings": '"warnings":["x"]', "isPartial": '"isPartial":true'}
    assert decode(answer([{"metric": imitation, "value": [1, "1"]}], warnings=[], isPartial=False))


def test_a_long_answer_is_decoded_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others have their turn in between; one that is too long is not decoded."""
    monkeypatch.setattr(promanswer, "_PIECE", 10)
    body = answer([{"metric": {"n": f"{n}"}, "value": [1, f"{n}"]} for n in range(95)])
    pauses: list[float] = []

    found = decode(body, pauses.append)

    assert [series.number for series in found] == list(range(95))
    assert pauses == [0] * 10
    monkeypatch.setattr(promanswer, "MAX_SERIES", 94)
    with pytest.raises(TooMuchError):
        decode(body)


def test_labels_are_decoded_once_and_forgotten() -> None:
    """What was not seen for two polls takes no room."""
    sets = LabelSets()
    raw = msgspec.Raw(b'{"__name__":"up","job":"x"}')

    name, labels = sets.find(raw)
    assert (name, labels) == ("up", {"job": "x"})
    sets.turn()
    assert sets.find(msgspec.Raw(bytes(raw)))[1] is labels
    sets.turn()
    sets.turn()
    assert not sets._before
    assert sets.find(raw)[1] is not labels
    with pytest.raises(SourceError):
        sets.find(msgspec.Raw(b"[]"))
