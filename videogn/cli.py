"""The command line: parses, dispatches, nothing else."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from videogn.errors import VideognError, unusable_place

EXAMPLES = """examples:
  python run.py demo                                              the whole chain on made-up videos
  python -m data_prep index VIDEOS --out data/mine --label-from folder --val 0.2
  python run.py --cfg i3d_gn_64f.yaml data.root=/data/k400        train, then the 10-clip test
  python run.py --cfg i3d_gn_64f.yaml data.root=/data/k400        again: goes on where it stopped
  torchrun --nproc_per_node 8 run.py --cfg i3d_bn_32f.yaml data.root=/data/k400
  python run.py --cfg finetune.yaml data.root=data/mine model.init=best.pt
  python run.py --cfg i3d_gn_32f.yaml optim.clips_per_gpu=2 optim.accumulate=4 optim.amp=bf16
  python run.py test --ckpt runs/x/y/checkpoints/last.pt eval.crops=three
  python run.py predict --ckpt best.pt clip.mp4 more/*.mp4 --json
  python run.py weights R-50-GN.pkl                               what a file is, and how to use it
  python run.py convert best.pt --to best.safetensors
  python run.py export --ckpt best.pt --format onnx --out best.onnx --check
  python run.py report runs/
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code.

    0 done; 2 usage, configuration, weights or checkpoint refused; 3 data; 4 training diverged;
    130 interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0].startswith("-") and words[0] not in ("-h", "--help"):
        words.insert(0, "train")
    args = _parse(words)
    for number in (signal.SIGTERM, signal.SIGUSR1):  # as Ctrl-C; training has a way of its own
        signal.signal(number, signal.default_int_handler)
    try:
        return args.command(args)
    except VideognError as error:
        if args.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if args.debug or error.filename is None:  # without a file it is no place of the user's
            raise
        print(f"error: {unusable_place(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if args.debug:
            raise
        print("interrupted; the same command begins again or goes on", file=sys.stderr)
        return 130


def _parse(words: Sequence[str]) -> argparse.Namespace:
    """Returns the parsed words; options may stand between file names and overrides."""
    parser, commands = _parsers()
    if words and words[0] in commands:
        return commands[words[0]].parse_intermixed_args(words[1:])
    return parser.parse_args(words)  # help, or a usage error that names the commands


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    parser = argparse.ArgumentParser(
        prog="run.py",
        description="Train, test and use video classifiers. `train` is the default command.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    def takes_overrides(command: argparse.ArgumentParser) -> None:
        help_text = "overrides of the configuration"
        command.add_argument("overrides", nargs="*", metavar="key=value", help=help_text)

    train = commands.add_parser("train", help="train and test an experiment, or go on with it")
    train.add_argument("--cfg", required=True, help="a yaml file, or a name in configs/")
    takes_overrides(train)
    train.set_defaults(command=_train)

    test = commands.add_parser("test", help="test a checkpoint under any protocol")
    test.add_argument("--ckpt", required=True, help="a checkpoint of a run")
    test.add_argument("--out", type=Path, help="folder of the results")
    takes_overrides(test)
    test.set_defaults(command=_test)

    predict = commands.add_parser("predict", help="name the class of video files")
    predict.add_argument("--ckpt", required=True, help="a checkpoint of a run")
    predict.add_argument("videos", nargs="+", help="video files; key=value overrides may follow")
    predict.add_argument("--topk", type=_positive, default=5, help="classes to print (5)")
    predict.add_argument("--json", action="store_true", help="one JSON object a video")
    predict.set_defaults(command=_predict)

    report = commands.add_parser("report", help="Table 8 beside the paper's")
    report.add_argument("runs", type=Path, nargs="?", default=Path("runs"), help="folder of runs")
    report.set_defaults(command=_report)

    demo = commands.add_parser("demo", help="the whole chain on made-up videos, in minutes")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder to work in")
    demo.add_argument("--seed", type=int, default=0)
    demo.set_defaults(command=_demo)

    bench = commands.add_parser("bench", help="measure this machine: decode")
    bench.add_argument("what", choices=["decode"], help="decode: our reader beside its peers")
    bench.add_argument("--out", type=Path, metavar="FILE", help="write the figures as JSON")
    bench.add_argument("video", nargs="?", type=Path, help="footage to use; else it is made up")
    bench.add_argument("--rounds", type=_positive, default=5, help="medians of so many (5)")
    bench.set_defaults(command=_bench)

    for command in (train, test, predict, report, demo, bench, *_weight_parsers(commands)):
        command.add_argument("--debug", action="store_true", help="a traceback with an error")
    return parser, commands.choices


def _weight_parsers(commands: Any) -> list[argparse.ArgumentParser]:
    """Returns the parsers of what acts on files of weights alone."""
    convert = commands.add_parser("convert", help="weights of any layout into another")
    convert.add_argument("source", metavar="IN", help="a file of any known layout, or a known name")
    convert.add_argument("--to", type=Path, required=True, metavar="OUT", help="the file to write")
    layouts = ("videogn", "safetensors", "torchvision", "pyslowfast", "pytorchvideo")
    convert.add_argument("--layout", choices=layouts, help="else as the suffix of OUT says")
    convert.add_argument("--cfg", help="videogn: the network's configuration, such as its run's")
    convert.add_argument("--classes", help="videogn: a classes.txt, or kinetics400")
    convert.add_argument("overrides", nargs="*", metavar="key=value", help="videogn: overrides")
    convert.set_defaults(command=_convert)

    export = commands.add_parser("export", help="a checkpoint as a program for other runtimes")
    export.add_argument("--ckpt", required=True, help="a checkpoint of a run")
    export.add_argument("--format", required=True, choices=("onnx", "torch_export"))
    export.add_argument("--out", type=Path, required=True, metavar="FILE")
    export.add_argument("--frames", type=_positive, help="of a clip; else as in training")
    export.add_argument("--size", type=_size, help="pixels, 256 or 256x340 (HxW); else as trained")
    export.add_argument("--check", action="store_true", help="run FILE and compare its logits")
    export.set_defaults(command=_export)

    weights = commands.add_parser("weights", help="what a file of weights is, and how to use it")
    weights.add_argument("file", nargs="?", help="a file or a known name; else the known names")
    weights.add_argument("--tensors", action="store_true", help="list them with their shapes")
    weights.set_defaults(command=_weights)
    return [convert, export, weights]


def _size(text: str) -> tuple[int, int]:
    """Returns (height, width) of "256" or "256x340"."""
    height, _, width = text.partition("x")
    return _positive(height), _positive(width or height)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def _train(args: argparse.Namespace) -> int:
    from videogn.config import load_config

    config = load_config(args.cfg, args.overrides)  # a wrong key must not wait for torch

    from videogn.experiment import run_training

    run_training(config)
    return 0


def _test(args: argparse.Namespace) -> int:
    from videogn.testing import run_test

    run_test(args.ckpt, args.overrides, args.out)
    return 0


def _predict(args: argparse.Namespace) -> int:
    from videogn.errors import DataError, VideoDecodeError
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


def _report(args: argparse.Namespace) -> int:
    from videogn.report.table8 import write_report

    print(write_report(args.runs))
    return 0


def _demo(args: argparse.Namespace) -> int:
    from videogn.demo import run_demo

    print(run_demo(args.out, args.seed))
    return 0


def _convert(args: argparse.Namespace) -> int:
    from videogn.convert import convert

    line = convert(
        args.source,
        args.to,
        layout=args.layout,
        cfg=args.cfg,
        classes=args.classes,
        overrides=args.overrides,
    )
    print(line)
    return 0


def _export(args: argparse.Namespace) -> int:
    from videogn.export import export_checkpoint

    line = export_checkpoint(
        args.ckpt,
        args.out,
        kind=args.format,
        num_frames=args.frames,
        size=args.size,
        check=args.check,
    )
    print(line)
    return 0


def _weights(args: argparse.Namespace) -> int:
    from videogn.describe import describe, known_files

    print(describe(args.file, tensors=args.tensors) if args.file else known_files())
    return 0


def _bench(args: argparse.Namespace) -> int:
    from videogn.bench.decode import bench_decode

    print(bench_decode(args.out, args.rounds, args.video))
    return 0
