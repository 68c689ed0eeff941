"""Every layout: a file of it gives the logits of its network, and one wrong tensor is named."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.model.named_weights import named_weights
from tests.weights.foreign_files import (
    C2D,
    CLASSES,
    CONV_BIAS,
    EVERY_FRAME,
    IMAGE,
    NUM_FRAMES,
    ORG,
    REVERSED,
    SIZE,
    SLOW,
    VARIANTS,
    Variant,
    as_detectron2,
    as_folded,
    as_pyslowfast,
    detectron2_name,
    kinetics,
    network,
    torch_bytes,
)
from videogn.errors import WeightsError, WeightsMismatchError
from videogn.model import ARCHS, I3DResNet
from videogn.model.i3d import Arch
from videogn.weights import load_weights, read_weights
from videogn.weights.content import read_content
from videogn.weights.layouts import LAYOUTS

IMAGES = [name for name, variant in VARIANTS.items() if variant.arch == variant.arch.image()]
VIDEOS = [name for name in VARIANTS if name not in IMAGES]


def pixels(num_frames: int) -> Tensor:
    """Returns noise (2, 3, T, SIZE, SIZE) on [0, 1], RGB."""
    random = np.random.RandomState(0)
    return torch.from_numpy(random.random_sample((2, 3, num_frames, SIZE, SIZE)).astype(np.float32))


def logits(model: I3DResNet, clips: Tensor) -> Tensor:
    with torch.no_grad():
        return model(clips)


def normalized(rgb: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (rgb - torch.tensor(mean).view(3, 1, 1, 1)) / torch.tensor(std).view(3, 1, 1, 1)


# ---- parity ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_are_those_of_the_network_of_the_file(name: str, tmp_path: Path) -> None:
    variant = VARIANTS[name]
    model, source = variant.network(), variant.source()
    report = load_weights(model, variant.file(tmp_path))
    rgb = pixels(source.num_frames)
    expected = logits(source, variant.feed(rgb))
    difference = logits(model, normalized(rgb, report.mean, report.std)) - expected
    assert difference.abs().max() <= variant.tolerance
    assert expected.abs().max() > 0.1
    assert (report.layout, report.norm, report.head_replaced) == (
        variant.layout,
        variant.norm,
        None,
    )
    assert report.matched == report.total == len(variant.tensors())
    assert report.notes == ()


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_network_inflated_sees_a_still_clip_as_its_frame(
    name: str, tmp_path: Path
) -> None:
    variant = VARIANTS[name]
    path = variant.file(tmp_path)
    arch = Arch(ORG.kernels_t, stride_1x1=variant.arch.stride_1x1)
    model = network(arch, variant.norm, num_classes=CLASSES + 1)
    head = model.fc.weight.clone()
    report = load_weights(model, path, inflation="center")
    assert report.head_replaced == (CLASSES, CLASSES + 1)
    assert torch.equal(model.fc.weight, head)
    tensors = read_weights(path).tensors
    model.fc = torch.nn.Linear(head.shape[1], CLASSES)
    model.fc.load_state_dict({"weight": tensors["fc.weight"], "bias": tensors["fc.bias"]})
    rgb = pixels(1)
    still = normalized(rgb, report.mean, report.std).expand(-1, -1, NUM_FRAMES, -1, -1)
    difference = logits(model, still) - logits(variant.source(), variant.feed(rgb))
    assert difference.abs().max() <= variant.tolerance


def test_one_frame_kernels_of_a_video_network_are_inflated(tmp_path: Path) -> None:
    variant = VARIANTS["PyTorchVideo C2D"]
    for how in ("mean", "center"):
        model = network(ORG, "bn", padding=0)
        report = load_weights(model, variant.file(tmp_path), inflation=how)
        assert "stem_pool_padding is 1 in the file and 0 here" in str(report)
        stem = variant.tensors()["conv1.weight"]
        assert torch.allclose(model.conv1.weight.sum(2, keepdim=True), stem, atol=1e-6)
        middle = 1.0 if how == "center" else 0.2
        assert torch.allclose(model.conv1.weight[:, :, 2:3], stem * middle, atol=1e-6)


def test_a_classifier_without_names_is_kept_and_said_to_be(tmp_path: Path) -> None:
    variant = VARIANTS["PyTorchVideo I3D"]
    names = [f"class {i}" for i in range(CLASSES)]
    report = load_weights(variant.network(), variant.file(tmp_path), classes=names)
    assert report.head_replaced is None
    end = (
        "head kept; the file does not name its classes: their order is taken to be that of the data"
    )
    assert str(report).endswith(end)


def test_kernels_with_other_frames_are_not_made_to_fit(tmp_path: Path) -> None:
    wide = Arch(((3, 1), (3,), (1,), (3,)), stem_kernel_t=3)
    with pytest.raises(
        WeightsMismatchError, match=r"conv1.weight: .*5, 7, 7\) in the file, .*3, 7"
    ):
        load_weights(network(wide, "bn"), VARIANTS["Non-local I3D"].file(tmp_path))


PTV_STAGES = {
    "i3d": ((3, 1, 1), [(3, 1, 1), (1, 1, 1)], [(3, 1, 1), (1, 1, 1)], [(1, 1, 1), (3, 1, 1)]),
    "c2d": ((1, 1, 1),) * 4,
    "slow": ((1, 1, 1), (1, 1, 1), (3, 1, 1), (3, 1, 1)),
}


@pytest.mark.parametrize(
    ("kind", "arch"), [("i3d", "i3d_r50_8x8"), ("c2d", "c2d_r50"), ("slow", "slow_r50")]
)
def test_a_file_of_pytorchvideo_itself(kind: str, arch: str, tmp_path: Path) -> None:
    """Its own ResNet-50, thin: its state dict is what the hub's files hold."""
    resnet = pytest.importorskip("pytorchvideo.models.resnet")
    pool = {} if kind == "slow" else {"stage1_pool": torch.nn.MaxPool3d}
    frames = 8 if kind == "slow" else 4  # left after the pool
    theirs = resnet.create_resnet(
        stem_dim_out=8, model_num_class=CLASSES, stage_conv_a_kernel_size=PTV_STAGES[kind],
        stem_conv_kernel_size=(5 if kind == "i3d" else 1, 7, 7),
        head_pool_kernel_size=(frames, 1, 1), **pool,
    ).eval()  # fmt: skip
    theirs.load_state_dict(named_weights(theirs.state_dict()))
    torch.save({"model_state": theirs.state_dict()}, tmp_path / "theirs.pyth")
    ours = network(ARCHS[arch], "bn")
    report = load_weights(ours, tmp_path / "theirs.pyth")
    assert report.matched == report.total == 267
    rgb = kinetics(pixels(NUM_FRAMES))
    with torch.no_grad():
        expected = theirs(rgb)
    assert (logits(ours, rgb) - expected).abs().max() <= 2e-5
    assert expected.abs().max() > 0.1


# ---- strictness --------------------------------------------------------------------------------

CONV, SHORTCUT, HEAD = "layer1.1.conv2.weight", "layer2.0.downsample.1.weight", "fc.bias"


def remove(name: str, tensors: dict[str, Tensor]) -> None:
    del tensors[name]


def cut(name: str, tensors: dict[str, Tensor]) -> None:
    tensors[name] = tensors[name][1:].clone()


def add(name: str, tensors: dict[str, Tensor]) -> None:
    tensors[name] = torch.zeros(3)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_tensor_missing_misshaped_or_added_is_named(name: str, tmp_path: Path) -> None:
    variant = VARIANTS[name]
    model = variant.network()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for missing, misshaped in ((CONV, SHORTCUT), (SHORTCUT, CONV), (SHORTCUT, HEAD)):

        def edit(tensors: dict[str, Tensor], gone: str = missing, less: str = misshaped) -> None:
            remove(gone, tensors)
            cut(less, tensors)
            add("surplus", tensors)

        with pytest.raises(WeightsMismatchError) as caught:
            load_weights(model, variant.file(tmp_path, edit))
        first, *lines = str(caught.value).split("\n")
        assert first == "edited: 3 tensors do not fit the network:"
        assert lines[:2] == [f"  missing in the file: {missing}", "  unused: surplus"]
        assert re.fullmatch(rf"  {misshaped}: \(.*\) in the file, \(.*\) here", lines[2])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("edit", [partial(remove, HEAD), partial(cut, HEAD), partial(add, "x")])
def test_one_wrong_tensor_is_enough(
    edit: Callable[[dict[str, Tensor]], None], tmp_path: Path
) -> None:
    variant = VARIANTS["PyTorchVideo Slow"]
    with pytest.raises(WeightsMismatchError, match="1 tensors do not fit"):
        load_weights(variant.network(), variant.file(tmp_path, edit))


def test_a_list_of_hundreds_is_cut(tmp_path: Path) -> None:
    variant = VARIANTS["PyTorchVideo Slow"]

    def edit(tensors: dict[str, Tensor]) -> None:
        tensors.update({f"surplus{i}": torch.zeros(1) for i in range(500)})

    with pytest.raises(WeightsMismatchError, match=r"500 tensors(.|\n)*and 441 more") as caught:
        load_weights(variant.network(), variant.file(tmp_path, edit))
    assert str(caught.value).count("\n") == 60


@pytest.mark.parametrize("name", VARIANTS)
def test_one_layout_is_detected_whatever_tensor_is_missing(name: str, tmp_path: Path) -> None:
    variant = VARIANTS[name]

    def without_stem(tensors: dict[str, Tensor]) -> None:
        remove("conv1.weight", tensors)
        remove("norm1.weight", tensors)

    for edit in (None, without_stem):
        content = read_content(variant.file(tmp_path, edit))
        found = [layout for layout, row in LAYOUTS.items() if row.detects(content)]
        assert found == [variant.layout]


# ---- what a layout tells of its network --------------------------------------------------------

OTHER_NETWORKS: list[tuple[str, dict[str, Any], str]] = [
    ("torchvision", {"eps": 1e-3}, "eps is 1e-05 in the file and 0.001 here"),
    ("torchvision", {"arch": replace(IMAGE, stride_1x1=True)},
     "stride_1x1 is False in the file and True here"),
    ("Detectron GN", {"groups": 8}, "groups is 32 in the file and 8 here"),
    ("Detectron MSRA", {"arch": IMAGE}, "stride_1x1 is True in the file and False here"),
    ("Detectron2 MSRA", {"arch": IMAGE}, "stride_1x1 is True in the file and False here"),
    ("Detectron2 torchvision", {"padding": 0}, "stem_pool_padding is 1 in the file and 0 here"),
    ("tensorpack GN", {"groups": 8}, "groups is 32 in the file and 8 here"),
    ("Non-local I3D", {"eps": 1e-3}, "eps is 1e-05"),
    ("PySlowFast I3D", {"arch": ORG}, "pool1_stride_t is 1 in the file and 2 here, pool1_t is 1"),
    ("PySlowFast I3D", {"padding": 0}, "stem_pool_padding is 1 in the file and 0 here"),
    ("PySlowFast C2D", {"arch": replace(C2D, pool2_t=1)}, "pool2_t is 2"),
    ("PySlowFast Slow", {"arch": replace(SLOW, pool2_t=2)}, "pool2_t is 1"),
    ("PyTorchVideo I3D", {"arch": ORG}, "stem_stride_t is 1 in the file and 2 here"),
    ("PyTorchVideo Slow", {"arch": replace(SLOW, pool2_t=2)}, "pool2_t is 1"),
    ("MMAction2 I3D", {"arch": ORG}, "pool1_t is 1 in the file and 2 here"),
    ("MMAction2 I3D", {"arch": EVERY_FRAME}, "stem_stride_t is 2 in the file and 1 here"),
    ("MMAction2 Slow-only", {"arch": replace(SLOW, stem_stride_t=2)},
     "stem_stride_t is 1 in the file and 2 here"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "entry"), OTHER_NETWORKS)
def test_another_network_is_refused_by_the_entry_that_differs(
    name: str, options: dict[str, Any], entry: str, tmp_path: Path
) -> None:
    variant = VARIANTS[name]
    model = network(**({"arch": variant.arch, "norm": variant.norm} | options))
    with pytest.raises(WeightsMismatchError, match=rf"trained as another network: .*{entry}"):
        load_weights(model, variant.file(tmp_path))


def test_a_cfg_tells_what_the_kernels_do_not(tmp_path: Path) -> None:
    tensors = VARIANTS["PySlowFast C2D"].tensors()

    def fingerprint(cfg: str | None) -> dict[str, Any]:
        as_pyslowfast(tensors, tmp_path / "edited", cfg=cfg)
        return read_weights(tmp_path / "edited").fingerprint or {}

    assert fingerprint("MODEL: {ARCH: c2d_nopool}")["pool2_t"] == 1
    assert fingerprint("MODEL: {ARCH: c2d}\nRESNET: {STRIDE_1X1: true}")["stride_1x1"] is True
    assert "pool2_t" not in fingerprint(None)


@pytest.mark.parametrize(
    ("cfg", "reason"),
    [
        ("RESNET: {SPATIAL_DILATIONS: [[1], [1], [1], [2]]}", "SPATIAL_DILATIONS"),
        ("DATA: {MEAN: [0.4]}", r"DATA\.MEAN=\[0\.4\]; expected 3 numbers"),
        ("a: !!python/object/apply:os.system [true]", "not plain YAML"),
        ("[" * 600, "not plain YAML"),
        ("#" * 2_000_000, "2000000 characters"),
    ],
)
def test_a_cfg_of_no_preset_is_refused(cfg: str, reason: str, tmp_path: Path) -> None:
    as_pyslowfast(VARIANTS["PySlowFast I3D"].tensors(), tmp_path / "edited", cfg=cfg)
    with pytest.raises(WeightsError, match=reason):
        read_weights(tmp_path / "edited")


def test_an_author_who_does_not_tell_the_colors_is_refused(tmp_path: Path) -> None:
    tensors = VARIANTS["Detectron2 torchvision"].tensors()
    as_detectron2(tensors, tmp_path / "edited", name=detectron2_name, author="somebody")
    with pytest.raises(WeightsError, match=r"author 'somebody'.*known: torchvision, MOCO, Caffe2"):
        read_weights(tmp_path / "edited")


def test_what_is_said_of_the_input(tmp_path: Path) -> None:
    assert read_weights(VARIANTS["Detectron MSRA"].file(tmp_path)).pixels.startswith(
        "BGR on [0, 255]"
    )
    assert read_weights(VARIANTS["tensorpack BN"].file(tmp_path)).pixels.startswith("BGR on [0, 1]")
    weights = read_weights(VARIANTS["PySlowFast BGR"].file(tmp_path))
    assert weights.pixels == "BGR on [0, 1], mean (0.4, 0.45, 0.5), std (0.2, 0.225, 0.25)"
    assert "REVERSE_INPUT_CHANNEL" in REVERSED
    assert weights.mean == (0.5, 0.45, 0.4)
    containers = {"torchvision": "torch", "Non-local 2-D": "pickle", "tensorpack BN": "npz"}
    for name, container in (containers | {"timm": "safetensors"}).items():
        assert read_weights(VARIANTS[name].file(tmp_path)).container == container


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("nonlocal_conv3_1_theta_w", "non-local blocks"),
        ("s3.pathway0_nonlocal1.conv_theta.weight", "non-local blocks"),
        ("backbone.layer2.1.non_local_block.g.weight", "non-local blocks"),
        ("s1.pathway1_stem.conv.weight", "a second pathway"),
        ("t_res2_0_branch2a_w", "a second pathway"),
    ],
)
def test_parts_that_no_preset_has_are_refused_at_once(name: str, part: str, tmp_path: Path) -> None:
    (tmp_path / "file.pth").write_bytes(torch_bytes({name: torch.ones(1)}))
    with pytest.raises(
        WeightsError, match=rf"a network with {part} \({re.escape(name)} and 0 more"
    ):
        read_weights(tmp_path / "file.pth")


# ---- norms -------------------------------------------------------------------------------------


def test_biases_of_msra_go_into_the_running_means(tmp_path: Path) -> None:
    variant = VARIANTS["Detectron2 MSRA"]
    mean = read_weights(variant.file(tmp_path)).tensors["norm1.running_mean"]
    assert torch.allclose(mean, variant.tensors()["norm1.running_mean"], atol=1e-6)
    assert CONV_BIAS.abs().max() == 1


def test_folded_batch_norm_fills_a_frozen_one_only(tmp_path: Path) -> None:
    path = tmp_path / "R-50.pkl"
    as_folded(VARIANTS["Detectron MSRA"].tensors(), path)
    with pytest.raises(WeightsMismatchError, match=r"folded.*model\.norm\.kind=frozen_bn"):
        load_weights(network(VARIANTS["Detectron MSRA"].arch, "bn"), path)


def test_batch_norm_fills_a_frozen_one(tmp_path: Path) -> None:
    variant: Variant = VARIANTS["PyTorchVideo I3D"]
    model = network(variant.arch, "frozen_bn")
    report = load_weights(model, variant.file(tmp_path))
    rgb = pixels(NUM_FRAMES)
    expected = logits(variant.source(), variant.feed(rgb))
    assert (logits(model, normalized(rgb, report.mean, report.std)) - expected).abs().max() <= 2e-5


def test_batch_norm_fills_a_group_norm_if_asked(tmp_path: Path) -> None:
    path = VARIANTS["torchvision"].file(tmp_path)
    model = I3DResNet(IMAGE, lambda c: torch.nn.GroupNorm(4, c, eps=1e-6), num_classes=CLASSES,
                      num_frames=1, crop_size=SIZE, width=8, stem_pool_padding=1)  # fmt: skip
    with pytest.raises(WeightsMismatchError, match=r"batch norm, but.*init_allow_norm_mismatch"):
        load_weights(model, path)
    report = load_weights(model, path, allow_norm_mismatch=True)
    assert report.matched == report.total == len(model.state_dict())
    assert "gamma and beta are those of batch norm" in str(report)
    gamma = VARIANTS["torchvision"].tensors()["layer3.0.norm2.weight"]
    assert torch.equal(model.state_dict()["layer3.0.norm2.weight"], gamma)


def test_group_norm_never_fills_batch_norm(tmp_path: Path) -> None:
    with pytest.raises(WeightsMismatchError, match="trained with group norm"):
        load_weights(
            network(IMAGE, "bn"), VARIANTS["timm"].file(tmp_path), allow_norm_mismatch=True
        )


def test_a_safetensors_header_may_begin_like_a_pickle(tmp_path: Path) -> None:
    """Its first byte is the lowest of the header's length, and 0x80 is that of a pickle."""
    state = {"bn1.weight": torch.ones(1), "conv1.weight": torch.ones(1)}
    for pad in range(256):
        save_file(state, tmp_path / "a", metadata={"format": "p" * pad})
        if (tmp_path / "a").read_bytes()[0] == 0x80:
            break
    assert (tmp_path / "a").read_bytes()[0] == 0x80
    assert read_weights(tmp_path / "a").container == "safetensors"
