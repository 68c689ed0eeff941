"""A run fills its cell of Table 8 only when it is that experiment, in every scientific value."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from videogn.config import Config, load_config, to_dict
from videogn.errors import DataError
from videogn.report import table8
from videogn.report.table8 import TABLE8, find_tested_runs, write_report

TEST: dict[str, Any] = {
    "top1": 73.04,
    "top5": 90.55,
    "num_videos": 19761,
    "num_decoded": 19759,
    "failed": [{"path": "a.mp4", "reason": "cut"}, {"path": "b.mp4", "reason": "cut"}],
    "protocol": "10 clips in words",
    "checkpoint": "last.pt",
    "clips_per_step": 64,
}
# What `auto` becomes.
RESOLVED = ["model.num_classes=400", "data.mean=[0.4,0.4,0.4]", "data.std=[0.2,0.2,0.2]"]


@pytest.fixture(autouse=True)
def _each_file_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table8, "load_config", parsed)


@cache
def parsed(name: str) -> Config:
    return load_config(name)


def write_run(
    folder: Path, *overrides: str, experiment: str = "i3d_gn_32f", age: int = 0, **test: Any
) -> Path:
    """Writes what a finished run of `experiment` leaves, `age` seconds ago."""
    config = load_config(experiment, [*RESOLVED, *overrides])
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
    (folder / "test.json").write_text(json.dumps(TEST | test))
    finished = 1_000_000_000 - age
    os.utime(folder / "test.json", (finished, finished))
    return folder


def table_of(folder: Path) -> str:
    write_report(folder)
    return (folder / "table8.md").read_text(encoding="utf-8")


def filled_row(folder: Path) -> str | None:
    """The row of the table that some run filled, None when none did."""
    rows = [row for row in table_of(folder).splitlines() if " (2) |" in row]
    assert len(rows) <= 1
    return rows[0] if rows else None


EMPTY = """\
Table 8 (arXiv:1803.08494), Kinetics-400, 10-clip accuracy in percent:

| frames | clips/GPU | norm | ours top-1 / top-5 | paper top-1 / top-5 | difference \
| videos (failed) | clips/step |
|---:|---:|---|---:|---:|---:|---:|---:|
| 32 | 8 | BN |  | 73.3 / 90.7 |  |  |  |
| 32 | 8 | GN |  | 73.0 / 90.6 |  |  |  |
| 32 | 4 | BN |  | 72.1 / 90.0 |  |  |  |
| 32 | 4 | GN |  | 72.8 / 90.6 |  |  |  |
| 64 | 4 | BN |  | 73.3 / 90.8 |  |  |  |
| 64 | 4 | GN |  | 74.5 / 91.7 |  |  |  |
"""


def test_without_runs_the_table_is_the_papers(tmp_path: Path) -> None:
    assert write_report(tmp_path) + "\n" == table_of(tmp_path) == EMPTY


def test_a_run_fills_its_cell(tmp_path: Path) -> None:
    write_run(tmp_path / "x" / "1")
    filled = "| 32 | 8 | GN | 73.0 / 90.5 | 73.0 / 90.6 | +0.0 / -0.0 | 19761 (2) | 64 |"
    expected = EMPTY.replace("| 32 | 8 | GN |  | 73.0 / 90.6 |  |  |  |", filled)
    assert write_report(tmp_path) + "\n" == table_of(tmp_path) == expected


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
def test_another_experiment_is_listed_apart(override: str, tmp_path: Path) -> None:
    write_run(tmp_path / "x" / "1", override)
    assert table_of(tmp_path) == EMPTY
    kind = "LN" if override == "model.norm.kind=ln" else "GN"
    assert write_report(tmp_path) == (
        EMPTY.rstrip() + "\n\nOther tested runs:\n\n"
        "| run | norm | top-1 / top-5 | videos (failed) | protocol |\n"
        "|---|---|---:|---:|---|\n"
        f"| x/1 | {kind} | 73.0 / 90.5 | 19761 (2) | 10 clips in words |"
    )


def test_the_newest_of_equal_runs_fills_the_cell_and_the_others_stay_visible(
    tmp_path: Path,
) -> None:
    write_run(tmp_path / "x" / "3", age=50, top1=70.0)
    write_run(tmp_path / "x" / "1", "seed=1", age=10, top1=71.0)
    write_run(tmp_path / "x" / "2", "seed=2", age=90, top1=72.0)
    assert [run.test["top1"] for run in find_tested_runs(tmp_path)] == [72.0, 70.0, 71.0]
    row = filled_row(tmp_path)
    assert row is not None
    assert "| 71.0 / 90.5 |" in row
    others = write_report(tmp_path).split("Other tested runs:")[1]
    assert others.index("| x/2 |") < others.index("| x/3 |")
    assert "| x/1 |" not in others


def test_runs_are_found_at_any_depth(tmp_path: Path) -> None:
    write_run(tmp_path / "a" / "b" / "c" / "1")
    write_run(tmp_path / "flat", experiment="i3d_bn_32f")
    assert {run.folder.name for run in find_tested_runs(tmp_path)} == {"1", "flat"}


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "{}", '{"top5": 3}'])
def test_a_damaged_test_json_is_passed_over(text: str, tmp_path: Path) -> None:
    (write_run(tmp_path / "x" / "1") / "test.json").write_text(text)
    assert write_report(tmp_path) + "\n" == EMPTY


@pytest.mark.parametrize("content", [b'{"top1": 73.0}', b"\xff\xfe\x00", b'{"top1": null}'])
def test_a_test_json_damaged_in_another_way_is_passed_over(content: bytes, tmp_path: Path) -> None:
    (write_run(tmp_path / "x" / "1") / "test.json").write_bytes(content)
    assert write_report(tmp_path) + "\n" == EMPTY


@pytest.mark.parametrize("text", ["", "[]", "a: [", "hello"])
def test_a_damaged_config_is_passed_over(text: str, tmp_path: Path) -> None:
    (write_run(tmp_path / "x" / "1") / "config.yaml").write_text(text)
    assert write_report(tmp_path) + "\n" == EMPTY


def test_unfinished_runs_are_passed_over(tmp_path: Path) -> None:
    (write_run(tmp_path / "x" / "1") / "test.json").unlink()
    assert write_report(tmp_path) + "\n" == EMPTY


@pytest.mark.parametrize("name", ["gone", "file"])
def test_no_folder_of_runs_is_an_error_that_names_it(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=f"{name} is not a folder of runs"):
        write_report(tmp_path / name)
