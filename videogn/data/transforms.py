"""From decoded frames to what the network sees. Frames stay uint8 until the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Crops = Literal["full", "center", "three"]
CROPS: tuple[str, ...] = get_args(Crops)

Box = tuple[int, int, int, int]  # top, left, height, width, in pixels


class CropDraw(NamedTuple):
    """The draws of a random crop, made before the size of the frames is known.

    Attributes:
        short_side: pixels that the short side of the whole frame is scaled to.
        across, down: where the crop lies, in [0, 1): 0 is the left, or the upper, edge.
        mirrored: whether left and right are swapped.
    """

    short_side: int
    across: float
    down: float
    mirrored: bool


def draw_crop(short_side: Sequence[int], flip: float, rng: np.random.Generator) -> CropDraw:
    """Returns the draws of one clip: always the same number of them.

    Args:
        short_side: pixels, smallest and largest.
        flip: probability of mirroring left and right.
        rng: of this sample.
    """
    target = int(rng.integers(short_side[0], short_side[1] + 1))
    return CropDraw(target, rng.random(), rng.random(), bool(rng.random() < flip))


def crop_box(draw: CropDraw, height: int, width: int, crop_size: int) -> Box:
    """Returns the box to cut from a frame of `height` x `width`: (top, left, height, width).

    It becomes the crop when it is resized to `crop_size` x `crop_size`.
    """
    scaled_height, scaled_width = short_side_size(height, width, draw.short_side)
    # Inclusive offsets of the crop in the scaled frame, then the same square in the source.
    top = int(draw.down * (scaled_height - crop_size + 1)) * height / scaled_height
    left = int(draw.across * (scaled_width - crop_size + 1)) * width / scaled_width
    box_height = max(round(crop_size * height / scaled_height), 1)
    box_width = max(round(crop_size * width / scaled_width), 1)
    return (
        min(round(top), height - box_height),
        min(round(left), width - box_width),
        box_height,
        box_width,
    )


def finish_crop(cut: np.ndarray, draw: CropDraw, crop_size: int) -> Tensor:
    """Returns frames cut to their `crop_box` scaled and mirrored: uint8 (T, S, S, 3)."""
    clip = resize(torch.from_numpy(cut), crop_size, crop_size)
    return clip.flip(2) if draw.mirrored else clip


def train_crop(
    frames: np.ndarray,
    *,
    short_side: Sequence[int],
    crop_size: int,
    flip: float,
    rng: np.random.Generator,
) -> Tensor:
    """Returns a randomly scaled, placed and mirrored crop, the same for all frames of the clip.

    Scale jitter of arXiv:1409.1556 as video-nonlocal-net trains with: the short side becomes a
    whole number of pixels drawn uniformly from `short_side`, both ends included, then a square is
    cut anywhere. Computed the cheap way round: the square is found in the source, cut there and
    only then resized, which moves its edges by less than a source pixel.

    Args:
        frames: uint8 (T, H, W, 3).
        short_side: pixels, smallest and largest.
        crop_size: S, pixels.
        flip: probability of mirroring left and right.
        rng: of this sample; always the same number of draws.

    Returns:
        uint8 (T, S, S, 3).
    """
    draw = draw_crop(short_side, flip, rng)
    top, left, height, width = crop_box(draw, frames.shape[1], frames.shape[2], crop_size)
    return finish_crop(frames[:, top : top + height, left : left + width], draw, crop_size)


def short_side_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Returns (H, W) with the shorter at `short_side` pixels and the other truncated to whole."""
    if height <= width:
        return short_side, max(int(width * short_side / height), short_side)
    return max(int(height * short_side / width), short_side), short_side


def resize(frames: Tensor, height: int, width: int) -> Tensor:
    """Returns frames resized bilinearly, antialiased when shrinking: uint8 (T, h, w, 3) -> same.

    The paper's code resized with OpenCV, which does not antialias; at the 256 to 320 pixels that
    the data is kept at, nothing shrinks and the two agree.
    """
    if tuple(frames.shape[1:3]) == (height, width):
        return frames.contiguous()
    images = frames.permute(0, 3, 1, 2)  # channels_last in memory: the interpolation's fast path
    images = F.interpolate(images, (height, width), mode="bilinear", antialias=True)
    return images.permute(0, 2, 3, 1).contiguous()


def eval_crops(height: int, width: int, *, crops: Crops, crop_size: int) -> list[Box]:
    """Returns the boxes (top, left, height, width) to score, in a frame already resized.

        full     the whole frame, the network run convolutionally over it
        center   the middle square of `crop_size`
        three    squares of the short side at both ends and the middle of the long side

    `three` places them at k (long - short) // 2, k = 0, 1, 2, as video-nonlocal-net does.
    """
    match crops:
        case "full":
            return [(0, 0, height, width)]
        case "center":
            return [((height - crop_size) // 2, (width - crop_size) // 2, crop_size, crop_size)]
        case "three":
            side, step = min(height, width), abs(height - width) // 2
            if width >= height:
                return [(0, k * step, side, side) for k in range(3)]
            return [(k * step, 0, side, side) for k in range(3)]
    raise ValueError(f"unknown crops {crops!r}; known: {', '.join(CROPS)}")


def to_network(clips: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Returns normalized clips: uint8 (N, T, H, W, 3) -> float32 (N, 3, T, H, W), same device.

    `(x / 255 - mean) / std` with RGB constants on the [0, 1] scale. The permuted uint8 batch
    already is channels_last_3d, which CUDA convolutions want; on a CPU the clips are made
    contiguous, where ATen's group norm is fast and exact.
    """
    constants = {"dtype": torch.float32, "device": clips.device}
    scale = (255 * torch.tensor(std, **constants)).reciprocal()
    shift = -torch.tensor(mean, **constants) / torch.tensor(std, **constants)
    x = clips.permute(0, 4, 1, 2, 3)
    if clips.device.type == "cpu":
        x = x.contiguous()
    return torch.addcmul(shift.view(3, 1, 1, 1), x.float(), scale.view(3, 1, 1, 1))
