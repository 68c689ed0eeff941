"""A converted .safetensors in the place of a checkpoint: the same answers, and nothing trusted."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.checkpoints import CLASSES, PYSLOWFAST, write_checkpoint
from tests.videos import write_numbered
from videogn import cli
from videogn.convert import convert
from videogn.data.manifest import write_manifest
from videogn.engine import checkpoint
from videogn.errors import CheckpointError, ConfigError, VideognError, WeightsError
from videogn.predict import load
from videogn.trained import _digest, read_trained
from videogn.weights.content import METADATA_KEY

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    convert(write_checkpoint(folder / "best.pt"), folder / "best.safetensors")
    return folder / "best.safetensors"


def edited(
    whole: Path,
    out: Path,
    edit: Callable[[dict[str, Any], State], None],
    *,
    digest: bool = True,
) -> Path:
    """Writes `whole` with other metadata and tensors; with the digest of what they then are."""
    with safe_open(whole, framework="pt") as file:
        about = json.loads(file.metadata()[METADATA_KEY])
    state = load_file(whole)
    edit(about, state)
    if digest and about.pop("digest", None):
        about["digest"] = _digest(about, state)
    save_file(state, out, {METADATA_KEY: json.dumps(about)})
    return out


NORMS = ["gn", "bn", "ln", "in", "brn", "frozen_bn", "sync_bn"]


@pytest.mark.parametrize("norm", NORMS)
def test_its_network_is_the_checkpoints_to_the_bit(norm: str, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "best.pt", f"model.norm.kind={norm}")
    convert(source, tmp_path / "best.safetensors")
    clip = torch.randint(0, 256, (1, 4, 32, 32, 3), dtype=torch.uint8)
    expected = load(source).score(clip)
    found = load(tmp_path / "best.safetensors").score(clip)
    assert expected.probs.std() > 1e-3
    assert torch.equal(found.probs, expected.probs)
    assert torch.equal(found.features, expected.features)


def test_averaged_weights_are_those_of_the_file(tmp_path: Path) -> None:
    """Of a training that averaged its weights, both files answer with the average."""
    contents = checkpoint.load(write_checkpoint(tmp_path / "raw.pt"))
    contents["ema"] = {name: tensor * 0.5 for name, tensor in contents["model"].items()}
    checkpoint.save(tmp_path / "best.pt", contents)
    convert(tmp_path / "best.pt", tmp_path / "best.safetensors")
    found = load(tmp_path / "best.safetensors").model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in contents["ema"].items())


def test_the_commands_answer_alike(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Predict and test take either file, with the configuration and overrides of both."""
    for name in ("a", "b", "c"):
        write_numbered(tmp_path / f"{name}.mp4", 12)
    rows = [{"path": f"{name}.mp4", "label": CLASSES[0]} for name in ("a", "b", "c")]
    root = tmp_path / "root"
    write_manifest(root, splits={"train": rows, "val": rows}, classes=CLASSES, source=tmp_path)
    said, tables = [], []
    for path in (whole.with_suffix(".pt"), whole):
        words = ["--ckpt", str(path), "eval.crops=three"]
        assert cli.main(["predict", *words, str(tmp_path / "a.mp4"), "--json"]) == 0
        said.append(capsys.readouterr().out)
        out = tmp_path / path.suffix[1:]
        assert cli.main(["test", *words, f"data.root={root}", "--out", str(out)]) == 0
        tables.append((out / "predictions.csv").read_text())
        capsys.readouterr()
    assert said[0] == said[1]
    assert len(json.loads(said[0])["predictions"]) == 5
    assert tables[0] == tables[1]
    best = json.loads(said[0])["predictions"][0]
    row = next(csv.DictReader(io.StringIO(tables[0])))  # a test cuts views with code of its own
    assert (row["path"], row["prediction"]) == ("a.mp4", best["label"])
    assert float(row["probability"]) == pytest.approx(best["probability"], abs=1e-6)
    assert tables[0].count("\n") == 4
    words = ["--cfg", "small.yaml", f"data.root={root}", "optim.clips_per_gpu=1", f"resume={whole}"]
    assert cli.main(words) == 2  # it has no place in a training
    assert "best.safetensors is no file of torch.save" in capsys.readouterr().err


def test_it_gives_what_a_checkpoint_made_of_it_would(whole: Path, tmp_path: Path) -> None:
    convert(whole, tmp_path / "back.pt")
    assert checkpoint.digest(read_trained(whole)) == checkpoint.digest(
        checkpoint.load(tmp_path / "back.pt")
    )


def test_every_flipped_bit_and_every_cut_is_found(whole: Path, tmp_path: Path) -> None:
    data = whole.read_bytes()
    for place in range(0, len(data), len(data) // 25):
        damaged = bytearray(data)
        damaged[place] ^= 4
        for name, content in (("flipped", damaged), ("cut", data[:place])):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(VideognError, match=name):
                read_trained(tmp_path / name)


def without(name: str) -> Callable[[dict[str, Any], State], None]:
    def edit(about: dict[str, Any], state: State) -> None:
        del (about if name in about else state)[name]

    return edit


def said(**entries: Any) -> Callable[[dict[str, Any], State], None]:
    return lambda about, _: about.update(entries)


def configured(section: str, key: str, value: Any) -> Callable[[dict[str, Any], State], None]:
    return lambda about, _: about["config"][section].update({key: value})


def holding(name: str, tensor: torch.Tensor) -> Callable[[dict[str, Any], State], None]:
    return lambda _, state: state.update({name: tensor})


def nested() -> list[Any]:
    inner: list[Any] = []
    for _ in range(900):
        inner = [inner]
    return inner


@pytest.mark.parametrize(
    ("edit", "kind", "reason"),
    [
        (without("config"), CheckpointError, "without the configuration and classes of a run"),
        (without("classes"), CheckpointError, "--to bad.pt"),
        (said(classes=[]), CheckpointError, "without the configuration and classes of a run"),
        (said(config=["model"]), CheckpointError, "without the configuration and classes"),
        (said(config={"data": {}}), CheckpointError, "without the configuration and classes"),
        (said(config={"model": {"width": 8}}), VideognError, "config"),
        (said(classes=[1] * 7), WeightsError, "`classes` is not a list of names"),
        (said(classes=CLASSES[1:]), ConfigError, "of 7 classes, but 6 names"),
        (said(fingerprint=[]), WeightsError, "`fingerprint` is not a dict"),
        (without("digest"), CheckpointError, "holds no digest"),
        (without("fingerprint"), WeightsError, "not a layout that is known"),
        (configured("model", "wider", 1), ConfigError, "model.wider"),
        (configured("model", "width", 2**20), WeightsError, "model.width is 1048576"),
        (configured("model", "width", "many"), ConfigError, "model.width"),
        (configured("model", "norm", None), ConfigError, "model.norm"),
        (configured("model", "arch", nested()), VideognError, "bad"),
        (configured("model", "arch", "c2d_r50"), WeightsError, "trained as another network"),
        (without("fc.weight"), VideognError, "of 0 classes, but 7 names"),
        (without("conv1.weight"), VideognError, "of 0 channels"),
        (without("layer1.0.conv2.weight"), WeightsError, "missing in the file: layer1.0.conv2"),
        (holding("fc.weight", torch.zeros(7)), WeightsError, r"fc.weight: (7,) in the file"),
        (holding("fc.bias", torch.zeros(())), WeightsError, r"fc.bias: () in the file"),
        (holding("more", torch.zeros(1)), WeightsError, "unused: more"),
        (holding("fc.bias", torch.full((7,), torch.nan)), WeightsError, "NaN or infinity in fc."),
    ],
)
def test_what_is_missing_or_wrong_is_named(
    edit: Callable[[dict[str, Any], State], None],
    kind: type[VideognError],
    reason: str,
    whole: Path,
    tmp_path: Path,
) -> None:
    path = edited(whole, tmp_path / "bad.safetensors", edit)
    with pytest.raises(kind) as error:
        read_trained(path)
    assert reason in str(error.value)
    assert "bad.safetensors" in str(error.value)


def test_metadata_that_was_edited_is_damage(whole: Path, tmp_path: Path) -> None:
    edit = said(classes=CLASSES[::-1])
    path = edited(whole, tmp_path / "bad.safetensors", edit, digest=False)
    with pytest.raises(CheckpointError, match="do not match the digest"):
        read_trained(path)
    with pytest.raises(CheckpointError, match="do not match the digest"):
        convert(path, tmp_path / "out.pt")


def test_weights_of_others_are_sent_to_convert(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "best.pt", *PYSLOWFAST)
    convert(source, tmp_path / "peer.pyth", layout="pytorchvideo")
    convert(tmp_path / "peer.pyth", tmp_path / "peer.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "bare.safetensors")
    for name in ("peer.safetensors", "bare.safetensors"):
        with pytest.raises(
            CheckpointError, match=rf"{name} holds weights without .*run\.py convert"
        ):
            load(tmp_path / name)
    with pytest.raises(CheckpointError, match=r"peer\.pyth is not a checkpoint .*model\.init="):
        load(tmp_path / "peer.pyth")
