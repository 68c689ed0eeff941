"""One trial: which clips it sees in what order, and what comes of it."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.study.tiny import tiny_study
from videogn.study import trial as trial_module
from videogn.study.clips import Look, MotionClips
from videogn.study.plan import Trial
from videogn.study.trial import batches_of, run_trial

TRIAL = Trial("gn", batch=8, frames=4, seed=1, rate=0.1)


def clips() -> MotionClips:
    return MotionClips(1, "train", 64, Look(num_frames=2, size=8))


@pytest.mark.parametrize("batch", [8, 2])
@pytest.mark.parametrize("order", ["mixed", "video"])
def test_an_epoch_is_one_look_at_every_clip(batch: int, order: str) -> None:
    trial = replace(TRIAL, batch=batch, order=order)
    batches = list(islice(batches_of(trial, clips()), 2 * 64 // batch))
    rows = torch.cat([b.rows for b in batches])
    assert rows[:64].sort().values.tolist() == rows[64:].sort().values.tolist() == list(range(64))
    assert rows[:64].tolist() != rows[64:].tolist()
    assert {len(b.clips) for b in batches} == {batch}
    some = batches[3]
    torch.testing.assert_close(some.clips, clips().render(some.rows))
    assert torch.equal(some.labels, clips().labels[some.rows])


def test_in_the_order_of_videos_a_batch_is_of_one() -> None:
    def videos(order: str) -> list[int]:
        batches = islice(batches_of(replace(TRIAL, batch=4, order=order), clips()), 16)
        return [len(set((b.rows // 8).tolist())) for b in batches]

    assert set(videos("video")) == {1}
    assert min(videos("mixed")) > 1


def test_a_trial_gives_the_same_numbers_again_and_other_seeds_others(tmp_path: Path) -> None:
    study = tiny_study(tmp_path)
    first, again = (run_trial(study, TRIAL, test=True) for _ in range(2))
    other = run_trial(study, replace(TRIAL, seed=2), test=True)
    for result in (first, again, other):
        assert result.pop("cpu_seconds") > 0
        assert result.pop("seconds") >= 0
    assert first == again
    assert first != other
    assert [epoch for epoch, _ in first["curve"]] == [0.5, 1.0]
    assert all(0 <= error <= 100 for _, error in first["curve"])
    assert first["test"] == first["test_running"]  # GN has no statistics
    right = round(first["test"] * 24 / 100)
    assert first["test"] == pytest.approx(100 * right / 24, abs=1e-3)


def test_weights_are_those_of_the_seed(tmp_path: Path) -> None:
    study = tiny_study(tmp_path)

    def weights(seed: int) -> torch.Tensor:
        trial = replace(TRIAL, seed=seed)
        return trial_module._network(study.config(trial), trial, clips()).conv1.weight

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_a_trial_to_choose_by_never_sees_the_test_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    class Watched(MotionClips):
        def __init__(self, seed: int, split: str, *rest) -> None:
            made.append((seed, split))
            super().__init__(seed, split, *rest)

    monkeypatch.setattr(trial_module, "MotionClips", Watched)
    result = run_trial(tiny_study(tmp_path), TRIAL, test=False)
    assert made == [(1, "train"), (1000, "val")]
    assert not result["tested"]
    assert "test" not in result
    run_trial(tiny_study(tmp_path), TRIAL, test=True)
    assert made[2:] == [(1, "train"), (1000, "val"), (1000, "test")]


def test_bn_is_tested_with_measured_and_with_running_statistics(tmp_path: Path) -> None:
    study = tiny_study(tmp_path)
    result = run_trial(study, replace(TRIAL, norm="bn", batch=2), test=True)
    assert {"val", "val_running", "test", "test_running"} <= result.keys()
    assert (result["test"], result["val"]) != (result["test_running"], result["val_running"])


def test_frozen_bn_starts_from_statistics_of_the_random_weights(tmp_path: Path) -> None:
    study = tiny_study(tmp_path)
    trial = replace(TRIAL, norm="frozen_bn")
    config = study.config(trial)
    training = MotionClips(1, "train", 32, Look(4, 32))
    network = trial_module._network(config, trial, training)
    features = {}
    stem = network.norm1
    stem.register_forward_hook(lambda _, inputs, __: features.update(x=inputs[0].detach()))
    with torch.no_grad():
        network(torch.cat([b.clips for b in trial_module._some(config, trial, training)]))
    assert type(stem).__name__ == "FrozenBatchNorm3d"
    seen = features["x"].mean((0, 2, 3, 4))
    torch.testing.assert_close(stem.running_mean, seen, atol=1e-4, rtol=1e-3)
    assert not any("norm" in name for name, _ in network.named_parameters())


def test_a_trial_that_diverges_says_so(tmp_path: Path) -> None:
    study = tiny_study(tmp_path)
    result = run_trial(study, replace(TRIAL, norm="frozen_bn", rate=1e4), test=True)
    assert "not finite" in result["diverged"] or "nan" in result["diverged"]
    assert "test" not in result
    assert result["tested"]


def test_the_largest_batch_is_made_in_one_part() -> None:
    order = np.arange(64)
    sizes = [len(b.clips) for b in trial_module._dealt(clips(), order, 64)]
    assert sizes == [64]
