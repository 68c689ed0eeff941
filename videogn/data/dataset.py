"""From a manifest to batches: one training clip a sample, or one whole video an evaluation item."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from videogn.data import watch
from videogn.data.decode import FrameMap, VideoReader
from videogn.data.frame_index import FrameIndex
from videogn.data.manifest import Manifest
from videogn.data.order import SampleKey
from videogn.data.sampling import ClipRule, eval_clips, frame_indices, random_start
from videogn.data.transforms import (
    Box,
    CropDraw,
    Crops,
    crop_box,
    draw_crop,
    eval_crops,
    finish_crop,
    resize,
    short_side_size,
)
from videogn.errors import DataError, VideoDecodeError

# Other videos tried in place of a bad one before the data are given up on.
MAX_REPLACEMENTS = 20


class OpenVideo(Protocol):
    """Opens the video at a path of the manifest, given where its frames are if that is known."""

    def __call__(self, path: str, /, *, index: FrameIndex | None) -> VideoReader:
        """Returns the open video; raises VideoDecodeError."""
        ...


class BadVideo(NamedTuple):
    """A video that could not be read: its row in the manifest, and why."""

    row: int
    path: str
    reason: str


class Clip(NamedTuple):
    """One augmented clip; `frames` uint8 (T, S, S, 3), None when nothing could be read."""

    frames: Tensor | None
    label: int
    row: int
    bad: list[BadVideo]


class ClipBatch(NamedTuple):
    """Clips of a batch, those that could be read.

    Attributes:
        clips: uint8 (N, T, S, S, 3).
        labels: int64 (N,).
        rows: int64 (N,), rows of the manifest.
        bad: the videos that could not be read.
        missing: clips of the batch that are not in it.
    """

    clips: Tensor
    labels: Tensor
    rows: Tensor
    bad: list[BadVideo]
    missing: int


class VideoViews(NamedTuple):
    """All views of one video, decoded once.

    Attributes:
        row: row of the manifest.
        label: class id.
        frames: uint8 (U, H, W, 3), each wanted frame once; None when the video failed.
        clips: int64 (num_clips, T), indices into `frames`.
        boxes: crops (top, left, height, width); view = clip * len(boxes) + crop.
        failure: why there are no frames.
    """

    row: int
    label: int
    frames: Tensor | None
    clips: Tensor
    boxes: list[Box]
    failure: str


@dataclass(frozen=True)
class ClipSpec:
    """How a training clip is cut: see the `data` section of a config for each."""

    num_frames: int
    frame_stride: int
    short_side: Sequence[int]
    crop_size: int
    flip: float


class TrainClips(Dataset[Clip]):
    """Augmented clips by `SampleKey`: the same key and seed give the same bytes, anywhere.

    Args:
        manifest: the videos.
        spec: how to cut a clip.
        open_video: opens a path.
        seed: of the augmentation.
        replace: put a deterministic other video in the place of a bad one (training); otherwise
            the clip is left out (validation), as it is when no other can be read either.
    """

    def __init__(
        self,
        manifest: Manifest,
        spec: ClipSpec,
        *,
        open_video: OpenVideo,
        seed: int,
        replace: bool,
    ) -> None:
        self.manifest, self.spec, self.open_video = manifest, spec, open_video
        self.seed, self.replace = seed, replace

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, key: SampleKey) -> Clip:
        bad: list[BadVideo] = []
        others = np.random.default_rng([self.seed, key.epoch, key.row, 2])
        row = key.row
        for _ in range(1 + (MAX_REPLACEMENTS if self.replace else 0)):
            try:
                (frames,) = self._cut_clips(row, [key])
                return Clip(frames, int(self.manifest.labels[row]), row, bad)
            except VideoDecodeError as error:
                bad.append(BadVideo(row, error.path, error.reason))
            row = int(others.integers(len(self.manifest)))
        # Whether to go on is decided where the batch is used: an error raised in a worker arrives
        # wrapped in its traceback.
        return Clip(None, int(self.manifest.labels[key.row]), key.row, bad)

    def __getitems__(self, keys: Sequence[SampleKey]) -> list[Clip]:
        """Returns the clips of a batch; keys of one row that follow each other share a decode."""
        clips: list[Clip] = []
        for row, group in groupby(keys, key=lambda key: key.row):
            clips += self._clips_of_row(row, list(group))
        return clips

    def _clips_of_row(self, row: int, keys: list[SampleKey]) -> list[Clip]:
        if len(keys) > 1:
            # A video that cannot give all of these clips may still give some: each for itself then.
            with suppress(VideoDecodeError):
                label = int(self.manifest.labels[row])
                return [Clip(frames, label, row, []) for frames in self._cut_clips(row, keys)]
        return [self[key] for key in keys]

    def _cut_clips(self, row: int, keys: Sequence[SampleKey]) -> list[Tensor]:
        """Returns one clip for each key, all cut from the video of `row`, which is decoded once."""
        spec = self.spec
        span = spec.num_frames * spec.frame_stride
        # Draws of their own, apart from those of the order and of replacements.
        rngs = [np.random.default_rng([self.seed, key.epoch, key.row, 1]) for key in keys]
        with _opened(self.manifest, row, self.open_video) as video:
            clips = [
                frame_indices(
                    random_start(video.num_frames, span, rng),
                    spec.num_frames,
                    spec.frame_stride,
                    video.num_frames,
                )
                for rng in rngs
            ]
            cutter = _Cutter([draw_crop(spec.short_side, spec.flip, rng) for rng in rngs], spec)
            wanted, positions = np.unique(clips, return_inverse=True)
            frames = video.frames(wanted.tolist(), each=cutter)
        return cutter.finish(frames, positions.reshape(len(keys), -1))


class _Cutter:
    """Cuts frames as they are decoded, so that whole ones are never held together."""

    def __init__(self, draws: Sequence[CropDraw], spec: ClipSpec) -> None:
        self._draws, self._size = draws, spec.crop_size
        self._boxes: list[Box] = []

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """Returns the part of a frame, uint8 (H, W, 3), in which all the crops lie."""
        if not self._boxes:
            height, width = frame.shape[:2]
            self._boxes = [crop_box(draw, height, width, self._size) for draw in self._draws]
            tops, lefts, heights, widths = np.transpose(self._boxes)
            self._top, self._bottom = min(tops), max(tops + heights)
            self._left, self._right = min(lefts), max(lefts + widths)
        return frame[self._top : self._bottom, self._left : self._right]

    def finish(self, frames: np.ndarray, positions: np.ndarray) -> list[Tensor]:
        """Returns the clips: uint8 (T, S, S, 3) each.

        Args:
            frames: what `__call__` gave for each, stacked.
            positions: int (clips, T), in `frames`.
        """
        return [
            finish_crop(self._frames_of(frames, box, places), draw, self._size)
            for draw, box, places in zip(self._draws, self._boxes, positions, strict=True)
        ]

    def _frames_of(self, frames: np.ndarray, box: Box, places: np.ndarray) -> np.ndarray:
        top, left = box[0] - self._top, box[1] - self._left
        cut = frames[:, top : top + box[2], left : left + box[3]]
        # Indexing copies, which a clip that is all of `frames` need not pay.
        return cut if np.array_equal(places, np.arange(len(frames))) else cut[places]


@dataclass(frozen=True)
class ViewSpec:
    """Which views of a video are scored: see the `data` and `eval` sections of a config."""

    num_frames: int
    frame_stride: int
    num_clips: int
    clip_rule: ClipRule
    crops: Crops
    short_side: int
    crop_size: int

    @property
    def num_views(self) -> int:
        """Views of one video: clips x crops."""
        return self.num_clips * (3 if self.crops == "three" else 1)

    def describe(self) -> str:
        """Returns the protocol in words, to stand beside every number."""
        crops = {
            "full": f"fully convolutional at short side {self.short_side}",
            "center": f"center crop {self.crop_size} of short side {self.short_side}",
            "three": f"three crops {self.short_side} of short side {self.short_side}",
        }[self.crops]
        clips = "1 clip" if self.num_clips == 1 else f"{self.num_clips} clips"
        return (
            f"{clips} ({self.clip_rule}) of {self.num_frames} frames, stride {self.frame_stride}, "
            f"{crops}, softmax averaged over views"
        )


class EvalVideos(Dataset[VideoViews]):
    """Whole videos by row: every frame that some view wants, decoded and resized once."""

    def __init__(self, manifest: Manifest, spec: ViewSpec, *, open_video: OpenVideo) -> None:
        self.manifest, self.spec, self.open_video = manifest, spec, open_video

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, row: int) -> VideoViews:
        label = int(self.manifest.labels[row])
        try:
            with _opened(self.manifest, row, self.open_video) as video:
                frames, clips, boxes = read_views(video, self.spec)
        except VideoDecodeError as error:
            return VideoViews(row, label, None, torch.empty(0), [], error.reason)
        return VideoViews(row, label, frames, clips, boxes, "")


@contextmanager
def _opened(manifest: Manifest, row: int, open_video: OpenVideo) -> Iterator[VideoReader]:
    """Opens the video of a row for a `with`; VideoDecodeError also for an index that is none."""
    with watch.reading(row) as got_on:
        try:
            index = manifest.index(row)
        except DataError as error:
            raise VideoDecodeError(manifest.paths[row], str(error)) from error
        with open_video(manifest.paths[row], index=index) as video:
            got_on()  # a reader's time-out holds for opening, and then for reading
            yield video


def read_views(
    video: VideoReader, spec: ViewSpec, *, upright: bool = False
) -> tuple[Tensor, Tensor, list[Box]]:
    """Returns the frames, clips and boxes of `VideoViews` for an open video.

    Args:
        video: to read.
        spec: which views.
        upright: turn the frames as the file says they are to be shown. Training and tests take
            them as stored.

    Raises:
        VideoDecodeError: a wanted frame cannot be decoded.
    """
    clips = eval_clips(
        video.num_frames,
        num_frames=spec.num_frames,
        stride=spec.frame_stride,
        num_clips=spec.num_clips,
        rule=spec.clip_rule,
    )
    wanted, positions = np.unique(np.asarray(clips), return_inverse=True)
    scaled = scaler(video, spec.short_side, upright=upright)
    frames = torch.from_numpy(video.frames(wanted.tolist(), each=scaled))
    height, width = frames.shape[1:3]
    boxes = eval_crops(height, width, crops=spec.crops, crop_size=spec.crop_size)
    return frames, torch.from_numpy(positions.reshape(len(clips), spec.num_frames)), boxes


def scaler(video: VideoReader, short_side: int, *, upright: bool) -> FrameMap:
    """Returns what scales a decoded frame of `video` to a short side, and may turn it upright."""

    def scaled(frame: np.ndarray) -> np.ndarray:
        if upright:
            frame = np.rot90(frame, -video.rotation // 90)
        height, width = short_side_size(frame.shape[0], frame.shape[1], short_side)
        if frame.shape[:2] == (height, width):
            return frame
        # A decoded frame's rows are padded, which torch would be slow to read.
        image = torch.from_numpy(np.ascontiguousarray(frame)[None])
        return resize(image, height, width)[0].numpy()

    return scaled


def collate(clips: Sequence[Clip]) -> ClipBatch:
    """Returns the clips that could be read as one batch; (0, ...) when none could."""
    read = [clip for clip in clips if clip.frames is not None]
    frames = [clip.frames for clip in read if clip.frames is not None]
    return ClipBatch(
        torch.stack(frames) if frames else torch.empty(0, dtype=torch.uint8),
        torch.tensor([clip.label for clip in read], dtype=torch.int64),
        torch.tensor([clip.row for clip in read], dtype=torch.int64),
        [bad for clip in clips for bad in clip.bad],
        len(clips) - len(read),
    )


def clip_loader(
    dataset: TrainClips,
    keys: Iterable[Sequence[SampleKey]],
    *,
    num_workers: int,
    pin: bool,
    timeout: float | None = None,
) -> Iterator[ClipBatch]:
    """Returns batches, one for each list of keys, in order; its workers start at once.

    Args:
        dataset: of the clips.
        keys: lists of keys.
        num_workers: processes that read ahead; 0 for none.
        pin: copy batches to pinned memory.
        timeout: seconds after which the readers of the dataset give up, see `_loader`.
    """
    return _loader(
        dataset,
        num_workers=num_workers,
        timeout=timeout,
        batch_sampler=keys,
        collate_fn=collate,
        pin_memory=pin,
    )


def video_loader(
    dataset: EvalVideos,
    rows: Sequence[int],
    *,
    num_workers: int,
    pin: bool,
    timeout: float | None = None,
) -> Iterator[VideoViews]:
    """Returns whole videos, one for each row, in order; see `clip_loader`."""
    return _loader(
        dataset,
        num_workers=num_workers,
        timeout=timeout,
        batch_size=None,
        sampler=rows,
        pin_memory=pin,
        prefetch_factor=2 if num_workers else None,
    )


def _loader(
    dataset: TrainClips | EvalVideos, *, num_workers: int, timeout: float | None, **options: Any
) -> Iterator[Any]:
    """Returns the items of a DataLoader with `options`.

    Without workers nothing can be seen from outside. With them, the iterator raises DataError that
    names the video when a worker is lost, or is in one video for longer than `timeout` and a margin
    for its reader to give up.
    """
    if not num_workers:
        return iter(DataLoader(dataset, **options))
    board, manifest = watch.Board(num_workers), dataset.manifest
    loader = DataLoader(
        dataset,
        num_workers=num_workers,
        worker_init_fn=partial(_start_worker, board),
        timeout=watch.POLL,
        **options,
    )
    return watch.WatchedBatches(
        loader,
        board,
        name_of=lambda row: str(manifest.videos / manifest.paths[row]),
        limit=None if timeout is None else timeout + watch.MARGIN,
    )


def keyed_batches(rows: Sequence[int], batch_size: int, epoch: int) -> list[list[SampleKey]]:
    """Returns `rows` in batches of keys for one look at each, as monitoring wants."""
    make = partial(SampleKey, epoch)
    return [
        [make(row) for row in rows[i : i + batch_size]] for i in range(0, len(rows), batch_size)
    ]


@atexit.register
def _end_workers() -> None:
    """Ends workers still alive: Python would send them a SIGTERM, and wait for ever."""
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()


def _start_worker(board: watch.Board, worker: int) -> None:
    """Leaves the ending of a run to the main process, which still has a checkpoint to save."""
    watch.join(board, worker)
    torch.set_num_threads(1)
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(name, signal.SIG_IGN)
