"""What a run says in its log: what it begins with, and how it gets on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch

from videogn import advice
from videogn.beginning import Beginning
from videogn.config import Config
from videogn.data.manifest import Manifest
from videogn.engine.distributed import Ranks
from videogn.engine.divergence import BF16_ON_CPU
from videogn.engine.pace import WaitingAdvice
from videogn.engine.progress import duration
from videogn.engine.schedule import Schedule

log = logging.getLogger(__name__)


def announce(
    begun: Beginning,
    data: Mapping[str, Manifest],
    device: torch.device,
    ranks: Ranks,
    norm_impl: str,
    schedule: Schedule,
) -> None:
    """Says where a run begins and what it will do.

    Args:
        begun: the run.
        data: "train" and "val" videos.
        device: of this process.
        ranks: this process among the others.
        norm_impl: how norms are computed, in words.
        schedule: of the training.
    """
    config, parameters = begun.config, begun.state.model.parameters()
    log.info("run %s on %s, %d process(es)", begun.folder, device, ranks.world)
    log.info(begun.origin)
    log.info(
        "%s, %s norm, %s parameters, %d train and %d val videos of %d classes",
        config.model.arch,
        config.model.norm.kind.upper(),
        f"{sum(p.numel() for p in parameters):,}",
        len(data["train"]),
        len(data["val"]),
        len(data["train"].classes),
    )
    log.info("norm: %s", norm_impl)
    if config.optim.amp == "bf16" and device.type == "cpu":
        log.warning("%s; optim.amp=none is safe", BF16_ON_CPU)
    log.info(schedule.describe())
    limit = config.optim.max_steps
    if limit and limit < schedule.total_steps:
        log.info("stops after %d of these steps: optim.max_steps", limit)


def tell_step(
    record: Mapping[str, Any], seconds_left: float, config: Config, waiting: WaitingAdvice
) -> None:
    """Says what a record of training holds and, seldom, how the data could come faster.

    Args:
        record: of the steps since the last one.
        seconds_left: of the training.
        config: of the run.
        waiting: when to speak of the data.
    """
    log.info(
        "step %d epoch %.2f loss %.4f lr %.3g %.1f clips/s data %.0f %% %s left",
        record["step"],
        record["epoch"],
        record["loss"],
        record["lr"],
        record["clips_per_s"],
        100 * record["data_wait"],
        duration(seconds_left),
    )
    if waiting.is_due(record["data_wait"]):
        share, words = 100 * record["data_wait"], advice.for_waiting(config)
        log.info("%.0f %% of the time went by waiting for data: %s", share, words)
