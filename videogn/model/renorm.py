"""Batch Renormalization (arXiv:1702.03275): BN whose training leans on the running statistics."""

from __future__ import annotations

import torch
from torch import Tensor

from videogn.model.fused_norm import BatchNorm3d
from videogn.model.recompute import is_recomputing
from videogn.ops import Impl, batch_norm_act


class BatchRenorm3d(BatchNorm3d):
    """Batch Renorm with what follows: (N, C, T, H, W) -> the same shape.

    In training `y = ((x - mean) / std * r + d) * gamma + beta`, where mean and std = sqrt(var +
    eps) are the batch's, and r and d lead to the running ones, within limits and without gradient:

        r = clip(std / running_std, 1 / r_max, r_max)
        d = clip((mean - running_mean) / running_std, -d_max, d_max)

    For the first `warmup_steps` batches it is BN (limits 1 and 0); then the limits grow linearly,
    for as many again. The paper's networks took 5,000 steps of BN and had grown d by 25,000 and r,
    twice as far, by 40,000; arXiv:1803.08494 sec. 4.1 states r_max 1.5 and d_max 0.5 and no growth.

    `running_var` holds the square of the running std, less eps, so that evaluation is BN's and the
    state dict also is. A batch counts as a step, when gradients are accumulated too.

    Args:
        num_features: C.
        eps: added to the variance.
        momentum: weight of the newest batch in the running mean and std.
        impl: as in `videogn.ops.batch_norm_act`.
        r_max: at least 1.
        d_max: at least 0.
        warmup_steps: see above; 0: the limits are there at once.
    """

    statistics_are_populations = False  # r and d of a pass that measures would not be training's

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        impl: Impl = "auto",
        *,
        r_max: float = 1.5,
        d_max: float = 0.5,
        warmup_steps: int = 5000,
    ) -> None:
        super().__init__(num_features, eps, momentum, impl)
        self.r_max, self.d_max, self.warmup_steps = r_max, d_max, warmup_steps
        self._first: tuple[Tensor, Tensor] | None = None  # r and d, for a recomputed call

    def forward(self, x: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        """Returns `relu(batch_renorm(x) + residual)`; in training, running statistics move."""
        if not self.training:
            return super().forward(x, residual, relu)
        if is_recomputing():
            assert self._first is not None
            r, d = self._first
        else:
            r, d = self._first = self._correction(x)
        gamma, beta = self.weight * r, self.weight * d + self.bias
        return batch_norm_act(
            x, gamma, beta, None, None, True, 0.0, self.eps, residual, relu, self.impl
        )

    @torch.no_grad()
    def _correction(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns r and d, (C,), and lets the running statistics follow."""
        others = [axis for axis in range(x.dim()) if axis != 1]
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        var, mean = torch.var_mean(x.to(self.running_mean.dtype), others, correction=0)
        std, running_std = (var + self.eps).sqrt(), (self.running_var + self.eps).sqrt()
        r_max, d_max = self._limits(self.num_batches_tracked.to(var.dtype))
        r = (std / running_std).clamp(1 / r_max, r_max)
        d = ((mean - self.running_mean) / running_std).clamp(-d_max, d_max)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.copy_(running_std.lerp(std, self.momentum).square() - self.eps)
        self.num_batches_tracked.add_(1)
        return r, d

    def _limits(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Returns r_max and d_max after so many batches, on the device: no wait for the GPU."""
        grown = ((steps - self.warmup_steps) / max(self.warmup_steps, 1)).clamp(0, 1)
        grown = grown if self.warmup_steps else torch.ones_like(grown)
        return 1 + (self.r_max - 1) * grown, self.d_max * grown
