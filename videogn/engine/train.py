"""Training, told from top to bottom: batches in, steps out, and whom to call on the way."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from videogn.engine import watchdog
from videogn.engine.distributed import Ranks, all_sum, any_rank, gather
from videogn.engine.divergence import require_finite
from videogn.engine.memory import peak_mb
from videogn.engine.pace import Clock
from videogn.engine.precise_bn import average_bn
from videogn.engine.schedule import Schedule
from videogn.engine.state import Hooks, TrainOptions, TrainState
from videogn.errors import DataError, RunInterruptedError

AMP_DTYPES = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}


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
        TrainingDivergedError: a loss or gradient is not finite, on all ranks if on one; nothing
            was updated.
        DataError: nothing could be read for some clip of some rank.
        RunInterruptedError: a signal came; the state is saved.
    """
    model = compiled(_wrap(state.model, ranks), options.compile)
    clock = Clock()
    last = min(schedule.total_steps, options.max_steps or schedule.total_steps)
    if state.step == 0 and options.percentiles_every_epochs:
        hooks.look(state)
    while state.step < last:
        watchdog.now(f"step {state.step + 1}")
        rate = schedule.lr(state.step)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        # Dropout is a function of (seed, step, rank): a resumed run draws what it would have.
        torch.manual_seed(_dropout_seed(options.seed, state.step, ranks.rank))
        model.train()
        loss, grad_norm = _step(model, state, batches, options, to_input, clock, hooks)
        state.step += 1
        state.losses.append(loss)
        hooks.stepped(loss)
        if state.step % options.log_every_steps == 0 or state.step == last:
            hooks.log(_record(state, schedule, rate, grad_norm, clock))
        if schedule.crosses(state.step, options.monitor_every_epochs) or state.step == last:
            hooks.monitor(state)
            clock.restart()
        if schedule.crosses(state.step, options.percentiles_every_epochs):
            hooks.look(state)
            clock.restart()
        watchdog.now(f"what follows step {state.step}")
        if any_rank(hooks.interrupted()):
            hooks.save(state)
            raise RunInterruptedError(
                f"interrupted at step {state.step} of {last}; the checkpoint is saved, and the "
                "same command goes on from it"
            )
        if state.step % options.save_every_steps == 0 or state.step == last:
            hooks.save(state)
            clock.restart()
    watchdog.now(None)


def _step(
    model: nn.Module,
    state: TrainState,
    batches: Iterator[Any],
    options: TrainOptions,
    to_input: Callable[[Tensor], Tensor],
    clock: Clock,
    hooks: Hooks,
) -> tuple[float, float]:
    """Takes one optimizer step over `accumulate` micro-batches; returns its loss and gradient norm.

    Both are of all ranks; the norm is that before clipping.
    """
    state.optimizer.zero_grad(set_to_none=True)
    rows, losses = [], []
    for micro in range(options.accumulate):
        batch = _next_batch(batches, clock, hooks, state.step + 1)
        rows += batch.rows.tolist()
        is_last = micro == options.accumulate - 1
        losses.append(_backward(model, state.scaler, batch, options, to_input, is_last=is_last))
    state.scaler.unscale_(state.optimizer)
    parameters = [p for p in state.model.parameters() if p.grad is not None]
    norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
    loss, grad_norm = require_finite(state, torch.stack(losses).sum(), norm, rows, options, hooks)
    if options.clip_grad is not None:
        clip_grads_with_norm_(parameters, options.clip_grad, norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    average_bn(state.model)
    if state.ema is not None:
        state.ema.update(state.model, state.step + 1)
    clock.steps += 1
    return loss, grad_norm


def _next_batch(batches: Iterator[Any], clock: Clock, hooks: Hooks, step: int) -> Any:
    """Returns this rank's next micro-batch, complete; what is wrong with any rank's, all hear."""
    batch = clock.wait_for(batches)
    bad, missing = all_sum(torch.tensor([len(batch.bad), batch.missing])).tolist()
    if bad:
        videos = [video for part in gather(list(batch.bad)) for video in part]
        hooks.bad(videos)
        if missing:
            raise DataError(
                f"{missing} clips of step {step} could not be read, nor any of the videos tried in "
                f"their place (the last of them {videos[-1].path}); check data.root"
            )
    return batch


def _backward(
    model: nn.Module,
    scaler: torch.amp.GradScaler,
    batch: Any,
    options: TrainOptions,
    to_input: Callable[[Tensor], Tensor],
    *,
    is_last: bool,
) -> Tensor:
    """Adds the gradient of a micro-batch, its share of the step's; returns the share of the loss.

    The loss stays on the device, which need not be waited for here.
    """
    device, dtype = next(model.parameters()).device, AMP_DTYPES[options.amp]
    clips, labels = to_input(batch.clips), batch.labels.to(device, non_blocking=True)
    with contextlib.ExitStack() as stack:
        if not is_last:  # gradients meet once, at the last
            no_sync: Any = getattr(model, "no_sync", contextlib.nullcontext)
            stack.enter_context(no_sync())
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            loss = F.cross_entropy(model(clips), labels) / options.accumulate
        scaler.scale(loss).backward()
    return loss.detach().float()


def _record(
    state: TrainState, schedule: Schedule, rate: float, grad_norm: float, clock: Clock
) -> dict[str, Any]:
    """Returns the record of the steps since the last one, and begins the next.

    What differs between ranks is that of the worst: the others wait for it.
    """
    seconds = clock.seconds
    device = next(state.model.parameters()).device
    waits, peaks = zip(*gather((clock.waited / seconds, peak_mb(device))), strict=True)
    record = {
        "step": state.step,
        "epoch": schedule.epoch(state.step),
        "split": "train",
        "loss": sum(state.losses) / len(state.losses),
        "lr": rate,
        "grad_norm": grad_norm if math.isfinite(grad_norm) else None,  # an overflow of fp16
        "clips_per_s": clock.steps * schedule.global_batch / seconds,
        "data_wait": max(waits),
        "memory_mb": max(peaks),
    }
    if state.scaler.is_enabled():
        record["loss_scale"] = state.scaler.get_scale()
    state.losses.clear()
    clock.restart()
    return record


def _wrap(model: nn.Module, ranks: Ranks) -> nn.Module:
    """Returns the network whose gradients are averaged over ranks.

    Each rank's BN normalizes with the statistics of its own clips: per GPU is what the paper's
    batch sizes mean. Only their running averages meet, after every step.
    """
    if ranks.world == 1:
        return model
    device = next(model.parameters()).device
    ids = [device.index] if device.type == "cuda" else None
    with warnings.catch_warnings():
        # It has another name from torch 2.15 on, which the releases before do not know.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        return DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False)


def compiled(model: nn.Module, how: str) -> nn.Module:
    """Returns what computes as `model` does, with its parameters; `model` itself is left alone."""
    if how == "none":
        return model
    mode = "reduce-overhead" if how == "graphs" else "default"
    made: Any = torch.compile(model, mode=mode, dynamic=False)
    return made


def _dropout_seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0])
