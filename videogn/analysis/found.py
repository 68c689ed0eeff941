"""What is wished of an analysis, and what it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from videogn.analysis.noise import Noise
from videogn.report.predictions import Prediction


@dataclass(frozen=True)
class Wish:
    """What to analyze.

    Attributes:
        checkpoint: the file.
        overrides: `dotted.key=value` for its configuration.
        out: folder of the results; None for one beside the run's checkpoints.
        test: test the checkpoint first, in that folder.
        clips: of the validation videos, for the noise of the statistics; 0 leaves it out.
        needs_clips: whether it fails without them; else they are taken if the data are here.
        rounds: companies that each of them meets.
        videos: to draw heat on.
        label: the class that the heat is for; None for what a video is taken for.
        layer: that the heat is of.
    """

    checkpoint: Path
    overrides: Sequence[str]
    out: Path | None
    test: bool
    clips: int
    needs_clips: bool
    rounds: int
    videos: Sequence[str]
    label: str | None
    layer: str


@dataclass(frozen=True)
class Cam:
    """Heat on one video: `file` in the folder of the analysis, for the class `label`.

    Attributes:
        video: where it comes from.
        file: name of the mp4 file.
        label: the class.
        windows: start, end and probability of the class in each window.
        frames: some of the pictures, uint8 (T, H, W, 3).
    """

    video: str
    file: str
    label: str
    windows: list[tuple[float, float, float]]
    frames: np.ndarray = field(repr=False)


@dataclass
class Analysis:
    """What was found; empty where there was nothing to find it in.

    Attributes:
        folder: of the results.
        checkpoint: name of the file.
        step: of the training.
        norm: kind of normalization, in capitals.
        test: contents of `test.json`.
        predictions: of that test.
        percentiles: (epoch, layer -> "in" or "out" -> percentiles), as recorded in training.
        noise: of batches.
        cams: videos with heat.
        missing: a sentence for each part that was asked for and could not be made.
        not_asked: a sentence for each part that is not there and that nobody asked for.
        exit_code: of the first part that was asked for and failed, as 3 of an unreadable video.
    """

    folder: Path
    checkpoint: str
    step: int
    norm: str
    test: Mapping[str, Any] | None = None
    predictions: Sequence[Prediction] = ()
    percentiles: Sequence[tuple[float, Mapping[str, Any]]] = ()
    noise: Noise | None = None
    cams: list[Cam] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    not_asked: list[str] = field(default_factory=list)
    exit_code: int = 0

    @property
    def shown_layers(self) -> tuple[str, str]:
        """The first normalization and, as in Fig. 6, the last: of those outside shortcuts."""
        names = [name for name in self.percentiles[-1][1] if "downsample" not in name]
        return names[0], names[-1]
