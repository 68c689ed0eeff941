"""Predict the memory of a training step: how many clips of how many frames fit."""

from __future__ import annotations

import argparse

from videogn.cli.arguments import counts, takes_overrides


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.add_argument("--cfg", required=True, metavar="FILE", help="an experiment")
    parser.add_argument(
        "--memory", type=_gigabytes, metavar="GB", help="gigabytes of a GPU; else of this device"
    )
    parser.add_argument(
        "--frames", type=counts, default=[32, 64], metavar="T,...", help="frames of a clip (32,64)"
    )
    parser.add_argument(
        "--batch",
        type=counts,
        default=[1, 2, 4, 8, 16],
        metavar="N,...",
        help="clips of a step (1,2,4,8,16)",
    )
    takes_overrides(parser)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from videogn import build
    from videogn.config import load_config
    from videogn.fit import device_memory, fit_table

    config = load_config(args.cfg, args.overrides)
    if args.memory is None:
        device = build.pick_device(config)
        kind, memory = device.type, device_memory(device)
    else:  # of a GPU that need not be here
        kind, memory = "cpu" if config.device == "cpu" else "cuda", args.memory * 1e9
    print(fit_table(config, memory, device=kind, frames=args.frames, batches=args.batch))


def _gigabytes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of gigabytes above zero, such as 24"
        )
    return value
