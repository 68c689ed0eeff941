"""The same logits as PyTorchVideo's `create_resnet`, configured as video-nonlocal-net's I3D.

A network that differs by one detail is told apart by this tolerance: on noise, the smallest change
of interest (eps 1e-6 instead of 1e-5) moves logits by 6e-5, rounding by 4e-6.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.model.named_weights import clip, named_weights
from videogn.model.i3d import I3DResNet, create_model

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

ATOL = 2e-5  # float32
STAGES = ["layer1", "layer2", "layer3", "layer4"]


def our_name(theirs: str, pooled: bool = True) -> str:
    """Returns the canonical name of a tensor of PyTorchVideo's ResNet.

    A pool after stage 1 takes a number of its own, blocks.2.
    """
    _, block, rest = theirs.split(".", 2)
    if block == "0":
        return re.sub(r"^(conv|norm)\.", r"\g<1>1.", rest)
    parts = ["", STAGES[0], *([""] if pooled else []), *STAGES[1:], ""]
    if int(block) == len(parts) - 1:
        return rest.replace("proj.", "fc.")
    rest = re.sub(
        r"^res_blocks\.(\d+)\.branch2\.(conv|norm)_([abc])\.",
        lambda m: f"{m[1]}.{m[2]}{'abc'.index(m[3]) + 1}.",
        rest,
    )
    rest = re.sub(r"^res_blocks\.(\d+)\.branch1_conv\.", r"\1.downsample.0.", rest)
    rest = re.sub(r"^res_blocks\.(\d+)\.branch1_norm\.", r"\1.downsample.1.", rest)
    return f"{parts[int(block)]}.{rest}"


def group_norm(num_features: int, eps: float, momentum: float) -> nn.GroupNorm:
    """32 groups, in the way that `create_resnet` calls its `norm`."""
    return nn.GroupNorm(32, num_features, eps=eps)


def create_theirs(model: I3DResNet, norm: str, depth: int = 50) -> nn.Module:
    """Returns PyTorchVideo's network for our `model`, on the meta device."""
    resnet = pytest.importorskip("pytorchvideo.models.resnet")
    arch, padding = model.arch, model.stem_pool_padding

    def stem_pool(kernel_size: Any, stride: Any, **_: Any) -> nn.Module:
        # create_resnet always pads by half the kernel, which for 2 frames is one frame too many.
        return nn.MaxPool3d(kernel_size, stride, padding=(0, padding, padding))

    with torch.device("meta"):
        return resnet.create_resnet(
            model_depth=depth,
            stem_dim_out=model.conv1.out_channels,
            model_num_class=model.fc.out_features,
            dropout_rate=0.0,
            norm=nn.BatchNorm3d if norm == "bn" else group_norm,
            stem_conv_kernel_size=(arch.stem_kernel_t, 7, 7),
            stem_conv_stride=(arch.stem_stride_t, 2, 2),
            stem_pool=stem_pool,
            stem_pool_kernel_size=(arch.pool1_t, 3, 3),
            stem_pool_stride=(arch.pool1_stride_t, 2, 2),
            stage1_pool=nn.MaxPool3d if arch.pool2_t > 1 else None,
            stage_conv_a_kernel_size=[[(t, 1, 1) for t in stage] for stage in arch.kernels_t],
            head_pool_kernel_size=model.window,
        )


def filled_alike(ours: I3DResNet, theirs: nn.Module) -> None:
    """Gives both networks the same weights; both must have exactly the same tensors."""
    weights = named_weights(ours.state_dict())
    pooled = ours.arch.pool2_t > 1
    names = {name: our_name(name, pooled) for name in theirs.state_dict()}
    assert sorted(names.values()) == sorted(weights)
    for name, tensor in theirs.state_dict().items():
        assert tensor.shape == weights[names[name]].shape, name
    theirs.load_state_dict({name: weights[our] for name, our in names.items()}, assign=True)
    ours.load_state_dict(named_weights(weights), assign=True)  # tensors of its own


def create_pair(norm: str, *, arch: str = "i3d_r50", **options: Any) -> tuple[I3DResNet, nn.Module]:
    with torch.device("meta"):
        ours = create_model(arch, norm=norm, dropout=0.0, **options)  # type: ignore[arg-type]
    theirs = create_theirs(ours, norm)
    filled_alike(ours, theirs)
    return ours, theirs


def assert_same_logits(ours: nn.Module, theirs: nn.Module, clips: Tensor) -> None:
    with torch.inference_mode():
        logits, expected = ours.eval()(clips), theirs.eval()(clips)
    assert expected.std() > 0.1
    torch.testing.assert_close(logits, expected, rtol=0, atol=ATOL)


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("num_frames", [16, 32])
@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_small_clips_give_pytorchvideos_logits(norm: str, num_frames: int, padding: int) -> None:
    ours, theirs = create_pair(norm, num_frames=num_frames, crop_size=64, stem_pool_padding=padding)
    assert_same_logits(ours, theirs, clip(1, num_frames, 64))


@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_clips_above_the_training_size_give_pytorchvideos_logits(norm: str) -> None:
    ours, theirs = create_pair(norm, num_frames=16, crop_size=64)
    assert_same_logits(ours, theirs, clip(1, 24, 112, 144))


@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_small_8x8_clips_give_pytorchvideos_logits(norm: str) -> None:
    ours, theirs = create_pair(
        norm, arch="i3d_r50_8x8", num_frames=8, crop_size=64, stem_pool_padding=1
    )
    assert_same_logits(ours, theirs, clip(1, 8, 64))


@pytest.mark.parametrize(
    "arch",
    ["i3d_r50_8x8", "c2d_r50", "slow_r50", "c2d_r50_nonlocal", "i3d_r50_mmaction"],
)
def test_thin_variants_give_pytorchvideos_logits(arch: str) -> None:
    small: dict[str, Any] = {"num_frames": 16, "crop_size": 64, "num_classes": 7, "width": 8}
    ours, theirs = create_pair("bn", arch=arch, stem_pool_padding=1, **small)
    assert_same_logits(ours, theirs, clip(2, 16, 64))
    assert_same_logits(ours, theirs, clip(1, 24, 96, 112))


@pytest.mark.slow
def test_a_training_step_gives_pytorchvideos_gradients_and_running_statistics() -> None:
    ours, theirs = create_pair("bn", num_frames=8, crop_size=64)
    clips = clip(2, 8, 64).double()
    for model in (ours, theirs):
        logits = model.double().train()(clips)
        logits.logsumexp(1).sum().backward()
    gradients = {our_name(name): p.grad for name, p in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(
            parameter.grad, gradients[name], rtol=1e-6, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
        )
    for name, theirs_buffer in theirs.named_buffers():
        torch.testing.assert_close(ours.get_buffer(our_name(name)), theirs_buffer)


def test_i3d_r101_has_pytorchvideos_tensors() -> None:
    with torch.device("meta"):
        ours = create_model("i3d_r101", norm="bn")
    theirs = create_theirs(ours, "bn", depth=101)
    assert {n: t.shape for n, t in ours.state_dict().items()} == {
        our_name(n): t.shape for n, t in theirs.state_dict().items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("num_frames", [32, 64])
@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_full_clips_give_pytorchvideos_logits(norm: str, num_frames: int) -> None:
    ours, theirs = create_pair(norm, num_frames=num_frames, crop_size=224)
    assert ours.window == (num_frames // 8, 7, 7)
    assert_same_logits(ours, theirs, clip(1, num_frames, 224))


@pytest.mark.slow
@pytest.mark.parametrize("side", [224, 256])
@pytest.mark.parametrize(
    ("arch", "theirs"),
    [("i3d_r50_8x8", "i3d_r50"), ("c2d_r50", "c2d_r50"), ("slow_r50", "slow_r50")],
)
def test_full_8x8_clips_give_the_logits_of_pytorchvideos_hub_models(
    arch: str, theirs: str, side: int
) -> None:
    hub = pytest.importorskip("pytorchvideo.models.hub.resnet")
    with torch.device("meta"):
        ours = create_model(arch, norm="bn", num_frames=8, stem_pool_padding=1)
        network = getattr(hub, theirs)(pretrained=False)
    filled_alike(ours, network)
    assert_same_logits(ours, network, clip(1, 8, side))
