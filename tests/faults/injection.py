"""Puts faults among healthy videos and reads all of them as a training and a test do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from tests.faults.media import NUM_FRAMES, Fault
from tests.videos import SIDE, read_number, write_numbered
from videogn.data.dataset import (
    BadVideo,
    Clip,
    ClipSpec,
    EvalVideos,
    TrainClips,
    VideoViews,
    ViewSpec,
    clip_loader,
    keyed_batches,
    video_loader,
)
from videogn.data.decode import VideoReader, open_video
from videogn.data.frame_index import FrameIndex
from videogn.data.manifest import Manifest
from videogn.data.order import SampleKey
from videogn.data.sampling import eval_clips

LIMIT = 20.0  # seconds that one video may take before its injection counts as hung
_CLIP = ClipSpec(num_frames=4, frame_stride=2, short_side=(SIDE, SIDE), crop_size=SIDE, flip=0.0)
_VIEWS = ViewSpec(4, 2, 3, "nonlocal", "full", SIDE, SIDE)


@dataclass(frozen=True)
class Outcome:
    """What came of a fault; `problem` is empty when it was survived."""

    fault: Fault
    problem: str


@dataclass(frozen=True)
class _Opener:
    """Opens what lies under `root`, the way that `videogn.build` does."""

    root: Path

    def __call__(self, path: str, /, *, index: FrameIndex | None) -> VideoReader:
        return open_video(self.root / path, root=self.root, index=index, timeout=LIMIT)


def inject(faults: Sequence[Fault], folder: Path, *, num_workers: int = 2) -> list[Outcome]:
    """The outcome of every fault, each read among two healthy videos of its own.

    Every video is read by the training (with replacement) and the test, through loaders with
    `num_workers`; a video that takes longer than `LIMIT` raises DataError there.
    """
    root = folder / "root"
    root.mkdir(parents=True)
    healthy = [write_numbered(root / f"healthy {i}.mp4", NUM_FRAMES + 9 * i).name for i in (0, 1)]
    for fault in faults:
        fault.write(root / fault.name)
    paths = [path for fault in faults for path in (fault.name, *healthy)]
    tested, trained, bad = _read(root, paths, num_workers)
    undisturbed = _read(root, [healthy[0], *healthy], 0)
    again = _clips(root, paths)
    without = _clips(root, [healthy[number % 3 - 1] for number in range(len(paths))])
    outcomes = []
    for number, fault in enumerate(faults):
        row = 3 * number
        problems = [
            _of_test(fault, tested[row]),
            _of_training(fault, trained[row], bad.get(row, []), again[row]),
            *(_of_neighbour(tested[row + k], undisturbed[0][k]) for k in (1, 2)),
            *("a neighbour's clip changed" for k in (1, 2) if trained[row + k] != without[row + k]),
            *("a neighbour is called bad" for k in (1, 2) if row + k in bad),
        ]
        outcomes.append(Outcome(fault, "; ".join(filter(None, problems))))
    return outcomes


def _manifest(root: Path, paths: Sequence[str]) -> Manifest:
    labels = np.arange(len(paths)) % 3
    return Manifest("train.csv", paths, labels, ("a", "b", "c"), root, {})


def _read(
    root: Path, paths: Sequence[str], num_workers: int
) -> tuple[list[VideoViews], dict[int, tuple[int, bytes]], dict[int, list[BadVideo]]]:
    """The views of every row; its clip, as (row that it is of, bytes); and its bad videos."""
    manifest, opener = _manifest(root, paths), _Opener(root)
    rows = range(len(paths))
    videos = EvalVideos(manifest, _VIEWS, open_video=opener)
    options = {"num_workers": num_workers, "pin": False, "timeout": LIMIT}
    views = list(video_loader(videos, rows, **options))
    clips = TrainClips(manifest, _CLIP, open_video=opener, seed=0, replace=True)
    trained: dict[int, tuple[int, bytes]] = {}
    bad: dict[int, list[BadVideo]] = {}
    # One clip a batch: the batch then tells whose bad videos it names.
    batches = clip_loader(clips, keyed_batches(rows, 1, 0), **options)
    for row, batch in zip(rows, batches, strict=True):
        trained[row] = (int(batch.rows[0]), batch.clips[0].numpy().tobytes())
        if batch.bad:
            bad[row] = batch.bad
    return views, trained, bad


def _clips(root: Path, paths: Sequence[str]) -> dict[int, tuple[int, bytes]]:
    """The clip of every row, read one after the other in this process."""
    dataset = TrainClips(
        _manifest(root, paths), _CLIP, open_video=_Opener(root), seed=0, replace=True
    )
    found: dict[int, tuple[int, bytes]] = {}
    for row, key in enumerate(map(partial(SampleKey, 0), range(len(paths)))):
        clip: Clip = dataset[key]
        assert clip.frames is not None
        found[row] = (clip.row, clip.frames.numpy().tobytes())
    return found


def _of_test(fault: Fault, views: VideoViews) -> str:
    if views.frames is None:
        if not views.failure:
            return "test: failed without a reason"
        return _of_refusal(fault, views.failure, "test")
    if fault.expected == "refused":
        return "test: was read"
    numbers = [read_number(frame) for frame in views.frames.numpy()] if _is_numbered(fault) else []
    if any(second <= first for first, second in pairwise(numbers)):
        return f"test: frames {numbers} repeat or are out of order"
    if fault.expected == "frames":
        clips = eval_clips(fault.length, num_frames=4, stride=2, num_clips=3, rule="nonlocal")
        got = [[numbers[place] for place in clip] for clip in views.clips.tolist()]
        return "" if got == clips else f"test: frames {got} instead of {clips}"
    return ""


def _of_training(
    fault: Fault, clip: tuple[int, bytes], bad: list[BadVideo], again: tuple[int, bytes]
) -> str:
    if clip != again:
        return "training: another clip in a worker than in this process"
    if not bad:
        return "training: was read" if fault.expected == "refused" else ""
    if Path(bad[0].path).name != fault.name or not bad[0].reason:
        return f"training: the bad video is called {bad[0].path}"
    return _of_refusal(fault, bad[0].reason, "training")


def _of_refusal(fault: Fault, reason: str, where: str) -> str:
    if fault.expected in ("frames", "readable"):
        return f"{where}: was refused, it {reason}"
    return "" if fault.reason in reason else f"{where}: was refused since it {reason}"


def _of_neighbour(views: VideoViews, expected: VideoViews) -> str:
    if views.frames is None or expected.frames is None:
        return "a neighbour was not read"
    if torch.equal(views.frames, expected.frames) and torch.equal(views.clips, expected.clips):
        return ""
    return "a neighbour's frames changed"


def _is_numbered(fault: Fault) -> bool:
    """Whether the frames that come, if any come, must carry their numbers."""
    return fault.expected == "frames" or fault.group.startswith("D9")
