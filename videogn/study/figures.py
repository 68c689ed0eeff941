"""A study as pictures: error over epochs as in Figs. 5 and 7, accuracy over the batch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from videogn.report.palette import DASHES, colours_of
from videogn.study.curves import Curve, usual
from videogn.study.records import Done, Spread, by_setting, spread
from videogn.study.tables import name_of

_LEFT_AND_RIGHT = ("bn", "gn")  # as in Fig. 7


def draw_curves(curves: Sequence[Curve]) -> Figure | None:
    """Returns validation error over epochs, BN left and GN right, a line a batch, a row a length.

    Bands are a standard deviation over seeds to each side. None without a curve of theirs.
    """
    shown = [curve for curve in curves if curve.setting.norm in _LEFT_AND_RIGHT]
    lengths = sorted({curve.setting.frames for curve in shown}, reverse=True)
    if not shown:
        return None
    figure = _figure(7.6, 2.9 * len(lengths))
    grid = figure.subplots(len(lengths), 2, squeeze=False, sharex=True, sharey=True)
    for length, axes in zip(lengths, grid, strict=True):
        for norm, ax in zip(_LEFT_AND_RIGHT, axes, strict=True):
            of_panel = [c for c in shown if (c.setting.norm, c.setting.frames) == (norm, length)]
            for dash, curve in zip(cycle(DASHES), _largest_first(of_panel), strict=False):
                _draw_curve(ax, curve, dash)
            ax.set_title(f"{name_of(norm)}, {length} frames", fontsize=10, loc="left")
            _finish(ax)
            if of_panel:
                ax.legend(frameon=False, fontsize=8, handlelength=3)
        axes[0].set_ylabel("validation error, %")
    for ax in grid[-1]:
        ax.set_xlabel("epoch")
    return figure


def draw_accuracy(done: Sequence[Done]) -> Figure | None:
    """Returns test accuracy over clips a step, a line a norm, a panel a length; None without any.

    Bars are a standard deviation over seeds to each side.
    """
    groups = {setting: spread(group, "test") for setting, group in by_setting(usual(done)).items()}
    groups = {setting: reached for setting, reached in groups.items() if reached.mean is not None}
    lengths = sorted({setting.frames for setting in groups})
    if not groups:
        return None
    figure = _figure(3.8 * len(lengths), 3.5)
    axes = figure.subplots(1, len(lengths), squeeze=False, sharey=True)[0]
    norms = list(dict.fromkeys(setting.norm for setting in groups))
    for length, ax in zip(lengths, axes, strict=True):
        for place, norm in enumerate(norms):
            aside = 1 + 0.02 * (place - len(norms) / 2)  # so that no bar hides another
            points = [
                (setting.batch * aside, groups[setting])
                for setting in sorted(groups, key=lambda setting: setting.batch)
                if (setting.norm, setting.frames) == (norm, length)
            ]
            if points:
                _draw_points(ax, norm, points)
        ax.set_title(f"{length} frames", fontsize=10, loc="left")
        ax.set_xlabel("clips a step")
        ax.set_xscale("log", base=2)
        batches = sorted({setting.batch for setting in groups})
        ax.set_xticks(batches, [str(batch) for batch in batches])
        ax.minorticks_off()
        _finish(ax)
    axes[0].set_ylabel("test accuracy, %")
    # Below them all: within, it would hide what it names.
    named = {
        label: line
        for ax in axes
        for line, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        list(named.values()),
        list(named),
        loc="outside lower center",
        ncols=3 * len(lengths),
        frameon=False,
        fontsize=8,
    )
    return figure


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _finish(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="#e9ebee", linewidth=0.7)


def _largest_first(curves: Sequence[Curve]) -> list[Curve]:
    return sorted(curves, key=lambda curve: -curve.setting.batch)


def _draw_curve(ax: Axes, curve: Curve, dash: tuple[float, ...]) -> None:
    colour = colours_of(curve.setting.norm.upper())[0]
    epochs = [epoch for epoch, _ in curve.points]
    means = [error.mean or 0.0 for _, error in curve.points]
    widths = [error.deviation or 0.0 for _, error in curve.points]
    seeds = curve.points[0][1].seeds
    style = (0, dash) if dash else "-"
    label = f"{curve.setting.batch} clips ({seeds} seed{'s' * (seeds > 1)})"
    ax.plot(epochs, means, color=colour, linestyle=style, linewidth=1.5, label=label)
    low = [mean - width for mean, width in zip(means, widths, strict=True)]
    high = [mean + width for mean, width in zip(means, widths, strict=True)]
    ax.fill_between(epochs, low, high, color=colour, alpha=0.12, linewidth=0)


def _draw_points(ax: Axes, norm: str, points: Sequence[tuple[float, Spread]]) -> None:
    ax.errorbar(
        [batch for batch, _ in points],
        [reached.mean or 0.0 for _, reached in points],
        yerr=[reached.deviation or 0.0 for _, reached in points],
        color=colours_of(norm.upper())[0],
        marker="o",
        markersize=4,
        linewidth=1.3,
        capsize=2,
        label=name_of(norm),
    )
