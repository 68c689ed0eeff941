"""Moving shapes as tensors, made where and when they are needed: a function of (seed, split, row).

The motions are those of `videogn.data.synthetic`, whose still frames say nothing about the class.
Several clips in a row are "of one video": they share background, noise level and light, and differ
in all else, the class included. The light is as strong as one asks, and the same over a clip but
for some flicker: it is what a network must see past, and what tells one video from another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from videogn.data.synthetic import CHANGES, MOTIONS

SPLITS = ("train", "val", "test")

# For frames of 32 pixels; lengths scale with the frame. At a third of these speeds and with smaller
# objects no network left chance within 8,192 clips (GN and BN, three rates each).
_RADIUS = (6.0, 10.0)  # pixels
_SHIFT = (2.0, 4.0)  # pixels per frame
_TURN = (0.3, 0.7)  # radians per frame
_GROWTH = (0.08, 0.18)  # natural logarithm of the size, per frame

# In standard deviations of the background's texture, before the light.
_PAINT = (2.0, 3.0)  # how much brighter an object is, in each colour
_NOISE = (0.1, 0.4)  # of a pixel

# At light 1. The bias is added to the picture, and the sum multiplied by e^gain, each colour of it
# also by e^tint, each frame by e^flicker.
_GAIN, _BIAS, _TINT, _FLICKER = (-1.0, 0.6), (-0.5, 0.5), (-0.15, 0.15), 0.025

_BANK = 1 << 22  # normal numbers, of which noise and backgrounds are cuttings
_CELLS = (3, 5, 9)  # a background is a sum of as coarse grids, made smooth


@dataclass(frozen=True)
class Look:
    """What clips look like.

    Attributes:
        num_frames: T.
        size: S, pixels of a frame's side.
        light: strength of the light, 0 for none.
        clips_per_video: clips in a row that share background, noise level and light.
        standardize: give every clip mean 0 and standard deviation 1, which takes the light away.
    """

    num_frames: int
    size: int
    light: float = 1.0
    clips_per_video: int = 8
    standardize: bool = False


class MotionClips:
    """The clips of one split.

    A larger split begins with the smaller one's clips. A longer clip's object begins as the shorter
    one's, and moves on.

    Args:
        seed: of the data.
        split: "train", "val" or "test".
        count: clips.
        look: of the clips.
        device: where they are made.

    Attributes:
        labels: int64 (count,), indices into `MOTIONS`.
    """

    def __init__(
        self, seed: int, split: str, count: int, look: Look, device: torch.device | str = "cpu"
    ) -> None:
        self.look, self.device, self.count = look, torch.device(device), count
        key = [seed, SPLITS.index(split)]
        videos = -(-count // look.clips_per_video)
        self.labels = torch.from_numpy(np.random.default_rng([*key, 0]).integers(8, size=count))
        self._clips = _uniform([*key, 1], count, columns=11)
        self._videos = _uniform([*key, 2], videos, columns=8)

    def render(self, rows: Sequence[int] | Tensor) -> Tensor:
        """Returns the clips `rows`: float32 (N, 3, T, S, S), on the device."""
        picked = torch.as_tensor(rows)
        of_clip = self._clips[picked].to(self.device)
        of_video = self._videos[picked // self.look.clips_per_video].to(self.device)
        motion = self.labels[picked].to(self.device)
        picture = _background(of_video, self.look)
        picture = _with_object(picture, motion, of_clip, self.look)
        picture = picture + _noise(of_clip[:, -1], of_video, self.look)
        clips = _lit(picture, of_clip, of_video, self.look)
        if self.look.standardize:
            std, mean = torch.std_mean(clips, (1, 2, 3, 4), keepdim=True)
            clips = (clips - mean) / std
        return clips


def _uniform(key: list[int], rows: int, columns: int) -> Tensor:
    """Returns float32 (rows, columns) in [0, 1)."""
    return torch.from_numpy(np.random.default_rng(key).random((rows, columns), dtype=np.float32))


def _between(limits: tuple[float, float], u: Tensor) -> Tensor:
    return limits[0] + (limits[1] - limits[0]) * u


def _wide(values: Tensor) -> Tensor:
    """(N,) -> (N, 1, 1, 1, 1), to go with clips."""
    return values.view(-1, 1, 1, 1, 1)


@lru_cache(maxsize=2)
def _bank(device: torch.device) -> Tensor:
    made = torch.randn(_BANK, generator=torch.Generator().manual_seed(0))  # the same on any device
    return made.to(device)


def _cuttings(u: Tensor, length: int) -> Tensor:
    """Returns normal numbers (N, length), from the place in the bank that `u` in [0, 1) says."""
    bank = _bank(u.device)
    starts = (u.double() * (len(bank) - length)).long().tolist()
    return torch.stack([bank[start : start + length] for start in starts])


def _background(of_video: Tensor, look: Look) -> Tensor:
    """Returns a still, soft, gray texture of mean 0 and standard deviation 1: (N, 1, 1, S, S)."""
    grids = _cuttings(of_video[:, 0], sum(cells**2 for cells in _CELLS))
    texture = torch.zeros(len(of_video), 1, look.size, look.size, device=of_video.device)
    for grid in grids.split([cells**2 for cells in _CELLS], dim=1):
        cells = math.isqrt(grid.shape[1])
        coarse = grid.view(-1, 1, cells, cells)
        texture += F.interpolate(coarse, look.size, mode="bilinear", align_corners=True)
    std, mean = torch.std_mean(texture, (1, 2, 3), keepdim=True)
    return ((texture - mean) / std).unsqueeze(2)


def _noise(u: Tensor, of_video: Tensor, look: Look) -> Tensor:
    """Returns gray noise: (N, 1, T, S, S)."""
    noise = _cuttings(u, look.num_frames * look.size**2)
    noise = noise.view(-1, 1, look.num_frames, look.size, look.size)
    return noise * _wide(_between(_NOISE, of_video[:, 1]))


def _lit(picture: Tensor, of_clip: Tensor, of_video: Tensor, look: Look) -> Tensor:
    """Returns (N, 3, T, S, S): the picture under the light of its video."""
    gain = _between(_GAIN, of_video[:, 2]).view(-1, 1, 1)
    tint = _between(_TINT, of_video[:, 4:7]).unsqueeze(2)
    flicker = _FLICKER * _cuttings(of_clip[:, 9], look.num_frames).unsqueeze(1)
    factor = (look.light * (gain + tint + flicker)).exp()
    bias = look.light * _between(_BIAS, of_video[:, 3])
    return (picture + _wide(bias)) * factor[..., None, None]


def _with_object(picture: Tensor, motion: Tensor, of_clip: Tensor, look: Look) -> Tensor:
    """Returns (N, 3, T, S, S): the background with an object that moves as `motion` says."""
    x, y, radius, angle = _trajectory(motion, of_clip, look)
    u, v = _object_coordinates(x, y, radius, angle, look.size)
    body = _coverage(_outline(u, v, of_clip[:, 5]), radius)
    ear = _coverage(_length(u - 1.05, v) - 0.42, radius)
    paint = _between(_PAINT, of_clip[:, 6:9]).view(-1, 3, 1, 1, 1)
    picture = picture + body * (paint - picture)
    return picture + ear * (_PAINT[1] + 0.5 - picture)  # brighter than any body


def _trajectory(
    motion: Tensor, of_clip: Tensor, look: Look
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns x, y, radius in pixels and angle in radians of the object: (N, T) each."""
    scale = look.size / 32
    growth_circle = math.log(_RADIUS[1] / _RADIUS[0])
    circles = of_clip.new_tensor([look.size, look.size, growth_circle, 2 * math.pi])
    limits = of_clip.new_tensor([_SHIFT, _SHIFT, _GROWTH, _TURN])
    limits[:2] *= scale
    number, sign = torch.tensor(CHANGES, device=of_clip.device)[motion].T
    low, high = limits[number].T
    speed = sign * (low + (high - low) * of_clip[:, 4])
    velocity = F.one_hot(number, 4) * speed[:, None]
    times = torch.arange(look.num_frames, device=of_clip.device)
    state = (of_clip[:, :4] * circles)[:, None] + velocity[:, None] * times[:, None]
    x, y, log_size, angle = (state % circles).unbind(2)
    return x, y, _RADIUS[0] * scale * log_size.exp(), angle


def _object_coordinates(
    x: Tensor, y: Tensor, radius: Tensor, angle: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    """Returns every pixel as the object sees it, its radius 1: (N, 1, T, S, S) twice."""
    pixels = torch.arange(size, device=x.device) + 0.5
    # The way round the circle that is shorter: the object may stick out over the edge.
    dx = ((pixels - x[..., None] + size / 2) % size - size / 2)[:, None, :, None, :]
    dy = ((pixels - y[..., None] + size / 2) % size - size / 2)[:, None, :, :, None]
    cos = (angle.cos() / radius)[:, None, :, None, None]
    sin = (angle.sin() / radius)[:, None, :, None, None]
    return dx * cos + dy * sin, dy * cos - dx * sin


def _length(u: Tensor, v: Tensor) -> Tensor:
    return (u * u + v * v).sqrt()  # quicker than hypot, which guards against overflow


def _outline(u: Tensor, v: Tensor, which: Tensor) -> Tensor:
    """Returns the distance from a disc, a ring or a bar, in radii, negative inside."""
    length = _length(u, v)
    shapes = (
        length - 1,
        (length - 0.75).abs() - 0.25,
        torch.maximum(u.abs() - 1, v.abs() - 0.4),  # long towards the ear
    )
    of_clip = _wide((which * len(shapes)).long())
    return torch.where(of_clip == 0, shapes[0], torch.where(of_clip == 1, shapes[1], shapes[2]))


def _coverage(distance: Tensor, radius: Tensor) -> Tensor:
    """Returns how much of each pixel lies inside, 0 to 1, from distances in radii."""
    return (0.5 - distance * radius[:, None, :, None, None]).clamp(0, 1)


NUM_CLASSES = len(MOTIONS)
