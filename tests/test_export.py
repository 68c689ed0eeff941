"""A checkpoint as a program: what it computes, for which clips, and what it says of itself."""

from __future__ import annotations

import json
import re
import sys
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.checkpoints import CLASSES, PYSLOWFAST, write_checkpoint
from tests.model.named_weights import clip
from videogn import cli, export
from videogn.errors import CheckpointError, ConfigError, ExportError
from videogn.export import export_checkpoint
from videogn.predict import load


def run_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["clips"]
    return lambda clips: torch.from_numpy(session.run(["logits"], {"clips": clips.numpy()})[0])


def run_torch_export(path: Path) -> Callable[[Tensor], Tensor]:
    return torch.export.load(path).module()


RUN = {"onnx": run_onnx, "torch_export": run_torch_export}


@cache
def exported(folder: Path, kind: str, norm: str, size: tuple[int, int] | None) -> tuple[Path, str]:
    """Exports once for all the tests of a file; (4, 32, 32) is the training clip."""
    if kind == "onnx":
        pytest.importorskip("onnxscript")
    source = write_checkpoint(folder / f"{norm}.pt", f"model.norm.kind={norm}")
    out = folder / f"{norm}_{size}.{kind}"
    return out, export_checkpoint(source, out, kind=kind, size=size, check=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


CASES = pytest.mark.parametrize(
    ("kind", "norm", "size"),
    [
        ("onnx", "gn", None),
        # several positions of the head's window
        pytest.param("onnx", "bn", (64, 96), marks=pytest.mark.slow),
        ("torch_export", "gn", (64, 96)),
        pytest.param("torch_export", "bn", None, marks=pytest.mark.slow),
    ],
)


@pytest.mark.slow
@CASES
def test_a_program_gives_the_logits_of_the_network(
    kind: str, norm: str, size: tuple[int, int] | None, folder: Path
) -> None:
    path, line = exported(folder, kind, norm, size)
    assert re.search(r"checked: same top 5, logits within \d", line)
    model = load(folder / f"{norm}.pt", ["device=cpu"]).model
    run = RUN[kind](path)
    for batch in (1, 2, 5):
        clips = clip(batch, 4, *(size or (32, 32)))
        with torch.inference_mode():
            expected, found = model(clips), run(clips)
        assert found.shape == (batch, 7)
        assert expected.std() > 0.1
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
        assert torch.equal(found.topk(5).indices, expected.topk(5).indices)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "torch_export"])
def test_a_program_says_what_goes_with_it(kind: str, folder: Path) -> None:
    size = None if kind == "onnx" else (64, 96)
    path, _ = exported(folder, kind, "gn", size)
    if kind == "onnx":
        onnx = pytest.importorskip("onnx")
        properties = {p.key: p.value for p in onnx.load(str(path)).metadata_props}
        about = {k.removeprefix("videogn."): json.loads(v) for k, v in properties.items()}
    else:
        with zipfile.ZipFile(path) as archive:
            (name,) = [n for n in archive.namelist() if n.endswith("videogn.json")]
            about = json.loads(archive.read(name))
    assert about["classes"] == CLASSES
    assert (about["mean"], about["std"]) == ([0.45] * 3, [0.225] * 3)
    assert about["clip"] == [3, 4, *(size or (32, 32))]
    assert about["frame_stride"] == 2
    assert about["fingerprint"]["groups"] == 4


@pytest.mark.slow
def test_the_batch_of_onnx_is_free_and_the_rest_is_not(folder: Path) -> None:
    onnx = pytest.importorskip("onnx")
    path, _ = exported(folder, "onnx", "gn", None)
    (value,) = onnx.load(str(path)).graph.input
    sizes = [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
    assert sizes == [0, 3, 4, 32, 32]


@pytest.mark.slow
def test_a_program_that_computes_something_else_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_checkpoint(tmp_path / "best.pt")
    read = export._READERS["torch_export"]

    def off(path: Path) -> Callable[[Tensor], Tensor]:
        run = read(path)
        return lambda clips: run(clips) + 1.1e-4

    monkeypatch.setitem(export._READERS, "torch_export", off)
    out = tmp_path / "out.pt2"
    out.write_bytes(b"before")
    with pytest.raises(ExportError, match=r"differ by 0\.00011 .* nothing was written"):
        export_checkpoint(source, out, kind="torch_export", check=True)
    assert out.read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_is_no_file_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_checkpoint(tmp_path / "best.pt")
    (tmp_path / "out").mkdir()
    monkeypatch.setitem(export._WRITERS, "torch_export", lambda *words: words[-1].touch())
    with pytest.raises(ConfigError, match=r"out cannot be written \(Is a directory\)"):
        export_checkpoint(source, tmp_path / "out", kind="torch_export")
    assert not list(tmp_path.glob("*.tmp"))


def test_nan_is_no_agreement() -> None:
    network, shape = torch.nn.Flatten(), (3, 1, 2, 2)
    with pytest.raises(ExportError, match="differ by nan"):
        export._check(network, lambda clips: network(clips) * torch.nan, shape)


@pytest.mark.parametrize(
    "words", [{"num_frames": 1}, {"size": (16, 64)}, {"size": (64, 16), "num_frames": 8}], ids=str
)
def test_a_clip_too_small_for_the_network_is_refused(words: Any, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "best.pt", "data.crop_size=64", "data.short_side=[64,64]",
                              "eval.short_side=64")  # fmt: skip
    with pytest.raises(ConfigError, match="smaller than the 4x64x64 that the network"):
        export_checkpoint(source, tmp_path / "out", kind="torch_export", **words)


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "find_spec", lambda name: None if "runtime" in name else object())
    with pytest.raises(ConfigError, match=r"^format onnx needs onnxruntime; install .*\[export\]"):
        export_checkpoint("none.pt", tmp_path / "out.onnx", kind="onnx", check=True)
    with pytest.raises(CheckpointError):  # to write a file, none is missing
        export_checkpoint("none.pt", tmp_path / "out.onnx", kind="onnx")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "onnx", None)  # importing it would fail
    source = write_checkpoint(tmp_path / "best.pt")
    line = export_checkpoint(source, tmp_path / "out.pt2", kind="torch_export")
    assert line.endswith("-> logits, not checked")


@pytest.mark.slow
def test_the_command_exports_and_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_checkpoint(tmp_path / "best.pt")
    out = tmp_path / "best.pt2"
    words = ["export", "--ckpt", str(source), "--format", "torch_export", "--out", str(out)]
    assert cli.main([*words, "--size", "32x48", "--frames", "6", "--check"]) == 0
    line = capsys.readouterr().out
    assert line.startswith(f"{out}: torch_export, clips (N, 3, 6, 32, 48) -> logits, checked: same")
    model, clips = load(source, ["device=cpu"]).model, clip(2, 6, 32, 48)
    with torch.inference_mode():
        torch.testing.assert_close(run_torch_export(out)(clips), model(clips), rtol=0, atol=1e-4)
    assert cli.main([*words[:2], "none.pt", *words[3:]]) == CheckpointError.exit_code
    with pytest.raises(SystemExit):
        cli.main([*words, "--size", "0x3"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "torch_export"])
@pytest.mark.parametrize("norm", ["bn", "gn", "frozen_bn"])
def test_the_real_network_exports(kind: str, norm: str, tmp_path: Path) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxscript")
    wide = ["model.width=64", "model.norm.num_groups=32", "data.num_frames=8"]
    larger = ["data.crop_size=112", "data.short_side=[112,112]", "eval.short_side=112"]
    overrides = [*PYSLOWFAST, *wide, *larger, f"model.norm.kind={norm}"]
    source = write_checkpoint(tmp_path / "best.pt", *overrides)
    line = export_checkpoint(source, tmp_path / "out", kind=kind, size=(128, 160), check=True)
    assert "checked: same top 5" in line
