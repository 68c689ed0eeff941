"""The noise of BN beside that of GN, for a checkpoint and clips of its data."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from math import gcd
from statistics import median
from typing import Any

from torch import Tensor, nn

from videogn.analysis.batch_noise import (
    AnswerNoise,
    LayerNoise,
    answer_noise,
    clip_moments,
    statistics_noise,
)
from videogn.engine.progress import track
from videogn.errors import DataError
from videogn.model.fused_norm import GroupNorm
from videogn.model.norm import named_norms
from videogn.model.swap import swap_norm

SIZES = (2, 4, 8, 16, 32)
_GROUPS = 32
FEWEST_CLIPS = 8  # of fewer, a clip would meet the same company again


@dataclass(frozen=True)
class Noise:
    """What batches of 2, 4, ... clips do to statistics and answers.

    Attributes:
        clips: that batches were drawn from.
        rounds: companies that each clip had.
        statistics: clips of a batch -> layer -> noise of BN's statistics of the layer's input.
        answers: network -> clips of a batch -> noise of its answers.
    """

    clips: int
    rounds: int
    statistics: dict[int, dict[str, LayerNoise]]
    answers: dict[str, dict[int, AnswerNoise]]

    def medians(self, size: int) -> LayerNoise:
        """Returns the medians over the layers for batches of `size`."""
        layers = self.statistics[size].values()
        return LayerNoise(
            median(layer.mean for layer in layers), median(layer.scale for layer in layers)
        )

    def plain(self) -> dict[str, Any]:
        """Returns it as plain values for json."""
        return asdict(self)


def measure_noise(model: nn.Module, inputs: Sequence[Tensor], norm: str, *, rounds: int) -> Noise:
    """Returns the noise of a network's layers and answers, and of the answers with GN.

    A network without GN stands beside a copy of it whose layers are GN with the same gamma and
    beta. The copy has learned nothing, and shows only whether its answers depend on company.

    Args:
        model: with its weights.
        inputs: normalized clips (3, T, H, W) on its device.
        norm: its kind, in capitals.
        rounds: companies for each clip.

    Raises:
        DataError: fewer than 8 clips.
    """
    sizes = [size for size in SIZES if 2 * size <= len(inputs)]
    if len(inputs) < FEWEST_CLIPS:
        raise DataError(
            f"only {len(inputs)} clips could be read, and {FEWEST_CLIPS} are needed to measure the "
            "noise of batches; give more with --clips or data.root"
        )
    passed = track(inputs, total=len(inputs), what="statistics", unit="clips")
    moments = clip_moments(model, named_norms(model), passed)
    statistics = {
        size: {name: statistics_noise(found, size) for name, found in moments.items()}
        for size in sizes
    }
    networks = {norm: model}
    if norm != "GN":
        networks["GN in its place"] = swap_norm(deepcopy(model), _group_norm)
    answers = {
        name: {
            size: answer_noise(
                network, inputs, size, rounds=rounds, shown=partial(_shown, f"{name}, {size} clips")
            )
            for size in sizes
        }
        for name, network in networks.items()
    }
    return Noise(len(inputs), rounds, statistics, answers)


def _shown(what: str, batches: Any, total: int) -> Any:
    return track(batches, total=total, what=f"answers of {what} a batch", unit="batches")


def _group_norm(channels: int) -> GroupNorm:
    """Returns GN with 32 groups, or as many as divide the channels of a thin network."""
    return GroupNorm(gcd(_GROUPS, channels), channels)
