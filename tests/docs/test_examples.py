"""The Python in the documents runs: the blocks of a page one after the other, in one namespace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.checkpoints import CLASSES, write_checkpoint
from tests.docs.pages import NAMES, ROOT, fences
from tests.videos import write_numbered
from tests.weights.foreign_files import as_caffe2, detectron_gn_name
from videogn import create_model


def run_blocks(page: str, namespace: dict[str, Any]) -> None:
    """Executes the Python blocks of a page; an error names the page's own line."""
    for fence in fences(page, "python"):
        padded = "\n" * (fence.line - 1) + fence.text
        exec(compile(padded, str(ROOT / page), "exec"), namespace)


@pytest.mark.parametrize(
    ("overrides", "classes"),
    [((), CLASSES), (("model.norm.kind=bn", "model.width=16", "data.num_frames=8"), CLASSES[:3])],
    ids=["GN", "another network"],
)
def test_the_examples_of_the_library_run(
    overrides: tuple[str, ...],
    classes: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_checkpoint(tmp_path / "best.pt", *overrides, classes=classes)
    write_numbered(tmp_path / "clip.mp4", 24)
    monkeypatch.chdir(tmp_path)
    run_blocks("docs/library.md", {})


@pytest.mark.slow
def test_the_examples_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path / "best.pt")
    write_numbered(tmp_path / "clip.mp4", 24)
    image = create_model("i3d_r50", num_frames=64).state_dict()  # its kernels lose their time
    flat = {name: each.mean(2) if each.dim() == 5 else each for name, each in image.items()}
    flat["fc.weight"], flat["fc.bias"] = torch.zeros(1000, 2048), torch.zeros(1000)
    as_caffe2(flat, tmp_path / "R-50-GN.pkl", name=detectron_gn_name)
    monkeypatch.chdir(tmp_path)
    network = nn.Sequential(nn.Conv3d(3, 32, 1), nn.BatchNorm3d(32))
    run_blocks("README.md", {"network": network})
    assert isinstance(network[1], nn.GroupNorm)


def test_no_other_page_has_examples_that_nobody_runs() -> None:
    assert [page for page in NAMES if fences(page, "python")] == ["README.md", "docs/library.md"]
