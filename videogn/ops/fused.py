"""The fused normalization as a `torch.library` operator: what it returns, on fake tensors too.

`videogn::norm_act` is one opaque operator to autograd and `torch.compile`, and so stays fused and
in the layout and dtype it is given. No autocast rule is registered for it, by intent: torch's
`group_norm` is on CUDA autocast's list of operators to run in float32, which doubles the bytes
saved for backward; this one computes in float32 inside and reads and writes what it is given.

Kept for backward: x, four float32 numbers per (sample, group), gamma and beta; and, if something
was added before the ReLU, the output, which the next layer keeps alive anyway.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op("videogn::norm_act", mutates_args=())
def norm_act(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    given: Tensor | None,
    groups: int,
    eps: float,
    relu: bool,
    over_batch: bool,
) -> tuple[Tensor, Tensor]:
    """Returns `relu(norm(x) + residual)` in x's dtype, channels-last, and the statistics.

    Args:
        x: (N, C, *spatial) in bfloat16, float16 or float32.
        residual: like x; or None.
        weight: gamma, (C,).
        bias: beta, (C,).
        given: statistics as returned, to use instead of x's own (and none are returned).
        groups: into which the channels are divided.
        eps: added to the variance.
        relu: whether to apply it.
        over_batch: share statistics over the batch as well.

    The statistics are float32 (4, N or 1, groups): shift, mean less shift, 1 / sqrt(var + eps) and
    the biased variance.
    """
    from videogn.ops import launch  # Triton is needed to run, not to register

    rows = launch.rows_of(x)
    cut = launch.tiling_of(rows, groups, over_batch)
    stats = launch.compute_statistics(rows, cut, eps) if given is None else given
    added = None if residual is None else launch.rows_of(residual)
    y = launch.apply_statistics(rows, added, stats, weight, bias, cut, relu)
    return y.movedim(-1, 1), stats if given is None else stats.new_empty(0)


@torch.library.custom_op("videogn::norm_act_backward", mutates_args=())
def norm_act_backward(
    dy: Tensor,
    x: Tensor,
    y: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    stats: Tensor,
    relu: bool,
    fixed: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns dx, dz, dgamma and dbeta; dz is empty unless y is there (see `launch.gradients`)."""
    from videogn.ops import launch

    rows = launch.rows_of(x)
    samples, groups = stats.shape[1:]
    cut = launch.tiling_of(rows, groups, over_batch=samples == 1)
    output = None if y is None else launch.rows_of(y)
    dx, dz, dweight, dbias = launch.gradients(
        launch.rows_of(dy), rows, output, stats, weight, bias, cut, relu, fixed
    )
    dz = dx.new_empty(0) if dz is None else dz.movedim(-1, 1)
    return dx.movedim(-1, 1), dz, dweight, dbias


def _channels_last(x: Tensor) -> Tensor:
    """A new tensor shaped like x, its channels fastest."""
    return torch.empty_like(x.movedim(1, -1), memory_format=torch.contiguous_format).movedim(-1, 1)


@norm_act.register_fake
def _(
    x: Tensor,
    _residual: Tensor | None,
    _weight: Tensor,
    _bias: Tensor,
    given: Tensor | None,
    groups: int,
    _eps: float,
    _relu: bool,
    over_batch: bool,
) -> tuple[Tensor, Tensor]:
    shape = (4, 1 if over_batch else x.shape[0], groups) if given is None else (0,)
    return _channels_last(x), x.new_empty(shape, dtype=torch.float32)


@norm_act_backward.register_fake
def _(
    _dy: Tensor,
    x: Tensor,
    y: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    *_: object,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dz = x.new_empty(0) if y is None else _channels_last(x)
    return _channels_last(x), dz, torch.empty_like(weight), torch.empty_like(bias)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, residual, weight, bias, given, _, _, ctx.relu, _ = inputs
    y, stats = output
    ctx.mark_non_differentiable(stats)
    ctx.fixed, ctx.added = given is not None, residual is not None
    masked_by = y if ctx.added and ctx.relu else None
    ctx.save_for_backward(x, masked_by, weight, bias, stats if given is None else given)


def _backward(ctx: Any, dy: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    x, y, weight, bias, stats = ctx.saved_tensors
    dx, dz, dweight, dbias = norm_act_backward(dy, x, y, weight, bias, stats, ctx.relu, ctx.fixed)
    dresidual = (dy if y is None else dz) if ctx.added else None
    return dx, dresidual, dweight, dbias, None, None, None, None, None


def _no_second_derivative(_: Any, *__: Tensor) -> None:
    raise NotImplementedError(
        "the Triton kernels of group_norm_act and batch_norm_act have no second derivative; "
        "pass impl='aten' where a gradient is differentiated again"
    )


norm_act.register_autograd(_backward, setup_context=_keep)
norm_act_backward.register_autograd(_no_second_derivative)
