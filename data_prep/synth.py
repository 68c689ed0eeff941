"""Render a synthetic set of moving shapes whose class is the motion: no data needed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from data_prep.arguments import even
from videogn.cli.arguments import count, place, seed
from videogn.data.synthetic import MOTIONS, write_synthetic
from videogn.errors import DataError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add = parser.add_argument
    add("--out", metavar="DIR", type=place, required=True, help="the data root to write")
    add("--train", type=count, default=240, help="clips for training (240)")
    add("--val", type=count, default=60, help="clips for validation (60)")
    add("--frames", type=count, default=32, help="frames a clip (32)")
    add("--size", type=even, default=64, help="pixels a side, even (64)")
    add("--seed", type=seed, default=0, help="of all that is random (0)")
    add("--force", action="store_true", help="replace the manifest in DIR")


def run(arguments: argparse.Namespace) -> None:
    """Writes the set; DataError if there is one already."""
    out: Path = arguments.out
    if (out / "train.csv").exists() and not arguments.force:
        raise DataError(f"{out}: already holds a train.csv; choose another --out or add --force")
    write_synthetic(
        out,
        train=arguments.train,
        val=arguments.val,
        num_frames=arguments.frames,
        size=arguments.size,
        seed=arguments.seed,
        progress=_progress,
    )
    print(f"{out}: {arguments.train} + {arguments.val} clips in {len(MOTIONS)} classes")


def _progress(clips: Iterable[int]) -> Iterable[int]:
    """A bar on a terminal; nothing elsewhere, where the last line says it all."""
    return tqdm(clips, desc="rendering", unit="clip", disable=not sys.stderr.isatty())
