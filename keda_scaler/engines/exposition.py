"""Exposition text to samples: the few wanted lines of a page, parsed.

A vLLM page has 591 lines, of which a handful matter. Lines are picked by their name first, and only
those go through prometheus_client's parser.
"""

from collections.abc import Collection

from prometheus_client.parser import text_string_to_metric_families

from keda_scaler.engines.samples import Sample
from keda_scaler.errors import PageError

MAX_SAMPLES = 10_000
"""Wanted lines of one page; a hundred models with a hundred data-parallel engines each."""

_CONTENT_TYPES = ("text/plain", "application/openmetrics-text")


def parse_page(
    body: bytes, content_type: str, names: Collection[str], at: float
) -> tuple[Sample, ...]:
    """Parse the samples with the given names, measured at `at` (monotonic seconds).

    Raises:
        PageError: when the body is not an exposition, or a wanted line of it cannot be read.

    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind and kind not in _CONTENT_TYPES:
        raise PageError(f"the page is {kind[:60]}, not metrics")
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise PageError("the page is not UTF-8 text") from None
    lines = [line for line in text.split("\n") if _name(line) in names]
    if len(lines) > MAX_SAMPLES:
        raise PageError(f"the page has more than {MAX_SAMPLES} wanted series")
    try:
        families = list(text_string_to_metric_families("\n".join(lines) + "\n"))
    except (ValueError, IndexError, KeyError) as error:
        raise PageError(f"the page has a line that is not an exposition: {error}"[:200]) from error
    return tuple(
        Sample(sample.name, sample.labels, sample.value, at)
        for family in families
        for sample in family.samples
    )


def _name(line: str) -> str:
    """Give the metric's name: what stands before the labels or the value."""
    return line.partition("{")[0].partition(" ")[0].strip()
