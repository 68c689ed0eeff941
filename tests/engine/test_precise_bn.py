"""BN's population statistics against float64 over everything that the layers saw."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from videogn.engine.precise_bn import batch_norms, precise_bn
from videogn.model.i3d import I3DResNet, create_model
from videogn.model.norm import norm_factory


def batches_of(count: int, clips: int, *size: int) -> list[SimpleNamespace]:
    scale = torch.rand(count) + 0.5  # the batches' means differ, so their spread must count too
    return [SimpleNamespace(clips=s * torch.randn(clips, *size) + s) for s in scale]


def identity(clips: Tensor) -> Tensor:
    return clips


def thin(kind: str, dropout: float = 0.5) -> I3DResNet:
    factory = norm_factory(kind, num_groups=4)  # type: ignore[arg-type]
    return create_model(
        "i3d_r14",
        norm=factory,
        num_frames=4,
        crop_size=32,
        num_classes=3,
        width=8,
        dropout=dropout,
        stem_pool_padding=1,
        zero_init_residual=False,
    )


def one_layer(*before: nn.Module, channels: int) -> tuple[nn.Sequential, nn.BatchNorm3d]:
    layer = nn.BatchNorm3d(channels, momentum=0.3)
    return nn.Sequential(*before, layer), layer


def statistics(layer: nn.BatchNorm3d) -> tuple[Tensor, Tensor]:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return layer.running_mean.double(), layer.running_var.double()


def test_one_layer_gets_mean_and_biased_variance_of_the_conv_outputs_of_all_batches() -> None:
    conv = nn.Conv3d(3, 6, 3)
    model, layer = one_layer(conv, channels=6)
    batches = batches_of(7, 2, 3, 4, 5, 5)
    assert precise_bn(model, batches, to_input=identity) == 7
    with torch.no_grad():
        outputs = conv.double()(torch.cat([batch.clips for batch in batches]).double())
    mean, var = statistics(layer)
    torch.testing.assert_close(mean, outputs.mean((0, 2, 3, 4)), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(var, outputs.var((0, 2, 3, 4), correction=0), rtol=1e-6, atol=1e-7)
    unbiased = outputs.var((0, 2, 3, 4))  # 1/251 larger: the tolerance tells them apart
    assert not torch.allclose(var, unbiased, rtol=1e-5)


def test_every_layer_of_a_network_gets_the_statistics_of_its_own_inputs() -> None:
    model = thin("bn").train()
    batches = batches_of(3, 2, 3, 4, 32, 32)
    seen: dict[nn.Module, list[Tensor]] = {layer: [] for layer in batch_norms(model)}
    hooks = [
        layer.register_forward_pre_hook(lambda m, inputs: seen[m].append(inputs[0].double()))
        for layer in seen
    ]
    with torch.no_grad():
        for batch in batches:
            model(batch.clips)
    for hook in hooks:
        hook.remove()
    precise_bn(model, batches, to_input=identity)
    for layer, inputs in seen.items():
        x = torch.cat(inputs)
        assert isinstance(layer, nn.BatchNorm3d)
        mean, var = statistics(layer)
        torch.testing.assert_close(mean, x.mean((0, 2, 3, 4)), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(var, x.var((0, 2, 3, 4), correction=0), rtol=1e-5, atol=1e-7)


def test_a_large_mean_does_not_cancel_the_variance_away() -> None:
    model, layer = one_layer(channels=2)
    batches = [SimpleNamespace(clips=1000 + 0.1 * torch.randn(8, 2, 4, 8, 8)) for _ in range(4)]
    precise_bn(model, batches, to_input=identity)
    x = torch.cat([batch.clips for batch in batches]).double()
    var = statistics(layer)[1]
    torch.testing.assert_close(var, x.var((0, 2, 3, 4), correction=0), rtol=1e-2, atol=0)
    assert (var > 0).all()


@pytest.mark.parametrize("training", [True, False])
def test_momentum_mode_weights_and_hooks_stay_as_they_were(training: bool) -> None:
    model = thin("bn").train(training)
    layers = batch_norms(model)
    for i, layer in enumerate(layers):
        layer.momentum = 0.01 * (i + 1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    precise_bn(model, batches_of(1, 2, 3, 4, 32, 32), to_input=identity)
    assert all(module.training == training for module in model.modules())
    assert [layer.momentum for layer in layers] == [0.01 * (i + 1) for i in range(len(layers))]
    assert not any(layer._forward_hooks for layer in layers)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None


def test_former_statistics_and_dropout_do_not_matter() -> None:
    batches = batches_of(2, 2, 3, 4, 32, 32)
    plain, dropped = thin("bn", dropout=0.0), thin("bn", dropout=0.9)
    dropped.load_state_dict(plain.state_dict())
    for layer in batch_norms(dropped):
        assert layer.running_mean is not None
        layer.running_mean.normal_()
    for model in (plain, dropped):
        precise_bn(model, batches, to_input=identity)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, dropped.state_dict()[name]), name


@pytest.mark.parametrize("kind", ["gn", "ln", "in"])
def test_without_bn_no_batch_is_even_read(kind: str) -> None:
    model = thin(kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def never() -> Iterator[Any]:
        raise AssertionError("a batch was asked for")
        yield

    assert batch_norms(model) == []
    assert precise_bn(model, never(), to_input=identity) == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_no_batches_leave_the_running_statistics_alone() -> None:
    model, _ = one_layer(channels=2)
    before = [value.clone() for value in model.buffers()]
    assert precise_bn(model, [], to_input=identity) == 0
    assert all(map(torch.equal, model.buffers(), before))
