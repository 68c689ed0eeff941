"""Faults of media: named, counted, nothing hangs, and the healthy videos read as ever."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.faults.injection import inject
from tests.faults.lists import list_faults, problem_of
from tests.faults.media import Originals, faults, hostile_texts, write_gray
from tests.test_experiment import make_root, words
from tests.videos import SIDE, write_numbered
from videogn import build, cli
from videogn.data.dataset import ClipSpec, TrainClips, clip_loader, keyed_batches
from videogn.data.decode import VideoReader, open_video
from videogn.data.frame_index import FrameIndex
from videogn.data.manifest import Manifest
from videogn.data.order import SampleKey
from videogn.errors import VideoDecodeError

CLIP = ClipSpec(num_frames=4, frame_stride=2, short_side=(SIDE, SIDE), crop_size=48, flip=0.5)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Originals:
    return Originals(tmp_path_factory.mktemp("originals"))


def problems(chosen: list, folder: Path) -> list[str]:
    outcomes = inject(chosen, folder)
    assert len(outcomes) == len(chosen)
    return [f"{o.fault.group}: {o.fault.name!r}: {o.problem}" for o in outcomes if o.problem]


def test_faults_of_every_kind_are_named_and_change_nothing_else(
    originals: Originals, tmp_path: Path
) -> None:
    chosen = [fault for fault in faults(originals) if fault.is_quick]
    assert len({fault.group for fault in chosen}) >= 14
    assert problems(chosen, tmp_path) == []
    assert not list(tmp_path.rglob("owned"))  # no name was run by a shell
    assert not Path("owned").exists()


@pytest.mark.slow
def test_all_faults_are_named_and_change_nothing_else(originals: Originals, tmp_path: Path) -> None:
    chosen = list(faults(originals))
    assert len(chosen) >= 200
    begin = time.monotonic()
    assert problems(chosen, tmp_path) == []
    assert time.monotonic() - begin < 120


def test_an_injection_that_comes_out_otherwise_is_lost(
    originals: Originals, tmp_path: Path
) -> None:
    """The judge can tell: what reads is no refusal, and what is refused does not read."""
    first = next(iter(faults(originals)))
    named = [fault for fault in faults(originals) if fault.name == "-rf.mp4"]
    wrong = [
        type(first)("x", "a.mp4", "refused", named[0].write),
        type(first)("x", "b.mp4", "frames", first.write),
        type(first)("x", "c.mp4", "refused", first.write, "another reason"),
        type(first)("x", "d.mp4", "frames", named[0].write, length=29),
    ]
    found = problems(wrong, tmp_path)
    assert len(found) == 4
    assert "test: was read; training: was read" in found[0]
    assert "was refused, it does not begin like" in found[1]
    assert "was refused since it does not begin like" in found[2]
    assert "instead of" in found[3]


def test_faults_of_a_list_are_refused_with_their_place(tmp_path: Path) -> None:
    found = [problem_of(x, tmp_path / str(number)) for number, x in enumerate(list_faults())]
    assert len(found) == 28
    assert [problem for problem in found if problem] == []


def die_in_a_worker(path: str, **options: Any) -> VideoReader:
    if Path(path).name == "train_1.mp4":
        os.kill(os.getpid(), signal.SIGKILL)
    return open_video(path, **options)


def test_a_run_that_loses_a_worker_ends_with_3_and_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_root(tmp_path / "data", train=4, val=1, classes=["a", "b"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(build, "open_video", die_in_a_worker)
    assert cli.main(words(root, "data.num_workers=1", "optim.max_steps=4")) == 3
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert "a loader worker was killed" in line
    assert line.endswith(str(root / "videos" / "train_1.mp4"))


@pytest.mark.parametrize("change", ["deleted", "replaced", "damaged", "shorter"])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_file_that_changes_between_two_epochs(
    tmp_path: Path, change: str, num_workers: int
) -> None:
    """Row D22; the reader remembers where the frames of a file are, of this very file only."""
    names = [write_numbered(tmp_path / f"{row}.mp4", 20 + row).name for row in range(3)]
    manifest = Manifest("train.csv", names, np.arange(3), ("a", "b", "c"), tmp_path, {})

    def opened(path: str, *, index: FrameIndex | None) -> VideoReader:
        return open_video(tmp_path / path, root=tmp_path, index=index)

    dataset = TrainClips(manifest, CLIP, open_video=opened, seed=0, replace=True)
    options = {"num_workers": num_workers, "pin": False}

    def read(epoch: int) -> list:
        return list(clip_loader(dataset, keyed_batches(range(3), 1, epoch), **options))

    assert [batch.bad for batch in read(0)] == [[], [], []]
    expected = read(1)
    path = tmp_path / names[1]
    content = path.read_bytes()
    path.unlink()
    if change == "replaced":
        write_numbered(path, 9)
    elif change != "deleted":
        path.write_bytes(content[: len(content) // 2] if change == "shorter" else b"x" * 900)
    found = read(1)
    for row in (0, 2):
        assert found[row].clips.equal(expected[row].clips)
        assert not found[row].bad
    assert [bad.row for bad in found[1].bad[:1]] == ([] if change == "replaced" else [1])
    assert len(found[1].clips) == 1
    assert (found[1].rows.tolist() == [1]) == (change == "replaced")


def test_an_index_of_another_file_of_the_same_size_gives_no_wrong_frames(tmp_path: Path) -> None:
    """The manifest's index is old: the frames are then not those that it lists."""
    long, short = (write_numbered(tmp_path / f"{n}.mp4", n) for n in (40, 20))
    size = max(long.stat().st_size, short.stat().st_size) + 100
    for path in (long, short):
        with path.open("ab") as file:  # a box of padding makes them equally large
            missing = size - path.stat().st_size
            file.write(missing.to_bytes(4, "big") + b"free" + bytes(missing - 8))
    with open_video(long) as video:
        index = video.index
    assert index.file_size == short.stat().st_size
    with open_video(short, index=index) as video, pytest.raises(VideoDecodeError):
        video.frames([30])


@pytest.fixture
def canary() -> Iterator[tuple[str, list[object]]]:
    """An address, and the connections that were made to it."""
    connections: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    connection, peer = server.accept()
                except OSError:
                    return
                connections.append(peer)
                connection.close()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", connections
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.slow
def test_hostile_paths_open_no_connection_and_no_other_file(
    tmp_path: Path, canary: tuple[str, list[object]], originals: Originals
) -> None:
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    address, connections = canary
    root = tmp_path / "root"
    root.mkdir()
    (root / "BEGIN").touch()
    for path in (root / "healthy.mp4", root / "other.mp4", tmp_path / "outside.mp4"):
        path.write_bytes(originals.mp4)
    for name, data in hostile_texts(address, "other.mp4").items():
        (root / name).write_bytes(data)
    (root / "link.mp4").symlink_to(tmp_path / "outside.mp4")
    os.mkfifo(root / "fifo.mp4")
    trace = tmp_path / "trace"
    command = [sys.executable, "-m", "tests.faults.open_hostile", str(root), address]
    calls = "openat,open,connect,socket"
    done = subprocess.run(
        ["strace", "-f", "-qq", "-s", "500", "-e", f"trace={calls}", "-o", str(trace), *command],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["pyav"]["healthy"] == "read"
    for outcomes in found.values():
        healthy = outcomes.pop("healthy")
        assert len(outcomes) >= 30
        assert set(outcomes.values()) == {"refused" if healthy == "read" else healthy} or (
            healthy == "not installed" and set(outcomes.values()) <= {"refused", "not installed"}
        )
    assert connections == []
    lines = trace.read_text().splitlines()
    begin = next(i for i, line in enumerate(lines) if str(root / "BEGIN") in line)
    assert not [line for line in lines[begin:] if "AF_INET" in line]
    opened = {m[1] for line in lines[begin:] if (m := re.search(r'open(?:at)?\(.*?"(.*?)"', line))}
    mine = {path for path in opened if path.startswith(str(tmp_path))}
    assert {Path(path).name for path in mine} <= {"BEGIN", *hostile_texts("", "")}
    assert len(mine) > 5  # the trace does see them


@pytest.mark.slow
def test_a_huge_frame_is_refused_before_it_costs_memory(tmp_path: Path) -> None:
    write_gray(tmp_path / "bomb.avi", 2, 8192, 8192, codec="mjpeg")
    program = (
        "import resource, sys, time\n"
        "from videogn.data.decode import open_video\n"
        "from videogn.errors import VideoDecodeError\n"
        "import videogn.data.pyav_reader\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "before, begin = peak(), time.process_time()\n"
        "try: open_video(sys.argv[1])\n"
        "except VideoDecodeError as error: print(error.reason)\n"
        "print(peak() - before, time.process_time() - begin)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "bomb.avi")],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    reason, cost = done.stdout.splitlines()
    assert "8192x8192" in reason
    megabytes, seconds = map(float, cost.split())
    assert megabytes < 64  # one frame of it is 192 MB in RGB
    assert seconds < 5


def resident() -> float:
    """Memory of this process, MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def open_files() -> int:
    """File descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux' /proc")
def test_memory_is_flat_over_2000_clips(tmp_path: Path) -> None:
    names = [write_numbered(tmp_path / f"{row}.mp4", 40).name for row in range(10)]
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    names.append("bad.mp4")
    manifest = Manifest("train.csv", names, np.zeros(11, np.int64), ("a",), tmp_path, {})

    def opened(path: str, *, index: FrameIndex | None) -> VideoReader:
        return open_video(tmp_path / path, root=tmp_path, index=index)

    dataset = TrainClips(manifest, CLIP, open_video=opened, seed=0, replace=True)
    early, files = 0.0, open_files()
    for number in range(2000):
        assert dataset[SampleKey(*divmod(number, 11))].frames is not None
        if number == 199:
            early = resident()
    late = resident()
    assert late - early < 10, f"{early:.1f} MB after 200 clips, {late:.1f} MB after 2,000"
    assert open_files() <= files + 5
