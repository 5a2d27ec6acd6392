"""The catalogue of rules: `docs/lint.md`, written from the tables. Pure."""

from collections.abc import Iterator

from keda_scaler.lint.cluster import MAX_OBJECTS
from keda_scaler.lint.documents import MAX_BYTES, MAX_DEPTH, MAX_DOCUMENTS, MAX_NODES
from keda_scaler.lint.rules import GROUPS
from keda_scaler.lint.subject import IGNORE, MAX_OBJECT_NODES

_INTRODUCTION = f"""\
# Lint

Written from the code by `tools/render-lint`; a test fails when the two differ.

```sh
keda-scaler lint scaledobject.yaml             # or several files
helm template my-chart | keda-scaler lint -    # standard input
keda-scaler lint --cluster --namespace models  # what the kubeconfig's cluster runs
keda-scaler lint --format sarif manifests/*.yaml > lint.sarif
```

- Give it what is applied: rendered charts and overlays, not their sources.
- Every ScaledObject of the input is looked at, also in a `List`. An HPA, a Service or a Deployment
  in the same input is used where a rule is about it.
- `--cluster` reads ScaledObjects and HPAs, and changes nothing. It needs the right to `list` them.
- The scaler is not asked, and its settings are not known here: `keda-scaler probe` says whether a
  `prometheus` or an address is one that they allow.
- Most rules are about ScaledObjects with a trigger of ours: its address names keda-scaler, or it
  has one of our keys.
- Values that look like secrets are never printed.

| exit code | when |
|---|---|
| 0 | nothing is as bad as `--fail-on`; `warning` if it is not given |
| 1 | something is |
| 2 | the command is wrong, an input cannot be read, or there is no ScaledObject in any |

What could be read beside an input that could not is reported all the same.

To keep a finding that is meant, name its rule on the ScaledObject:

```yaml
metadata:
  annotations:
    {IGNORE}: fixed-replicas, memory-alone
```
"""

_BOUNDS = f"""\
## What is bounded

- A file: {MAX_BYTES // 2**20} MiB, {MAX_DOCUMENTS:,} objects, {MAX_DEPTH} levels, and
  {MAX_NODES:,} fields and values with all aliases expanded.
- A ScaledObject: {MAX_OBJECT_NODES:,} fields.
- A cluster: {MAX_OBJECTS:,} objects of a kind.

More is exit code 2.
"""


def render() -> str:
    """Write the page, in Markdown."""
    return "\n".join([_INTRODUCTION, *_groups(), _BOUNDS])


def _groups() -> Iterator[str]:
    for title, rules in GROUPS.items():
        yield f"## {title}\n"
        yield "| rule | severity | why | instead |\n|---|---|---|---|"
        for rule in rules:
            name = f'<a id="{rule.id}"></a>`{rule.id}`'
            yield f"| {name} | {rule.severity} | {rule.reason} | {rule.fix} |"
        yield ""
