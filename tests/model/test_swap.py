"""Another norm in networks of others: torchvision's and pytorchvideo's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pytorchvideo.models.resnet import create_resnet
from torch import Tensor, nn
from torchvision.models.video import r3d_18

import videogn
from videogn.model.fused_norm import BatchNorm3d, FrozenBatchNorm3d, GroupNorm
from videogn.model.norm import NORM_KINDS, norm_layers


def torchvisions() -> nn.Module:
    torch.manual_seed(0)
    model = r3d_18(num_classes=3)
    with torch.no_grad():
        for layer in norm_layers(model):
            for each in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                assert isinstance(each, Tensor)
                each.uniform_(0.5, 1.5)
    return model.eval()


def pytorchvideos() -> nn.Module:
    torch.manual_seed(0)
    norm: Any = lambda num_features, eps, momentum: nn.BatchNorm3d(num_features, 1e-3)  # noqa: E731
    options: Any = {"head_pool_kernel_size": (2, 1, 1)}
    return create_resnet(
        model_depth=50,
        model_num_class=3,
        stem_dim_out=8,
        norm=norm,
        **options,
    ).eval()


def clips() -> Tensor:
    return torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("make", "count"), [(torchvisions, 20), (pytorchvideos, 53)])
def test_every_norm_is_swapped_with_its_gamma_and_beta(make: Any, count: int) -> None:
    model = make()
    before = [[p.clone() for p in layer.parameters()] for layer in norm_layers(model)]
    assert videogn.swap_norm(model, "gn", num_groups=4) is model
    layers = norm_layers(model)
    assert len(layers) == count
    assert all(type(layer) is GroupNorm and not layer.training for layer in layers)
    for layer, (gamma, beta) in zip(layers, before, strict=True):
        assert torch.equal(layer.weight, gamma)  # type: ignore[arg-type]
        assert torch.equal(layer.bias, beta)  # type: ignore[arg-type]
        assert layer.eps == (1e-5 if make is torchvisions else 1e-3)  # of the layer there was
    model(clips()).sum().backward()
    assert all(layer.weight.grad is not None for layer in layers)


@pytest.mark.parametrize("kind", ["bn", "frozen_bn", "brn", "sync_bn"])
def test_the_kinds_of_bn_evaluate_alike(kind: str) -> None:
    model = torchvisions()
    with torch.no_grad():
        expected = model(clips())
        videogn.swap_norm(model, kind)  # type: ignore[arg-type]
        torch.testing.assert_close(model(clips()), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", NORM_KINDS)
def test_every_kind_takes_every_other(kind: str) -> None:
    for other in (nn.BatchNorm3d(8), nn.InstanceNorm3d(8), nn.GroupNorm(2, 8), nn.SyncBatchNorm(8)):
        model = nn.Sequential(nn.Conv3d(8, 8, 1), other).double().train()
        new = videogn.swap_norm(model, kind, num_groups=2)[1]  # type: ignore[arg-type,index]
        assert type(new).__module__.startswith("videogn.model.")
        assert new(torch.randn(2, 8, 2, 3, 3).double()).dtype == torch.float64


def test_a_function_makes_the_layers_and_shared_ones_stay_shared() -> None:
    shared = nn.BatchNorm3d(4)
    shared.weight.requires_grad_(False)
    model = nn.Sequential(shared, nn.BatchNorm2d(4), nn.ModuleDict({"again": shared}))
    videogn.swap_norm(model, lambda channels: BatchNorm3d(channels, sub_batch=2))
    first, flat, again = model[0], model[1], model[2]["again"]  # type: ignore[index]
    assert first is again
    assert isinstance(first, BatchNorm3d)
    assert first.sub_batch == 2
    assert not first.weight.requires_grad
    assert type(flat) is nn.BatchNorm2d
    assert isinstance(videogn.swap_norm(nn.BatchNorm3d(4), "frozen_bn"), FrozenBatchNorm3d)


def test_what_cannot_be_swapped_is_said_and_nothing_is() -> None:
    with pytest.raises(ValueError, match="Linear has no 3-D normalization"):
        videogn.swap_norm(nn.Linear(2, 2), "gn")
    model = nn.Sequential(nn.BatchNorm3d(64), nn.BatchNorm3d(48))
    with pytest.raises(ValueError, match="1: 32 groups do not divide 48 channels"):
        videogn.swap_norm(model, "gn")
    assert all(type(layer) is nn.BatchNorm3d for layer in model)
    with pytest.raises(ValueError, match="eps: options go with a kind"):
        videogn.swap_norm(model, nn.BatchNorm3d, eps=1.0)
