"""Detectron's group norm ResNets, `R-50-GN.pkl` and `R-101-GN.pkl`: what the paper inflated."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from videogn.errors import WeightsError
from videogn.weights.source import SourceWeights, norm_kind

# Detectron's PIXEL_MEANS, (102.9801, 115.9465, 122.7717) for B, G, R of 0..255, in our terms
MEAN = (122.7717 / 255, 115.9465 / 255, 102.9801 / 255)
# Its std is 1 and absorbed in conv1. Any std here is exact as long as conv1 is scaled by it; that
# of the Kinetics models (57.375 of 255) keeps pixels and kernels at their natural scale.
STD = (0.225, 0.225, 0.225)

_BRANCHES = {"a": "1", "b": "2", "c": "3"}
_PARAMETERS = {"w": "weight", "s": "weight", "b": "bias"}
_HEAD = {"pred_w": "fc.weight", "pred_b": "fc.bias"}


def read_detectron(blobs: Mapping[str, np.ndarray]) -> SourceWeights:
    """Returns the weights of a Detectron group norm ResNet, for RGB input.

    The files take raw BGR minus a mean. GroupNorm has 32 groups and eps 1e-5, the stride is in the
    3x3 convolution (STRIDE_1X1 False), as ours is, and the pool after the stem is padded by 1
    (`stem_pool_padding`). Names that are not understood are kept, so that loading reports them.

    Args:
        blobs: Caffe2's names -> arrays; kernels (O, I, h, w).

    Raises:
        WeightsError: another layout, or batch norm folded into a scale and shift.
    """
    affine = [name for name in blobs if re.search(r"_bn_(s|b)$", name)]
    if affine:
        raise WeightsError(
            f"batch norm of Caffe2 ({affine[0]} and {len(affine) - 1} more), which Detectron's "
            "R-50.pkl holds folded into a scale and shift, is not read; use R-50-GN.pkl for group "
            "norm or resnet50 for batch norm"
        )
    tensors = {
        _canonical(name): torch.from_numpy(blob.astype(np.float32))
        for name, blob in blobs.items()
        if not name.endswith("_momentum") and name not in ("lr", "model_iter")
    }
    if "conv1.weight" not in tensors or "norm1.weight" not in tensors:
        first = ", ".join(list(blobs)[:3])
        raise WeightsError(
            f"not a layout that is known, which has conv1_w and conv1_gn_s; it begins {first}"
        )
    tensors["conv1.weight"] = _for_normalized_rgb(tensors["conv1.weight"])
    return SourceWeights(
        tensors=tensors,
        norm=norm_kind(tensors),
        mean=MEAN,
        std=STD,
        classes=None,
        layout="detectron",
        fingerprint={"norm": "GroupNorm", "eps": 1e-5, "groups": 32},
    )


def _for_normalized_rgb(stem: Tensor) -> Tensor:
    """Returns the stem (O, 3, h, w) for (x / 255 - MEAN) / STD in RGB, given that for raw BGR."""
    if stem.ndim != 4 or stem.shape[1] != 3:
        raise WeightsError(f"conv1_w is {tuple(stem.shape)}; expected (channels, 3, height, width)")
    return stem.flip(1) * (255 * torch.tensor(STD)).view(3, 1, 1)


def _canonical(name: str) -> str:
    """Returns our name of a blob, or `name` itself where there is none.

    conv1_w -> conv1.weight, conv1_gn_s -> norm1.weight
    res2_0_branch2a_w -> layer1.0.conv1.weight, res2_0_branch2a_gn_b -> layer1.0.norm1.bias
    res2_0_branch1_w -> layer1.0.downsample.0.weight, ..._gn_s -> layer1.0.downsample.1.weight
    """
    if name in _HEAD:
        return _HEAD[name]
    match = re.fullmatch(r"(?:conv1|res([2-5])_(\d+)_branch(1|2[abc]))_(w|gn_s|gn_b)", name)
    if match is None:
        return name
    stage, block, branch, kind = match.groups()
    parameter, is_conv = _PARAMETERS[kind[-1]], kind == "w"
    if stage is None:
        return f"conv1.{parameter}" if is_conv else f"norm1.{parameter}"
    prefix = f"layer{int(stage) - 1}.{int(block)}"
    if branch == "1":
        return f"{prefix}.downsample.{0 if is_conv else 1}.{parameter}"
    return f"{prefix}.{'conv' if is_conv else 'norm'}{_BRANCHES[branch[-1]]}.{parameter}"
