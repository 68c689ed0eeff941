"""What stays in memory for backward: counted on fake CUDA tensors, under CUDA's autocast rule."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from videogn.ops import batch_norm_act, group_norm_act
from videogn.ops.fused import norm_act

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)

Norm = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
CHANNELS_LAST = torch.channels_last_3d


class CudaAutocast(TorchFunctionMode):
    """The rule of ATen/autocast_mode.h for what is used here: it needs a GPU to be switched on.

    Convolution is on the list to run in bfloat16 and group_norm on that in float32; batch_norm,
    relu, addition and operators of others are on none, and take what they are given.
    """

    LISTS = {F.conv3d: torch.bfloat16, torch.conv3d: torch.bfloat16, F.group_norm: torch.float32}  # noqa: RUF012

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        dtype = self.LISTS.get(func)
        if dtype is not None:
            args = [x.to(dtype) if isinstance(x, Tensor) else x for x in args]
        return func(*args, **(kwargs or {}))


def eager_group(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None) -> Tensor:
    y = F.group_norm(x, 32, weight, bias)
    return F.relu(y if residual is None else y + residual)


def eager_batch(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None) -> Tensor:
    y = F.batch_norm(x, None, None, weight, bias, True)
    return F.relu(y if residual is None else y + residual)


def fused_group(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None) -> Tensor:
    return group_norm_act(x, 32, weight, bias, residual=residual)


def fused_batch(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None) -> Tensor:
    return batch_norm_act(x, weight, bias, None, None, True, 0.1, 1e-5, residual)


def saved_bytes(norm: Norm, autocast: bool, device: str = "cuda") -> int:
    """Bytes of the distinct storages kept by four residual blocks of two convolutions each."""
    storages: dict[int, Tensor] = {}
    layout = torch.contiguous_format if device == "cpu" else CHANNELS_LAST

    def keep(x: Tensor) -> Tensor:
        storages.setdefault(x.untyped_storage()._cdata, x)
        return x

    with FakeTensorMode():
        options: dict[str, Any] = {"device": device, "requires_grad": True}
        kernels = [torch.empty(64, 64, 3, 1, 1, **options) for _ in range(8)]
        layer = torch.empty(64, **options), torch.empty(64, **options)
        own = {x.untyped_storage()._cdata for x in (*kernels, *layer)}
        x = torch.empty(2, 64, 8, 56, 56, device=device).to(memory_format=layout)
        if autocast:
            x = x.bfloat16()  # as the block before leaves it

        def conv(x: Tensor, kernel: Tensor) -> Tensor:
            # cuDNN keeps the layout; the convolution that stands for it here may not.
            return F.conv3d(x, kernel, padding=(1, 0, 0)).contiguous(memory_format=layout)

        def blocks(x: Tensor) -> Tensor:
            for first, second in zip(kernels[::2], kernels[1::2], strict=True):
                y = norm(conv(x, first), *layer, None)
                x = norm(conv(y, second), *layer, x)
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            if autocast:
                with CudaAutocast():
                    y = blocks(x)
            else:
                y = blocks(x)
        if norm in (fused_group, fused_batch):
            assert y.is_contiguous(memory_format=layout)
        return sum(x.untyped_storage().nbytes() for key, x in storages.items() if key not in own)


def test_so_it_does_on_a_cpu() -> None:
    stock = saved_bytes(eager_batch, False, "cpu")
    assert saved_bytes(fused_group, False, "cpu") == pytest.approx(stock, rel=0.01)


@pytest.mark.parametrize("autocast", [False, True])
def test_group_norm_saves_what_batch_norm_saves(autocast: bool) -> None:
    stock = saved_bytes(eager_batch, autocast)
    assert saved_bytes(fused_group, autocast) == pytest.approx(stock, rel=0.01)
    assert saved_bytes(fused_batch, autocast) == pytest.approx(stock, rel=0.01)


def test_it_saves_half_of_what_torchs_group_norm_saves_under_autocast() -> None:
    assert saved_bytes(fused_group, True) <= 0.55 * saved_bytes(eager_group, True)


@pytest.mark.parametrize("name", ["norm_act", "norm_act_backward"])
def test_autocast_has_no_rule_for_it(name: str) -> None:
    # With one, torch would cast x (and gamma) before the operator sees them.
    for key in ("AutocastCUDA", "AutocastCPU"):
        assert not torch._C._dispatch_has_kernel_for_dispatch_key(f"videogn::{name}", key)
    assert torch._C._dispatch_has_kernel_for_dispatch_key("aten::group_norm", "AutocastCUDA")


def test_under_autocast_bfloat16_stays_and_gamma_stays_float32() -> None:
    with CudaAutocast():
        weight = torch.empty(64, device="meta", requires_grad=True)
        x = torch.empty(2, 64, 2, 4, 4, device="meta", dtype=torch.bfloat16)
        x = x.contiguous(memory_format=CHANNELS_LAST).requires_grad_()
        y = norm_act(x, None, weight, weight, None, 32, 1e-5, True, False)[0]
        assert y.dtype == torch.bfloat16
        dx, dweight = torch.autograd.grad(y.sum(), (x, weight))
        assert (dx.dtype, dweight.dtype) == (torch.bfloat16, torch.float32)
        assert dx.is_contiguous(memory_format=CHANNELS_LAST)
        assert eager_group(x, weight, weight, None).dtype == torch.float32  # the rule is on
