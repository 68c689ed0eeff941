"""Weights as a function of their names: the same in every network, layout and torch version."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from functools import cache

import numpy as np
import torch
from torch import Tensor


def named_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns a value for every tensor of a state dict with canonical names.

    Only names and shapes are read (tensors on the meta device will do). Scales are such that logits
    are about 1 with every norm: kernels keep the scale of what they are given, residual branches
    are small, running variances are near 1.
    """
    return {name: _tensor(name, tuple(tensor.shape)).clone() for name, tensor in state.items()}


@cache
def _tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    random = np.random.RandomState(zlib.crc32(name.encode()))
    values = random.random_sample(shape).astype(np.float32) * 2 - 1  # variance 1/3
    if len(shape) > 1:
        values *= (3 / np.prod(shape[1:])) ** 0.5
    elif name.endswith("norm3.weight"):
        values = 0.3 + 0.1 * values
    elif name.endswith((".weight", "running_var")):
        values = 1 + 0.5 * values
    else:  # biases and running means
        values *= 0.2
    return torch.from_numpy(values)


def clip(num_clips: int, num_frames: int, height: int, width: int | None = None) -> Tensor:
    """Returns normal noise (N, 3, T, H, W), float32, the same each time; square without `width`."""
    shape = (num_clips, 3, num_frames, height, height if width is None else width)
    return torch.from_numpy(np.random.RandomState(0).standard_normal(shape).astype(np.float32))
