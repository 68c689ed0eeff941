"""One of two processes that normalize together: `python -m tests.model.sync_ranks RANK STORE OUT`.

Writes what the layer made of this process's clips. The first has three clips, the second two, or
none in the second round.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from videogn.model.norm import norm_factory

CLIPS = [(3, 2), (3, 0)]  # of each process, by round


def inputs(of_round: int) -> tuple[Tensor, Tensor, Tensor]:
    """Clips, residual and gradient of all processes, float64 (N, 4, 2, 3, 3)."""
    random = torch.Generator().manual_seed(of_round)
    shape = (sum(CLIPS[of_round]), 4, 2, 3, 3)
    x, residual, upstream = (
        torch.randn(shape, dtype=torch.float64, generator=random) for _ in range(3)
    )
    return x * torch.arange(1, 5).view(1, 4, 1, 1, 1) + 3, residual, upstream


def layer_of(kind: str) -> Any:
    """A layer with gamma and beta of its own."""
    layer = norm_factory(kind, momentum=0.3)(4).double()  # type: ignore[arg-type]
    layer.weight.data.copy_(torch.tensor([1.0, -0.5, 2.0, 0.1]))  # type: ignore[union-attr]
    layer.bias.data.copy_(torch.tensor([0.5, 0.0, -1.0, 2.0]))  # type: ignore[union-attr]
    return layer


def results(layer: Any, x: Tensor, residual: Tensor, upstream: Tensor) -> list[Tensor]:
    """Result, gradients and running statistics after one call in training."""
    x, residual = x.clone().requires_grad_(), residual.clone().requires_grad_()
    y = layer(x, residual, True)
    grads = torch.autograd.grad(y, [x, residual, layer.weight, layer.bias], upstream)
    return [y.detach(), *grads, layer.running_mean.clone(), layer.running_var.clone()]


def main() -> None:
    """Normalizes this process's share."""
    rank, store, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    layer = layer_of("sync_bn")
    made = []
    for i, clips in enumerate(CLIPS):
        start = sum(clips[:rank])
        share = [each[start : start + clips[rank]] for each in inputs(i)]
        made.append(results(layer, *share))
    torch.save(made, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
