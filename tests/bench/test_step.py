"""The benchmark of the training step: all variants in one table, and the search for what fits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
import torch

from videogn import cli
from videogn.bench import on_gpu
from videogn.bench.rounds import cpu_seconds
from videogn.bench.step import Variant, require_size, training, variants
from videogn.build import resolve
from videogn.config import load_config
from videogn.errors import ConfigError

THIN = ["model.arch=i3d_r14", "model.width=8", "model.norm.num_groups=4", "device=cpu"]


@pytest.mark.parametrize("most", [0, 1, 2, 3, 7, 8, 100])
def test_the_largest_batch_is_found_in_few_trials(most: int) -> None:
    tried: list[int] = []

    def runs(size: int) -> None:
        tried.append(size)
        if size > most:
            raise torch.OutOfMemoryError

    assert on_gpu.largest(runs, limit=64) == min(most, 64)
    assert len(tried) == len(set(tried)) <= 14


def test_a_gpu_is_asked_for_the_fused_norms_and_for_graphs() -> None:
    names = {v.name for v in variants(torch.device("cuda"), compile=True)}
    assert {"GN, bf16", "GN fused, bf16", "BN, bf16", "GN fused, graphs, bf16"} <= names
    on_cpu = {v.name for v in variants(torch.device("cpu"), compile=False)}
    assert on_cpu == {"GN", "BN", "no norm", "GN, bf16", "BN, bf16", "no norm, bf16"}


def test_a_step_trains_the_variant_that_it_names() -> None:
    config = resolve(
        load_config("i3d_gn_64f", [*THIN, "data.num_frames=4", "data.crop_size=32"]), 5
    )
    kinds = {}
    for variant in (Variant("a", "gn"), Variant("b", "bn", "bf16"), Variant("c", None)):
        made = training(config, variant, torch.device("cpu"), 2)
        before = made.state.model.get_parameter("conv1.weight").clone()
        assert made.step().isfinite()
        assert not torch.equal(made.state.model.get_parameter("conv1.weight"), before)
        kinds[variant.name] = type(made.state.model.get_submodule("layer1.0.norm2")).__name__
        assert made.dtype is (torch.bfloat16 if variant.amp == "bf16" else None)
    assert kinds == {"a": "GroupNorm", "b": "BatchNorm3d", "c": "Identity"}


@pytest.mark.parametrize(
    ("frames", "size", "clips", "message"),
    [
        (8, 32, 1, "frames at 32 pixels leaves batch norm one value per channel"),
        (8, 7, 4, "8 frames at 7 pixels is too small to measure: a stage would halve a map of one"),
        (8, 16, 4, "8 frames at 16 pixels is too small to measure"),
        (8, 2, 4, "is too small: the last map would be"),
    ],
)
def test_a_size_that_some_variant_cannot_take_is_refused_at_once(
    frames: int, size: int, clips: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--frames", str(frames), "--size", str(size), "--batch", str(clips)]
    words += ["model.arch=i3d_r50", "model.width=8", "model.norm.num_groups=4", "device=cpu"]
    assert cli.main(["bench", "step", *words]) == ConfigError.exit_code
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert message in said


def test_the_smallest_clips_that_every_variant_can_take_are_let_through() -> None:
    for size, clips in ((21, 2), (32, 2), (64, 1)):
        sized = [*THIN[1:], "data.num_frames=8", f"data.crop_size={size}"]
        require_size(load_config("i3d_gn_64f", sized), clips)


@pytest.mark.slow
def test_the_command_measures_every_variant_and_writes_it_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "step.json"
    words = ["bench", "step", "--frames", "4", "--size", "32", "--batch", "2", "--rounds", "1"]
    assert cli.main([*words, "--out", str(out), *THIN]) == 0
    table = capsys.readouterr().out
    record = json.loads(out.read_text())
    assert (record["rounds"], record["arch"]) == (1, "i3d_r14")
    (setting,) = record["settings"]
    assert (setting["frames"], setting["size"], setting["clips"]) == (4, 32, 2)
    rows = {row["name"]: row for row in setting["rows"]}
    for row in rows.values():
        assert row["name"] in table
        assert row["clips_per_s"] == pytest.approx(2000 / row["ms"], rel=0.01)
    for amp in ("", ", bf16"):
        kept = [rows[f"{name}{amp}"]["kept_mb_per_clip"] for name in ("GN", "BN", "no norm")]
        assert kept[0] == pytest.approx(kept[1], abs=0.011)  # MB, rounded
        assert kept[2] < kept[0]
    assert rows["GN"]["largest"] > 100
    assert setting["ratios"]["GN / BN"] == pytest.approx(
        rows["GN"]["ms"] / rows["BN"]["ms"], rel=0.01
    )


@pytest.mark.slow
def test_a_step_with_group_norm_costs_what_one_with_batch_norm_does() -> None:
    sized = ["data.num_frames=8", "data.crop_size=112", "device=cpu"]
    config = resolve(load_config("i3d_gn_32f", sized), 400)
    names: list[Literal["gn", "bn"]] = ["gn", "bn"]
    steps = {
        name: training(config, Variant(name, name), torch.device("cpu"), 1).step for name in names
    }
    times = cpu_seconds(steps, rounds=7)
    assert times["gn"] <= 1.05 * times["bn"]  # measured: 0.99


def test_decode_takes_one_video(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "decode", "a.mp4", "b.mp4"]) == 2
    assert "takes one video, not 2" in capsys.readouterr().err
