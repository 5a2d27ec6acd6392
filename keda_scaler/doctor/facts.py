"""What is in use: versions, programs, configuration, and where each setting comes from."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keda_scaler.evidence import versions
from keda_scaler.settings import Origin, PrometheusSettings, Settings
from keda_scaler.sources.apiserver import kubeconfig


def programs(origin: Origin) -> dict[str, str]:
    """Name what runs, and which files configure it."""
    paths = kubeconfig()
    return {
        "command": str(Path(sys.argv[0]).absolute()),
        "package": str(Path(__file__).parent.parent),
        "Python at": sys.executable,
        "settings file": "none (--config)" if origin.config is None else str(origin.config),
        "Kubernetes": "the pod's service account" if paths is None else f"kubeconfig {paths}",
    }


def facts(origin: Origin) -> dict[str, str]:
    """Say what is in use, by name."""
    return versions() | programs(origin)


def settings_in_use(settings: Settings, origin: Origin) -> list[dict[str, str]]:
    """Give each setting's name, value and origin. Secrets are in files, of which only names show.

    Raises:
        SettingsError: when the file cannot be read.

    """
    return [
        {"name": name, "value": _shown(getattr(settings, name)), "origin": place}
        for name, place in origin.of_each().items()
    ]


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, PrometheusSettings):
        given = {key: each for key, each in value.model_dump().items() if each is not None}
        url = given.pop("url")
        return f"{url} ({_pairs(given)})" if given else str(url)
    if isinstance(value, Mapping):
        return _pairs({key: _shown(each) for key, each in value.items()})
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={each}" for key, each in values.items()) or "none"
