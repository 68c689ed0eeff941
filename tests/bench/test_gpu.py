"""The one command for a GPU, as far as it can be tried without one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import Criterion, step_criteria
from benchmarks.gpu_steps import THEIRS, VARIANTS, Taken, conversions

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("got", "at_least", "verdict"),
    [(0.8, True, "met"), (0.7, True, "MISSED"), (0.7, False, "met"), (0.8, False, "MISSED")],
)
def test_a_criterion_is_met_or_missed(got: float, at_least: bool, verdict: str) -> None:
    line = Criterion("this", 0.75, got, at_least=at_least).line()
    assert line.endswith(f"| {got:g} | {verdict} |")


def test_what_is_not_measured_is_not_met() -> None:
    assert Criterion("this", 1, None, at_least=False).line().endswith("| not measured |")


def test_the_ratios_of_a_step_are_the_way_round_that_they_say() -> None:
    took = {v.name: Taken(9.0, 9) for v in VARIANTS}
    took |= {"GN fused": Taken(8.0, 3), "BN stock": Taken(10.0, 3), THEIRS: Taken(24.0, 12)}
    took |= {"GN eager, autocast": Taken(16.0, 6)}
    got = [(each.what.split(",")[0], each.got) for each in step_criteria(took, "here")]
    assert got == [
        ("GN fused / BN stock", 0.8),
        ("GN eager autocast / GN fused", 2.0),
        ("pytorchvideo's GN / GN fused", 3.0),
        ("GN fused / BN stock", 1.0),
        ("GN fused / GN eager autocast", 0.5),
    ]


def test_only_conversions_between_the_stems_count() -> None:
    stem, ours, conv = "void nchwToNhwcKernel<bf16>", "moments", "sm90_xmma_fprop_nhwc"
    clean = [stem, conv, ours, "normalize", conv, "derivative", conv, "void nhwcToNchwKernel"]
    assert conversions(clean) == []
    assert conversions([*clean[:4], "cudnn::convertTensor_kernel", *clean[4:]]) == [
        "cudnn::convertTensor_kernel"
    ]


@pytest.mark.slow
def test_the_whole_command_runs_at_toy_size(tmp_path: Path) -> None:
    out = tmp_path / "gpu.md"
    command = [sys.executable, "benchmarks/gpu.py", "--toy", "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": "."}
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "recompile_limit" not in done.stderr
    text = out.read_text(encoding="utf-8")
    assert text in done.stdout
    for what in ("| res5c |", THEIRS, "loss, fused bfloat16 off eager", "bandwidth of a copy's"):
        assert what in text
    assert text.count("not measured") == 3  # peaks and kernels
