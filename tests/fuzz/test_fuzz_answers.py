"""Whatever pages, gateways and Prometheus servers answer is read or refused, and nothing else.

`make fuzz` runs these for longer.
"""

import json
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from engine_pages import CAPTURES
from keda_scaler import engines
from keda_scaler.core.readings import Distribution, Value
from keda_scaler.core.trigger import Accepts, parse_trigger
from keda_scaler.engines.devices import device_readings
from keda_scaler.engines.exposition import MAX_SAMPLES, parse_page
from keda_scaler.engines.spaces import Space, sort
from keda_scaler.errors import SourceError
from keda_scaler.gateways import GATEWAYS
from keda_scaler.gateways.gateway import Scope
from keda_scaler.sources.promanswer import LabelSets, decode
from keda_scaler.sources.promapi import Pin, sample_of

TEXT, OPEN_METRICS = "text/plain; version=0.0.4", "application/openmetrics-text"
PIN = Pin(unix=1e9, at=5.0, newest=1e9, skew=0.0, before=None)

TRIGGERS = [
    parse_trigger({"prometheus": "main", **keys}, Accepts(prometheus=frozenset({"main"})))
    for keys in (
        {},
        {"targetTtftSeconds": "1", "targetGpuUtilization": "50%", "model": "llama"},
        *({"engine": each} for each in ("vllm", "sglang", "triton", "llama.cpp", "dynamo")),
    )
]
NAMES = sorted(
    frozenset().union(*(engines.names(each.engine, latencies=True, gpus=True) for each in TRIGGERS))
)
PAGES = [path.read_bytes() for path in sorted(CAPTURES.glob("*.prom"))]

numbers = st.sampled_from(
    ["0", "1", "-1", "NaN", "+Inf", "-Inf", "1e309", "1e-400", "9" * 400, "0x1", "1_0", "", "é"]
) | st.floats().map(repr)
texts = st.text(max_size=12) | st.sampled_from(["llama", "0", '"', "\\", "}", "\n", "le", "+Inf"])
labels = st.sampled_from(["model_name", "engine", "le", "namespace", "pod", "__name__", "gpu"])


@st.composite
def lines(draw: st.DrawFn, names: list[str]) -> str:
    """Write a line that is nearly one of a page."""
    name = draw(st.sampled_from(names) | texts)
    pairs = draw(st.lists(st.tuples(labels | texts, texts), max_size=4))
    joined = ",".join(f"{label}={json.dumps(value)}" for label, value in pairs)
    space, stamp = (
        draw(st.sampled_from([" ", "\t", "", "  "])),
        draw(st.sampled_from(["", " 1", " x"])),
    )
    return f"{name}{{{joined}}}{space}{draw(numbers)}{stamp}\n"


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Damage a recorded page: some bytes of it are others, and it ends somewhere."""
    page = bytearray(draw(st.sampled_from(PAGES)))
    for place in draw(st.lists(st.integers(0, len(page) - 1), max_size=20)):
        page[place] = draw(st.integers(0, 255))
    return bytes(page[: draw(st.integers(0, len(page)))]) if draw(st.booleans()) else bytes(page)


def pages(names: list[str]) -> st.SearchStrategy[bytes]:
    composed = st.lists(lines(names), max_size=8).map(lambda found: "".join(found).encode())
    return composed | damaged() | st.binary(max_size=200)


def check(readings: Any) -> None:
    """Look at what was read: numbers are numbers of something."""
    for reading in readings.values():
        if isinstance(reading, Value):
            assert math.isfinite(reading.number)
            assert reading.number >= 0
        elif isinstance(reading, Distribution):
            assert all(count >= 0 and math.isfinite(count) for _, count in reading.buckets)


@given(pages(NAMES), st.sampled_from([TEXT, OPEN_METRICS, "", "text/html"]))
def test_fuzz_a_page_of_an_engine(body: bytes, content_type: str) -> None:
    """Readings that are finite, or reasons; for every kind of trigger."""
    for trigger in TRIGGERS:
        names = engines.names(trigger.engine, latencies=True, gpus=True)
        try:
            samples = parse_page(body, content_type, names, 5.0)
        except SourceError as error:
            assert len(str(error)) < 500  # noqa: PT017  # either outcome is right
            continue
        assert len(samples) <= MAX_SAMPLES
        assert {each.name for each in samples} <= names
        try:
            found, _ = engines.read(samples, trigger, device_readings(samples))
        except SourceError:
            continue
        check(found)


@given(pages(sorted(frozenset().union(*(each.names for each in GATEWAYS.values())))))
def test_fuzz_a_page_of_a_gateway(body: bytes) -> None:
    """What waits there is a number of requests, or unknown; by whatever gateway it is read."""
    for name, gateway in GATEWAYS.items():
        trigger = parse_trigger(
            {"prometheus": "main", "wakeFrom": name, "wakeSelector": 'pod="x"'},
            Accepts(prometheus=frozenset({"main"})),
        )
        try:
            page = gateway.page(body, TEXT, 5.0)
            seen = gateway.seen(page, Scope.of("models", "llama", trigger, trusted=True))
        except SourceError as error:
            assert len(str(error)) < 500  # noqa: PT017  # either outcome is right
            continue
        for number in (getattr(seen, "held", 0.0), getattr(seen, "in_flight", 0.0)):
            assert 0 <= number < math.inf


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
points = st.tuples(st.floats() | st.integers(), numbers).map(list) | values
metrics = st.dictionaries(labels | texts, texts, max_size=4) | values
series = st.fixed_dictionaries(
    {"metric": metrics}, optional={"value": points, "values": st.lists(points, max_size=3)}
)
answers = st.fixed_dictionaries(
    {"status": st.just("success")},
    optional={
        "data": st.fixed_dictionaries({"result": st.lists(series | values, max_size=4) | points}),
        "warnings": st.lists(values, max_size=2),
        "isPartial": values,
        "x": values,
    },
)


@given(
    answers.map(json.dumps).map(str.encode)
    | values.map(json.dumps).map(str.encode)
    | st.binary(max_size=200)
    | st.integers(1, 5000).map(lambda depth: b'{"data":{"result":' + b"[" * depth)
)
def test_fuzz_an_answer_of_prometheus(body: bytes) -> None:
    """Series with labels and a number, each in the namespace that it names; or an error."""
    spaces = {name: Space(name, ["auto"]) for name in ("models", "x")}
    known = LabelSets()
    try:
        for each in decode(body, lambda _: None):
            known.find(each.metric)
            sort([sample_of(each, PIN)], spaces)
    except SourceError as error:
        assert len(str(error)) < 500  # noqa: PT017  # either outcome is right
    for name, space in spaces.items():
        for part in space.parts.values():
            assert {each.labels["namespace"] for each in part} <= {name}
