"""Renders the tables of docs/faults.md: plays every row, and writes down what came of it."""

import asyncio
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from fault_play import Outcome, Played, play
from fault_scenes import ENDS, TABLES, Row

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"

_TABLE = re.compile(r"<!-- faults (\w+) -->\n.*?<!-- /faults -->", re.DOTALL)


@cache
def outcome(name: str) -> Outcome:
    """Play a row, once."""
    rows = {row.name: row for table in (*TABLES.values(), ENDS) for row in table}
    return asyncio.run(_played(rows[name]))


async def _played(row: Row) -> Outcome:
    return play(row.scene)


def render(page: str) -> str:
    """Write the tables of the page anew."""
    return _TABLE.sub(lambda found: "\n".join(_section(found[1])), page)


def _section(name: str) -> Iterator[str]:
    yield f"<!-- faults {name} -->"
    yield from _table_of_ends() if name == "ends" else _table(TABLES[name])
    yield "<!-- /faults -->"


def _table(rows: Sequence[Row]) -> Iterator[str]:
    yield "| row | fault | IsActive / GetMetrics | replicas |"
    yield "|---|---|---|---|"
    for row in rows:
        yield f"| {_what(row)} | {_said(row)} | {_replicas(row)} |"


def _table_of_ends() -> Iterator[str]:
    yield "| row | fault | IsActive / GetMetrics | replicas | instead |"
    yield "|---|---|---|---|---|"
    for row in ENDS:
        yield f"| {_what(row)} | {_said(row)} | {_replicas(row)} | {row.remedy} |"


def _what(row: Row) -> str:
    reason = f" Reason: `{row.says}`" if row.says else ""
    return f"{row.name} | {row.what}{reason}"


def _said(row: Row) -> str:
    told = [f"{s.active} / {s.value} ({s.why})" for s in outcome(row.name).plain.said]
    return _changes(row, told)


def _replicas(row: Row) -> str:
    played = outcome(row.name)
    plain, raced = (_counts(row, each) for each in (played.plain, played.raced))
    return plain if plain == raced else f"{plain}<br>**with the race:**<br>{raced}"


def _counts(row: Row, played: Played) -> str:
    return _changes(row, [str(count) for count in played.replicas])


def _changes(row: Row, shown: Sequence[str]) -> str:
    """Write what there was just before `zero`, and every change from then on."""
    first = max(row.zero - 1, 0)
    changes = [shown[first]]
    for second in range(first + 1, len(shown)):
        if shown[second] != shown[second - 1]:
            minutes, seconds = divmod(second - row.zero, 60)
            changes.append(f"{minutes}:{seconds:02} {shown[second]}")
    return "<br>".join(changes)


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text()))
