"""The exponential moving average of a network's weights, which is tested in their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """A shadow of a network: each float of it follows the network's, everything else is copied.

    After step t it becomes `d * shadow + (1 - d) * network`, d = min(decay, (1 + t) / (10 + t)):
    TensorFlow's warm-up, without which 0.9999 would still be half the initial weights after 6,900
    steps. Running statistics are averaged as the weights are.

    Args:
        model: the network, where its weights will stay; they are the first shadow.
        decay: the largest d, between 0 and 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._shadow = {name: value.clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Follows the network after its step number `step`, the first being 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        pairs = [(self._shadow[name], value) for name, value in model.state_dict().items()]
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
            [mine for mine, _ in floats], [new for _, new in floats], 1 - decay
        )
        for mine, new in pairs:
            if not mine.is_floating_point():
                mine.copy_(new)

    @contextmanager
    def in_place_of(self, model: nn.Module) -> Iterator[None]:
        """Puts the shadow into the network, and the network's own weights back afterwards.

        What is written into the network meanwhile, such as statistics of BN, is the shadow's.
        """
        self._exchange(model)
        try:
            yield
        finally:
            self._exchange(model)

    @torch.no_grad()
    def _exchange(self, model: nn.Module) -> None:
        for name, value in model.state_dict().items():
            held = value.clone()  # of one tensor at a time: no third copy of the network
            value.copy_(self._shadow[name])
            self._shadow[name].copy_(held)

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the shadow under the network's names; a view, not a copy."""
        return dict(self._shadow)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Makes `state`, of another life of this run, the shadow."""
        for name, mine in self._shadow.items():
            mine.copy_(state[name])
