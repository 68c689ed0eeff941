"""Files that are no good videos, each with the kind of fault that verification must name."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame

from tests.videos import write_numbered


def write_bad_videos(folder: Path) -> dict[str, str]:
    """Writes one file of each fault to `folder`; returns the kind by file name."""
    folder.mkdir(parents=True, exist_ok=True)
    good = write_numbered(folder / "good.tmp.mp4", 40, options={"crf": "1"})
    content = good.read_bytes()
    fast = write_numbered(
        folder / "fast.tmp.mp4",
        40,
        options={"crf": "1"},
        container_options={"movflags": "faststart"},
    ).read_bytes()
    good.unlink()
    (folder / "fast.tmp.mp4").unlink()
    rng = random.Random(0)
    contents = {
        "empty.mp4": (b"", "not media"),
        "text.mp4": (b"not a video\n" * 50, "not media"),
        "html.mp4": (b"<!DOCTYPE html><title>404</title>" * 9, "not media"),
        "random.mp4": (rng.randbytes(5000), "not media"),
        "zeros.mp4": (bytes(5000), "not media"),
        "playlist.mp4": (b"#EXTM3U\n#EXTINF:1,\nother.mp4\n", "not media"),
        "concat.mp4": (b"ffconcat version 1.0\nfile other.mp4\n", "not media"),
        "head only.mp4": (content[:32], "damaged header"),
        "quarter.mp4": (content[: len(content) // 4], "damaged header"),
        "most.mp4": (content[: len(content) * 9 // 10], "damaged header"),
        "fast 60 %.mp4": (fast[: len(fast) * 6 // 10], "cut short"),
        "hole.mp4": (_hole(fast, 0.5, 400), "decoder error"),
        "scratch.mp4": (_hole(_noise(folder / "noise.tmp.mp4"), 0.3, 40), "damaged frames"),
        "moov.mp4": (content.replace(b"trak", b"tr\xffk", 1), "no video stream"),
    }
    for name, (data, _) in contents.items():
        (folder / name).write_bytes(data)
    kinds = {name: kind for name, (_, kind) in contents.items()}
    _write_sound(folder / "sound.mp4")
    _write_large(folder / "large.mp4")
    os.mkfifo(folder / "fifo.mp4")
    (folder / "folder.mp4").mkdir()
    (folder / "dangling.mp4").symlink_to("nowhere.mp4")
    (folder / "outside.mp4").symlink_to(__file__)
    shutil.copyfile(folder / "quarter.mp4", folder / "-x;$(touch y)\n'\".mp4")
    return kinds | {
        "sound.mp4": "no video stream",
        "large.mp4": "too large",
        "fifo.mp4": "not media",
        "folder.mp4": "not media",
        "dangling.mp4": "missing",
        "outside.mp4": "not media",
        "absent.mp4": "missing",
        "-x;$(touch y)\n'\".mp4": "damaged header",
    }


def _hole(content: bytes, share: float, size: int) -> bytes:
    """`content` with `size` bytes changed where `share` of it lies before them."""
    at = int((content.index(b"mdat") + 4 + len(content)) * share)
    return content[:at] + bytes([0x55]) * size + content[at + size :]


def _noise(path: Path) -> bytes:
    """A video of large frames: a scratch in one is concealed by the decoder, and flagged."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "20"})
        assert isinstance(stream, av.VideoStream)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(12):
            picture = rng.integers(0, 256, (64, 64, 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    content = path.read_bytes()
    path.unlink()
    return content


def _write_sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        samples = np.zeros((1, 4096), np.float32)
        frame = AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _write_large(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=1)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 4112, 2320, "yuv420p"
        container.mux(stream.encode(av.VideoFrame(4112, 2320, "yuv420p")))
        container.mux(stream.encode(None))
