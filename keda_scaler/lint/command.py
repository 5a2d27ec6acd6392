"""The command `keda-scaler lint`.

Exit codes: 0 when nothing is as bad as --fail-on, 1 when something is, 2 when the command is wrong
or an input cannot be read.
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, assert_never

import typer
from rich.console import Console

from keda_scaler.errors import ScaledObjectError
from keda_scaler.lint import cluster as clusters
from keda_scaler.lint.check import Result, check
from keda_scaler.lint.documents import MAX_BYTES, Document, parse_documents
from keda_scaler.lint.findings import Severity
from keda_scaler.lint.output import to_json, to_sarif, to_text
from keda_scaler.sources.apiserver import from_surroundings


class Format(StrEnum):
    """How findings are printed."""

    TEXT = "text"
    JSON = "json"
    SARIF = "sarif"


def lint_command(
    files: Annotated[
        list[str] | None, typer.Argument(metavar="FILE", help="Manifests; - is standard input.")
    ] = None,
    *,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Read the cluster of the kubeconfig instead.")
    ] = False,
    namespace: Annotated[
        str | None, typer.Option(help="Only this namespace; with --cluster. [default: all]")
    ] = None,
    format_: Annotated[
        Format, typer.Option("--format", help="json and sarif print one document.")
    ] = Format.TEXT,
    fail_on: Annotated[
        Severity, typer.Option(help="Exit with 1 if anything is as bad as that, or worse.")
    ] = Severity.WARNING,
) -> None:
    """Say what makes ScaledObjects misbehave, and what to do instead.

    Exit code 0: nothing as bad as --fail-on. 1: something is. 2: wrong command, unreadable input.
    """
    if bool(files) is cluster:
        raise typer.BadParameter("give either files, or --cluster")
    if namespace is not None and not cluster:
        raise typer.BadParameter("--namespace: only with --cluster")
    problems: list[str] = []
    warnings: list[str] = []
    documents: list[Document] = []
    try:
        if cluster:
            documents, warnings = asyncio.run(clusters.read_cluster(from_surroundings, namespace))
        else:
            documents, problems = _read_files(files or ())
        result = check(documents)
    except ScaledObjectError as error:
        _complain(error)
        raise typer.Exit(2) from error
    _print(result, format_)
    _complain(*warnings, *problems)
    raise typer.Exit(2 if problems else int(result.reaches(fail_on)))


def _read_files(names: Sequence[str]) -> tuple[list[Document], list[str]]:
    """Read what can be read, and say what cannot."""
    documents: list[Document] = []
    problems: list[str] = []
    for name in dict.fromkeys(names):
        try:
            documents += parse_documents(_content(name), name)
        except OSError as error:
            problems.append(f"{name}: {error.strerror or error}")
        except ScaledObjectError as error:
            problems.append(str(error))
    if not problems and not {"ScaledObject", "ScaledJob"} & {it.kind for it in documents}:
        problems.append("no ScaledObject in the input")
    return documents, problems


def _content(name: str) -> bytes:
    if name == "-":
        return sys.stdin.buffer.read(MAX_BYTES + 1)
    with Path(name).open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _print(result: Result, form: Format) -> None:
    match form:
        case Format.TEXT:
            Console(soft_wrap=True).print(to_text(result), highlight=False)
        case Format.JSON:
            typer.echo(json.dumps(to_json(result), indent=2))
        case Format.SARIF:
            typer.echo(json.dumps(to_sarif(result), indent=2))
        case _:
            assert_never(form)


def _complain(*texts: object) -> None:
    for text in texts:
        typer.echo(f"keda-scaler: {text}", err=True)
