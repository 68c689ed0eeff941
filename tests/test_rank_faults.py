"""Videos that one rank cannot read leave no other rank waiting, and cut none short."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tests.engine.forked_ranks import run_ranks
from tests.test_experiment import CLASSES, words
from videogn import build, testing
from videogn.config import load_config
from videogn.engine import distributed
from videogn.engine.distributed import Ranks
from videogn.model.norm import norm_factory
from videogn.monitoring import Monitor

CPU = torch.device("cpu")


def test_the_result_of_a_test_is_written_before_any_rank_ends_for_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    names = [f"{i}.mp4" for i in range(4)]
    (root / "val.csv").write_text("path,label\n" + "".join(f"{n},left\n" for n in names))
    for name in names:
        (root / name).write_text("not found\n")
    plain = testing.write_json

    def slowly(path: Path, value: Any) -> None:
        time.sleep(2)  # longer than ranks are given to end after another
        plain(path, value)

    monkeypatch.setattr(testing, "write_json", slowly)
    config = build.resolve(load_config("demo.yaml", words(root)[2:]), len(CLASSES))

    def work(ranks: Ranks) -> None:
        testing.test_model(
            config,
            build.build_model(config, len(CLASSES)),
            build.build_manifest(config, "val"),
            CPU,
            ranks,
            folder=tmp_path / "out",
            source={},
            mirror=None,
            interrupted=lambda: False,
        )

    ended = run_ranks(tmp_path, work, limit=20.0)
    assert [end.code for end in ended] == [3, 3], ended
    report = json.loads((tmp_path / "out" / "test.json").read_text())
    assert [entry["path"] for entry in report["failed"]] == names


def clips_of(number: int, count: int) -> SimpleNamespace:
    generator = torch.Generator().manual_seed(number)
    shape = (count, 2, 4, 4, 3)
    return SimpleNamespace(clips=torch.randint(256, shape, generator=generator, dtype=torch.uint8))


def test_a_batch_that_one_rank_cannot_read_is_left_out_by_all_when_measuring_bn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statistics shared among ranks are measured by calls that every rank must make."""
    config = build.resolve(load_config("demo.yaml", words(tmp_path)[2:]), len(CLASSES))

    def batches(_: Any, __: Any, ranks: Ranks, **___: Any) -> Iterator[SimpleNamespace]:
        empty_at = 1 if ranks.rank else None
        return (clips_of(10 * ranks.rank + i, 0 if i == empty_at else 2) for i in range(3))

    monkeypatch.setattr(build, "build_train_loader", batches)

    def work(ranks: Ranks) -> None:
        model = nn.Sequential(norm_factory("sync_bn")(3))
        videos: Any = range(6)
        Monitor(config, videos, videos, CPU, ranks, lambda: False)._measure_bn(model, 0)
        to_input = build.build_to_input(config, CPU)
        kept = torch.cat([to_input(clips_of(i, 2).clips) for i in (0, 2, 10, 12)])
        mean: Any = model[0].running_mean
        torch.testing.assert_close(mean, kept.mean([0, 2, 3, 4]), rtol=1e-5, atol=1e-6)
        assert distributed.gather(mean.tolist()) == [mean.tolist()] * 2

    ended = run_ranks(tmp_path, work, limit=4.0)
    assert [end.code for end in ended] == [0, 0], ended


def test_no_batch_is_read_for_statistics_that_are_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = build.resolve(load_config("demo.yaml", words(tmp_path)[2:]), len(CLASSES))

    def never(*_: Any, **__: Any) -> Iterator[Any]:
        raise AssertionError("a loader was started")

    monkeypatch.setattr(build, "build_train_loader", never)
    videos: Any = range(6)
    monitor = Monitor(config, videos, videos, CPU, Ranks(), lambda: False)
    monitor._measure_bn(nn.Sequential(norm_factory("brn")(3)), 0)
    with pytest.raises(AssertionError, match="a loader was started"):
        monitor._measure_bn(nn.Sequential(norm_factory("bn")(3)), 0)
