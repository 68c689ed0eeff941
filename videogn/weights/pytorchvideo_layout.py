"""PyTorchVideo's `.pyth` files of the hub: i3d_r50, c2d_r50 and slow_r50."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from videogn.weights.content import Content
from videogn.weights.pixels import KINETICS_MEAN, KINETICS_PIXELS, KINETICS_STD
from videogn.weights.source import SourceWeights, norm_kind

_BRANCHES = {"a": "1", "b": "2", "c": "3"}
_NAME = re.compile(
    r"blocks\.(?P<part>\d+)\.res_blocks\.(?P<block>\d+)\."
    r"(?:branch2\.(?P<kind>conv|norm)_(?P<branch>[abc])|branch1_(?P<shortcut>conv|norm))"
    r"\.(?P<parameter>\w+)"
)
_STEM = {"conv": "conv1", "norm": "norm1"}


def is_pytorchvideo(content: Content) -> bool:
    """Returns whether it has PyTorchVideo's names of a ResNet."""
    names = content.tensors
    return any(name.startswith("blocks.0.conv.") or ".res_blocks." in name for name in names)


def read_pytorchvideo(content: Content) -> SourceWeights:
    """Returns the weights of a ResNet of PyTorchVideo.

    It takes RGB, mean 0.45 and std 0.225 of [0, 1]. Nothing shrinks time but the pool after the
    first stage, which is a part of its own: the parts are numbered, and the file lacks its number.
    """
    parts = _parts(content.tensors)
    tensors = {_canonical(name, parts): tensor for name, tensor in content.tensors.items()}
    fingerprint: dict[str, Any] = {
        "eps": 1e-5,
        "stem_stride_t": 1,
        "pool1_t": 1,
        "pool1_stride_t": 1,
        "pool2_t": 2 if len(parts) > 1 and parts[1] - parts[0] > 1 else 1,
        "stem_pool_padding": 1,
        "stride_1x1": False,
    }
    return SourceWeights(
        tensors=tensors,
        norm=norm_kind(tensors),
        mean=KINETICS_MEAN,
        std=KINETICS_STD,
        classes=None,
        layout="pytorchvideo",
        fingerprint=fingerprint,
        pixels=KINETICS_PIXELS,
        container=content.container,
    )


def _parts(names: Iterable[str]) -> list[int]:
    """Returns the numbers of the parts that are residual stages, ascending."""
    matches = (_NAME.fullmatch(name) for name in names)
    return sorted({int(match["part"]) for match in matches if match})


def _canonical(name: str, parts: list[int]) -> str:
    """Returns our name of a tensor, or `name` itself where there is none; `parts` are the stages.

    blocks.0.norm.weight -> norm1.weight, blocks.6.proj.bias -> fc.bias
    blocks.1.res_blocks.0.branch2.conv_a.weight -> layer1.0.conv1.weight
    blocks.1.res_blocks.0.branch1_norm.weight -> layer1.0.downsample.1.weight
    """
    stem = re.fullmatch(r"blocks\.0\.(conv|norm)\.(\w+)", name)
    if stem:
        return f"{_STEM[stem[1]]}.{stem[2]}"
    head = re.fullmatch(r"blocks\.(\d+)\.proj\.(\w+)", name)
    if head:
        return f"fc.{head[2]}"
    match = _NAME.fullmatch(name)
    if match is None:
        return name
    prefix = f"layer{parts.index(int(match['part'])) + 1}.{int(match['block'])}"
    if match["shortcut"]:
        return f"{prefix}.downsample.{0 if match['shortcut'] == 'conv' else 1}.{match['parameter']}"
    return f"{prefix}.{match['kind']}{_BRANCHES[match['branch']]}.{match['parameter']}"
