"""Hosts in Kubernetes: which ones stand for many pods, told by their names. Pure."""

from urllib.parse import urlsplit

from keda_scaler.core.values import is_address

_CLUSTER = "svc"
"""The label between a namespace and the cluster's own domain."""


def host_of(url: str) -> str:
    """Give the host of a URL, without a dot at its end; empty where there is none."""
    try:
        return (urlsplit(url.strip()).hostname or "").rstrip(".")
    except ValueError:
        return ""


def service_of(host: str) -> tuple[str, str] | None:
    """Give name and namespace of the Service that a host is; None: it is none, or from outside.

    The namespace is empty where the host does not say: it is then that of whoever looks it up. The
    name of one pod (POD.SERVICE.NAMESPACE.svc) is none.
    """
    labels = host.split(".")
    if not host or is_address(host) or host == "localhost":
        return None
    if len(labels) <= 2 or labels[2] == _CLUSTER:
        return labels[0], labels[1] if len(labels) > 1 else ""
    return None
