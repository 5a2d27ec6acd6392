"""Rows of text to a table for people."""

from collections.abc import Sequence


def lay_out(rows: Sequence[Sequence[str]], left: int) -> str:
    """Line columns up: the first few to the left, the others, numbers, to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
