"""A KEDA external scaler for LLM inference servers."""

__version__ = "0.1.0"

KEDA_PROTO = "2.21"
"""The newest KEDA whose calls are all served: `StreamMetricSpec` came with it."""
