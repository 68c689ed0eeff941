"""Name the class of video files."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from videogn.cli.arguments import count, takes_checkpoint
from videogn.errors import DataError, VideoDecodeError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    takes_checkpoint(parser)
    parser.add_argument("videos", nargs="+", help="video files; key=value overrides may follow")
    parser.add_argument("--topk", type=count, default=5, help="classes to print (5)")
    parser.add_argument("--json", action="store_true", help="one JSON object a video")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns 3 when some video could not be read."""
    from videogn.predict import load

    overrides = [word for word in args.videos if "=" in word and not Path(word).exists()]
    classifier = load(args.ckpt, overrides)
    exit_code = 0
    for path in (word for word in args.videos if word not in overrides):
        try:
            top = classifier.predict(path, topk=args.topk)
        except VideoDecodeError as error:  # name it, and go on with the others
            print(f"error: {error}", file=sys.stderr)
            exit_code = DataError.exit_code
            continue
        if args.json:
            best = [{"label": label, "probability": p} for label, p in top]
            print(json.dumps({"video": path, "predictions": best}))
        else:
            print(path)
            for label, p in top:
                print(f"  {100 * p:5.1f} %  {label}")
    return exit_code
