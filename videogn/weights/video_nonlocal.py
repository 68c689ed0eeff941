"""The Caffe2 pickles of video-nonlocal-net and of PySlowFast's model zoo."""

from __future__ import annotations

from videogn.weights.caffe2_names import (
    canonical_blobs,
    has_caffe2_names,
    is_folded,
    with_fixed_statistics,
    without_conv_biases,
)
from videogn.weights.content import Content
from videogn.weights.pixels import KINETICS_MEAN, KINETICS_PIXELS, KINETICS_STD
from videogn.weights.source import SourceNorm, SourceWeights, norm_kind

EPS = 1e-5  # written as 1.0000001e-5, cuDNN's least
_NOT_TOLD = (
    "this layout does not tell the strides and pools: video-nonlocal-net's networks are i3d_r50 "
    "(32 x 2) or, for 8 x 8, i3d_r50_8x8, with model.stem_pool_padding=0; PySlowFast's are "
    "i3d_r50_8x8, c2d_r50 and slow_r50 with model.stem_pool_padding=1"
)


def is_video_nonlocal(content: Content) -> bool:
    """Returns whether it has Caffe2's names of a network of frames, or its running statistics."""
    names = content.tensors
    return has_caffe2_names(names) and (
        any(tensor.ndim == 5 for tensor in names.values())
        or any(name.endswith(("_bn_rm", "_bn_riv")) for name in names)
    )


def read_video_nonlocal(content: Content) -> SourceWeights:
    """Returns the weights of a ResNet of video-nonlocal-net, 2-D or I3D, or of PySlowFast's zoo.

    They take RGB, mean 0.45 and std 0.225 of [0, 1], and have their stride in the 3x3 convolution.
    The files for fine-tuning have batch norm folded into a scale and a shift that stay fixed
    (`convert_to_finetune.py`). Of the 2-D file no code states the order of colors; the I3D networks
    start from it with RGB. Names that are not understood are kept, so that loading reports them.
    """
    tensors = canonical_blobs(content.tensors)
    norm: SourceNorm = norm_kind(tensors)
    if is_folded(content.tensors):
        norm, tensors = "frozen_bn", with_fixed_statistics(tensors, EPS)
    tensors = without_conv_biases(tensors)
    is_video = any(tensor.ndim == 5 for tensor in tensors.values())
    return SourceWeights(
        tensors=tensors,
        norm=norm,
        mean=KINETICS_MEAN,
        std=KINETICS_STD,
        classes=None,
        layout="video-nonlocal-net",
        fingerprint={"eps": EPS, "stride_1x1": False},
        pixels=KINETICS_PIXELS,
        container=content.container,
        notes=(_NOT_TOLD,) if is_video else (),
    )
