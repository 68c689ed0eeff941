"""Other projects' layouts: their names, what comes back to the bit, and what they cannot hold."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor

from tests.model.named_weights import clip, named_weights
from tests.model.test_parity import create_theirs
from videogn.errors import WeightsError
from videogn.model import ARCHS, I3DResNet, norm_factory
from videogn.weights import SourceWeights, read_weights
from videogn.weights.pixels import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    KINETICS_MEAN,
    KINETICS_STD,
)
from videogn.weights.write import presets_by_inflation, presets_of, to_layout

VIDEO_ARCHS = ("i3d_r50_8x8", "c2d_r50", "slow_r50")


def network(
    arch: str = "i3d_r50_8x8", norm: str = "bn", *, image: bool = False, **options: Any
) -> I3DResNet:
    """Returns a thin network filled by name."""
    groups = options.pop("num_groups", 32)
    sizes: dict[str, Any] = {
        "num_classes": 7,
        "num_frames": 1 if image else 8,
        "crop_size": 32,
        "width": 32 if norm == "gn" else 8,
        "stem_pool_padding": 1,
    }
    with torch.device("meta"):
        model = I3DResNet(
            ARCHS[arch].image() if image else ARCHS[arch],
            norm_factory(norm, num_groups=groups, eps=options.pop("eps", 1e-5)),  # type: ignore[arg-type]
            **(sizes | options),
        )
    model.load_state_dict(named_weights(model.state_dict()), assign=True)
    return model.eval()


def weights_of(model: I3DResNet, norm: str = "bn") -> SourceWeights:
    state = model.state_dict()
    return SourceWeights(
        tensors={k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
        norm=norm,  # type: ignore[arg-type]
        mean=KINETICS_MEAN,
        std=KINETICS_STD,
        classes=tuple("abcdefg"),
        layout="videogn",
        fingerprint=model.fingerprint(),
    )


def of_images(norm: str = "bn", **options: Any) -> SourceWeights:
    weights = weights_of(network("i3d_r50", norm, image=True, **options), norm)
    return replace(weights, mean=IMAGENET_MEAN, std=IMAGENET_STD)


def written(weights: SourceWeights, layout: str, folder: Path) -> Path:
    path = folder / "written"
    torch.save(to_layout(weights, layout), path)
    return path


def assert_same_tensors(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name].reshape(tensor.shape), tensor), name


@pytest.mark.parametrize("arch", VIDEO_ARCHS)
@pytest.mark.parametrize("layout", ["pyslowfast", "pytorchvideo"])
def test_a_network_of_videos_comes_back_to_the_bit(layout: str, arch: str, tmp_path: Path) -> None:
    weights = weights_of(network(arch))
    found = read_weights(written(weights, layout, tmp_path))
    assert_same_tensors(found.tensors, weights.tensors)
    assert (found.layout, found.norm) == (layout, "bn")
    assert (found.mean, found.std) == (KINETICS_MEAN, KINETICS_STD)
    assert presets_of(found) == [arch]
    assert found.fingerprint is not None
    assert weights.fingerprint is not None
    assert found.fingerprint.items() <= weights.fingerprint.items()


@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_a_network_of_images_comes_back_to_the_bit(norm: str, tmp_path: Path) -> None:
    weights = of_images(norm)
    found = read_weights(written(weights, "torchvision", tmp_path))
    assert_same_tensors(found.tensors, weights.tensors)
    assert (found.layout, found.norm) == ("torchvision", norm)
    assert (found.mean, found.std) == (IMAGENET_MEAN, IMAGENET_STD)


def test_group_norm_comes_back_from_pytorchvideos_layout(tmp_path: Path) -> None:
    weights = weights_of(network(norm="gn"), "gn")
    found = read_weights(written(weights, "pytorchvideo", tmp_path))
    assert_same_tensors(found.tensors, weights.tensors)
    assert found.norm == "gn"


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("arch", VIDEO_ARCHS)
def test_pytorchvideo_loads_its_layout_strictly_and_gives_the_same_logits(arch: str) -> None:
    model = network(arch, num_frames=8, crop_size=64)
    theirs = create_theirs(model, "bn")
    state = to_layout(weights_of(model), "pytorchvideo")["model_state"]
    theirs.load_state_dict(state, assign=True)
    clips = clip(2, 8, 64)
    with torch.inference_mode():
        expected = model(clips)
        torch.testing.assert_close(theirs.eval()(clips), expected, rtol=0, atol=2e-5)
    assert expected.std() > 0.1


@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_torchvision_has_the_names_and_shapes_of_its_layout(norm: str) -> None:
    layer = None if norm == "bn" else lambda channels: torch.nn.GroupNorm(32, channels)
    with torch.device("meta"):
        theirs = torchvision.models.resnet50(norm_layer=layer).state_dict()
    state = to_layout(of_images(norm, width=64, num_classes=1000), "torchvision")
    assert {k: (v.shape, v.dtype) for k, v in state.items()} == {
        k: (v.shape, v.dtype) for k, v in theirs.items()
    }


def test_pyslowfasts_names_are_those_of_its_files() -> None:
    contents = to_layout(weights_of(network()), "pyslowfast")
    state = contents["model_state"]
    assert contents.keys() == {"model_state", "cfg"}
    assert len(state) == 320  # as many as torchvision's, BN's counters among them
    block = "s4.pathway0_res5.branch2"
    assert [name for name in state if name.startswith(block)] == [
        *(f"{block}.{x}{y}" for x in "abc" for y in (".weight", "_bn.weight", "_bn.bias",
          "_bn.running_mean", "_bn.running_var")),
        *(f"{block}.{x}_bn.num_batches_tracked" for x in "abc"),
    ]  # fmt: skip
    for name in (
        "s1.pathway0_stem.conv.weight",
        "s1.pathway0_stem.bn.running_var",
        "s2.pathway0_res0.branch1.weight",
        "s5.pathway0_res0.branch1_bn.bias",
        "head.projection.bias",
    ):
        assert name in state


def test_pyslowfasts_cfg_states_the_input(tmp_path: Path) -> None:
    weights = replace(weights_of(network("c2d_r50")), mean=(0.5, 0.4, 0.3), std=(0.3, 0.2, 0.1))
    found = read_weights(written(weights, "pyslowfast", tmp_path))
    assert (found.mean, found.std) == (weights.mean, weights.std)
    assert_same_tensors(found.tensors, weights.tensors)


def test_another_std_goes_into_the_first_convolution(tmp_path: Path) -> None:
    """The same pixels, each file's way, give the same logits."""
    model, std = network(crop_size=64), (0.3, 0.2, 0.1)
    weights = replace(weights_of(model), std=std)
    found = read_weights(written(weights, "pytorchvideo", tmp_path))
    assert found.std == KINETICS_STD
    with torch.inference_mode():
        expected = model(clip(1, 8, 64))
        model.load_state_dict(model.state_dict() | found.tensors)
        pixels = clip(1, 8, 64) * torch.tensor(std).view(3, 1, 1, 1)
        logits = model(pixels / torch.tensor(found.std).view(3, 1, 1, 1))
    assert expected.std() > 0.1
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)


FROZEN = "its norm is frozen_bn, and the layout pytorchvideo holds bn or gn"
CASES: dict[str, tuple[Any, str, str]] = {
    "frames": (lambda: weights_of(network()), "torchvision", "conv1.weight has 5 frames"),
    "pools": (
        lambda: replace(weights_of(network("c2d_r50")), mean=IMAGENET_MEAN),
        "torchvision",
        "networks of single images, but its pool2_t is 2, not 1",
    ),
    "padding": (
        lambda: of_images(stem_pool_padding=0, crop_size=64),
        "torchvision",
        "its stem_pool_padding is 0, not 1",
    ),
    "stride": (
        lambda: weights_of(network("i3d_r50_stride1x1", image=True)),
        "torchvision",
        "its stride_1x1 is True, not False",
    ),
    "groups": (lambda: of_images("gn", num_groups=8), "torchvision", "have groups 8, and .* 32"),
    "eps": (lambda: of_images(eps=1e-3), "torchvision", "have eps 0.001, and .* 1e-05"),
    "mean": (
        lambda: weights_of(network(image=True)),
        "torchvision",
        "the mean (0.45, 0.45, 0.45), and .* take (0.485, 0.456, 0.406)",
    ),
    "gn": (
        lambda: weights_of(network(norm="gn"), "gn"),
        "pyslowfast",
        "its norm is gn, and the layout pyslowfast holds bn",
    ),
    "frozen": (lambda: weights_of(network(norm="frozen_bn"), "frozen_bn"), "pytorchvideo", FROZEN),
    "nonlocal": (
        lambda: weights_of(network("i3d_r50", crop_size=64)),
        "pyslowfast",
        "of i3d_r50_8x8 it differs: its stem_stride_t is 2, not 1; its pool1_t is 2, not 1",
    ),
    "padding of pool1": (
        lambda: weights_of(network(stem_pool_padding=0, crop_size=64)),
        "pytorchvideo",
        "of i3d_r50_8x8 it differs: its stem_pool_padding is 0, not 1",
    ),
    "depth": (lambda: weights_of(network("i3d_r14")), "pyslowfast", "its kernels_t is ((3,), (3,)"),
    "unsaid": (
        lambda: replace(weights_of(network()), fingerprint=None),
        "pytorchvideo",
        "it does not say its stem_stride_t",
    ),
    "image": (
        lambda: replace(
            of_images(), tensors={k: v.squeeze(2) if v.ndim == 5 else v for k, v in
                                  of_images().tensors.items()}
        ),
        "pytorchvideo",
        "it is a network of images",
    ),
    "surplus": (
        lambda: replace(
            weights_of(network()), tensors=weights_of(network()).tensors | {"x.y": torch.ones(1)}
        ),
        "pyslowfast",
        "x.y is no tensor of a ResNet",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_a_layout_cannot_hold_is_refused(case: str) -> None:
    make, layout, reason = CASES[case]
    pattern = ".*".join(re.escape(part) for part in reason.split(".*"))
    with pytest.raises(WeightsError, match=pattern):
        to_layout(make(), layout)


def test_presets_are_told_from_kernels_and_what_the_file_says() -> None:
    for arch in ARCHS:
        with torch.device("meta"):
            model = network(arch, num_frames=16, crop_size=64)
        assert presets_of(weights_of(model)) == [arch]
    silent = replace(weights_of(network()), fingerprint=None)
    assert presets_of(silent) == ["i3d_r50", "i3d_r50_8x8", "i3d_r50_mmaction", "i3d_r50_stride1x1"]
    assert presets_by_inflation(silent) == []


def test_image_networks_begin_those_of_their_depth() -> None:
    deep = weights_of(network("i3d_r101", image=True))
    assert presets_by_inflation(deep) == ["i3d_r101"]
    assert presets_by_inflation(weights_of(network("i3d_r50_stride1x1", image=True))) == [
        "i3d_r50_stride1x1"
    ]
    assert "slow_r50" in presets_by_inflation(of_images())
    assert "i3d_r14" not in presets_by_inflation(of_images())
