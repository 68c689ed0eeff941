"""From files to answers: which frames are scored, together with which, and what comes out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.checkpoints import CLASSES, write_checkpoint
from tests.videos import read_number, write_numbered
from videogn.data.dataset import ViewSpec
from videogn.errors import VideoDecodeError
from videogn.predict import Classifier, load
from videogn.predict.answers import Scores, answers
from videogn.predict.views import windows

SPEC = ViewSpec(4, 2, 3, "nonlocal", "full", 64, 64)  # a span of 8 frames


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    return load(write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "last.pt"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("videos")
    paths = [write_numbered(folder / f"{length}.mp4", length) for length in (20, 30, 40)]
    return [str(path) for path in paths]


class Recorder:
    """Scores views by the numbers on their frames, and notes which came together."""

    def __init__(self) -> None:
        self.batches: list[list[list[int]]] = []

    def __call__(self, views: Tensor) -> Scores:
        numbers = [[read_number(frame.numpy()) for frame in view] for view in views]
        self.batches.append(numbers)
        first = torch.tensor([[float(view[0])] for view in numbers])
        return Scores(first, first)


def sliding(every: float | None) -> Callable:
    return lambda video: windows(video, SPEC, every)


def scored(path: Path, every: float | None) -> tuple[list[list[int]], list[tuple[float, float]]]:
    """The frames of each window of a video, and when they are shown."""
    record = Recorder()
    (answer,) = answers([str(path)], sliding(every), record, most=lambda view: 1)
    assert answer.error is None
    times = [(round(span.start * 30, 2), round(span.end * 30, 2)) for span in answer.spans]
    return [views[0] for views in record.batches], times


def test_windows_lie_side_by_side_and_the_last_ends_with_the_video(tmp_path: Path) -> None:
    frames, times = scored(write_numbered(tmp_path / "a.mp4", 29), None)
    starts = [0, 8, 16, 21]
    assert frames == [[start, start + 2, start + 4, start + 6] for start in starts]
    assert times == [(start, start + 8) for start in starts]


def test_windows_may_overlap_or_leave_gaps(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "a.mp4", 29)
    assert [window[0] for window in scored(path, 5 / 30)[0]] == [0, 5, 10, 15, 20, 21]
    assert [window[0] for window in scored(path, 15 / 30)[0]] == [0, 15, 21]


def test_windows_follow_the_clock_of_a_variable_rate(tmp_path: Path) -> None:
    times = [*range(10), *range(40, 60)]  # a second is missing
    path = write_numbered(tmp_path / "a.mkv", len(times), times=times)
    frames, shown = scored(path, 20 / 30)
    assert [window[0] for window in frames] == [0, 10, 22]  # nothing begins at 20/30
    assert [start for start, _ in shown] == pytest.approx([0, 40, 52], abs=0.05)


def test_a_video_shorter_than_a_clip_is_looped(tmp_path: Path) -> None:
    frames, times = scored(write_numbered(tmp_path / "a.mp4", 5), None)
    assert frames == [[0, 2, 4, 1]]
    assert times == [(0, 5)]


def test_views_are_scored_together_across_videos(videos: list[str], classifier: Classifier) -> None:
    record = Recorder()
    cut = sliding(None)
    found = list(answers(videos, cut, record, most=lambda view: 4))
    assert [answer.path for answer in found] == videos
    assert [len(answer.spans) for answer in found] == [3, 4, 5]
    assert [len(batch) for batch in record.batches] == [4, 4, 4]
    firsts = [int(span.probs.item()) for answer in found for span in answer.spans]
    assert firsts == [0, 8, 12, 0, 8, 16, 22, 0, 8, 16, 24, 32]
    alone = torch.stack([classifier.probs(path) for path in videos])
    together = torch.stack([answer.spans[0].probs for answer in classifier.answers(videos)])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)


def test_an_answer_comes_as_soon_as_its_last_view_is_scored(videos: list[str]) -> None:
    record = Recorder()
    found = answers(videos, sliding(None), record, most=lambda view: 1)
    assert next(found).path == videos[0]
    assert len(record.batches) <= 5  # its three, and what came while it was handed over


def test_a_bad_video_is_an_answer_with_an_error(tmp_path: Path, videos: list[str]) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    paths = [videos[0], str(bad), str(tmp_path / "missing.mp4"), videos[1]]
    found = list(answers(paths, sliding(None), Recorder(), most=lambda view: 4))
    assert [answer.path for answer in found] == paths
    assert [isinstance(answer.error, VideoDecodeError) for answer in found] == [0, 1, 1, 0]
    assert [len(answer.spans) for answer in found] == [3, 0, 0, 4]


def test_sizes_do_not_mix_in_a_batch(tmp_path: Path, videos: list[str]) -> None:
    wide = ViewSpec(4, 2, 1, "nonlocal", "center", 64, 32)
    record: list[tuple[int, ...]] = []

    def score(views: Tensor) -> Scores:
        record.append(tuple(views.shape))
        return Scores(torch.zeros(len(views), 1), torch.zeros(len(views), 1))

    cuts = iter([SPEC, wide, wide])
    list(answers(videos, lambda v: windows(v, next(cuts), 1.0), score, most=lambda view: 100))
    assert [shape[2:] for shape in record] == [(64, 64, 3), (32, 32, 3)]


def test_features_are_what_the_last_layer_turns_into_logits(
    videos: list[str], classifier: Classifier
) -> None:
    for wide in (False, True):  # one position of the head's window, and several
        views = torch.randint(0, 256, (2, 4, 32, 70 if wide else 32, 3)).byte()
        scores = classifier.score(views)
        clips = classifier.to_input(views)
        with torch.no_grad():
            logits = classifier.model.fc(scores.features)
            torch.testing.assert_close(logits, classifier.model(clips), atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(scores.probs, classifier.model.probs(clips))


def test_a_timeline_has_an_answer_for_each_window(
    videos: list[str], classifier: Classifier
) -> None:
    spans = classifier.timeline(videos[2])
    assert [round(span.start * 30) for span in spans] == [0, 8, 16, 24, 32]
    assert all(span.probs.shape == (len(CLASSES),) for span in spans)
    assert all(float(span.probs.sum()) == pytest.approx(1) for span in spans)


def test_a_cpu_is_not_given_more_at_once_than_helps_it(
    videos: list[str], classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    score = Classifier.score
    monkeypatch.setattr(
        Classifier, "score", lambda self, views: sizes.append(len(views)) or score(self, views)
    )
    monkeypatch.setattr("videogn.predict.classifier.CPU_POSITIONS", 3 * 4 * 32 * 32)
    list(classifier.answers(videos, sliding=True))
    assert sizes == [3, 3, 3, 3]
