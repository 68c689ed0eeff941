"""Videos: what PyAV can read and write, and whether every decoder gives the right frames."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError

from videogn.data.decode import DECODERS, open_video
from videogn.data.synthetic import encode_video
from videogn.doctor.finding import Finding
from videogn.errors import ConfigError, VideoDecodeError

READ = ("h264", "hevc", "vp9", "av1", "mpeg4")
_LEVELS = np.arange(8) * 30 + 20  # the grey of each frame
_TOLERANCE = 4  # of 255; coding with losses moved the greys by at most 2


def codecs() -> Iterator[Finding]:
    """Yields what FFmpeg can decode, and whether it can encode."""
    lacking = [name for name in READ if not _has(name, "r")]
    advice = f"videos in {', '.join(lacking)} will be refused: pip install --force-reinstall av"
    yield Finding(
        "codecs",
        "note" if lacking else "ok",
        f"reads {', '.join(name for name in READ if name not in lacking)}",
        advice if lacking else "",
    )
    has_x264 = _has("libx264", "w")
    advice = "data_prep reencode, synth and demo need it: pip install --force-reinstall av"
    said = "libx264" if has_x264 else "no libx264"
    yield Finding("encoder", "ok" if has_x264 else "note", said, "" if has_x264 else advice)


def _has(name: str, mode: str) -> bool:
    try:
        av.Codec(name, mode)  # type: ignore[arg-type]
    except ValueError:  # of which PyAV's own error for an unknown codec is a kind
        return False
    return True


def decoders(folder: Path) -> Iterator[Finding]:
    """Yields whether each decoder gives the frames of a video made in `folder`."""
    path = folder / "greys.mp4"
    frames = np.broadcast_to(_LEVELS[:, None, None, None], (8, 64, 64, 3)).astype(np.uint8)
    codec = "libx264" if _has("libx264", "w") else "mpeg4"
    try:
        encode_video(path, frames, codec=codec)
    except (OSError, ValueError, FFmpegError) as error:
        advice = "pip install --force-reinstall av"
        yield Finding("decoders", "bad", f"no video could be made to try them: {error}", advice)
        return
    for decoder in DECODERS:
        problem = _problem_of(decoder, path)
        if not problem:
            yield Finding(f"decoder {decoder}", "ok", "gives the right frames")
        elif decoder == "pyav":
            yield Finding(f"decoder {decoder}", "bad", problem, "pip install --force-reinstall av")
        else:
            advice = f"only for data.decoder={decoder}; pyav needs nothing"
            yield Finding(f"decoder {decoder}", "note", problem, advice)


def _problem_of(decoder: str, path: Path) -> str:
    try:
        with open_video(path, root=path.parent, decoder=decoder, timeout=30) as reader:
            frames = reader.frames(range(len(_LEVELS)))
    except (ConfigError, VideoDecodeError) as error:
        return str(error)
    greys = frames.mean(axis=(1, 2, 3))
    wrong = np.abs(greys - _LEVELS) > _TOLERANCE
    return f"gives wrong frames: greys {greys.round().tolist()}" if wrong.any() else ""
