"""The layout of torchvision's ResNet: `state_dict` files, batch norm or group norm."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from videogn.errors import WeightsError
from videogn.weights.source import SourceWeights, float_tensors, norm_kind

# torchvision's ImageNet statistics, RGB on the [0, 1] scale
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_WRAPPERS = ("state_dict", "model", "model_state")  # what training scripts put it under


def read_torchvision(state: Mapping[str, Any]) -> SourceWeights:
    """Returns the weights of a ResNet of torchvision's layout, an image network or inflated.

    Group norm files of this layout call their layers `bn1` too; they are told by having no running
    statistics. The number of groups is not in such a file. torchvision's ResNet has its stride in
    the 3x3 convolution, as ours has, and pads the pool after the stem by 1 (`stem_pool_padding`).

    Args:
        state: the state dict, or a dict that holds it as "state_dict", "model" or "model_state";
            every name may begin with `module.`.

    Raises:
        WeightsError: another layout, or no state dict at all.
    """
    tensors = _unwrap(state)
    if tensors and all(name.startswith("module.") for name in tensors):  # DataParallel, DDP
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    if not {"conv1.weight", "bn1.weight"} <= tensors.keys():
        first = ", ".join(list(tensors)[:3])
        raise WeightsError(
            f"not a layout that is known, which has conv1.weight and bn1.weight; it begins {first}"
        )
    canonical = {_rename(name, "bn", "norm"): tensor for name, tensor in tensors.items()}
    return SourceWeights(
        tensors=canonical,
        norm=norm_kind(canonical),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        classes=None,
        layout="torchvision",
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


def _unwrap(state: Mapping[str, Any]) -> dict[str, Tensor]:
    inner = [key for key in _WRAPPERS if isinstance(state.get(key), Mapping)]
    if len(inner) > 1:
        raise WeightsError(f"ambiguous: a state dict under each of {', '.join(inner)}")
    return float_tensors(state[inner[0]] if inner else state)
