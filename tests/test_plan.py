"""`run.py train --dry-run` says what a training would do, and does nothing of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoints import SMALL, write_checkpoint
from videogn import build, cli, fit
from videogn.config import Config, load_config, to_dict
from videogn.engine import checkpoint
from videogn.errors import ConfigError, DataError, VideognError, WeightsError
from videogn.fit import Footprint
from videogn.plan import plan
from videogn.runs import write_config

CLASSES = [f"class {letter}" for letter in "abcdefg"]
NUM_VIDEOS = {"train": 28, "val": 7}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root of empty files, beside which one works."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    for split, count in NUM_VIDEOS.items():
        names = [f"{split}_{number}.mp4" for number in range(count)]
        rows = [f"{name},{CLASSES[i % 7]}\n" for i, name in enumerate(names)]
        (folder / f"{split}.csv").write_text("path,label\n" + "".join(rows))
        for name in names:
            (folder / name).touch()
    return folder


@pytest.fixture
def root(data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same where the memory does not matter, whose prediction takes most of the time."""
    monkeypatch.setattr("videogn.fit.predict", lambda *_, **__: Footprint(10**6, 10**6, 10**7))
    return data


def config_of(root: Path, *overrides: str) -> Config:
    return load_config("small.yaml", [*SMALL, f"data.root={root}", *overrides])


def told(root: Path, *overrides: str, world: int = 1) -> dict[str, str]:
    """The parts of the plan, the lines of each joined; checked to have written nothing."""
    before = sorted(Path.cwd().rglob("*"))
    found: dict[str, str] = {}
    name = ""
    for line in plan(config_of(root, *overrides), world).splitlines():
        head, _, said = line.partition("  ")
        name = head or name
        found[name] = f"{found.get(name, '')}\n{said.strip()}".strip()
    assert sorted(Path.cwd().rglob("*")) == before
    return found


def test_the_arithmetic_of_the_training_is_spelt_out(root: Path) -> None:
    found = told(
        root,
        "optim.clips_per_gpu=2",
        "optim.accumulate=3",
        "optim.epochs=12",
        "optim.milestones=[3.2,9]",
        "optim.warmup_epochs=1",
        "optim.base_lr=0.64",
        "optim.max_steps=20",
        "eval.monitor_every_epochs=5",
        "eval.crops=three",
        world=2,
    )
    assert found["a step"] == "12 clips = 2 clips x 3 batch(es) x 2 process(es)"
    assert found["steps"].splitlines() == [
        "lr 0.12 = 0.64 x 12 clips / 64; 28 steps = 12 epochs x 28 videos / 12 clips",
        "stopped after 20 by optim.max_steps",
        "the rate rises until step 3",
        "from step 8 (epoch 3.2) on the rate is 0.012",
    ]
    assert found["monitoring"] == "2 time(s): every 5 epochs and after the last step"
    assert found["test"] == "7 videos x 2 clips x 3 crop(s) = 42 views"
    assert found["data"].startswith("28 train and 7 val videos of 7 classes")


def test_the_steps_named_are_those_at_which_the_rate_falls(root: Path) -> None:
    config = config_of(root, "optim.milestones=[3.2,9.01]", "optim.warmup_epochs=0")
    schedule = build.build_schedule(config, NUM_VIDEOS["train"], 1)
    steps = re.findall(r"from step (\d+)", plan(config, 1))
    assert len(steps) == 2
    for step in map(int, steps):
        assert schedule.lr(step) == pytest.approx(0.1 * schedule.lr(step - 1))


@pytest.mark.parametrize("every", [0.01, 1, 2.5])
@pytest.mark.parametrize("max_steps", [1, 6, 15])
def test_only_what_the_steps_allow_is_counted(every: float, max_steps: int, root: Path) -> None:
    words = ["optim.epochs=5", "optim.milestones=[1,2,3]", "optim.warmup_epochs=1"]
    words += [f"eval.monitor_every_epochs={every}", f"optim.max_steps={max_steps}"]
    found = told(root, *words, "optim.clips_per_gpu=10")  # 14 steps
    last = min(max_steps, 14)
    schedule = build.build_schedule(config_of(root, *words, "optim.clips_per_gpu=10"), 28, 1)
    steps = [step for step in range(1, last + 1) if schedule.crosses(step, every) or step == last]
    assert found["monitoring"].startswith(f"{len(steps)} time(s): every {every:g} epochs and")
    assert found["steps"].count("on the rate is") == sum(at < last for at in (3, 6, 9))
    rises = "step 3" if last > 3 else f"the end, to {schedule.lr(last - 1):g}"
    assert f"the rate rises until {rises}" in found["steps"]


def test_the_disk_named_is_what_checkpoints_take(data: Path, tmp_path: Path) -> None:
    found = told(data, "optim.max_steps=100", "save_every_steps=30", "keep_checkpoints=3")
    config = config_of(data)
    state = build.build_state(config, build.build_model(config, 7), torch.device("cpu"))
    for parameter in state.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    state.optimizer.step()
    contents: dict[str, Any] = {
        "model": state.model.state_dict(), "optimizer": state.optimizer.state_dict()
    }  # fmt: skip
    checkpoint.save(tmp_path / "x.pt", contents)
    told_size, kept, disk = re.fullmatch(
        r"4: every 30 steps and after the last, ([\d.]+) MB each; the last (\d) and the best are "
        r"kept: ([\d.]+) MB of disk",
        found["checkpoints"],
    ).groups()  # type: ignore[union-attr]
    real = (tmp_path / "x.pt").stat().st_size / 1e6
    assert float(told_size) == pytest.approx(real, rel=0.1)
    assert (int(kept), float(disk)) == (3, pytest.approx(4 * float(told_size), abs=0.3))


def test_memory_is_that_of_fit_and_too_much_is_said(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predicted = fit.predict(build.resolve(config_of(data), 7), device="cpu").total
    said = told(data)["memory"]
    assert said.startswith(
        f"{predicted / 1e6:.1f} MB predicted for the tensors of a step in each process, without "
        "Python, torch and the loader's workers; "
    )
    assert said.endswith("on this cpu")
    monkeypatch.setattr("videogn.fit.device_memory", lambda _: 1_000_000)
    assert told(data)["memory"].endswith(
        "1.0 MB on this cpu: too much; run.py fit shows what would fit"
    )


def test_the_run_that_would_be_gone_on_with_is_named(root: Path) -> None:
    assert told(root)["run"] == "a new one, in runs/thin/<time>"
    folder = Path("runs/thin/20260101-000000")
    write_config(folder, to_dict(build.resolve(config_of(root), 7)))
    (folder / "checkpoints").mkdir()
    for step in (6, 12):
        checkpoint.step_file(folder / "checkpoints", step).touch()
    found = told(root)
    assert found["run"] == f"goes on with {folder}, from step 12"
    assert found["weights"] == "those of the run"
    assert told(root, "seed=5")["run"].startswith("a new one")
    assert told(root, "resume=never")["run"].startswith("a new one")


def test_a_checkpoint_to_go_on_from_is_looked_into(root: Path, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "x.pt")
    assert told(root, f"resume={path}")["run"] == f"a new one, from step 6 of {path}"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(VideognError, match=re.escape(str(path))):
        told(root, f"resume={path}")


def test_weights_are_tried_where_they_are_here_and_not_downloaded(
    root: Path, tmp_path: Path
) -> None:
    path = write_checkpoint(tmp_path / "x.pt", classes=CLASSES)
    assert told(root)["weights"] == "random"
    assert "x.pt" in told(root, f"model.init={path}")["weights"]
    known = told(root, "model.init=R-50-GN.pkl")["weights"]
    assert known.startswith("R-50-GN.pkl, to be downloaded from https://")
    with pytest.raises(WeightsError):
        told(root, f"model.init={path}", "model.norm.kind=bn")
    with pytest.raises(WeightsError, match=r"nowhere\.pth"):
        told(root, "model.init=nowhere.pth")


def test_videos_that_are_missing_are_counted(root: Path, tmp_path: Path) -> None:
    (root / "val_3.mp4").unlink()
    said = told(root)["data"]
    assert f"6 of 7 val videos are there (missing: {root}/val_3.mp4)" in said
    with pytest.raises(DataError, match=r"none of 28 videos is there, as .*data\.videos"):
        told(root, f"data.videos={tmp_path}")


def test_a_step_of_more_videos_than_there_are_is_refused(root: Path) -> None:
    assert "28 clips" in told(root, "optim.clips_per_gpu=14", world=2)["a step"]
    with pytest.raises(ConfigError, match=r"takes 30 clips of 30 videos.* only 28 videos"):
        told(root, "optim.clips_per_gpu=15", world=2)
    told(root, "optim.clips_per_gpu=28", "data.clips_per_decode=2", world=2)


def test_the_command_prints_the_plan_once(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--cfg", "small.yaml", "--dry-run", "--processes", "2", *SMALL, f"data.root={root}"]
    assert cli.main(words) == 0
    assert capsys.readouterr().out.strip() == plan(config_of(root), 2)
    monkeypatch.setenv("RANK", "1")
    assert cli.main(words) == 0
    assert capsys.readouterr().out == ""
    assert not Path("runs").exists()
