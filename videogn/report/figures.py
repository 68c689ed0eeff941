"""Table 8 and Fig. 7 as pictures for papers and slides: PNG and SVG."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from videogn.report.fig7 import Y_LABEL, Line, Panel, bounds, panels
from videogn.report.palette import DASHES, colours_of
from videogn.report.records import Run
from videogn.report.table8 import Row, cells_of

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a929c",
    "xtick.color": "#4a525c",
    "ytick.color": "#4a525c",
    "svg.hashsalt": "videogn",  # the same runs give the same file
}
_DPI = 160
_SOFT = "#5b6470"
_MOST_COLUMNS = 3  # panels of Fig. 7 side by side


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Writes `stem`.png and `stem`.svg; returns their paths."""
    written = []
    for kind in ("png", "svg"):
        path = stem.with_name(f"{stem.name}.{kind}")
        content = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {}
        with mpl.rc_context(_STYLE):
            figure.savefig(content, format=kind, dpi=_DPI, metadata=metadata, bbox_inches="tight")
        path.write_bytes(content.getvalue())
        written.append(path)
    return written


def draw_fig7(groups: Sequence[tuple[str, Sequence[Run]]]) -> Figure | None:
    """Returns Fig. 7 of each data set, one below the other; None without a single curve.

    The panels of a data set have the same axes, and each row of them fills the width: data sets
    with fewer norms than others leave no empty place.

    Args:
        groups: titles with runs.
    """
    drawn = [(title, found) for title, runs in groups if (found := panels(runs))]
    if not drawn:
        return None
    rows = [(title, row, bounds(found)) for title, found in drawn for row in _rows_of(found)]
    columns = max(len(row) for _, row, _ in rows)
    with mpl.rc_context(_STYLE):
        figure = _figure(4.2 * columns, 3.1 * len(rows))
        parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
        for part, (title, row, limits) in zip(parts, rows, strict=True):
            grid = part.subplots(1, len(row), squeeze=False, sharex=True, sharey=True)[0]
            for ax, panel in zip(grid, row, strict=True):
                _draw_panel(ax, panel)
                ax.set_title(f"{title}: {panel.norm}", fontsize=10, loc="left")
            grid[0].set_ylabel(Y_LABEL)
            _set_limits(grid[0], *limits)
    return figure


def _rows_of(found: Sequence[Panel]) -> list[Sequence[Panel]]:
    """Returns the panels in rows that a page is wide enough for, as equal as can be."""
    count = math.ceil(len(found) / _MOST_COLUMNS)
    ends = [round(len(found) * row / count) for row in range(count + 1)]
    return [found[begin:end] for begin, end in pairwise(ends)]


def _set_limits(ax: Axes, last: float, low: float, high: float) -> None:
    """Sets the axes of a row, with some room around the lines; ticks are whole epochs."""
    room = 0.04 * (high - low) or 1.0
    ax.set_xlim(0, 1.03 * last or 1.0)
    ax.set_ylim(low - room, high + room)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10], integer=True))


def draw_table8(rows: Sequence[Row]) -> Figure:
    """Returns the table with a scale of top-1 beside it: rings are the paper's, dots ours."""
    with mpl.rc_context(_STYLE):
        figure = _figure(9.2, 3.2)
        ax = figure.subplots()
        for place, row in enumerate(rows):
            _draw_row(ax, -place, row)
        ax.set_ylim(-len(rows) + 0.4, 1.1)
        ax.set_yticks([-place for place in range(len(rows))], [_name_of(row) for row in rows])
        ax.tick_params(axis="y", length=0)
        for place, text in ((1.05, "ours"), (1.46, "paper")):
            ax.text(
                place, 0.72, text, transform=ax.get_yaxis_transform(), color=_SOFT, fontsize=8.5
            )
        ax.set_xlabel("top-1 accuracy, %  (ring: paper, dot: ours)")
        ax.grid(axis="x", color="#e3e6ea", linewidth=0.7)
        ax.set_axisbelow(True)
        ax.set_title("Table 8, Kinetics-400, 10-clip test", fontsize=10, loc="left")
    return figure


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _draw_panel(ax: Axes, panel: Panel) -> None:
    colour = colours_of(panel.norm)[0]
    for line in panel.lines:
        _draw_line(ax, line, colour)
    ax.set_xlabel("epoch")
    ax.tick_params(labelleft=True)
    ax.grid(color="#e9ebee", linewidth=0.7)
    ax.legend(frameon=False, fontsize=8, handlelength=3.5)


def _draw_line(ax: Axes, line: Line, colour: str) -> None:
    epochs = [p.epoch for p in line.points]
    dash = DASHES[line.style % len(DASHES)]
    seeds = f" ({line.seeds} seeds)" if line.seeds > 1 else ""
    ax.plot(
        epochs,
        [p.error for p in line.points],
        color=colour,
        linewidth=1.5,
        linestyle=(0, dash) if dash else "-",
        marker="o" if len(epochs) < 15 else None,
        markersize=2.5,
        label=f"{line.label}{seeds}",
    )
    if line.seeds > 1:
        low, high = [p.low for p in line.points], [p.high for p in line.points]
        ax.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0)


def _draw_row(ax: Axes, y: float, row: Row) -> None:
    cell, colour = row.cell, colours_of(row.cell.norm)[0]
    ax.plot(cell.top1, y, marker="o", markersize=8, markerfacecolor="none", color=colour)
    if row.top1:
        spread = row.top1.deviation if row.top1.seeds > 1 else 0
        ax.errorbar(row.top1.mean, y, xerr=spread, marker="o", markersize=5, color=colour)
    _, _, _, ours, paper, *_ = cells_of(row)
    for place, text in ((1.05, ours or "not run"), (1.46, paper)):
        ax.text(
            place,
            y,
            text,
            transform=ax.get_yaxis_transform(),
            verticalalignment="center",
            color=_SOFT if text == "not run" else "black",
        )


def _name_of(row: Row) -> str:
    cell = row.cell
    return f"{cell.frames} frames, {cell.clips_per_gpu} clips/GPU, {cell.norm}"
