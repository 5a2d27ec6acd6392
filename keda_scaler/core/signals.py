"""The signals: quantities of a model server that a trigger may scale on."""

from enum import StrEnum


class Signal(StrEnum):
    """A quantity we scale on. The value is the metric's name on the wire."""

    QUEUE_DEPTH = "queue-depth"
    """Requests that wait for a place in the running batch; requests, at least 0."""

    CONCURRENCY = "concurrency"
    """Requests in the engine, waiting or running; at least 0. Also the measure of work."""

    GPU_MEMORY_PRESSURE = "gpu-memory-pressure"
    """Share of the GPU memory that serves requests which is in use; ratio, 0 to 1."""

    GPU_UTILIZATION = "gpu-utilization"
    """How busy the replica's GPUs are, on average; ratio, 0 to 1."""

    TTFT = "ttft"
    """Time to first token, at the trigger's quantile over its window; seconds."""

    ITL = "itl"
    """Time between tokens, likewise; seconds."""

    LATENCY = "latency"
    """Time of a whole request, likewise; seconds."""


RATIOS = frozenset({Signal.GPU_MEMORY_PRESSURE, Signal.GPU_UTILIZATION})
"""Signals that are a share; the others are requests or seconds."""

LATENCIES = frozenset({Signal.TTFT, Signal.ITL, Signal.LATENCY})
