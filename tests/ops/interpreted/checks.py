"""The Triton path under Triton's interpreter, on the CPU. Run by tests/ops/test_interpreted.py.

TRITON_INTERPRET=1 is read when Triton is imported and then holds for the whole process; that is why
this file's name is not one that pytest collects by itself, and why it has a process of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from triton.runtime import interpreter

from tests.ops.cases import Case, errors, expected, make, outcome
from videogn.model.i3d import Bottleneck3d
from videogn.model.norm import NormKind, norm_factory
from videogn.model.recompute import Recompute, recomputed
from videogn.ops import batch_norm_act, group_norm_act, launch
from videogn.ops.fused import norm_act, norm_act_backward

CHANNELS_LAST = torch.channels_last_3d
BOUND = {torch.float32: 2e-6, torch.bfloat16: 4e-3, torch.float16: 4e-3}


@pytest.fixture(autouse=True)
def _round_to_bfloat16_as_a_gpu_does(monkeypatch: pytest.MonkeyPatch) -> None:
    # The interpreter cuts digits off; the compiled kernels round (cvt.rn, see test_compiled.py).
    cut_off = interpreter._convert_float

    def convert(value: np.ndarray, source: Any, target: Any, mode: Any) -> np.ndarray:
        if str(source) != "fp32" or str(target) != "bf16":
            return cut_off(value, source, target, mode)
        rounded = torch.from_numpy(np.array(value, np.float32)).bfloat16().view(torch.int16)
        return rounded.numpy().view(np.uint16)

    monkeypatch.setattr(interpreter, "_convert_float", convert)


def group(case: Case) -> Tensor:
    layer = case.groups, case.weight, case.bias, 1e-5
    return group_norm_act(case.x, *layer, case.residual, case.relu, impl="triton")


def batch(case: Case) -> Tensor:
    layer = case.weight, case.bias, None, None, True, 0.1, 1e-5
    return batch_norm_act(case.x, *layer, case.residual, case.relu, impl="triton")


def worst(case: Case) -> float:
    return max(errors(outcome(case, batch if case.over_batch else group), expected(case)))


VARIANTS = {"norm": (False, False), "relu": (True, False), "add": (False, True)} | {
    "add relu": (True, True)
}
# D = C / G of 2, 4, 8, 16, 64, and 5 and 10; N = 1 to 5; odd sizes; fewer channels than a tile has
# places, more than one tile's; one position; several chunks.
SHAPES = {
    "D=2": ((2, 64, 3, 5, 7), 32),
    "D=4": ((3, 128, 1, 5, 7), 32),
    "D=8": ((1, 256, 3, 5, 7), 32),
    "D=16": ((4, 64, 3, 3, 5), 4),
    "D=64": ((5, 128, 1, 5, 9), 2),
    "D=5": ((2, 15, 3, 5, 7), 3),
    "D=10": ((2, 320, 3, 3, 3), 32),
    "a position": ((2, 64, 1, 1, 1), 4),
    "chunks": ((1, 64, 7, 9, 11), 16),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant(variant: str) -> None:
    relu, add = VARIANTS[variant]
    assert worst(make((2, 16, 3, 5, 7), 4, relu=relu, add=add)) < 2e-6


@pytest.mark.parametrize("name", ["D=2", "D=64", "D=5", "chunks"])
def test_a_few_shapes_in_bfloat16(name: str) -> None:
    (_, channels, *sizes), groups = SHAPES[name]
    divisor = max(1, groups // 4)  # interpreting takes its time for each group
    shape = (2, channels // divisor, *sizes)
    assert worst(make(shape, groups // divisor, add=True, dtype=torch.bfloat16)) < 4e-3


@pytest.mark.parametrize("over_batch", [False, True])
def test_a_large_common_mean_costs_no_digits(over_batch: bool) -> None:
    case = make((2, 8, 7, 9, 11), 2, mean=1000.0, over_batch=over_batch)
    assert worst(case) < 2e-6  # 2e-4 is demanded


def test_an_outlier_that_is_the_shift_costs_few_digits() -> None:
    case = make((1, 8, 7, 9, 11), 2, relu=False)
    with torch.no_grad():
        case.x[0, :, 0, 0, 0] = 300.0  # the first value of every group, 300 standard deviations off
    assert worst(case) < 1e-5


def test_batch_norm_and_its_running_statistics() -> None:
    case = make((3, 8, 3, 5, 7), 8, add=True, over_batch=True)
    assert worst(case) < 2e-6
    for training in (True, False):
        (mean, var), (its_mean, its_var) = (
            (torch.linspace(-1, 1, 8), torch.linspace(0.5, 2, 8)) for _ in range(2)
        )
        y = batch_norm_act(
            case.x,
            case.weight,
            case.bias,
            mean,
            var,
            training,
            0.3,
            1e-5,
            relu=False,
            impl="triton",
        )
        want = F.batch_norm(
            case.x.contiguous(), its_mean, its_var, case.weight, case.bias, training, 0.3, 1e-5
        )
        torch.testing.assert_close(y, want, rtol=1e-5, atol=1e-5)
        inputs = case.inputs[:3]
        gradients = torch.autograd.grad(y, inputs, case.dy)
        for a, b in zip(gradients, torch.autograd.grad(want, inputs, case.dy), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=3e-5)
        torch.testing.assert_close(mean, its_mean)
        torch.testing.assert_close(var, its_var)


def test_two_runs_give_the_same_bits_and_keep_the_layout() -> None:
    case = make((1, 16, 7, 9, 13), 4, add=True)
    first, second = outcome(case, group), outcome(case, group)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    y, dx, _, _, dresidual = first
    for tensor in (y, dx, dresidual):
        assert tensor.is_contiguous(memory_format=CHANNELS_LAST)


def test_other_layouts_are_right_too() -> None:
    case = make((2, 4, 3, 5, 7), 2, add=True)
    want = outcome(case, group)
    case.x = case.x.detach().contiguous().requires_grad_()
    case.dy = case.dy.contiguous()
    with pytest.warns(UserWarning, match="not channels-last"):
        have = outcome(case, group)
    assert all(torch.equal(a, b) for a, b in zip(have, want, strict=True))
    case.x = torch.cat([case.x.detach()] * 2, 2)[:, :, ::2].requires_grad_()  # a slice
    with pytest.warns(UserWarning, match="not channels-last"):
        sliced = outcome(case, group)
    case.x = case.x.detach().contiguous(memory_format=CHANNELS_LAST).requires_grad_()
    assert all(torch.equal(a, b) for a, b in zip(sliced, outcome(case, group), strict=True))


def test_an_empty_batch_is_empty() -> None:
    weight = torch.ones(8)
    assert group_norm_act(torch.empty(0, 8, 3), 2, weight, weight, impl="triton").shape == (0, 8, 3)


def test_nan_is_passed_on() -> None:
    case = make((2, 16, 3, 5, 7), 4)
    with torch.no_grad():
        case.x[0, 0, 1, 2, 3] = torch.nan
    nan = group(case).isnan()
    assert nan[0, :4].all()
    assert nan.sum() == 4 * 3 * 5 * 7  # its own group and no other


def test_a_second_derivative_is_refused() -> None:
    case = make((1, 8, 1, 3, 5), 4)
    dx = torch.autograd.grad(group(case).sum(), case.x, create_graph=True)[0]
    with pytest.raises(NotImplementedError, match="no second derivative; pass impl='aten'"):
        dx.sum().backward()


@pytest.mark.parametrize(("add", "given"), [(False, False), (True, True)])
def test_opcheck(add: bool, given: bool) -> None:
    case = make((2, 8, 1, 3, 5), 4, add=add, over_batch=given)
    layer = case.x, case.residual, case.weight, case.bias
    stats = norm_act(*layer, None, case.groups, 1e-5, True, given)[1].detach() if given else None
    torch.library.opcheck(norm_act, (*layer, stats, case.groups, 1e-5, True, given))


def test_opcheck_backward() -> None:
    case = make((2, 8, 1, 3, 5), 4, add=True)
    layer = [tensor.detach() for tensor in (case.x, case.weight, case.bias)]
    y, stats = norm_act(layer[0], case.residual, *layer[1:], None, 4, 1e-5, True, False)
    inputs = (case.dy, layer[0], y.detach(), *layer[1:], stats, True, False)
    torch.library.opcheck(norm_act_backward, inputs)


def test_it_traces_whole() -> None:
    case = make((2, 8, 1, 3, 5), 4, add=True)
    traced = torch.compile(group, fullgraph=True, backend="aot_eager")
    for a, b in zip(outcome(case, traced), outcome(case, group), strict=True):
        assert torch.equal(a, b)
        assert a.stride() == b.stride()


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("name", SHAPES)
def test_the_whole_grid(name: str, dtype: torch.dtype, variant: str) -> None:
    shape, groups = SHAPES[name]
    relu, add = VARIANTS[variant]
    assert worst(make(shape, groups, relu=relu, add=add, dtype=dtype)) < BOUND[dtype]


@pytest.mark.slow
@pytest.mark.parametrize("samples", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("width", [2, 4, 8, 16, 64])
@pytest.mark.parametrize("over_batch", [False, True])
def test_every_batch_size_and_width(samples: int, width: int, over_batch: bool) -> None:
    for mean, bound in ((0.0, 2e-6), (1000.0, 2e-4)):
        case = make((samples, 64, 3, 5, 7), 64 // width, mean=mean, add=True, over_batch=over_batch)
        assert worst(case) < bound


@pytest.mark.slow
@pytest.mark.parametrize("chunks", [1, 7, 2048])
def test_any_cut_gives_the_same(chunks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "CHUNKS", chunks)
    monkeypatch.setattr(launch, "TILES_PER_CHUNK", 1)
    assert worst(make((2, 64, 7, 9, 11), 4, add=True)) < 2e-6


@pytest.mark.parametrize("kind", ["gn", "bn"])
def test_a_recomputed_block_has_the_same_bits(kind: NormKind) -> None:
    def gradients(mode: Recompute) -> list[Tensor]:
        torch.manual_seed(0)
        norm = norm_factory(kind, num_groups=2, impl="triton")
        block = Bottleneck3d(4, 2, norm=norm).to(memory_format=CHANNELS_LAST)
        x = torch.randn(2, 4, 1, 3, 5).contiguous(memory_format=CHANNELS_LAST).requires_grad_()
        recomputed(block, x, mode).square().sum().backward()
        return [tensor.grad for tensor in (x, *block.parameters()) if tensor.grad is not None] + [
            *block.buffers()
        ]

    kept = gradients("none")
    for mode in ("norm", "block"):
        assert all(torch.equal(a, b) for a, b in zip(gradients(mode), kept, strict=True))
