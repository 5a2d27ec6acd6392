"""Manifests for tests of lint: one that is clean, and what is changed in it."""

import copy
import re
from typing import Any

import yaml

from keda_scaler.lint.check import Result, check
from keda_scaler.lint.documents import parse_documents

CLEAN = """\
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: llama
  namespace: models
  annotations: {}
spec:
  scaleTargetRef:
    name: llama
  minReplicaCount: 0
  maxReplicaCount: 8
  pollingInterval: 10
  cooldownPeriod: 600
  initialCooldownPeriod: 600
  advanced:
    horizontalPodAutoscalerConfig:
      behavior:
        scaleDown:
          stabilizationWindowSeconds: 300
  triggers:
    - type: external-push
      name: llama
      metadata:
        scalerAddress: keda-scaler.keda.svc.cluster.local:6000
        engine: vllm
        service: llama
        wakeFrom: epp
        wakeService: llama-epp
"""

Changes = dict[str, Any]
"""New values, by path as findings spell them; None: the field is left out."""

TRIGGER = "spec.triggers[0]"
METADATA = f"{TRIGGER}.metadata"


def changed(changes: Changes) -> str:
    """Write the clean manifest with some fields changed."""
    raw = copy.deepcopy(yaml.safe_load(CLEAN))
    for path, value in changes.items():
        *parents, last = re.findall(r"\{[^}]+\}|[^.\[\]{}]+", path)
        inner = raw
        for parent in parents:
            inner = inner[int(parent)] if isinstance(inner, list) else inner.setdefault(parent, {})
        key = last.strip("{}")
        if isinstance(inner, list):
            inner[int(key) :] = [copy.deepcopy(value)]
        elif value is None:
            inner.pop(key, None)
        else:
            inner[key] = copy.deepcopy(value)
    return yaml.safe_dump(raw, sort_keys=False)


def lint(*texts: str) -> Result:
    """Check texts as one input."""
    return check([it for text in texts for it in parse_documents(text.encode(), "so.yaml")])


def found(result: Result) -> set[str]:
    """Give the ids of the rules that found something."""
    return {finding.rule.id for finding in result.findings}
