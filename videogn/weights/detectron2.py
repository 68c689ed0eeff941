"""Detectron2's own names, as its converters write them: `R-50.pkl` of torchvision, MoCo's."""

from __future__ import annotations

import re

from videogn.errors import WeightsError
from videogn.weights.content import Content
from videogn.weights.pixels import (
    CAFFE_MEAN,
    CAFFE_PIXELS,
    CAFFE_STD,
    IMAGENET_MEAN,
    IMAGENET_PIXELS,
    IMAGENET_STD,
    stem_from_bgr,
    stem_from_raw,
)
from videogn.weights.source import SourceWeights, norm_kind

# Its converters say where the weights came from, and with that what they are fed
_RGB_AUTHORS = ("torchvision", "MOCO")
_BGR_AUTHORS = ("Caffe2", "MSRA", "Detectron")
_HEADS = ("stem.fc.", "fc.", "linear.", "stem.linear.")


def is_detectron2(content: Content) -> bool:
    """Returns whether it has Detectron2's names of a ResNet."""
    return any(name.startswith(("stem.conv1.", "res2.0.conv1.")) for name in content.tensors)


def read_detectron2(content: Content) -> SourceWeights:
    """Returns the weights of a ResNet of Detectron2, for RGB input.

    torchvision's are fed RGB and have their stride in the 3x3 convolution; those that come from
    Caffe2 raw BGR, and where they have batch norm (MSRA's) the stride is in the 1x1.

    Raises:
        WeightsError: its `__author__` is unknown, and with it what it was fed.
    """
    author = content.extras.get("__author__")
    if author not in _RGB_AUTHORS + _BGR_AUTHORS:
        raise WeightsError(
            f"Detectron2's names by the author {str(author)[:40]!r}, which does not tell the order "
            f"of colors and the stride; known: {', '.join(_RGB_AUTHORS + _BGR_AUTHORS)}; write the "
            "one that fits under '__author__'"
        )
    tensors = {_canonical(name): tensor for name, tensor in content.tensors.items()}
    norm, is_bgr = norm_kind(tensors), author in _BGR_AUTHORS
    if is_bgr and "conv1.weight" in tensors:
        tensors["conv1.weight"] = stem_from_raw(stem_from_bgr(tensors["conv1.weight"]), CAFFE_STD)
    return SourceWeights(
        tensors=tensors,
        norm=norm,
        mean=CAFFE_MEAN if is_bgr else IMAGENET_MEAN,
        std=CAFFE_STD if is_bgr else IMAGENET_STD,
        classes=None,
        layout="detectron2",
        fingerprint={"eps": 1e-5, "stride_1x1": is_bgr and norm == "bn", "stem_pool_padding": 1},
        pixels=CAFFE_PIXELS if is_bgr else IMAGENET_PIXELS,
        container=content.container,
    )


def _canonical(name: str) -> str:
    """Returns our name of a tensor, or `name` itself where there is none.

    stem.conv1.weight -> conv1.weight, stem.conv1.norm.weight -> norm1.weight
    res2.0.conv1.norm.bias -> layer1.0.norm1.bias, res2.0.shortcut.weight -> ....downsample.0.weight
    """
    for head in _HEADS:
        if name.startswith(head):
            return f"fc.{name.removeprefix(head)}"
    match = re.fullmatch(r"(?:stem|res([2-5])\.(\d+))\.(?:conv(\d)|shortcut)\.(norm\.)?(\w+)", name)
    if match is None:
        return name
    stage, block, conv, norm, parameter = match.groups()
    if stage is None:
        return name if conv != "1" else f"{'norm' if norm else 'conv'}1.{parameter}"
    prefix = f"layer{int(stage) - 1}.{block}"
    if conv is None:
        return f"{prefix}.downsample.{1 if norm else 0}.{parameter}"
    return f"{prefix}.{'norm' if norm else 'conv'}{conv}.{parameter}"
