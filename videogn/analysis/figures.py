"""The figures of an analysis, for papers and for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from videogn.analysis.batch_noise import AnswerNoise, LayerNoise
from videogn.analysis.calibration import Bin, Calibration
from videogn.report.palette import colours_of

# The page puts its own in their place.
GROUND, INK, SOFT, GRID = "#fefefe", "#191d22", "#58616c", "#e9ecef"
GAP = "#b3261e"
_BARS, _EARLY, _LATE = colours_of("GN")[0], "#aeb6bf", "#6a737e"
_MOST_NAMES = 40  # classes whose names fit beside a matrix
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "figure.facecolor": GROUND,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
}


def draw_calibration(found: Calibration) -> Figure:
    """Returns reliability diagrams: accuracy over probability, with the videos of each bin."""
    with mpl.rc_context(_STYLE):
        figure = _figure(7.6, 3.6)
        axes = figure.subplots(1, 2, sharex=True, sharey=True)
        panels = (
            ("bins of equal width", found.width_bins, found.ece_width),
            ("bins of as many videos", found.mass_bins, found.ece_mass),
        )
        for ax, (title, bins, ece) in zip(axes, panels, strict=True):
            ax.plot([0, 1], [0, 1], color=SOFT, linestyle=(0, (4, 3)), linewidth=1)
            _draw_bins(ax, bins)
            ax.set_title(f"{title}: ECE {100 * ece:.1f} %", fontsize=10, loc="left")
            ax.set_xlabel("probability of the answer")
            ax.set(xlim=(0, 1), ylim=(0, 1.03))
            ax.grid()
        axes[0].set_ylabel("share that is right")
    return figure


def draw_confusion(names: Sequence[str], counts: Sequence[Sequence[int]]) -> Figure:
    """Returns the matrix in percent of each row's videos; the last column counts unreadable ones.

    Args:
        names: of the classes; left out where there are too many to read.
        counts: rows are labels, columns answers.
    """
    matrix = np.array(counts, float)
    if not matrix[:, -1].any():
        matrix = matrix[:, :-1]
    shares = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    size = float(np.clip(0.34 * len(names) + 1.6, 3.4, 9))
    with mpl.rc_context(_STYLE):
        figure = _figure(size + 0.9, size)
        ax = figure.subplots()
        shown = ax.imshow(shares, cmap=_blues(), vmin=0, vmax=100, aspect="auto")
        if len(names) <= _MOST_NAMES:
            wide = [*names, "not read"][: matrix.shape[1]]
            ax.set_xticks(range(len(wide)), wide, rotation=90)
            ax.set_yticks(range(len(names)), names)
            _write_counts(ax, matrix, shares)
        ax.set(xlabel="taken for", ylabel="class")
        ax.tick_params(length=0)
        bar = figure.colorbar(shown, ax=ax, shrink=0.8, label="% of the class")
        bar.outline.set_visible(False)
    return figure


def draw_percentiles(
    layer: str, points: Sequence[tuple[float, Mapping[str, Sequence[float | None]]]], norm: str
) -> Figure:
    """Returns Fig. 6 for one layer, percentiles over epochs: its input left, its output right.

    Args:
        layer: its name.
        points: (epoch, {"in": ..., "out": ...}), each the percentiles 1, 20, 80 and 99.
        norm: the kind of normalization, for the colour.
    """
    epochs = [epoch for epoch, _ in points]
    with mpl.rc_context(_STYLE):
        figure = _figure(7.6, 2.9)
        figure.suptitle(layer, x=0.01, horizontalalignment="left", fontsize=10, weight="bold")
        axes = figure.subplots(1, 2)
        titles = (
            ("in", "input: the convolution's output"),
            ("out", "output, before addition and ReLU"),
        )
        for ax, (end, title) in zip(axes, titles, strict=True):
            lines = np.array([values[end] for _, values in points], float).T  # None becomes NaN
            colour = colours_of(norm)[0]
            ax.fill_between(epochs, lines[0], lines[3], color=colour, alpha=0.12, linewidth=0)
            ax.fill_between(epochs, lines[1], lines[2], color=colour, alpha=0.22, linewidth=0)
            for line, name in zip(lines, ("1 %", "20 %", "80 %", "99 %"), strict=True):
                ax.plot(epochs, line, color=colour, linewidth=1.4, marker=".", markersize=4)
                if np.isfinite(line[-1]):
                    ax.annotate(
                        name, (epochs[-1], line[-1]), (4, 0), textcoords="offset points",
                        color=SOFT, fontsize=8, va="center",
                    )  # fmt: skip
            ax.set_title(title, fontsize=9.5, loc="left")
            ax.set_xlabel("epoch")
            ax.grid()
    return figure


def draw_layer_noise(noise: Mapping[int, Mapping[str, LayerNoise]]) -> Figure:
    """Returns the noise of BN's statistics over the batch: a line a layer, from light to dark.

    Args:
        noise: clips of a batch -> layer -> noise.
    """
    sizes = sorted(noise)
    layers = list(noise[sizes[0]])
    shades = LinearSegmentedColormap.from_list("depth", [_EARLY, _LATE])
    with mpl.rc_context(_STYLE):
        figure = _figure(7.6, 3.7)
        axes = figure.subplots(1, 2)
        panels = (
            ("mean", "batch mean: deviation\nin deviations of the feature"),
            ("scale", "log of the batch's deviation:\ndeviation between batches"),
        )
        for ax, (field, title) in zip(axes, panels, strict=True):
            rows = [[getattr(noise[size][layer], field) for size in sizes] for layer in layers]
            for depth, row in enumerate(rows):
                ax.plot(sizes, row, color=shades(depth / max(len(rows) - 1, 1)), linewidth=0.9)
            middle = np.median(rows, axis=0)
            ax.plot(sizes, middle, color=colours_of("BN")[0], linewidth=2.2, label="median (BN)")
            ax.plot(
                sizes, [0] * len(sizes), color=colours_of("GN")[0], linewidth=2, linestyle="--",
                label="GN: of one clip, by definition",
            )  # fmt: skip
            ax.set_title(title, fontsize=9.5, loc="left")
            _finish_sizes(ax, sizes)
        axes[1].plot([], [], color=_EARLY, label="first layer")
        axes[1].plot([], [], color=_LATE, label="last layer")
        _legend_below(figure, axes[1])
    return figure


def draw_answer_noise(answers: Mapping[str, Mapping[int, AnswerNoise]]) -> Figure:
    """Returns how much answers depend on company, over the batch: a line a network.

    Args:
        answers: a norm in capitals, with a remark behind it -> clips of a batch -> noise.
    """
    with mpl.rc_context(_STYLE):
        figure = _figure(7.6, 3.4)
        axes = figure.subplots(1, 2)
        panels = (
            ("change", "change of the logits, % of their length"),
            ("flips", "% with another top class than in evaluation"),
        )
        for ax, (field, title) in zip(axes, panels, strict=True):
            for name, noise in answers.items():
                sizes = sorted(noise)
                values = [100 * getattr(noise[size], field) for size in sizes]
                colour = colours_of(name.split(",")[0].split()[0])[0]
                ax.plot(
                    sizes, values, color=colour, marker="o", markersize=4, linewidth=1.8, label=name
                )
                _finish_sizes(ax, sizes)
            ax.set_title(title, fontsize=9.5, loc="left")
        _legend_below(figure, axes[0])
    return figure


def _legend_below(figure: Figure, named: Axes) -> None:
    """Names the lines of `named` below all axes, where it hides none."""
    handles, labels = named.get_legend_handles_labels()
    look = {"frameon": False, "fontsize": 8, "labelcolor": INK}
    figure.legend(handles, labels, loc="outside lower center", ncols=4, **look)


def _finish_sizes(ax: Axes, sizes: Sequence[int]) -> None:
    ax.set_xscale("log", base=2)
    ax.set_xticks(sizes, [str(size) for size in sizes])
    ax.minorticks_off()
    ax.set_xlabel("clips in a batch")
    ax.set_ylim(bottom=min(0, ax.get_ylim()[0]))
    ax.grid()


def _draw_bins(ax: Axes, bins: Sequence[Bin]) -> None:
    """Draws a bar for each bin, and a line from it to the diagonal: the gap that ECE counts."""
    most = max(each.videos for each in bins)
    for each in bins:
        width = max(each.high - each.low, 0.01)
        ax.bar(
            (each.low + each.high) / 2, each.accuracy, 0.92 * width,
            color=_BARS, alpha=0.25 + 0.6 * each.videos / most, linewidth=0,
        )  # fmt: skip
        ax.plot([each.confidence] * 2, [each.accuracy, each.confidence], color=GAP, lw=1.2)
        ax.plot(each.confidence, each.accuracy, ".", color=INK, markersize=5)


def _write_counts(ax: Axes, matrix: np.ndarray, shares: np.ndarray) -> None:
    for row, column in zip(*matrix.nonzero(), strict=True):
        colour = "#ffffff" if shares[row, column] > 55 else INK
        ax.text(
            column, row, f"{matrix[row, column]:.0f}",
            ha="center", va="center", fontsize=7, color=colour,
        )  # fmt: skip


def _blues() -> LinearSegmentedColormap:
    """Returns blue on nothing, so that the ground of a page shows through."""
    return LinearSegmentedColormap.from_list(
        "blues", [(0.11, 0.37, 0.66, 0), (0.11, 0.37, 0.66, 1)]
    )


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
