"""A run fills its cell of Table 8 only when it is that experiment, in every scientific value."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import pytest

from tests.report.run_folders import write_run
from videogn.report.records import find_runs
from videogn.report.table8 import (
    TABLE8,
    cells_of_change,
    changes,
    format_table8,
    protocols,
    table8_csv,
    table8_rows,
)


def rows_of(folder: Path) -> Any:
    return table8_rows(find_runs(folder).runs)


def table_of(folder: Path) -> str:
    """The tables in markdown, without the rules and the padding that sets columns in line."""
    lines = format_table8(rows_of(folder)).splitlines()
    return "\n".join(re.sub(" +", " ", line) for line in lines if not line.startswith("| ---"))


def filled_row(folder: Path) -> str | None:
    """The row of the table that some run filled, None when none did."""
    rows = [row for row in table_of(folder).splitlines() if "(2)" in row]
    assert len(rows) <= 1
    return rows[0] if rows else None


EMPTY = """\
Table 8 (arXiv:1803.08494), Kinetics-400, 10-clip accuracy in percent:

| frames | clips/GPU | norm | ours top-1 / top-5 | paper top-1 / top-5 | difference | seeds \
| videos (failed) | clips/step |
| 32 | 8 | BN | | 73.3 / 90.7 | | | | |
| 32 | 8 | GN | | 73.0 / 90.6 | | | | |
| 32 | 4 | BN | | 72.1 / 90.0 | | | | |
| 32 | 4 | GN | | 72.8 / 90.6 | | | | |
| 64 | 4 | BN | | 73.3 / 90.8 | | | | |
| 64 | 4 | GN | | 74.5 / 91.7 | | | | |

| change | norm | ours top-1 / top-5 | paper top-1 / top-5 |
| 64 frames instead of 32, at 4 clips | BN | | +1.2 / +0.8 |
| 64 frames instead of 32, at 4 clips | GN | | +1.7 / +1.1 |
| 4 clips instead of 8, of 32 frames | BN | | -1.2 / -0.7 |
| 4 clips instead of 8, of 32 frames | GN | | -0.2 / +0.0 |
"""


def test_without_runs_the_table_is_the_papers(tmp_path: Path) -> None:
    assert table_of(tmp_path) + "\n" == EMPTY


def test_a_run_fills_its_cell(tmp_path: Path) -> None:
    write_run(tmp_path / "x" / "1")
    filled = "| 32 | 8 | GN | 73.0 / 90.5 | 73.0 / 90.6 | +0.0 / +0.0 | 1 | 19761 (2) | 64 |"
    expected = EMPTY.replace("| 32 | 8 | GN | | 73.0 / 90.6 | | | | |", filled)
    assert table_of(tmp_path) == f"{expected}\nProtocol: 10 clips in words."


@pytest.mark.parametrize("cell", TABLE8, ids=lambda cell: cell.name)
def test_each_experiment_fills_its_own_cell_only(cell: Any, tmp_path: Path) -> None:
    write_run(tmp_path / "x" / "1", experiment=cell.name, top1=cell.top1 + 1, top5=cell.top5 - 1)
    row = f"| {cell.frames} | {cell.clips_per_gpu} | {cell.norm} | "
    filled = filled_row(tmp_path)
    assert filled is not None
    assert filled.startswith(row)
    assert "| +1.0 / -1.0 |" in filled


@pytest.mark.parametrize(
    "override",
    [
        "seed=7",
        "name=again",
        "data.root=/elsewhere/k400",
        "data.videos=/elsewhere/videos",
        "model.init=/cache/checkpoints/R-50-GN.pkl",
        "device=cuda",
        "data.num_workers=3",
        "wandb.mode=offline",
        "log_every_steps=5",
        "save_every_steps=5",
        "data.mean=[0.48,0.46,0.41]",
    ],
)
def test_what_does_not_change_the_experiment_is_not_compared(override: str, tmp_path: Path) -> None:
    write_run(tmp_path / "x" / "1", override)
    assert filled_row(tmp_path) is not None


@pytest.mark.parametrize(
    "override",
    [
        "model.num_classes=5",
        "optim.max_steps=100",
        "optim.max_steps=400000",
        "optim.base_lr=0.02",
        "optim.epochs=100",
        "optim.milestones=[40.9,81.9]",
        "optim.accumulate=2",
        "optim.clips_per_gpu=2",
        "optim.amp=bf16",
        "optim.weight_decay_norm=1e-4",
        "data.num_frames=16",
        "data.short_side=[256,340]",
        "eval.num_clips=1",
        "eval.crops=three",
        "eval.clip_rule=slowfast",
        "model.init=null",
        "model.init=/cache/R-101-GN.pkl",
        "model.norm.num_groups=16",
        "model.norm.kind=ln",
        "model.stem_pool_padding=1",
        "model.inflation=center",
    ],
)
def test_another_experiment_fills_no_cell(override: str, tmp_path: Path) -> None:
    write_run(tmp_path / "x" / "1", override)
    assert table_of(tmp_path) + "\n" == EMPTY


def test_seeds_have_mean_and_spread_and_the_newest_run_of_each_counts(tmp_path: Path) -> None:
    write_run(tmp_path / "old", "seed=1", age=90, top1=10.0)
    write_run(tmp_path / "a", "seed=1", age=50, top1=70.0, top5=90.0)
    write_run(tmp_path / "b", "seed=2", age=10, top1=71.0, top5=90.0, failed=[])
    write_run(tmp_path / "c", "seed=3", age=20, top1=75.0, top5=90.0)
    row = next(row for row in rows_of(tmp_path) if row.runs)
    assert [run.name for run in row.runs] == ["a", "c", "b"]
    assert (row.top1.mean, row.top1.seeds) == (72.0, 3)
    assert row.top1.deviation == pytest.approx(((4 + 1 + 9) / 2) ** 0.5)
    assert (
        "| 32 | 8 | GN | 72.0 ± 2.6 / 90.0 ± 0.0 | 73.0 / 90.6 | -1.0 / -0.6 | 3 "
        "| 19761 (2), 19761 (0) | 64 |"
    ) in table_of(tmp_path)


def test_changes_are_those_of_the_means(tmp_path: Path) -> None:
    write_run(tmp_path / "a", experiment="i3d_gn_32f_bs4", top1=70.0, top5=90.0)
    write_run(tmp_path / "b", "seed=1", experiment="i3d_gn_32f_bs4", top1=71.0, top5=90.5)
    write_run(tmp_path / "c", experiment="i3d_gn_64f", top1=73.0, top5=91.0)
    found = {(c.what[:9], c.norm): cells_of_change(c)[2] for c in changes(rows_of(tmp_path))}
    assert found == {
        ("64 frames", "BN"): "",
        ("64 frames", "GN"): "+2.5 / +0.8",  # of one seed against two: no spread to tell
        ("4 clips i", "BN"): "",
        ("4 clips i", "GN"): "",
    }


def test_a_change_has_the_spread_of_both_cells(tmp_path: Path) -> None:
    for seed, (few, many) in enumerate(((70.0, 73.0), (71.0, 72.0), (72.0, 77.0))):
        for name, top1 in (("i3d_gn_32f_bs4", few), ("i3d_gn_64f", many)):
            write_run(tmp_path / f"{name}{seed}", f"seed={seed}", experiment=name, top1=top1)
    change = next(c for c in changes(rows_of(tmp_path)) if c.ours)
    assert cells_of_change(change)[2] == "+3.0 ± 2.8 / +0.0 ± 0.0"  # the root of 1 + 7
    rows = csv.DictReader(io.StringIO(table8_csv(rows_of(tmp_path))))
    row = next(row for row in rows if row["name"].startswith("64 frames") and row["top1"])
    assert (row["top1"], float(row["top1_deviation"])) == ("3.0", pytest.approx(8**0.5))


def test_a_test_of_a_checkpoint_fills_no_cell(tmp_path: Path) -> None:
    (write_run(tmp_path / "x" / "1" / "test_last") / "env.json").unlink()
    assert table_of(tmp_path) + "\n" == EMPTY


def test_each_protocol_is_told_once(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "seed=1")
    write_run(tmp_path / "b", "seed=2", protocol="other words")
    write_run(tmp_path / "c", experiment="i3d_bn_32f")
    assert sorted(protocols(rows_of(tmp_path))) == ["10 clips in words", "other words"]


def test_the_csv_holds_every_number_in_full(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "seed=1", top1=70.123456)
    write_run(tmp_path / "b", "seed=2", top1=71.0)
    write_run(tmp_path / "c", experiment="i3d_gn_32f_bs4", top1=69.0)
    rows = list(csv.DictReader(io.StringIO(table8_csv(rows_of(tmp_path)))))
    assert len(rows) == len(TABLE8) + 4
    row = rows[1]
    assert (row["name"], row["paper_top1"], row["runs"]) == ("i3d_gn_32f", "73.0", "a b")
    assert float(row["top1"]) == pytest.approx(70.561728)
    assert float(row["top1_deviation"]) == pytest.approx(0.619810)
    assert (row["seeds"], row["videos"], row["failed"]) == ("2", "19761", "2")
    assert rows[0]["top1"] == ""
    assert rows[0]["seeds"] == "0"
    assert rows[3]["top1_deviation"] == ""
    assert float(rows[-1]["top1"]) == pytest.approx(69 - 70.561728)
    assert rows[-1]["paper_top1"] == "-0.2"
