"""What to change in a configuration when a machine is not enough for it: overrides, best first."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch

from videogn import build
from videogn.config import Config, config_from, to_dict
from videogn.errors import ConfigError

# As many as one sentence can hold.
_MOST = 3


def for_training_memory(config: Config, device: torch.device) -> list[str]:
    """Returns three overrides with which a step on `device` needs less memory.

    The first ones leave the experiment what it is, as far as its norm does: the statistics of BN
    are those of the clips that go through it at once. bf16 is none of them on a CPU, where its
    gradients may be wrong (`engine.divergence`).
    """
    optim, data = config.optim, config.data
    wanted = [
        _fewer_clips(config),
        "model.recompute=block" if config.model.recompute != "block" else "",
        "optim.amp=bf16" if optim.amp == "none" and device.type != "cpu" else "",
        f"data.num_frames={data.num_frames // 2}",
        f"data.crop_size={data.crop_size // 64 * 32}",
        f"model.width={config.model.width // 2}",
    ]
    return _accepted(config, wanted)


def for_test_memory(config: Config) -> list[str]:
    """Returns three overrides with which a test needs less memory; the first changes no result."""
    ev, data = config.eval, config.data
    wanted = [
        f"eval.views_per_forward={ev.views_per_forward // 2}",
        f"eval.short_side={data.crop_size}" if ev.short_side > data.crop_size else "",
        "eval.crops=center" if ev.crops != "center" else "",
        f"data.num_workers={data.num_workers // 2}" if data.num_workers else "",
        f"eval.num_clips={ev.num_clips // 2}",
    ]
    return _accepted(config, wanted)


def for_waiting(config: Config, cores: int | None = None) -> str:
    """Returns what lets the data come faster, in words.

    Args:
        config: of the run.
        cores: that this process may use, if not the real ones.
    """
    cores = cores or build.cores()
    workers, together = config.data.num_workers, config.data.clips_per_decode
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if (workers + 1) * ranks < cores:
        return f"raise data.num_workers from {workers}: there are {cores} cores for {ranks} process"
    smaller = "re-encode the videos smaller (python -m data_prep reencode)"
    if together == 1 and config.optim.clips_per_gpu % 2 == 0:
        smaller += ", or set data.clips_per_decode=2, which takes two clips of each video read"
    return f"all {cores} cores are used; {smaller}"


def _fewer_clips(config: Config) -> str:
    """Returns how the same step is made of more and smaller micro-batches; "" if it cannot be."""
    clips = config.optim.clips_per_gpu
    parts = next((part for part in range(2, clips + 1) if clips % part == 0), 1)
    if parts == 1:
        return ""
    accumulate = config.optim.accumulate * parts
    return f"optim.clips_per_gpu={clips // parts} optim.accumulate={accumulate}"


def _accepted(config: Config, wanted: Iterable[str]) -> list[str]:
    """Returns the first of the `wanted` overrides that the rest of the configuration allows."""
    return [words for words in wanted if words and _is_accepted(config, words)][:_MOST]


def _is_accepted(config: Config, words: str) -> bool:
    try:
        config_from(to_dict(config), words.split())
    except ConfigError:
        return False
    return True
