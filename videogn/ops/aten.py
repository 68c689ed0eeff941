"""The same functions by torch's own operators: on CPU, in float64, and wherever Triton is not.

On a CPU everything is computed in the contiguous layout, and results and gradients are brought back
to the layout of the input. ATen's channels_last_3d kernels there sum squares about 0, and lose 5 %
of y and 15 % of dx at mean / std = 1000 (group norm; batch norm: up to all of it), and their
backward pass is up to 38 times slower.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
_SAMPLE = 16  # positions of each channel whose mean is the shift: enough to lie within std / 4


def layout_of(x: Tensor) -> torch.memory_format:
    """Returns the channels-last format of x where x is in it alone, else the contiguous one."""
    channels_last = _CHANNELS_LAST.get(x.dim())
    if channels_last and not x.is_contiguous() and x.is_contiguous(memory_format=channels_last):
        return channels_last
    return torch.contiguous_format


class _Contiguous(torch.autograd.Function):
    """A copy of x in one memory format, whose gradient comes back in another.

    `x.contiguous()` has the first, but its gradient stays in the format of the copy.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, to: torch.memory_format, back: torch.memory_format) -> Tensor:
        ctx.formats = back, to
        return x.clone(memory_format=to)

    @staticmethod
    def backward(ctx: Any, *dy: Tensor) -> tuple[Any, None, None]:
        return _Contiguous.apply(*dy, *ctx.formats), None, None


def _unlaid(x: Tensor) -> Tensor:
    """x as it is best computed on: contiguous on a CPU, as it is elsewhere."""
    if x.device.type != "cpu" or x.is_contiguous():
        return x
    return _Contiguous.apply(x, torch.contiguous_format, layout_of(x))


def _finish(y: Tensor, like: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    """The normalized y in the layout of `like`, with the addition and the ReLU."""
    layout = layout_of(like)
    if layout != torch.contiguous_format and y.is_contiguous():
        y = _Contiguous.apply(y, layout, torch.contiguous_format)
    if residual is not None:
        y = y + residual.to(y.dtype)
    return F.relu(y, inplace=True) if relu else y  # no one else needs y, backward included


def group_norm_act(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    residual: Tensor | None,
    relu: bool,
) -> Tensor:
    """Returns `relu(group_norm(x) + residual)`; float32 under CUDA's autocast, as torch has it.

    A float32 x is shifted first: else gamma's gradient, which ATen takes as a difference of two
    large sums, is off by 2e-3 at mean / std = 1000. (A sum over a group is the same for any shift.)
    """
    plain = _unlaid(x)
    if x.dtype == torch.float32 and x.numel():
        plain = plain - _near_mean(plain.detach(), groups)
    if x.device.type != "cpu" and not _is_autocasting(x.device.type):
        weight, bias = weight.to(x.dtype), bias.to(x.dtype)  # ATen's CUDA kernel takes one dtype
    return _finish(F.group_norm(plain, groups, weight, bias, eps), x, residual, relu)


def _is_autocasting(device: str) -> bool:
    available = torch.amp.is_autocast_available(device)  # the meta device has none
    return available and torch.is_autocast_enabled(device)


def _near_mean(x: Tensor, groups: int) -> Tensor:
    """The mean of a few values of each group, as (N, C, 1, ...)."""
    corner = (slice(None), slice(None), *(0,) * (x.dim() - 3), slice(_SAMPLE))
    few = x[corner[: x.dim()]].reshape(x.shape[0], groups, -1).mean(-1)
    few = few.repeat_interleave(x.shape[1] // groups, 1)
    return few.view(*few.shape, *(1,) * (x.dim() - 2))


def batch_norm_act(  # noqa: PLR0913 - those of torch's batch_norm, and ours
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    residual: Tensor | None,
    relu: bool,
) -> Tensor:
    """Returns `relu(batch_norm(x) + residual)`, and updates the running statistics in training."""
    y = F.batch_norm(_unlaid(x), running_mean, running_var, weight, bias, training, momentum, eps)
    return _finish(y, x, residual, relu)
