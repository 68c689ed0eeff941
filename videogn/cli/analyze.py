"""The reasons behind a number: mistakes, calibration, features, noise of BN, where it looks."""

from __future__ import annotations

import argparse
from pathlib import Path

from videogn.cli.arguments import place, takes_checkpoint, takes_overrides, whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    takes_checkpoint(parser)
    parser.add_argument("--out", type=place, help="folder of the results (analysis_... in the run)")
    parser.add_argument("--test", action="store_true", help="test the checkpoint first")
    parser.add_argument(
        "--clips",
        type=_clips,
        metavar="N",
        help="validation clips to measure the noise of batches on, 8 or more (64, if the data are "
        "here); 0: none",
    )
    parser.add_argument(
        "--rounds", type=_rounds, default=3, metavar="N", help="batches that each clip is in (3)"
    )
    parser.add_argument(
        "--cam",
        nargs="+",
        action="extend",
        default=[],
        metavar="VIDEO",
        help="show where and when the network looks in these videos",
    )
    parser.add_argument(
        "--class", dest="label", metavar="NAME", help="class to look for (the predicted one)"
    )
    parser.add_argument(
        "--layer", default="layer4", metavar="NAME", help="whose maps are looked at (layer4)"
    )
    takes_overrides(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code of the first part that failed."""
    from videogn.analysis.analyze import analyze
    from videogn.analysis.found import Wish
    from videogn.analysis.write import write_analysis

    overrides = args.overrides + [w for w in args.cam if "=" in w and not Path(w).exists()]
    wish = Wish(
        checkpoint=Path(args.ckpt),
        overrides=overrides,
        out=args.out,
        test=args.test,
        clips=64 if args.clips is None else args.clips,
        needs_clips=bool(args.clips) or any(word.startswith("data.") for word in overrides),
        rounds=args.rounds,
        videos=[video for video in args.cam if video not in overrides],
        label=args.label,
        layer=args.layer,
    )
    found = analyze(wish)
    print(write_analysis(found))
    return found.exit_code


def _clips(text: str) -> int:
    """The number of clips in `text`: 0, or as many as the measurement needs."""
    from videogn.analysis.noise import FEWEST_CLIPS

    value = whole(text)
    if value != 0 and value < FEWEST_CLIPS:
        raise argparse.ArgumentTypeError(
            f"{text} clips: the noise of batches needs at least {FEWEST_CLIPS}; 0 leaves it out"
        )
    return value


def _rounds(text: str) -> int:
    """The number of batches in `text`, at least 2."""
    value = whole(text)
    if value < 2:
        raise argparse.ArgumentTypeError(
            f"{text}: answers are compared between batches, so each clip must be in at least 2"
        )
    return value
