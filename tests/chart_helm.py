"""The chart, rendered by the real Helm: each values file once."""

import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from prometheus_server import tool_binary

ROOT = Path(__file__).parent.parent
CHART = ROOT / "manifests" / "chart" / "keda-scaler"
CI = CHART / "ci"
RELEASE = ("keda-scaler", str(CHART), "--namespace", "keda")
SECONDS = 30

Document = dict[str, Any]


def helm(*arguments: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run helm, which reaches no cluster."""
    return subprocess.run(
        [tool_binary("helm"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
        env={"PATH": "/nowhere", "HOME": str(home or "/nowhere"), "KUBECONFIG": "/dev/null"},
    )


def names() -> list[str]:
    """Give the features that have a values file."""
    return sorted(path.name.removesuffix("-values.yaml") for path in CI.glob("*-values.yaml"))


@dataclass(frozen=True)
class Rendered:
    """What a values file makes."""

    documents: tuple[Document, ...]

    def all(self, kind: str) -> list[Document]:
        return [document for document in self.documents if document["kind"] == kind]

    def one(self, kind: str, suffix: str = "") -> Document:
        """Give the object of a kind whose name ends in this, the only or the first one."""
        return next(
            document for document in self.all(kind) if document["metadata"]["name"].endswith(suffix)
        )

    @property
    def pod(self) -> Document:
        """The scaler's pod."""
        spec: Document = self.one("Deployment")["spec"]["template"]["spec"]
        return spec

    @property
    def arguments(self) -> list[str]:
        """The scaler's command line."""
        found: list[str] = self.pod["containers"][0]["args"]
        return found

    @property
    def settings(self) -> str:
        """The scaler's file."""
        return str(self.one("ConfigMap")["data"]["settings.toml"])


@cache
def render(name: str) -> Rendered:
    """Render a feature's values file; the text is YAML without one key twice."""
    return rendered("--values", str(CI / f"{name}-values.yaml"))


def rendered(*arguments: str) -> Rendered:
    """Render the chart with flags of `helm template`."""
    ran = helm("template", *RELEASE, *arguments)
    assert ran.returncode == 0, ran.stderr
    documents = yaml.load_all(ran.stdout, Loader=_OneOfEach)  # a safe loader
    return Rendered(tuple(document for document in documents if document))


def refused(*values: str) -> str:
    """Render with values that must be refused, and give what Helm says."""
    sets = [part for value in values for part in ("--set-json", value)]
    ran = helm("template", *RELEASE, *sets)
    assert ran.returncode != 0, ran.stdout
    return ran.stderr


class _OneOfEach(yaml.SafeLoader):
    """YAML as Kubernetes reads it: a key that stands twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002  # PyYAML's
        made = super().construct_mapping(node, deep)
        assert len(made) == len(node.value), f"a key stands twice{node.start_mark}"
        return made
