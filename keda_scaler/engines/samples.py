"""Samples: the lines of an exposition that a dialect reads."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of one series."""

    name: str
    """The sample's name, as the page spells it."""

    labels: Mapping[str, str]
    """Labels that the process itself printed, and those that Prometheus added."""

    number: float
    """The value as given; may be NaN or infinite."""

    at: float
    """When it was measured, in monotonic seconds."""
