"""Write a checkpoint as a program that other runtimes execute."""

from __future__ import annotations

import argparse
from pathlib import Path

from videogn.cli.arguments import count, new_file, size, takes_checkpoint
from videogn.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    takes_checkpoint(parser)
    parser.add_argument(
        "--format", required=True, choices=("onnx", "torch_export"), help="what to write"
    )
    parser.add_argument(
        "--out", type=new_file, required=True, metavar="FILE", help="the file to write"
    )
    parser.add_argument(
        "--frames", type=count, metavar="T", help="frames of a clip; else as in training"
    )
    parser.add_argument("--size", type=size, help="pixels, 256 or 256x340 (HxW); else as trained")
    parser.add_argument("--check", action="store_true", help="run FILE and compare its logits")


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    if args.out.exists() and Path(args.ckpt).exists() and args.out.samefile(args.ckpt):
        raise ConfigError(f"--out {args.out} is the checkpoint itself; choose another name")

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
