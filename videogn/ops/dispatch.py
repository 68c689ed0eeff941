"""Which implementation runs, and the inputs that none takes."""

from __future__ import annotations

import importlib.util
import os
import warnings
from typing import Literal, get_args

import torch
from torch import Tensor

Impl = Literal["auto", "aten", "triton"]
IMPLS: tuple[str, ...] = get_args(Impl)

_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_CAPABILITY = (8, 0)  # of the oldest NVIDIA GPU that Triton supports
_HAS_TRITON = importlib.util.find_spec("triton") is not None
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton's emulation on the CPU, for tests


def choose(impl: str, x: Tensor) -> Literal["aten", "triton"]:
    """Returns what computes x: "auto" is Triton on a GPU that has it, for dtypes that it takes.

    An empty x is left to ATen whatever is asked.

    Raises:
        ValueError: an unknown `impl`; or "triton" where it cannot run.
    """
    if impl not in IMPLS:
        raise ValueError(f"unknown impl {impl!r}; known: {', '.join(IMPLS)}")
    if impl == "aten" or x.numel() == 0:
        return "aten"
    obstacle = _obstacle(x)
    if impl == "triton" and obstacle:
        raise ValueError(f"impl='triton' cannot run: {obstacle}; pass impl='auto' or 'aten'")
    if obstacle or (impl == "auto" and not x.is_cuda):
        return "aten"
    _warn_of_layout(x)
    return "triton"


def _obstacle(x: Tensor) -> str | None:
    """Why Triton cannot compute x, or None."""
    if not _HAS_TRITON:
        return "Triton is not installed"
    if x.dtype not in _DTYPES:
        return f"x is {x.dtype}, and the kernels take bfloat16, float16 and float32"
    if x.is_meta:
        return None  # nothing is computed: shapes and bytes as Triton would have them
    if x.is_cuda:
        return _old_gpu(x.device.index or 0)
    return None if _INTERPRETED else f"x is on {x.device}, and the kernels run on CUDA"


def _old_gpu(index: int) -> str | None:
    """What the GPU lacks, or None; without a GPU (fake tensors) nothing is lacking."""
    if not torch.cuda.is_available() or torch.cuda.get_device_capability(index) >= _CAPABILITY:
        return None
    return f"GPU {index} is older than compute capability {_CAPABILITY[0]}.{_CAPABILITY[1]}"


# As torch.compiler.assume_constant_result marks it, which imports the whole compiler: a second.
vars(_old_gpu).update(_dynamo_marked_constant=True)


def _warn_of_layout(x: Tensor) -> None:
    if not torch.compiler.is_compiling() and not x.movedim(1, -1).is_contiguous():
        warnings.warn(
            f"a {tuple(x.shape)} tensor that is not channels-last is copied at every fused "
            "normalization; convert the network's input to torch.channels_last_3d once",
            stacklevel=4,  # the caller of the public function: Python shows each place once
        )


def check(x: Tensor, groups: int, weight: Tensor, bias: Tensor, residual: Tensor | None) -> None:
    """Refuses inputs that no implementation takes.

    Raises:
        ValueError: shapes or groups that do not fit, or tensors on different devices.
        TypeError: dtypes that do not fit.
    """
    if x.dim() < 2:
        raise ValueError(f"x must be (N, C, ...), and its shape is {tuple(x.shape)}")
    channels = x.shape[1]
    if groups < 1 or channels % groups:
        raise ValueError(f"{groups} groups do not divide {channels} channels")
    if x.numel() == 0 and len(x):
        raise ValueError(f"x is {tuple(x.shape)}, and a sample without values has no statistics")
    if not x.is_floating_point():
        raise TypeError(f"x is {x.dtype}, and only floating-point tensors can be normalized")
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter.shape != (channels,):
            raise ValueError(
                f"{name} must have the shape ({channels},) of x's channels, and its shape is "
                f"{tuple(parameter.shape)}"
            )
        if parameter.dtype != x.dtype and not _is_wider(parameter.dtype, x.dtype):
            raise TypeError(
                f"{name} is {parameter.dtype}, which does not go with an x of {x.dtype}"
            )
        _check_device(name, parameter, x)
    if residual is not None:
        if residual.shape != x.shape:
            raise ValueError(
                f"the residual must have the shape {tuple(x.shape)} of x, and its shape is "
                f"{tuple(residual.shape)}"
            )
        _check_device("the residual", residual, x)


def _is_wider(parameter: torch.dtype, x: torch.dtype) -> bool:
    return parameter == torch.float32 and x in (torch.bfloat16, torch.float16)


def _check_device(name: str, tensor: Tensor, x: Tensor) -> None:
    if tensor.device != x.device:
        raise ValueError(f"{name} is on {tensor.device} and x on {x.device}; move one of them")
