"""Measure this machine: `decode` sets our reader beside its peers, `step` GN beside BN."""

from __future__ import annotations

import argparse
from pathlib import Path

from videogn.cli.arguments import count, counts, new_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.add_argument(
        "what",
        choices=["decode", "step"],
        help="decode: our reader beside its peers; step: a training step with GN and BN",
    )
    parser.add_argument(
        "more",
        nargs="*",
        metavar="VIDEO or key=value",
        help="decode: footage to use, else it is made up; step: overrides of the configuration",
    )
    parser.add_argument("--out", type=new_file, metavar="FILE", help="write the figures as JSON")
    parser.add_argument(
        "--rounds", type=count, default=5, metavar="N", help="medians of so many (5)"
    )
    step = parser.add_argument_group("step")
    step.add_argument(
        "--cfg",
        default="i3d_gn_64f",
        metavar="FILE",
        help="the network and the device (i3d_gn_64f)",
    )
    step.add_argument(
        "--frames", type=counts, metavar="T,...", help="frames of a clip; else as configured"
    )
    step.add_argument(
        "--size", type=count, metavar="S", help="pixels of a clip's side; else as configured"
    )
    step.add_argument(
        "--batch", type=count, metavar="N", help="clips of a step; else as configured"
    )
    step.add_argument(
        "--compile", action="store_true", help="compiled networks and CUDA graphs too: minutes"
    )


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    print(_decode(args) if args.what == "decode" else _step(args))


def _decode(args: argparse.Namespace) -> str:
    from videogn.bench.decode import bench_decode
    from videogn.errors import ConfigError

    if len(args.more) > 1:
        raise ConfigError(f"bench decode takes one video, not {len(args.more)}; name one")
    return bench_decode(args.out, args.rounds, Path(args.more[0]) if args.more else None)


def _step(args: argparse.Namespace) -> str:
    from videogn.bench.step import bench_step
    from videogn.config import load_config

    config = load_config(args.cfg, args.more)
    return bench_step(
        config,
        args.out,
        frames=args.frames or [config.data.num_frames],
        size=args.size or config.data.crop_size,
        clips=args.batch or config.optim.clips_per_gpu,
        rounds=args.rounds,
        compile=args.compile,
    )
