"""Runs whose numbers, memory or videos go bad: how they end, and what they leave."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.test_experiment import (
    BN,
    assert_same_result,
    here,  # noqa: F401
    interrupt_at,
    last,
    make_root,
    read_test,
    records,
    words,
)
from videogn import advice, build, cli, experiment
from videogn.bad_samples import BadSamples
from videogn.config import load_config
from videogn.data.dataset import BadVideo
from videogn.data.order import epoch_order
from videogn.errors import DataError
from videogn.model.i3d import I3DResNet
from videogn.weights.load import read_weights


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_root(tmp_path_factory.mktemp("data") / "root")


def in_forward(
    monkeypatch: pytest.MonkeyPatch, number: int, harm: Callable[[Tensor], Tensor]
) -> None:
    """Has the training call number `number` of the network return what `harm` makes of it."""
    plain, calls = I3DResNet.forward, []

    def forward(self: I3DResNet, clips: Tensor) -> Tensor:
        logits = plain(self, clips)
        if self.training and torch.is_grad_enabled():
            calls.append(1)
            if len(calls) == number:
                return harm(logits)
        return logits

    monkeypatch.setattr(I3DResNet, "forward", forward)


def exhaust(_: Tensor) -> Tensor:
    return torch.empty(2**62, dtype=torch.uint8)


def train(root: Path, *more: str) -> int:
    return cli.main(words(root, "run_dir=run", *more))


def test_a_loss_gone_bad_ends_with_4_names_the_videos_and_keeps_the_checkpoint(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        in_forward(patch, 4, lambda logits: logits * torch.nan)
        assert train(root) == 4
    error = capsys.readouterr().err
    assert "the loss of step 4 is nan at lr 0.02; nothing was updated or saved" in error
    assert last(Path("run"))["step"] == 2
    dump = json.loads(Path("run/diverged.json").read_text(), parse_constant=pytest.fail)
    assert dump["loss"] == "nan"
    assert (dump["step"], dump["epoch"], dump["amp"], dump["lr"]) == (4, 1.0, "none", 0.02)
    (rank,) = dump["ranks"]
    assert len(rank["rows"]) == 2
    assert rank["paths"] == [f"videos/train_{row}.mp4" for row in rank["rows"]]
    assert train(root) == 0  # it was the machine: the same command goes on
    assert cli.main(words(root, "run_dir=reference")) == 0
    assert_same_result(Path("run"), Path("reference"))


def test_a_loss_gone_bad_ends_with_4_on_a_full_disk_too(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, _: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(experiment, "write_json", full)
    in_forward(monkeypatch, 1, lambda logits: logits * torch.nan)
    assert train(root) == 4
    output = capsys.readouterr()
    assert "the loss of step 1 is nan" in output.err
    assert "what diverged is not written down: run/diverged.json: No space left" in output.out


def test_exhausted_memory_ends_with_5_one_sentence_and_three_overrides(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        in_forward(patch, 3, exhaust)
        assert train(root) == 5
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert error.startswith("error: out of memory in step 3 on cpu, after a peak of ")
    assert error.endswith(
        "GB; try optim.clips_per_gpu=1 optim.accumulate=2, or model.recompute=block, or "
        "data.num_frames=2"
    )
    assert last(Path("run"))["step"] == 2
    assert train(root) == 0  # no batch was left out
    assert cli.main(words(root, "run_dir=reference")) == 0
    assert_same_result(Path("run"), Path("reference"))


def test_memory_exhausted_in_a_test_names_overrides_of_tests(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(I3DResNet, "probs", lambda _, clips: exhaust(clips))
    assert train(root, "optim.max_steps=1") == 5
    error = capsys.readouterr().err
    assert "out of memory in the test on cpu" in error
    assert "try eval.views_per_forward=" in error


def test_advice_on_memory_is_accepted_by_the_configuration(root: Path) -> None:
    for more in ((), ("optim.clips_per_gpu=4", "data.clips_per_decode=4"), ("optim.amp=bf16",)):
        command = words(root, *more)[2:]
        config = load_config("demo.yaml", command)
        on_gpu, on_cpu = (
            advice.for_training_memory(config, torch.device(kind)) for kind in ("cuda", "cpu")
        )
        assert ("optim.amp=bf16" in on_gpu) == (config.optim.amp == "none")
        assert "optim.amp=bf16" not in on_cpu
        for found in (on_gpu, on_cpu, advice.for_test_memory(config)):
            assert len(found) == 3, found
            for overrides in found:
                load_config("demo.yaml", [*command, *overrides.split()])


def test_advice_on_waiting_is_about_workers_until_the_cores_are_used(root: Path) -> None:
    config = load_config("demo.yaml", words(root, "data.num_workers=3")[2:])
    assert "raise data.num_workers from 3" in advice.for_waiting(config, cores=8)
    assert "all 4 cores are used; re-encode" in advice.for_waiting(config, cores=4)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only Linux confines a process")
def test_advice_counts_the_cores_that_the_process_may_use(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(3)))
    config = load_config("demo.yaml", words(root, "data.num_workers=1")[2:])
    assert "there are 3 cores" in advice.for_waiting(config)
    config = load_config("demo.yaml", words(root, "data.num_workers=2")[2:])
    assert "all 3 cores are used" in advice.for_waiting(config)


def test_an_overflow_in_the_first_step_of_fp16_leaves_no_momentum(root: Path) -> None:
    config = load_config("demo.yaml", words(root, "optim.amp=fp16")[2:])

    def stepped(*gradients: float) -> list[Tensor]:
        model = build.build_model(config, 6)
        state = build.build_state(config, model, torch.device("cpu"))
        for gradient in gradients:
            for p in model.parameters():
                p.grad = torch.full_like(p, gradient)
                state.scaler.scale(p.grad)  # which sets it up
            state.scaler.unscale_(state.optimizer)
            state.scaler.step(state.optimizer)
            state.scaler.update()
            if gradient == torch.inf:
                assert not state.optimizer.state
        return [p.detach() for p in model.parameters()]

    scale = 2.0**16
    after_overflow, plain = stepped(torch.inf, scale / 2), stepped(scale)
    assert all(map(torch.equal, after_overflow, plain))


# The average of the weights

EMA = "optim.ema=0.7"


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_average_and_clipping_go_on_to_the_bit(
    step: int, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = (EMA, "optim.clip_grad=1", BN)
    with monkeypatch.context() as patch:
        interrupt_at(patch, step)
        assert train(root, *recipe) == 130
    assert train(root, *recipe) == 0
    assert cli.main(words(root, "run_dir=reference", *recipe)) == 0
    assert_same_result(Path("run"), Path("reference"))
    one, other = last(Path("run"))["ema"], last(Path("reference"))["ema"]
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert all(r["grad_norm"] > 0 for r in records(Path("run")) if r["split"] == "train")


def test_the_average_is_what_is_tested_predicted_with_and_started_from(root: Path) -> None:
    assert train(root, EMA) == 0
    contents, path = last(Path("run")), "run/checkpoints/last.pt"
    different = [k for k, v in contents["ema"].items() if not torch.equal(v, contents["model"][k])]
    assert "conv1.weight" in different
    assert cli.main(["test", "--ckpt", path, "--out", "again"]) == 0
    assert read_test(Path("again")) == read_test(Path("run"))
    assert read_test(Path("run"))["weights"] == "averaged"
    predictions = [Path(f, "predictions.csv").read_bytes() for f in ("run", "again")]
    assert predictions[0] == predictions[1]
    weights = read_weights(path).tensors
    assert torch.equal(weights["conv1.weight"], contents["ema"]["conv1.weight"])


# Bad videos


def bad(row: int) -> BadVideo:
    return BadVideo(row, f"videos/{row}.mp4", "no such file")


def test_bad_videos_are_counted_everywhere_and_listed_by_one(tmp_path: Path) -> None:
    path = tmp_path / "bad_samples.jsonl"
    main = BadSamples(path, 10, max_fraction=0.2)
    other = BadSamples(path, 10, max_fraction=0.2, is_main=False)
    for samples in (main, other):
        samples.note([bad(3), bad(3)], 1)
        samples.note([bad(3), bad(5)], 2)
    listed = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(record["row"], record["step"]) for record in listed] == [(3, 1), (5, 2)]
    for samples in (main, other):
        with pytest.raises(DataError, match="3 of 10 training videos cannot be read"):
            samples.note([bad(7)], 3)
    again = BadSamples(path, 10, max_fraction=0.2)  # on going on with the run
    with pytest.raises(DataError):
        again.note([], 3)


def test_once_the_storage_is_back_the_same_command_goes_on(
    root: Path,
    here: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As videos are gone for a while, first some of training and then some of the test."""
    data = Path(shutil.copytree(root, here / "data"))
    command = words(data, "run_dir=run", "data.max_bad_fraction=0.2")
    order = epoch_order(8, 0, 0).tolist()
    late = [data / f"videos/train_{row}.mp4" for row in order[4:]]  # of steps 3 and 4
    for path in late:
        path.rename(path.with_suffix(".away"))
    assert cli.main(command) == 3
    assert "once they can be read, resume=auto goes on" in capsys.readouterr().err
    assert len(Path("run/bad_samples.jsonl").read_text().splitlines()) >= 2
    assert last(Path("run"))["step"] == 2
    for path in late:
        path.with_suffix(".away").rename(path)
    gone = [data / f"videos/val_{row}.mp4" for row in (1, 2)]
    for path in gone:
        path.rename(path.with_suffix(".away"))
    assert cli.main(command) == 3
    assert Path("run/bad_samples.jsonl").read_text() == ""
    assert len(read_test(Path("run"))["failed"]) == 2
    for path in gone:
        path.with_suffix(".away").rename(path)
    assert cli.main(command) == 0
    assert read_test(Path("run"))["failed"] == []


def test_a_new_start_leaves_nothing_of_a_run_that_never_saved(root: Path) -> None:
    run, one = Path("run"), "optim.max_steps=1"
    (run / "partial").mkdir(parents=True)
    rows = "".join(json.dumps({"step": 1, **bad(row)._asdict()}) + "\n" for row in range(8))
    (run / "bad_samples.jsonl").write_text(rows)
    for name in ("test.json", "diverged.json"):
        (run / name).write_text('{"failed": [], "num_videos": 5, "top1": 99.0}')
    for name in ("predictions.csv", "partial/rank_00001.pt"):
        (run / name).write_text("of before")
    assert train(root, one) == 0
    assert not any((run / name).exists() for name in ("bad_samples.jsonl", "diverged.json"))
    assert read_test(run)["step"] == 1
    assert not (run / "partial").exists()
