"""Detectron's ImageNet ResNets: `R-50-GN.pkl`, which the paper inflated, and MSRA's `R-50.pkl`."""

from __future__ import annotations

from videogn.weights.caffe2_names import (
    canonical_blobs,
    has_caffe2_names,
    is_folded,
    with_fixed_statistics,
    without_conv_biases,
)
from videogn.weights.content import Content
from videogn.weights.pixels import (
    CAFFE_MEAN,
    CAFFE_PIXELS,
    CAFFE_STD,
    stem_from_bgr,
    stem_from_raw,
)
from videogn.weights.source import SourceNorm, SourceWeights

EPS = 1e-5


def is_detectron(content: Content) -> bool:
    """Returns whether it has Caffe2's names of a network of images that Detectron used."""
    names = content.tensors
    return (
        has_caffe2_names(names)
        and not any(tensor.ndim == 5 for tensor in names.values())
        and not any(name.endswith(("_bn_rm", "_bn_riv")) for name in names)
    )


def read_detectron(content: Content) -> SourceWeights:
    """Returns the weights of a ResNet of Detectron, for RGB input.

    All take raw BGR minus a mean, and pad the pool after the stem by 1. The group norm files have
    32 groups and their stride in the 3x3 convolution (STRIDE_1X1 False), as ours is. MSRA's have it
    in the 1x1, and batch norm: folded into a scale and a shift in Detectron's own file, with its
    statistics in the copy that Detectron2 downloads. Names that are not understood are kept, so
    that loading reports them.

    Raises:
        WeightsError: the first convolution does not take colors.
    """
    tensors = canonical_blobs(content.tensors)
    is_group_norm = any("_gn_" in name for name in content.tensors)
    norm: SourceNorm = "gn" if is_group_norm else "bn"
    if is_folded(content.tensors):
        norm, tensors = "frozen_bn", with_fixed_statistics(tensors, EPS)
    tensors = without_conv_biases(tensors)
    if "conv1.weight" in tensors:
        tensors["conv1.weight"] = stem_from_raw(stem_from_bgr(tensors["conv1.weight"]), CAFFE_STD)
    fingerprint = {"eps": EPS, "stride_1x1": not is_group_norm, "stem_pool_padding": 1}
    return SourceWeights(
        tensors=tensors,
        norm=norm,
        mean=CAFFE_MEAN,
        std=CAFFE_STD,
        classes=None,
        layout="detectron",
        fingerprint=fingerprint | ({"groups": 32} if is_group_norm else {}),
        pixels=CAFFE_PIXELS,
        container=content.container,
    )
