"""Files of weights from one layout into another, and back."""

from __future__ import annotations

import itertools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.checkpoints import CLASSES, PYSLOWFAST, write_checkpoint
from tests.test_experiment import here  # noqa: F401
from tests.videos import write_numbered
from tests.weights.foreign_files import VARIANTS
from tests.weights.test_write import of_images
from videogn import cli
from videogn.convert import ALL_LAYOUTS, convert
from videogn.data.manifest import write_manifest
from videogn.data.synthetic import encode_video
from videogn.engine import checkpoint
from videogn.errors import CheckpointError, ConfigError, WeightsError, WeightsMismatchError
from videogn.predict import load
from videogn.weights import read_weights
from videogn.weights.write import to_layout

REAL_CLIPS = sorted((Path(__file__).parents[2] / "shared" / "real_clips").glob("*/*.m*"))
FRAMES = ["data.num_frames=4", "data.frame_stride=2", "data.crop_size=32"]


def classes_file(folder: Path) -> str:
    path = folder / "classes.txt"
    path.write_text("".join(f"{name}\n" for name in CLASSES))
    return str(path)


def assert_same_weights(path: Path, other: Path) -> None:
    found, expected = checkpoint.load(path)["model"], checkpoint.load(other)["model"]
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("overrides", [[], PYSLOWFAST, ["model.norm.kind=frozen_bn"]], ids=str)
@pytest.mark.parametrize("layout", ["videogn", "safetensors"])
def test_a_checkpoint_comes_back_whole(layout: str, overrides: list[str], tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "best.pt", *overrides)
    line = convert(source, tmp_path / "between", layout=layout)
    assert re.fullmatch(rf".*between: {layout}, \d+ tensors, [\d,]+ numbers, 7 classes", line)
    convert(tmp_path / "between", tmp_path / "back.pt")
    assert_same_weights(tmp_path / "back.pt", source)
    before, after = checkpoint.load(source), checkpoint.load(tmp_path / "back.pt")
    for entry in ("config", "classes", "fingerprint"):
        assert after[entry] == before[entry]
    assert after["optimizer"] == {"state": {}, "param_groups": []}


@pytest.mark.parametrize("layout", ["pyslowfast", "pytorchvideo"])
def test_a_checkpoint_comes_back_from_the_layout_of_a_peer(layout: str, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "best.pt", *PYSLOWFAST)
    line = convert(source, tmp_path / "peer.pyth", layout=layout)
    assert line.endswith("without the names of its 7 classes")
    classes = classes_file(tmp_path)
    convert(tmp_path / "peer.pyth", tmp_path / "back.pt", classes=classes, overrides=FRAMES)
    assert_same_weights(tmp_path / "back.pt", source)
    before, after = checkpoint.load(source), checkpoint.load(tmp_path / "back.pt")
    differ = {
        k for k in before["fingerprint"] if before["fingerprint"][k] != after["fingerprint"][k]
    }
    assert not differ
    assert after["config"]["name"] == "back"
    assert after["classes"] == CLASSES


def test_weights_of_images_pass_through_safetensors_to_the_bit(tmp_path: Path) -> None:
    torch.save(to_layout(of_images(), "torchvision"), tmp_path / "resnet.pth")
    convert(tmp_path / "resnet.pth", tmp_path / "resnet.safetensors")
    convert(tmp_path / "resnet.safetensors", tmp_path / "back.pth")
    first, last = (torch.load(tmp_path / name) for name in ("resnet.pth", "back.pth"))
    assert first.keys() == last.keys()
    assert all(torch.equal(first[name], last[name]) for name in first)
    assert read_weights(tmp_path / "resnet.safetensors").classes is None


@pytest.mark.parametrize("name", VARIANTS)
def test_every_format_that_is_read_passes_through_ours_to_the_bit(
    name: str, tmp_path: Path
) -> None:
    source = VARIANTS[name].file(tmp_path)
    convert(source, tmp_path / "ours.safetensors")
    found, expected = read_weights(tmp_path / "ours.safetensors"), read_weights(source)
    assert found.tensors.keys() == expected.tensors.keys()
    for key, tensor in expected.tensors.items():
        assert torch.equal(found.tensors[key], tensor), key
    assert (found.norm, found.mean, found.std) == (expected.norm, expected.mean, expected.std)
    assert found.fingerprint is not None
    assert (expected.fingerprint or {}).items() <= found.fingerprint.items()
    convert(tmp_path / "ours.safetensors", tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (
        tmp_path / "ours.safetensors"
    ).read_bytes()


OF_IMAGES = ["torchvision", "GroupNorm-reproduce", "timm", "Detectron2 torchvision",
             "tensorpack GN", "tensorpack BN"]  # fmt: skip


@pytest.mark.parametrize("name", OF_IMAGES)
def test_image_networks_of_every_project_become_torchvisions(name: str, tmp_path: Path) -> None:
    source = VARIANTS[name].file(tmp_path)
    convert(source, tmp_path / "resnet.pth")
    found, expected = read_weights(tmp_path / "resnet.pth"), read_weights(source)
    assert found.layout == "torchvision"
    assert found.tensors.keys() == expected.tensors.keys()
    assert all(torch.equal(found.tensors[k], tensor) for k, tensor in expected.tensors.items())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Detectron GN", "the mean (0.48"),
        ("Detectron MSRA", "norm is frozen_bn"),
        ("Detectron2 MSRA", "stride_1x1 is True"),
        ("Non-local 2-D", "the mean (0.45"),
        ("MMAction2 I3D", "conv1.weight has 5 frames"),
    ],
)
def test_what_torchvision_is_not_stays_out(name: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=re.escape(reason)):
        convert(VARIANTS[name].file(tmp_path), tmp_path / "resnet.pth")


def test_what_is_said_of_another_std(tmp_path: Path) -> None:
    std = "data.std=[0.3,0.2,0.1]"
    source = write_checkpoint(tmp_path / "best.pt", *PYSLOWFAST, std)
    line = convert(source, tmp_path / "peer.pyth", layout="pytorchvideo")
    assert line.endswith(
        "convolution takes pixels of std (0.225, 0.225, 0.225), not (0.3, 0.2, 0.1)"
    )


def test_a_converted_checkpoint_predicts_the_same(tmp_path: Path) -> None:
    video = write_numbered(tmp_path / "video.mp4", 12)
    source = write_checkpoint(tmp_path / "best.pt", *PYSLOWFAST)
    convert(source, tmp_path / "best.safetensors")
    convert(tmp_path / "best.safetensors", tmp_path / "back.pt")
    probs = load(source).probs(video)
    assert probs.std() > 0.01
    for name in ("best.safetensors", "back.pt"):
        assert torch.equal(load(tmp_path / name).probs(video), probs)


def test_the_command_writes_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_checkpoint(tmp_path / "best.pt")
    assert cli.main(["convert", str(source), "--to", "best.safetensors"]) == 0
    assert capsys.readouterr().out.startswith("best.safetensors: safetensors, 53 tensors, ")
    assert cli.main(["convert", str(source), "--to", "best.pth"]) == 2
    assert "error: " in capsys.readouterr().err
    assert not Path("best.pth").exists()


def test_all_layouts_are_offered(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["convert", "--help"])
    assert "{videogn,safetensors,torchvision,pyslowfast,pytorchvideo}" in capsys.readouterr().out
    offered = ["videogn", "safetensors", "torchvision", "pyslowfast", "pytorchvideo"]
    assert sorted(ALL_LAYOUTS) == sorted(offered)


def test_a_refused_layout_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "best.pt")
    out = tmp_path / "out.pth"
    out.write_bytes(b"precious")
    with pytest.raises(WeightsError, match=r"best\.pt: .* groups 4"):
        convert(source, out)
    assert out.read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "out.pth"]


def test_a_file_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_checkpoint(tmp_path / "best.pt")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for out, step in itertools.product(
        ("out.safetensors", "out.pt"), ("os.fsync", "pathlib.Path.replace")
    ):
        (tmp_path / out).write_bytes(b"precious")
        with monkeypatch.context() as patch:
            patch.setattr(step, full)
            with pytest.raises(ConfigError, match=rf"{out} cannot be written \(No space left"):
                convert(source, tmp_path / out)
        assert (tmp_path / out).read_bytes() == b"precious"
    assert len(list(tmp_path.iterdir())) == 3


def test_a_folder_is_no_file_to_write(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "best.pt")
    for out in ("new.safetensors", "new.pt"):
        (tmp_path / out).mkdir()
        with pytest.raises(ConfigError, match=rf"{out} cannot be written \(Is a directory\)"):
            convert(source, tmp_path / out)


def test_a_file_is_not_converted_onto_itself(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "best.pt")
    (tmp_path / "link.pt").symlink_to(source)
    for out in (source, tmp_path / "link.pt"):
        with pytest.raises(ConfigError, match="is the file to convert"):
            convert(source, out)


def test_a_damaged_checkpoint_is_not_passed_on(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "best.pt")
    data = bytearray(source.read_bytes())
    weight = checkpoint.load(source)["model"]["layer4.0.conv2.weight"].numpy().tobytes()
    data[data.index(weight) + 5] ^= 1
    source.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        convert(source, tmp_path / "out.safetensors")


@pytest.fixture(scope="module")
def of_pyslowfast(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that says neither how long its clips are nor what its classes are called."""
    folder = tmp_path_factory.mktemp("pyslowfast")
    convert(write_checkpoint(folder / "best.pt", *PYSLOWFAST), folder / "a.x", layout="pyslowfast")
    return folder / "a.x"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"out": "peer.pyth"}, "does not tell its layout"),
        ({"out": "a.safetensors", "overrides": ["seed=1"]}, "go into a checkpoint alone"),
        ({"out": "a.safetensors", "classes": "kinetics400"}, "go into a checkpoint alone"),
        ({}, "does not say data.num_frames and data.frame_stride; add them"),
        ({"overrides": FRAMES[:1]}, "does not say data.frame_stride; add them"),
        ({"overrides": FRAMES}, "does not name its 7 classes"),
        ({"overrides": FRAMES, "classes": "kinetics400"}, "of 7 classes, but 400 names"),
        ({"overrides": [*FRAMES, "data.mean=[0.5,0.5,0.5]"], "classes": True}, "leave it auto"),
        ({"overrides": [*FRAMES, "model.wdth=3"], "classes": True}, "model.width"),
    ],
)
def test_what_is_not_said_or_wrong_is_named(
    words: dict[str, object], reason: str, of_pyslowfast: Path, tmp_path: Path
) -> None:
    words = {"out": "back.pt", **words}
    if words.get("classes") is True:
        words["classes"] = classes_file(tmp_path)
    out = tmp_path / str(words.pop("out"))
    with pytest.raises(ConfigError, match=re.escape(reason)):
        convert(of_pyslowfast, out, **words)  # type: ignore[arg-type]
    assert not out.exists()


def test_another_network_than_the_files_is_refused(of_pyslowfast: Path, tmp_path: Path) -> None:
    classes = classes_file(tmp_path)
    overrides = [*FRAMES, "model.arch=i3d_r50", "data.num_frames=16"]
    with pytest.raises(WeightsMismatchError, match="stem_stride_t is 1 in the file and 2 here"):
        convert(of_pyslowfast, tmp_path / "b.pt", classes=classes, overrides=overrides)


def test_the_layout_of_nonlocals_file_needs_the_arch_named(tmp_path: Path) -> None:
    """Its tensors are those of three networks."""
    weights = read_weights(write_checkpoint(tmp_path / "best.pt", *PYSLOWFAST))
    state = {"backbone.nothing": torch.ones(1)}
    torch.save(state, tmp_path / "no.pth")
    with pytest.raises(WeightsError, match="not a layout that is known"):
        convert(tmp_path / "no.pth", tmp_path / "b.pt")
    video = {k.replace("norm", "bn"): v for k, v in weights.tensors.items()}
    torch.save(video, tmp_path / "video.pth")  # torchvision's names, with time
    with pytest.raises(
        ConfigError, match=r"one of i3d_r50, i3d_r50_8x8.*say which with model\.arch"
    ):
        convert(tmp_path / "video.pth", tmp_path / "b.pt", overrides=FRAMES)


def test_a_network_of_images_is_no_classifier_of_videos(tmp_path: Path) -> None:
    torch.save(to_layout(of_images(), "torchvision"), tmp_path / "resnet.pth")
    with pytest.raises(WeightsError, match=r"resnet\.pth is a network of images"):
        convert(tmp_path / "resnet.pth", tmp_path / "b.pt", overrides=FRAMES)
    overrides = [*FRAMES, "model.arch=slow_r50", "model.norm.kind=bn"]
    with pytest.raises(WeightsError, match=r"resnet\.pth classifies images, 7 classes"):
        convert(
            tmp_path / "resnet.pth",
            tmp_path / "b.pt",
            classes=classes_file(tmp_path),
            overrides=overrides,
        )


# A run, out and in again


def clips_to_train_on(folder: Path) -> list[Path]:
    """Returns real clips where they lie beside the checkout, else made-up ones."""
    folder.mkdir()
    if REAL_CLIPS:
        return [Path(shutil.copy(path, folder)) for path in REAL_CLIPS[:6]]
    random = np.random.default_rng(0)
    paths = [folder / f"{number}.mp4" for number in range(6)]
    for path in paths:
        encode_video(path, random.integers(0, 256, (12, 40, 52, 3), np.uint8), gop=5)
    return paths


@pytest.mark.slow
def test_a_trained_checkpoint_predicts_identically_after_any_layout(tmp_path: Path) -> None:
    paths = clips_to_train_on(tmp_path / "videos")
    rows = [{"path": path.name, "label": path.stem} for path in paths]
    names = sorted(path.stem for path in paths)
    root = tmp_path / "root"
    write_manifest(
        root, splits={"train": rows, "val": rows}, classes=names, source=tmp_path / "videos"
    )
    words = ["--cfg", "small.yaml", f"data.root={root}", "run_dir=run", *FRAMES, *PYSLOWFAST]
    words += [
        "model.width=8",
        "data.short_side=[32,36]",
        "eval.short_side=32",
        "data.num_workers=0",
    ]
    words += ["optim.max_steps=3", "optim.clips_per_gpu=2", "eval.num_clips=2", "device=cpu"]
    assert cli.main(words) == 0
    trained = Path("run/checkpoints/last.pt")
    expected = [load(trained, ["device=cpu"]).probs(path) for path in paths]
    assert torch.stack(expected).std() > 1e-4
    how = ["--cfg", "run/config.yaml", "--classes", str(root / "classes.txt")]
    for layout in ("safetensors", "pyslowfast", "pytorchvideo", "videogn"):
        between, back = f"{layout}.between", f"{layout}.pt"
        assert cli.main(["convert", str(trained), "--to", between, "--layout", layout]) == 0
        more = how if layout.startswith("py") else []
        assert cli.main(["convert", between, "--to", back, *more]) == 0
        for name in (back, between) if layout in ("safetensors", "videogn") else (back,):
            classifier = load(name, ["device=cpu"])
            assert classifier.classes == tuple(names)
            for path, probs in zip(paths, expected, strict=True):
                assert torch.equal(classifier.probs(path), probs)
    test = ["test", "--ckpt", "pyslowfast.pt", "--out", "again", "device=cpu"]
    assert cli.main(test) == 0
    assert Path("again/predictions.csv").read_text() == Path("run/predictions.csv").read_text()
    resumed = [*words, "resume=pyslowfast.pt", "run_dir=other"]
    assert cli.main(resumed) == 2  # it is no place in a training
