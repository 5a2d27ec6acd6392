"""The Dockerfile: linted, and built of what is pinned. Nothing here needs a Docker engine."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from keda_scaler.settings import Settings

ROOT = Path(__file__).parent.parent
HADOLINT = Path(sys.executable).parent / "hadolint"


def instructions() -> list[tuple[str, str]]:
    """Give the instructions in their order: the word, and the rest on one line."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines if line.strip()]


def stages() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Split the instructions into those that build and those of the image."""
    found = instructions()
    first, second = (at for at, (word, _) in enumerate(found) if word == "FROM")
    return found[first:second], found[second:]


def only(word: str) -> str:
    """Give the one instruction of the image with this word."""
    (rest,) = (rest for known, rest in stages()[1] if known == word)
    return rest


def test_hadolint_is_content() -> None:
    """Nothing that the usual linter of Dockerfiles objects to."""
    ran = subprocess.run(
        [HADOLINT, ROOT / "Dockerfile"], capture_output=True, text=True, check=False, timeout=30
    )

    assert (ran.returncode, ran.stdout) == (0, "")


def test_both_stages_have_the_python_that_requirements_are_locked_for() -> None:
    """One base, its minor version pinned, and the one that make lock names."""
    locked = re.findall(r"--python-version (\S+)", (ROOT / "Makefile").read_text())
    before = instructions()[: instructions().index(stages()[0][0])]
    bases = [rest.split()[0] for word, rest in instructions() if word == "FROM"]

    assert bases == ["${BASE}"] * 2
    ((word, argument),) = before
    assert word == "ARG"
    pinned = rf"BASE=python:{re.escape(locked[0])}-slim-\w+(@sha256:[0-9a-f]{{64}})?"
    assert re.fullmatch(pinned, argument)


def test_what_is_installed_is_hashed_and_comes_first() -> None:
    """Dependencies with hashes and as wheels, in a layer above the code; then only our wheel."""
    build = stages()[0]
    *dependencies, package = (
        at for at, (word, rest) in enumerate(build) if word == "RUN" and " install " in rest
    )
    code = build.index(("COPY", "keda_scaler keda_scaler"))

    assert len(dependencies) == 2, "what runs, and what builds"
    assert max(dependencies) < code < package
    for layer in dependencies:
        assert "--require-hashes" in build[layer][1]
        assert "--only-binary :all:" in build[layer][1]
    built = next(rest for word, rest in build if word == "RUN" and "pip wheel" in rest)
    assert "--no-deps --no-build-isolation --wheel-dir /wheel ." in built
    assert "--no-deps --no-index /wheel/*.whl" in build[package][1]


def test_the_image_runs_as_nobody_and_gets_signals() -> None:
    """A number for a user, and the command itself as the first process."""
    assert only("USER") == "65532:65532"
    assert json.loads(only("ENTRYPOINT")) == ["keda-scaler"]
    assert json.loads(only("CMD")) == ["serve"]
    assert only("STOPSIGNAL") == "SIGTERM"
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert "keda-scaler" in scripts


def test_the_ports_are_those_of_the_settings() -> None:
    """gRPC and HTTP, at their defaults."""
    fresh = Settings.model_construct()
    addresses = (fresh.grpc_address, fresh.http_address)

    assert only("EXPOSE").split() == [address.rpartition(":")[2] for address in addresses]


@pytest.mark.parametrize("label", ["title", "description", "licenses", "version", "revision"])
def test_the_image_says_what_it_is(label: str) -> None:
    """Labels that registries and scanners read."""
    assert f"org.opencontainers.image.{label}=" in only("LABEL")


def test_the_context_is_what_is_copied_and_nothing_else() -> None:
    """Everything is ignored, but for what the Dockerfile copies; all of that is there."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    copied = {
        source
        for word, rest in instructions()
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }

    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied
    assert all((ROOT / source).exists() for source in copied)
