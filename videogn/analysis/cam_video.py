"""A copy of a video with the heat of Grad-CAM on its frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from videogn.analysis.grad_cam import Heat, frame_maps
from videogn.data.pyav_reader import PyAVReader
from videogn.predict.overlay import Caption, LabelledVideo

_COLOURS = "inferno"  # dark to light, so that it also reads in gray
_STRONGEST = 0.75  # share of the colour where the heat is greatest


def write_cam(
    source: str, target: Path, heats: Sequence[Heat], label: str, class_id: int
) -> np.ndarray:
    """Writes `source` with its heat, the class and its probability to the mp4 file `target`.

    The heat is relative to the greatest of the whole video. Returns at most 8 frames, spread over
    the video: uint8 (T, H, W, 3). After an error there is no target, not even an older one.

    Raises:
        VideoDecodeError: the source cannot be read to its end.
        OSError: the target cannot be written.
    """
    greatest = max(float(heat.map.max()) for heat in heats)
    captions = [
        Caption(heat.start, heat.end, [(label, heat.probability)], class_id) for heat in heats
    ]
    kept = []
    with _whole(target), PyAVReader(source) as video, LabelledVideo(target, captions) as out:
        wanted = set(np.linspace(0, video.num_frames - 1, 8).round().astype(int).tolist())
        images = video.stream(range(video.num_frames))
        for index, (image, heat) in enumerate(zip(images, frame_maps(heats), strict=True)):
            upright = np.rot90(image, -video.rotation // 90)
            warm = blend(upright, heat / max(greatest, 1e-12))
            out.add(warm, video.time(index))
            if index in wanted:
                kept.append(warm)
    return np.stack(kept)


@contextmanager
def _whole(target: Path) -> Iterator[None]:
    """Removes a file that could not be written to its end: no page would lead to it."""
    try:
        yield
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def blend(image: np.ndarray, heat: Tensor) -> np.ndarray:
    """Returns uint8 (H, W, 3): an image with a map (H', W') from 0 to 1 over all of it."""
    size = image.shape[:2]
    grown = F.interpolate(heat[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    share = grown.clamp(0, 1).numpy()
    colours = mpl.colormaps[_COLOURS](share)[..., :3] * 255
    opaque = _STRONGEST * share[..., None]
    return (image * (1 - opaque) + colours * opaque).round().astype(np.uint8)


def no_heat(heats: Sequence[Heat]) -> bool:
    """Returns whether nothing in a video speaks for the class."""
    return not any(bool(torch.any(heat.map > 0)) for heat in heats)
