"""Exact random access to the frames of one video file, whichever library decodes it.

`frames([i, j, ...])` gives the very frames that decoding from the beginning gives, in any order.
Seeking and counting alone is wrong somewhere in every library: after an edit list, in an open GOP,
in MPEG-TS, in AVI. `PyAVReader` is right on all of them; the other readers refuse those files.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Literal, Protocol, Self, get_args

import numpy as np

from videogn.data.containers import has_scheme, is_video
from videogn.data.frame_index import FrameIndex
from videogn.errors import ConfigError, VideoDecodeError

__all__ = ["DECODERS", "ReadStats", "VideoReader", "has_scheme", "is_video", "open_video"]

Decoder = Literal["pyav", "decord", "torchcodec"]
DECODERS: tuple[str, ...] = get_args(Decoder)

# Maps one decoded frame, uint8 (H, W, 3), to what is kept of it, uint8 (h, w, 3).
FrameMap = Callable[[np.ndarray], np.ndarray]


@dataclass
class ReadStats:
    """What a reader has done since it was opened, in frames.

    Attributes:
        decoded: came out of the decoder.
        skipped: not decoded, because nobody wanted them nor referred to them.
        converted: turned into RGB.
    """

    decoded: int = 0
    skipped: int = 0
    converted: int = 0


class VideoReader(Protocol):
    """Random access to the frames of one open video; not to be shared between threads.

    Attributes:
        num_frames: frames that decoding the whole file yields.
        fps: mean frames per second, 0.0 where the file does not tell.
        height, width: of the frames as stored, pixels.
        index: where the frames are; pass it to `open_video` to open the file faster next time.
        stats: counters of the frames decoded, skipped and converted.
    """

    num_frames: int
    fps: float
    height: int
    width: int
    index: FrameIndex
    stats: ReadStats

    @property
    def rotation(self) -> int:
        """Degrees clockwise, 0, 90, 180 or 270, that show the stored frames upright."""
        ...

    def frames(self, indices: Sequence[int], each: FrameMap | None = None) -> np.ndarray:
        """The frames at `indices`, in that order: uint8 (T, H, W, 3) RGB, as stored (no rotation).

        Indices may repeat and need no order. `each` maps every frame as it comes, for example to
        a crop, so that memory never holds more than the results. Raises IndexError for an index
        outside [0, num_frames), VideoDecodeError when the file does not yield a frame.
        """
        ...

    def close(self) -> None:
        """Frees the file; may be called twice."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


def open_video(
    path: str | PathLike[str],
    *,
    root: Path | None = None,
    decoder: str = "pyav",
    index: FrameIndex | None = None,
    timeout: float | None = None,
) -> VideoReader:
    """An open reader of the video `path`, which must lie under `root` when that is given.

    Args:
        path: a file, or `archive.tar::member`; taken as it is, not relative to `root`.
        root: folder that the real path must lie in.
        decoder: `pyav`, `decord` or `torchcodec`.
        index: from an earlier reader of this file; it is not used if the file's size has changed.
        timeout: seconds that opening, and then each call of `frames`, may take.

    Open it in the process that reads it. Raises VideoDecodeError when the file is no readable
    video, ConfigError for a decoder that is unknown or not installed.
    """
    # Imported here, since two of the three are optional and all are slow to load.
    if decoder == "pyav":
        from videogn.data.pyav_reader import PyAVReader

        return PyAVReader(path, root=root, index=index, timeout=timeout)
    if decoder == "decord":
        from videogn.data.decord_reader import DecordReader

        return DecordReader(path, root=root, index=index, timeout=timeout)
    if decoder == "torchcodec":
        from videogn.data.torchcodec_reader import TorchCodecReader

        return TorchCodecReader(path, root=root, index=index, timeout=timeout)
    raise ConfigError(f"data.decoder: {decoder!r} is no decoder; use {', '.join(DECODERS)}")


def import_decoder(decoder: str) -> ModuleType:
    """The library of `decoder`; ConfigError where it is not installed or does not load."""
    library = {"pyav": "av", "torchcodec": "torchcodec.decoders"}.get(decoder, decoder)
    try:
        return import_module(library)
    except (ImportError, RuntimeError, OSError) as error:  # RuntimeError: no FFmpeg to load
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"data.decoder={decoder}: cannot be imported ({reason}); install it, with FFmpeg for "
            "torchcodec, or use pyav"
        ) from error


def check_indices(indices: Sequence[int], num_frames: int, path: str) -> list[int]:
    """`indices` as ints; IndexError for one outside [0, num_frames)."""
    asked = [operator.index(index) for index in indices]
    for index in asked:
        if not 0 <= index < num_frames:
            raise IndexError(f"{path}: frame {index} of {num_frames} frames")
    return asked


@contextmanager
def as_decode_error(path: str, *kinds: type[BaseException]) -> Iterator[None]:
    """Turns an OSError, and the exceptions of the types `kinds`, into a VideoDecodeError."""
    try:
        yield
    except (OSError, *kinds) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoDecodeError(path, f"cannot be read: {reason}") from error
