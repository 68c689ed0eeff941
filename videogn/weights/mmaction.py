"""MMAction2's `.pth` checkpoints of ResNets: I3D, Slow-only, and the 2-D ones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from videogn.weights.content import Content
from videogn.weights.pixels import IMAGENET_MEAN, IMAGENET_PIXELS, IMAGENET_STD
from videogn.weights.source import SourceWeights, norm_kind

_NAME = re.compile(
    r"backbone\.(?:layer(?P<stage>[1-4])\.(?P<block>\d+)\.)?(?:conv(?P<conv>\d)|downsample)"
    r"\.(?P<kind>conv|bn|gn)\.(?P<parameter>\w+)"
)


def is_mmaction(content: Content) -> bool:
    """Returns whether it has MMAction2's names of a ResNet."""
    return any(_NAME.fullmatch(name) for name in content.tensors)


def read_mmaction(content: Content) -> SourceWeights:
    """Returns the weights of a ResNet of MMAction2.

    It takes RGB with ImageNet's statistics. In its I3D the stem halves time and the first pool
    halves it again, by leaving frames out; Slow-only has neither. The pool after the stem is padded
    by 1. Names that are not understood are kept, so that loading reports them.
    """
    tensors = {_canonical(name): tensor for name, tensor in content.tensors.items()}
    return SourceWeights(
        tensors=tensors,
        norm=norm_kind(tensors),
        mean=IMAGENET_MEAN,  # its 123.675, 116.28, 103.53 of 255
        std=IMAGENET_STD,
        classes=None,
        layout="mmaction2",
        fingerprint={"eps": 1e-5, "stride_1x1": False, "stem_pool_padding": 1} | _time(tensors),
        pixels=IMAGENET_PIXELS,
        container=content.container,
    )


def _time(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Returns the temporal strides and pools, as far as the kernels tell them."""
    frames = {name: tensor.shape[2] for name, tensor in tensors.items() if tensor.ndim == 5}
    if frames.get("conv1.weight") == 5:  # I3D
        return {"stem_stride_t": 2, "pool1_t": 1, "pool1_stride_t": 2, "pool2_t": 2}
    if any(size > 1 for size in frames.values()):  # Slow-only
        return {"stem_stride_t": 1, "pool1_t": 1, "pool1_stride_t": 1, "pool2_t": 1}
    return {}


def _canonical(name: str) -> str:
    """Returns our name of a tensor, or `name` itself where there is none.

    backbone.conv1.bn.weight -> norm1.weight, cls_head.fc_cls.bias -> fc.bias
    backbone.layer1.0.conv2.conv.weight -> layer1.0.conv2.weight
    backbone.layer1.0.downsample.bn.weight -> layer1.0.downsample.1.weight
    """
    if name.startswith("cls_head.fc_cls."):
        return "fc." + name.removeprefix("cls_head.fc_cls.")
    match = _NAME.fullmatch(name)
    if match is None:
        return name
    is_conv = match["kind"] == "conv"
    prefix = f"layer{match['stage']}.{match['block']}." if match["stage"] else ""
    if match["conv"] is None:
        return f"{prefix}downsample.{0 if is_conv else 1}.{match['parameter']}"
    return f"{prefix}{'conv' if is_conv else 'norm'}{match['conv']}.{match['parameter']}"
