"""What training is made of: what a step changes, how to train, and whom to call on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from videogn.engine.ema import Ema


@dataclass
class TrainState:
    """Everything a step changes.

    Attributes:
        model: bare network, clips -> logits.
        optimizer: SGD over its parameters.
        scaler: of the loss, for fp16; disabled otherwise.
        step: optimizer steps finished.
        best_error: lowest monitored error so far, percent.
        losses: of the steps since the last record, over all ranks.
        overflows: steps in a row that fp16's scaler has skipped.
        ema: average of the weights, tested in their place; None without.
        unmeasured: whether a signal broke off the measuring due after the last step.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    step: int = 0
    best_error: float = math.inf
    losses: list[float] = field(default_factory=list)
    overflows: int = 0
    ema: Ema | None = None
    unmeasured: bool = False

    def averaged(self) -> AbstractContextManager[None]:
        """Has the network hold what is tested, within the context: its average if there is one."""
        return self.ema.in_place_of(self.model) if self.ema else nullcontext()


@dataclass(frozen=True)
class TrainOptions:
    """How to train; see the `optim` section of a config."""

    accumulate: int
    amp: str
    max_steps: int | None
    seed: int
    monitor_every_epochs: float
    log_every_steps: int
    save_every_steps: int
    clip_grad: float | None = None
    compile: Literal["none", "compile", "graphs"] = "none"
    percentiles_every_epochs: float = 0.0


@dataclass(frozen=True)
class Hooks:
    """Whom training calls: each is a plain function, called on every rank; by default nobody.

    Attributes:
        log: takes a record of plain values.
        bad: takes the videos of a micro-batch that could not be read, of all ranks.
        diverged: takes a record of the step whose numbers have gone bad, before it is an error.
        stepped: takes the loss of every step.
        save: keeps the state of this moment.
        monitor: measures the state between two epochs.
        interrupted: whether a signal asked this process to end.
        look: looks at the features of the state, before the first step and between epochs.
    """

    log: Callable[[Mapping[str, Any]], None] = lambda _: None
    bad: Callable[[Sequence[Any]], None] = lambda _: None
    diverged: Callable[[Mapping[str, Any]], None] = lambda _: None
    stepped: Callable[[float], None] = lambda _: None
    save: Callable[[TrainState], None] = lambda _: None
    monitor: Callable[[TrainState], None] = lambda _: None
    interrupted: Callable[[], bool] = lambda: False
    look: Callable[[TrainState], None] = lambda _: None
