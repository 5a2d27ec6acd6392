"""What a Prometheus has of made-up pods of vLLM, and of another target that it scrapes as well."""

from keda_scaler.engines.samples import Sample

NAMESPACE = "default"
LOOKBACK_SECONDS = 300.0
"""For so long it gives the last sample of a series that nobody ended."""


def up(pod: str, at: float, *, succeeded: bool) -> Sample:
    """Make the scrape of a pod."""
    return Sample("up", _labels(pod), float(succeeded), at)


def up_elsewhere(at: float) -> Sample:
    """Make the scrape of the other target, which is of no namespace."""
    labels = {"pod": "exporter-0", "instance": "exporter-0", "job": "nodes"}
    return Sample("up", labels, 1.0, at)


def series(pod: str, family: str, number: float, at: float) -> Sample:
    """Make what one family of a pod's engine said."""
    return Sample(family, _labels(pod) | {"model_name": "llama", "engine": "0"}, number, at)


def _labels(pod: str) -> dict[str, str]:
    return {"namespace": NAMESPACE, "pod": pod, "instance": pod, "job": "vllm"}
