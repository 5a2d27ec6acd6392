"""A KEDA external scaler for LLM inference servers."""

__version__ = "0.1.0"
