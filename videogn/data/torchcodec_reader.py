"""Reading with torchcodec in its exact mode: needs the FFmpeg libraries of the system.

It gives wrong frames, silently, in MPEG-TS and AVI, which are refused here.
"""

from __future__ import annotations

import numpy as np

from videogn.data.decode import import_decoder
from videogn.data.vetted_reader import VettedReader


class TorchCodecReader(VettedReader):
    """A `VideoReader` on torchcodec; see `VettedReader`."""

    library = "torchcodec"
    reads_open_gop = True
    reads_edit_lists = True

    def _open(self) -> None:
        decoders = import_decoder("torchcodec")
        with self._source.open() as file:
            place = file.read() if self._source.in_archive else self._source.path
        self._decoder = decoders.VideoDecoder(
            place, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact"
        )

    def _decode(self, indices: list[int]) -> np.ndarray:
        if self._decoder is None:
            raise ValueError("the reader is closed")
        return self._decoder.get_frames_at(indices).data.numpy()
