"""A worker that is killed, stopped or stuck ends the run with the name of the file it was in."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tests.videos import SIDE, write_numbered
from videogn.data import watch
from videogn.data.dataset import (
    ClipSpec,
    EvalVideos,
    TrainClips,
    ViewSpec,
    clip_loader,
    keyed_batches,
    video_loader,
)
from videogn.data.decode import FrameMap, VideoReader, open_video
from videogn.data.frame_index import FrameIndex
from videogn.data.manifest import Manifest
from videogn.errors import DataError

NAMES = [f"{row}.mp4" for row in range(6)]
FATAL = 3  # the row whose video does it
SPEC = ClipSpec(num_frames=2, frame_stride=1, short_side=(SIDE, SIDE), crop_size=48, flip=0.5)
VIEWS = ViewSpec(2, 1, 2, "nonlocal", "full", SIDE, 48)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("videos")
    for name in NAMES:
        write_numbered(folder / name, 5)
    return Manifest("train.csv", NAMES, np.zeros(len(NAMES), np.int64), ("a",), folder, {})


@pytest.fixture(autouse=True)
def in_haste(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Half a second of patience; and nothing is left running."""
    monkeypatch.setattr(watch, "MARGIN", 0.3)
    monkeypatch.setattr(watch, "POLL", 0.1)
    handler, begin = signal.getsignal(signal.SIGCHLD), time.monotonic()
    yield
    assert time.monotonic() - begin < 25  # torch would wait for 30
    assert signal.getsignal(signal.SIGCHLD) is handler
    gc.collect()  # a traceback holds the iterator, and that the workers
    for process in multiprocessing.active_children():
        process.join(5)
    assert not multiprocessing.active_children()


def opener(
    videos: Path, path: str, *, fate: Callable[[], None], index: FrameIndex | None
) -> VideoReader:
    if Path(path).name == NAMES[FATAL]:
        fate()
    return open_video(videos / path, index=index)


def sent(number: int) -> None:
    os.kill(os.getpid(), number)


def items(
    manifest: Manifest, fate: Callable[[], None], *, num_workers: int, test: bool
) -> Iterator[object]:
    opened = partial(opener, manifest.videos, fate=fate)
    rows = range(len(NAMES))
    if test:
        videos = EvalVideos(manifest, VIEWS, open_video=opened)
        return video_loader(videos, rows, num_workers=num_workers, pin=False, timeout=0.3)
    clips = TrainClips(manifest, SPEC, open_video=opened, seed=0, replace=True)
    keys = keyed_batches(rows, 2, epoch=0)
    return clip_loader(clips, keys, num_workers=num_workers, pin=False, timeout=0.3)


def told_to_end(*, start: Callable[[int], None], worker: int) -> None:
    """What a worker goes through when the whole group is signalled while it starts."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        sent(number)
    start(worker)


def test_a_signal_to_the_group_while_workers_start_is_left_to_the_main_process(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_init, before = DataLoader.__init__, signal.pthread_sigmask(signal.SIG_BLOCK, ())

    def init(self: DataLoader, *args: Any, worker_init_fn: Any, **more: Any) -> None:
        start = partial(told_to_end, start=worker_init_fn)
        plain_init(self, *args, worker_init_fn=lambda worker: start(worker=worker), **more)

    monkeypatch.setattr(DataLoader, "__init__", init)
    assert len(list(items(manifest, lambda: None, num_workers=2, test=False))) == 3
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


FATES = {
    "killed": (partial(sent, signal.SIGKILL), "a loader worker was killed (out of memory?"),
    "crashed": (partial(sent, signal.SIGSEGV), "a loader worker was ended by SIGSEGV while"),
    "gone": (partial(os._exit, 7), "a loader worker ended with code 7 while reading"),
    "stopped": (partial(sent, signal.SIGSTOP), "has kept a loader worker for more than 0.6 s"),
    "asleep": (partial(time.sleep, 60), "has kept a loader worker for more than 0.6 s"),
}


@pytest.mark.parametrize(
    ("test", "num_workers"),
    [
        (False, 2),
        (True, 1),
        pytest.param(False, 1, marks=pytest.mark.slow),
        pytest.param(True, 2, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("fate", FATES)
def test_a_lost_worker_is_named_by_its_file(
    manifest: Manifest, fate: str, num_workers: int, test: bool
) -> None:
    act, message = FATES[fate]
    found: list[object] = []
    with pytest.raises(DataError) as caught:
        found.extend(items(manifest, act, num_workers=num_workers, test=test))
    assert message in str(caught.value)
    assert str(manifest.videos / NAMES[FATAL]) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(found) <= (FATAL if test else FATAL // 2)  # in order: at most what came before


def a_decoder_that_never_returns() -> None:
    time.sleep(60)


def test_a_worker_that_is_stuck_prints_where(
    manifest: Manifest, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match="has kept a loader worker"):
        list(items(manifest, a_decoder_that_never_returns, num_workers=1, test=False))
    assert "in a_decoder_that_never_returns" in capfd.readouterr().err


def test_a_death_is_noticed_while_waiting_and_not_in_the_middle_of_a_step(
    manifest: Manifest,
) -> None:
    batches = items(manifest, partial(sent, signal.SIGKILL), num_workers=1, test=True)
    workers = multiprocessing.active_children()
    next(batches)
    next(batches)
    time.sleep(0.5)  # as a step would take, in which the worker dies
    assert not all(process.is_alive() for process in workers)
    with pytest.raises(DataError, match=NAMES[FATAL]):
        list(batches)


def test_workers_stopped_between_two_files_are_noticed(manifest: Manifest) -> None:
    before = set(multiprocessing.active_children())
    batches = items(manifest, lambda: None, num_workers=2, test=True)
    workers = set(multiprocessing.active_children()) - before
    next(batches)
    time.sleep(0.5)  # they have read as far ahead as they may
    for process in workers:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(DataError, match=r"no loader worker has answered for more than 0\.6 s") as e:
        list(batches)
    assert "after reading" in str(e.value)
    assert str(manifest.videos) in str(e.value)


@pytest.mark.slow
def test_slow_videos_and_long_pauses_are_no_reason_to_end(manifest: Manifest) -> None:
    """A batch of several videos may take longer than the limit of one."""

    def opened(path: str, *, index: FrameIndex | None) -> VideoReader:
        time.sleep(0.4)
        return open_video(manifest.videos / path, index=index)

    dataset = TrainClips(manifest, SPEC, open_video=opened, seed=0, replace=True)
    batches = clip_loader(
        dataset, keyed_batches(range(4), 4, 0), num_workers=1, pin=False, timeout=0.3
    )
    begin = time.monotonic()
    (batch,) = batches
    assert len(batch.clips) == 4
    assert time.monotonic() - begin > 1.5  # and the limit is 0.6

    quick = items(manifest, lambda: None, num_workers=1, test=True)
    next(quick)
    time.sleep(1.0)  # as a validation in between would take
    assert len(list(quick)) == 5


def test_opening_and_reading_have_their_time_each(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "MARGIN", 1.5)  # 1.8 s in all: a busy machine may lose one of them

    def opened(path: str, *, index: FrameIndex | None) -> VideoReader:
        time.sleep(1.1)
        video = open_video(manifest.videos / path, index=index)
        frames = video.frames

        def slow(indices: Sequence[int], each: FrameMap | None = None) -> np.ndarray:
            time.sleep(1.1)
            return frames(indices, each)

        video.frames = slow
        return video

    videos = EvalVideos(manifest, VIEWS, open_video=opened)
    (views,) = video_loader(videos, [0], num_workers=1, pin=False, timeout=0.3)
    assert not views.failure


def test_a_worker_that_cannot_even_be_killed_is_not_waited_for(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while the kernel waits for a file system: it ignores SIGKILL."""
    before = set(multiprocessing.active_children())
    with monkeypatch.context() as patched:
        patched.setattr(watch._Watch, "kill_all", lambda self: None)
        batches = items(manifest, partial(time.sleep, 60), num_workers=1, test=True)
        with pytest.raises(DataError, match="has kept a loader worker"):
            list(batches)
    for process in set(multiprocessing.active_children()) - before:
        process.kill()


def test_leaving_does_not_wait_for_workers_that_are_in_a_video(manifest: Manifest) -> None:
    def slow(path: str, *, index: FrameIndex | None) -> VideoReader:
        time.sleep(60)
        return open_video(manifest.videos / path, index=index)

    before = set(multiprocessing.active_children())
    videos = EvalVideos(manifest, VIEWS, open_video=slow)
    batches = video_loader(videos, range(3), num_workers=3, pin=False, timeout=100)
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 3
    begin = time.monotonic()
    del batches
    assert time.monotonic() - begin < 20  # torch alone: 30 s
    assert not any(worker.is_alive() for worker in workers)


def test_a_reader_that_gives_up_in_time_makes_a_bad_video(manifest: Manifest) -> None:
    def opened(path: str, *, index: FrameIndex | None) -> VideoReader:
        patience = 1e-9 if Path(path).name == NAMES[FATAL] else None
        return open_video(manifest.videos / path, index=index, timeout=patience)

    clips = TrainClips(manifest, SPEC, open_video=opened, seed=0, replace=True)
    batches = clip_loader(clips, keyed_batches(range(6), 6, 0), num_workers=1, pin=False)
    (batch,) = batches
    assert len(batch.clips) == 6
    assert [(bad.row, "took more than" in bad.reason) for bad in batch.bad] == [
        (FATAL, True)
    ] * len(batch.bad)
    assert batch.bad

    videos = EvalVideos(manifest, VIEWS, open_video=opened)
    views = list(video_loader(videos, range(6), num_workers=2, pin=False))
    assert [view.row for view in views if view.frames is None] == [FATAL]
    assert "took more than" in views[FATAL].failure


@pytest.mark.slow
def test_errors_of_a_worker_that_lives_pass_unchanged(manifest: Manifest) -> None:
    def fate() -> None:
        raise RuntimeError("a defect of the program")

    for num_workers in (0, 1):
        with pytest.raises(RuntimeError, match="a defect of the program"):
            list(items(manifest, fate, num_workers=num_workers, test=True))


def test_a_board_holds_a_line_for_each_worker() -> None:
    board = watch.Board(3)
    board.write(1, watch.Line(12, 3, 2**40))
    assert board.lines() == [(0, 0, 0), (12, 3, 2**40), (0, 0, 0)]
    assert torch.utils.data.get_worker_info() is None
    with watch.reading(5) as got_on:  # outside a worker nothing is written
        got_on()
    assert board.lines()[0] == (0, 0, 0)
