"""What the readers on decord and torchcodec share: PyAV's index of the file, and when to refuse it.

Both libraries seek and count, and on some files give other frames than those asked for without an
error. What is known of the file from its packets decides whether they may be used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Self

import numpy as np

from videogn.data.containers import find_source
from videogn.data.decode import FrameMap, ReadStats, as_decode_error, check_indices
from videogn.data.frame_index import FrameIndex
from videogn.data.pyav_reader import PyAVReader
from videogn.errors import VideoDecodeError

_CHUNK = 32  # frames decoded at a time when each is mapped: bounds memory at full size
_CONTAINERS = {"mp4", "matroska"}


class VettedReader(ABC):
    """A `VideoReader` on a library that is exact on some files only; the others are refused.

    Subclasses name the library and decode a sorted list of distinct indices.
    """

    library = ""
    reads_open_gop = False
    reads_edit_lists = False

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        root: Path | None = None,
        index: FrameIndex | None = None,
        timeout: float | None = None,
    ) -> None:
        self.stats = ReadStats()
        self._options = {"root": root, "timeout": timeout}
        with PyAVReader(path, root=root, index=index, timeout=timeout) as exact:
            self.path, self.index, self.num_frames = exact.path, exact.index, exact.num_frames
            self.fps, self.height, self.width = exact.fps, exact.height, exact.width
            reason = self._why_not(exact)
        if reason:
            raise VideoDecodeError(
                self.path, f"{self.library} does not read {reason} exactly; set data.decoder=pyav"
            )
        with as_decode_error(self.path, RuntimeError, ValueError):
            self._source = find_source(self.path, root)
            self._open()

    @property
    def rotation(self) -> int:
        """See `VideoReader.rotation`."""
        with PyAVReader(self.path, root=self._options["root"], index=self.index) as exact:
            return exact.rotation

    def frames(self, indices: Sequence[int], each: FrameMap | None = None) -> np.ndarray:
        """See `VideoReader.frames`."""
        asked = check_indices(indices, self.num_frames, self.path)
        if not asked:
            return np.empty((0, self.height, self.width, 3), dtype=np.uint8)
        distinct, order = np.unique(asked, return_inverse=True)
        with as_decode_error(self.path, RuntimeError, ValueError, IndexError):
            images = self._mapped(distinct.tolist(), each)
        return images if np.array_equal(asked, distinct) else images[order]

    def close(self) -> None:
        """See `VideoReader.close`."""
        self._decoder = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @abstractmethod
    def _open(self) -> None:
        """Opens `self._source` with the library."""

    @abstractmethod
    def _decode(self, indices: list[int]) -> np.ndarray:
        """uint8 (len(indices), H, W, 3): the frames at sorted, distinct indices."""

    def _why_not(self, exact: PyAVReader) -> str:
        """What the library is known to read wrongly in this file; empty if nothing."""
        if exact.index.pts is None or not exact.formats & _CONTAINERS:
            return f"videos in {'/'.join(sorted(exact.formats))} files ({exact.codec})"
        if exact.index.is_open and not self.reads_open_gop:
            return "videos with open GOPs"
        if exact.index.is_trimmed and not self.reads_edit_lists:
            return "videos with an edit list"
        return ""

    def _mapped(self, indices: list[int], each: FrameMap | None) -> np.ndarray:
        if each is None:
            return self._counted(indices)
        parts = [
            np.stack([each(frame) for frame in self._counted(indices[at : at + _CHUNK])])
            for at in range(0, len(indices), _CHUNK)
        ]
        return np.concatenate(parts)

    def _counted(self, indices: list[int]) -> np.ndarray:
        frames = self._decode(indices)
        if frames.shape[0] != len(indices):
            raise VideoDecodeError(self.path, f"{self.library} gave {frames.shape[0]} frames")
        self.stats.converted += len(indices)  # what was decoded besides, the library does not tell
        self.stats.decoded += len(indices)
        return frames
