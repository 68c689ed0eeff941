"""Which implementation runs where, and what is refused."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from videogn.ops import batch_norm_act, dispatch, group_norm_act

HAS_TRITON = importlib.util.find_spec("triton") is not None


def layer(channels: int = 8, **options: Any) -> tuple[Tensor, Tensor]:
    return torch.ones(channels, **options), torch.zeros(channels, **options)


@pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")
def test_auto_is_triton_on_cuda_and_aten_elsewhere() -> None:
    with FakeTensorMode():  # CUDA tensors without a GPU
        x = torch.empty(2, 8, 3, 4, 4, device="cuda").to(memory_format=torch.channels_last_3d)
        assert dispatch.choose("auto", x) == "triton"
        assert dispatch.choose("auto", x.half()) == "triton"
        assert dispatch.choose("auto", x.double()) == "aten"
        assert dispatch.choose("aten", x) == "aten"
        assert dispatch.choose("triton", x[:0]) == "aten"
        y = group_norm_act(x, 2, *layer(device="cuda"))
        assert y.is_contiguous(memory_format=torch.channels_last_3d)
    assert dispatch.choose("auto", torch.empty(2, 8, 3, 4, 4)) == "aten"


@pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")
def test_shapes_and_layouts_are_told_on_the_meta_device() -> None:
    x = torch.empty(2, 8, 3, 4, 5, device="meta", dtype=torch.bfloat16)
    x = x.contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    weight, bias = layer(device="meta")
    weight.requires_grad_()
    y = group_norm_act(x, 2, weight, bias, residual=x, impl="triton")
    dx, dweight = torch.autograd.grad(y.sum(), (x, weight))
    for tensor in (y, dx):
        assert (tensor.shape, tensor.dtype) == (x.shape, x.dtype)
        assert tensor.is_contiguous(memory_format=torch.channels_last_3d)
    assert (dweight.shape, dweight.dtype) == ((8,), torch.float32)


def test_auto_is_aten_where_triton_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_HAS_TRITON", False)
    with FakeTensorMode():
        x = torch.empty(2, 8, 3, 4, 4, device="cuda")
        assert dispatch.choose("auto", x) == "aten"
        with pytest.raises(ValueError, match="Triton is not installed; pass impl='auto' or 'aten'"):
            dispatch.choose("triton", x)


def test_an_old_gpu_is_given_to_aten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_HAS_TRITON", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 0))
    with FakeTensorMode():
        x = torch.empty(2, 8, 3, 4, 4, device="cuda")
        assert dispatch.choose("auto", x) == "aten"
        with pytest.raises(ValueError, match=r"GPU 0 is older than compute capability 8\.0"):
            dispatch.choose("triton", x)


def test_the_mark_of_a_constant_is_that_of_torch() -> None:
    marked = torch.compiler.assume_constant_result(lambda: None)
    assert vars(dispatch._old_gpu) == vars(marked) != {}


@pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")
def test_a_layout_that_costs_a_copy_is_told() -> None:
    with FakeTensorMode():
        x = torch.empty(2, 8, 3, 4, 4, device="cuda")
        with pytest.warns(UserWarning, match=r"\(2, 8, 3, 4, 4\) tensor .*channels_last_3d once"):
            y = group_norm_act(x, 2, *layer(device="cuda"))
        assert y.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": torch.float32}, r"x is on cpu, and the kernels run on CUDA"),
        ({"dtype": torch.float64}, r"x is torch\.float64, and the kernels take bfloat16"),
    ],
)
def test_triton_is_refused_where_it_cannot_run(options: dict[str, Any], message: str) -> None:
    x = torch.randn(2, 8, 3, 4, 4, **options)
    with pytest.raises(ValueError, match=rf"impl='triton' cannot run: {message}"):
        group_norm_act(x, 2, *layer(**options), impl="triton")


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "groups": ({"groups": 3}, ValueError, "3 groups do not divide 8 channels"),
    "no groups": ({"groups": 0}, ValueError, "0 groups do not divide 8 channels"),
    "axes": ({"x": torch.ones(8)}, ValueError, r"x must be \(N, C, \.\.\.\), .* \(8,\)"),
    "integers": ({"x": torch.ones(2, 8, 3).int()}, TypeError, "x is torch.int32"),
    "no values": ({"x": torch.ones(2, 8, 0)}, ValueError, r"\(2, 8, 0\), .* without values"),
    "gamma": ({"weight": torch.ones(4)}, ValueError, r"weight must .* \(8,\) .* is \(4,\)"),
    "beta": ({"bias": torch.ones(8, 1)}, ValueError, r"bias must .* \(8,\) .* is \(8, 1\)"),
    "narrow gamma": (
        {"weight": torch.ones(8).bfloat16()},
        TypeError,
        r"weight is torch\.bfloat16, which does not go with an x of torch\.float32",
    ),
    "device": (
        {"bias": torch.ones(8, device="meta")},
        ValueError,
        "bias is on meta and x on cpu",
    ),
    "residual": (
        {"residual": torch.ones(2, 8, 1)},
        ValueError,
        r"shape \(2, 8, 3\) of x, .* is \(2, 8, 1\)",
    ),
    "residual's device": (
        {"residual": torch.ones(2, 8, 3, device="meta")},
        ValueError,
        "the residual is on meta and x on cpu",
    ),
    "impl": ({"impl": "cuda"}, ValueError, "unknown impl 'cuda'; known: auto, aten, triton"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_its_values(name: str) -> None:
    changed, error, message = BAD[name]
    weight, bias = layer()
    good = {"x": torch.ones(2, 8, 3), "groups": 2, "weight": weight, "bias": bias}
    given = good | changed
    options = {key: given[key] for key in ("residual", "impl") if key in given}
    with pytest.raises(error, match=message):
        group_norm_act(given["x"], given["groups"], given["weight"], given["bias"], **options)


def test_batch_norm_is_refused_without_statistics_to_use() -> None:
    x = torch.ones(1, 8, 1)
    with pytest.raises(ValueError, match="outside training needs running_mean and running_var"):
        batch_norm_act(x, *layer(), None, None, False, 0.1, 1e-5)
    with pytest.raises(ValueError, match=r"more than one value per channel, and x is \(1, 8, 1\)"):
        batch_norm_act(x, *layer(), None, None, True, 0.1, 1e-5)
    with pytest.raises(ValueError, match=r"x must be \(N, C"):
        batch_norm_act(torch.ones(8), *layer(), None, None, True, 0.1, 1e-5)


def test_an_empty_batch_gives_an_empty_batch() -> None:
    x = torch.empty(0, 8, 3, 4, 4, requires_grad=True)
    weight, bias = layer()
    weight.requires_grad_()
    y = group_norm_act(x, 2, weight, bias)
    assert y.shape == x.shape
    dx, dweight = torch.autograd.grad(y.sum(), (x, weight))
    assert dx.shape == x.shape
    assert torch.equal(dweight, torch.zeros(8))
    mean = torch.zeros(8)
    assert batch_norm_act(x, weight, bias, mean, torch.ones(8), True, 0.1, 1e-5).shape == x.shape
    assert torch.equal(mean, torch.zeros(8))
