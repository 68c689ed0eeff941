"""Numbers gone bad: found on all ranks at once, before they reach a weight."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from videogn.engine.distributed import all_sum, gather, world_size
from videogn.engine.state import Hooks, TrainOptions, TrainState
from videogn.errors import TrainingDivergedError

# Overflows of fp16 in a row that end training. The scaler begins at 2^16 and halves itself at
# each: after so many not even a 16th of the loss has a gradient below 65,504.
MAX_OVERFLOWS = 20

# PyTorch 2.15 (oneDNN, on a CPU with avx512_bf16) leaves some of a bf16 kernel's gradient unwritten
# where a clip has fewer frames than the kernel and more than one comes out, as 2 for a 3x1x1: what
# lay in memory is then taken for it, in some runs NaN, in others a number.
BF16_ON_CPU = "on a CPU PyTorch's gradients in bf16 may be wrong for clips of few frames"


def require_finite(
    state: TrainState,
    loss: Tensor,
    norm: Tensor,
    rows: Sequence[int],
    options: TrainOptions,
    hooks: Hooks,
) -> tuple[float, float]:
    """Returns the loss over all ranks, and the norm of the gradient, which is theirs already.

    Every rank decides the same, and before the update.

    Args:
        state: before the update.
        loss: of this rank.
        norm: of the gradient, over all ranks.
        rows: of this rank's clips.
        options: of the training.
        hooks: `diverged` is called with all ranks' losses and rows.

    Raises:
        TrainingDivergedError: one is not finite; an overflow of fp16, which its scaler skips, is
            none until there are too many in a row.
    """
    # One wait for the device tells both.
    mean, total = torch.stack([all_sum(loss) / world_size(), norm.to(loss.device)]).tolist()
    is_overflow = state.scaler.is_enabled() and not math.isfinite(total)
    state.overflows = state.overflows + 1 if is_overflow else 0
    if math.isfinite(mean) and (
        math.isfinite(total) or (is_overflow and state.overflows < MAX_OVERFLOWS)
    ):
        return mean, total
    name, value = ("gradient", total) if math.isfinite(mean) else ("loss", mean)
    rate = state.optimizer.param_groups[0]["lr"]
    hooks.diverged(
        {
            "step": state.step + 1,
            "loss": mean,
            "grad_norm": total,
            "lr": rate,
            "amp": options.amp,
            "ranks": gather({"loss": float(loss), "rows": list(rows)}),
        }
    )
    remedy = "look at the videos that diverged.json of the run names, or lower optim.base_lr"
    if name == "gradient" and _may_be_of_bf16_on_cpu(state.model, options):
        remedy = f"loss and weights are finite, and {BF16_ON_CPU}; try optim.amp=none"
    raise TrainingDivergedError(
        f"the {name} of step {state.step + 1} is {value} at lr {rate:g}; nothing was updated or "
        f"saved; {remedy}"
    )


def _may_be_of_bf16_on_cpu(model: nn.Module, options: TrainOptions) -> bool:
    weights = list(model.parameters())
    if options.amp != "bf16" or weights[0].device.type != "cpu":
        return False
    return all(bool(torch.isfinite(weight).all()) for weight in weights)
