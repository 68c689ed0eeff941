"""The learning rate as a pure function of the step, and which parameters decay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Schedule:
    """Steps, epochs and the rate between them.

    Attributes:
        num_samples: clips in one epoch.
        global_batch: clips in one step, over all ranks and accumulated micro-batches.
        epochs: length of the training; floats are allowed, 109.1 is 400k steps of Kinetics.
        base_lr: rate for `base_batch` clips.
        base_batch: see `base_lr`.
        milestones: epochs at which the rate is multiplied by `gamma`.
        gamma: see `milestones`.
        warmup_epochs: the rate rises linearly from zero over as many epochs.
    """

    num_samples: int
    global_batch: int
    epochs: float
    base_lr: float
    base_batch: int
    milestones: Sequence[float] = ()
    gamma: float = 0.1
    warmup_epochs: float = 0.0

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return max(round(self.epochs * self.num_samples / self.global_batch), 1)

    @property
    def peak_lr(self) -> float:
        """The rate after linear scaling (arXiv:1706.02677): proportional to the batch."""
        return self.base_lr * self.global_batch / self.base_batch

    def epoch(self, step: int) -> float:
        """Returns how often the data has been seen after `step` steps."""
        return step * self.global_batch / self.num_samples

    def lr(self, step: int) -> float:
        """Returns the rate of the step that follows `step` finished ones."""
        epoch = self.epoch(step)
        rate = self.peak_lr * self.gamma ** sum(epoch >= at for at in self.milestones)
        if epoch < self.warmup_epochs:
            rate *= min(self.epoch(step + 1) / self.warmup_epochs, 1.0)
        return rate

    def crosses(self, step: int, every_epochs: float) -> bool:
        """Returns whether a step ended a multiple of `every_epochs` epochs; of 0, none does."""
        if not every_epochs:
            return False
        now, before = (int(self.epoch(s) / every_epochs + 1e-9) for s in (step, step - 1))
        return now > before

    def describe(self) -> str:
        """Returns the arithmetic of the rate and the steps, for the log."""
        return (
            f"lr {self.peak_lr:g} = {self.base_lr:g} x {self.global_batch} clips / "
            f"{self.base_batch}; {self.total_steps} steps = {self.epochs:g} epochs x "
            f"{self.num_samples} videos / {self.global_batch} clips"
        )


def parameter_groups(
    model: nn.Module, *, weight_decay: float, weight_decay_norm: float, norms: Sequence[nn.Module]
) -> list[dict[str, Any]]:
    """Returns optimizer groups: gamma and beta of `norms` decay by `weight_decay_norm`.

    Everything else decays by `weight_decay`, the classifier's bias included, as in
    video-nonlocal-net. The layers come as a list because torch has no common base for them:
    a test for its private one misses GroupNorm.
    """
    of_norm = {id(p) for norm in norms for p in norm.parameters()}
    decayed = [p for p in model.parameters() if id(p) not in of_norm]
    kept = [p for p in model.parameters() if id(p) in of_norm]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": kept, "weight_decay": weight_decay_norm},
    ]
