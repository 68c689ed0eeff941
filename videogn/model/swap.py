"""Another normalization in a network of anyone's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from videogn.model.fused_norm import FrozenBatchNorm3d
from videogn.model.norm import NormFactory, NormKind, norm_factory

_SWAPPED = (
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.GroupNorm,
    nn.InstanceNorm3d,
    FrozenBatchNorm3d,
)
_KEPT = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def swap_norm(model: nn.Module, norm: NormKind | NormFactory, **options: Any) -> nn.Module:
    """Returns `model` with every 3-D normalization replaced, in place, by another.

    BatchNorm3d, SyncBatchNorm, GroupNorm and InstanceNorm3d are replaced, and this package's own;
    those of one and two dimensions and LayerNorm stay. Gamma and beta are kept, and from one kind
    of BN to another so are the running statistics: "bn" to "frozen_bn" keeps what an evaluation
    computes, while "bn" to "gn" asks for training. A layer's eps is kept unless one is given.

    Args:
        model: any network over (N, C, T, H, W); a single layer gives the one that replaces it.
        norm: a kind of `norm_factory`, or any function channels -> layer.
        **options: of `norm_factory`, for a kind: `num_groups`, `impl`, ...

    Raises:
        ValueError: there is nothing to replace, options go with a function, or the norm refuses
            a layer's channels, whose name is said; then the model is as it was.
    """
    if callable(norm) and options:
        raise ValueError(f"{', '.join(options)}: options go with a kind, and norm is a function")
    made: dict[nn.Module, nn.Module] = {}  # one that stands in two places stays one
    fallback = next((p for p in model.parameters() if p.is_floating_point()), None)
    for name, layer in model.named_modules():
        if isinstance(layer, _SWAPPED):
            try:
                made[layer] = _replacement(layer, norm, options, fallback)
            except ValueError as error:
                raise ValueError(f"{name or 'the layer'}: {error}") from error
    if not made:
        raise ValueError(f"{type(model).__name__} has no 3-D normalization to replace")
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child in made:
                parent._modules[name] = made[child]
    return made.get(model, model)


def _replacement(
    layer: nn.Module, norm: NormKind | NormFactory, options: dict[str, Any], fallback: Tensor | None
) -> nn.Module:
    channels = layer.num_channels if isinstance(layer, nn.GroupNorm) else layer.num_features
    assert isinstance(channels, int)
    stated: dict[str, Any] = {"eps": layer.eps} | options
    factory = norm if callable(norm) else norm_factory(norm, **stated)
    new = factory(channels)
    _keep_values(layer, new)
    new.train(layer.training)
    own = next((each for each in _tensors(layer).values() if each.is_floating_point()), None)
    like = own if own is not None else fallback
    return new if like is None else new.to(like.device, like.dtype)


@torch.no_grad()
def _keep_values(old: nn.Module, new: nn.Module) -> None:
    """Copies what both have, and whether it is trained."""
    have, wanted = _tensors(old), _tensors(new)
    for name in have.keys() & wanted.keys():
        wanted[name].copy_(have[name])
        if isinstance(wanted[name], nn.Parameter) and isinstance(have[name], nn.Parameter):
            wanted[name].requires_grad_(have[name].requires_grad)


def _tensors(layer: nn.Module) -> dict[str, Tensor]:
    found = {name: getattr(layer, name, None) for name in _KEPT}
    return {name: each for name, each in found.items() if isinstance(each, Tensor)}
