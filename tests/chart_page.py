"""Renders what is made from the chart: the table of its values, and manifests/install.yaml."""

import json
import re
from collections.abc import Iterator

import yaml

from chart_helm import CHART, RELEASE, ROOT, helm

PAGE = CHART / "README.md"
INSTALL = ROOT / "manifests" / "install.yaml"

_TABLE = re.compile(r"<!-- values -->\n.*?<!-- /values -->", re.DOTALL)
_HELMS = re.compile(
    r"^ *(# Source: .*|helm\.sh/chart: .*|app\.kubernetes\.io/managed-by: .*)\n", re.MULTILINE
)

_HEAD = """\
# keda-scaler without Helm, in KEDA's namespace, which must exist. It may list EndpointSlices of
# every namespace, and nothing else. Put where you pushed the image in place of the Deployment's
# `image`, and apply:
#
#   kubectl apply -f manifests/install.yaml
#
# Made from manifests/chart/keda-scaler by tools/render-chart. All else is a value of that chart.
"""


def values() -> Iterator[tuple[str, str, str]]:
    """Give every value: its path, its default as JSON, and the comment above it."""
    text = (CHART / "values.yaml").read_text()
    yield from _below(yaml.compose(text), text.splitlines(), ())


def _below(
    node: yaml.Node | None, lines: list[str], path: tuple[str, ...]
) -> Iterator[tuple[str, str, str]]:
    assert isinstance(node, yaml.MappingNode), f"{'.'.join(path)} has no comment"
    for key, value in node.value:
        here = (*path, key.value)
        comment = _above(lines, key.start_mark.line)
        if not comment:
            yield from _below(value, lines, here)
            continue
        default = yaml.safe_load(yaml.serialize(value))
        yield ".".join(here), json.dumps(default), comment


def _above(lines: list[str], line: int) -> str:
    """Give the comment right above a line; of one that an empty line follows nothing."""
    found: list[str] = []
    while lines[line - 1].lstrip().startswith("# "):
        line -= 1
        found.insert(0, lines[line].lstrip().removeprefix("# "))
    return " ".join(found)


def render(page: str) -> str:
    """Write the table of the page anew."""
    rows = ["<!-- values -->", "| value | default | meaning |", "|---|---|---|"]
    rows += [f"| `{path}` | `{default}` | {meaning} |" for path, default, meaning in values()]
    return _TABLE.sub(lambda _: "\n".join([*rows, "<!-- /values -->"]), page)


def install() -> str:
    """Write the manifests for those who have no Helm."""
    flags = ("--skip-tests", "--set", "services.allNamespaces=true")
    ran = helm("template", *RELEASE, *flags)
    assert ran.returncode == 0, ran.stderr
    return _HEAD + _HELMS.sub("", ran.stdout)


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text()))
    INSTALL.write_text(install())
