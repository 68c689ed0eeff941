"""Damaged, hostile and odd videos, one file a fault, each with what must come of it.

What must come of a fault (`Fault.expected`):
    refused   no frame of it is used: named with its reason, replaced in training only
    frames    it reads, and every frame is the one that its number says
    readable  it reads
    either    it is refused or reads; which of the two depends on where the damage fell
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame

from tests.videos import write_numbered

NUM_FRAMES = 30


@dataclass(frozen=True)
class Fault:
    """A fault to inject.

    Attributes:
        group: the row of the table that it belongs to.
        name: of its file, in the video root.
        expected: see the module.
        write: makes the file.
        reason: what the reason of a refusal must contain.
        length: frames that it has, where all are to be right.
        is_quick: whether it is one of those that every run of the tests injects.
    """

    group: str
    name: str
    expected: str
    write: Callable[[Path], object]
    reason: str = ""
    length: int = NUM_FRAMES
    is_quick: bool = False


class Originals:
    """Healthy videos, as bytes, to be damaged."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)

        def made(name: str, **options: object) -> bytes:
            return write_numbered(folder / name, NUM_FRAMES, **options).read_bytes()  # type: ignore[arg-type]

        self.mp4 = made("plain.mp4", options={"crf": "10"}, b_frames=2)
        fast = {"movflags": "faststart"}
        self.fast = made("fast.mp4", options={"crf": "10"}, container_options=fast)
        self.mkv = made("plain.mkv", b_frames=2)
        self.avi = made("plain.avi", codec="mpeg4")


def faults(originals: Originals) -> Iterator[Fault]:
    """Every fault of the rows D1 to D17 and D20."""
    yield from _no_media(originals)
    yield from _cuts(originals)
    yield from _flips(originals)
    yield from _odd_videos(originals)
    yield from _places(originals)
    yield from _hostile(originals)
    yield from _names(originals)


def _content(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def _no_media(originals: Originals) -> Iterator[Fault]:
    group, why = "D1-D6 no media", "does not begin like"
    texts = {
        "empty": b"",
        "text": b"not a video\n" * 50,
        "html": b"<!DOCTYPE html><html><title>404 Not Found</title></html>" * 9,
        "zeros": bytes(5000),
    }
    for name, data in texts.items():
        yield Fault(group, f"{name}.mp4", "refused", _content(data), why, is_quick=True)
    for seed in range(10):
        data = random.Random(seed).randbytes(5000)
        yield Fault(group, f"random {seed}.mp4", "refused", _content(data), is_quick=not seed)
        data = originals.mp4[:32] + data  # a good beginning, and noise behind it
        yield Fault(group, f"noise {seed}.mp4", "refused", _content(data), is_quick=not seed)
    for size in (8, 32, 512):
        data = originals.fast[:size]
        yield Fault(group, f"head {size}.mp4", "refused", _content(data), is_quick=size == 32)


def _cuts(originals: Originals) -> Iterator[Fault]:
    for percent in range(2, 100, 4):
        cut = originals.mp4[: len(originals.mp4) * percent // 100]
        # The header is at the end, and the end of the header is no loss (the encoder's name).
        expected = "refused" if percent < 95 else "either"
        quick = percent in (26, 50, 94)
        yield Fault("D7 cut", f"cut {percent}.mp4", expected, _content(cut), is_quick=quick)
    beginning = originals.fast.index(b"mdat") + 4
    for percent in range(0, 100, 4):
        size = beginning + (len(originals.fast) - beginning) * percent // 100
        yield Fault(
            "D8 cut, header whole",
            f"fast {percent}.mp4",
            "refused",
            _content(originals.fast[:size]),
            is_quick=percent in (40, 60, 96),
        )
    for percent in range(30, 100, 10):  # what is left of these reads, and must be the right frames
        for name, data in (("avi", originals.avi), ("mkv", originals.mkv)):
            cut = data[: len(data) * percent // 100]
            quick = percent == 60
            group = "D9 cut avi, mkv"
            yield Fault(group, f"cut {percent}.{name}", "either", _content(cut), is_quick=quick)


def _flips(originals: Originals) -> Iterator[Fault]:
    header, data = originals.fast.index(b"moov"), originals.fast.index(b"mdat") + 4
    for seed in range(40):
        for group, first, last in (
            ("D10 flips in data", data, len(originals.fast)),
            ("D10 flips in header", header, data - 8),
        ):
            draws = random.Random(seed)
            damaged = bytearray(originals.fast)
            for _ in range(1 + seed // 2):
                damaged[draws.randrange(first, last)] ^= 1 << draws.randrange(8)
            name = f"{group} {seed}.mp4"
            yield Fault(group, name, "either", _content(bytes(damaged)), is_quick=seed % 20 == 0)


def _odd_videos(originals: Originals) -> Iterator[Fault]:
    yield Fault("D11 only sound", "sound.mp4", "refused", _write_sound, "no video", is_quick=True)
    for length in (1, 3):
        name = f"short {length}.mp4"
        yield Fault(
            "D12 shorter than a clip",
            name,
            "frames",
            lambda path, length=length: write_numbered(path, length),
            length=length,
            is_quick=True,
        )
    for name in ("video.txt", "video", "video.avi", "video.m3u8"):
        yield Fault("D13 wrong name", name, "frames", _content(originals.mp4), is_quick=True)
    times = [4 * number + (8 if number > 12 else 0) for number in range(NUM_FRAMES)]
    for suffix in ("mkv", "mp4"):
        yield Fault(
            "D14 variable rate",
            f"rate.{suffix}",
            "frames",
            lambda path: write_numbered(path, NUM_FRAMES, times=times),
            is_quick=True,
        )
    for width, height in ((640, 16), (16, 640), (16, 16), (66, 50)):
        yield Fault(
            "D16 odd sizes",
            f"{width}x{height}.mp4",
            "readable",
            lambda path, width=width, height=height: write_gray(path, 4, width, height),
            is_quick=True,
        )
    yield Fault(
        "D16 bombs",
        "8192x8192.avi",
        "refused",
        lambda path: write_gray(path, 2, 8192, 8192, codec="mjpeg"),
        "exceed",
    )
    yield Fault(
        "D16 bombs",
        "20000 frames.mp4",
        "readable",
        lambda path: write_gray(path, 20_000, 16, 16, codec="mpeg4"),
    )


def _places(originals: Originals) -> Iterator[Fault]:
    group = "D15 no file"
    yield Fault(group, "missing.mp4", "refused", lambda path: None, is_quick=True)
    yield Fault(
        group, "dangling.mp4", "refused", lambda path: path.symlink_to("nowhere"), is_quick=True
    )
    yield Fault(group, "folder.mp4", "refused", Path.mkdir, "not a regular file", is_quick=True)
    yield Fault(group, "fifo.mp4", "refused", os.mkfifo, "not a regular file", is_quick=True)

    def outside(path: Path) -> None:
        (path.parent.parent / "outside.mp4").write_bytes(originals.mp4)
        path.symlink_to(path.parent.parent / "outside.mp4")

    yield Fault(group, "link.mp4", "refused", outside, "outside the video root", is_quick=True)


def hostile_texts(canary: str, other: str) -> dict[str, bytes]:
    """Files that make FFmpeg read others: at the address `canary`, or beside them, `other`."""
    rtp = (
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    )
    head = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\n"
    return {
        "playlist local.m3u8": f"{head}{other}\n#EXT-X-ENDLIST\n".encode(),
        "playlist remote.m3u8": f"{head}{canary}/a.ts\n#EXT-X-ENDLIST\n".encode(),
        "playlist local.mp4": f"{head}{other}\n#EXT-X-ENDLIST\n".encode(),
        "playlist remote.mp4": f"{head}{canary}/a.ts\n#EXT-X-ENDLIST\n".encode(),
        "concat.mp4": f"ffconcat version 1.0\nfile {other}\n".encode(),
        "concat.ffconcat": f"ffconcat version 1.0\nfile '{canary}/a.mp4'\n".encode(),
        "stream.sdp": rtp + b"a=rtpmap:96 H264/90000\n",
        "stream.mp4": rtp + b"a=rtpmap:96 H264/90000\n",
        "dash.mpd": f'<?xml version="1.0"?><MPD><BaseURL>{canary}/</BaseURL></MPD>'.encode(),
    }


def _hostile(originals: Originals) -> Iterator[Fault]:
    for name, data in hostile_texts("http://127.0.0.1:9", "plain.mp4").items():
        yield Fault("D17 playlists", name, "refused", _content(data), is_quick=True)


def _names(originals: Originals) -> Iterator[Fault]:
    names = [
        "日本語 é.mp4",
        "two  spaces.mp4",
        "'single' \"double\".mp4",
        "line\nbreak.mp4",
        "a;touch owned;.mp4",
        "$(touch owned).mp4",
        "-rf.mp4",
        "%s%n{}.mp4",
    ]
    for name in names:
        yield Fault("D20 names", name, "frames", _content(originals.mp4), is_quick=True)


def write_gray(
    path: Path, num_frames: int, width: int, height: int, codec: str = "libx264"
) -> None:
    """Writes a plain gray video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.thread_count = 1
        frame = av.VideoFrame(width, height, stream.pix_fmt)
        for plane in frame.planes:
            plane.update(bytes([128]) * plane.buffer_size)
        for number in range(num_frames):
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _write_sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000)
        for number in range(4):
            samples = np.zeros((1, 1024), np.float32)
            frame = AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16_000, 1024 * number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
