"""Several processes compute what one computes: gloo on this machine, started by torchrun.

Run as a module under torchrun, this file is the program that the ranks run.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tests.test_experiment import (
    BN,
    last,
    make_root,
    read_test,
    records,
    words,
)
from videogn import cli
from videogn.config import load_config
from videogn.engine import checkpoint, distributed
from videogn.engine.distributed import Ranks
from videogn.engine.evaluate import ViewAverager
from videogn.engine.precise_bn import precise_bn
from videogn.experiment import run_training
from videogn.testing import run_test

REPOSITORY = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
# Dropout is drawn per rank, and statistics are per rank for BN: without both, ranks do not matter.
SAME = ["model.dropout=0", "log_every_steps=1"]


# A single process


def test_without_torchrun_there_is_one_rank_and_nothing_to_wait_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert distributed.join(torch.device("cpu")) == Ranks(0, 1, 0)
    tensor = torch.ones(3)
    assert torch.equal(distributed.all_sum(tensor), tensor)
    assert distributed.any_rank(True)
    assert not distributed.any_rank(False)
    assert distributed.from_main("a") == "a"
    assert distributed.gather({"a": 1}) == [{"a": 1}]
    distributed.barrier()
    distributed.leave()


# What the ranks run


def population(world: int) -> tuple[nn.Module, list[list[torch.Tensor]]]:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4))
    # The last rank has no batch at all.
    batches = [[(r + 1) * torch.randn(2, 3, 4, 5, 5) + r for _ in range(3)] for r in range(world)]
    batches[-1] = [] if world > 1 else batches[-1]
    return model, batches


def check_primitives(ranks: Ranks) -> None:
    world = ranks.world
    total = distributed.all_sum(torch.tensor([ranks.rank, 1], dtype=torch.float64))
    assert total.tolist() == [world * (world - 1) / 2, world]
    assert distributed.any_rank(ranks.rank == world - 1)
    assert not distributed.any_rank(False)
    assert distributed.from_main(f"rank {ranks.rank}") == "rank 0"
    assert distributed.gather(ranks.rank) == list(range(world))
    assert ranks.is_main == (ranks.rank == 0)


def check_precise_bn(ranks: Ranks) -> None:
    model, batches = population(ranks.world)
    mine = [SimpleNamespace(clips=clips) for clips in batches[ranks.rank]]
    precise_bn(model, mine, to_input=lambda clips: clips)
    digests = distributed.gather(checkpoint.digest(dict(model.named_buffers())["1.running_var"]))
    assert len(set(digests)) == 1, digests
    everything = torch.cat([clips for part in batches for clips in part]).double()
    with torch.no_grad():
        outputs = model[0].double()(everything)  # type: ignore[index]
    var = outputs.var((0, 2, 3, 4), correction=0)
    torch.testing.assert_close(model[1].running_var.double(), var, rtol=1e-6, atol=0)  # type: ignore[index]


def check_averager(ranks: Ranks) -> None:
    """Five videos dealt to the ranks, one of them failed: the same result everywhere."""
    torch.manual_seed(5)
    probs, labels = torch.rand(5, 2, 3), [0, 2, 1, 1, 0]
    whole = ViewAverager(5, 2, 3)
    part = ViewAverager(5, 2, 3)
    for video in range(5):
        for averager in (whole, part) if video % ranks.world == ranks.rank else (whole,):
            if video == 3:
                averager.fail(video, labels[video])
            else:
                averager.add(video, 0, probs[video], labels[video])
    part.reduce()
    expected, result = whole.result(), part.result()
    assert torch.equal(result.probs, expected.probs)
    assert torch.equal(result.correct, expected.correct)
    assert (result.top1, result.top5) == (expected.top1, expected.top5)


def probe(task: str) -> None:
    """Does one rank's part of a test; what it writes is looked at by the test."""
    torch.set_num_threads(1)
    ranks = distributed.join(torch.device("cpu"))
    distributed.leave = lambda: None  # several runs in one life of the processes
    given = json.loads(task)
    check_primitives(ranks)
    check_precise_bn(ranks)
    check_averager(ranks)
    for overrides in given["train"]:
        run_training(load_config("demo.yaml", overrides))
    for path, out, overrides in given["test"]:
        run_test(path, overrides, Path(out))


# The tests


def torchrun(world: int, *command: str) -> list[str]:
    return [*TORCHRUN, str(world), *command]


def launch(world: int, **task: Any) -> None:
    """Runs `probe` on some ranks in the working folder."""
    given = json.dumps({"train": [], "test": []} | task)
    done = subprocess.run(
        torchrun(world, "-m", "tests.engine.test_distributed", given),
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_root(tmp_path_factory.mktemp("data") / "root")


@pytest.fixture(scope="module")
def runs(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with runs on two ranks, and the same global batch on one."""
    folder = tmp_path_factory.mktemp("runs")

    def command(name: str, *more: str) -> list[str]:
        return words(root, f"run_dir={folder / name}", *SAME, *more)[2:]

    without = "eval.precise_bn_batches=0"
    launch(
        2,
        train=[
            command("gn2"),
            command("bn2", BN),
            command("bn2_running", BN, without),
            command("gn2_accumulated", "optim.accumulate=2", "optim.clips_per_gpu=1"),
        ],
    )
    assert cli.main(["--cfg", "demo.yaml", *command("gn1", "optim.clips_per_gpu=4")]) == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gn2", "gn2_accumulated"])
def test_two_ranks_train_gn_as_one_does_with_the_same_global_batch(name: str, runs: Path) -> None:
    one, two = last(runs / "gn1"), last(runs / name)
    for key, value in one["model"].items():
        torch.testing.assert_close(two["model"][key], value, rtol=1e-5, atol=1e-5)
    assert one["step"] == two["step"] == 3
    for a, b in zip(records(runs / "gn1"), records(runs / name), strict=True):
        assert a.keys() == b.keys()
        assert list(a.values())[3:] == pytest.approx(list(b.values())[3:], rel=1e-4)
    assert read_test(runs / "gn1") == read_test(runs / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gn2", "bn2"])
def test_the_test_of_two_ranks_is_that_of_their_checkpoint_on_any_number_of_ranks(
    name: str, runs: Path, tmp_path: Path
) -> None:
    path = str(runs / name / "checkpoints" / "last.pt")
    assert cli.main(["test", "--ckpt", path, "--out", str(tmp_path)]) == 0
    assert read_test(tmp_path) == read_test(runs / name)
    assert predictions(tmp_path) == predictions(runs / name)


@pytest.mark.slow
def test_running_statistics_are_the_same_on_all_ranks_when_they_are_tested(
    runs: Path, tmp_path: Path
) -> None:
    run = runs / "bn2_running"
    path = str(run / "checkpoints" / "last.pt")
    assert cli.main(["test", "--ckpt", path, "--out", str(tmp_path)]) == 0
    assert predictions(tmp_path) == predictions(run)


def predictions(folder: Path) -> bytes:
    return (folder / "predictions.csv").read_bytes()


@pytest.mark.slow
def test_one_two_and_three_ranks_give_the_same_bytes_of_five_videos_and_of_one(
    root: Path, runs: Path, tmp_path: Path
) -> None:
    single = make_root(tmp_path / "single", train=1, val=1)
    path = str(runs / "gn2" / "checkpoints" / "last.pt")
    crops = "eval.crops=three"
    tests = {"five": [crops], "one": [crops, f"data.root={single}"]}

    def out(name: str, world: int) -> str:
        return str(tmp_path / f"{name}_{world}")

    for name, overrides in tests.items():
        assert cli.main(["test", "--ckpt", path, "--out", out(name, 1), *overrides]) == 0
    for world in (2, 3):
        launch(world, test=[(path, out(name, world), how) for name, how in tests.items()])
        for name in tests:
            one, several = Path(out(name, 1)), Path(out(name, world))
            assert read_test(several) == read_test(one)
            assert predictions(several) == predictions(one)
            assert sorted(p.name for p in several.iterdir()) == [
                "config.yaml",
                "predictions.csv",
                "test.json",
            ]


def start(root: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        torchrun(2, str(REPOSITORY / "run.py"), *words(root, *SAME, *more)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_torchrun_and_its_ranks_saves_a_checkpoint_and_the_run_goes_on(
    number: signal.Signals, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C and Slurm signal the whole group, and torchrun then passes it on: each rank gets two.

    What comes of it, a checkpoint of the last step, is gone on from with the same command.
    """
    monkeypatch.chdir(tmp_path)
    long = ("optim.epochs=200", "optim.milestones=[50]", "save_every_steps=100000")
    long = (*long, "eval.monitor_every_epochs=100", "run_dir=run")
    process = start(root, *long)
    record, deadline = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 60
    while not record.is_file() or record.read_bytes().count(b"\n") < 3:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, number)
    output = process.communicate(timeout=60)[0]
    assert process.returncode != 0
    found = checkpoint.newest(tmp_path / "run" / "checkpoints")
    assert found is not None, output
    assert found[1]["step"] >= 3


@pytest.mark.slow
def test_too_much_bad_data_on_some_rank_ends_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = make_root(tmp_path / "root")
    for number in range(3):
        (data / "videos" / f"train_{number}.mp4").write_text("not found\n")
    process = start(data, "data.max_bad_fraction=0.1", "run_dir=run", "optim.epochs=50")
    output = process.communicate(timeout=60)[0]
    assert process.returncode != 0
    assert "training videos cannot be read" in output


if __name__ == "__main__":
    probe(sys.argv[1])
