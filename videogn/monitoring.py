"""What is measured between two epochs: the error of Fig. 7, on statistics of BN measured first."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from typing import TypeVar

import torch
from torch import nn

from videogn import build
from videogn.config import Config
from videogn.data.dataset import ClipBatch
from videogn.data.manifest import Manifest
from videogn.engine import distributed, watchdog
from videogn.engine.distributed import Ranks
from videogn.engine.evaluate import clip_error
from videogn.engine.percentiles import Percentiles, activation_percentiles
from videogn.engine.precise_bn import average_bn, measured_norms, precise_bn
from videogn.model.norm import named_norms

T = TypeVar("T")
log = logging.getLogger(__name__)

PERCENTILE_CLIPS = 8


@dataclass(frozen=True)
class Monitor:
    """Measures a network as it is; only its statistics of BN change.

    Attributes:
        config: resolved.
        train_data: for the statistics of BN.
        val_data: for the error.
        device: of the network.
        ranks: this process among the others.
        interrupted: whether a signal asked this process to end.
    """

    config: Config
    train_data: Manifest
    val_data: Manifest
    device: torch.device
    ranks: Ranks
    interrupted: Callable[[], bool]

    def measure(self, model: nn.Module, *, step: int, epoch: float) -> Mapping[str, float] | None:
        """Returns the errors in percent under training augmentation, over all ranks.

        None if a signal has broken it off on some rank; then the network is as it was.
        """
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        self._measure_bn(model, step)
        errors = self._errors(model, epoch)
        if not distributed.any_rank(self.interrupted()):
            return errors
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
        return None

    def percentiles(self, model: nn.Module) -> Percentiles:
        """Returns those of each normalization layer's input and output, as in Fig. 6.

        In evaluation mode, over the same 8 augmented validation clips each time: the network stays
        as it is, to the bit. For one rank alone.
        """
        watchdog.now("the percentiles of the features")
        batches = build.build_sample_loader(
            self.config,
            self.val_data,
            PERCENTILE_CLIPS,
            batch_size=self.config.optim.clips_per_gpu,
        )
        to_input = build.build_to_input(self.config, self.device)
        return activation_percentiles(model, named_norms(model), batches, to_input=to_input)

    def _errors(self, model: nn.Module, epoch: float) -> Mapping[str, float]:
        batches = build.build_monitor_loader(
            self.config, self.val_data, self.ranks, epoch=round(epoch)
        )
        batches = _until(self.interrupted, _named(batches))
        batches = watchdog.each(batches, "the monitoring", self.ranks)
        to_input = build.build_to_input(self.config, self.device)
        return clip_error(model, batches, len(self.val_data), to_input=to_input)

    def _measure_bn(self, model: nn.Module, step: int) -> None:
        """Measures BN's population statistics on coming training batches, at most an epoch's."""
        if not self.config.eval.precise_bn_batches:
            average_bn(model)
            return
        if not measured_norms(model):
            return
        per_rank = self.config.optim.clips_per_gpu * self.ranks.world
        count = min(self.config.eval.precise_bn_batches, ceil(len(self.train_data) / per_rank))
        start = step * self.config.optim.accumulate
        batches = build.build_train_loader(
            self.config, self.train_data, self.ranks, start=start, stop=start + count
        )
        batches = _all_ranks_have(_until(self._any_interrupted, batches))
        batches = watchdog.each(batches, "measuring BN's statistics", self.ranks)
        to_input = build.build_to_input(self.config, self.device)
        precise_bn(model, batches, to_input=to_input)

    def _any_interrupted(self) -> bool:
        return distributed.any_rank(self.interrupted())


def _until(stop: Callable[[], bool], items: Iterable[T]) -> Iterator[T]:
    """Yields `items` until `stop` says so."""
    for item in items:
        if stop():
            return
        yield item


def _all_ranks_have(batches: Iterable[ClipBatch]) -> Iterator[ClipBatch]:
    """Yields the `batches` that hold clips on every rank: layers may share statistics."""
    for batch in batches:
        if not distributed.any_rank(not len(batch.clips)):
            yield batch


def _named(batches: Iterable[ClipBatch]) -> Iterator[ClipBatch]:
    """Yields `batches`, naming the videos of each that could not be read."""
    for batch in batches:
        for video in batch.bad:
            log.warning("counts as an error: %s: %s", video.path, video.reason)
        yield batch
