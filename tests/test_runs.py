"""Which run a rerun goes on with, and what run folders say of themselves."""

from __future__ import annotations

import json
import os
import platform
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from videogn import runs
from videogn.config import Config, load_config, to_dict
from videogn.engine import checkpoint
from videogn.runs import (
    claim_run_folder,
    environment,
    find_resumable,
    read_config,
    rewind_records,
    write_json,
    write_run_files,
)

RESOLVED = ["model.num_classes=400", "data.mean=[0.48,0.46,0.41]", "data.std=[0.23,0.22,0.22]"]


@cache
def config(*overrides: str) -> Config:
    return load_config("i3d_gn_64f", list(overrides))


def write_run(folder: Path, *overrides: str, steps: int = 1) -> Path:
    """A run folder of the experiment with its config resolved and `steps` checkpoints."""
    write_run_files(folder, to_dict(config(*RESOLVED, *overrides)), world=1)
    (folder / "checkpoints").mkdir()
    for step in range(steps):
        (folder / "checkpoints" / f"step_{step:09d}.pt").touch()
    return folder


def found(base: Path, *overrides: str) -> str | None:
    folder = find_resumable(base, to_dict(config(*overrides)))
    return folder.name if folder else None


def test_the_newest_run_of_the_same_experiment_is_gone_on_with(tmp_path: Path) -> None:
    for name, overrides in [
        ("20250101-000000", []),
        ("20250103-000000", []),
        ("20250102-000000", []),
        ("20250104-000000", ["optim.base_lr=0.02"]),
    ]:
        write_run(tmp_path / name, *overrides)
    assert found(tmp_path) == "20250103-000000"
    assert found(tmp_path, "optim.base_lr=0.02") == "20250104-000000"


def test_auto_agrees_with_what_it_became_and_a_value_only_with_itself(tmp_path: Path) -> None:
    write_run(tmp_path / "1")
    assert found(tmp_path) == "1"
    assert found(tmp_path, *RESOLVED) == "1"
    assert found(tmp_path, "model.num_classes=5") is None
    assert found(tmp_path, "data.mean=[0.5,0.5,0.5]") is None


@pytest.mark.parametrize(
    "override",
    [
        "device=cpu",
        "data.num_workers=3",
        "wandb.mode=offline",
        "wandb.project=other",
        "log_every_steps=1",
        "save_every_steps=1",
        "keep_checkpoints=1",
    ],
)
def test_another_machine_or_way_of_logging_still_resumes(override: str, tmp_path: Path) -> None:
    write_run(tmp_path / "1")
    assert found(tmp_path, override) == "1"


@pytest.mark.parametrize(
    "override",
    [
        "optim.base_lr=0.02",
        "seed=1",
        "optim.epochs=50",
        "optim.max_steps=10",
        "optim.clips_per_gpu=2",
        "model.norm.kind=ln",
        "model.init=null",
        "data.root=/elsewhere",
        "eval.num_clips=1",
        "name=other",
    ],
)
def test_another_experiment_does_not(override: str, tmp_path: Path) -> None:
    write_run(tmp_path / "1")
    assert found(tmp_path, override) is None


def test_a_run_without_a_checkpoint_or_any_readable_config_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_run(tmp_path / "1")
    write_run(tmp_path / "2", steps=0)
    (write_run(tmp_path / "3") / "config.yaml").write_text("a: [")
    (write_run(tmp_path / "4") / "config.yaml").unlink()
    (tmp_path / "5").write_text("a file")
    assert found(tmp_path) == "1"
    assert found(tmp_path / "nowhere") is None
    for name in ("3", "4"):
        assert f"{tmp_path / name} is passed over: its config.yaml cannot be read" in caplog.text


def test_a_key_that_came_since_a_run_began_is_at_its_default_there(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "1")
    values: Any = read_config(folder)
    del values["optim"]["clip_grad"]
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    assert found(tmp_path) == "1"
    assert found(tmp_path, "optim.clip_grad=1") is None


def test_a_key_that_went_since_a_run_began_makes_it_another_experiment(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "1")
    values: Any = read_config(folder)
    values["optim"]["gone"] = 1
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    assert found(tmp_path) is None


@pytest.mark.parametrize("text", [None, "a: ["])
def test_without_a_readable_config_the_newest_checkpoint_tells_it(
    text: str | None, tmp_path: Path
) -> None:
    folder = write_run(tmp_path / "1", steps=0)
    path = checkpoint.step_file(folder / "checkpoints", 2)
    checkpoint.save(path, {"config": read_config(folder)})
    (folder / "config.yaml").unlink()
    if text:
        (folder / "config.yaml").write_text(text)
    assert found(tmp_path) == "1"
    assert found(tmp_path, "optim.base_lr=0.02") is None


def test_of_a_job_only_the_run_that_it_began_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    write_run(tmp_path / "20250101-000000")
    monkeypatch.setenv("SLURM_JOB_ID", "78")
    write_run(tmp_path / "20250102-000000")
    values = to_dict(config())
    assert find_resumable(tmp_path, values, job="slurm 77") == tmp_path / "20250101-000000"
    assert find_resumable(tmp_path, values, job="slurm 79") is None
    assert found(tmp_path) == "20250102-000000"


def test_two_runs_of_one_second_get_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs.time, "strftime", lambda _: "20250101-000000")
    names = [claim_run_folder(tmp_path / "x").name for _ in range(3)]
    assert names == ["20250101-000000", "20250101-000000-2", "20250101-000000-3"]


def test_the_newest_of_many_runs_of_one_second(tmp_path: Path) -> None:
    write_run(tmp_path / "20250101-000000-9")
    write_run(tmp_path / "20250101-000000-10")
    assert found(tmp_path) == "20250101-000000-10"


def test_records_of_later_steps_and_cut_lines_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    kept = ['{"step": 20, "loss": 1.5}', '{"note": "no step"}', '{"step": 40, "loss": NaN}']
    lines = [kept[0], '{"step": 41}', '{"step": 3', kept[1], kept[2], '{"step": 60}', '{"ste']
    path.write_text("\n".join(lines))
    rewind_records(path, 40)
    assert path.read_text() == "\n".join(kept) + "\n"
    rewind_records(path, 40)
    assert path.read_text() == "\n".join(kept) + "\n"
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_not_measured_yet_is_dropped_of_the_step_gone_on_from(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [
        '{"step": 4, "split": "val"}',
        '{"step": 8, "split": "train"}',
        '{"step": 8, "split": "val"}',
    ]
    path.write_text("\n".join(lines) + "\n")
    rewind_records(path, 8)
    assert path.read_text().splitlines() == lines
    rewind_records(path, 8, measured=False)
    assert path.read_text().splitlines() == lines[:2]


def place(name: str, step: int, *overrides: str) -> str:
    """The name of the folder of a test with `overrides`."""
    stored = to_dict(config(*RESOLVED))
    path = Path("run") / "checkpoints" / name
    folder = runs.test_folder(path, step, to_dict(config(*RESOLVED, *overrides)), stored)
    assert folder.parent == Path("run")
    return folder.name


def test_a_test_has_a_folder_named_after_what_it_is() -> None:
    assert place("last.pt", 600) == "test_last_000000600_10xfull_nonlocal_256"
    assert place("step_000000600.pt", 600) == "test_step_000000600_10xfull_nonlocal_256"
    assert place("best.safetensors", 0) == "test_best_10xfull_nonlocal_256"
    other = place("best.pt", 600, "eval.crops=three", "eval.num_clips=2", "data.num_workers=3")
    assert other == "test_best_000000600_2xthree_nonlocal_256"
    named = place("best.pt", 600, "data.root=/data/of others", "data.num_frames=32")
    assert named.startswith(
        "test_best_000000600_10xfull_nonlocal_256_num_frames-32_root--data-of-others_"
    )


def test_different_tests_have_different_folders() -> None:
    names = [
        place("last.pt", 600),
        place("last.pt", 800),
        place("best.pt", 600),
        place("last.pt", 600, "data.num_frames=32"),
        place("last.pt", 600, "data.frame_stride=2"),
        place("last.pt", 600, "data.root=/a/b"),
        place("last.pt", 600, "data.root=/a-b"),
        place("last.pt", 600, "data.root=/c/" + "d" * 40),
        place("last.pt", 600, "data.root=/e/" + "d" * 40),
    ]
    assert len(set(names)) == len(names)


def test_rewinding_before_anything_was_logged(tmp_path: Path) -> None:
    rewind_records(tmp_path / "metrics.jsonl", 40)
    assert not list(tmp_path.iterdir())
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    rewind_records(tmp_path / "metrics.jsonl", 0)
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_a_run_folder_tells_its_config_and_its_world(tmp_path: Path) -> None:
    values = to_dict(config(*RESOLVED))
    write_run_files(tmp_path / "a" / "b", values, world=3)
    assert read_config(tmp_path / "a" / "b") == values
    assert json.loads((tmp_path / "a" / "b" / "env.json").read_text())["world_size"] == 3


@pytest.mark.parametrize("text", ["", "[]", "5", "a: [", "a: !!python/tuple [1]"])
def test_a_config_that_is_none_reads_as_none(text: str, tmp_path: Path) -> None:
    assert read_config(tmp_path) is None
    (tmp_path / "config.yaml").write_text(text)
    assert read_config(tmp_path) is None


def test_the_environment_holds_versions_and_nothing_personal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "a-secret-value")
    told = environment()
    text = json.dumps(told)
    private = ["a-secret-value", str(Path.home()), str(Path.cwd()), platform.node()]
    assert not [word for word in private if word in text]
    assert set(told) == {
        "started", "python", "system", "cpus", "gpus", "cuda", "packages", "git",
    }  # fmt: skip
    assert told["packages"]["torch"]
    assert told["cpus"] == os.cpu_count()
    assert told["git"] is None or set(told["git"]) == {"commit", "dirty"}


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]
