"""The variants against their definitions, written down here once more, operation by operation.

MMAction2 and video-nonlocal-net need CUDA, Caffe2 or old packages to run; what their code says of
strides, pools, paddings and normalization is stated below in plain torch functions of a state dict.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from tests.model.named_weights import clip, named_weights
from videogn.model.i3d import I3DResNet, create_model
from videogn.model.inflate import inflate_state_dict
from videogn.model.norm import NormKind

ATOL = 2e-5  # float32, as test_parity.py says
Triple = tuple[int, int, int]
State = dict[str, Tensor]
BLOCKS = (3, 4, 6, 3)


@dataclass(frozen=True)
class Definition:
    """One project's network, in the numbers of its own code."""

    stem_stride: Triple
    pool1: tuple[Triple, Triple, Triple]  # kernel, stride, padding
    temporal: tuple[set[int], ...]  # the blocks of each stage whose first kernel sees 3 frames
    stem_kernel_t: int = 5
    pool2: bool = True
    stride_in_first: bool = False
    adaptive_head: bool = False


NONLOCAL_POOL1 = ((2, 3, 3), (2, 2, 2), (0, 0, 0))
I3D_BLOCKS = ({0, 1, 2}, {0, 2}, {0, 2, 4}, {1})
NONE = (set[int](),) * 4
DEFINITIONS = {
    # resnet_video_org.py, VIDEO_ARC_CHOICE 2 and 1
    "i3d_r50": Definition((2, 2, 2), NONLOCAL_POOL1, I3D_BLOCKS),
    "c2d_r50_nonlocal": Definition((2, 2, 2), NONLOCAL_POOL1, NONE, stem_kernel_t=1),
    # resnet_video.py, the 8x8 model
    "i3d_r50_8x8": Definition((1, 2, 2), ((1, 3, 3), (1, 2, 2), (0, 0, 0)), I3D_BLOCKS),
    # i3d_r50: conv1_stride_t 2, pool1_stride_t 2 of a kernel of one frame, padded
    "i3d_r50_mmaction": Definition(
        (2, 2, 2), ((1, 3, 3), (2, 2, 2), (0, 1, 1)), I3D_BLOCKS, adaptive_head=True
    ),
    # STRIDE_1X1 True
    "i3d_r50_stride1x1": Definition(
        (2, 2, 2), ((2, 3, 3), (2, 2, 2), (0, 1, 1)), I3D_BLOCKS, stride_in_first=True
    ),
}
Norm = Callable[[Tensor, State, str], Tensor]


def batch_norm(x: Tensor, state: State, name: str) -> Tensor:
    shape = (1, -1, 1, 1, 1)
    scale = state[f"{name}.weight"] / (state[f"{name}.running_var"] + 1e-5).sqrt()
    shift = state[f"{name}.bias"] - state[f"{name}.running_mean"] * scale
    return x * scale.view(shape) + shift.view(shape)


def affine(x: Tensor, state: State, name: str) -> Tensor:
    """AffineNd: a scale and a shift, with the statistics folded in."""
    return x * state[f"{name}.weight"].view(-1, 1, 1, 1) + state[f"{name}.bias"].view(-1, 1, 1, 1)


def group_norm(x: Tensor, state: State, name: str) -> Tensor:
    groups = x.unflatten(1, (4, -1))
    axes = (2, 3, 4, 5)
    mean, var = groups.mean(axes, keepdim=True), groups.var(axes, correction=0, keepdim=True)
    y = ((groups - mean) / (var + 1e-5).sqrt()).flatten(1, 2)
    return affine(y, state, name)


NORMS: dict[str, Norm] = {"bn": batch_norm, "frozen_bn": batch_norm, "affine": affine}


def conv(x: Tensor, state: State, name: str, stride: Triple = (1, 1, 1)) -> Tensor:
    weight = state[f"{name}.weight"]
    t, h, w = weight.shape[2:]
    return F.conv3d(x, weight, stride=stride, padding=(t // 2, h // 2, w // 2))


def features_of(clips: Tensor, state: State, network: Definition, norm: Norm) -> Tensor:
    """Returns the last map of a network as its project defines it."""
    assert state["conv1.weight"].shape[2] == network.stem_kernel_t
    x = norm(conv(clips, state, "conv1", network.stem_stride), state, "norm1").relu()
    x = F.max_pool3d(x, *network.pool1)
    for stage, blocks in enumerate(BLOCKS):
        for i in range(blocks):
            block = f"layer{stage + 1}.{i}"
            halve = (1, 2, 2) if stage and not i else (1, 1, 1)
            first, second = halve, (1, 1, 1)
            if not network.stride_in_first:
                first, second = second, first
            frames = 3 if i in network.temporal[stage] else 1
            assert state[f"{block}.conv1.weight"].shape[2:] == (frames, 1, 1)
            y = norm(conv(x, state, f"{block}.conv1", first), state, f"{block}.norm1").relu()
            y = norm(conv(y, state, f"{block}.conv2", second), state, f"{block}.norm2").relu()
            y = norm(conv(y, state, f"{block}.conv3"), state, f"{block}.norm3")
            if not i:
                x = conv(x, state, f"{block}.downsample.0", halve)
                x = norm(x, state, f"{block}.downsample.1")
            x = (x + y).relu()
        if not stage and network.pool2:
            x = F.max_pool3d(x, (2, 1, 1), (2, 1, 1))
    return x


def probs_of(
    clips: Tensor, state: State, network: Definition, norm: Norm, window: Triple
) -> Tensor:
    """Returns the probabilities: MMAction2's of the pooled map, else the mean over positions."""
    x = features_of(clips, state, network, norm)
    x = F.adaptive_avg_pool3d(x, 1) if network.adaptive_head else F.avg_pool3d(x, window, 1)
    x = x.flatten(2).transpose(1, 2) @ state["fc.weight"].T + state["fc.bias"]
    return x.softmax(-1).mean(1)


def network_of(arch: str, kind: NormKind, padding: int, **options: Any) -> I3DResNet:
    sizes: dict[str, Any] = {"num_frames": 16, "crop_size": 64, "num_classes": 7, "width": 8}
    with torch.device("meta"):
        model = create_model(arch, norm=kind, stem_pool_padding=padding, **(sizes | options))
    model.load_state_dict(named_weights(model.state_dict()), assign=True)
    return model.eval()


@pytest.mark.parametrize("norm", ["bn", "frozen_bn", "affine"])
@pytest.mark.parametrize("arch", DEFINITIONS)
def test_a_variant_computes_what_its_project_defines(arch: str, norm: str) -> None:
    kind: NormKind = "bn" if norm == "bn" else "frozen_bn"
    model = network_of(arch, kind, DEFINITIONS[arch].pool1[2][1])
    state = dict(model.state_dict())
    if norm == "affine":  # as a file of folded statistics is loaded
        for name, tensor in state.items():
            if name.endswith(("running_mean", "running_var")):
                tensor.fill_(0 if name.endswith("mean") else 1 - 1e-5)
    # MMAction2's head takes any size; ours a mean over windows, the same at the training size
    sizes = [(64, 64)] if DEFINITIONS[arch].adaptive_head else [(64, 64), (96, 128)]
    for height, width in sizes:
        clips = clip(2, 16, height, width)
        with torch.inference_mode():
            expected = probs_of(clips, state, DEFINITIONS[arch], NORMS[norm], model.window)
            assert expected.std() > 0.02
            torch.testing.assert_close(model.probs(clips), expected, rtol=0, atol=ATOL)


def test_the_definitions_are_told_apart() -> None:
    """The tolerance tells each network from the others that take the same weights."""
    clips = clip(1, 16, 64)
    model = network_of("i3d_r50", "bn", 0)
    seen: list[Tensor] = []
    for name, network in DEFINITIONS.items():
        if network.temporal != I3D_BLOCKS:
            continue
        features = features_of(clips, dict(model.state_dict()), network, batch_norm)
        for other in seen:
            assert (features.mean((2, 3, 4)) - other).abs().max() > 10 * ATOL, name
        seen.append(features.mean((2, 3, 4)))


def test_group_norm_of_a_variant_is_over_frames_too() -> None:
    with torch.device("meta"):
        model = create_model(
            "i3d_r50_stride1x1",
            norm=lambda channels: nn.GroupNorm(4, channels),
            num_frames=16,
            crop_size=64,
            num_classes=7,
            width=8,
            stem_pool_padding=1,
        )
    model.load_state_dict(named_weights(model.state_dict()), assign=True)
    clips, network = clip(2, 16, 64), DEFINITIONS["i3d_r50_stride1x1"]
    with torch.inference_mode():
        expected = probs_of(clips, dict(model.state_dict()), network, group_norm, model.window)
        torch.testing.assert_close(model.eval().probs(clips), expected, rtol=0, atol=ATOL)


# Image networks on a still clip


def our_name(theirs: str) -> str:
    return theirs.replace("bn", "norm")


def assert_a_still_clip_gives_its_features(image: nn.Module, side: int, frames: int) -> None:
    """Checks the center-inflated I3D of `image` (1000 classes, BN): its features and logits."""
    weights = named_weights({our_name(k): v for k, v in image.state_dict().items()})
    image.load_state_dict({k: weights[our_name(k)] for k in image.state_dict()}, assign=True)
    with torch.device("meta"):
        model = create_model(
            norm="bn", num_frames=frames, crop_size=side, num_classes=1000, stem_pool_padding=1
        )
    wanted = {k: v for k, v in model.state_dict().items() if not k.endswith("batches_tracked")}
    kept = {k: v for k, v in weights.items() if not k.endswith("batches_tracked")}
    inflated = inflate_state_dict(kept, wanted, "center")
    missing, unexpected = model.load_state_dict(inflated, strict=False, assign=True)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    seen: list[Any] = []
    image.get_submodule("layer4").register_forward_hook(lambda *args: seen.append(args[-1]))
    picture = clip(1, 1, side)
    still = picture.expand(-1, -1, frames, -1, -1)
    with torch.inference_mode():
        expected = image.eval()(picture[:, :, 0])
        logits, features = model.eval()(still), model.forward_features(still)
    assert expected.std() > 0.1
    torch.testing.assert_close(logits, expected, rtol=0, atol=ATOL)
    features_expected = seen[0].unsqueeze(2).expand_as(features)  # up to 10 times a logit
    torch.testing.assert_close(features, features_expected, rtol=0, atol=5 * ATOL)


def torchvision_resnet50() -> nn.Module:
    with torch.device("meta"):
        return torchvision.models.resnet50()


def timm_resnet50() -> nn.Module:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        return timm.create_model("resnet50")


NETWORKS = pytest.mark.parametrize("make", [torchvision_resnet50, timm_resnet50])


@NETWORKS
def test_a_small_still_clip_gives_the_features_of_an_image_network(
    make: Callable[[], nn.Module],
) -> None:
    assert_a_still_clip_gives_its_features(make(), side=64, frames=8)


@pytest.mark.slow
@NETWORKS
def test_a_still_clip_gives_the_features_of_an_image_network(
    make: Callable[[], nn.Module],
) -> None:
    assert_a_still_clip_gives_its_features(make(), side=224, frames=16)
