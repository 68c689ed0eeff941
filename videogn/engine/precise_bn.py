"""BN's population statistics measured on the weights as they are, before they are used.

The running averages of training lag behind the weights and never served video-nonlocal-net's
tests either: before each it measured E[x] and E[x^2] over 200 batches (`bn_helper.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from videogn.engine.distributed import all_sum, world_size


class _Moments:
    """Sums of one layer's batch means and mean squares, in float64."""

    def __init__(self, layer: _BatchNorm) -> None:
        self.layer = layer
        self.mean = torch.zeros(layer.num_features, dtype=torch.float64)
        self.square = torch.zeros_like(self.mean)

    def __call__(self, _: nn.Module, inputs: tuple[Tensor, ...], __: Tensor) -> None:
        """Reads the batch's own statistics, which momentum 1 left in the buffers.

        Where the buffers hold others (of parts of the batch, of all ranks) it takes them itself.
        """
        if not getattr(self.layer, "statistics_are_the_batchs", True):
            x = inputs[0].detach().double()
            var, mean = torch.var_mean(x, [a for a in range(x.dim()) if a != 1], correction=0)
            self.mean += mean.cpu()
            self.square += (var + mean**2).cpu()
            return
        assert self.layer.running_mean is not None
        assert self.layer.running_var is not None
        count = inputs[0].numel() // self.layer.num_features
        mean = self.layer.running_mean.cpu().double()
        # The buffer holds the unbiased variance; E[x^2] needs the biased one.
        variance = self.layer.running_var.cpu().double() * ((count - 1) / count)
        self.mean += mean
        self.square += variance + mean**2


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Returns the layers that keep running statistics; none in a network of GN, LN or IN."""
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    return [layer for layer in layers if layer.track_running_stats]


def measured_norms(model: nn.Module) -> list[_BatchNorm]:
    """Returns the layers whose statistics are those of a population, for `precise_bn` to measure.

    Batch Renorm is trained to be tested with its running statistics, and is left with them.
    """
    layers = batch_norms(model)
    return [layer for layer in layers if getattr(layer, "statistics_are_populations", True)]


@torch.no_grad()
def precise_bn(
    model: nn.Module, batches: Iterable[Any], *, to_input: Callable[[Tensor], Tensor]
) -> int:
    """Writes population statistics into BN's running buffers; returns the batches seen.

    Each buffer becomes E[x], and E[x^2] - E[x]^2, averaged over all batches of all ranks in
    float64, the same on every rank. The weights do not change. Does nothing without BN.

    Args:
        model: bare (not wrapped) network; left in train mode or not, as it came.
        batches: training batches with `clips`, uint8 (N, T, S, S, 3).
            Where layers share statistics among ranks, every rank must have as many.
        to_input: those -> the network's input, on its device.
    """
    layers = measured_norms(model)
    if not layers:
        return 0
    moments = [_Moments(layer) for layer in layers]
    momenta = [layer.momentum for layer in layers]
    training = model.training
    seen = 0
    with ExitStack() as hooks:
        for layer, moment in zip(layers, moments, strict=True):
            layer.momentum = 1.0
            hooks.callback(layer.register_forward_hook(moment).remove)
        model.train()
        for batch in batches:
            if len(batch.clips):
                model(to_input(batch.clips))
                seen += 1
    model.train(training)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    _write(moments, seen)
    return seen


@torch.no_grad()
def average_bn(model: nn.Module) -> None:
    """Makes BN's running statistics the mean over ranks, each of which saw clips of its own.

    Running averages are linear, so this is the average of all ranks' batches, whenever it is
    taken; taken after every step, it does not depend on when anything is saved.
    """
    buffers = [b for layer in batch_norms(model) for b in (layer.running_mean, layer.running_var)]
    buffers = [buffer for buffer in buffers if buffer is not None]
    if not buffers or world_size() == 1:
        return
    means = all_sum(torch.cat(buffers)) / world_size()
    for buffer, mean in zip(buffers, means.split([len(b) for b in buffers]), strict=True):
        buffer.copy_(mean)


def _write(moments: list[_Moments], seen: int) -> None:
    total = int(all_sum(torch.tensor(seen)))
    if total == 0:
        return
    for moment in moments:
        mean = all_sum(moment.mean) / total
        variance = all_sum(moment.square) / total - mean**2
        assert moment.layer.running_mean is not None
        assert moment.layer.running_var is not None
        moment.layer.running_mean.copy_(mean)
        moment.layer.running_var.copy_(variance)
