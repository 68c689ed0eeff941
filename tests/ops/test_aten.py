"""ATen's path, the one of every CPU: against float64, in every layout, once and twice derived."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.ops.cases import Case, errors, expected, make, outcome
from videogn.ops import batch_norm_act, group_norm_act

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last_3d}
CHANNELS_LAST = torch.channels_last_3d


def group(case: Case) -> Tensor:
    return group_norm_act(
        case.x, case.groups, case.weight, case.bias, 1e-5, case.residual, case.relu
    )


def batch(case: Case) -> Tensor:
    layer = case.weight, case.bias, None, None, True, 0.1, 1e-5
    return batch_norm_act(case.x, *layer, case.residual, case.relu)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("relu", "add"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("channels", [64, 256, 2048])
def test_group_norm_is_exact(layout: str, relu: bool, add: bool, channels: int) -> None:
    case = make((2, channels, 3, 5, 7), 32, relu=relu, add=add, layout=LAYOUTS[layout])
    assert max(errors(outcome(case, group), expected(case))) < 2e-6


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("add", [False, True])
def test_batch_norm_is_exact(layout: str, add: bool) -> None:
    case = make((3, 24, 3, 5, 7), 24, add=add, layout=LAYOUTS[layout], over_batch=True)
    assert max(errors(outcome(case, batch), expected(case))) < 2e-6


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("over_batch", [False, True])
@pytest.mark.parametrize("groups", [32, 8, 1])
def test_a_large_common_mean_costs_no_digits(layout: str, groups: int, over_batch: bool) -> None:
    # 50,000 values a group and more: unshifted, gamma's gradient is off by 1e-3 in either layout.
    shape = (2, 64, 8, 28, 28)
    case = make(shape, groups, mean=1000.0, layout=LAYOUTS[layout], over_batch=over_batch)
    assert max(errors(outcome(case, batch if over_batch else group), expected(case))) < 2e-4


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bfloat16_stays_bfloat16_and_is_rounded_once(layout: str) -> None:
    case = make((2, 64, 3, 5, 7), 32, dtype=torch.bfloat16, layout=LAYOUTS[layout])
    have = outcome(case, group)
    assert [tensor.dtype for tensor in have] == [torch.bfloat16] * 2 + [torch.float32] * 2
    assert max(errors(have, expected(case))) < 4e-3


@pytest.mark.parametrize("norm", [group, batch])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_output_and_gradients_keep_the_layout(norm: type, layout: str) -> None:
    case = make((2, 16, 3, 5, 7), 4, add=True, layout=LAYOUTS[layout])
    y, dx, _, _, dresidual = outcome(case, norm)
    for tensor in (y, dx, dresidual):
        assert tensor.is_contiguous(memory_format=LAYOUTS[layout])


@pytest.mark.parametrize("shape", [(3, 8), (3, 8, 5), (2, 8, 5, 4), (2, 8, 3, 5, 4)])
def test_any_number_of_spatial_axes(shape: tuple[int, ...]) -> None:
    case = make(shape, 2, layout=torch.contiguous_format)
    assert max(errors(outcome(case, group), expected(case))) < 2e-6


def test_a_slice_and_an_expanded_tensor_are_right_too() -> None:
    whole = make((2, 16, 6, 5, 7), 4)
    sliced = whole.x.detach()[:, :, ::2, 1:].requires_grad_()
    y = group_norm_act(sliced, 4, whole.weight, whole.bias)
    dx = torch.autograd.grad(y.sum(), sliced)[0]
    other = sliced.detach().contiguous().requires_grad_()
    want = group_norm_act(other, 4, whole.weight, whole.bias)
    assert torch.equal(y, want)
    assert torch.equal(dx, torch.autograd.grad(want.sum(), other)[0])
    flat = torch.randn(1, 16, 1, 1, 1).expand(2, 16, 3, 4, 5)
    want = F.relu(F.group_norm(flat, 4, whole.weight, whole.bias))
    torch.testing.assert_close(group_norm_act(flat, 4, whole.weight, whole.bias), want)


def test_float64_is_float64_and_differentiable_twice() -> None:
    random = torch.Generator().manual_seed(0)
    x, residual = (
        torch.randn(2, 4, 1, 3, 2, dtype=torch.float64, generator=random)
        .contiguous(memory_format=CHANNELS_LAST)
        .requires_grad_()
        for _ in range(2)
    )
    weight, bias = (
        torch.randn(4, dtype=torch.float64, generator=random).requires_grad_() for _ in range(2)
    )

    def smooth(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        y = group_norm_act(x, 2, weight, bias, residual=residual, relu=False)
        return y.square()

    assert torch.autograd.gradcheck(smooth, (x, weight, bias, residual))
    assert torch.autograd.gradgradcheck(smooth, (x, weight, bias, residual))


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_keeps_running_statistics_as_torch_does(training: bool) -> None:
    case = make((3, 8, 3, 5, 7), 8)
    (mean, var), (its_mean, its_var) = ((torch.zeros(8), torch.ones(8)) for _ in range(2))
    weight, bias = case.weight, case.bias
    for _ in range(2):
        y = batch_norm_act(case.x, weight, bias, mean, var, training, 0.3, 1e-5, relu=False)
        x = case.x.contiguous()
        want = F.batch_norm(x, its_mean, its_var, weight, bias, training, 0.3, 1e-5)
        torch.testing.assert_close(y, want)
    torch.testing.assert_close(mean, its_mean)
    torch.testing.assert_close(var, its_var)
    assert (mean.abs().max() > 0) == training


def test_a_channels_last_network_traces_whole() -> None:
    case = make((2, 16, 3, 5, 7), 4, add=True)
    traced = torch.compile(group, fullgraph=True, backend="aot_eager")
    have = outcome(case, traced)
    assert max(errors(have, expected(case))) < 2e-6
    assert have[0].is_contiguous(memory_format=CHANNELS_LAST)
    assert have[1].is_contiguous(memory_format=CHANNELS_LAST)
