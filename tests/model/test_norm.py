"""The four norms against the paper's formula, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from videogn.engine.precise_bn import batch_norms
from videogn.engine.schedule import parameter_groups
from videogn.model.i3d import create_model
from videogn.model.norm import NORM_KINDS, norm_factory, norm_layers

KINDS = ("gn", "bn", "ln", "in")
EPS = 1e-5
Rule = Callable[[int, int], bool]  # is channel k in the set of channel c?


def formula(x: Tensor, gamma: Tensor, beta: Tensor, kind: str, groups: int = 1) -> Tensor:
    """Eq. 1-2 of arXiv:1803.08494 with the sets of eq. 3-5 and 7, a clip and channel at a time.

    All sets hold every (T, H, W). Eq. 7: the channels k of floor(k / (C/G)) = floor(c / (C/G)).
    """
    clips, channels = x.shape[:2]
    per_group = channels // groups
    same: dict[str, Rule] = {
        "bn": lambda k, c: k == c,
        "in": lambda k, c: k == c,
        "ln": lambda k, c: True,
        "gn": lambda k, c: k // per_group == c // per_group,
    }
    rows = []
    for n in range(clips):
        row = []
        for c in range(channels):
            members = [k for k in range(channels) if same[kind](k, c)]
            values = (x if kind == "bn" else x[n : n + 1])[:, members]
            mean = values.sum() / values.numel()
            variance = ((values - mean) ** 2).sum() / values.numel()
            row.append(gamma[c] * (x[n, c] - mean) / (variance + EPS).sqrt() + beta[c])
        rows.append(torch.stack(row))
    return torch.stack(rows)


def layer_and_input(
    kind: str, shape: tuple[int, ...], groups: int = 1, seed: int = 0
) -> tuple[nn.Module, Tensor]:
    random = torch.Generator().manual_seed(seed)
    layer = norm_factory(kind, num_groups=groups, eps=EPS)(shape[1]).double()  # type: ignore[arg-type]
    assert isinstance(layer.weight, Tensor)
    assert isinstance(layer.bias, Tensor)
    layer.weight.data.normal_(1, 0.5, generator=random)
    layer.bias.data.normal_(generator=random)
    # Each channel and clip has its own mean and scale (one of 1e-2), so that no set stands for
    # another and eps counts.
    scale = torch.rand(shape[:2], dtype=torch.float64, generator=random) + 0.01
    shift = torch.randn(shape[:2], dtype=torch.float64, generator=random)
    x = torch.randn(shape, dtype=torch.float64, generator=random)
    return layer, x * scale[..., None, None, None] + shift[..., None, None, None]


@pytest.mark.parametrize("kind", KINDS)
def test_norm_is_the_formula_of_the_paper(kind: str) -> None:
    layer, x = layer_and_input(kind, (3, 8, 4, 5, 3), groups=4)
    expected = formula(x, layer.weight, layer.bias, kind, groups=4)  # type: ignore[arg-type]
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        layer.float()(x.float()), expected.float(), rtol=1e-5, atol=2e-5
    )  # the precision that training uses


@pytest.mark.parametrize("kind", KINDS)
def test_norm_gradients_are_those_of_the_formula(kind: str) -> None:
    layer, x = layer_and_input(kind, (2, 8, 3, 4, 2), groups=2)
    wanted = [x.requires_grad_(), layer.weight, layer.bias]
    upstream = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    expected = formula(x, layer.weight, layer.bias, kind, groups=2)  # type: ignore[arg-type]
    reference = torch.autograd.grad(expected, wanted, upstream)
    actual = torch.autograd.grad(layer(x), wanted, upstream)
    for have, want in zip(actual, reference, strict=True):
        torch.testing.assert_close(have, want, rtol=1e-8, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    groups=st.integers(1, 4),
    per_group=st.integers(1, 3),
    clips=st.integers(1, 3),
    size=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
    seed=st.integers(0, 2**16),
)
def test_norm_is_the_formula_for_any_shape(
    kind: str, groups: int, per_group: int, clips: int, size: tuple[int, int, int], seed: int
) -> None:
    assume(clips * size[0] * size[1] * size[2] > 1)  # torch refuses to normalize a single value
    layer, x = layer_and_input(kind, (clips, groups * per_group, *size), groups, seed)
    expected = formula(x, layer.weight, layer.bias, kind, groups)  # type: ignore[arg-type]
    torch.testing.assert_close(layer(x), expected, rtol=1e-7, atol=1e-7)


def test_ln_and_in_are_the_two_ends_of_gn() -> None:
    x = torch.randn(2, 6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(norm_factory("ln")(6)(x), norm_factory("gn", num_groups=1)(6)(x))
    assert torch.equal(norm_factory("in")(6)(x), norm_factory("gn", num_groups=6)(6)(x))


@pytest.mark.parametrize("kind", KINDS)
def test_every_norm_has_one_gamma_and_beta_per_channel(kind: str) -> None:
    layer = norm_factory(kind)(64)  # type: ignore[arg-type]
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {
        "weight": (64,),
        "bias": (64,),
    }


def test_bn_keeps_running_statistics_and_uses_them_in_eval() -> None:
    random = torch.Generator().manual_seed(0)
    layer = norm_factory("bn", eps=EPS, momentum=0.3)(4).double()
    mean, variance = torch.zeros(4).double(), torch.ones(4).double()
    x = torch.empty(0)
    for _ in range(3):
        x = torch.randn(2, 4, 3, 5, 5, dtype=torch.float64, generator=random) * 2 + 1
        layer(x)
        mean = 0.7 * mean + 0.3 * x.mean((0, 2, 3, 4))
        variance = 0.7 * variance + 0.3 * x.var((0, 2, 3, 4), correction=1)  # torch: unbiased here
    torch.testing.assert_close(layer.running_mean, mean)
    torch.testing.assert_close(layer.running_var, variance)
    channel = (1, 4, 1, 1, 1)
    expected = (x - mean.view(channel)) / (variance.view(channel) + EPS).sqrt()
    torch.testing.assert_close(layer.eval()(x), expected)


def test_defaults_are_32_groups_eps_1e_5_momentum_0_1() -> None:
    gn, bn = norm_factory("gn")(64), norm_factory("bn")(64)
    assert isinstance(gn, nn.GroupNorm)
    assert isinstance(bn, nn.BatchNorm3d)
    assert (gn.num_groups, gn.eps) == (32, 1e-5)
    assert (bn.momentum, bn.eps) == (0.1, 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_eps_reaches_the_layer(kind: str) -> None:
    assert norm_factory(kind, eps=1e-3)(64).eps == 1e-3  # type: ignore[arg-type]


@pytest.mark.parametrize(("channels", "groups"), [(64, 4), (256, 16), (2048, 128)])
def test_channels_per_group_sets_the_groups_of_each_layer(channels: int, groups: int) -> None:
    layer = norm_factory("gn", num_groups=7, channels_per_group=16)(channels)
    assert isinstance(layer, nn.GroupNorm)
    assert layer.num_groups == groups


def test_groups_that_do_not_divide_are_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match=r"32 groups .* 48 channels"):
        norm_factory("gn")(48)
    with pytest.raises(ValueError, match=r"24 channels per group .* 64 channels"):
        norm_factory("gn", channels_per_group=24)(64)
    with pytest.raises(ValueError, match=r"32 groups .* 8 channels"):
        create_model("i3d_r14", norm="gn", width=8, num_classes=2)


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'groupnorm'.*gn, bn"):
        norm_factory("groupnorm")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", NORM_KINDS)
def test_norm_layers_finds_all_53_of_i3d_r50(kind: str) -> None:
    with torch.device("meta"):
        model = create_model("i3d_r50", norm=kind)  # type: ignore[arg-type]
    layers = norm_layers(model)
    assert len(layers) == 53
    assert layers[0] is model.norm1
    parameters = sum(p.numel() for layer in layers for p in layer.parameters())
    assert parameters == (0 if kind == "frozen_bn" else 53_120)


def test_frozen_bn_is_bn_in_evaluation_and_stays_so() -> None:
    random = torch.Generator().manual_seed(0)
    bn, frozen = norm_factory("bn", eps=1e-3)(6), norm_factory("frozen_bn", eps=1e-3)(6)
    for tensor in bn.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(6, generator=random) + 0.5)
    missing, unexpected = frozen.load_state_dict(bn.state_dict())  # the counter is left out
    assert not missing
    assert not unexpected
    x = torch.randn(2, 6, 3, 4, 5, generator=random, requires_grad=True)
    before = {name: tensor.clone() for name, tensor in frozen.state_dict().items()}
    assert torch.equal(frozen.train()(x), bn.eval()(x))
    assert torch.equal(frozen.eval()(x), bn.eval()(x))
    frozen.train()(x).square().sum().backward()
    assert all(torch.equal(tensor, before[name]) for name, tensor in frozen.state_dict().items())
    assert x.grad is not None
    assert not list(frozen.parameters())
    bn.load_state_dict(frozen.state_dict() | {"num_batches_tracked": torch.tensor(0)})


def test_frozen_bn_of_an_affine_layer_scales_and_shifts() -> None:
    layer = norm_factory("frozen_bn")(4)
    gamma, beta = torch.randn(4), torch.randn(4)
    state = {"weight": gamma, "bias": beta, "running_mean": torch.zeros(4)}
    layer.load_state_dict(state | {"running_var": torch.full((4,), 1 - EPS)})
    x = torch.randn(2, 4, 2, 3, 3)
    channel = (1, 4, 1, 1, 1)
    torch.testing.assert_close(layer(x), x * gamma.view(channel) + beta.view(channel))


def test_optimizers_and_precise_bn_pass_frozen_bn_by() -> None:
    model = create_model("i3d_r14", norm="frozen_bn", width=8, num_classes=3)
    assert batch_norms(model) == []
    groups = parameter_groups(
        model, weight_decay=1e-4, weight_decay_norm=0.0, norms=norm_layers(model)
    )
    kernels = [m.weight for m in model.modules() if isinstance(m, nn.Conv3d)]
    assert len(groups[0]["params"]) == len(kernels) + 2
    assert groups[1]["params"] == []
    torch.optim.SGD(groups, lr=0.1)
