"""The documents: keys, settings, metrics, reasons and bounds in them are those of the code."""

import ast
import importlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

import pytest
import typer
from msgspec import Struct, structs

from keda_scaler import __version__, cli
from keda_scaler.core import trigger as triggers
from keda_scaler.core.decision import Reason, State
from keda_scaler.core.explain import Binding
from keda_scaler.core.signals import Signal
from keda_scaler.core.told import Explanation
from keda_scaler.core.trigger import Accepts, Trigger, parse_trigger
from keda_scaler.errors import TriggerError
from keda_scaler.rpc.status import STATUS
from keda_scaler.settings import (
    ENVIRONMENT,
    FILE_ONLY,
    PrometheusSettings,
    Settings,
    load_settings,
)
from keda_scaler.store import Store
from keda_scaler.telemetry import Telemetry, catalogue
from keda_scaler.web.access import Access
from keda_scaler.web.overview import Overview
from keda_scaler.web.page import Pages
from keda_scaler.web.server import WebServer
from keda_scaler.web.targets import TargetsApi

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")], key=str)
TEXTS = [
    *DOCUMENTS,
    *sorted((ROOT / "manifests").rglob("*.yaml")),
    *(ROOT / name for name in ("Dockerfile", ".dockerignore")),
]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def text_of(name: str) -> str:
    return (ROOT / name).read_text()


def section(name: str, marker: str) -> str:
    """Give what stands between the markers, all of them."""
    found = re.findall(rf"<!-- {marker} -->\n(.*?)<!-- /{marker} -->", text_of(name), re.DOTALL)
    assert found, f"{name} has no section {marker}"
    return "".join(found)


def rows(text: str) -> list[list[str]]:
    """Give the cells of every row of the tables in a text, without their heads."""
    lines = [
        [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    rules = [index for index, cells in enumerate(lines) if set("".join(cells)) <= set("-: ")]
    return [
        cells
        for index, cells in enumerate(lines)
        if index not in rules and index + 1 not in rules  # a head stands above its rule
    ]


def words(text: str) -> list[str]:
    """Give everything in backquotes, outside of blocks."""
    return re.findall(r"`([^`]+)`", BLOCK.sub("", text))


# Trigger keys


def accepted(key: str) -> str:
    """Give the words in which an error says what a key accepts."""
    nobody_takes = "{" if key.lower().endswith("selector") else ""
    with pytest.raises(TriggerError) as caught:
        parse_trigger({key: nobody_takes}, Accepts())
    problem = next(p for p in caught.value.problems if p.startswith(f"{key}: got "))
    return problem.partition("; accepted: ")[2].partition(" (")[0]


def default(name: str) -> str:
    """Write the default of a trigger's field."""
    special = {
        "target_queue_depth": f"`{triggers.DEFAULT_QUEUE_DEPTH:g}` if no target is given",
        "target_gpu_memory_pressure": (
            f"`{triggers.DEFAULT_GPU_MEMORY_PRESSURE:g}` if no target is given"
        ),
        "stale_seconds": (
            f"`{Trigger(pollSeconds=1).stale_after:g}`, "
            f"or {Trigger(pollSeconds=100).stale_after / 100:g} polls if that is more"
        ),
    }
    value = Trigger.model_fields[name].default
    if value in {None, ()}:
        return special.get(name, "none")
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def test_every_trigger_key_stands_with_its_default_and_what_it_accepts() -> None:
    """None is missing, none is too many, and each says what an error says."""
    table = rows(section("docs/triggers.md", "keys"))

    assert {words(key)[0]: (left, takes) for key, left, takes, _ in table} == {
        Trigger.key_of(name): (default(name), accepted(Trigger.key_of(name)))
        for name in Trigger.model_fields
    }
    assert len(table) == len(Trigger.model_fields)
    assert all(meaning.endswith(".") for *_, meaning in table)


def test_keys_of_keda() -> None:
    """Whoever looks for a key finds it, also if it is not ours."""
    keda = [words(key)[0] for key, _ in rows(section("docs/triggers.md", "keda-keys"))]

    assert sorted(keda) == sorted(triggers.KEDA_KEYS)


def test_every_signal_is_named() -> None:
    """The names of metrics, as the HPA shows them, can be looked up."""
    assert not set(Signal) - set(words(text_of("docs/triggers.md")))


# Settings


def flag_of(parameter: Any) -> str:
    return str(parameter.opts[0])


def shown(value: Any) -> str:
    """Write a default of the settings."""
    return f"`{str(value).lower()}`" if value not in (None, (), {}) else "none"


def test_every_setting_stands_with_its_flag_variable_key_and_default() -> None:
    """One name everywhere, and the command line has a flag for each."""
    fresh = Settings.model_construct()
    group: Any = typer.main.get_command(cli.app)
    flags = {flag_of(parameter) for parameter in group.commands["serve"].params}

    assert [cells[:4] for cells in rows(section("docs/settings.md", "settings"))] == [
        [
            f"`--{name.replace('_', '-')}`",
            f"`{ENVIRONMENT}{name.upper()}`",
            f"`{name}`",
            shown(getattr(fresh, name)),
        ]
        for name in Settings.model_fields
        if name not in FILE_ONLY
    ]
    documented = {words(cells[0])[0] for cells in rows(section("docs/settings.md", "settings"))}
    assert flags == documented | {"--config"}


def test_every_key_of_a_prometheus_stands() -> None:
    """Credentials are found where they are looked for."""
    table = rows(section("docs/settings.md", "prometheus-settings"))

    assert [words(key)[0] for key, _ in table] == list(PrometheusSettings.model_fields)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_toml_blocks_are_settings(document: Path, tmp_path: Path) -> None:
    """What is copied out of a document starts."""
    for kind, block in BLOCK.findall(document.read_text()):
        if kind == "toml":
            file = tmp_path / "settings.toml"
            file.write_text(block)
            assert set(tomllib.loads(block)) <= load_settings({}, file).model_fields_set


def test_metrics_are_up_to_date() -> None:
    """A dashboard can be built from the document; `tools/render-metrics` writes it anew."""
    assert text_of("docs/metrics.md") == catalogue.render().rstrip("\n") + "\n"


def test_every_http_path_stands() -> None:
    """Probes and scrapes are configured from the document."""
    store = Store(lambda _: lambda: None, lambda *_: None, lambda: 0.0)
    routes = Pages(TargetsApi(store, Access("127.0.0.1:0"))).routes()
    server = WebServer("127.0.0.1:0", Telemetry(), lambda: True, None, routes)
    paths = {resource.canonical for resource in server._runner.app.router.resources()}

    assert {words(path)[0] for path, _ in rows(section("docs/settings.md", "http"))} == paths


# KEDA


def test_every_status_stands() -> None:
    """Each error of ours that KEDA sees, and what becomes of it."""
    table = rows(section("docs/keda.md", "statuses"))
    documented = {words(cells[0])[0]: words(cells[1])[0] for cells in table if words(cells[0])}

    assert documented == {error.__name__: status.name for error, status in STATUS}
    assert {cells[1] for cells in table if not words(cells[0])} == {"OK", "`INTERNAL`"}


# Architecture

BOUNDED = (
    "forever",
    "app",
    "reload",
    "gateways",
    "store",
    "telemetry",
    "rpc",
    "web",
    "sources",
    "engines",
    "core",
    "settings",
    "garbage",
    "lines",
    "turns",
)
BOUND = re.compile(r"_?(MAX_\w+|\w+_(SECONDS|BYTES|SLICES|LISTS))")
UNITS = {"": 1, "s": 1, "KiB": 2**10, "MiB": 2**20}


def modules() -> Iterator[tuple[str, Path]]:
    """Give every module of the package, but for generated code, by its name below the package."""
    package = ROOT / "keda_scaler"
    for path in sorted(package.rglob("*.py")):
        name = str(path.relative_to(package).with_suffix("")).replace("/", ".")
        yield name.removesuffix(".__init__"), path


def bounds() -> dict[str, float]:
    """Find every cap and timeout of the server, by name."""
    timings = importlib.import_module("keda_scaler.sources.apiserver").Timings()
    found = {
        f"sources.apiserver.Timings.{field}": float(getattr(timings, field))
        for field in timings.__slots__
        if field != "sleep"
    }
    for name, path in modules():
        if name.partition(".")[0] in BOUNDED:
            module = importlib.import_module(f"keda_scaler.{name}")
            for node in ast.parse(path.read_text()).body:
                for target in node.targets if isinstance(node, ast.Assign) else ():
                    if isinstance(target, ast.Name) and BOUND.fullmatch(target.id):
                        found[f"{name}.{target.id}"] = float(getattr(module, target.id))
    return found


def test_every_bound_stands_with_its_value() -> None:
    """A cap that is hit at night is found in the table."""
    text = text_of("docs/architecture.md")
    table = rows(text.partition("## What is bounded")[2].partition("\n## ")[0])

    documented = {}
    for constant, value, _ in table:
        number, _, unit = value.partition(" ")
        documented[words(constant)[0]] = float(number.replace(",", "")) * UNITS[unit]
    assert documented == bounds()
    assert len(documented) == len(table)


def test_every_reason_stands() -> None:
    """A reason that the log names is explained."""
    table = rows(section("docs/architecture.md", "reasons"))

    assert [words(cells[0])[0] for cells in table] == list(Reason)
    assert {cells[1] for cells in table} == set(State)
    for reason in Reason:
        assert f"{reason}: " in text_of("docs/architecture.md"), "a state of the diagram"


def test_everything_that_decides_stands() -> None:
    """What `explain` and the page name as that is explained."""
    table = rows(section("docs/explain.md", "bindings"))

    assert [words(word)[0] for word, _ in table] == list(Binding)


def fields(kind: type[Struct]) -> set[str]:
    """Give the names of a struct's fields in JSON, and of those in it."""
    found: set[str] = set()
    for field in structs.fields(kind):
        found.add(field.encode_name)
        for inner in (field.type, *get_args(field.type)):
            if isinstance(inner, type) and issubclass(inner, Struct):
                found |= fields(inner)
    return found


@pytest.mark.parametrize("kind", [Explanation, Overview], ids=lambda kind: kind.__name__)
def test_every_field_of_the_json_stands(kind: type[Struct]) -> None:
    """Programs are written from the document."""
    assert not fields(kind) - set(words(text_of("docs/explain.md")))


def tree() -> Iterator[str]:
    """Give what the tree of modules lists, as paths below the package."""
    (block,) = (b for _, b in BLOCK.findall(text_of("docs/architecture.md")) if "servicer.py" in b)
    folder = ""
    for line in block.splitlines()[1:]:
        entry = line.split()[0]
        if line.startswith("    "):
            yield folder + entry
        else:
            folder = entry if entry.endswith("/") else ""
            yield entry


def test_the_tree_lists_every_module() -> None:
    """Everything of the layers is in the tree: each module, or its folder as a whole."""
    listed = list(tree())
    missing = [path for path in listed if not (ROOT / "keda_scaler" / path).exists()]
    assert not missing

    contracts = tomllib.loads(text_of("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    layers = {name.strip(" ()") for line in contracts[0]["layers"] for name in line.split("|")}
    detailed = {path.partition("/")[0] for path in listed if not path.endswith("/") and "/" in path}
    whole = {path.rstrip("/") for path in listed if path.endswith("/")} - detailed
    for name, path in modules():
        if name.partition(".")[0] in layers - whole and path.name != "__init__.py":
            assert f"{name.replace('.', '/')}.py" in listed


# All documents


def anchors(document: Path) -> set[str]:
    """Give the anchors of a document's headings, as GitHub makes them."""
    plain = BLOCK.sub("", document.read_text())
    heads = re.findall(r"^#+ (.+)$", plain, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(document: Path) -> None:
    """Every relative link names a file of the repository, and a heading of it."""
    for link in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", document.read_text())):
        parts = urlsplit(link)
        if not parts.scheme:
            target = (document.parent / parts.path).resolve() if parts.path else document
            assert target.exists(), link
            assert not parts.fragment or parts.fragment in anchors(target), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_paths_in_documents_exist(document: Path) -> None:
    """A file that a document names is there; NAME and the like stand for something."""
    folders = "docs|keda_scaler|manifests|protos|requirements|tests|tools|benchmarks"
    for path in re.findall(rf"`((?:{folders})/[^`\s:]*)`", document.read_text()):
        assert re.search(r"[A-Z]{4}", path) or (ROOT / path).exists(), path


HOSTS = re.compile(
    r"(localhost|127\.0\.0\.1|10\.\d+\.\d+\.\d+|.+\.svc\.cluster\.local|(.+\.)?example\.com"
    r"|keda\.sh|github\.com|keepachangelog\.com|semver\.org)"
)


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_no_machine_and_no_host_of_ours_is_named(path: Path) -> None:
    """Documents name places that every reader has, or none."""
    text = path.read_text()

    assert not re.search(r"(?<![\w.])/(home|root|tmp|work|Users)/", text)
    for url in re.findall(r"https?://([^\s/:`\"')<>]+)", text):
        assert HOSTS.fullmatch(url), url


def test_every_verb_stands() -> None:
    """Contributors find the verbs of the Makefile, and only those."""
    verbs = re.findall(r"^([a-z0-9]+):.*?##", text_of("Makefile"), re.MULTILINE)
    table = rows(text_of("CONTRIBUTING.md"))

    assert sorted(words(verb)[0] for verb, _ in table) == sorted(
        f"make {verb}" for verb in verbs if verb != "help"
    )


def test_the_changelog_has_this_version() -> None:
    """Newest first, and what is not released above that."""
    heads = re.findall(r"^## \[(.+?)\]", text_of("CHANGELOG.md"), re.MULTILINE)

    assert heads[:2] == ["Unreleased", __version__]
