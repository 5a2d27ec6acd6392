"""Evidence: what a command was given and what it observed, to be read and run again later.

A record is plain JSON. `--record FILE` writes it beside the same as Markdown: FILE without `.json`
or `.md` at its end, plus each of the two. No secret gets into it: of a ScaledObject's metadata only
keys of ours keep their values, and what was hidden there is hidden wherever else it appears.
"""

import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from keda_scaler import KEDA_PROTO, __version__
from keda_scaler.core.trigger import Trigger
from keda_scaler.errors import EvidenceError
from keda_scaler.keda.scaledobject import EXTERNAL_TYPES
from keda_scaler.keda.secrets import is_secret
from keda_scaler.pb import externalscaler_pb2 as pb

FORMAT = 1
"""Of the JSON; a higher number means that a reader has to look again."""

HIDDEN = "(hidden)"

_ENDS = (".json", ".md")
_PACKAGES = ("grpcio", "protobuf", "aiohttp", "kubernetes-asyncio")
_KEDAS_KEYS = frozenset({"scalerAddress", "enableTLS", "unsafeSsl"})
_ANNOTATIONS = "autoscaling.keda.sh/"
_LEAST_HIDDEN = 8
"""Characters of a hidden value from which it is looked for elsewhere; `true` is everywhere."""

_IN_URL = re.compile(r"(\w://)[^@\s]*@")
_QUERY_OF_URL = re.compile(r"(\w://[^\s?'\"]+\?)[^\s'\",;)]+")


def versions() -> dict[str, str]:
    """Say what runs here: our version, Python, libraries, and the protocol that we speak."""
    calls = pb.DESCRIPTOR.services_by_name["ExternalScaler"].methods_by_name
    return {
        "keda-scaler": __version__,
        "Python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
        "KEDA protocol": f"{KEDA_PROTO} ({len(calls)} calls)",
    }


@dataclass(frozen=True, slots=True)
class Observed:
    """What one run of a command was given, and what came of it."""

    command: Sequence[str]
    """As it was typed: the program and its arguments."""

    exit_code: int
    text: str
    """What was printed."""

    output: Mapping[str, Any]
    """The same, structured."""

    model: str | None = None
    """The served model; None: not known."""

    manifest: dict[str, Any] | None = None
    """A ScaledObject that KEDA would take, as parsed YAML; None: there is none."""

    settings: Sequence[Mapping[str, Any]] = ()
    """Each setting with its value and its origin."""

    inputs: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else decided what was observed."""


def record(observed: Observed, at: datetime) -> dict[str, Any]:
    """Make the record of a run that ended at `at`."""
    hidden: set[str] = set()
    manifest = None if observed.manifest is None else _shown_manifest(observed.manifest, hidden)
    return _clean(
        {
            "format": FORMAT,
            "at": at.isoformat(timespec="seconds"),
            "command": list(observed.command),
            "exitCode": observed.exit_code,
            "versions": versions(),
            "platform": platform.platform(),
            "model": observed.model,
            "inputs": {
                "scaledObject": manifest,
                "settings": list(observed.settings),
                **observed.inputs,
            },
            "output": observed.output,
            "text": observed.text,
        },
        hidden,
    )


def _shown_manifest(manifest: dict[str, Any], hidden: set[str]) -> dict[str, Any]:
    """Give a ScaledObject without what is not known to be harmless; fill `hidden` with that."""
    metadata, spec = manifest["metadata"], manifest["spec"]
    annotations = metadata.get("annotations") or {}
    kept = {key: value for key, value in annotations.items() if key.startswith(_ANNOTATIONS)}
    named = {key: metadata[key] for key in ("name", "namespace") if key in metadata}
    triggers = spec["triggers"]
    return {
        "apiVersion": manifest["apiVersion"],
        "kind": manifest["kind"],
        "metadata": {**named, **({"annotations": kept} if kept else {})},
        "spec": {**spec, "triggers": [_shown_trigger(each, hidden) for each in triggers]},
    }


def _shown_trigger(trigger: dict[str, Any], hidden: set[str]) -> dict[str, Any]:
    ours = {*Trigger.keys(), *_KEDAS_KEYS} if trigger.get("type") in EXTERNAL_TYPES else set()
    shown = {}
    for key, value in trigger["metadata"].items():
        is_kept = key in ours and not is_secret("", str(value))
        shown[key] = value if is_kept else HIDDEN
        if not is_kept and len(str(value)) >= _LEAST_HIDDEN:
            hidden.add(str(value))
    return {**trigger, "metadata": shown}


def _clean(record: dict[str, Any], hidden: set[str]) -> dict[str, Any]:
    """Hide secrets in every text: those known from the manifest, and what looks like one."""
    values = sorted(hidden, key=len, reverse=True)

    def clean(text: str) -> str:
        for value in values:
            text = text.replace(value, HIDDEN)
        text = _QUERY_OF_URL.sub(rf"\1{HIDDEN}", _IN_URL.sub(rf"\1{HIDDEN}@", text))
        return "\n".join(HIDDEN if _looks_secret(line) else line for line in text.split("\n"))

    cleaned: dict[str, Any] = _mapped(record, clean)
    return cleaned


def _looks_secret(line: str) -> bool:
    return is_secret("", line.replace(f"{HIDDEN}@", ""))


def _mapped(node: Any, change: Callable[[str], str]) -> Any:
    """Change every text of a JSON document."""
    if isinstance(node, str):
        return change(node)
    if isinstance(node, Mapping):
        return {change(str(key)): _mapped(value, change) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_mapped(each, change) for each in node]
    return node


def to_markdown(record: Mapping[str, Any]) -> str:
    """Write a record for people."""
    return "\n".join(_markdown(record)) + "\n"


def _markdown(record: Mapping[str, Any]) -> Iterator[str]:
    command, inputs = record["command"], record["inputs"]
    yield f"# Evidence: {' '.join(command[:2])}"
    yield ""
    yield "| | |"
    yield "|---|---|"
    facts = {
        "at": record["at"],
        "exit code": record["exitCode"],
        "model": record["model"] or "not known",
        **record["versions"],
        "platform": record["platform"],
    }
    yield from (f"| {name} | {_cell(value)} |" for name, value in facts.items())
    yield ""
    yield "## Run it again"
    yield ""
    yield from _fenced(shlex.join(command), "sh")
    if inputs["scaledObject"] is not None:
        yield "With this ScaledObject; values that are not shown may be secrets:"
        yield ""
        yield from _fenced(yaml.safe_dump(inputs["scaledObject"], sort_keys=False).strip(), "yaml")
    if inputs["settings"]:
        yield "| setting | value | from |"
        yield "|---|---|---|"
        for each in inputs["settings"]:
            yield f"| `{each['name']}` | {_cell(each['value'])} | {each['origin']} |"
        yield ""
    yield "## Observed"
    yield ""
    yield from _fenced(record["text"].strip("\n"), "text")


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _fenced(text: str, kind: str) -> Iterator[str]:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    yield from (f"{fence}{kind}", text, fence, "")


def files_of(path: Path) -> tuple[Path, Path]:
    """Name the JSON and the Markdown file of `--record PATH`."""
    name = path.name
    for end in _ENDS:
        name = name.removesuffix(end)
    return path.with_name(f"{name}.json"), path.with_name(f"{name}.md")


def require_writable(path: Path | None) -> None:
    """Find out before a run whether its record can be written.

    Raises:
        EvidenceError: when it cannot.

    """
    if path is None:
        return
    if path.name in {"", *_ENDS}:
        raise EvidenceError(f"--record: got {str(path)!r}; accepted: the name of a file")
    for file in files_of(path):
        if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
            raise EvidenceError(f"--record: {file} cannot be written")


def write(path: Path, observed: Observed, at: datetime) -> None:
    """Write the record of a run in both forms.

    Raises:
        EvidenceError: when it cannot be written.

    """
    made = record(observed, at)
    texts = (json.dumps(made, indent=2, ensure_ascii=False) + "\n", to_markdown(made))
    for file, text in zip(files_of(path), texts, strict=True):
        try:
            file.write_text(text, encoding="utf-8")
        except OSError as error:
            raise EvidenceError(f"--record: {file}: {error.strerror or error}") from error


def typed() -> list[str]:
    """Give the command line of this process, so that it can be typed again anywhere."""
    return ["keda-scaler", *sys.argv[1:]]
