"""Run folders are read whatever state a crash or a hand left them in."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.report.run_folders import write_curve, write_predictions, write_run
from videogn.errors import DataError
from videogn.report.cost import hardware, software, training_cost
from videogn.report.fig7 import panels
from videogn.report.records import Run, find_runs
from videogn.report.settings import by_data_set, by_setting, differing_values


def names(folder: Path) -> list[str]:
    return [run.name for run in find_runs(folder).runs]


def test_runs_are_found_at_any_depth_those_that_ended_first_come_first(tmp_path: Path) -> None:
    write_run(tmp_path / "a" / "b" / "c" / "1", age=5)
    write_run(tmp_path / "flat", experiment="i3d_bn_32f", age=50)
    (write_run(tmp_path / "unfinished") / "test.json").unlink()
    assert names(tmp_path) == ["flat", "a/b/c/1", "unfinished"]


def test_a_run_named_by_itself_has_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run(tmp_path / "x" / "1")
    assert names(folder) == ["1"]
    monkeypatch.chdir(folder)
    assert names(Path()) == ["1"]


def test_a_test_of_a_checkpoint_is_no_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "x")
    (write_run(run / "test_last_10xthree") / "env.json").unlink()
    found = {run.name: run.is_training for run in find_runs(tmp_path).runs}
    assert found == {"x": True, "x/test_last_10xthree": False}


def test_data_roots_checkpoints_and_w_and_b_are_not_entered(tmp_path: Path) -> None:
    write_run(tmp_path / "data" / "inside")
    (tmp_path / "data" / "classes.txt").write_text("a\n")
    for name in ("checkpoints", "wandb", "plots"):
        write_run(tmp_path / "x" / name)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "config.yaml").write_text("name: x\n")
    found = find_runs(tmp_path)
    assert (found.runs, found.problems) == ([], [])


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"3", b"null", b"{}", b'{"top5": 3}'])
def test_a_damaged_test_json_is_named_and_the_run_not_tested(text: bytes, tmp_path: Path) -> None:
    (write_run(tmp_path / "x" / "1") / "test.json").write_bytes(text)
    found = find_runs(tmp_path)
    assert [run.test for run in found.runs] == [None]
    assert found.problems == ["x/1: test.json is damaged, so the run counts as not tested"]


@pytest.mark.parametrize(
    "change",
    [{"top1": None}, {"top1": float("nan")}, {"failed": 3}, {"protocol": None}, {"num_videos": ""}],
)
def test_a_test_json_without_what_a_table_shows_is_damaged(change: dict, tmp_path: Path) -> None:
    write_run(tmp_path / "x" / "1", **change)
    assert len(find_runs(tmp_path).problems) == 1


@pytest.mark.parametrize("text", [b"", b"[]", b"a: [", b"hello", b"\xff\xfe\x00"])
def test_a_damaged_config_is_named_and_the_run_left_out(text: bytes, tmp_path: Path) -> None:
    (write_run(tmp_path / "x" / "1") / "config.yaml").write_bytes(text)
    write_run(tmp_path / "y")
    found = find_runs(tmp_path)
    assert [run.name for run in found.runs] == ["y"]
    assert found.problems == ["x/1: no readable config.yaml, so it is left out"]


def test_other_damage_is_named_and_the_rest_is_used(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "x")
    (folder / "predictions.csv").write_text("path,label\na,b,c\n")
    (folder / "env.json").write_text("[]")
    (folder / "metrics.jsonl").write_bytes(b"\xff")
    (folder / "bad_samples.jsonl").write_text('3\n{"path": "v.mp4", "reason": "cut"}\n{"pa')
    found = find_runs(tmp_path)
    [run] = found.runs
    assert run.bad == (("v.mp4", "cut"),)
    assert (run.predictions, run.records, run.env) == ((), (), {})
    assert [problem.split(" ")[:2] for problem in found.problems] == [
        ["x:", "metrics.jsonl"],
        ["x:", f"{folder}/predictions.csv:1:"],
    ]


def test_a_folder_that_cannot_be_listed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed").mkdir()
    write_run(tmp_path / "x")
    real = os.scandir

    def scandir(path: str) -> Any:  # root may list any folder, so its mode would not do
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = find_runs(tmp_path)
    assert [run.name for run in found.runs] == ["x"]
    assert found.problems == [f"{tmp_path}/closed: cannot be listed (Permission denied)"]


@pytest.mark.parametrize("name", ["gone", "file"])
def test_no_folder_of_runs_is_an_error_that_names_it(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=f"{name} is not a folder of runs"):
        find_runs(tmp_path / name)


def test_a_curve_holds_the_monitored_errors_only(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "x")
    write_curve(folder, [80.0, 60.0])
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"split": "val", "epoch": 3, "val/error_1clip_aug": NaN}\n{"split": "val"}\n')
    [run] = find_runs(tmp_path).runs
    assert run.curve == [(1.0, 80.0), (2.0, 60.0)]


def runs_of(tmp_path: Path) -> list[Run]:
    return find_runs(tmp_path).runs


def test_a_setting_is_one_line_its_seeds_a_band(tmp_path: Path) -> None:
    for seed, errors in enumerate([[80.0, 60.0, 50.0], [70.0, 40.0]]):
        write_curve(write_run(tmp_path / f"gn{seed}", f"seed={seed}"), errors)
    write_curve(write_run(tmp_path / "four", experiment="i3d_gn_32f_bs4"), [90.0, 70.0])
    write_curve(write_run(tmp_path / "lr", "optim.base_lr=1.0"), [99.0, 98.0])
    write_curve(write_run(tmp_path / "bn", experiment="i3d_bn_32f"), [85.0, 75.0])
    write_curve(write_run(tmp_path / "short", experiment="i3d_bn_64f"), [85.0])
    bn, gn = panels(runs_of(tmp_path))
    assert (bn.norm, gn.norm) == ("BN", "GN")
    assert [line.label for line in bn.lines] == ["32 frames, 8 clips"]
    assert {line.label: line.seeds for line in gn.lines} == {
        "32 frames, 8 clips (gn1)": 2,
        "32 frames, 8 clips (lr)": 1,
        "32 frames, 4 clips": 1,
    }
    first = next(line for line in gn.lines if line.seeds == 2)
    assert [(p.epoch, p.error, p.low, p.high) for p in first.points] == [
        (1.0, 75.0, 70.0, 80.0),
        (2.0, 50.0, 40.0, 60.0),
    ]
    styles = {line.label: line.style for line in gn.lines}
    assert len(set(styles.values())) == 3


def test_runs_tested_on_the_same_videos_are_one_data_set(tmp_path: Path) -> None:
    rows = [("v.mp4", "a", "a", 0.5), ("w.mp4", "b", "a", 0.5)]
    for name, root, shown in (
        ("1", "/here/k400", rows),
        ("2", "/there/kinetics", rows[::-1]),
        ("3", "/here/k400", rows[:1]),
        ("4", "/there/kinetics", None),
        ("5", "/mine", None),
    ):
        folder = write_run(tmp_path / name, f"data.root={root}", age=9 - int(name))
        if shown:
            write_predictions(folder, shown)
    groups = [(group.title, [run.name for run in group.runs]) for group in by_data_set(
        runs_of(tmp_path)
    )]  # fmt: skip
    assert groups == [("k400", ["1", "2", "4"]), ("k400", ["3"]), ("mine", ["5"])]


def test_settings_differ_by_what_is_scientific(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "device=cpu", "data.root=/x", age=3)
    write_run(tmp_path / "b", "seed=1", "name=other", "data.root=/y", age=2)
    write_run(tmp_path / "c", "seed=1", "optim.base_lr=0.5", age=1)
    settings = [[run.name for run in equal] for equal in by_setting(runs_of(tmp_path))]
    assert settings == [["a", "b"], ["c"]]
    assert differing_values(runs_of(tmp_path)) == {
        "seed": ["0", "1", "1"],
        "data.root": ["/x", "/y", "data/kinetics400"],
        "optim.base_lr": ["0.01", "0.01", "0.5"],
    }


def test_cost_comes_from_the_records(tmp_path: Path) -> None:
    write_curve(write_run(tmp_path / "x", "device=cuda"), [90.0, 80.0, 70.0])
    [run] = runs_of(tmp_path)
    cost = training_cost(run)
    assert cost is not None
    assert (cost.clips, cost.machines, cost.device) == (30 * 64, 8, "GPU")
    assert cost.seconds == pytest.approx(30 * 64 / 320)
    assert cost.hours == pytest.approx(8 * 6 / 3600)
    assert hardware(run) == "8 x NVIDIA A100, 16 cores, Linux x86_64"
    assert software(run) == "python 3.11.7, torch 2.15.0, commit 706e4c76be with changes"


def test_cost_without_records_or_with_odd_ones_is_not_told(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "x", "device=cpu")
    assert training_cost(runs_of(tmp_path)[0]) is None
    (folder / "env.json").write_text(json.dumps({"gpus": 3, "packages": [], "git": "x"}))
    (folder / "metrics.jsonl").write_text('{"split": "train", "step": 5, "clips_per_s": null}\n')
    [run] = runs_of(tmp_path)
    cost = training_cost(run)
    assert cost is not None
    assert (cost.clips, cost.seconds, cost.device) == (5 * 64, 0.0, "core")
    assert (hardware(run), software(run)) == ("", "")
