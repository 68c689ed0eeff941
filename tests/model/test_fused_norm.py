"""Layers whose call takes the addition and the ReLU, and networks of layers whose does not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videogn import build
from videogn.config import config_from
from videogn.errors import ConfigError
from videogn.model import create_model
from videogn.model.fused_norm import TakesAct, normalize
from videogn.model.norm import NORM_KINDS, norm_factory

STOCK = {
    "gn": lambda: nn.GroupNorm(4, 8),
    "ln": lambda: nn.GroupNorm(1, 8),
    "in": lambda: nn.GroupNorm(8, 8),
}


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", NORM_KINDS)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("added", [False, True])
def test_a_layer_takes_what_follows_it(kind: str, relu: bool, added: bool) -> None:
    layer = norm_factory(kind, num_groups=4)(8)  # type: ignore[arg-type]
    assert isinstance(layer, TakesAct)
    stock = STOCK.get(kind, lambda: nn.BatchNorm3d(8))()
    stock.train(kind != "frozen_bn")
    stock.load_state_dict(layer.state_dict(), strict=kind != "frozen_bn")
    x = numbers(2, 8, 3, 4, 4).requires_grad_()
    residual = numbers(2, 8, 3, 4, 4, seed=1).requires_grad_() if added else None
    expected = stock(x)
    expected = expected if residual is None else expected + residual
    expected = F.relu(expected) if relu else expected
    have = normalize(layer, x, residual, relu=relu)
    torch.testing.assert_close(have, expected)
    inputs = [each for each in (x, residual) if each is not None]
    upstream = numbers(2, 8, 3, 4, 4, seed=2)
    for a, b in zip(
        torch.autograd.grad(have, inputs, upstream),
        torch.autograd.grad(expected, inputs, upstream),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
    for name, value in layer.state_dict().items():
        if (kind, name) == ("brn", "running_var"):
            continue  # follows the std
        torch.testing.assert_close(value, stock.state_dict()[name])


@pytest.mark.parametrize("kind", ["gn", "bn", "frozen_bn"])
def test_state_dict_and_class_keep_torchs_names(kind: str) -> None:
    stock = nn.GroupNorm(4, 8) if kind == "gn" else nn.BatchNorm3d(8)
    layer = norm_factory(kind, num_groups=4)(8)  # type: ignore[arg-type]
    counter = set() if kind != "frozen_bn" else {"num_batches_tracked"}
    assert set(layer.state_dict()) == set(stock.state_dict()) - counter
    if kind != "frozen_bn":
        assert type(layer).__name__ == type(stock).__name__


def test_a_network_of_torchs_own_layers_computes_the_same() -> None:
    models = []
    for norm in (norm_factory("gn", num_groups=4), lambda channels: nn.GroupNorm(4, channels)):
        torch.manual_seed(0)
        options = {"width": 8, "num_frames": 4, "crop_size": 32, "zero_init_residual": False}
        models.append(create_model("i3d_r14", norm=norm, num_classes=3, **options).eval())
    clips = numbers(2, 3, 4, 32, 32)
    torch.testing.assert_close(models[0](clips), models[1](clips), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["gn", "ln", "in", "bn", "frozen_bn"])
def test_impl_reaches_the_operator(kind: str) -> None:
    layer = norm_factory(kind, num_groups=4, impl="neither")(8)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown impl 'neither'"):
        layer(numbers(2, 8, 1, 2, 2))


def test_what_computes_is_known_before_the_run() -> None:
    cpu, meta = torch.device("cpu"), torch.device("meta")
    stated = {"name": "a", "data": {"root": "r", "num_frames": 8, "frame_stride": 2},
              "optim": {"clips_per_gpu": 4, "base_lr": 0.01, "epochs": 1}}  # fmt: skip
    assert build.norm_impl(config_from(stated), cpu) == "aten"
    triton = config_from(stated, ["model.norm.impl=triton"])
    with pytest.raises(ConfigError, match=r"model\.norm\.impl=triton: .* on cpu.* CUDA"):
        build.norm_impl(triton, cpu)
    pytest.importorskip("triton")
    assert build.norm_impl(triton, meta) == "triton"
