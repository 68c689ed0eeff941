"""Write a checkpoint as a program that other runtimes execute."""

from __future__ import annotations

import argparse

from videogn.cli.arguments import count, place, size, takes_checkpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    takes_checkpoint(parser)
    parser.add_argument("--format", required=True, choices=("onnx", "torch_export"))
    parser.add_argument("--out", type=place, required=True, metavar="FILE")
    parser.add_argument("--frames", type=count, help="of a clip; else as in training")
    parser.add_argument("--size", type=size, help="pixels, 256 or 256x340 (HxW); else as trained")
    parser.add_argument("--check", action="store_true", help="run FILE and compare its logits")


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
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
