"""Reading with decord: for comparison with code that uses it.

Its last release is of 2021, with an FFmpeg of 2018. It gives wrong frames, silently, in open GOPs,
after edit lists, in MPEG-TS and in AVI, all of which are refused here.
"""

from __future__ import annotations

import io

import numpy as np

from videogn.data.decode import import_decoder
from videogn.data.vetted_reader import VettedReader
from videogn.errors import VideoDecodeError


class DecordReader(VettedReader):
    """A `VideoReader` on decord; see `VettedReader`."""

    library = "decord"

    def _open(self) -> None:
        decord = import_decoder("decord")
        with self._source.open() as file:
            place = io.BytesIO(file.read()) if self._source.in_archive else self._source.path
        # One thread: the loader's workers are the parallelism.
        self._decoder = decord.VideoReader(place, ctx=decord.cpu(0), num_threads=1)
        if len(self._decoder) < self.num_frames:
            raise VideoDecodeError(
                self.path, f"decord sees {len(self._decoder)} of {self.num_frames} frames"
            )

    def _decode(self, indices: list[int]) -> np.ndarray:
        if self._decoder is None:
            raise ValueError("the reader is closed")
        frames = self._decoder.get_batch(indices)
        # Importing pytorchvideo.data makes decord give tensors everywhere in the process.
        return frames.asnumpy() if hasattr(frames, "asnumpy") else frames.numpy()
