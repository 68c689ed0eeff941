"""Normalization as one idea: a function from channels to a layer over (N, C, T, H, W)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NormFactory = Callable[[int], nn.Module]
NormKind = Literal["gn", "bn", "ln", "in", "frozen_bn"]
NORM_KINDS: tuple[str, ...] = get_args(NormKind)


def norm_factory(
    kind: NormKind,
    *,
    num_groups: int = 32,
    channels_per_group: int | None = None,
    eps: float = 1e-5,
    momentum: float = 0.1,
) -> NormFactory:
    """Returns the function that makes one normalization layer, given its number of channels.

    Every kind computes `y = gamma * (x - mean) / sqrt(var + eps) + beta` with the biased variance
    and one gamma and beta per channel (arXiv:1803.08494, eq. 1-7); they differ in the set of
    positions that share a mean and a variance:

        bn   (N, T, H, W)                     per channel
        ln   (C, T, H, W)                     per clip
        in   (T, H, W)                        per clip and channel
        gn   (T, H, W) and C / G channels     per clip and group

    "frozen_bn" is BN whose mean, variance, gamma and beta are those of the initial weights and
    stay so: see `FrozenBatchNorm3d`.

    Args:
        kind: which of these.
        num_groups: G of "gn".
        channels_per_group: C / G of "gn" instead of G, the same in every layer.
        eps: added to the variance.
        momentum: weight of the newest batch in BN's running statistics, as PyTorch counts it
            (Caffe2's 0.9 is 0.1 here).

    Raises:
        ValueError: an unknown kind; or, when a layer is made, groups that do not divide it.
    """
    match kind:
        case "gn":
            return lambda channels: _group_norm(channels, num_groups, channels_per_group, eps)
        case "ln":  # one group
            return lambda channels: nn.GroupNorm(1, channels, eps=eps)
        case "in":  # a group per channel
            return lambda channels: nn.GroupNorm(channels, channels, eps=eps)
        case "bn":
            return lambda channels: nn.BatchNorm3d(channels, eps=eps, momentum=momentum)
        case "frozen_bn":
            return lambda channels: FrozenBatchNorm3d(channels, eps=eps)
    raise ValueError(f"unknown norm kind {kind!r}; known: {', '.join(NORM_KINDS)}")


class FrozenBatchNorm3d(nn.Module):
    """BN with fixed statistics, gamma and beta: (N, C, T, H, W) -> the same shape.

    All four are buffers under the names of BN, so that a state dict of either fills the other: an
    optimizer finds no parameter, and training and evaluation are the same function. It is the
    "frozen BN" of arXiv:1803.08494 sec. 4.2 and AffineNd of video-nonlocal-net, whose files hold
    gamma and beta alone: there the mean is 0 and the variance 1 - eps.

    Args:
        num_features: C.
        eps: added to the variance.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features, self.eps = num_features, eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_load_state_dict_pre_hook(_drop_counter)  # BN counts its batches, this not

    def forward(self, x: Tensor) -> Tensor:
        """Returns `weight * (x - running_mean) / sqrt(running_var + eps) + bias`."""
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )

    def extra_repr(self) -> str:
        """Returns what `repr` shows between the brackets."""
        return f"{self.num_features}, eps={self.eps}"


def _drop_counter(_: nn.Module, state: dict[str, Any], prefix: str, *__: Any) -> None:
    state.pop(f"{prefix}num_batches_tracked", None)


def _group_norm(
    channels: int, num_groups: int, channels_per_group: int | None, eps: float
) -> nn.GroupNorm:
    if channels_per_group is not None:
        if channels_per_group < 1 or channels % channels_per_group:
            raise ValueError(
                f"{channels_per_group} channels per group do not divide {channels} channels"
            )
        num_groups = channels // channels_per_group
    if num_groups < 1 or channels % num_groups:
        raise ValueError(f"{num_groups} groups do not divide {channels} channels")
    return nn.GroupNorm(num_groups, channels, eps=eps)


def norm_layers(model: nn.Module) -> list[nn.Module]:
    """Returns the normalization layers of `model` in order, of whatever kind.

    Told by class, not by a shared base: torch gives GroupNorm and BatchNorm none.
    """
    kinds = (nn.GroupNorm, nn.modules.batchnorm._NormBase, nn.LayerNorm, FrozenBatchNorm3d)
    return [module for module in model.modules() if isinstance(module, kinds)]
