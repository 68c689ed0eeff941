"""How noisy BN's statistics are in batches of n clips: the argument of arXiv:1803.08494, measured.

Two measurements. The *statistics* are those that BN would compute of a layer's input, whatever the
layer is: each clip goes through the network once, by itself, and the mean and variance of any
batch follow from those of its clips. The *answers* are what the network in training mode says of
a clip in one company and in another: that is what BN does with the noise, and what GN is free of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

DRAWS = 256  # batches of each size that the statistics are taken of


@dataclass(frozen=True)
class LayerNoise:
    """How the statistics of a layer's input differ between batches of n clips.

    Attributes:
        mean: deviation of the batch's mean, in standard deviations of the feature; root mean
            square over channels.
        scale: that of the logarithm of the batch's standard deviation: 0.1 is about 10 %.
    """

    mean: float
    scale: float


@dataclass(frozen=True)
class AnswerNoise:
    """How the logits of a clip depend on the other n - 1 clips of its batch.

    Attributes:
        change: their deviation from the clip's average over its companies, relative to the
            length of that average; root mean square over clips. Logits count from their mean.
        cosine: between the two, averaged.
        flips: share of the answers whose top class is not the one told in evaluation.
        largest: the largest change of any logit; 0.0 only if every bit is the same.
    """

    change: float
    cosine: float
    flips: float
    largest: float


@dataclass
class ClipMoments:
    """Mean and mean square of each clip's input to a layer: float64 (clips, channels) each."""

    mean: Tensor
    square: Tensor


@torch.inference_mode()
def clip_moments(
    model: nn.Module, layers: Mapping[str, nn.Module], inputs: Iterable[Tensor]
) -> dict[str, ClipMoments]:
    """Returns the moments of what enters each of `layers` in evaluation mode, clip by clip.

    Args:
        model: left in evaluation mode.
        layers: its normalization layers by name.
        inputs: of the network, (3, T, H, W) each.
    """
    found: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in layers}
    model.eval()
    with ExitStack() as hooks:
        for name, layer in layers.items():

            def note(_: nn.Module, given: tuple[Any, ...], name: str = name) -> None:
                x = given[0].transpose(0, 1).flatten(1)
                var, mean = torch.var_mean(x.float(), 1, correction=0)
                mean = mean.cpu().double()  # in this order: MPS has no float64
                found[name].append((mean, var.cpu().double() + mean**2))

            hooks.callback(layer.register_forward_pre_hook(note).remove)
        for clip in inputs:
            model(clip[None])
    return {
        name: ClipMoments(*(torch.stack(column) for column in zip(*rows, strict=True)))
        for name, rows in found.items()
    }


def statistics_noise(moments: ClipMoments, size: int, *, seed: int = 0) -> LayerNoise:
    """Returns the noise of batches of `size` clips drawn from the clips with replacement.

    With replacement, as from an endless stream of such clips: drawn without, batches nearly as
    large as the pool would look too much alike. That N clips differ less from their own mean than
    from the stream's is made up for by N / (N - 1).
    """
    clips = len(moments.mean)
    drawn = torch.from_numpy(
        np.random.default_rng([seed, size]).integers(clips, size=(DRAWS, size))
    )
    mean = moments.mean[drawn].mean(1)
    variance = (moments.square[drawn].mean(1) - mean**2).clamp(min=0)
    population = moments.square.mean(0) - moments.mean.mean(0) ** 2
    alive = population > 1e-12 * moments.square.mean(0).clamp(min=1e-12)
    if not alive.any():
        return LayerNoise(0.0, 0.0)
    unbiased = clips / (clips - 1)
    shift = unbiased * mean.var(0, correction=1)[alive] / population[alive]
    floor = population[alive] * 1e-6  # a batch in which a channel is silent has no logarithm
    scale = unbiased * (0.5 * variance[:, alive].clamp(min=floor).log()).var(0, correction=1)
    return LayerNoise(float(shift.mean().sqrt()), float(scale.mean().sqrt()))


@torch.no_grad()
def answer_noise(
    model: nn.Module,
    inputs: Sequence[Tensor],
    size: int,
    *,
    rounds: int,
    seed: int = 0,
    shown: Callable[[Iterable[Tensor], int], Iterable[Tensor]] = lambda items, _: items,
) -> AnswerNoise:
    """Returns how much the answers in training mode depend on company, without dropout.

    In each round the clips are dealt into batches anew, so that every one gets an answer in a new
    company. Buffers and mode of the model are as before in the end.

    Args:
        model: (N, 3, T, H, W) -> logits (N, K).
        inputs: (3, T, H, W) each; those that fill no batch sit out a round.
        size: clips of a batch.
        rounds: at least 2.
        seed: of the dealing.
        shown: shows the progress of so many batches.
    """
    told = torch.cat([model.eval()(clip[None]).float().cpu() for clip in inputs])
    answers: list[list[Tensor]] = [[] for _ in inputs]
    rng = np.random.default_rng([seed, size])
    per_round = len(inputs) // size
    dealt = [
        torch.from_numpy(rng.permutation(len(inputs))[: per_round * size]).view(per_round, size)
        for _ in range(rounds)
    ]
    with _as_in_training(model):
        for rows in shown(torch.cat(dealt), rounds * per_round):
            logits = model(torch.stack([inputs[row] for row in rows.tolist()])).float().cpu()
            for row, answer in zip(rows.tolist(), logits, strict=True):
                answers[row].append(answer)
    met = [(torch.stack(each), told[row]) for row, each in enumerate(answers) if len(each) > 1]
    return _compare(met)


def _compare(met: Sequence[tuple[Tensor, Tensor]]) -> AnswerNoise:
    """Returns the noise of (answers in several companies (R, K), answer in evaluation (K,))."""
    changes, cosines, flips, largest = [], [], [], 0.0
    for answers, told in met:
        centred = answers - answers.mean(1, keepdim=True)
        usual = centred.mean(0)
        # Of answers that are all the same, rounding of their mean must not make a difference.
        same = all(torch.equal(a, b) for a, b in pairwise(answers))
        aside = torch.zeros_like(centred) if same else centred - usual
        length = usual.norm().clamp(min=1e-12)
        unbiased = len(answers) / (len(answers) - 1)  # the average is one of few companies
        changes.append((aside.norm(dim=1) / length).square() * unbiased)
        cosines.append(
            torch.ones(len(answers)) if same else F.cosine_similarity(centred, usual[None])
        )
        flips.append((answers.argmax(1) != told.argmax()).float())
        largest = max(largest, float((answers.amax(0) - answers.amin(0)).max()))
    return AnswerNoise(
        change=float(torch.cat(changes).mean().sqrt()),
        cosine=float(torch.cat(cosines).mean()),
        flips=float(torch.cat(flips).mean()),
        largest=largest,
    )


@contextmanager
def _as_in_training(model: nn.Module) -> Iterator[None]:
    """Puts a network into training mode, whole batches normalized as one and nothing dropped."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    training = model.training
    parts: list[Any] = [m for m in model.modules() if getattr(m, "sub_batch", None) is not None]
    sizes = [part.sub_batch for part in parts]
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
    for part in parts:
        part.sub_batch = None
    try:
        yield
    finally:
        for part, size in zip(parts, sizes, strict=True):
            part.sub_batch = size
        model.train(training)
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
