"""`keda-scaler explain`: ask a running scaler why a target is what it is.

Exit codes: 0 when it could be told, 1 when not: no such target, no such scaler, no right to know.
"""

import sys
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Annotated
from urllib.parse import quote, urlsplit

import msgspec
import requests
import typer
import urllib3
from rich.console import Console
from rich.table import Table
from rich.text import Text

from keda_scaler.core import told
from keda_scaler.core.words import (
    asks,
    condition,
    duration,
    plain,
    quantity,
    reading,
    replicas_text,
    to_zero,
)
from keda_scaler.errors import ExplainError

TIMEOUT_SECONDS = 10.0
"""To connect, and between two bytes."""

MAX_ANSWER_BYTES = 32 * 2**20
"""Read of an answer: twenty targets of two hundred replicas fit in."""

_COLOURS = {"active": "green", "idle": "cyan", "unknown": "red"}


class _Answer(msgspec.Struct):
    """The answer of /targets/{namespace}/{name}."""

    targets: list[told.Explanation]


def explain_command(
    target: Annotated[str, typer.Argument(metavar="NAMESPACE/NAME", help="The ScaledObject.")],
    address: Annotated[
        str, typer.Option(metavar="URL", help="The scaler's HTTP address.")
    ] = "http://127.0.0.1:8080",
    token_file: Annotated[
        Path | None, typer.Option(help="A token of the scaler's --http-tokens.")
    ] = None,
    timeline: Annotated[  # noqa: FBT002  # a flag of the command line
        bool, typer.Option("--timeline", help="Print what happened, and nothing else.")
    ] = False,
    output: Annotated[str, typer.Option(help="text or json.")] = "text",
) -> None:
    """Say why a target is what it is: what is known of it, what decides, and what happened."""
    if output not in {"text", "json"}:
        raise ExplainError(f"--output: got {output!r}; accepted: text or json")
    body = fetch(address, target, _token(token_file))
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except msgspec.DecodeError as error:
        raise ExplainError(f"{address} gave no answer of a keda-scaler: {error}") from error
    console = Console(width=None if sys.stdout.isatty() else 160, soft_wrap=output == "json")
    if output == "json":
        console.print(body.decode(), markup=False, highlight=False)
        return
    for explanation in answer.targets:
        if timeline:
            print_timeline(explanation, console)
        else:
            print_explanation(explanation, console)


def fetch(address: str, target: str, token: str | None) -> bytes:
    """Ask a scaler about a target.

    Raises:
        ExplainError: when it does not say.

    """
    namespace, _, name = target.partition("/")
    if not namespace or not name:
        raise ExplainError(f"got {target!r}; accepted: NAMESPACE/NAME of a ScaledObject")
    if not _is_url(address):
        raise ExplainError(f"--address: got {address!r}; accepted: a URL, http://HOST:PORT")
    url = f"{address.rstrip('/')}/targets/{quote(namespace, safe='')}/{quote(name, safe='')}"
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        with requests.get(
            url, headers=headers, timeout=TIMEOUT_SECONDS, stream=True, allow_redirects=False
        ) as answer:
            body = answer.raw.read(MAX_ANSWER_BYTES + 1, decode_content=True)
            if answer.status_code != 200:
                said = body[:2000].decode(errors="replace").strip().splitlines()
                text = "\n".join(map(plain, said))
                raise ExplainError(f"{address} answers {answer.status_code}: {text}")
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise ExplainError(f"{address} does not answer: {_why(error)}") from error
    if len(body) > MAX_ANSWER_BYTES:
        raise ExplainError(f"{address} answers with over {MAX_ANSWER_BYTES} bytes")
    return bytes(body)


def _is_url(address: str) -> bool:
    try:
        url = urlsplit(address)
    except ValueError:  # brackets that do not close
        return False
    return url.scheme in {"http", "https"} and bool(url.netloc)


def _why(error: BaseException) -> str:
    """Find what the system said; what libraries make of it is long."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


def _token(file: Path | None) -> str | None:
    """Read a token: alone in the file, or of the first line of what --http-tokens reads."""
    if file is None:
        return None
    try:
        words = file.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise ExplainError(f"--token-file {file}: cannot be read: {error}") from error
    if not words or len(words) > 2:
        raise ExplainError(f"--token-file {file}: one token is accepted")
    return words[-1]


def print_explanation(target: told.Explanation, console: Console) -> None:
    """Print everything of a target, and its last changes."""
    console.print(_head(target))
    console.print(_text(f"  to do: {target.to_do}"))
    for warning in target.warnings:
        console.print(_text(f"  warning: {warning}", style="yellow"))
    console.print(_text(f"  replicas: {replicas_text(target)}"))
    console.print(_text(f"  to zero: {to_zero(target)}"))
    console.print(_text(f"  asked about: {duration(target.asked_age_seconds)} ago"))
    for bound in target.bound_by:
        left = "" if bound.seconds_left is None else f" ({duration(bound.seconds_left)} left)"
        console.print(_text(f"  {bound.what}: {bound.text}{left}"))
    if target.demand is not None:
        console.print(_text(f"  {_demand(target.demand)}"))
    console.print(_signals(target))
    if target.replicas:
        console.print(_replicas(target))
    if target.replicas_left_out:
        console.print(_text(f"  and {target.replicas_left_out} replicas more"))
    console.print(_timeline("last changes (--timeline: all)", list(target.changes[:5])))


def print_timeline(target: told.Explanation, console: Console) -> None:
    """Print what happened: changes of state or reason, and minutes in which replicas changed."""
    console.print(_head(target))
    console.print(_timeline("what happened, the newest first", happened(target)))


def happened(target: told.Explanation) -> list[told.Change]:
    """Give the changes, and between them the minutes that wanted other replicas; newest first."""
    asked_at = max((c.unix_seconds + c.seconds_ago for c in target.changes), default=0.0)
    minutes = [
        told.Change(
            unix_seconds=after.unix_seconds,
            seconds_ago=max(0.0, asked_at - after.unix_seconds),
            state=after.state,
            reason=after.reason,
            text=_moved(before, after),
            replicas_wanted=after.replicas_wanted,
            replicas_answering=after.replicas_answering,
        )
        for before, after in pairwise(target.samples)
        if (before.state, before.reason) == (after.state, after.reason) and _moved(before, after)
    ]
    return sorted([*target.changes, *minutes], key=lambda change: -change.unix_seconds)


def _moved(before: told.Sample, after: told.Sample) -> str:
    parts = []
    if before.replicas_wanted != after.replicas_wanted:
        parts.append(f"{after.replicas_wanted} wanted instead of {before.replicas_wanted}")
    if before.replicas_answering != after.replicas_answering:
        parts.append(f"{after.replicas_answering} answer instead of {before.replicas_answering}")
    return ", ".join(parts)


def _head(target: told.Explanation) -> Text:
    return Text.assemble(
        _text(f"{target.namespace}/{target.name}", style="bold"),
        ": ",
        _text(target.state, style=_COLOURS.get(target.state, "")),
        _text(f", {target.reason} for {duration(target.since_seconds)}: {target.text}"),
    )


def _demand(demand: told.Demand) -> str:
    if demand.requests is None:
        return f"wake source {demand.source}: {demand.missing}"
    missing = f" ({demand.missing})" if demand.missing else ""
    age = duration(demand.age_seconds)
    return f"wake source {demand.source}: {demand.requests:g} requests, {age} ago{missing}"


def _signals(target: told.Explanation) -> Table:
    table = _table("signal", "per replica", "target", "asks for replicas")
    for signal in target.signals:
        number = quantity(signal.per_replica, signal.unit)
        style = "bold" if signal.decides else ""
        cells = (
            signal.signal,
            number,
            quantity(signal.target, signal.unit),
            asks(signal).removeprefix("asks for "),
        )
        table.add_row(*(_text(cell, style=style) for cell in cells))
    return table


def _replicas(target: told.Explanation) -> Table:
    table = _table("replica", "is", *(each.signal for each in target.replicas[0].readings))
    for replica in target.replicas:
        cells = (replica.name, condition(replica), *map(reading, replica.readings))
        table.add_row(*(_text(cell) for cell in cells))
    return table


def _timeline(title: str, changes: list[told.Change]) -> Table:
    table = _table("when", "state", "reason", "why", "wanted", "answering", title=title)
    for change in changes:
        at = datetime.fromtimestamp(change.unix_seconds, UTC)
        table.add_row(
            _text(f"{at:%H:%M:%S}Z, {duration(change.seconds_ago)} ago"),
            _text(change.state, style=_COLOURS.get(change.state, "")),
            _text(change.reason),
            _text(change.text),
            _text(f"{change.replicas_wanted}"),
            _text(f"{change.replicas_answering}"),
        )
    return table


def _text(text: str, style: str = "") -> Text:
    return Text(plain(text), style=style)


def _table(*heads: str, title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=True)
    for head in heads:
        table.add_column(_text(head, style="dim"), overflow="fold")
    return table
