"""The right frames under the right label; bad videos are named, and replaced in training only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.videos import SIDE, read_number, write_numbered
from videogn.data.dataset import (
    MAX_REPLACEMENTS,
    ClipBatch,
    ClipSpec,
    EvalVideos,
    TrainClips,
    VideoViews,
    ViewSpec,
    clip_loader,
    collate,
    keyed_batches,
    read_views,
    video_loader,
)
from videogn.data.decode import FrameMap, VideoReader, open_video
from videogn.data.frame_index import FrameIndex
from videogn.data.manifest import Manifest
from videogn.data.order import SampleKey, Stream
from videogn.data.sampling import eval_clips, frame_indices, random_start
from videogn.data.transforms import resize, train_crop
from videogn.errors import VideoDecodeError

LENGTHS = [24, 40, 9, 33, 16, 24]  # frames of the videos; the third is shorter than a clip
BAD = 2  # row that is damaged in `with_bad`
# The whole frame at its own size, so that its number can be read back.
WHOLE = ClipSpec(num_frames=6, frame_stride=2, short_side=(SIDE, SIDE), crop_size=SIDE, flip=0.0)
CUT = ClipSpec(num_frames=4, frame_stride=1, short_side=(56, 72), crop_size=48, flip=0.5)
VIEWS = ViewSpec(
    num_frames=6,
    frame_stride=2,
    num_clips=5,
    clip_rule="nonlocal",
    crops="full",
    short_side=SIDE,
    crop_size=48,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for row, length in enumerate(LENGTHS):
        write_numbered(folder / f"{row}.mp4", length)
    (folder / "bad.mp4").write_bytes(b"no video at all")
    return folder


def manifest_of(folder: Path, names: Sequence[str]) -> Manifest:
    labels = np.arange(len(names)) % 3
    paths = [str(folder / name) for name in names]
    return Manifest("train.csv", paths, labels, ("a", "b", "c"), folder, {})


@pytest.fixture(scope="module")
def healthy(folder: Path) -> Manifest:
    return manifest_of(folder, [f"{row}.mp4" for row in range(len(LENGTHS))])


@pytest.fixture(scope="module")
def with_bad(folder: Path) -> Manifest:
    return manifest_of(folder, ["0.mp4", "1.mp4", "bad.mp4", "3.mp4", "4.mp4", "5.mp4"])


def clips_of(
    manifest: Manifest, spec: ClipSpec = WHOLE, *, replace: bool = True, seed: int = 0
) -> TrainClips:
    return TrainClips(manifest, spec, open_video=open_video, seed=seed, replace=replace)


def numbers(frames: torch.Tensor | None) -> list[int]:
    assert frames is not None
    return [read_number(frame) for frame in frames.numpy()]


@pytest.mark.parametrize("row", range(len(LENGTHS)))
def test_the_frames_of_a_training_clip_are_consecutive_at_its_stride(
    healthy: Manifest, row: int
) -> None:
    dataset, firsts = clips_of(healthy), set()
    for epoch in range(12):
        clip = dataset[SampleKey(epoch, row)]
        got = numbers(clip.frames)
        assert got == frame_indices(got[0], 6, 2, LENGTHS[row])
        assert got[0] <= max(LENGTHS[row] - 12, 0)
        assert (clip.label, clip.row, clip.bad) == (row % 3, row, [])
        firsts.add(got[0])
    assert len(firsts) > 3 or LENGTHS[row] <= 16  # another start in another epoch
    assert LENGTHS[row] != 9 or firsts == {0}


def test_the_same_key_and_seed_give_the_same_bytes(healthy: Manifest) -> None:
    keys = [SampleKey(epoch, row) for epoch in (0, 1) for row in (0, 1)]
    first, again, other = (
        [clips_of(healthy, CUT, seed=seed)[key].frames for key in keys] for seed in (0, 0, 1)
    )
    for a, b in zip(first, again, strict=True):
        assert a is not None
        assert b is not None
        assert a.shape == (4, 48, 48, 3)
        assert torch.equal(a, b)
    pairs = zip(first, other, strict=True)
    assert not all(a is not None and b is not None and torch.equal(a, b) for a, b in pairs)


def test_a_clip_is_cut_as_from_whole_frames(healthy: Manifest) -> None:
    """The frames are cut one by one while they are decoded; the bytes are those of a batch."""
    for key in [SampleKey(epoch, row) for epoch in range(3) for row in range(len(LENGTHS))]:
        clip = clips_of(healthy, CUT, seed=5)[key].frames
        rng = np.random.default_rng([5, *key, 1])
        with open_video(healthy.paths[key.row]) as video:
            start = random_start(video.num_frames, 4, rng)
            frames = video.frames(frame_indices(start, 4, 1, video.num_frames))
        expected = train_crop(
            frames, short_side=CUT.short_side, crop_size=48, flip=CUT.flip, rng=rng
        )
        assert clip is not None
        assert torch.equal(clip, expected)


def test_another_epoch_cuts_another_clip(healthy: Manifest) -> None:
    clips = [clips_of(healthy, CUT)[SampleKey(epoch, 1)].frames for epoch in range(4)]
    assert len({clip.numpy().tobytes() for clip in clips if clip is not None}) == 4


def read_stream(manifest: Manifest, num_workers: int, start: int = 0) -> list[ClipBatch]:
    stream = Stream(len(manifest), seed=4, batch_size=4, start=start, stop=6)
    dataset = clips_of(manifest, CUT)
    return list(clip_loader(dataset, stream, num_workers=num_workers, pin=False))


def assert_equal_batches(got: list[ClipBatch], expected: list[ClipBatch]) -> None:
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a.clips, b.clips)
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.rows, b.rows)
        assert (a.bad, a.missing) == (b.bad, 0)


def test_neither_workers_nor_a_late_start_change_the_stream(with_bad: Manifest) -> None:
    alone = read_stream(with_bad, num_workers=0)
    assert [batch.clips.shape for batch in alone] == [(4, 4, 48, 48, 3)] * 6
    assert sum(len(batch.bad) for batch in alone) >= 4  # 24 looks at 6 videos, one of them bad
    for num_workers in (1, 2):
        assert_equal_batches(read_stream(with_bad, num_workers), alone)
    assert_equal_batches(read_stream(with_bad, num_workers=1, start=4), alone[4:])


def shared_stream(manifest: Manifest, num_workers: int, world: int = 1) -> list[ClipBatch]:
    """Batches of 8 clips, 4 from each decode, in the order of all ranks together."""
    dataset = clips_of(manifest, CUT)
    loaders = [
        clip_loader(
            dataset,
            Stream(
                len(manifest),
                seed=4,
                batch_size=8 // world,
                clips_per_decode=4,
                rank=rank,
                world=world,
                stop=4,
            ),
            num_workers=num_workers,
            pin=False,
        )
        for rank in range(world)
    ]
    return [batch for step in zip(*loaders, strict=True) for batch in step]


def test_clips_that_share_a_decode_are_those_of_a_decode_each(with_bad: Manifest) -> None:
    alone = clips_of(with_bad, CUT)
    keys = [
        key
        for batch in Stream(6, seed=4, batch_size=8, clips_per_decode=4, stop=4)
        for key in batch
    ]
    assert len(set(keys)) == 32
    together = shared_stream(with_bad, num_workers=0)
    clips = [clip for batch in together for clip in batch.clips]
    rows = [row for batch in together for row in batch.rows.tolist()]
    expected = [alone[key] for key in keys]
    for clip, row, one in zip(clips, rows, expected, strict=True):
        assert one.frames is not None
        assert torch.equal(clip, one.frames)
        assert row == one.row
    assert [bad for batch in together for bad in batch.bad] == [
        b for one in expected for b in one.bad
    ]
    assert len({clip.numpy().tobytes() for clip in clips[:4]}) == 4  # not four times the same


def test_neither_workers_nor_ranks_change_clips_that_share_a_decode(with_bad: Manifest) -> None:
    alone = shared_stream(with_bad, num_workers=0)
    assert_equal_batches(shared_stream(with_bad, num_workers=2), alone)
    halves = shared_stream(with_bad, num_workers=0, world=2)
    assert torch.equal(torch.cat([b.clips for b in halves]), torch.cat([b.clips for b in alone]))


def test_clips_of_one_video_cost_one_decode(healthy: Manifest) -> None:
    spy = Spy()
    dataset = TrainClips(healthy, WHOLE, open_video=spy, seed=0, replace=True)
    keys = [SampleKey(epoch, row) for row in (1, 3) for epoch in range(5)]
    clips = dataset.__getitems__(keys)
    assert [clip.row for clip in clips] == [1] * 5 + [3] * 5
    assert len(spy.readers) == 2
    for reader, asked in zip(spy.readers, spy.asked, strict=True):
        assert asked == sorted(set(asked))
        assert reader.stats.converted == len(asked) < 5 * 6
        assert reader.stats.decoded <= max(asked) + 1


def test_a_video_that_can_give_only_some_of_its_clips_gives_those(healthy: Manifest) -> None:
    class Damaged:
        """The frames from 20 on cannot be decoded."""

        def __init__(self, reader: VideoReader) -> None:
            self.reader, self.num_frames = reader, reader.num_frames

        def frames(self, indices: Sequence[int], each: FrameMap) -> np.ndarray:
            if max(indices) >= 20:
                raise VideoDecodeError("1.mp4", "is damaged at frame 20")
            return self.reader.frames(indices, each)

        def __enter__(self) -> Damaged:
            return self

        def __exit__(self, *exception: object) -> None:
            self.reader.close()

    def opened(path: str, *, index: FrameIndex | None) -> VideoReader:
        return Damaged(open_video(path, index=index))  # type: ignore[return-value]

    dataset = TrainClips(healthy, WHOLE, open_video=opened, seed=0, replace=False)
    keys = [SampleKey(epoch, 1) for epoch in range(8)]
    clips = dataset.__getitems__(keys)
    assert 0 < sum(clip.frames is None for clip in clips) < 8
    for clip, key in zip(clips, keys, strict=True):
        whole = clips_of(healthy)[key].frames
        assert whole is not None
        if clip.frames is None:
            assert clip.bad == [(1, "1.mp4", "is damaged at frame 20")]
        else:
            assert torch.equal(clip.frames, whole)


def test_labels_and_rows_stay_with_their_clips(healthy: Manifest) -> None:
    dataset = clips_of(healthy)
    keys = [[SampleKey(0, 3), SampleKey(0, 1), SampleKey(0, 2)]]
    (batch,) = clip_loader(dataset, keys, num_workers=0, pin=False)
    assert batch.rows.tolist() == [3, 1, 2]
    assert batch.labels.tolist() == [0, 1, 2]
    assert batch.labels.dtype == batch.rows.dtype == torch.int64
    for clip, key in zip(batch.clips, keys[0], strict=True):
        assert torch.equal(clip, dataset[key].frames)  # type: ignore[arg-type]


def test_in_training_another_video_takes_the_place_of_a_bad_one(with_bad: Manifest) -> None:
    rows = []
    for epoch in range(20):
        clip = clips_of(with_bad)[SampleKey(epoch, BAD)]
        again = clips_of(with_bad)[SampleKey(epoch, BAD)]
        assert clip.frames is not None
        assert again.frames is not None
        assert (again.row, again.bad) == (clip.row, clip.bad)
        assert torch.equal(again.frames, clip.frames)
        assert clip.label == with_bad.labels[clip.row]
        assert numbers(clip.frames)[0] < LENGTHS[clip.row]
        assert {bad.row for bad in clip.bad} == {BAD}
        assert clip.bad[0].path == with_bad.paths[BAD]
        assert clip.bad[0].reason
        rows.append(clip.row)
    assert BAD not in rows
    assert len(set(rows)) > 2  # not always the same one


def test_in_validation_a_bad_video_is_left_out_and_named(with_bad: Manifest) -> None:
    clip = clips_of(with_bad, replace=False)[SampleKey(0, BAD)]
    assert clip.frames is None
    assert (clip.label, clip.row) == (2, BAD)
    assert [bad.row for bad in clip.bad] == [BAD]

    batches = keyed_batches(range(len(with_bad)), 2, epoch=3)
    loader = clip_loader(clips_of(with_bad, replace=False), batches, num_workers=1, pin=False)
    found = list(loader)
    assert [batch.rows.tolist() for batch in found] == [[0, 1], [3], [4, 5]]
    assert [len(batch.clips) for batch in found] == [2, 1, 2]
    assert [[bad.row for bad in batch.bad] for batch in found] == [[], [BAD], []]


def test_a_batch_of_bad_videos_only_is_empty(with_bad: Manifest) -> None:
    batch = collate([clips_of(with_bad, replace=False)[SampleKey(0, BAD)]])
    assert len(batch.clips) == len(batch.labels) == len(batch.rows) == 0
    assert [bad.row for bad in batch.bad] == [BAD]
    assert batch.missing == 1


@pytest.mark.parametrize("num_workers", [0, 1])
def test_with_no_readable_video_at_all_the_clip_is_missing_and_the_tried_ones_listed(
    folder: Path, num_workers: int
) -> None:
    """No error here: one raised in a worker arrives with its whole traceback for a message."""
    dataset = clips_of(manifest_of(folder, ["bad.mp4", "bad.mp4", "gone.mp4"]))
    keys = [[SampleKey(0, 0), SampleKey(0, 2)]]
    (batch,) = clip_loader(dataset, keys, num_workers=num_workers, pin=False)
    assert len(batch.clips) == 0
    assert batch.missing == 2
    assert len(batch.bad) == 2 * (1 + MAX_REPLACEMENTS)
    assert {bad.row for bad in batch.bad} == {0, 1, 2}
    assert all(bad.reason for bad in batch.bad)


class Spy:
    """Opens videos, and notes the readers and what they were asked for."""

    def __init__(self) -> None:
        self.readers: list[VideoReader] = []
        self.asked: list[list[int]] = []
        self.kept: list[int] = []  # bytes that a reader held of each read

    def __call__(self, path: str, *, index: FrameIndex | None = None) -> VideoReader:
        reader = open_video(path, index=index)
        frames = reader.frames

        def noted(indices: Sequence[int], each: FrameMap | None = None) -> np.ndarray:
            self.asked.append(list(indices))
            images = frames(indices, each)
            self.kept.append(images.nbytes)
            return images

        reader.frames = noted
        self.readers.append(reader)
        return reader


@pytest.mark.parametrize("rule", ["nonlocal", "slowfast", "mmaction"])
@pytest.mark.parametrize("row", [1, BAD])
def test_the_views_of_a_video_index_frames_decoded_once(
    healthy: Manifest, rule: Any, row: int
) -> None:
    spec = ViewSpec(6, 2, 5, rule, "full", SIDE, 48)
    spy = Spy()
    views = EvalVideos(healthy, spec, open_video=spy)[row]
    expected = eval_clips(LENGTHS[row], num_frames=6, stride=2, num_clips=5, rule=rule)
    assert views.frames is not None
    assert spy.asked == [sorted({index for clip in expected for index in clip})]
    assert views.frames.shape == (len(spy.asked[0]), SIDE, SIDE, 3)
    assert views.clips.dtype == torch.int64
    assert [numbers(views.frames[clip]) for clip in views.clips] == expected
    assert (views.row, views.label, views.failure) == (row, row % 3, "")
    assert views.boxes == [(0, 0, SIDE, SIDE)]


@pytest.mark.parametrize(("height", "width"), [(64, 64), (50, 66), (66, 50), (41, 97)])
def test_frames_resized_one_by_one_are_those_resized_together(height: int, width: int) -> None:
    """Readers hand out views whose rows may lie apart in memory."""
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 256, (5, height, width + 7, 3), dtype=np.uint8)
    frames = wide[:, :, :width]

    class Still:
        num_frames = 5

        def frames(self, indices: Sequence[int], each: FrameMap) -> np.ndarray:
            return np.stack([each(frames[i]) for i in indices])

    spec = ViewSpec(5, 1, 1, "nonlocal", "full", 56, 48)
    got, _, ((_, _, *size),) = read_views(Still(), spec)  # type: ignore[arg-type]
    assert torch.equal(got, resize(torch.from_numpy(frames.copy()), size[0], size[1]))


def test_a_reader_never_holds_more_than_the_results(healthy: Manifest) -> None:
    spy, spec = Spy(), ViewSpec(6, 2, 5, "nonlocal", "full", 16, 16)
    views = EvalVideos(healthy, spec, open_video=spy)[1]
    assert views.frames is not None
    assert views.frames.shape[1:] == (16, 16, 3)
    assert spy.kept == [views.frames.nbytes]
    small = ClipSpec(num_frames=6, frame_stride=2, short_side=(64, 64), crop_size=20, flip=0.0)
    clips = TrainClips(healthy, small, open_video=spy, seed=0, replace=True)
    assert clips[SampleKey(0, 1)].frames is not None
    assert spy.kept[1] == 6 * 20 * 20 * 3  # not 6 frames of 64 x 64


def test_a_video_is_decoded_once_and_no_frame_too_many(healthy: Manifest) -> None:
    spy = Spy()
    EvalVideos(healthy, VIEWS, open_video=spy)[1]
    assert spy.readers[0].stats.converted == len(spy.asked[0]) == len(set(spy.asked[0]))
    assert spy.readers[0].stats.decoded <= LENGTHS[1]
    for epoch in range(4):
        TrainClips(healthy, WHOLE, open_video=spy, seed=0, replace=True)[SampleKey(epoch, 1)]
    for reader, asked in zip(spy.readers[1:], spy.asked[1:], strict=True):
        assert reader.stats.converted == len(asked) == 6
        # frames are presented in the order they are coded here: no later one is needed
        assert reader.stats.decoded <= max(asked) + 1
    assert len(spy.readers) == 5


def test_a_prediction_sees_frames_upright_and_a_test_as_stored(healthy: Manifest) -> None:
    with open_video(healthy.paths[0]) as video:
        stored, _, _ = read_views(video, VIEWS)
        for rotation in (0, 90, 180, 270):
            video._rotation = rotation  # type: ignore[attr-defined]  # as if the file said so
            upright, _, _ = read_views(video, VIEWS, upright=True)
            turned = torch.from_numpy(np.rot90(stored.numpy(), -rotation // 90, axes=(1, 2)).copy())
            assert torch.equal(upright, turned)
            assert torch.equal(read_views(video, VIEWS)[0], stored)


def test_the_index_of_the_manifest_spares_looking_for_the_frames(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_video(folder / "1.mp4") as video:
        text = video.index.to_text()
    names = ["0.mp4", "1.mp4", "3.mp4"]
    plain = manifest_of(folder, names)
    manifest = replace(plain, columns={"index": ["", text, "nonsense"]})
    given = []

    def opened(path: str, *, index: FrameIndex | None) -> VideoReader:
        given.append(index)
        return open_video(path, index=index)

    dataset = TrainClips(manifest, CUT, open_video=opened, seed=0, replace=False)
    clips = [dataset[SampleKey(0, row)] for row in range(3)]
    assert given[0] is None
    assert given[1] is not None
    assert given[1].to_text() == text
    for clip, key in zip(clips[:2], (0, 1), strict=True):
        expected = clips_of(plain, CUT)[SampleKey(0, key)].frames
        assert clip.frames is not None
        assert expected is not None
        assert torch.equal(clip.frames, expected)
    assert clips[2].frames is None  # named like any other video that cannot be read
    assert "is no index of frames" in clips[2].bad[0].reason


def test_views_are_scaled_to_their_short_side_and_cut_as_asked(healthy: Manifest) -> None:
    spec = ViewSpec(2, 1, 3, "nonlocal", "three", 96, 80)
    views = EvalVideos(healthy, spec, open_video=open_video)[0]
    assert views.frames is not None
    assert views.frames.shape[1:] == (96, 96, 3)
    assert views.boxes == [(0, 0, 96, 96)] * 3
    assert spec.num_views == len(views.clips) * len(views.boxes) == 9
    center = ViewSpec(2, 1, 3, "nonlocal", "center", 96, 80)
    views = EvalVideos(healthy, center, open_video=open_video)[0]
    assert views.boxes == [(8, 8, 80, 80)]
    assert center.num_views == 3


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_failed_video_of_a_test_is_named_and_never_replaced(
    with_bad: Manifest, num_workers: int
) -> None:
    dataset = EvalVideos(with_bad, VIEWS, open_video=open_video)
    loader = video_loader(dataset, range(1, 4), num_workers=num_workers, pin=False)
    found: list[VideoViews] = list(loader)
    assert [views.row for views in found] == [1, BAD, 3]
    assert [views.label for views in found] == [1, 2, 0]
    assert [views.frames is None for views in found] == [False, True, False]
    assert [bool(views.failure) for views in found] == [False, True, False]


@pytest.mark.parametrize(
    ("crops", "words"),
    [
        ("full", "fully convolutional at short side 256"),
        ("center", "center crop 224 of short side 256"),
        ("three", "three crops 256 of short side 256"),
    ],
)
def test_the_protocol_in_words(crops: Any, words: str) -> None:
    spec = ViewSpec(32, 2, 10, "nonlocal", crops, 256, 224)
    assert spec.describe() == (
        f"10 clips (nonlocal) of 32 frames, stride 2, {words}, softmax averaged over views"
    )
    assert replace(spec, num_clips=1).describe().startswith("1 clip (nonlocal) of 32 frames")


def test_keyed_batches_look_at_each_row_once() -> None:
    assert keyed_batches(range(1, 10, 2), 2, epoch=7) == [
        [(7, 1), (7, 3)],
        [(7, 5), (7, 7)],
        [(7, 9)],
    ]
    assert keyed_batches([], 4, epoch=0) == []


def test_lengths_are_those_of_the_manifest(healthy: Manifest) -> None:
    assert len(clips_of(healthy)) == len(LENGTHS)
    assert len(EvalVideos(healthy, VIEWS, open_video=open_video)) == len(LENGTHS)
