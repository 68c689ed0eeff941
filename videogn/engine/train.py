"""Training, told from top to bottom: batches in, steps out, and whom to call on the way."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm

from videogn.engine.distributed import Ranks, all_sum, any_rank, world_size
from videogn.engine.schedule import Schedule
from videogn.errors import DataError, RunInterruptedError, TrainingDivergedError

log = logging.getLogger(__name__)

AMP_DTYPES = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}


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
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    step: int = 0
    best_error: float = math.inf
    losses: list[float] = field(default_factory=list)


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


@dataclass(frozen=True)
class Hooks:
    """Whom training calls: each is a plain function.

    Attributes:
        log: takes a record of plain values.
        bad: takes the videos of a batch that could not be read.
        save: keeps the state of this moment.
        monitor: measures the state between two epochs.
        interrupted: whether a signal asked this process to end.
    """

    log: Callable[[Mapping[str, Any]], None]
    bad: Callable[[Sequence[Any]], None]
    save: Callable[[TrainState], None]
    monitor: Callable[[TrainState], None]
    interrupted: Callable[[], bool]


def train(
    state: TrainState,
    batches: Iterator[Any],
    *,
    schedule: Schedule,
    options: TrainOptions,
    to_input: Callable[[Tensor], Tensor],
    ranks: Ranks,
    hooks: Hooks,
) -> None:
    """Trains `state` in place up to the schedule's last step.

    Args:
        state: to train, from `state.step` on.
        batches: this rank's micro-batches from that step on, with `clips`, `labels`, `bad`.
        schedule: rate and length.
        options: the rest of the recipe.
        to_input: uint8 clips (N, T, S, S, 3) -> the network's input.
        ranks: this process among the others.
        hooks: whom to call.

    Raises:
        TrainingDivergedError: the loss on some rank is not finite; nothing was updated.
        RunInterruptedError: a signal came; the state is saved.
    """
    model = _wrap(state.model, ranks)
    clock = _Clock()
    last = min(schedule.total_steps, options.max_steps or schedule.total_steps)
    while state.step < last:
        rate = schedule.lr(state.step)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        # Dropout is a function of (seed, step, rank): a resumed run draws what it would have.
        torch.manual_seed(_dropout_seed(options.seed, state.step, ranks.rank))
        model.train()
        state.losses.append(_step(model, state, batches, options, to_input, clock, hooks.bad))
        state.step += 1
        clock.steps += 1
        if state.step % options.log_every_steps == 0 or state.step == last:
            hooks.log(_record(state, schedule, rate, clock))
        if _crossed(schedule, state.step, options.monitor_every_epochs) or state.step == last:
            hooks.monitor(state)
            clock.restart()
        if any_rank(hooks.interrupted()):
            hooks.save(state)
            raise RunInterruptedError(
                f"interrupted at step {state.step} of {last}; the checkpoint is saved, and the "
                "same command goes on from it"
            )
        if state.step % options.save_every_steps == 0 or state.step == last:
            hooks.save(state)
            clock.restart()


def _step(
    model: nn.Module,
    state: TrainState,
    batches: Iterator[Any],
    options: TrainOptions,
    to_input: Callable[[Tensor], Tensor],
    clock: _Clock,
    report_bad: Callable[[Sequence[Any]], None],
) -> float:
    """Takes one optimizer step over `accumulate` micro-batches; returns the loss over all ranks."""
    state.optimizer.zero_grad(set_to_none=True)
    device = next(model.parameters()).device
    dtype = AMP_DTYPES[options.amp]
    total = 0.0
    world = world_size()
    for micro in range(options.accumulate):
        batch = clock.wait_for(batches)
        if batch.bad:
            report_bad(batch.bad)
        if any_rank(batch.missing > 0):
            raise DataError(
                f"{batch.missing} clips of step {state.step + 1} could not be read, nor any of the "
                f"videos tried in their place ({[bad.path for bad in batch.bad[-1:]]}, on this rank"
                "); check data.root"
            )
        clips, labels = to_input(batch.clips), batch.labels.to(device, non_blocking=True)
        with contextlib.ExitStack() as stack:
            if micro < options.accumulate - 1 and isinstance(model, DistributedDataParallel):
                stack.enter_context(model.no_sync())  # gradients meet once, at the last
            if dtype is not None:
                stack.enter_context(torch.autocast(device.type, dtype))
            loss = F.cross_entropy(model(clips), labels) / options.accumulate
            # One number tells every rank the loss of all, and whether any is not finite.
            loss_of_all = float(all_sum(loss.detach().float())) / world
            if not math.isfinite(loss_of_all):
                raise TrainingDivergedError(
                    f"the loss of step {state.step + 1} is {loss_of_all} (rows of this rank's "
                    f"videos: {batch.rows.tolist()}); nothing was updated; lower optim.base_lr"
                )
            state.scaler.scale(loss).backward()
        total += loss_of_all
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    # The gradients are the same on every rank by now; fp16's scaler skips overflows by itself.
    if not state.scaler.is_enabled() and not bool(get_total_norm(gradients).isfinite()):
        raise TrainingDivergedError(
            f"the gradient of step {state.step + 1} is not finite; nothing was updated; lower "
            "optim.base_lr"
        )
    state.scaler.step(state.optimizer)
    state.scaler.update()
    return total


class _Clock:
    """Time since the last record: how much of it there was, and how much went by waiting."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begins anew, as after a test in between."""
        self.steps, self.waited, self.since = 0, 0.0, time.perf_counter()

    def wait_for(self, batches: Iterator[Any]) -> Any:
        """Returns the next batch, counting the wait."""
        begin = time.perf_counter()
        batch = next(batches)
        self.waited += time.perf_counter() - begin
        return batch


def _record(state: TrainState, schedule: Schedule, rate: float, clock: _Clock) -> dict[str, Any]:
    """Returns the record of the steps since the last one, and begins the next."""
    seconds = max(time.perf_counter() - clock.since, 1e-9)
    record = {
        "step": state.step,
        "epoch": schedule.epoch(state.step),
        "split": "train",
        "loss": sum(state.losses) / len(state.losses),
        "lr": rate,
        "clips_per_s": clock.steps * schedule.global_batch / seconds,
        "data_wait": clock.waited / seconds,
    }
    state.losses.clear()
    clock.restart()
    return record


def _wrap(model: nn.Module, ranks: Ranks) -> nn.Module:
    """Returns the network whose gradients are averaged over ranks.

    BN's buffers stay each rank's own: statistics per GPU are what the paper's batch sizes mean.
    """
    if ranks.world == 1:
        return model
    device = next(model.parameters()).device
    ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False)


def _dropout_seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0])


def _crossed(schedule: Schedule, step: int, every_epochs: float) -> bool:
    """Returns whether the last step ended an epoch, or a multiple of `every_epochs` of them."""
    now, before = (int(schedule.epoch(s) / every_epochs + 1e-9) for s in (step, step - 1))
    return now > before
