"""The figures for papers: the right lines in the right colours, and the same file each time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from tests.report.run_folders import write_curve, write_run
from videogn.report.fig7 import panels
from videogn.report.figures import draw_fig7, draw_table8, save_figure
from videogn.report.palette import DASHES, NORM_COLOURS
from videogn.report.records import Run, find_runs
from videogn.report.table8 import TABLE8, table8_rows


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    for seed, last in enumerate([40.0, 30.0]):
        folder = write_run(tmp_path / f"gn{seed}", f"seed={seed}", top1=73.0 + seed)
        write_curve(folder, [60.0, 50.0, last])
    write_curve(write_run(tmp_path / "bn", experiment="i3d_bn_64f", top1=73.0), [80.0, 70.0])
    return find_runs(tmp_path).runs


def test_fig7_has_bn_left_gn_right_on_the_same_axes(runs: list[Run]) -> None:
    figure = draw_fig7([("Kinetics-400", runs)])
    assert figure is not None
    bn, gn = figure.axes
    assert (bn.get_title("left"), gn.get_title("left")) == ("Kinetics-400: BN", "Kinetics-400: GN")
    for axes, norm in ((bn, "BN"), (gn, "GN")):
        assert {to_hex(line.get_color()) for line in axes.get_lines()} == {NORM_COLOURS[norm][0]}
    assert bn.get_ylim() == gn.get_ylim()
    assert bn.get_xlim()[0] == gn.get_xlim()[0] == 0
    [line] = gn.get_lines()
    assert line.get_label() == "32 frames, 8 clips (2 seeds)"
    assert np.array_equal(np.asarray(line.get_ydata()), [60.0, 50.0, 35.0])
    assert len(gn.collections) == 1  # the band
    assert not bn.collections


def test_without_curves_there_is_no_fig7(runs: list[Run]) -> None:
    assert draw_fig7([]) is None
    assert draw_fig7([("x", [Run(Path(), "x", True, {})])]) is None


def test_each_data_set_has_a_row_and_no_place_is_empty(runs: list[Run]) -> None:
    [gn] = [run for run in runs if run.name == "gn0"]
    figure = draw_fig7([("one", runs), ("two", [gn]), ("none", [])])
    assert figure is not None
    assert [axes.get_title("left") for axes in figure.axes] == ["one: BN", "one: GN", "two: GN"]
    assert all(axes.get_visible() and axes.get_lines() for axes in figure.axes)
    figure.draw_without_rendering()
    left, right, alone = (axes.get_window_extent() for axes in figure.axes)
    assert alone.width > 1.5 * left.width
    assert alone.x1 == pytest.approx(right.x1, abs=20)
    assert figure.axes[2].get_ylim() != figure.axes[0].get_ylim()


def test_many_norms_take_rows_on_the_same_axes(runs: list[Run]) -> None:
    kinds = ("gn", "bn", "ln", "in", "brn")
    [one] = [run for run in runs if run.name == "gn0"]
    many = [replace(one, config={**one.config, "model.norm.kind": kind}) for kind in kinds]
    figure = draw_fig7([("x", many)])
    assert figure is not None
    assert [axes.get_title("left") for axes in figure.axes] == [
        f"x: {norm}" for norm in ("BN", "GN", "BRN", "IN", "LN")
    ]
    assert {len(part.axes) for part in figure.subfigs} == {2, 3}
    assert len({(axes.get_xlim(), axes.get_ylim()) for axes in figure.axes}) == 1
    ticks = figure.axes[0].get_xticks()
    assert len(ticks) > 2
    assert all(tick == round(tick) for tick in ticks)


def test_six_batch_sizes_have_six_kinds_of_line(runs: list[Run]) -> None:
    [one] = [run for run in runs if run.name == "gn0"]
    sizes = (1, 2, 4, 8, 16, 32)
    many = [replace(one, config={**one.config, "optim.clips_per_gpu": n}) for n in sizes]
    [panel] = panels(many)
    assert len({DASHES[line.style] for line in panel.lines}) == 6


def marks(figure: Figure) -> list[tuple[float, str]]:
    """(top-1, "ring" or "dot") of each mark, from the first row on."""
    lines = [line for line in figure.axes[0].get_lines() if line.get_marker() == "o"]
    return [
        (
            float(np.asarray(line.get_xdata())[0]),
            "ring" if line.get_markerfacecolor() == "none" else "dot",
        )
        for line in lines
    ]


def test_table8_has_a_ring_for_the_paper_and_a_dot_for_ours(runs: list[Run]) -> None:
    figure = draw_table8(table8_rows(runs))
    found = marks(figure)
    assert [x for x, kind in found if kind == "ring"] == [cell.top1 for cell in TABLE8]
    assert [x for x, kind in found if kind == "dot"] == [73.5, 73.0]
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts.count("not run") == 4
    assert "73.5 ± 0.7 / 90.5 ± 0.0" in texts


def test_the_same_runs_give_the_same_files(runs: list[Run], tmp_path: Path) -> None:
    first, again = (
        [path.read_bytes() for path in save_figure(draw_table8(table8_rows(runs)), tmp_path / stem)]
        for stem in ("one", "two")
    )
    assert first == again
    assert first[0].startswith(b"\x89PNG")
