"""Whole runs of a thin network: what they write, how they end, and that they go on to the bit."""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from videogn import cli, experiment, runs, testing
from videogn.config import config_from, load_config
from videogn.data.manifest import write_manifest
from videogn.data.synthetic import encode_video
from videogn.data.transforms import resize
from videogn.engine import checkpoint
from videogn.experiment import run_training
from videogn.predict import load
from videogn.restoring import restore_model

REPOSITORY = Path(__file__).parents[1]
CLASSES = ["left", "right", "up", "down", "grow", "shrink"]
# 8 training videos, 2 clips a step: 4 steps an epoch.
OVERRIDES = [
    "name=thin",
    "data.num_frames=4",
    "data.frame_stride=2",
    "data.short_side=[32,36]",
    "data.crop_size=32",
    "data.num_workers=0",
    "optim.clips_per_gpu=2",
    "optim.epochs=1.5",
    "optim.base_lr=0.64",  # 0.02 for 2 clips
    "optim.milestones=[1]",
    "optim.warmup_epochs=0",
    "model.dropout=0.3",
    "eval.num_clips=2",
    "eval.short_side=32",
    "eval.monitor_every_epochs=1",
    "eval.precise_bn_batches=2",
    "log_every_steps=1",
    "save_every_steps=2",
    "keep_checkpoints=2",
]
STEPS = 6
BN = "model.norm.kind=bn"


def video(path: Path, label: int, seed: int, num_frames: int = 14) -> None:
    """Writes a wide video, so that crops differ, of a gray that its class and time decide."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 160, (1, 9, 13, 3))
    moving = coarse + 12 * label + 4 * np.arange(num_frames)[:, None, None, None]
    encode_video(path, moving.repeat(4, 1).repeat(4, 2).clip(0, 255).astype(np.uint8), gop=5)


def make_root(
    root: Path, *, train: int = 8, val: int = 5, classes: Sequence[str] = CLASSES
) -> Path:
    (root / "videos").mkdir(parents=True)
    splits: dict[str, list[dict[str, str]]] = {"train": [], "val": []}
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            path, label = f"videos/{split}_{number}.mp4", number % len(classes)
            video(root / path, label, seed=number + 100 * (split == "val"))
            splits[split].append({"path": path, "label": classes[label]})
    write_manifest(root, splits=splits, classes=classes, source=None)
    return root


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_root(tmp_path_factory.mktemp("data") / "root")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Runs go to a folder of their own, and leave no log handler behind."""
    monkeypatch.chdir(tmp_path)
    logger = logging.getLogger("videogn")
    before = list(logger.handlers), logger.level
    yield tmp_path
    logger.handlers[:], logger.level = before[0], before[1]


def words(root: Path, *more: str) -> list[str]:
    return ["--cfg", "demo.yaml", f"data.root={root}", *OVERRIDES, *more]


def train(root: Path, *more: str) -> Path:
    """Trains in this process; returns the run folder."""
    known = set(Path("runs").glob("*/*"))
    assert cli.main(words(root, *more)) == 0
    new = set(Path("runs").glob("*/*")) - known
    return new.pop() if new else max(known)


@pytest.fixture(scope="session")
def trained(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns the folder of a finished run with "gn" or "bn"; not to be written to."""
    done: dict[str, Path] = {}

    def run(kind: str) -> Path:
        if kind not in done:
            folder = tmp_path_factory.mktemp(kind) / "thin" / "run"
            assert cli.main(words(root, f"run_dir={folder}", f"model.norm.kind={kind}")) == 0
            done[kind] = folder
        return done[kind]

    return run


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def contents(folder: Path) -> dict[str, bytes]:
    """Returns every file of a run but its log, to which each start adds a line."""
    return {name: (folder / name).read_bytes() for name in files(folder) if name != "log.txt"}


def records(folder: Path) -> list[dict[str, Any]]:
    """Returns the lines of metrics.jsonl without timings and memory."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    timings = ("clips_per_s", "data_wait", "memory_mb")
    return [{k: v for k, v in json.loads(line).items() if k not in timings} for line in lines]


def last(folder: Path) -> dict[str, Any]:
    return checkpoint.load(folder / "checkpoints" / "last.pt")


def assert_same_result(folder: Path, reference: Path) -> None:
    """Weights, buffers and momentum to the bit, records without timings, and the test."""
    one, other = last(folder), last(reference)
    for key in ("model", "optimizer", "scaler", "step", "epoch", "metrics", "classes"):
        assert checkpoint.digest(one[key]) == checkpoint.digest(other[key]), key
    assert records(folder) == records(reference)
    assert read_test(folder) == read_test(reference)
    predictions = [(f / "predictions.csv").read_bytes() for f in (folder, reference)]
    assert predictions[0] == predictions[1]


def read_test(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "test.json").read_text(encoding="utf-8"))


# What a run is


@pytest.mark.parametrize("kind", ["gn", "bn"])
def test_a_run_writes_the_documented_files_and_no_other(
    kind: str, trained: Callable[[str], Path]
) -> None:
    assert files(trained(kind)) == [
        "checkpoints/best.pt",
        "checkpoints/last.pt",
        "checkpoints/step_000000004.pt",
        "checkpoints/step_000000006.pt",
        "config.yaml",
        "env.json",
        "log.txt",
        "metrics.jsonl",
        "predictions.csv",
        "test.json",
    ]


def test_of_equal_errors_the_last_gives_the_best_checkpoint(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = {4: 50.0, 6: 50.0}
    monkeypatch.setattr(
        experiment.Monitor,
        "measure",
        lambda *_, step, **__: {"val/error_1clip_aug": errors[step]},
    )
    best = [checkpoint.load(train(root) / "checkpoints" / "best.pt")["step"]]
    errors[6] = 50.1
    best.append(checkpoint.load(train(root, "seed=1") / "checkpoints" / "best.pt")["step"])
    assert best == [6, 4]


def test_the_record_and_the_test_have_the_documented_keys(
    trained: Callable[[str], Path], root: Path
) -> None:
    folder = trained("gn")
    steps = [r for r in records(folder) if r["split"] == "train"]
    assert [r["step"] for r in steps] == list(range(1, STEPS + 1))
    assert [r["lr"] for r in steps] == pytest.approx([0.02] * 4 + [0.002] * 2)
    val = [r for r in records(folder) if r["split"] == "val"]
    assert [(r["step"], r["epoch"]) for r in val] == [(4, 1.0), (6, 1.5)]
    assert all(0 <= r["val/error_1clip_aug"] <= 100 for r in val)

    report = read_test(folder)
    assert (report["num_videos"], report["num_decoded"], report["failed"]) == (5, 5, [])
    assert (report["checkpoint"], report["step"]) == ("last.pt", STEPS)
    assert "2 clips (nonlocal) of 4 frames, stride 2, fully convolutional" in report["protocol"]
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [f"videos/val_{i}.mp4" for i in range(5)]
    assert 100 * sum(int(row["correct"]) for row in rows) / 5 == report["top1"]
    assert 100 * sum(row["label"] in row["top5"].split("|") for row in rows) / 5 == report["top5"]
    assert 100 * sum(int(row["correct5"]) for row in rows) / 5 == report["top5"]
    for row in rows:
        probs = [float(prob) for prob in row["top5_probabilities"].split("|")]
        assert row["probability"] == row["top5_probabilities"].split("|")[0]
        assert probs == sorted(probs, reverse=True)
        named = dict(zip(row["top5"].split("|"), probs, strict=True))
        true = float(row["true_probability"])
        assert named.get(row["label"]) == (true if int(row["correct5"]) else None)

    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    assert config["model"]["num_classes"] == len(CLASSES)
    assert config["data"]["mean"] == [0.45] * 3
    assert config["data"]["root"] == str(root)
    contents = last(folder)
    assert contents["config"] == config
    assert contents["classes"] == CLASSES
    assert contents["step"] == STEPS
    record = (folder / "log.txt").read_text()
    assert "lr 0.02 = 0.64 x 2 clips / 64; 6 steps" in record
    assert "norm: aten" in record  # on a CPU


def test_the_same_command_again_says_finished_and_starts_nothing(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train(root)
    before = contents(folder)
    assert cli.main(words(root)) == 0
    top1 = read_test(folder)["top1"]
    assert f"{folder} is finished, top-1 {top1:.2f} %;" in capsys.readouterr().out
    assert [folder] == list(Path("runs").glob("*/*"))
    assert contents(folder) == before


def test_another_experiment_of_the_same_name_gets_a_folder_of_its_own(root: Path) -> None:
    few = "optim.max_steps=1"
    first = train(root, few)
    second = train(root, few, "optim.weight_decay=0.01")
    third = train(root, few, "resume=never")
    assert len({first, second, third}) == 3
    assert train(root, few, "data.num_workers=1", "log_every_steps=5") in (first, third)
    assert len(list(Path("runs").glob("*/*"))) == 3


def test_fewer_steps_first_and_the_rest_later_is_another_experiment(root: Path) -> None:
    few, all_of_them = train(root, "optim.max_steps=2"), train(root)
    assert few != all_of_them
    logs = [(folder / "log.txt").read_text() for folder in (few, all_of_them)]
    assert ["stops after 2 of these steps" in log for log in logs] == [True, False]


# Interrupted


def start(root: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "run.py"), *words(root, *more)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def logged(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


# Long enough for a signal to come in the middle: 40 steps.
LONG = ("optim.epochs=10", "optim.milestones=[6]", "eval.monitor_every_epochs=4")


def test_sigterm_ends_with_130_and_the_same_command_goes_on_to_the_bit(root: Path) -> None:
    long = (*LONG, BN, "save_every_steps=1000")
    process = start(root, *long, "data.num_workers=1")  # who get the signal too
    wait_for(lambda: any(logged(f) >= 3 for f in Path("runs").glob("thin/*")), process)
    os.killpg(process.pid, signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert "the checkpoint is saved, and the same command goes on from it" in output
    assert "Traceback" not in output
    (folder,) = Path("runs").glob("thin/*")
    stopped_at = last(folder)["step"]
    assert 3 <= stopped_at < 40
    assert not (folder / "test.json").exists()
    assert train(root, *long) == folder
    assert f"interrupted at step {stopped_at} of 40" in output
    reference = Path("reference").absolute()
    assert cli.main(words(root, *long, f"run_dir={reference}")) == 0
    assert_same_result(folder, reference)


@pytest.mark.slow
def test_sigkill_between_checkpoints_loses_only_the_steps_since(root: Path) -> None:
    long = (*LONG, "save_every_steps=7")
    process = start(root, *long)
    wait_for(lambda: any(logged(f) >= 12 for f in Path("runs").glob("thin/*")), process)
    process.kill()
    process.communicate(timeout=60)
    (folder,) = Path("runs").glob("thin/*")
    saved = checkpoint.newest(folder / "checkpoints")
    assert saved is not None
    assert saved[1]["step"] in range(7, 40, 7)
    assert train(root, *long) == folder
    reference = Path("reference").absolute()
    assert cli.main(words(root, *long, f"run_dir={reference}")) == 0
    assert_same_result(folder, reference)


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Sends this process a SIGTERM when a step is logged."""
    plain = experiment._Run._log

    def log(self: Any, record: Any, *more: Any) -> None:
        plain(self, record, *more)
        if record["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(experiment._Run, "_log", log)


@pytest.mark.parametrize("kind", ["gn", "bn"])
@pytest.mark.parametrize("step", [1, 4, 6])  # the first; a monitored and saved one; the last
def test_a_run_goes_on_from_any_step_to_the_bit(
    kind: str,
    step: int,
    root: Path,
    trained: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    norm = f"model.norm.kind={kind}"
    with monkeypatch.context() as patch:
        interrupt_at(patch, step)
        assert cli.main(words(root, norm)) == 130
    assert f"interrupted at step {step} of 6" in capsys.readouterr().err
    assert_same_result(train(root, norm), trained(kind))


def test_interrupted_twice_is_still_the_same_run(
    root: Path, trained: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (2, 5):
        with monkeypatch.context() as patch:
            interrupt_at(patch, step)
            assert cli.main(words(root, BN)) == 130
    folder = train(root, BN)
    assert_same_result(folder, trained("bn"))


def test_the_log_of_a_resumed_run_says_where_it_went_on(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2)
        assert cli.main(words(root, "run_dir=mine")) == 130
    assert cli.main(words(root, "run_dir=mine")) == 0
    assert "step_000000002.pt, step 2" in Path("mine/log.txt").read_text()


def test_the_handlers_of_signals_are_as_before_after_a_run(root: Path) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    run_training(load_config("demo.yaml", words(root, "optim.max_steps=1")[2:]))
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_record_after_resuming_averages_the_steps_before_it_too(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a kill between two records, of steps 3 and 6, right after the save of step 4."""
    command = words(root, "log_every_steps=3")
    plain = experiment._Run._save

    def save(self: Any, state: Any) -> None:
        plain(self, state)
        if state.step == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(experiment._Run, "_save", save)
        assert cli.main([*command, "run_dir=broken_off"]) == 130
    for folder in ("broken_off", "unbroken"):
        assert cli.main([*command, f"run_dir={folder}"]) == 0
    assert [r["step"] for r in records(Path("unbroken"))] == [3, 4, 6, 6]
    assert_same_result(Path("broken_off"), Path("unbroken"))


# What a run does not depend on


@pytest.mark.parametrize("kind", ["gn", "bn"])
def test_the_number_of_workers_changes_no_bit(
    kind: str, root: Path, trained: Callable[[str], Path]
) -> None:
    folder = train(root, f"model.norm.kind={kind}", "data.num_workers=2")
    assert_same_result(folder, trained(kind))


# Testing a checkpoint


def decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def oracle_indices(rule: str, count: int) -> list[list[int]]:
    """Frames of 3 clips of 4 frames, stride 2, of a video of `count`; written out by hand."""
    if rule == "nonlocal":
        starts = [count * j // 3 for j in range(3)]
    elif rule == "slowfast":
        picks = [[int((count - 8) * j / 3 + i * 7 / 3) for i in range(4)] for j in range(3)]
        return [[min(i, count - 1) for i in clip] for clip in picks]
    else:
        starts = [round((count - 7) / 2 * j) for j in range(3)]
    return [[(s + 2 * i) % count for i in range(4)] for s in starts]


def oracle_probs(model: Any, path: Path, rule: str, crops: str) -> Tensor:
    frames = decode(path)
    assert frames.shape == (14, 36, 52, 3)
    width = int(52 * 34 / 36)  # short side 34
    scores = []
    for indices in oracle_indices(rule, len(frames)):
        clip = resize(torch.from_numpy(frames[indices]), 34, width)
        boxes = {
            "full": [clip],
            "center": [clip[:, 1:33, (width - 32) // 2 : (width - 32) // 2 + 32]],
            "three": [clip[:, :, k * ((width - 34) // 2) :][:, :, :34] for k in range(3)],
        }[crops]
        for box in boxes:
            x = (box.double() / 255 - 0.45) / 0.225
            with torch.inference_mode():
                scores.append(model.probs(x.float().permute(3, 0, 1, 2)[None])[0].double())
    return torch.stack(scores).mean(0)


@pytest.mark.parametrize(
    ("rule", "crops"),
    [
        ("nonlocal", "full"),
        ("nonlocal", "center"),
        ("nonlocal", "three"),
        ("slowfast", "three"),
        ("mmaction", "full"),
    ],
)
def test_a_test_agrees_with_one_written_by_hand(
    rule: str,
    crops: str,
    root: Path,
    trained: Callable[[str], Path],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = trained("bn") / "checkpoints" / "last.pt"
    found: list[Any] = []
    plain = testing.write_predictions

    def keep(file: Path, manifest: Any, result: Any, failed: Any) -> None:
        found.append(result)
        plain(file, manifest, result, failed)

    monkeypatch.setattr(testing, "write_predictions", keep)
    protocol = [f"eval.clip_rule={rule}", f"eval.crops={crops}", "eval.num_clips=3"]
    out = here / "out"
    command = ["test", "--ckpt", str(path), "--out", str(out), "eval.short_side=34", *protocol]
    assert cli.main(command) == 0
    contents = checkpoint.load(path)
    model = restore_model(config_from(contents["config"]), contents, path).eval()
    expected = torch.stack(
        [oracle_probs(model, root / f"videos/val_{i}.mp4", rule, crops) for i in range(5)]
    )
    torch.testing.assert_close(found[0].probs, expected, rtol=0, atol=1e-6)
    labels = torch.arange(5)
    assert read_test(out)["top1"] == 100 * float((expected.argmax(1) == labels).double().mean())
    top5 = (expected.topk(5).indices == labels[:, None]).any(1)
    assert read_test(out)["top5"] == 100 * float(top5.double().mean())


@pytest.mark.parametrize("kind", ["gn", "bn"])
def test_testing_the_last_checkpoint_repeats_the_test_of_the_run(
    kind: str, trained: Callable[[str], Path], here: Path
) -> None:
    run = shutil.copytree(trained(kind), here / "copy")
    ours = files(run)
    assert cli.main(["test", "--ckpt", str(run / "checkpoints" / "last.pt")]) == 0
    new = sorted(set(files(run)) - set(ours))
    assert {Path(name).name for name in new} >= {"predictions.csv", "test.json"}
    folder = (run / new[0]).parent
    assert folder != run
    assert read_test(folder) == read_test(run)
    assert (folder / "predictions.csv").read_bytes() == (run / "predictions.csv").read_bytes()


def test_a_test_never_overwrites_a_run(
    trained: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(trained("gn"), "run"))
    before = contents(run)
    command = ["test", "--ckpt", str(run / "checkpoints" / "last.pt"), "--out", str(run)]
    assert cli.main([*command, "eval.crops=three"]) == 2
    assert "--out run holds a run" in capsys.readouterr().err
    assert {k: v for k, v in contents(run).items() if k != ".lock"} == before


def test_views_per_forward_changes_memory_and_not_the_result(
    trained: Callable[[str], Path], here: Path
) -> None:
    path = str(trained("gn") / "checkpoints" / "last.pt")
    tables = []
    for count in (1, 4):
        out = here / str(count)
        command = ["test", "--ckpt", path, "--out", str(out), f"eval.views_per_forward={count}"]
        assert cli.main([*command, "eval.crops=three", "eval.num_clips=3"]) == 0
        tables.append(read_test(out))
    assert tables[0] == tables[1]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.norm.kind=bn", "norm=GroupNorm, not BatchNorm3d"),
        ("model.norm.num_groups=8", "groups=4, not 8"),
        ("model.stem_pool_padding=0", "stem_pool_padding=1, not 0"),
        ("model.width=16", "width=8, not 16"),
    ],
)
def test_a_checkpoint_of_another_network_is_refused(
    override: str,
    said: str,
    trained: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = str(trained("gn") / "checkpoints" / "last.pt")
    assert cli.main(["test", "--ckpt", path, override]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_checkpoint_of_other_classes_is_refused(
    trained: Callable[[str], Path], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(trained("gn") / "checkpoints" / "last.pt")
    renamed = make_root(here / "renamed", train=1, val=1, classes=["left", "RIGHT", *CLASSES[2:]])
    assert cli.main(["test", "--ckpt", path, f"data.root={renamed}"]) == 2
    error = capsys.readouterr().err
    assert "class 1 is 'right' in" in error
    assert error.count("\n") == 1
    fewer = make_root(here / "fewer", train=1, val=1, classes=CLASSES[:4])
    overrides = [f"data.root={fewer}", "model.num_classes=auto"]
    assert cli.main(["test", "--ckpt", path, *overrides]) == 2
    assert "knows 6 classes" in capsys.readouterr().err


def test_a_file_that_is_no_checkpoint_is_refused(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("test", "predict"):
        more = [str(root / "videos/val_0.mp4")] if command == "predict" else []
        assert cli.main([command, "--ckpt", str(root / "train.csv"), *more]) == 2
        assert "train.csv is no file of torch.save" in capsys.readouterr().err


# Broken videos


@pytest.fixture
def broken(root: Path, here: Path) -> Callable[..., Path]:
    """Returns a copy of the data root with some videos replaced by text."""

    def make(*names: str) -> Path:
        copy = shutil.copytree(root, here / "broken")
        for name in names:
            (copy / "videos" / name).write_text("not found\n")
        return copy

    return make


ONE_OF_FIVE = "videos/val_3.mp4"


def check_broken_test(folder: Path) -> None:
    report = read_test(folder)
    assert (report["num_videos"], report["num_decoded"]) == (5, 4)
    assert [entry["path"] for entry in report["failed"]] == [ONE_OF_FIVE]
    assert report["failed"][0]["reason"]
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5
    assert rows[3]["correct"] == "0"
    assert rows[3]["prediction"] == ""
    assert rows[3]["failed"] == report["failed"][0]["reason"]
    hits = sum(int(row["correct"]) for row in rows)
    assert (report["top1"], report["top1_decoded"]) == (100 * hits / 5, 100 * hits / 4)


@pytest.mark.parametrize(("allowed", "code"), [(0.1, 3), (0.2, 0)])
def test_a_broken_video_is_named_and_counts_as_wrong(
    allowed: float,
    code: int,
    broken: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = broken("val_3.mp4")
    command = words(data, f"data.max_bad_fraction={allowed}", "optim.max_steps=1")
    assert cli.main(command) == code
    (folder,) = Path("runs").glob("thin/*")
    check_broken_test(folder)
    output = capsys.readouterr()
    assert ONE_OF_FIVE in output.out
    if code:
        assert "1 of 5 videos could not be read" in output.err
        assert output.err.count("\n") == 1
    path = str(folder / "checkpoints" / "last.pt")
    assert cli.main(["test", "--ckpt", path, "--out", "again", "data.num_workers=1"]) == code
    check_broken_test(Path("again"))


def test_a_failed_test_is_not_forgotten_by_the_same_command_again(
    broken: Callable[..., Path],
) -> None:
    command = words(broken("val_3.mp4"), "optim.max_steps=1")
    assert cli.main(command) == 3
    assert cli.main(command) == 3


def test_a_broken_video_is_an_error_of_the_monitoring(broken: Callable[..., Path]) -> None:
    data = broken(*(f"val_{i}.mp4" for i in range(5)))
    cli.main(words(data, "optim.max_steps=1"))
    (folder,) = Path("runs").glob("thin/*")
    assert records(folder)[-1]["val/error_1clip_aug"] == 100.0
    assert "counts as an error: " in (folder / "log.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_training_video_is_replaced_listed_once_and_the_same_on_resuming(
    workers: int, broken: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = broken("train_2.mp4")
    allowed = ("data.max_bad_fraction=0.2", f"data.num_workers={workers}")
    folder = train(data, *allowed)
    lines = (folder / "bad_samples.jsonl").read_text(encoding="utf-8").splitlines()
    (entry,) = map(json.loads, lines)
    assert entry["row"] == 2
    assert entry["path"].endswith("videos/train_2.mp4")
    assert entry["reason"]
    assert "another takes its place" in (folder / "log.txt").read_text()
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        assert cli.main(words(data, *allowed, "run_dir=broken_off")) == 130
    assert cli.main(words(data, *allowed, "run_dir=broken_off")) == 0
    assert_same_result(Path("broken_off"), folder)


def test_a_list_of_bad_samples_cut_short_by_a_kill_does_not_stop_the_run(
    broken: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = words(broken("train_2.mp4"), "data.max_bad_fraction=0.2", "run_dir=mine")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)  # after one epoch every video has been seen
        assert cli.main(command) == 130
    listed = Path("mine/bad_samples.jsonl")
    listed.write_text(listed.read_text()[:-9])
    assert cli.main(command) == 0


def test_too_many_broken_training_videos_end_the_run(
    broken: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data = broken("train_2.mp4", "train_5.mp4")
    assert cli.main(words(data, "data.max_bad_fraction=0.2")) == 3
    error = capsys.readouterr().err
    assert "2 of 8 training videos cannot be read" in error
    assert error.count("\n") == 1
    (listed,) = Path("runs").glob("thin/*/bad_samples.jsonl")
    rows = [json.loads(line)["row"] for line in listed.read_text().splitlines()]
    assert sorted(rows) == [2, 5]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_root_without_any_readable_video_is_one_sentence(
    workers: int, broken: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data = broken(*(f"train_{i}.mp4" for i in range(8)))
    command = words(data, "data.max_bad_fraction=1", f"data.num_workers={workers}")
    assert cli.main(command) == 3
    error = capsys.readouterr().err
    assert "check data.root" in error
    assert error.count("\n") == 1


# Prediction


def test_predict_gives_the_probabilities_of_the_test(
    trained: Callable[[str], Path], root: Path
) -> None:
    folder = trained("gn")
    classifier = load(folder / "checkpoints" / "last.pt")
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            top = classifier.predict(root / row["path"], topk=5)
            assert [label for label, _ in top] == row["top5"].split("|")
            assert f"{top[0][1]:.6f}" == row["probability"]
    everything = classifier.predict(root / "videos/val_0.mp4", topk=100)
    assert len(everything) == len(CLASSES)
    assert sum(p for _, p in everything) == pytest.approx(1, abs=1e-6)


def test_predict_names_an_unreadable_file_and_goes_on_with_the_others(
    trained: Callable[[str], Path], root: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "broken.mp4").write_text("not found\n")
    good = [str(root / "videos/val_0.mp4"), str(root / "videos/val_1.mp4")]
    path = str(trained("gn") / "checkpoints" / "best.pt")
    command = ["predict", "--ckpt", path, good[0], "broken.mp4", "missing.mp4", good[1]]
    assert cli.main([*command, "--json", "--topk", "2", "eval.num_clips=1"]) == 3
    output = capsys.readouterr()
    answers = [json.loads(line) for line in output.out.splitlines()]
    assert [answer["video"] for answer in answers] == good
    for answer in answers:
        probabilities = [p["probability"] for p in answer["predictions"]]
        assert len(probabilities) == 2
        assert probabilities == sorted(probabilities, reverse=True)
        assert {p["label"] for p in answer["predictions"]} <= set(CLASSES)
    assert [line.split(":")[0] for line in output.err.splitlines()] == ["error", "error"]
    assert "broken.mp4" in output.err
    assert "missing.mp4" in output.err


def test_predict_prints_percentages_for_people(
    trained: Callable[[str], Path], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(trained("gn") / "checkpoints" / "best.pt")
    name = str(root / "videos/val_0.mp4")
    assert cli.main(["predict", "--ckpt", path, name, "--topk", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == name
    assert len(lines) == 4
    assert all("%" in line for line in lines[1:])


# Where a run starts from


def test_init_null_starts_from_the_random_weights_of_the_seed(root: Path) -> None:
    step = ("optim.max_steps=1", "optim.base_lr=1e-30", "optim.weight_decay=0")
    same = [last(train(root, *step, "resume=never"))["model"] for _ in range(2)]
    other = last(train(root, *step, "seed=1"))["model"]
    assert checkpoint.digest(same[0]) == checkpoint.digest(same[1])
    assert not torch.equal(same[0]["conv1.weight"], other["conv1.weight"])


def test_init_from_a_checkpoint_of_other_classes_takes_all_but_the_head_and_says_so(
    trained: Callable[[str], Path], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = trained("gn") / "checkpoints" / "last.pt"
    data = make_root(here / "other", train=4, val=2, classes=["open", "close"])
    still = ("optim.max_steps=1", "optim.base_lr=1e-30", f"model.init={path}")
    folder = train(data, *still)
    model, init = last(folder)["model"], checkpoint.load(path)["model"]
    assert model["fc.weight"].shape[0] == 2
    for name, value in init.items():
        if not name.startswith("fc."):
            torch.testing.assert_close(model[name], value, rtol=1e-6, atol=1e-12, msg=name)
    output = capsys.readouterr().out
    assert "init:" in output
    assert "head replaced (6 -> 2)" in output
    assert last(folder)["classes"] == ["open", "close"]


def test_resume_from_a_path_goes_on_in_a_new_folder(
    root: Path, trained: Callable[[str], Path]
) -> None:
    reference = trained("gn")
    path = reference / "checkpoints" / "step_000000004.pt"
    before = files(reference)
    folder = train(root, f"resume={path}")
    assert files(reference) == before
    assert [r["step"] for r in records(folder) if r["split"] == "train"] == [5, 6]
    for key in ("model", "optimizer"):
        assert checkpoint.digest(last(folder)[key]) == checkpoint.digest(last(reference)[key])
    assert read_test(folder) == read_test(reference)
    assert (folder / "config.yaml").is_file()


@pytest.mark.parametrize("first", ["resume=never", "resume=path"])
def test_a_restart_by_the_machine_goes_on_with_what_its_own_job_began(
    first: str,
    root: Path,
    trained: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    older = shutil.copytree(trained("gn"), Path("runs/thin/20990101-000000"))
    before = contents(older)
    resume = first.replace("path", str(older / "checkpoints" / "step_000000004.pt"))
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        assert cli.main(words(root, resume)) == 130
    assert "the same command goes on from it, with resume=auto" in capsys.readouterr().err
    (folder,) = {*Path("runs/thin").iterdir()} - {older}
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert cli.main(words(root, resume)) == 0
    assert len(list(Path("runs/thin").iterdir())) == 2
    assert contents(older) == before
    assert read_test(folder) == read_test(older)
    log = (folder / "log.txt").read_text()
    assert f"step_000000005.pt, step 5 ({resume} was for the job's first start)" in log


def test_a_restart_of_a_job_that_was_refused_is_refused_again(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = ("run_dir=mine", "optim.max_steps=1")
    assert cli.main(words(root, *one)) == 0
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert cli.main(words(root, *one, "resume=never")) == 2
    assert "mine holds a run already" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["missing", "other network", "other input"])
def test_a_path_that_cannot_be_resumed_is_refused_before_anything_is_written(
    how: str, root: Path, trained: Callable[[str], Path]
) -> None:
    path = trained("gn") / "checkpoints" / "last.pt"
    more = {
        "missing": "resume=nowhere.pt",
        "other network": "model.norm.num_groups=2",
        "other input": "data.mean=[0.5,0.5,0.5]",
    }[how]
    assert cli.main(words(root, f"resume={path}", more)) == 2
    assert not Path("runs").exists()


def test_a_run_dir_that_holds_a_run_is_continued_or_refused_but_never_overwritten(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = ("run_dir=mine", "optim.max_steps=1")
    assert cli.main(words(root, *one)) == 0
    before = contents(Path("mine"))
    assert cli.main(words(root, *one, "resume=never")) == 2
    assert "mine holds a run already" in capsys.readouterr().err
    assert cli.main(words(root, *one)) == 0
    assert "is finished" in capsys.readouterr().out
    assert contents(Path("mine")) == before


@pytest.mark.parametrize("change", ["optim.weight_decay=0.5", "seed=7", "optim.base_lr=0.1"])
def test_a_run_dir_that_holds_another_experiment_is_refused(change: str, root: Path) -> None:
    assert cli.main(words(root, "run_dir=mine", "optim.max_steps=2")) == 0
    assert cli.main(words(root, "run_dir=mine", "optim.max_steps=4", change)) == 2


def test_runs_that_begin_in_the_same_second_get_different_folders(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs.time, "strftime", lambda *_: "20300101-000000")
    names = [runs.claim_run_folder(here).name for _ in range(3)]
    assert names == ["20300101-000000", "20300101-000000-2", "20300101-000000-3"]
    assert sorted(p.name for p in here.iterdir()) == names


@pytest.mark.parametrize("how", ["resume=auto", "resume=path"])
def test_another_batch_or_number_of_videos_is_not_gone_on_with(
    how: str, root: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps would mean another place in the data: as with another number of processes."""
    assert cli.main(words(root, "run_dir=mine", "optim.max_steps=2")) == 0
    more = make_root(here / "more", train=9)
    old = Path("mine/checkpoints/last.pt")
    if how == "resume=path":
        assert cli.main(words(more, f"resume={old}", "optim.max_steps=4")) == 2
        assert "num_samples=8, not 9" in capsys.readouterr().err
    else:
        assert cli.main(words(root, "run_dir=mine", "optim.accumulate=2")) == 2
        assert "accumulate" in capsys.readouterr().err
    assert last(Path("mine"))["step"] == 2


@pytest.mark.parametrize("what", ["seed", "videos"])
def test_another_order_or_other_videos_are_not_gone_on_with(
    what: str,
    root: Path,
    trained: Callable[[str], Path],
    here: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = trained("gn") / "checkpoints" / "step_000000004.pt"
    data, more = root, ["seed=1"]
    if what == "videos":
        data, more = Path(shutil.copytree(root, here / "swapped")), []
        listed = (data / "train.csv").read_text().splitlines()
        (data / "train.csv").write_text("\n".join([listed[0], *listed[:0:-1], ""]))
    assert cli.main(words(data, f"resume={path}", *more)) == 2
    assert f"was trained with {what}=" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_checkpoint_of_before_the_order_was_stated_is_gone_on_with(
    root: Path, trained: Callable[[str], Path]
) -> None:
    run = Path(shutil.copytree(trained("gn"), "run"))
    path = run / "checkpoints" / "step_000000006.pt"
    saved = checkpoint.load(path)
    for key in ("seed", "videos"):
        del saved["stream"][key]
    checkpoint.save(path, saved)
    (run / "test.json").unlink()
    assert cli.main(words(root, "run_dir=run")) == 0
    assert read_test(run) == read_test(trained("gn"))


def test_what_is_wrong_is_said_before_anything_is_written(
    root: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for wrong, code in [
        ("data.root=nowhere", 3),
        ("model.init=nowhere.pkl", 2),
        ("model.num_classes=7", 2),
        ("data.num_frames=1", 2),
        ("optim.lr=1", 2),
    ]:
        assert cli.main(words(root, wrong)) == code
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1, error
    assert list(here.iterdir()) == []


def test_a_place_that_cannot_be_written_is_one_sentence(
    root: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "file").touch()
    for place in ("file", "file/run"):
        assert cli.main(words(root, f"run_dir={place}")) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: file")
        assert error.count("\n") == 1, error


def test_a_root_without_validation_says_how_to_hold_out(
    root: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(root, here / "all")
    (here / "all" / "val.csv").unlink()
    assert cli.main(words(here / "all")) == 3
    assert "--val-same" in capsys.readouterr().err


def test_a_training_video_in_validation_is_refused(
    root: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leaky = here / "leaky"
    shutil.copytree(root, leaky)
    with (leaky / "val.csv").open("a", encoding="utf-8", newline="") as file:
        file.write("videos/train_3.mp4,down\r\n")
    assert cli.main(words(leaky)) == 3
    message = capsys.readouterr().err
    assert "train.csv:5" in message
    assert "is also in validation" in message
    assert not Path("runs").exists()
