"""One network of the study: trained from random weights on made-up clips, and tested."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from videogn import build
from videogn.config import Config
from videogn.data.dataset import ClipBatch
from videogn.data.order import epoch_order
from videogn.engine.distributed import Ranks
from videogn.engine.evaluate import clip_error
from videogn.engine.precise_bn import precise_bn
from videogn.engine.schedule import Schedule
from videogn.engine.train import Hooks, TrainState, train
from videogn.errors import TrainingDivergedError
from videogn.model import norm_factory
from videogn.model.i3d import I3DResNet
from videogn.model.swap import swap_norm
from videogn.study.clips import NUM_CLASSES, Look, MotionClips
from videogn.study.plan import Study, Trial

_AT_ONCE = 64  # clips that are made, and tested, together


def run_trial(study: Study, trial: Trial, *, test: bool) -> dict[str, Any]:
    """Returns what a network reached, in plain values.

    `val` and `test` are accuracies in percent with BN's statistics measured anew on training
    batches, as the paper's tests were; `val_running` and `test_running` with the running averages
    of training. `curve` holds [epoch, validation error] during training, with running averages.
    A network whose training diverged has `diverged`, the reason, instead of them.

    Args:
        study: what all trials share.
        trial: which network, with its rate.
        test: whether to look at the test split; a trial that is for choosing must not.
    """
    started, cpu_started = time.time(), time.process_time()
    config, counts = study.config(trial), study.clips
    device = build.pick_device(config)
    build.set_up_torch(config, device)
    look = Look(
        num_frames=trial.frames,
        size=config.data.crop_size,
        light=trial.light,
        clips_per_video=counts.clips_per_video,
        standardize=trial.standardize,
    )
    training = MotionClips(trial.seed, "train", counts.train, look, device)
    held_out = {
        split: MotionClips(counts.seed, split, count, look, device)
        for split, count in (("val", counts.val), ("test", counts.test))
        if test or split != "test"
    }
    network = _network(config, trial, training)
    result: dict[str, Any] = {"tested": test, "curve": []}
    state = build.build_state(config, network, device)
    schedule = build.build_schedule(config, counts.train, 1)
    try:
        _train(state, config, trial, training, schedule, held_out["val"], result["curve"])
        reached = {split: _accuracy(network, clips) for split, clips in held_out.items()}
        result |= {f"{split}_running": accuracy for split, accuracy in reached.items()}
        if precise_bn(network, _some(config, trial, training), to_input=_as_it_is):
            reached = {split: _accuracy(network, clips) for split, clips in held_out.items()}
        result |= reached
    except TrainingDivergedError as error:
        result["diverged"] = str(error)
    result["cpu_seconds"] = round(time.process_time() - cpu_started, 1)
    result["seconds"] = round(time.time() - started, 1)
    return result


def batches_of(trial: Trial, clips: MotionClips) -> Iterator[ClipBatch]:
    """Yields the training batches of a trial, epoch after epoch without end."""
    epoch = 0
    while True:
        order = _order(trial, clips, epoch)
        yield from _dealt(clips, order, trial.batch)
        epoch += 1


def _order(trial: Trial, clips: MotionClips, epoch: int) -> np.ndarray:
    if trial.order == "mixed":
        return epoch_order(clips.count, trial.seed, epoch)
    length = clips.look.clips_per_video
    videos = epoch_order(clips.count // length, trial.seed, epoch)
    return (videos[:, None] * length + np.arange(length)).reshape(-1)


def _dealt(clips: MotionClips, rows: np.ndarray, batch: int) -> Iterator[ClipBatch]:
    """Yields `rows` in batches; made in larger parts, which is quicker."""
    part = batch * max(_AT_ONCE // batch, 1)
    for first in range(0, len(rows), part):
        now = torch.from_numpy(rows[first : first + part])
        made, labels = clips.render(now), clips.labels[now].to(clips.device)
        yield from map(_batch, made.split(batch), labels.split(batch), now.split(batch))


def _batch(clips: Tensor, labels: Tensor, rows: Tensor) -> ClipBatch:
    return ClipBatch(clips, labels, rows, bad=[], missing=0)


def _some(config: Config, trial: Trial, clips: MotionClips) -> list[ClipBatch]:
    """Returns training batches to measure BN's statistics on."""
    wanted = config.eval.precise_bn_batches
    return [batch for batch, _ in zip(batches_of(trial, clips), range(wanted), strict=False)]


def _as_it_is(clips: Tensor) -> Tensor:
    return clips


def _accuracy(network: nn.Module, clips: MotionClips) -> float:
    """Returns top-1 accuracy, percent."""
    batches = _dealt(clips, np.arange(clips.count), _AT_ONCE)
    error = clip_error(network, batches, clips.count, to_input=_as_it_is)
    return round(100 - error["val/error_1clip_aug"], 3)


def _network(config: Config, trial: Trial, clips: MotionClips) -> I3DResNet:
    """Returns the network with the random weights of the trial's seed.

    Frozen BN without a pre-trained network has no statistics to freeze: it is given those of the
    random weights.
    """
    network = build.build_model(config, NUM_CLASSES).to(clips.device)
    if trial.norm == "frozen_bn":
        swap_norm(network, "bn")
        precise_bn(network, _some(config, trial, clips), to_input=_as_it_is)
        swap_norm(network, norm_factory("frozen_bn"))
    return network


def _train(
    state: TrainState,
    config: Config,
    trial: Trial,
    clips: MotionClips,
    schedule: Schedule,
    val: MotionClips,
    curve: list[list[float]],
) -> None:
    """Trains `state`; writes [epoch, validation error] to `curve` on the way."""

    def monitor(state: TrainState) -> None:
        error = round(100 - _accuracy(state.model, val), 3)
        curve.append([round(schedule.epoch(state.step), 4), error])

    train(
        state,
        batches_of(trial, clips),
        schedule=schedule,
        options=build.build_train_options(config),
        to_input=_as_it_is,
        ranks=Ranks(),
        hooks=Hooks(monitor=monitor),  # trials are short: one that is stopped begins again
    )
