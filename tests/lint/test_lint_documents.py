"""Manifests are read with their lines, and nothing that is handed in takes the reader down."""

import json
import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from keda_scaler.errors import ScaledObjectError
from keda_scaler.lint import documents
from keda_scaler.lint.check import check
from keda_scaler.lint.documents import MAX_DEPTH, parse_documents
from keda_scaler.lint.output import to_json, to_sarif, to_text
from keda_scaler.lint.subject import MAX_OBJECT_NODES
from lint_manifests import CLEAN, METADATA, changed, found, lint

LINES = """\
# a comment
kind: ScaledObject
metadata:
  annotations:
    autoscaling.keda.sh/paused: "true"
    autoscaling: {keda: 1}
spec:
  triggers:
    - type: external
      metadata:
        service: llama
    - {type: cron}
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("kind", 2),
        ("metadata.annotations.autoscaling.keda.sh/paused", 5),
        ("metadata.annotations.autoscaling.keda", 6),
        ("spec.triggers[0]", 9),
        ("spec.triggers[0].metadata.service", 11),
        ("spec.triggers[1].type", 12),
        ("spec.triggers[7]", 8),
        ("spec.triggers[0].metadata.port", 10),
        ("status", 2),
        ("", 2),
    ],
)
def test_a_field_has_its_line(path: str, line: int) -> None:
    """One that is missing has that of the field that it would be in."""
    (document,) = parse_documents(LINES.encode(), "so.yaml")

    assert document.line_of(path) == line


def test_lines_count_through_the_whole_file() -> None:
    """A rendered chart is one file of many documents."""
    text = f"kind: Service\nmetadata: {{}}\n---\n---\n{CLEAN}"

    (finding,) = lint(text.replace("  maxReplicaCount: 8\n", "")).findings

    assert text.splitlines()[4] == "apiVersion: keda.sh/v1alpha1"
    assert finding.line == 4 + CLEAN.splitlines().index("spec:") + 1


def test_what_kubectl_prints_is_read() -> None:
    """A List is its items, as YAML and as JSON; fields that KEDA adds are no findings."""
    raw = yaml.safe_load(changed({"spec.maxReplicaCount": None})) | {"status": {"conditions": []}}
    listed = {"apiVersion": "v1", "kind": "List", "items": [raw, {"kind": "Pod"}, None]}

    results = [lint(yaml.safe_dump(listed)), lint(json.dumps(listed, indent=1))]

    for result in results:
        assert [it.hit.path for it in result.findings] == ["spec.maxReplicaCount"]
        assert (result.findings[0].line or 0) > 1


def test_anchors_and_merges_are_resolved() -> None:
    """As Kubernetes' tools do before they send an object."""
    text = CLEAN.replace("  maxReplicaCount: 8\n", "  <<: *bounds\n")

    result = lint(f"common: &bounds\n  maxReplicaCount: 8\n{text}")

    assert not result.findings


def bomb(width: int) -> str:
    levels = [f"a0: &a0 [{', '.join('x' * width)}]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, 30)]
    return "\n".join(levels)


def merging_bomb() -> str:
    levels = ["a0: &a0 {x: 1}"]
    levels += [f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 60)]
    return "\n".join(levels)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 100_000, f"line 1: more than {MAX_DEPTH} levels deep"),
        ("[" * 20_000 + "]" * 20_000, f"more than {MAX_DEPTH} levels deep"),
        ("a:\n" + "".join(f"{' ' * n}- \n" for n in range(1, 200)), "levels deep"),
        (bomb(10), "fields, aliases expanded"),
        (merging_bomb(), "fields, aliases expanded"),
        (
            "\n".join(["a0: &a0 []", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 200))]),
            "levels deep",
        ),
        ("a: &a [*a]", "holds itself"),
        ("{{ .Values.name }}", "not YAML"),
        ("a: [", "not YAML"),
        ("a: !!python/object:os.system {}", "not YAML"),
        ("a: 2026-99-99", "not YAML"),
        ("a: " + "9" * 5_000, "not YAML"),
        ("\0", "not YAML"),
        ("x" * (8 * 2**20 + 1), "more than 8 MiB"),
        ("---\na: 1\n" * 10_001, "more than 10000 objects"),
    ],
    ids=range(15),
)
def test_what_cannot_be_read_is_refused_soon(text: str, why: str) -> None:
    """By name of the file, with a line where there is one; no bomb costs time or memory."""
    start = time.monotonic()

    with pytest.raises(ScaledObjectError, match=why) as caught:
        parse_documents(text.encode(), "so.yaml")

    assert str(caught.value).startswith("so.yaml: ")
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 10


def test_bytes_that_are_no_text_are_refused() -> None:
    """A binary file among the manifests is named."""
    with pytest.raises(ScaledObjectError, match=r"^so\.yaml: not a UTF-8 text$"):
        parse_documents(b"\xff\xfe\x00", "so.yaml")


def test_a_scaled_object_of_thousands_of_fields_is_refused() -> None:
    """Each unknown key is compared with every known one."""
    many = {f"key{n}": "x" for n in range(MAX_OBJECT_NODES)}

    with pytest.raises(ScaledObjectError, match=r"^so\.yaml:1: ScaledObject llama has more than"):
        lint(changed({METADATA: many}))


def test_the_python_parser_does_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PyYAML was built without libyaml."""
    monkeypatch.setattr(documents, "_LOADER", yaml.SafeLoader)

    assert found(lint(changed({"spec.maxReplicaCount": None}))) == {"no-maximum"}
    with pytest.raises(ScaledObjectError, match="levels deep"):
        lint("[" * 10_000)


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-5, 10**12)
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["AverageValue", "external", "1", "keda-scaler:1", "https://a@b", "a\x1b[1m"])
)
PATHS = [
    *("metadata", "metadata.name", "metadata.namespace", "metadata.annotations", "spec"),
    *("metadata.annotations.keda-scaler/lint-ignore", "spec.scaleTargetRef", "spec.triggers"),
    *("spec.scaleTargetRef.name", "spec.minReplicaCount", "spec.maxReplicaCount"),
    *("spec.idleReplicaCount", "spec.pollingInterval", "spec.fallback", "spec.fallback.replicas"),
    *("spec.advanced", "spec.advanced.scalingModifiers", "spec.advanced.scalingModifiers.formula"),
    "spec.advanced.horizontalPodAutoscalerConfig.behavior.scaleDown.stabilizationWindowSeconds",
    *("spec.triggers[0]", "spec.triggers[0].type", METADATA, "spec.triggers[0].useCachedMetrics"),
    *(f"{METADATA}.{key}" for key in ("scalerAddress", "service", "endpoints", "metricType")),
    *(f"{METADATA}.{key}" for key in ("idleSeconds", "wakeFrom", "model", "what")),
]
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8) | st.sampled_from(["name", "kind", "type"]), inner)
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(values | st.lists(values), st.sampled_from(["ScaledObject", "ScaledJob", "Service", "List"]))
def test_any_yaml_is_answered(value: object, kind: str) -> None:
    """Whatever stands where an object, or a field of one, should be."""
    raw = value | {"kind": kind} if isinstance(value, dict) else value
    say_all(yaml.safe_dump_all([raw, {"kind": kind, "spec": value, "metadata": value}]))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(PATHS), values)
def test_any_value_of_any_field_is_answered(path: str, value: object) -> None:
    """Each finding has a line, and one line each in the text."""
    say_all(changed({path: value}))


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from("{}[]:,-&*!|>'\" \n\tab<#%@\\0"), max_size=40))
def test_any_text_is_answered(text: str) -> None:
    """By findings, or by why it cannot be read."""
    say_all(text)


def say_all(text: str) -> None:
    """Go all the way from the text to every form of output."""
    try:
        result = check(parse_documents(text.encode(errors="replace"), "so.yaml"))
    except ScaledObjectError:
        return
    assert str(to_text(result)).count("\n") == 3 * len(result.findings)
    json.dumps([to_json(result), to_sarif(result)])
    assert all(finding.line for finding in result.findings)
