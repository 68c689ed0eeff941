"""Files in each layout, written here, fill a network that then computes what the source did."""

from __future__ import annotations

import contextlib
import json
import pickle
import re
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet

from tests.model.named_weights import clip, named_weights
from tests.weights.python2_pickle import python2_pickle
from videogn.errors import WeightsError, WeightsMismatchError
from videogn.model import ARCHS, I3DResNet, norm_factory
from videogn.model.norm import NormKind
from videogn.weights import load_weights, read_weights, to_torchvision
from videogn.weights.content import METADATA_KEY
from videogn.weights.pixels import IMAGENET_MEAN, IMAGENET_STD

CLASSES = 10
GROUPS = {"bn": nn.BatchNorm2d, "gn": lambda channels: nn.GroupNorm(32, channels)}
THIN: dict[str, Any] = {"width": 32}  # as narrow as Detectron's 32 groups allow
VIDEO_CLASSES = ["abseiling", "archery", "air drumming"]


def image_network(norm: str) -> ResNet:
    """Returns torchvision's ResNet of depth 14 with weights named after its own tensors."""
    network = ResNet(Bottleneck, [1, 1, 1, 1], num_classes=CLASSES, norm_layer=GROUPS[norm])
    network.load_state_dict(named_weights(network.state_dict()))
    return network.eval()


source_network = cache(image_network)


def video_network(
    norm: NormKind = "gn",
    *,
    image: bool = False,
    num_classes: int = 3,
    width: int = 64,
    groups: int = 32,
    padding: int = 1,
) -> I3DResNet:
    """Returns our network of depth 14 with its initial weights."""
    arch = ARCHS["i3d_r14"]
    return I3DResNet(
        arch.image() if image else arch,
        norm_factory(norm, num_groups=groups),
        num_classes=num_classes,
        num_frames=1 if image else 2,
        crop_size=32,
        width=width,
        stem_pool_padding=padding,
    ).eval()


def canonical(name: str) -> str:
    return re.sub(r"\bbn(?=\d\.)", "norm", name)


def torch_file(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def torchvision_file(folder: Path, norm: str = "gn", name: str = "image.pth") -> Path:
    return torch_file(folder / name, source_network(norm).state_dict())


def with_source_head(model: I3DResNet, path: Path) -> I3DResNet:
    """Gives `model` the classifier of the file, which loading an image network leaves aside."""
    tensors = read_weights(path).tensors
    model.fc.load_state_dict({"weight": tensors["fc.weight"], "bias": tensors["fc.bias"]})
    return model


# ---- torchvision -------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["bn", "gn"])
@pytest.mark.parametrize("how", ["one frame", "still clip"])
def test_torchvision_logits(norm: NormKind, how: str, tmp_path: Path) -> None:
    path = torchvision_file(tmp_path, norm)
    model = video_network(norm, image=how == "one frame", num_classes=CLASSES)
    report = load_weights(model, path, inflation="center")
    # a video network never keeps an image network's head
    assert report.head_replaced == (None if how == "one frame" else (CLASSES, CLASSES))
    assert (report.norm, report.layout, report.classes) == (norm, "torchvision", None)
    assert (report.mean, report.std) == (IMAGENET_MEAN, IMAGENET_STD)
    frames = clip(2, 1, 32)
    still = frames if how == "one frame" else frames.expand(-1, -1, 2, -1, -1)
    with torch.no_grad():
        logits = with_source_head(model, path)(still)
        expected = source_network(norm)(frames[:, :, 0])
    assert (logits - expected).abs().max() <= 2e-5
    assert expected.abs().max() > 0.1


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state"])
def test_torchvision_wrapped_by_a_training_script(wrapper: str, tmp_path: Path) -> None:
    state = {f"module.{k}": v for k, v in source_network("bn").state_dict().items()}
    path = torch_file(tmp_path / "wrapped.pth", {wrapper: state, "epoch": 90, "best_acc1": 75.9})
    plain = read_weights(torchvision_file(tmp_path, "bn")).tensors
    wrapped = read_weights(path).tensors
    assert wrapped.keys() == plain.keys()
    assert all(torch.equal(wrapped[name], plain[name]) for name in plain)
    assert not any("num_batches_tracked" in name or "bn" in name for name in plain)


def test_two_wrapped_state_dicts_are_ambiguous(tmp_path: Path) -> None:
    state = source_network("gn").state_dict()
    path = torch_file(tmp_path / "two.pth", {"model": state, "state_dict": state})
    with pytest.raises(WeightsError, match=r"two\.pth: ambiguous.*state_dict, model"):
        read_weights(path)


def test_half_precision_and_the_format_before_torch_1_6(tmp_path: Path) -> None:
    state = {k: v.half() for k, v in source_network("gn").state_dict().items()}
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    tensors = read_weights(tmp_path / "old.pth").tensors
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert torch.equal(tensors["fc.bias"], state["fc.bias"].float())


@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_to_torchvision_is_the_way_back(norm: str, tmp_path: Path) -> None:
    model = video_network(norm, image=True, num_classes=CLASSES)  # type: ignore[arg-type]
    path = torchvision_file(tmp_path, norm)
    load_weights(model, path)
    network = image_network(norm)
    network.load_state_dict(to_torchvision(with_source_head(model, path).state_dict()))
    expected = source_network(norm).state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in network.state_dict().items())


def test_to_torchvision_refuses_kernels_with_time() -> None:
    with pytest.raises(WeightsError, match=r"conv1\.weight has 5 frames"):
        to_torchvision(video_network(**THIN).state_dict())


# ---- Detectron ---------------------------------------------------------------------------------

BRANCHES = {"conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c"}
PIXEL_MEANS = torch.tensor([102.9801, 115.9465, 122.7717])  # Detectron's config: B, G, R of 0..255


def caffe2_name(name: str) -> str:
    """Returns Detectron's name of a torchvision tensor, by looking at one part at a time."""
    parts = name.split(".")
    if parts[0] == "fc":
        return {"weight": "pred_w", "bias": "pred_b"}[parts[1]]
    kind, parameter = parts[-2], {"weight": "s", "bias": "b"}[parts[-1]]
    if parts[0] in ("conv1", "bn1"):
        return "conv1_w" if kind == "conv1" else f"conv1_gn_{parameter}"
    block = f"res{int(parts[0][-1]) + 1}_{parts[1]}"
    if parts[2] == "downsample":
        return f"{block}_branch1" + ("_w" if kind == "0" else f"_gn_{parameter}")
    branch = f"{block}_{BRANCHES['conv' + kind[-1]]}"
    return f"{branch}_w" if kind.startswith("conv") else f"{branch}_gn_{parameter}"


@cache
def detectron_network() -> ResNet:
    """Returns a network for raw BGR minus the mean: its stem is small, the std absorbed in it."""
    network = image_network("gn")
    with torch.no_grad():
        network.conv1.weight /= 57.0
    return network


def detectron_blobs() -> dict[str, np.ndarray]:
    return {caffe2_name(k): v.numpy() for k, v in detectron_network().state_dict().items()}


def detectron_file(folder: Path, blobs: Mapping[str, object] | None = None) -> Path:
    path = folder / "R-14-GN.pkl"
    path.write_bytes(python2_pickle(detectron_blobs() if blobs is None else blobs))
    return path


@pytest.mark.parametrize("how", ["one frame", "still clip"])
def test_detectron_logits(how: str, tmp_path: Path) -> None:
    blobs = detectron_blobs()
    momenta = {f"{name}_momentum": np.zeros_like(blob) for name, blob in list(blobs.items())[:3]}
    extra: dict[str, object] = {**momenta, "lr": np.float32(0.1), "model_iter": 450450}
    path = detectron_file(tmp_path, blobs | extra)
    model = video_network(image=how == "one frame", num_classes=CLASSES)
    report = load_weights(model, path, inflation="center")
    assert (report.norm, report.layout) == ("gn", "detectron")
    assert report.mean == pytest.approx([122.7717 / 255, 115.9465 / 255, 102.9801 / 255])

    bgr = torch.from_numpy(np.random.RandomState(1).randint(0, 256, (2, 3, 32, 32))).float()
    rgb = bgr.flip(1) / 255
    ours = (rgb - torch.tensor(report.mean).view(3, 1, 1)) / torch.tensor(report.std).view(3, 1, 1)
    with torch.no_grad():
        expected = detectron_network()(bgr - PIXEL_MEANS.view(3, 1, 1))
        still = ours.unsqueeze(2).expand(-1, -1, 1 if how == "one frame" else 2, -1, -1)
        logits = with_source_head(model, path)(still)
    assert (logits - expected).abs().max() <= 1e-4
    assert expected.abs().max() > 0.1


def test_detectron_keeps_the_scale_of_the_stem(tmp_path: Path) -> None:
    """The stem fits pixels of unit scale, as that of a network trained on them does."""
    stem = read_weights(detectron_file(tmp_path)).tensors["conv1.weight"]
    natural = source_network("gn").state_dict()["conv1.weight"]
    assert 0.9 < stem.std() / natural.std() < 1.1


def test_detectron_without_the_entry_blobs(tmp_path: Path) -> None:
    path = tmp_path / "flat.pkl"
    path.write_bytes(pickle.dumps(detectron_blobs(), 2))
    flat, blobs = read_weights(path).tensors, read_weights(detectron_file(tmp_path)).tensors
    assert flat.keys() == blobs.keys()
    assert all(torch.equal(flat[name], blobs[name]) for name in flat)


@pytest.mark.parametrize("blobs", [{"W": np.zeros(3, np.float32)}, {"lr": 0.1}])
def test_a_pickle_of_another_layout_is_refused(blobs: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"R-14-GN\.pkl: .*layout that is known"):
        read_weights(detectron_file(tmp_path, blobs))


# ---- strictness of our own layouts --------------------------------------------------------------


def edited_state(edit: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Returns the weights of a thin image network under torchvision's names, then edited."""
    state: dict[str, Any] = dict(to_torchvision(video_network(image=True, **THIN).state_dict()))
    edit(state)
    return state


def write_torchvision(folder: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    return torch_file(folder / "edited", edited_state(edit))


def write_safetensors(folder: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """Writes a checkpoint as safetensors, what lies beside its weights as metadata."""
    state = {canonical(k): v.contiguous() for k, v in edited_state(edit).items()}
    content = checkpoint(video_network(image=True, **THIN))
    beside = {key: content[key] for key in ("config", "classes", "fingerprint")}
    save_file(state, folder / "edited", {METADATA_KEY: json.dumps(beside)})
    return folder / "edited"


def write_checkpoint(folder: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    content = checkpoint(video_network(image=True, **THIN))
    content["model"] = {canonical(k): v for k, v in edited_state(edit).items()}
    return torch_file(folder / "edited", content)


WRITERS = {"videogn": write_checkpoint, "safetensors of videogn": write_safetensors}
TENSORS = ["layer1.0.conv2.weight", "layer3.0.bn3.bias", "layer2.0.downsample.1.weight", "fc.bias"]


def remove(name: str, state: dict[str, Any]) -> None:
    del state[name]


def cut(name: str, state: dict[str, Any]) -> None:
    state[name] = state[name][1:].clone()


def add(name: str, state: dict[str, Any]) -> None:
    state[name] = torch.zeros(3)


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("layout", WRITERS)
def test_a_missing_or_misshaped_tensor_is_named(layout: str, name: str, tmp_path: Path) -> None:
    model = video_network(**THIN)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    missing = rf"edited: 1 tensors .*\n  missing in the file: {canonical(name)}$"
    with pytest.raises(WeightsMismatchError, match=missing):
        load_weights(model, WRITERS[layout](tmp_path, partial(remove, name)))
    misshaped = rf"edited: 1 tensors .*\n  {canonical(name)}: \(.*\) in the file, \(.*\) here$"
    with pytest.raises(WeightsMismatchError, match=misshaped):
        load_weights(model, WRITERS[layout](tmp_path, partial(cut, name)))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("layout", WRITERS)
def test_a_tensor_too_many_is_named(layout: str, tmp_path: Path) -> None:
    path = WRITERS[layout](tmp_path, partial(add, "surplus"))
    with pytest.raises(WeightsMismatchError, match=r"edited: 1 tensors .*\n  unused: surplus$"):
        load_weights(video_network(**THIN), path)


@pytest.mark.parametrize("writer", [write_torchvision, *WRITERS.values()])
def test_weights_that_are_not_finite_are_refused(
    writer: Callable[..., Path], tmp_path: Path
) -> None:
    def break_one(state: dict[str, Any]) -> None:
        state["layer1.0.bn1.bias"] = torch.full_like(state["layer1.0.bn1.bias"], torch.inf)

    with pytest.raises(WeightsError, match=r"NaN or infinity in layer1\.0\.norm1\.bias"):
        read_weights(writer(tmp_path, break_one))


@pytest.mark.parametrize(
    ("file", "here", "advice"),
    [("bn", "gn", "R-50-GN.pkl or R-101-GN.pkl"), ("gn", "bn", "resnet50 or resnet101")],
)
def test_the_other_norm_is_refused(file: str, here: NormKind, advice: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsMismatchError, match=rf"^image\.pth: trained with .*use {advice}"):
        load_weights(video_network(here), torchvision_file(tmp_path, file))


def test_the_report_is_one_line(tmp_path: Path) -> None:
    report = load_weights(video_network("bn"), torchvision_file(tmp_path, "bn"))
    total = len(video_network("bn").state_dict()) - 17 - 2  # the norms' counters, the head
    assert (report.matched, report.total) == (total, total)
    assert str(report) == (
        f"{total} of {total} tensors from image.pth (torchvision, bn), head replaced (10 -> 3)"
    )


# ---- our own checkpoints -----------------------------------------------------------------------


def checkpoint(model: I3DResNet) -> dict[str, Any]:
    return {
        "model": model.state_dict(),
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}},
        "step": 7,
        "config": {"data": {"mean": [0.45, 0.45, 0.45], "std": [0.225, 0.225, 0.225]}},
        "classes": VIDEO_CLASSES,
        "fingerprint": model.fingerprint(),
    }


def filled(norm: NormKind = "gn", **options: Any) -> I3DResNet:
    model = video_network(norm, **(THIN | options))
    model.load_state_dict(named_weights(model.state_dict()))
    return model


@pytest.mark.parametrize("norm", ["bn", "gn"])
@pytest.mark.parametrize("classes", [None, VIDEO_CLASSES])
def test_checkpoint_logits(norm: NormKind, classes: list[str] | None, tmp_path: Path) -> None:
    source = filled(norm)
    path = torch_file(tmp_path / "last.pt", checkpoint(source))
    model = video_network(norm, **THIN)
    report = load_weights(model, path, classes=classes)
    with torch.no_grad():
        assert torch.equal(model(clip(1, 2, 32)), source(clip(1, 2, 32)))
    assert (report.mean, report.std) == ((0.45,) * 3, (0.225,) * 3)
    assert (report.layout, report.classes) == ("videogn", tuple(VIDEO_CLASSES))
    assert report.head_replaced is None
    assert str(report).endswith(f"from last.pt (videogn, {norm}), head kept")
    assert report.matched == report.total == len(read_weights(path).tensors)


def test_a_checkpoint_as_safetensors_is_the_same(tmp_path: Path) -> None:
    content = checkpoint(filled("bn"))
    expected = read_weights(torch_file(tmp_path / "last.pt", content))
    beside = {key: content[key] for key in ("config", "classes", "fingerprint")}
    save_file(expected.tensors, tmp_path / "last", {METADATA_KEY: json.dumps(beside)})
    weights = read_weights(tmp_path / "last")
    assert (weights.container, expected.container) == ("safetensors", "torch")
    assert weights.classes == expected.classes == tuple(VIDEO_CLASSES)
    assert (weights.mean, weights.std) == (expected.mean, expected.std)
    assert all(torch.equal(weights.tensors[k], v) for k, v in expected.tensors.items())
    report = load_weights(video_network("bn", **THIN), tmp_path / "last", classes=VIDEO_CLASSES)
    assert (report.head_replaced, report.notes) == (None, ())


def test_other_classes_keep_the_initial_head(tmp_path: Path) -> None:
    path = torch_file(tmp_path / "last.pt", checkpoint(filled()))
    for num_classes, classes in ((5, None), (3, VIDEO_CLASSES[::-1])):
        model = video_network(**THIN, num_classes=num_classes)
        head = model.fc.weight.clone()
        assert load_weights(model, path, classes=classes).head_replaced == (3, num_classes)
        assert torch.equal(model.fc.weight, head)
        assert torch.equal(model.conv1.weight, filled().conv1.weight)


@pytest.mark.parametrize(
    ("options", "entry"),
    [
        ({"groups": 4}, "groups is 32 in the file and 4 here"),
        ({"padding": 0}, "stem_pool_padding is 1 in the file and 0 here"),
        ({"width": 64}, "width is 32 in the file and 64 here"),
        ({"image": True}, "kernels_t is .* in the file and .* here"),
    ],
)
def test_another_function_is_refused(options: dict[str, Any], entry: str, tmp_path: Path) -> None:
    path = torch_file(tmp_path / "last.pt", checkpoint(filled()))
    model = video_network(**(THIN | options))
    with pytest.raises(WeightsMismatchError, match=rf"^last\.pt: trained as another.*{entry}"):
        load_weights(model, path)


def test_an_image_checkpoint_is_inflated(tmp_path: Path) -> None:
    source = filled(image=True)
    path = torch_file(tmp_path / "image.pt", checkpoint(source))
    model = video_network(**THIN)
    assert load_weights(model, path, inflation="center").head_replaced == (3, 3)
    model.fc.load_state_dict(source.fc.state_dict())
    frame = clip(1, 1, 32)
    with torch.no_grad():
        difference = model(frame.expand(-1, -1, 2, -1, -1)) - source(frame)
    assert difference.abs().max() <= 2e-5
    assert load_weights(video_network(**THIN, image=True), path).head_replaced is None


def test_an_image_checkpoint_of_other_groups_is_refused(tmp_path: Path) -> None:
    path = torch_file(tmp_path / "image.pt", checkpoint(filled(image=True, groups=4)))
    with pytest.raises(WeightsMismatchError, match="groups is"):
        load_weights(video_network(**THIN), path)


@pytest.mark.parametrize(
    "change",
    [
        {"model": [1]},
        {"model": {"conv1.weight": 1.0}},
        {"model": {1: torch.ones(1)}},
        {"fingerprint": None},
        {"classes": [0, 1]},
        {"config": {}},
        {"config": {"data": {"mean": "auto", "std": [1.0, 1.0, 1.0]}}},
    ],
)
def test_a_checkpoint_that_no_run_writes_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    path = torch_file(tmp_path / "last.pt", checkpoint(filled()) | change)
    with pytest.raises(WeightsError, match=r"last\.pt"):
        read_weights(path)


# ---- containers --------------------------------------------------------------------------------


class Opener:
    """Unpickling it opens a file for writing."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_file_with_code_is_refused(zipped: bool, tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "hostile.pth"
    content = {"conv1.weight": torch.ones(1), "hook": Opener(canary)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"hostile\.pth: damaged, or holds more than tensors"):
        read_weights(path)
    assert not canary.exists()


def test_contents_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "arrays.npz", a=np.ones(3))
    torch.save([torch.ones(1)], tmp_path / "list.pt")
    torch.save({}, tmp_path / "nothing.pt")
    torch.save({"a": torch.ones(1)}, tmp_path / "other.pt")
    torch.save({"conv1.weight": torch.ones(1), "epoch": 3}, tmp_path / "mixed.pt")
    for name, content in (("empty", b""), ("page.html", b"<html>404</html>"), ("zeros", bytes(99))):
        (tmp_path / name).write_bytes(content)
    for path in tmp_path.iterdir():
        with pytest.raises(WeightsError, match=re.escape(path.name)):
            read_weights(path)


def test_every_truncation_of_a_torch_file_is_refused(tmp_path: Path) -> None:
    for zipped in (True, False):
        path = tmp_path / "whole.pt"
        torch.save({"conv1.weight": torch.ones(9)}, path, _use_new_zipfile_serialization=zipped)
        data = path.read_bytes()
        for length in range(0, len(data), max(1, len(data) // 40)):
            path.write_bytes(data[:length])
            with pytest.raises(WeightsError, match=r"whole\.pt"):
                read_weights(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_damaged_torch_file_gives_weights_or_a_weights_error(tmp_path: Path) -> None:
    random = np.random.RandomState(0)
    path = tmp_path / "whole.pt"
    for zipped in (True, False):
        state = {"conv1.weight": torch.ones(9), "bn1.weight": torch.ones(1)}
        torch.save(state, path, _use_new_zipfile_serialization=zipped)
        data = path.read_bytes()
        for _ in range(150):
            damaged = bytearray(data)
            damaged[random.randint(len(data))] = random.randint(256)
            path.write_bytes(damaged)
            with contextlib.suppress(WeightsError):
                read_weights(path)


def test_the_name_of_a_file_does_not_matter(tmp_path: Path) -> None:
    torchvision = torchvision_file(tmp_path, name="weights.pkl")
    assert read_weights(torchvision).layout == "torchvision"
    detectron = detectron_file(tmp_path).rename(tmp_path / "weights.pth")
    assert read_weights(detectron).layout == "detectron"


def test_device_and_dtype_of_the_network_stay(tmp_path: Path) -> None:
    model = video_network(**THIN).double()
    load_weights(model, torch_file(tmp_path / "last.pt", checkpoint(filled())))
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float64}
