"""A checkpoint put to use: which class is this video."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videogn import build
from videogn.config import config_from
from videogn.data.dataset import ViewSpec, read_views
from videogn.data.decode import open_video
from videogn.engine import checkpoint
from videogn.engine.evaluate import score_views
from videogn.model.i3d import I3DResNet
from videogn.testing import ANYWHERE, restore_model


class Classifier:
    """A trained network with everything it needs to name the class of a video file.

    Args:
        model: in any mode; it is put into evaluation mode.
        classes: names by class id.
        spec: the views whose probabilities are averaged.
        to_input: uint8 clips (N, T, H, W, 3) -> the network's input.
        device: of the model.
        views_per_forward: views scored together.
    """

    def __init__(
        self,
        model: I3DResNet,
        classes: Sequence[str],
        spec: ViewSpec,
        *,
        to_input: Callable[[Tensor], Tensor],
        device: torch.device,
        views_per_forward: int,
    ) -> None:
        self.model = model.eval()
        self.classes, self.spec = tuple(classes), spec
        self.to_input, self.device = to_input, device
        self.views_per_forward = views_per_forward

    def probs(self, path: str | Path) -> Tensor:
        """Returns the probabilities of a video, averaged over its views: float64 (K,).

        Raises:
            VideoDecodeError: the file cannot be read.
        """
        with open_video(path) as video:
            frames, clips, boxes = read_views(video, self.spec, upright=True)
        scores = score_views(
            lambda views: self.model.probs(self.to_input(views)),
            frames.to(self.device),
            clips,
            boxes,
            views_per_forward=self.views_per_forward,
        )
        return scores.cpu().double().mean(0)

    def predict(self, path: str | Path, topk: int = 5) -> list[tuple[str, float]]:
        """Returns the `topk` most probable classes of a video with their probabilities.

        Raises:
            VideoDecodeError: the file cannot be read.
        """
        top = self.probs(path).topk(min(topk, len(self.classes)))
        return [
            (self.classes[i], p)
            for i, p in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        ]


def load(path: str | Path, overrides: Sequence[str] = ()) -> Classifier:
    """Returns the classifier of a checkpoint, on the best device there is.

    It names the class of a video file by the test protocol of the configuration (`eval.*`):
    `probs` gives float64 (K,), averaged over views, `predict` the best as (label, probability).

    Args:
        path: a `.pt` file of a run, or one that `run.py convert` made of any other file; it holds
            its configuration, classes and normalization.
        overrides: `dotted.key=value`, for example `eval.num_clips=1` or `device=cpu`.

    Raises:
        CheckpointError: no such file, damaged, or not a checkpoint.
        ConfigError: an override is refused.
    """
    contents: dict[str, Any] = checkpoint.load(path)
    config = config_from(contents["config"], [*ANYWHERE, *overrides], where=str(path))
    device = build.pick_device(config)
    model = restore_model(config, contents, path).to(device)
    return Classifier(
        model,
        contents["classes"],
        build.build_view_spec(config),
        to_input=build.build_to_input(config, device),
        device=device,
        views_per_forward=config.eval.views_per_forward,
    )
