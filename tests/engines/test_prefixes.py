"""Names behind a prefix: they are not read, and said."""

import time

import pytest

from engine_pages import capture
from keda_scaler import engines
from keda_scaler.core.readings import Missing
from keda_scaler.core.signals import Signal
from keda_scaler.core.trigger import Accepts, parse_trigger
from keda_scaler.engines.devices import device_readings
from keda_scaler.engines.exposition import parse_page
from keda_scaler.engines.prefixes import prefixed

VLLM = capture("vllm-0.32.0__busy-queue")
NAMES = frozenset({"vllm:num_requests_running", "vllm:num_requests_waiting", "tgi_queue_size"})


def why(page: str, engine: str = "auto") -> str:
    """Say why nothing is read of a page."""
    trigger = parse_trigger({"service": "a", "engine": engine}, Accepts())
    samples = parse_page(page.encode(), "text/plain", engines.names(engine), 7.0)
    hint = engines.hint(page.encode(), samples)
    found, engine_read = engines.read(samples, trigger, device_readings(samples), hint)
    assert engine_read is None
    reading = found[Signal.CONCURRENCY]
    assert isinstance(reading, Missing)
    return reading.reason


@pytest.mark.parametrize(
    ("prefix", "names"),
    [("kserve_", "vllm:num_requests_"), ("a:b_c__", "vllm:num_requests_"), ("x_", "vllm_num_")],
)
def test_a_prefix_is_unknown_and_the_name_is_said(prefix: str, names: str) -> None:
    """Whoever looks for the reason finds the name that the page has."""
    page = VLLM.replace("vllm:", f"{prefix}{names.partition('num')[0]}")
    near = f"{prefix}{names.partition('num')[0]}num_requests_running"

    assert why(page) == f"no series of a known engine; the page has {near}, with a prefix"
    assert why(page, "vllm") == f"no series of vllm; the page has {near}, with a prefix"


@pytest.mark.parametrize(
    "page",
    [
        "",
        "up 1\nprocess_start_time_seconds 5\n",
        "# kserve_vllm:num_requests_waiting 1\n",
        "x{vllm:num_requests_waiting 1\n",
        "kserve_vllm:num_requests_waiting_by_reason 1\n",
    ],
)
def test_what_has_no_prefix_is_not_said_to_have_one(page: str) -> None:
    """Names are matched to their end, and comments are none."""
    assert why(page) == "no series of a known engine"


def test_a_page_of_an_engine_is_not_searched() -> None:
    """What it has of another name is nobody's trouble."""
    page = VLLM + "kserve_vllm:num_requests_waiting 1\n"
    samples = parse_page(page.encode(), "text/plain", engines.names("auto"), 7.0)

    assert engines.hint(page.encode(), samples) == ""


@pytest.mark.parametrize("line", [b"a_", b"_", b"a_a_a_a_a_a_a_a_\n", b"vllm:num_requests_\n"])
def test_hostile_names_take_time_in_proportion_to_their_length(line: bytes) -> None:
    """A megabyte of them takes milliseconds."""
    page = line * (2**20 // len(line))
    began = time.process_time()

    assert prefixed(page, NAMES) is None
    assert time.process_time() - began < 2.0
