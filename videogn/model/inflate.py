"""From a network that sees images to one that sees clips: arithmetic on weights, nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from videogn.errors import WeightsMismatchError

Inflation = Literal["mean", "center"]
INFLATIONS: tuple[str, ...] = get_args(Inflation)


def inflate_kernel(weight: Tensor, size_t: int, how: Inflation = "mean") -> Tensor:
    """Returns the 3-D kernel that acts on a still clip as `weight` acts on its frame.

    `mean` repeats the 2-D kernel and divides by the number of frames (arXiv:1705.07750, as the
    paper does); near the ends of a clip the zero padding takes part of it away. `center` puts
    the kernel in the middle frame and zero elsewhere, which is exact at every frame.

        mean    w/3 w/3 w/3
        center   0   w   0

    Args:
        weight: (O, I, h, w), any float dtype.
        size_t: frames of the result.
        how: "mean" or "center".

    Returns:
        (O, I, size_t, h, w), the dtype of `weight`.
    """
    if how == "mean":
        return weight.unsqueeze(2).expand(-1, -1, size_t, -1, -1) / size_t
    if how == "center":
        kernel = weight.new_zeros(*weight.shape[:2], size_t, *weight.shape[2:])
        kernel[:, :, size_t // 2] = weight
        return kernel
    raise ValueError(f"unknown inflation {how!r}; known: {', '.join(INFLATIONS)}")


def inflate_state_dict(
    source: Mapping[str, Tensor], target: Mapping[str, Tensor], how: Inflation = "mean"
) -> dict[str, Tensor]:
    """Returns `source` with every 2-D kernel inflated to the frames it has in `target`.

    Strict: the names must be the same on both sides and, once inflated, the shapes too.

    Args:
        source: canonical names -> tensors; kernels (O, I, h, w), or already (O, I, T, h, w).
        target: the state dict to fill, without whatever is not to be filled.
        how: passed to `inflate_kernel`.

    Raises:
        WeightsMismatchError: listing every missing, unused and misshaped tensor.
    """
    problems = [f"missing in the file: {name}" for name in target if name not in source]
    problems += [f"unused: {name}" for name in source if name not in target]
    inflated: dict[str, Tensor] = {}
    for name in (name for name in source if name in target):
        weight, wanted = _with_time(source[name], target[name].shape, how), target[name].shape
        if weight.shape != wanted:
            problems.append(f"{name}: {tuple(weight.shape)} in the file, {tuple(wanted)} here")
        inflated[name] = weight.to(torch.float32)
    if problems:
        raise WeightsMismatchError(
            f"{len(problems)} tensors do not fit the network:\n  " + "\n  ".join(problems)
        )
    return inflated


def _with_time(weight: Tensor, wanted: torch.Size, how: Inflation) -> Tensor:
    """Returns a kernel of one frame inflated to the frames wanted; anything else as it is."""
    if len(wanted) != 5:
        return weight
    if weight.ndim == 5 and weight.shape[2] == 1 != wanted[2]:
        weight = weight.squeeze(2)
    return inflate_kernel(weight, wanted[2], how) if weight.ndim == 4 else weight
