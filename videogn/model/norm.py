"""Normalization as one idea: a function from channels to a layer over (N, C, T, H, W)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from torch import nn

from videogn.model.fused_norm import BatchNorm3d, FrozenBatchNorm3d, GroupNorm
from videogn.model.renorm import BatchRenorm3d
from videogn.model.sync_norm import SyncBatchNorm
from videogn.ops import Impl

NormFactory = Callable[[int], nn.Module]
NormKind = Literal["gn", "bn", "ln", "in", "brn", "frozen_bn", "sync_bn"]
NORM_KINDS: tuple[str, ...] = get_args(NormKind)


def norm_factory(  # noqa: PLR0913 - those of every kind
    kind: NormKind,
    *,
    num_groups: int = 32,
    channels_per_group: int | None = None,
    eps: float = 1e-5,
    momentum: float = 0.1,
    impl: Impl = "auto",
    sub_batch: int | None = None,
    brn_r_max: float = 1.5,
    brn_d_max: float = 0.5,
    brn_warmup_steps: int = 5000,
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
    stay so (`FrozenBatchNorm3d`); "sync_bn" is BN over the clips of all processes
    (`SyncBatchNorm`); "brn" is Batch Renorm, BN drawn to its running statistics (`BatchRenorm3d`).

    Args:
        kind: which of these.
        num_groups: G of "gn".
        channels_per_group: C / G of "gn" instead of G, the same in every layer.
        eps: added to the variance.
        momentum: weight of the newest batch in BN's running statistics, as PyTorch counts it
            (Caffe2's 0.9 is 0.1 here).
        impl: what computes it: "auto", "aten" or "triton", see `videogn.ops`.
        sub_batch: clips of a batch that share statistics, in "bn"; None: all.
        brn_r_max: limit of "brn"; see `BatchRenorm3d` for the three.
        brn_d_max: likewise.
        brn_warmup_steps: likewise.

    Raises:
        ValueError: an unknown kind; or, when a layer is made, groups that do not divide it.
    """
    match kind:
        case "gn":
            return lambda channels: _group_norm(channels, num_groups, channels_per_group, eps, impl)
        case "ln":  # one group
            return lambda channels: GroupNorm(1, channels, eps, impl)
        case "in":  # a group per channel
            return lambda channels: GroupNorm(channels, channels, eps, impl)
        case "bn":
            return lambda channels: BatchNorm3d(channels, eps, momentum, impl, sub_batch)
        case "sync_bn":
            return lambda channels: SyncBatchNorm(channels, eps, momentum, impl)
        case "brn":
            return lambda channels: BatchRenorm3d(
                channels, eps, momentum, impl,
                r_max=brn_r_max, d_max=brn_d_max, warmup_steps=brn_warmup_steps,
            )  # fmt: skip
        case "frozen_bn":
            return lambda channels: FrozenBatchNorm3d(channels, eps, impl)
    raise ValueError(f"unknown norm kind {kind!r}; known: {', '.join(NORM_KINDS)}")


def _group_norm(
    channels: int, num_groups: int, channels_per_group: int | None, eps: float, impl: Impl
) -> GroupNorm:
    if channels_per_group is not None:
        if channels_per_group < 1 or channels % channels_per_group:
            raise ValueError(
                f"{channels_per_group} channels per group do not divide {channels} channels"
            )
        num_groups = channels // channels_per_group
    if num_groups < 1 or channels % num_groups:
        raise ValueError(f"{num_groups} groups do not divide {channels} channels")
    return GroupNorm(num_groups, channels, eps, impl)


def norm_layers(model: nn.Module) -> list[nn.Module]:
    """Returns the normalization layers of `model` in order, of whatever kind.

    Told by class, not by a shared base: torch gives GroupNorm and BatchNorm none.
    """
    kinds = (nn.GroupNorm, nn.modules.batchnorm._NormBase, nn.LayerNorm, FrozenBatchNorm3d)
    return [module for module in model.modules() if isinstance(module, kinds)]


def named_norms(model: nn.Module) -> dict[str, nn.Module]:
    """Returns the normalization layers of `model` by name, in order."""
    layers = set(norm_layers(model))
    return {name: module for name, module in model.named_modules() if module in layers}
