"""Where the frames of a video are: what one demuxing pass learns, small enough for a csv column.

Demuxing costs 2 % of decoding a file, but counting the frames of an AVI or raw stream costs all of
it, so an index is worth keeping: in memory between two readings, and in the manifest.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from videogn.errors import DataError

_CACHED = 16_384  # texts of about 100 bytes each: all of UCF-101, a few MB
_LONGEST_PERIOD = 64  # 30 for 29.97 frames/s in milliseconds
_MOST_FRAMES = 1_000_000  # bounds what a line of a csv file can allocate


@dataclass(frozen=True, eq=False)
class FrameIndex:
    """The frames of a video in order of presentation.

    Attributes:
        file_size: bytes of the file it was made of; another size means another file.
        num_frames: frames that decoding the whole file yields.
        pts: int64 (num_frames,), sorted time stamps in units of the stream; None where they are no
            guide and frames have to be counted.
        keyframes: (pts, dts) of the frames that decoding can start at, sorted.
        is_open: whether some frame shown before a keyframe comes after it in the file, and refers
            to frames before (an open GOP).
        is_trimmed: whether some frames are to be decoded but not shown (an edit list).
    """

    file_size: int
    num_frames: int
    pts: np.ndarray | None
    keyframes: Sequence[tuple[int, int]] = ()
    is_open: bool = False
    is_trimmed: bool = False

    def to_text(self) -> str:
        """The index in one line without commas: `1;size;frames;flags;pts;keyframes`.

        Of the time stamps the first and the steps are written: `0+512x299` is 299 equal ones,
        `0+33.33.34~299` is a pattern repeated to 299 steps.
        """
        flags = ("o" if self.is_open else "") + ("t" if self.is_trimmed else "")
        head = f"1;{self.file_size};{self.num_frames};{flags}"
        if self.pts is None:
            return f"{head};;"
        keys = "+".join(f"{pts}/{dts}" for pts, dts in self.keyframes)
        return f"{head};{_runs(self.pts)};{keys}"

    @staticmethod
    def from_text(text: str) -> FrameIndex:
        """The index that `to_text` wrote; DataError if it did not."""
        try:
            version, size, count, flags, runs, keys = text.split(";")
            pts = _from_runs(runs) if runs else None
            pairs = [key.split("/") for key in keys.split("+")] if keys else []
            index = FrameIndex(
                file_size=int(size),
                num_frames=int(count),
                pts=pts,
                keyframes=[(int(first), int(second)) for first, second in pairs],
                is_open="o" in flags,
                is_trimmed="t" in flags,
            )
        except (ValueError, OverflowError) as error:
            raise DataError(
                f"{text[:60]!r} is no index of frames; remove the column or verify the root again"
            ) from error
        strange = pts is not None and (len(pts) != index.num_frames or (np.diff(pts) <= 0).any())
        if version != "1" or index.num_frames < 1 or strange:
            raise DataError(
                f"{text[:60]!r} is no index of frames of this version; verify the root again"
            )
        return index


class IndexCache:
    """The indices of videos opened lately, as texts: a tuple of integers would be 30 times larger.

    The key holds whatever tells that a file is still the same one.
    """

    def __init__(self, size: int = _CACHED) -> None:
        self._size = size
        self._texts: OrderedDict[object, str] = OrderedDict()

    def get(self, key: object) -> FrameIndex | None:
        """The index under `key`, if it is still there."""
        text = self._texts.get(key)
        return None if text is None else FrameIndex.from_text(text)

    def put(self, key: object, index: FrameIndex) -> None:
        """Keeps `index` under `key`; the oldest goes when the cache is full."""
        self._texts[key] = index.to_text()
        if len(self._texts) > self._size:
            self._texts.popitem(last=False)

    def clear(self) -> None:
        """Forgets all."""
        self._texts.clear()


def _runs(pts: np.ndarray) -> str:
    steps = np.diff(pts)
    first = str(int(pts[0]))
    period = _period(steps)
    if period > 1:  # as in Matroska, which rounds to milliseconds: 33, 33, 34, 33, 33, 34, ...
        return f"{first}+{'.'.join(map(str, steps[:period].tolist()))}~{len(steps)}"
    parts = [first]
    for step, equal in groupby(steps.tolist()):
        count = sum(1 for _ in equal)
        parts.append(f"{step}x{count}" if count > 1 else str(step))
    return "+".join(parts)


def _period(steps: np.ndarray) -> int:
    """The smallest number of steps that repeats at least twice to the end; 0 if there is none."""
    for period in range(1, min(_LONGEST_PERIOD, len(steps) // 2) + 1):
        if np.array_equal(steps[period:], steps[:-period]):
            return period
    return 0


def _from_runs(text: str) -> np.ndarray:
    first, *runs = text.split("+")
    if len(runs) == 1 and "~" in runs[0]:
        pattern, _, count = runs[0].partition("~")
        steps = np.resize(np.array(pattern.split("."), np.int64), _bounded(int(count)))
    else:
        pairs = [run.partition("x") for run in runs]
        counts = [int(count or 1) for _, _, count in pairs]
        _bounded(sum(counts))
        if min(counts, default=1) < 1:
            raise ValueError("a negative number of frames")
        steps = np.array([int(step) for step, _, _ in pairs], np.int64).repeat(counts)
    return np.cumsum(np.concatenate([[int(first)], steps]), dtype=np.int64)


def _bounded(count: int) -> int:
    if not 0 <= count <= _MOST_FRAMES:
        raise ValueError("an impossible number of frames")
    return count
