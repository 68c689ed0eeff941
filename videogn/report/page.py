"""The page of all runs: one HTML file that needs nothing else and may load nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from videogn.data.tables import write_text
from videogn.report.data_set import data_set_part
from videogn.report.explorer import Thumbnails
from videogn.report.html import Cell, chip, norm_class, paragraph, safe, section, table
from videogn.report.palette import NORM_COLOURS
from videogn.report.settings import Group
from videogn.report.table8 import (
    CHANGES_HEADER,
    HEADER,
    Row,
    cells_of,
    cells_of_change,
    changes,
    protocols,
)


def write_page(
    path: Path,
    *,
    title: str,
    rows: Sequence[Row],
    groups: Sequence[Group],
    problems: Sequence[str],
    thumbnails: Thumbnails,
) -> None:
    """Writes the page to the file `path`.

    Args:
        path: of the page.
        title: its heading.
        rows: of Table 8.
        groups: the runs by data set.
        problems: what could not be read, a line each.
        thumbnails: makes them.
    """
    table8 = {"table8": ("Table 8", _table8(rows))}
    data_sets = {
        f"data{number}": (group.title, data_set_part(group, f"data{number}", thumbnails))
        for number, group in enumerate(groups, start=1)
    }
    filled = any(row.runs for row in rows)
    parts = table8 | data_sets if filled else data_sets | table8  # what is at hand comes first
    names = {anchor: name for anchor, (name, _) in parts.items()}
    body = [_head(title, groups, names), _problems(problems), *(part for _, part in parts.values())]
    write_text(path, document(title, "\n".join(part for part in body if part)))


def document(title: str, body: str) -> str:
    """Returns a page: a policy in it forbids loading anything, and any script but ours."""
    style, script = _resource("page.css") + _norm_colours(), _resource("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    policy += f"script-src 'sha256-{digest}'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{safe(title)}</title>\n<style>\n{style}</style></head>\n"
        f"<body><main>\n{body}\n</main>\n<script>{script}</script></body></html>\n"
    )


def _resource(name: str) -> str:
    return resources.files("videogn.report").joinpath(name).read_text(encoding="utf-8")


def _norm_colours() -> str:
    light = "".join(f".norm-{n} {{ --norm: {c}; }}\n" for n, (c, _) in NORM_COLOURS.items())
    dark = "".join(f".norm-{n} {{ --norm: {c}; }}\n" for n, (_, c) in NORM_COLOURS.items())
    return f"{light}@media (prefers-color-scheme: dark) {{\n{dark}}}\n"


def _head(title: str, groups: Sequence[Group], names: Mapping[str, str]) -> str:
    runs = [run for group in groups for run in group.runs]
    trained = sum(run.is_training for run in runs)
    counts = [(trained, "run"), (len(runs) - trained, "further test"), (len(groups), "data set")]
    said = ", ".join(f"{n} {what}{'s' if n != 1 else ''}" for n, what in counts if n)
    items = "".join(f'<li><a href="#{key}">{safe(name)}</a></li>' for key, name in names.items())
    return (
        f"<header><h1>{safe(title)}</h1>{paragraph(said or 'no runs yet')}"
        f'<nav aria-label="Parts of this page"><ul>{items}</ul></nav></header>'
    )


def _problems(problems: Sequence[str]) -> str:
    if not problems:
        return ""
    items = "".join(f"<li>{safe(problem)}</li>" for problem in problems)
    text = section("What could not be read", f"<ul>{items}</ul>", level=2)
    return text.replace("<section>", '<section class="problems">', 1)


def _table8(rows: Sequence[Row]) -> str:
    """Returns Table 8 and its changes; without a run of ours, columns of the paper alone."""
    filled = any(row.runs for row in rows)
    said, changed = list(map(cells_of, rows)), list(map(cells_of_change, changes(rows)))
    scale = _Scale(rows)
    names, body = _filled_columns(HEADER, said)
    body = [
        [*cells, Cell(value=row.cell.top1, css="scale", markup=scale.markup(row))]
        for row, cells in zip(rows, body, strict=True)
    ]
    remark = (
        "The paper: arXiv:1803.08494."
        if filled
        else "No run here is one of these experiments: the numbers are those of arXiv:1803.08494."
    )
    return (
        '<h2 id="table8">Table 8: I3D ResNet-50 on Kinetics-400</h2>'
        + section(
            "Accuracy of the 10-clip test, percent",
            table("Table 8, ours beside the paper's", [*names, scale.heading()], body, words=0),
            paragraph(f"{scale.key()} {remark}"),
            *(paragraph(f"Protocol: {protocol}.") for protocol in protocols(rows)),
        )
        + section(
            "What the paper concludes from it: changes of top-1 / top-5, points",
            table("Changes of Table 8", *_filled_columns(CHANGES_HEADER, changed), words=2),
        )
    )


def _filled_columns(
    header: Sequence[str], texts: Sequence[Sequence[str]]
) -> tuple[list[str], list[list[Cell]]]:
    """Returns the names and cells of the columns in which any row says something."""
    kept = [at for at in range(len(header)) if any(row[at] for row in texts)]
    body = [[_cell(header[at], row[at]) for at in kept] for row in texts]
    return [header[at] for at in kept], body


def _cell(name: str, text: str) -> Cell:
    if name == "norm":
        return Cell(text, markup=chip(text))
    return Cell(text) if name == "change" else _number_first(text)


def _number_first(text: str) -> Cell:
    """Returns a cell such as "73.0 ± 0.2 / 90.6" that is sorted by its first number."""
    try:
        return Cell(text, value=float(text.split()[0]), css="nowrap")
    except (IndexError, ValueError):
        return Cell(text, css="nowrap")


class _Scale:
    """Places top-1 on a line that holds every number of the table."""

    def __init__(self, rows: Sequence[Row]) -> None:
        values = [row.cell.top1 for row in rows]
        values += [row.top1.mean for row in rows if row.top1]
        self.low, self.high = min(values), max(values)
        self.has_ours = any(row.top1 for row in rows)

    def heading(self) -> Cell:
        """Returns the heading of the column: the scale's ends stand above the ends of its lines."""
        return Cell(
            css="scale",
            markup=f'<span class="least">{self.low:.1f}</span> <span>top-1, %</span> '
            f'<span class="most">{self.high:.1f}</span>',
        )

    def key(self) -> str:
        """Returns what the marks on the lines are."""
        ours = "; dot: ours" if self.has_ours else ""
        return (
            f"Ring: the paper's top-1{ours}, on a line from {self.low:.1f} % to {self.high:.1f} %, "
            "the least and the most in this table."
        )

    def markup(self, row: Row) -> str:
        """Returns a ring at the paper's top-1 and a dot at ours."""
        marks = f'<i style="left:{self._share(row.cell.top1):.1f}%"></i>'
        if row.top1:
            marks += f'<i class="ours" style="left:{self._share(row.top1.mean):.1f}%"></i>'
        return f'<span class="{norm_class(row.cell.norm)}" aria-hidden="true">{marks}</span>'

    def _share(self, value: float) -> float:
        return 100 * (value - self.low) / (self.high - self.low)
