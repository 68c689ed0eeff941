"""Group normalization with what follows it in a residual network, in one operator."""

from __future__ import annotations

from torch import Tensor

from videogn.ops import aten
from videogn.ops.dispatch import Impl, check, choose
from videogn.ops.fused import norm_act


def group_norm_act(
    x: Tensor,
    num_groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    residual: Tensor | None = None,
    relu: bool = True,
    impl: Impl = "auto",
) -> Tensor:
    """Returns `relu(group_norm(x) + residual)`, in the shape and dtype of x, differentiable.

    Statistics are computed in float32 and taken over C / num_groups channels and all positions
    (arXiv:1803.08494, eq. 7). A channels-last x gives a channels-last result and gradient. Under
    autocast a bfloat16 x stays bfloat16 with Triton; with ATen on CUDA it becomes float32.

    Args:
        x: (N, C, *spatial); fastest in channels_last_3d on CUDA and contiguous on a CPU.
        num_groups: G; divides C.
        weight: gamma, (C,), float32 or in the dtype of x.
        bias: beta, likewise.
        eps: added to the variance.
        residual: added before the ReLU, in the shape of x; cast to the dtype of the result.
        relu: whether to apply it.
        impl: "triton": the fused kernels (result channels-last always, no second derivative);
            "aten": torch's operators; "auto": Triton on CUDA where it can run, else ATen.

    Raises:
        ValueError: shapes, groups or devices that do not fit, or an `impl` that cannot run here.
        TypeError: dtypes that do not fit.
    """
    check(x, num_groups, weight, bias, residual)
    if choose(impl, x) == "aten":
        return aten.group_norm_act(x, num_groups, weight, bias, eps, residual, relu)
    added = None if residual is None else residual.to(x.dtype)
    return norm_act(x, added, weight, bias, None, num_groups, eps, relu, False)[0]
