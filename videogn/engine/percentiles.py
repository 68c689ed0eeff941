"""How the features of each layer are distributed: the percentiles of arXiv:1803.08494, Fig. 6."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

PERCENTS = (1, 20, 80, 99)
_MOST = 1 << 16  # values looked at of a layer in a clip: over 8 clips a share is sure to 0.1 points

# layer -> "in" or "out" -> a value for each of PERCENTS, None where it is not finite
Percentiles = dict[str, dict[str, list[float | None]]]


class _Sampler:
    """Keeps values that enter and leave a normalization, before what is fused into its call."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self.generator = torch.Generator().manual_seed(0)
        self.entering: list[Tensor] = []
        self.leaving: list[Tensor] = []

    def __call__(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Called before the layer with what it will be called with."""
        x = inputs[0]
        y = self.layer.forward(x)  # not called: no hook, addition or ReLU
        for entering, leaving in zip(x, y, strict=True):  # clips count the same in any batch
            places = _places(entering.numel(), self.generator)
            self.entering.append(_picked(entering, places))
            self.leaving.append(_picked(leaving, places))

    def percentiles(self) -> dict[str, list[float | None]]:
        """Returns those of all that was kept."""
        return {"in": _percentiles(self.entering), "out": _percentiles(self.leaving)}


@torch.inference_mode()
def activation_percentiles(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    batches: Iterable[Any],
    *,
    to_input: Callable[[Tensor], Tensor],
) -> Percentiles:
    """Returns percentiles of what enters and leaves each of `layers`, in evaluation mode.

    The model is left in the mode it came in, and otherwise as it was. Of a large map 65,536 values
    of each clip are looked at, at random places, the same every time. How clips are dealt into
    batches makes no difference.

    Args:
        model: clips -> anything.
        layers: its normalization layers by name.
        batches: with `clips`, uint8 (N, T, S, S, 3).
        to_input: those -> the network's input, on its device.
    """
    samplers = {name: _Sampler(layer) for name, layer in layers.items()}
    training = model.training
    model.eval()
    with ExitStack() as hooks:
        for sampler in samplers.values():
            hooks.callback(sampler.layer.register_forward_pre_hook(sampler).remove)
        for batch in batches:
            if len(batch.clips):
                model(to_input(batch.clips))
    model.train(training)
    return {name: sampler.percentiles() for name, sampler in samplers.items()}


def _places(number: int, generator: torch.Generator) -> Tensor | None:
    """Returns where to look in so many values; None for everywhere."""
    return torch.randint(number, (_MOST,), generator=generator) if number > _MOST else None


def _picked(x: Tensor, places: Tensor | None) -> Tensor:
    """Returns the values of a tensor at `places`, float32 on the CPU."""
    values = x.flatten()
    if places is not None:
        values = values[places.to(values.device)]
    return values.float().cpu().clone()


def _percentiles(parts: list[Tensor]) -> list[float | None]:
    if not parts:
        return [None] * len(PERCENTS)
    ordered = torch.cat(parts).sort().values  # NaN comes last
    if not ordered[-1].isfinite() or not ordered[0].isfinite():
        return [None] * len(PERCENTS)
    # By hand: torch.quantile refuses more than 16 million values.
    places = [percent / 100 * (len(ordered) - 1) for percent in PERCENTS]
    low = [ordered[int(place)].item() for place in places]
    high = [ordered[min(int(place) + 1, len(ordered) - 1)].item() for place in places]
    return [
        a + (b - a) * (place - int(place)) for a, b, place in zip(low, high, places, strict=True)
    ]
