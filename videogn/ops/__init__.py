"""Fused normalization: norm, addition and ReLU as one operator on (N, C, T, H, W)."""

from videogn.ops.batch_norm import batch_norm_act
from videogn.ops.dispatch import IMPLS, Impl
from videogn.ops.group_norm import group_norm_act

__all__ = ["IMPLS", "Impl", "batch_norm_act", "group_norm_act"]
