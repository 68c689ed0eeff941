"""Batch normalization with what follows it, by the same kernels as group norm: like for like."""

from __future__ import annotations

import torch
from torch import Tensor

from videogn.ops import aten
from videogn.ops.dispatch import Impl, check, choose
from videogn.ops.fused import norm_act


def batch_norm_act(  # noqa: PLR0913 - those of torch's batch_norm, and ours
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    residual: Tensor | None = None,
    relu: bool = True,
    impl: Impl = "auto",
) -> Tensor:
    """Returns `relu(batch_norm(x) + residual)`, in the shape and dtype of x, differentiable.

    As `torch.nn.functional.batch_norm` and `group_norm_act`, which see.

    Args:
        x: (N, C, *spatial).
        weight: gamma, (C,), float32 or in the dtype of x.
        bias: beta, likewise.
        running_mean: (C,) float32, used if not `training` and else updated in place; or None.
        running_var: likewise; it follows the unbiased variance, as torch's does.
        training: use the statistics of x rather than the running ones.
        momentum: weight of x in the running statistics.
        eps: added to the variance.
        residual: added before the ReLU, in the shape of x; cast to the dtype of the result.
        relu: whether to apply it.
        impl: "auto", "aten" or "triton", as in `group_norm_act`.

    Raises:
        ValueError: as `group_norm_act`; no running statistics outside training; or a single value
            per channel in training.
        TypeError: dtypes that do not fit.
    """
    check(x, x.shape[1] if x.dim() > 1 else 1, weight, bias, residual)
    if not training and (running_mean is None or running_var is None):
        raise ValueError("batch norm outside training needs running_mean and running_var")
    per_channel = x.numel() // x.shape[1] if x.shape[1] else 0
    if training and per_channel == 1:
        raise ValueError(
            f"batch norm in training needs more than one value per channel, and x is "
            f"{tuple(x.shape)}"
        )
    if choose(impl, x) == "aten":
        return aten.batch_norm_act(
            x, weight, bias, running_mean, running_var, training, momentum, eps, residual, relu
        )
    given = None
    if not training:
        assert running_mean is not None  # checked above, for pyright
        assert running_var is not None
        given = _given(running_mean, running_var, eps)
    added = None if residual is None else residual.to(x.dtype)
    y, stats = norm_act(x, added, weight, bias, given, x.shape[1], eps, relu, True)
    if training:
        shift, delta, _, var = stats.detach()[:, 0]
        _follow(running_mean, shift + delta, momentum)
        _follow(running_var, var * (per_channel / (per_channel - 1)), momentum)
    return y


def _given(mean: Tensor, var: Tensor, eps: float) -> Tensor:
    """Running statistics in the form of the operator's: (4, 1, C)."""
    mean, var = mean.detach().float(), var.detach().float()
    return torch.stack([mean, torch.zeros_like(mean), (var + eps).rsqrt(), var]).unsqueeze(1)


def _follow(running: Tensor | None, new: Tensor, momentum: float) -> None:
    if running is not None:
        with torch.no_grad():
            running.lerp_(new.to(running.dtype), momentum)
