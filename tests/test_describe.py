"""What `run.py weights` says of a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.checkpoints import PYSLOWFAST, write_checkpoint
from tests.weights.test_write import network as thin_network
from tests.weights.test_write import of_images, weights_of
from videogn import build, cli
from videogn.config import Config, load_config
from videogn.convert import convert
from videogn.describe import describe, known_files
from videogn.engine.checkpoint import digest
from videogn.weights import KNOWN, load_weights, read_weights
from videogn.weights.write import to_layout


def said(text: str) -> dict[str, str]:
    lines = [line.strip().split(maxsplit=1) for line in text.splitlines()[1:]]
    return {words[0]: words[1] for words in lines if len(words) == 2}


def test_a_checkpoint_is_described(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "best.pt")
    text = describe(path)
    assert text.splitlines()[0] == str(path)
    found = said(text)
    assert found["container"] == "torch"
    assert found["layout"] == "videogn"
    assert found["norm"] == "gn"
    assert (
        found["fed"] == "here    RGB on [0, 1], mean (0.45, 0.45, 0.45), std (0.225, 0.225, 0.225)"
    )
    assert found["classes"] == "7: class a, class b, class c, class d, class e, ..."
    assert found["tensors"] == "53, 156,527 numbers"
    assert "groups 4" in found["fingerprint"]
    assert found["network"] == "i3d_r14"
    assert found["use"] == f"python run.py predict --ckpt {path} VIDEO"


def test_the_digest_is_of_the_weights_whatever_holds_them(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "best.pt", *PYSLOWFAST)
    digests = {said(describe(path))["digest"]}
    for layout in ("safetensors", "pyslowfast", "pytorchvideo", "videogn"):
        convert(path, tmp_path / layout, layout=layout)
        digests.add(said(describe(tmp_path / layout))["digest"])
    assert digests == {digest(dict(sorted(read_weights(path).tensors.items())))}
    other = said(describe(write_checkpoint(tmp_path / "gn.pt")))["digest"]
    assert other not in digests


def test_tensors_are_listed_when_asked_for(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "best.pt")
    listed = describe(path, tensors=True).splitlines()
    assert "    conv1.weight  8x3x5x7x7" in listed
    assert len([line for line in listed if line.startswith("    ")]) == 53
    assert "conv1.weight" not in describe(path)


def parsed(command: str) -> Config:
    """Returns the configuration that a command would train."""
    words = command.split()
    assert words[:3] == ["python", "run.py", "--cfg"]
    return load_config(words[3], words[4:])


def image_checkpoint(path: Path, arch: str, norm: str) -> Path:
    """Writes a network of images as the demo does before it is inflated."""
    weights = weights_of(thin_network(arch, norm, image=True), norm)
    beside = {"config": {"data": {"mean": [0.45] * 3, "std": [0.225] * 3}}, "classes": ["a"]}
    torch.save({"model": weights.tensors, "fingerprint": weights.fingerprint, **beside}, path)
    return path


@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_the_command_of_an_image_file_starts_a_training_from_it(norm: str, tmp_path: Path) -> None:
    path = tmp_path / "resnet.pth"
    torch.save(to_layout(of_images(norm), "torchvision"), path)
    found = said(describe(path))
    assert found["network"].startswith("one of images, inflated into i3d_r50, c2d_r50_nonlocal")
    config = parsed(found["use"])
    assert f"--cfg i3d_{norm}_32f.yaml" in found["use"]
    assert (config.model.arch, config.model.norm.kind) == ("i3d_r50", norm)
    model = build.build_model(config, 3)
    assert load_weights(model, config.model.init or "").head_replaced == (7, 3)


@pytest.mark.parametrize(
    ("arch", "norm"), [("i3d_r50_stride1x1", "bn"), ("i3d_r50", "frozen_bn"), ("i3d_r14", "bn")]
)
def test_the_command_states_what_is_not_usual(arch: str, norm: str, tmp_path: Path) -> None:
    path = image_checkpoint(tmp_path / "image.pt", arch, norm)
    config = parsed(said(describe(path))["use"])
    assert (config.model.arch, config.model.norm.kind) == (arch, norm)
    assert config.model.width == 8
    load_weights(build.build_model(config, 3), path)


@pytest.mark.parametrize("layout", ["pyslowfast", "pytorchvideo"])
def test_the_command_of_a_peers_checkpoint_is_one_that_runs(layout: str, tmp_path: Path) -> None:
    convert(write_checkpoint(tmp_path / "best.pt", *PYSLOWFAST), tmp_path / "a.x", layout=layout)
    found = said(describe(tmp_path / "a.x"))
    assert found["classes"] == "7, without names"
    config = parsed(found["use"])
    assert config.model.arch == "i3d_r50_8x8"
    load_weights(build.build_model(config, 7), tmp_path / "a.x")
    assert (config.model.norm.kind, config.model.stem_pool_padding) == ("bn", 1)


def test_the_command_prints_it_or_the_known_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_checkpoint(tmp_path / "best.pt")
    assert cli.main(["weights", str(path), "--tensors"]) == 0
    assert capsys.readouterr().out.strip() == describe(path, tensors=True)
    assert cli.main(["weights"]) == 0
    assert capsys.readouterr().out.strip() == known_files()
    assert cli.main(["weights", str(tmp_path / "none.pt")]) == 2
    assert "no such file" in capsys.readouterr().err


def test_every_known_file_is_in_the_table() -> None:
    for name in KNOWN:
        assert any(line.startswith(f"{name} ") for line in known_files().splitlines())
