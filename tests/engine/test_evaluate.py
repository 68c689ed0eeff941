"""Exact evaluation: against sums by hand, in any order, and never from part of the views."""

from __future__ import annotations

import random
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from videogn.engine.evaluate import EvalResult, ViewAverager, clip_error, evaluate, score_views
from videogn.errors import IncompleteEvaluationError, TrainingDivergedError

V, K = 3, 7


def views(num_videos: int, num_classes: int = K) -> tuple[Tensor, list[int]]:
    """Returns float32 probabilities (N, V, K), and labels."""
    generator = torch.Generator().manual_seed(num_videos)
    logits = 3 * torch.randn(num_videos, V, num_classes, generator=generator)
    labels = torch.randint(num_classes, (num_videos,), generator=generator).tolist()
    return logits.softmax(-1), labels


def averaged(probs: Tensor, labels: list[int]) -> EvalResult:
    averager = ViewAverager(len(probs), V, probs.shape[2])
    for video, label in enumerate(labels):
        averager.add(video, 0, probs[video], label)
    return averager.result()


def test_the_result_is_the_mean_of_the_views_computed_by_hand_in_float64() -> None:
    probs, labels = views(40)
    result = averaged(probs, labels)
    hits1 = hits5 = 0
    for video, label in enumerate(labels):
        mean = [sum(float(probs[video, v, k]) for v in range(V)) / V for k in range(K)]
        assert result.probs[video].tolist() == pytest.approx(mean, rel=1e-15)
        ranking = sorted(range(K), key=lambda k: -mean[k])
        hits1 += ranking[0] == label
        hits5 += label in ranking[:5]
        assert bool(result.correct[video]) == (ranking[0] == label)
    assert result.top1 == 100 * hits1 / 40
    assert result.top5 == 100 * hits5 / 40
    assert result.top1_decoded == result.top1
    assert (result.num_videos, result.num_decoded) == (40, 40)
    assert 0 < result.top1 < result.top5 < 100  # else the test would show nothing


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_order_and_batching_of_the_views_do_not_change_a_bit(seed: int) -> None:
    probs, labels = views(6)
    rng = random.Random(seed)
    parts = []
    for video in range(6):
        cuts = sorted({0, V, *rng.choices(range(V), k=rng.randrange(V))})
        parts += [(video, first, last) for first, last in pairwise(cuts)]
    rng.shuffle(parts)
    averager = ViewAverager(6, V, K)
    for video, first, last in parts:
        averager.add(video, first, probs[video, first:last], labels[video])
    result, plain = averager.result(), averaged(probs, labels)
    assert torch.equal(result.probs, plain.probs)
    assert (result.top1, result.top5) == (plain.top1, plain.top5)


def test_a_missing_view_is_refused_and_its_row_named() -> None:
    probs, labels = views(4)
    averager = ViewAverager(4, V, K)
    for video in range(4):
        averager.add(video, 0, probs[video, : V - (video == 2)], labels[video])
    with pytest.raises(IncompleteEvaluationError, match=r"1 of 4 videos .* 3 views \(rows \[2\]"):
        averager.result()


def test_a_missing_video_is_refused() -> None:
    probs, labels = views(4)
    averager = ViewAverager(4, V, K)
    for video in (0, 1, 3):
        averager.add(video, 0, probs[video], labels[video])
    with pytest.raises(IncompleteEvaluationError, match=r"rows \[2\]"):
        averager.result()


def test_a_view_that_came_twice_is_refused() -> None:
    probs, labels = views(2)
    averager = ViewAverager(2, V, K)
    for video in range(2):
        averager.add(video, 0, probs[video], labels[video])
    averager.add(1, 1, probs[1, 1:2], labels[1])
    with pytest.raises(IncompleteEvaluationError, match=r"rows \[1\]"):
        averager.result()


@pytest.mark.parametrize("also", ["failed twice", "scored", "scored in part"])
def test_a_failed_video_that_came_another_way_too_is_refused(also: str) -> None:
    probs, labels = views(1)
    averager = ViewAverager(1, V, K)
    averager.fail(0, labels[0])
    if also == "failed twice":
        averager.fail(0, labels[0])
    else:
        averager.add(0, 0, probs[0, : V if also == "scored" else 1], labels[0])
    with pytest.raises(IncompleteEvaluationError):
        averager.result()


def test_a_failed_video_counts_as_wrong_over_all_and_not_over_the_decoded() -> None:
    probs = torch.eye(K)[:4, None].expand(4, V, K)
    averager = ViewAverager(4, V, K)
    for video in range(3):
        averager.add(video, 0, probs[video], video)
    averager.fail(3, 0)  # its zero row would rank class 0 first
    result = averager.result()
    assert (result.top1, result.top5, result.top1_decoded) == (75.0, 75.0, 100.0)
    assert (result.num_videos, result.num_decoded) == (4, 3)
    assert result.correct.tolist() == [True, True, True, False]
    assert not result.probs[3].any()


def test_when_all_videos_failed_everything_is_zero() -> None:
    averager = ViewAverager(2, V, K)
    averager.fail(0, 1)
    averager.fail(1, 1)
    result = averager.result()
    assert (result.top1, result.top5, result.top1_decoded, result.num_decoded) == (0, 0, 0, 0)


@pytest.mark.parametrize("num_classes", [1, 2, 4, 5])
def test_top_5_of_at_most_five_classes_is_everything(num_classes: int) -> None:
    probs, labels = views(9, num_classes)
    result = averaged(probs, labels)
    assert result.top5 == 100.0
    assert result.top1 <= 100.0


def test_probabilities_that_are_no_numbers_are_refused() -> None:
    probs, labels = views(3)
    probs = probs.clone()
    probs[1] = float("nan")
    with pytest.raises(TrainingDivergedError, match=r"1 videos \(rows \[1\] first\)"):
        averaged(probs, labels)


class _WithoutFloat64(Tensor):
    """A tensor on a device like MPS, which knows no float64."""

    def double(self) -> Tensor:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    def cpu(self) -> Tensor:  # type: ignore[override]
        return self.as_subclass(Tensor)


def test_sums_are_made_on_the_cpu_where_float64_exists() -> None:
    probs, labels = views(1)
    averager = ViewAverager(1, V, K)
    averager.add(0, 0, probs[0].as_subclass(_WithoutFloat64), labels[0])


# Gathering views


def echo(clips: Tensor) -> Tensor:
    """Returns every clip's pixels in the place of its probabilities."""
    return clips.flatten(1).float()


@pytest.mark.parametrize("views_per_forward", [1, 2, 4, 5, 6, 100])
def test_every_view_is_made_of_the_right_pixels_however_many_go_together(
    views_per_forward: int,
) -> None:
    frames = torch.randint(256, (9, 10, 14, 3), dtype=torch.uint8)
    clips = torch.tensor([[0, 1, 2], [8, 0, 8]])
    boxes = [(0, 0, 6, 6), (4, 8, 6, 6), (2, 3, 6, 6)]
    scores = score_views(echo, frames, clips, boxes, views_per_forward=views_per_forward)
    expected = [
        [
            int(frames[frame, top + y, left + x, c])
            for frame in clip.tolist()
            for y in range(height)
            for x in range(width)
            for c in range(3)
        ]
        for clip in clips
        for top, left, height, width in boxes
    ]
    assert scores.tolist() == expected


class Fixed(nn.Module):
    """Whose probabilities are the first pixels of a clip."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.9)
        self.weight = nn.Parameter(torch.ones(()))

    def probs(self, clips: Tensor) -> Tensor:
        return self.dropout(clips[:, 0, 0, 0, :K]) * self.weight

    def forward(self, clips: Tensor) -> Tensor:
        return self.probs(clips)


def to_input(clips: Tensor) -> Tensor:
    return clips.permute(0, 4, 1, 2, 3).float() / 255


def test_evaluate_scores_good_videos_in_eval_mode_and_names_the_failed() -> None:
    model = Fixed().train()
    frames = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    frames[:, 0, 4] = 255
    clips = torch.tensor([[0, 1], [1, 0], [1, 1]])
    good = {"frames": frames, "clips": clips, "boxes": [(0, 0, 8, 8)], "failure": ""}
    bad = {"frames": None, "clips": torch.empty(0), "boxes": [], "failure": "no video stream"}
    averager = ViewAverager(2, V, K)
    evaluate(
        model,
        [SimpleNamespace(row=1, label=4, **good), SimpleNamespace(row=0, label=3, **bad)],
        averager,
        to_input=to_input,
        device=torch.device("cpu"),
        views_per_forward=2,
    )
    assert averager.reasons == {0: "no video stream"}
    result = averager.result()
    assert result.probs[1].tolist() == [0, 0, 0, 0, 1, 0, 0]
    assert result.correct.tolist() == [False, True]


# Monitoring


def batch_of(classes: list[int], labels: list[int]) -> SimpleNamespace:
    clips = torch.zeros(len(classes), 2, 8, 8, 3, dtype=torch.uint8)
    for clip, name in zip(clips, classes, strict=True):
        clip[:, 0, :K] = torch.arange(K, 0, -1)[None, :, None].to(torch.uint8)
        clip[:, 0, name] = 255
    return SimpleNamespace(clips=clips, labels=torch.tensor(labels), bad=[])


def test_clip_error_is_the_share_of_wrong_clips_in_percent() -> None:
    # The top five for "6" are 6, 0, 1, 2, 3: label 3 is among them and 5 is not.
    batches = [batch_of([0, 1, 6], [0, 2, 3]), batch_of([6], [5])]
    errors = clip_error(Fixed().train(), batches, 4, to_input=to_input)
    assert errors == {"val/error_1clip_aug": 75.0, "val/error5_1clip_aug": 25.0}


def test_clip_error_counts_videos_that_could_not_be_read_as_errors() -> None:
    empty = SimpleNamespace(
        clips=torch.empty(0, dtype=torch.uint8), labels=torch.empty(0).long(), bad=[1, 2]
    )
    errors = clip_error(Fixed(), [batch_of([2, 3], [2, 3]), empty], 4, to_input=to_input)
    assert errors == {"val/error_1clip_aug": 50.0, "val/error5_1clip_aug": 50.0}
    none = clip_error(Fixed(), [], 3, to_input=to_input)
    assert none["val/error_1clip_aug"] == 100.0
