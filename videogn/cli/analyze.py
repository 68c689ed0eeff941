"""The reasons behind a number: mistakes, calibration, features, noise of BN, where it looks."""

from __future__ import annotations

import argparse
from pathlib import Path

from videogn.cli.arguments import count, takes_checkpoint, takes_overrides


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    takes_checkpoint(parser)
    parser.add_argument("--out", type=Path, help="folder of the results")
    parser.add_argument("--test", action="store_true", help="test the checkpoint first")
    parser.add_argument(
        "--clips",
        type=_whole,
        default=64,
        metavar="N",
        help="validation clips to measure the noise of batches on (64); 0: leave it out",
    )
    parser.add_argument(
        "--rounds", type=count, default=3, metavar="N", help="batches that each clip is in (3)"
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
    parser.add_argument("--layer", default="layer4", help="whose maps are looked at (layer4)")
    takes_overrides(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns 3 when some video could not be read."""
    from videogn.analysis.analyze import analyze
    from videogn.analysis.found import Wish
    from videogn.analysis.write import write_analysis

    overrides = args.overrides + [w for w in args.cam if "=" in w and not Path(w).exists()]
    wish = Wish(
        checkpoint=Path(args.ckpt),
        overrides=overrides,
        out=args.out,
        test=args.test,
        clips=args.clips,
        rounds=args.rounds,
        videos=[video for video in args.cam if video not in overrides],
        label=args.label,
        layer=args.layer,
    )
    found = analyze(wish)
    print(write_analysis(found))
    return found.exit_code


def _whole(text: str) -> int:
    """The whole number in `text`, at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0")
    return value
