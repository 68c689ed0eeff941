"""What networks are fed, and the stem of one for the input of another.

Every preset here is fed RGB, `(x / 255 - mean) / std`. Other orders of colors and other scales
are exactly equal to a change of the first convolution's weights; another mean is not, because the
zeros around a frame stand for the mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from videogn.errors import WeightsError
from videogn.weights.source import RGB

# torchvision's ImageNet statistics, RGB on the [0, 1] scale
IMAGENET_MEAN: RGB = (0.485, 0.456, 0.406)
IMAGENET_STD: RGB = (0.229, 0.224, 0.225)
IMAGENET_PIXELS = "RGB on [0, 1], ImageNet's mean and std"

# video-nonlocal-net's 114.75 and 57.375 of 255; PySlowFast's and PyTorchVideo's defaults
KINETICS_MEAN: RGB = (0.45, 0.45, 0.45)
KINETICS_STD: RGB = (0.225, 0.225, 0.225)
KINETICS_PIXELS = "RGB on [0, 1], mean 0.45, std 0.225"

# Detectron's PIXEL_MEANS, (102.9801, 115.9465, 122.7717) for B, G, R of 0..255, in our terms
CAFFE_MEAN: RGB = (122.7717 / 255, 115.9465 / 255, 102.9801 / 255)
# Its std is 1 and absorbed in conv1. Any std here is exact as long as conv1 is scaled by it; that
# of the Kinetics models (57.375 of 255) keeps pixels and kernels at their natural scale.
CAFFE_STD: RGB = KINETICS_STD
CAFFE_PIXELS = "BGR on [0, 255], mean 102.9801, 115.9465, 122.7717, std absorbed in conv1"


def stem_from_bgr(stem: Tensor) -> Tensor:
    """Returns the stem for RGB, given that for BGR: (O, 3, ...).

    Raises:
        WeightsError: it has another shape.
    """
    _require_colors(stem)
    return stem.flip(1)


def stem_from_raw(stem: Tensor, std: Sequence[float]) -> Tensor:
    """Returns the stem for `(x / 255 - mean) / std`, given that for `x - 255 * mean`: (O, 3, ...).

    Raises:
        WeightsError: it has another shape.
    """
    _require_colors(stem)
    return stem * (255 * torch.tensor(std)).view(3, *[1] * (stem.ndim - 2))


def _require_colors(stem: Tensor) -> None:
    if stem.ndim not in (4, 5) or stem.shape[1] != 3:
        raise WeightsError(
            f"the first convolution is {tuple(stem.shape)}; expected (channels, 3, height, width) "
            "or (channels, 3, frames, height, width)"
        )
