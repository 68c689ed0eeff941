"""What a run survives: signals anywhere, full disks, damaged checkpoints, a second process."""
# ruff: noqa: F811  a fixture that is imported comes again as an argument

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.test_experiment import (
    STEPS,
    assert_same_result,
    files,
    here,  # noqa: F401
    interrupt_at,
    last,
    read_test,
    records,
    root,  # noqa: F401
    train,
    trained,  # noqa: F401
    words,
)
from videogn import beginning, build, cli, testing
from videogn.engine import checkpoint
from videogn.engine.lock import locked
from videogn.engine.state import TrainState
from videogn.saving import Saver

# Signals


def signal_in(
    monkeypatch: pytest.MonkeyPatch, loader: str, after: int, number: int = signal.SIGTERM
) -> list[int]:
    """Sends this process a signal at item `after` of a loader of `build`; returns the rows seen."""
    plain, seen = getattr(build, loader), []

    def passed_on(items: Iterator[Any]) -> Iterator[Any]:
        for item in items:
            seen.append(getattr(item, "row", None))
            if len(seen) == after:
                os.kill(os.getpid(), number)
            yield item

    monkeypatch.setattr(build, loader, lambda *args, **more: passed_on(plain(*args, **more)))
    return seen


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, marks=pytest.mark.slow),
    ],
)
def test_a_signal_in_the_final_test_keeps_its_scores(
    number: signal.Signals,
    root: Path,
    trained: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = Path(shutil.copytree(trained("gn"), "run"))
    for name in ("test.json", "predictions.csv"):
        (run / name).unlink()
    command = words(root, "run_dir=run")
    with monkeypatch.context() as patch:
        first = signal_in(patch, "build_video_loader", 2, number)
        assert cli.main(command) == 130
    error = capsys.readouterr().err
    assert "interrupted in the test, with 3 videos left" in error
    assert error.count("\n") == 1
    assert not (run / "test.json").exists()
    with monkeypatch.context() as patch:
        rest = signal_in(patch, "build_video_loader", 100)
        assert cli.main(command) == 0
    assert (first, rest) == ([0, 1], [2, 3, 4])
    assert_same_result(run, trained("gn"))
    assert files(run) == files(trained("gn"))


@pytest.mark.slow
def test_a_signal_in_a_test_of_a_checkpoint_keeps_its_scores_for_that_test_alone(
    trained: Callable[[str], Path], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(trained("bn") / "checkpoints" / "last.pt")
    command = ["test", "--ckpt", path, "--out", "out", "eval.crops=three"]
    with monkeypatch.context() as patch:
        signal_in(patch, "build_video_loader", 3)
        assert cli.main(command) == 130
    assert cli.main([*command, "--out", "unbroken"]) == 0
    for more, scored in (["eval.num_clips=3"], [0, 1, 2, 3, 4]), ([], [0, 1, 2, 3, 4]):
        with monkeypatch.context() as patch:
            rows = signal_in(patch, "build_video_loader", 100)
            assert cli.main([*command, *more]) == 0
        assert rows == scored  # the first dropped the scores that were not its own
    assert read_test(here / "out") == read_test(here / "unbroken")
    tables = [(here / name / "predictions.csv").read_bytes() for name in ("out", "unbroken")]
    assert tables[0] == tables[1]
    assert files(here / "out") == files(here / "unbroken")


@pytest.mark.parametrize(
    ("loader", "after", "kind", "step"),
    [
        pytest.param("build_monitor_loader", 2, "gn", 4, marks=pytest.mark.slow),
        # Of the last step, and with statistics measured.
        pytest.param("build_monitor_loader", 5, "bn", 6, marks=pytest.mark.slow),
        ("build_train_loader", 5, "bn", 4),  # the first batch for measuring the statistics
    ],
)
def test_a_signal_while_measuring_leaves_at_once_and_it_is_measured_again(
    loader: str,
    after: int,
    kind: str,
    step: int,
    root: Path,
    trained: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = words(root, f"model.norm.kind={kind}", "run_dir=run")
    with monkeypatch.context() as patch:
        signal_in(patch, loader, after)
        assert cli.main(command) == 130
    saved, run = last(Path("run")), Path("run")
    assert (saved["step"], saved["metrics"]["unmeasured"]) == (step, True)
    assert [r for r in records(run) if r["split"] == "val" and r["step"] == step] == []
    with monkeypatch.context() as patch:  # and once more, while it is made up for
        signal_in(patch, "build_monitor_loader", 1)
        assert cli.main(command) == 130
    assert cli.main(command) == 0
    assert_same_result(run, trained(kind))
    best, wanted = (
        checkpoint.load(folder / "checkpoints" / "best.pt")["model"]
        for folder in (run, trained(kind))
    )
    assert checkpoint.digest(best) == checkpoint.digest(wanted)


@pytest.mark.parametrize(
    ("option", "number", "asked"),
    [
        (True, signal.SIGTERM, True),
        (True, signal.SIGUSR1, True),
        (True, signal.SIGINT, False),  # a person's
        (False, signal.SIGTERM, False),
    ],
)
def test_slurm_is_asked_for_the_job_again_once_all_is_saved(
    option: bool,
    number: signal.Signals,
    asked: bool,
    root: Path,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = here / "told"
    program = here / "scontrol"
    program.write_text(f'#!/bin/sh\necho "$@" >> {told}; ls run/checkpoints >> {told}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{here}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    signal_in(monkeypatch, "build_train_loader", 1, number)
    command = words(root, f"slurm_requeue={option}".lower(), "run_dir=run")
    assert cli.main(command) == 130
    assert last(here / "run")["step"] == 1
    assert told.exists() == asked
    if asked:
        assert told.read_text().split() == ["requeue", "77", "last.pt", "step_000000001.pt"]


# Checkpoints


def step_file(run: Path, step: int) -> Path:
    return checkpoint.step_file(run / "checkpoints", step)


@pytest.fixture
def begun(trained: Callable[[str], Path]) -> Path:
    """A run as it was after step 6, before its test, with steps 4 and 6 saved."""
    run = Path(shutil.copytree(trained("gn"), "run"))
    (run / "test.json").unlink()
    return run


@pytest.mark.parametrize("how", ["cut short", "not finite", "without some momentum", "without any"])
def test_a_checkpoint_of_no_use_costs_the_steps_since_the_one_before(
    how: str, begun: Path, root: Path, trained: Callable[[str], Path]
) -> None:
    path = step_file(begun, 6)
    if how == "cut short":
        path.write_bytes(path.read_bytes()[:-999])
    else:
        contents = checkpoint.load(path)
        if how == "not finite":
            contents["model"]["fc.bias"][2] = torch.inf
        elif how == "without some momentum":
            contents["optimizer"]["state"].popitem()
        else:
            contents["optimizer"] = {"state": {}, "param_groups": []}
        checkpoint.save(path, contents)
    assert cli.main(words(root, "run_dir=run")) == 0
    log = (begun / "log.txt").read_text()
    assert "step_000000006.pt" in log
    assert "trying the one before" in log
    assert "step_000000004.pt, step 4" in log
    said = {
        "cut short": "cut short",
        "not finite": "1 tensors in it are not finite, model.fc.bias first",
        "without some momentum": "it lacks the momentum of some parameters",
        "without any": "it lacks the momentum of some parameters",
    }
    assert said[how] in log
    assert_same_result(begun, trained("gn"))


def test_when_no_checkpoint_is_of_use_the_run_stops_and_writes_nothing(
    begun: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in begun.glob("checkpoints/*.pt"):
        path.write_bytes(path.read_bytes()[:-999])
    before = {name: (begun / name).read_bytes() for name in files(begun) if name != "log.txt"}
    assert cli.main(words(root, "run_dir=run")) == 2
    assert "all 2 checkpoints in run/checkpoints are damaged" in capsys.readouterr().err
    assert before == {n: (begun / n).read_bytes() for n in files(begun) if n != "log.txt"}


def test_what_killed_writes_left_is_swept_and_last_is_the_newest(begun: Path, root: Path) -> None:
    """As after a kill between writing a step's file and giving it its second name."""
    checkpoint.publish(step_file(begun, 4), "last.pt")
    for name in ("step_000000008.pt.99.tmp", "last.pt.99.tmp", "../test.json.99.tmp"):
        (begun / "checkpoints" / name).write_text("half")
    assert cli.main(words(root, "run_dir=run")) == 0
    assert last(begun)["step"] == STEPS
    assert [name for name in files(begun) if "tmp" in name] == []


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_begins_again_without_doubles(
    root: Path, trained: Callable[[str], Path]
) -> None:
    Path("run").mkdir()
    (Path("run") / "metrics.jsonl").write_text('{"step": 1, "split": "train", "loss": 2.0}\n')
    assert cli.main(words(root, "run_dir=run")) == 0
    assert_same_result(Path("run"), trained("gn"))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.norm.num_groups=2", "groups=4, not 2"),
        ("model.norm.kind=bn", "norm=GroupNorm, not BatchNorm3d"),
        ("model.norm.eps=1e-3", "eps=1e-05, not 0.001"),
        ("model.width=16", "width=8, not 16"),
        ("model.stem_pool_padding=0", "stem_pool_padding=1, not 0"),
        ("data.frame_stride=1", "frame_stride=2, not 1"),
        ("data.num_frames=8", "num_frames=4, not 8"),
        ("data.std=[0.5,0.5,0.5]", "std="),
    ],
)
def test_going_on_with_another_network_or_input_is_refused_by_what_differs(
    override: str,
    said: str,
    root: Path,
    trained: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = step_file(trained("gn"), 4)
    assert cli.main(words(root, f"resume={path}", override)) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.endswith("; start anew with resume=never\n")
    assert error.count("\n") == 1
    assert not Path("runs").exists()


# Full disks


def full_at(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """There is no room for checkpoints of these names, the first time."""
    plain, left = checkpoint.save, set(names)

    def save(path: Path, contents: Any) -> None:
        if path.name in left:
            left.remove(path.name)
            raise OSError(28, "No space left on device", str(path))
        plain(path, contents)

    monkeypatch.setattr(checkpoint, "save", save)


def test_a_checkpoint_without_room_is_a_warning_and_the_training_goes_on(
    root: Path, trained: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    full_at(monkeypatch, "step_000000002.pt", "step_000000004.pt", "best.pt")
    folder = train(root)
    log = (folder / "log.txt").read_text()
    for name in ("step_000000004.pt", "best.pt"):
        assert f"step 4 is not saved: {folder}/checkpoints/{name}: No space left" in log
    saved = [p.name for p in sorted(folder.glob("checkpoints/*"))]
    assert saved == ["best.pt", "last.pt", "step_000000006.pt"]  # the best once there was room
    assert_same_result(folder, trained("gn"))


def test_a_step_that_is_saved_counts_whatever_becomes_of_its_second_name(
    root: Path, trained: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = checkpoint.publish

    def publish(path: Path, name: str) -> None:
        if path.name == "step_000000006.pt":
            raise OSError(5, "Input/output error", str(path))
        plain(path, name)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "publish", publish)
        folder = train(root)
    log = (folder / "log.txt").read_text()
    assert f"last.pt is not step 6 yet: {folder}/checkpoints/step_000000006.pt: Input" in log
    assert "is not saved" not in log
    saved = [p.name for p in sorted(folder.glob("checkpoints/step_*"))]
    assert saved == ["step_000000004.pt", "step_000000006.pt"]
    assert train(root) == folder  # which is finished
    assert_same_result(folder, trained("gn"))


@pytest.mark.parametrize("how", ["the last", "interrupted"])
def test_without_room_for_the_last_checkpoint_a_run_says_so_and_keeps_the_one_before(
    how: str, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full_at(monkeypatch, "step_000000006.pt", "step_000000003.pt")
    if how == "interrupted":
        interrupt_at(monkeypatch, 3)
    assert cli.main(words(root, "run_dir=run")) == 2
    error = capsys.readouterr().err
    assert "No space left on device" in error
    assert error.count("\n") == 1
    assert last(Path("run"))["step"] == (2 if how == "interrupted" else 4)


def test_weights_gone_bad_are_not_saved(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = Saver.contents

    def contents(self: Saver, state: TrainState) -> dict[str, Any]:
        if state.step == 4:
            state.model.get_parameter("fc.bias").data[0] = torch.nan
        return plain(self, state)

    monkeypatch.setattr(Saver, "contents", contents)
    assert cli.main(words(root, "run_dir=run")) == 4
    assert "1 tensors of step 4 are not finite, model.fc.bias first" in capsys.readouterr().err
    assert last(Path("run"))["step"] == 2
    assert not (Path("run") / "checkpoints" / "best.pt").exists()


# A second process


def hold(folder: str, has_it: Event) -> None:
    with locked(Path(folder)):
        has_it.set()
        time.sleep(60)


@pytest.fixture
def occupied(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Returns a function that lets another process have a folder; it is waited for 0.2 s."""
    for module in (beginning, testing):
        monkeypatch.setattr(module, "locked", partial(locked, patience=0.2))
    fork = multiprocessing.get_context("fork")
    processes = []

    def occupy(folder: Path) -> None:
        has_it = fork.Event()
        processes.append(fork.Process(target=hold, args=(str(folder), has_it)))
        processes[-1].start()
        assert has_it.wait(20)

    yield occupy
    for process in processes:
        process.kill()
        process.join()


def test_a_second_process_is_refused_and_changes_nothing(
    root: Path,
    trained: Callable[[str], Path],
    occupied: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = Path(shutil.copytree(trained("gn"), "runs/thin/20300101-000000"))
    (run / "config.yaml").write_text((run / "config.yaml").read_text())
    occupied(run)
    before = {name: (run / name).read_bytes() for name in files(run)}
    path = run / "checkpoints" / "last.pt"
    # By its folder, and as the newest run of the experiment; and a test in the same place.
    commands = [
        words(root, f"run_dir={run}"),
        words(root),
        ["test", "--ckpt", str(path), "--out", str(run)],
    ]
    for command in commands:
        assert cli.main(command) == 2
        error = capsys.readouterr().err
        assert f"{run} is in use by another process" in error
        assert error.count("\n") == 1
    assert before == {name: (run / name).read_bytes() for name in files(run)}
    assert list(Path("runs/thin").iterdir()) == [run]


def test_a_folder_that_another_process_has_made_its_own_meanwhile_is_refused(
    root: Path, occupied: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    occupied(Path("run"))  # and has not saved anything yet
    assert cli.main(words(root, "run_dir=run")) == 2
    assert "run is in use by another process" in capsys.readouterr().err
    assert files(Path("run")) == [".lock"]
