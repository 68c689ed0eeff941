"""The layout of torchvision's ResNet: batch norm or group norm, timm's files too."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from videogn.errors import WeightsError
from videogn.weights.content import Content
from videogn.weights.pixels import IMAGENET_MEAN, IMAGENET_PIXELS, IMAGENET_STD
from videogn.weights.source import SourceWeights, norm_kind


def is_torchvision(content: Content) -> bool:
    """Returns whether it has torchvision's names of a ResNet."""
    return any(name.startswith(("bn1.", "layer1.0.bn1.")) for name in content.tensors)


def read_torchvision(content: Content) -> SourceWeights:
    """Returns the weights of a ResNet of torchvision's layout, an image network or inflated.

    Group norm files of this layout (GroupNorm-reproduce's, timm's) call their layers `bn1` too;
    they are told by having no running statistics. The number of groups is not in such a file.
    torchvision's ResNet has its stride in the 3x3 convolution, as ours has, and pads the pool after
    the stem by 1 (`stem_pool_padding`).
    """
    tensors = {_rename(name, "bn", "norm"): tensor for name, tensor in content.tensors.items()}
    norm = norm_kind(tensors)
    is_video = any(tensor.ndim == 5 for tensor in tensors.values())
    notes = ("the layout does not tell the number of groups; 32 is usual",) if norm == "gn" else ()
    return SourceWeights(
        tensors=tensors,
        norm=norm,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        classes=None,
        layout="torchvision",
        fingerprint={"eps": 1e-5, "stride_1x1": False}
        | ({} if is_video else {"stem_pool_padding": 1}),
        pixels=IMAGENET_PIXELS,
        container=content.container,
        notes=notes,
    )


def to_torchvision(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns our tensors under torchvision's names, kernels (O, I, 1, h, w) as (O, I, h, w).

    `torchvision.models.resnet.ResNet.load_state_dict` takes the result strictly.

    Raises:
        WeightsError: a kernel has more than one frame, which no image network can hold.
    """
    image: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.ndim == 5 and tensor.shape[2] != 1:
            raise WeightsError(
                f"{name} has {tensor.shape[2]} frames; only a network whose kernels all have one "
                "frame can be written in torchvision's layout"
            )
        image[_rename(name, "norm", "bn")] = tensor.squeeze(2) if tensor.ndim == 5 else tensor
    return image


def _rename(name: str, old: str, new: str) -> str:
    """Returns `name` with a part such as `bn1` called `norm1`, or back."""
    return re.sub(rf"(^|\.){old}(?=\d\.)", rf"\g<1>{new}", name)
