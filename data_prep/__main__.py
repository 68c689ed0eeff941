"""The command line of data_prep: parses, dispatches, prints a summary."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

from data_prep.index import (
    LABEL_RULES,
    Index,
    index_videos,
    split_folders,
    split_positions,
    write_index,
)
from videogn.data.synthetic import MOTIONS, write_synthetic
from videogn.errors import DataError, VideognError

_SHOWN_IGNORED = 10  # the rest is in ignored.txt


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0 done, 2 usage (as SystemExit), 3 data."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except VideognError as error:
        if arguments.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep",
        description="Prepare a data root: train.csv, val.csv, classes.txt and source.txt.",
    )
    commands = parser.add_subparsers(title="commands", required=True)
    _add_index(commands.add_parser("index", help="list a folder of videos; copies nothing"))
    _add_synth(commands.add_parser("synth", help="render a synthetic set of moving shapes"))
    return parser


def _add_index(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", metavar="SRC", type=Path, help="the folder that holds the videos")
    add("--out", metavar="DIR", type=Path, required=True, help="the data root to write")
    add("--label-from", choices=LABEL_RULES, required=True, help="where a video's label is found")
    add("--csv", metavar="FILE", type=Path, help="for --label-from csv: columns path,label")
    add("--val", metavar="FRACTION", type=_fraction, default=0.1, help="share held out (0.1)")
    add("--split-folders", action="store_true", help="the folders train and val of SRC decide")
    add("--val-same", action="store_true", help="validate on the training videos")
    add("--seed", type=int, default=0, help="which videos are held out (0)")
    add("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(run=_index)


def _add_synth(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", metavar="DIR", type=Path, required=True, help="the data root to write")
    add("--train", type=_count, default=240, help="clips for training (240)")
    add("--val", type=_count, default=60, help="clips for validation (60)")
    add("--frames", type=_count, default=32, help="frames a clip (32)")
    add("--size", type=_even, default=64, help="pixels a side, even (64)")
    add("--seed", type=int, default=0, help="of all that is random (0)")
    add("--force", action="store_true", help="replace the manifest in DIR")
    add("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(run=_synth)


def _index(arguments: argparse.Namespace) -> None:
    index = index_videos(
        arguments.source, arguments.out, label_from=arguments.label_from, table=arguments.csv
    )
    everything = list(range(len(index.paths)))
    if arguments.val_same:
        index.splits = {"train": everything, "val": everything}
    else:
        if arguments.split_folders:
            train, val = split_folders(index.source, index.paths)
        else:
            train, val = split_positions(index.labels, arguments.val, arguments.seed)
        index.splits = {"train": train, "val": val} if val else {"train": train}
    write_index(index, arguments.out)
    _print_summary(index, arguments.out)


def _print_summary(index: Index, out: Path) -> None:
    used = len(set(index.labels))
    print(f"{out}: {len(index.paths)} videos in {used} of {len(index.classes)} classes")
    for split, positions in index.splits.items():
        print(f"  {split}.csv: {len(positions)} videos")
    if "val" not in index.splits:
        print("  no val.csv: no video is held out (--val FRACTION or --val-same would)")
    if index.ignored:
        print(f"  ignored {len(index.ignored)} files, listed in {out / 'ignored.txt'}:")
        for path, reason in list(index.ignored.items())[:_SHOWN_IGNORED]:
            print(f"    {ascii(path)[1:-1]}: {reason}")
        if len(index.ignored) > _SHOWN_IGNORED:
            print("    ...")


def _synth(arguments: argparse.Namespace) -> None:
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


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1)")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def _even(text: str) -> int:
    value = int(text)
    if value < 16 or value % 2:
        raise argparse.ArgumentTypeError(f"{text} is not an even number from 16")
    return value


if __name__ == "__main__":
    sys.exit(main())
