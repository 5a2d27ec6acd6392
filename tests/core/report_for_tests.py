"""A report in few words."""

from keda_scaler.core.reports import Report


def report(
    reporter: str = "a",
    waiting: int = 0,
    running: int = 0,
    ttl: float = 30,
    name: str = "llama",
    *,
    namespace: str = "models",
) -> Report:
    return Report(namespace, name, reporter, waiting, running, ttl)
