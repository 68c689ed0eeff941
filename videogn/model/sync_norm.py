"""BN over the clips of all processes, on any device; torch's own SyncBatchNorm needs GPUs."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from videogn.model.fused_norm import BatchNorm3d, act


class SyncBatchNorm(BatchNorm3d):
    """BN whose training statistics are those of all processes: (N, C, T, H, W) -> the same shape.

    Processes may have batches of different size, or empty ones; every one must make the call.
    The gradients of gamma and beta are the process's own, as torch's are: who trains adds them up.
    Without a process group it is BN.
    """

    @property
    def statistics_are_the_batchs(self) -> bool:
        """Whether momentum 1 leaves the mean and unbiased variance of this process's batch."""
        return False

    def forward(self, x: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        """Returns `relu(batch_norm(x) + residual)`; in training, running statistics move."""
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(x, residual, relu)
        momentum = self.count()
        mean, var, count = _moments(x.detach())
        if self.running_mean is not None and self.running_var is not None:
            unbiased = var * (count / (count - 1).clamp(min=1))
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)
        y = _Normalize.apply(x, self.weight, self.bias, mean, (var + self.eps).rsqrt(), count)
        return act(y, residual, relu)


class _Normalize(torch.autograd.Function):
    """`(x - mean) * rstd * weight + bias`, through whose statistics the gradient flows back."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, count: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, rstd, count)
        y = (x - _wide(mean, x)) * _wide(rstd * weight, x) + _wide(bias, x)
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (dy,) = grads
        x, weight, mean, rstd, count = ctx.saved_tensors
        normal = (x - _wide(mean, x)) * _wide(rstd, x)
        dweight, dbias = _over(dy * normal), _over(dy.to(normal.dtype))
        shared = _summed(torch.stack([dbias, dweight])) / count  # over all processes
        dx = dy - _wide(shared[0], x) - normal * _wide(shared[1], x)
        dx = (dx * _wide(rstd * weight, x)).to(x.dtype)
        return dx, dweight.to(weight.dtype), dbias.to(weight.dtype), None, None, None


def _wide(values: Tensor, x: Tensor) -> Tensor:
    """(C,) -> (1, C, 1, ...), to go with x."""
    return values.view(1, -1, *(1,) * (x.dim() - 2))


def _over(x: Tensor) -> Tensor:
    """Returns the sum over all but channels: (C,)."""
    return x.sum([axis for axis in range(x.dim()) if axis != 1])


def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns mean and biased variance, (C,), of all processes' x, and its values a channel.

    Two rounds, so that squares are summed about the mean: about 0, mean / std = 1000 would cost
    all digits of a float32 variance.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    own = wide.new_full((x.shape[1],), x.numel() // x.shape[1])
    sums, counts = _summed(torch.stack([_over(wide), own]))
    mean = sums / counts
    var = _summed(_over((wide - _wide(mean, x)).square())) / counts
    return mean, var, counts[0]


def _summed(own: Tensor) -> Tensor:
    """Returns the sum over processes, the same bits on all, on the device it came from."""
    # What is neither a GPU's of NCCL nor the CPU's, as of MPS, travels as the latter.
    total = own.to(own.device if own.is_cuda else "cpu", copy=True)
    dist.all_reduce(total)
    return total.to(own.device)
