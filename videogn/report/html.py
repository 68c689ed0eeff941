"""Pieces of HTML: everything in them that comes from outside is escaped here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from videogn.report.text import printable


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: as shown; from anywhere.
        value: to sort by instead of the text.
        css: classes of the cell.
        markup: HTML to show instead of the text, made by us.
    """

    text: str = ""
    value: float | None = None
    css: str = ""
    markup: str = ""


def safe(text: object) -> str:
    """Returns text for HTML; what cannot be shown is written as an escape."""
    return escape(printable(str(text)))


def section(title: str, *content: str, level: int = 3) -> str:
    """Returns a part of the page under a heading; `content` is HTML."""
    return f"<section><h{level}>{safe(title)}</h{level}>{''.join(content)}</section>"


def paragraph(text: str) -> str:
    """Returns a remark in plain words."""
    return f'<p class="soft">{safe(text)}</p>'


def chip(norm: str) -> str:
    """Returns the name of a norm in its colour."""
    return f'<span class="chip {norm_class(norm)}">{safe(norm)}</span>'


def norm_class(norm: str) -> str:
    """Returns the class that gives elements a norm's colour; a configuration may hold any name."""
    return "norm-" + "".join(c for c in norm if c.isascii() and (c.isalnum() or c == "_"))


def table(
    caption: str,
    header: Sequence[str | Cell],
    rows: Iterable[Sequence[str | Cell]],
    *,
    words: int = 1,
    css: str = "",
) -> str:
    """Returns a table that can be sorted by every column.

    Args:
        caption: what it shows, for those who hear the page.
        header: names of the columns; a cell's css is that of the heading.
        rows: cells under them; the first one names the row.
        words: columns at the left that hold words; the others hold numbers, set to the right.
        css: classes of the table.
    """
    head = "".join(_heading(name, place < words) for place, name in enumerate(header))
    body = "".join(
        f"<tr>{''.join(_cell(cell, place, words) for place, cell in enumerate(row))}</tr>"
        for row in rows
    )
    return (
        f'<div class="wide" role="region" aria-label="{safe(caption)}" tabindex="0">'
        f'<table class="sortable {css}"><caption>{safe(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def embedded_json(value: Any) -> str:
    """Returns a value as json that can stand in a script element: no name can end the element."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _cell(cell: str | Cell, place: int, words: int) -> str:
    cell = Cell(cell) if isinstance(cell, str) else cell
    tag, scope = ("th", ' scope="row"') if place == 0 else ("td", "")
    value = "" if cell.value is None else f' data-value="{cell.value:.10g}"'
    css = _classes(cell, place < words)
    return f"<{tag}{scope}{value}{css}>{cell.markup or safe(cell.text)}</{tag}>"


def _heading(name: str | Cell, is_words: bool) -> str:
    cell = Cell(name) if isinstance(name, str) else name
    return (
        f'<th scope="col"{_classes(cell, is_words)} aria-sort="none">'
        f'<button type="button">{cell.markup or safe(cell.text)}</button></th>'
    )


def _classes(cell: Cell, is_words: bool) -> str:
    classes = " ".join(filter(None, (cell.css, "words" if is_words else "")))
    return f' class="{classes}"' if classes else ""
