"""Exact evaluation: each video once, each of its views once, and nothing replaced.

Ranks score disjoint videos without padding, so the result does not depend on their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from videogn.engine.distributed import all_sum
from videogn.errors import IncompleteEvaluationError, TrainingDivergedError

ToInput = Callable[[Tensor], Tensor]
_COLUMNS = ("sums", "seen", "labels", "failed")  # of an averager: a row for each video


@dataclass(frozen=True)
class EvalResult:
    """What a test found.

    Attributes:
        top1: percent over all videos; a failed one counts as wrong.
        top5: the same for the five most probable classes.
        top1_decoded: percent over the videos that could be read.
        num_videos: all of them.
        num_decoded: those that could be read.
        probs: float64 (num_videos, K), zero rows for failed ones.
        correct: bool (num_videos,), top-1.
    """

    top1: float
    top5: float
    top1_decoded: float
    num_videos: int
    num_decoded: int
    probs: Tensor
    correct: Tensor


class ViewAverager:
    """Sums the probabilities of each video's views in float64, and knows which have come.

    Args:
        num_videos: rows of the manifest.
        num_views: views that every video must bring.
        num_classes: K.
    """

    def __init__(self, num_videos: int, num_views: int, num_classes: int) -> None:
        self.sums = torch.zeros(num_videos, num_classes, dtype=torch.float64)
        self.seen = torch.zeros(num_videos, num_views, dtype=torch.int64)
        self.labels = torch.full((num_videos,), -1, dtype=torch.int64)
        self.failed = torch.zeros(num_videos, dtype=torch.int64)
        self.reasons: dict[int, str] = {}

    def add(self, video: int, first_view: int, probs: Tensor, label: int) -> None:
        """Adds `probs` (V, K) of the views `first_view`, `first_view + 1`, ... of a video."""
        # One view after the other: a sum whose order is fixed does not depend on the batching.
        for row in probs.cpu().double():  # in this order: MPS has no float64
            self.sums[video] += row
        self.seen[video, first_view : first_view + len(probs)] += 1
        self.labels[video] = label

    def fail(self, video: int, label: int, reason: str = "") -> None:
        """Notes that a video could not be read."""
        self.failed[video] += 1
        self.labels[video] = label
        self.reasons[video] = reason

    def scored(self) -> dict[str, Any]:
        """Returns, in tensors and plain values, what is known of the videos that have come."""
        rows = (self.seen.any(1) | (self.failed > 0)).nonzero().flatten()
        columns = {name: getattr(self, name)[rows] for name in _COLUMNS}
        return {"rows": rows, **columns, "reasons": dict(self.reasons)}

    def restore(self, scored: Mapping[str, Any]) -> None:
        """Takes over what `scored` returned of the videos that have not come here."""
        known = set(self.scored()["rows"].tolist())
        new = [i for i, row in enumerate(scored["rows"].tolist()) if row not in known]
        rows = scored["rows"][new]
        for name in _COLUMNS:
            getattr(self, name)[rows] = scored[name][new]
        self.reasons = scored["reasons"] | self.reasons

    def reduce(self) -> None:
        """Brings the ranks' sums together; each video was scored by one of them."""
        self.sums, self.seen, self.failed = map(all_sum, (self.sums, self.seen, self.failed))
        self.labels = all_sum(self.labels + 1) - 1  # -1 stands for never seen, and adds nothing

    def result(self) -> EvalResult:
        """Returns the accuracies.

        Raises:
            IncompleteEvaluationError: some view of a video that did not fail is missing or came
                more than once, or a video came both ways.
            TrainingDivergedError: some probabilities are not finite.
        """
        failed = self.failed == 1
        complete = (self.seen == 1).all(1) & (self.failed == 0)
        complete |= (self.seen == 0).all(1) & failed
        if not complete.all():
            rows = (~complete).nonzero().flatten().tolist()
            raise IncompleteEvaluationError(
                f"{len(rows)} of {len(complete)} videos were not scored exactly once in each of "
                f"their {self.seen.shape[1]} views (rows {rows[:5]} first); run the test again"
            )
        if not self.sums.isfinite().all():
            rows = (~self.sums.isfinite().all(1)).nonzero().flatten().tolist()
            raise TrainingDivergedError(
                f"the probabilities of {len(rows)} videos (rows {rows[:5]} first) are no finite "
                "numbers: the weights are not, or overflowed; test an earlier checkpoint"
            )
        return self._accuracies(failed)

    def _accuracies(self, failed: Tensor) -> EvalResult:
        num_videos, num_views = self.seen.shape
        probs = self.sums / num_views
        top = probs.topk(min(5, probs.shape[1]), dim=1).indices == self.labels[:, None]
        top &= ~failed[:, None]
        decoded = num_videos - int(failed.sum())
        hits1, hits5 = int(top[:, 0].sum()), int(top.any(1).sum())
        return EvalResult(
            top1=100 * hits1 / num_videos,
            top5=100 * hits5 / num_videos,
            top1_decoded=100 * hits1 / decoded if decoded else 0.0,
            num_videos=num_videos,
            num_decoded=decoded,
            probs=probs,
            correct=top[:, 0],
        )


@torch.inference_mode()
def score_views(
    probs_of: Callable[[Tensor], Tensor],
    frames: Tensor,
    clips: Tensor,
    boxes: list[tuple[int, int, int, int]],
    *,
    views_per_forward: int,
) -> Tensor:
    """Returns the probabilities of every view of one video: float32 (V, K).

    Views are gathered on the device from the frames, which came there once.

    Args:
        probs_of: uint8 clips (N, T, H, W, 3) -> probabilities (N, K).
        frames: uint8 (U, H, W, 3) on the device.
        clips: int64 (num_clips, T), indices into `frames`.
        boxes: crops (top, left, height, width); view = clip * len(boxes) + crop.
        views_per_forward: views scored together; memory, not the result, depends on it.
    """
    views = [(clip, box) for clip in clips for box in boxes]
    scores = []
    for first in range(0, len(views), views_per_forward):
        batch = [
            frames[clip.to(frames.device), top : top + height, left : left + width]
            for clip, (top, left, height, width) in views[first : first + views_per_forward]
        ]
        scores.append(probs_of(torch.stack(batch)))
    return torch.cat(scores)


def evaluate(
    model: nn.Module,
    videos: Iterable[Any],
    averager: ViewAverager,
    *,
    to_input: ToInput,
    device: torch.device,
    views_per_forward: int,
    after_video: Callable[[], None] = lambda: None,
) -> None:
    """Scores `videos` into `averager`, which also takes the reasons of those that failed.

    Args:
        model: with `probs`: normalized clips (N, 3, T, H, W) -> probabilities (N, K).
        videos: items with `row, label, frames, clips, boxes, failure` (`data.VideoViews`).
        averager: to add to; not yet reduced over ranks.
        to_input: uint8 clips -> the network's input.
        device: of the model.
        views_per_forward: see `score_views`.
        after_video: called after each.
    """
    model.eval()

    def probs_of(clips: Tensor) -> Tensor:
        return model.probs(to_input(clips))  # type: ignore[operator]

    for video in videos:
        if video.frames is None:
            averager.fail(video.row, video.label, video.failure)
        else:
            scores = score_views(
                probs_of,
                video.frames.to(device),
                video.clips,
                video.boxes,
                views_per_forward=views_per_forward,
            )
            averager.add(video.row, 0, scores, video.label)
        after_video()


@torch.inference_mode()
def clip_error(
    model: nn.Module, batches: Iterable[Any], num_videos: int, *, to_input: ToInput
) -> Mapping[str, float]:
    """Returns the error in percent of one augmented clip per video, over all ranks.

    Fig. 7's curve ("1-clip error under the same data augmentation as training"): not the final
    accuracy, and named so that nobody takes it for that. A video that cannot be read is an error.

    Args:
        model: clips -> logits.
        batches: this rank's share, with `clips` and `labels` (`data.ClipBatch`).
        num_videos: of all ranks together.
        to_input: uint8 clips -> the network's input.
    """
    model.eval()
    device = next(model.parameters()).device
    hits = torch.zeros(2, dtype=torch.int64, device=device)
    for batch in batches:
        if len(batch.clips):
            logits = model(to_input(batch.clips))
            top = logits.topk(min(5, logits.shape[1]), dim=1).indices
            hit = top == batch.labels.to(device)[:, None]
            hits += torch.stack([hit[:, 0].sum(), hit.any(1).sum()])
    hit1, hit5 = all_sum(hits).tolist()
    return {
        "val/error_1clip_aug": 100 * (1 - hit1 / num_videos),
        "val/error5_1clip_aug": 100 * (1 - hit5 / num_videos),
    }
