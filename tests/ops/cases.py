"""Inputs for the fused normalizations, and what they must give, in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

NEAR_JUMP = 1e-2  # the gradient of ReLU jumps at 0: rounding may put x on either side of it
Act = Callable[["Case"], Tensor]


@dataclass
class Case:
    """One input: x, gamma, beta, perhaps a residual, and the gradient from above."""

    groups: int
    relu: bool
    x: Tensor
    weight: Tensor
    bias: Tensor
    residual: Tensor | None
    dy: Tensor
    over_batch: bool = False

    @property
    def inputs(self) -> list[Tensor]:
        """All that has a gradient."""
        inputs = [self.x, self.weight, self.bias]
        return inputs if self.residual is None else [*inputs, self.residual]


def make(
    shape: tuple[int, ...],
    groups: int,
    *,
    relu: bool = True,
    add: bool = False,
    dtype: torch.dtype = torch.float32,
    mean: float = 0.0,
    layout: torch.memory_format = torch.channels_last_3d,
    over_batch: bool = False,
    seed: int = 0,
) -> Case:
    """A case with std 1 about `mean`; each channel has a mean and scale of its own besides."""
    random = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=random)

    def laid(x: Tensor) -> Tensor:
        return x.to(dtype).contiguous(memory_format=layout)

    channels = shape[1]
    per_channel = (1, channels, *(1,) * (len(shape) - 2))
    x = normal(*shape) * (0.8 + 0.4 * torch.rand(per_channel, generator=random))
    x = laid(x + 0.3 * normal(*per_channel) + mean)
    case = Case(
        channels if over_batch else groups,
        relu,
        x,
        1 + 0.5 * normal(channels),
        normal(channels),
        laid(normal(*shape)) if add else None,
        laid(normal(*shape)),
        over_batch,
    )
    if relu:
        with torch.no_grad():
            case.dy[_sum(_doubled(case)).abs() < NEAR_JUMP] = 0
    for tensor in case.inputs:
        tensor.requires_grad_()
    return case


def _doubled(case: Case) -> Case:
    x, weight, bias, *more = [t.detach().double().requires_grad_() for t in case.inputs]
    residual = more[0] if more else None
    return Case(
        case.groups, case.relu, x, weight, bias, residual, case.dy.double(), case.over_batch
    )


def _sum(case: Case) -> Tensor:
    """The paper's formula: eq. 1 with the sets of eq. 7, or of eq. 3 over the batch."""
    n, channels = case.x.shape[:2]
    x = case.x.transpose(0, 1).reshape(1, channels, -1) if case.over_batch else case.x
    x = x.reshape(1 if case.over_batch else n, case.groups, -1)
    mean = x.mean(-1, keepdim=True)
    x = (x - mean) / ((x - mean).square().mean(-1, keepdim=True) + 1e-5).sqrt()
    if case.over_batch:
        x = x.reshape(channels, n, -1).transpose(0, 1)
    per_channel = (channels, *(1,) * (case.x.dim() - 2))
    x = x.reshape(case.x.shape) * case.weight.view(per_channel) + case.bias.view(per_channel)
    return x if case.residual is None else x + case.residual


def outcome(case: Case, act: Act) -> list[Tensor]:
    """y and the gradients of x, gamma, beta and, if there is one, the residual."""
    y = act(case)
    return [y.detach(), *torch.autograd.grad(y, case.inputs, case.dy)]


def expected(case: Case) -> list[Tensor]:
    """The same in float64 by the formula."""
    return outcome(_doubled(case), lambda exact: F.relu(_sum(exact)) if exact.relu else _sum(exact))


def errors(have: list[Tensor], want: list[Tensor]) -> list[float]:
    """The largest difference of each, relative to its largest value."""
    assert [tuple(tensor.shape) for tensor in have] == [tuple(tensor.shape) for tensor in want]
    return [
        ((a.double() - b).abs().max() / b.abs().max()).item()
        for a, b in zip(have, want, strict=True)
    ]
