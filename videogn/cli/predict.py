"""Name the class of videos: files, folders, patterns in quotes, or a camera."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from videogn.cli.arguments import count, takes_checkpoint
from videogn.errors import ConfigError, DataError, VideoDecodeError

if TYPE_CHECKING:
    from videogn.predict.answers import Span
    from videogn.predict.classifier import Classifier
    from videogn.predict.overlay import Caption


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    takes_checkpoint(parser)
    parser.add_argument(
        "videos", nargs="*", help="files, folders, 'patterns'; key=value overrides may follow"
    )
    parser.add_argument(
        "--topk", type=count, help="classes to tell (5) or draw (3); a timeline tells the best"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a video")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the answers as a table")
    parser.add_argument(
        "--every",
        type=_seconds,
        metavar="SECONDS",
        help="slide over the whole video: an answer every so many seconds; 0: clips side by side",
    )
    parser.add_argument(
        "--video",
        type=Path,
        metavar="OUT",
        help="draw the labels of a timeline (see --every): an mp4, or a folder, below which each "
        "lies as below the one given",
    )
    parser.add_argument("--features", type=Path, metavar="FILE", help="write features (.npz)")
    parser.add_argument("--camera", type=int, metavar="N", help="film with camera N (Linux)")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns 3 when something of what was named could not be read."""
    overrides = [word for word in args.videos if "=" in word and not Path(word).exists()]
    words = [word for word in args.videos if word not in overrides]
    if bool(words) == (args.camera is not None):
        raise ConfigError("predict wants video files, or --camera N; give one of the two")
    for option, path, suffix in (
        ("--csv", args.csv, ".csv"),
        ("--features", args.features, ".npz"),
    ):
        # So that a slip of the hand writes over no video and no checkpoint.
        if path is not None and path.suffix != suffix:
            raise ConfigError(f"{option} {path}: wanted a file named *{suffix}")

    from videogn.predict import load

    if args.camera is not None:
        return _film(args, load(args.ckpt, overrides))

    from videogn.predict.sources import find_videos
    from videogn.predict.targets import labelled_paths

    found = find_videos(words)
    for problem in found.problems:  # named, and the others go on
        print(f"error: {problem}", file=sys.stderr)
    exit_code = DataError.exit_code if found.problems else 0
    if not found.places:
        return exit_code
    targets = labelled_paths(args.video, found.places) if args.video else {}
    classifier = load(args.ckpt, overrides)
    for target in targets.values():  # a place that cannot be written is told before the work
        if target != args.video:
            target.parent.mkdir(parents=True, exist_ok=True)
    return max(exit_code, _answer(args, list(found.places), targets, classifier))


def _answer(
    args: argparse.Namespace, paths: list[str], targets: dict[str, Path], classifier: Classifier
) -> int:
    from tqdm import tqdm

    from videogn.predict.output import CsvWriter, FeatureWriter, as_json, as_text

    sliding, topk = args.every is not None or bool(targets), args.topk or 5
    exit_code = 0
    with ExitStack() as stack:
        table = stack.enter_context(CsvWriter(args.csv)) if args.csv else None
        features = None
        if args.features:
            features = stack.enter_context(FeatureWriter(args.features, classifier.classes))
        found = classifier.answers(paths, sliding=sliding, every=args.every or None)
        quiet = len(paths) == 1 or not sys.stderr.isatty()
        for answer in tqdm(found, total=len(paths), unit=" videos", leave=False, disable=quiet):
            if answer.error:  # name it, and go on with the others
                print(f"error: {answer.error}", file=sys.stderr)
                exit_code = DataError.exit_code
            if not answer.spans or (answer.error and not sliding):
                continue
            show = as_json if args.json else as_text
            tqdm.write(show(answer, classifier, topk, sliding=sliding), file=sys.stdout)
            if table:
                table.add(answer, classifier, topk)
            if features:
                features.add(answer)
            if targets:
                captions = [_caption(span, classifier, args.topk or 3) for span in answer.spans]
                exit_code = max(exit_code, _draw(answer.path, targets[answer.path], captions))
    for path in (args.csv, args.features, args.video):
        if path is not None:
            print(f"written: {path}", file=sys.stderr)  # what is on stdout may be read by others
    return exit_code


def _draw(source: str, target: Path, captions: list[Caption]) -> int:
    from videogn.predict.overlay import draw_labels

    try:
        draw_labels(source, target, captions)
    except VideoDecodeError as error:
        print(f"error: {error}", file=sys.stderr)
        return DataError.exit_code
    return 0


def _caption(span: Span, classifier: Classifier, topk: int) -> Caption:
    from videogn.predict.overlay import Caption

    best = classifier.best(span.probs, topk)
    return Caption(span.start, span.end, best, int(span.probs.argmax()))


def _film(args: argparse.Namespace, classifier: Classifier) -> int:
    """Answers for a camera until it ends or Ctrl-C."""
    from videogn.predict.answers import Answer
    from videogn.predict.camera import follow, open_camera
    from videogn.predict.output import as_json, as_text

    if args.csv or args.features or args.video:
        raise ConfigError("--camera goes with --json only; record a file to get the other outputs")
    name = f"camera {args.camera}"
    for span in follow(open_camera(args.camera), classifier, args.every or 0.0):
        show = as_json if args.json else as_text
        print(show(Answer(name, [span]), classifier, args.topk or 5, sliding=True), flush=True)
    return 0


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds")
    return value
