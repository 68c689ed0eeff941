"""A trained network with everything it needs to name the class of a video file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from os import PathLike, fspath
from pathlib import Path

import torch
from torch import Tensor

from videogn import build
from videogn.config import config_from
from videogn.data.dataset import ViewSpec
from videogn.model.i3d import I3DResNet
from videogn.predict.answers import Answer, Scores, Span, answers
from videogn.predict.views import View, whole_video, windows
from videogn.restoring import ANYWHERE, restore_model
from videogn.trained import read_trained

# Positions (frames x height x width) that a CPU scores together at most: a batch gains it nothing
# beyond, and the maps of the first layers are what memory goes to.
CPU_POSITIONS = 64 * 256 * 256


class Classifier:
    """A network that answers for video files.

    Args:
        model: in any mode; it is put into evaluation mode.
        classes: names by class id.
        spec: the views whose probabilities are averaged.
        to_input: uint8 clips (N, T, H, W, 3) -> the network's input.
        device: of the model.
        views_per_forward: views scored together at most.
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

    def predict(self, path: str | PathLike[str], topk: int = 5) -> list[tuple[str, float]]:
        """Returns the `topk` most probable classes of a video with their probabilities.

        Raises:
            VideoDecodeError: the file cannot be read.
        """
        return self.best(self.probs(path), topk)

    def probs(self, path: str | PathLike[str]) -> Tensor:
        """Returns the probabilities of a video, averaged over its views: float64 (K,).

        Raises:
            VideoDecodeError: the file cannot be read.
        """
        (answer,) = self.answers([fspath(path)])
        if answer.error:
            raise answer.error
        return answer.spans[0].probs

    def timeline(self, path: str | PathLike[str], every: float | None = None) -> list[Span]:
        """Returns answers all along a video of any length; memory holds one window.

        Args:
            path: the file.
            every: seconds from one window to the next; None for windows side by side.

        Raises:
            VideoDecodeError: the file cannot be read to its end.
        """
        (answer,) = self.answers([fspath(path)], sliding=True, every=every)
        if answer.error:
            raise answer.error
        return answer.spans

    def answers(
        self, paths: Iterable[str], *, sliding: bool = False, every: float | None = None
    ) -> Iterator[Answer]:
        """Yields an answer for each path, in order; a file that cannot be read is one with `error`.

        Args:
            paths: video files.
            sliding: one span for each window instead of one for the whole video.
            every: see `timeline`.
        """
        spec = self.spec
        cut = (
            partial(windows, spec=spec, every=every) if sliding else partial(whole_video, spec=spec)
        )
        return answers(paths, cut, self.score, most=self._most)

    @torch.inference_mode()
    def score(self, views: Tensor) -> Scores:
        """Returns what the network says of uint8 views (N, T, H, W, 3).

        `features` (N, C) are those that its last layer turns into the mean of the logits over the
        positions of its window; `probs` (N, K) the mean of the softmax over them.
        """
        pooled = self.model.pooled(self.to_input(views))
        probs = self.model.fc(pooled).float().softmax(-1).mean(1)
        return Scores(probs, pooled.float().mean(1))

    def best(self, probs: Tensor, topk: int) -> list[tuple[str, float]]:
        """Returns the names and probabilities of the best of `probs` (K,)."""
        top = probs.topk(min(topk, len(self.classes)))
        ids, values = top.indices.tolist(), top.values.tolist()
        return [(self.classes[i], p) for i, p in zip(ids, values, strict=True)]

    def _most(self, view: View) -> int:
        if self.device.type != "cpu":
            return self.views_per_forward
        frames, height, width = view.shape
        return max(1, min(self.views_per_forward, CPU_POSITIONS // (frames * height * width)))


def load(path: str | Path, overrides: Sequence[str] = ()) -> Classifier:
    """Returns the classifier of a checkpoint, on the best device there is.

    It names the class of a video file by the test protocol of the configuration (`eval.*`):
    `probs` gives float64 (K,), averaged over views, `predict` the best as (label, probability),
    `timeline` an answer for each window of a long video.

    Args:
        path: a `.pt` file of a run, one that `run.py convert` made of any other file, or the
            `.safetensors` that it made of a `.pt`; it holds its configuration, classes and
            normalization.
        overrides: `dotted.key=value`, for example `eval.num_clips=1` or `device=cpu`.

    Raises:
        CheckpointError: no such file, damaged, or not a checkpoint.
        WeightsError: a `.safetensors` file is damaged or its tensors are not those of its network.
        ConfigError: an override is refused.
    """
    contents = read_trained(path)
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
