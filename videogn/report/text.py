"""Words and tables as plain text: what comes from outside cannot move a cursor or break a row."""

from __future__ import annotations

from collections.abc import Sequence


def printable(text: str) -> str:
    """`text` with whatever would move a terminal's cursor written as an escape."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> str:
    """Returns a table in markdown whose columns are also in line on a terminal.

    Args:
        header: names of the columns.
        rows: cells, as many as the header has.
        words: columns at the left that hold words; the others hold numbers, set to the right.
    """
    cells = [[printable(cell).replace("|", "\\|") for cell in row] for row in [header, *rows]]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    rules = [
        "-" * width if place < words else "-" * (width - 1) + ":"
        for place, width in enumerate(widths)
    ]
    lines = []
    for row in [cells[0], rules, *cells[1:]]:
        padded = [
            cell.ljust(width) if place < words else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"| {' | '.join(padded)} |")
    return "\n".join(lines)
