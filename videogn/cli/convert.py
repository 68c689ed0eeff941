"""Write weights of any known layout in another."""

from __future__ import annotations

import argparse

from videogn.cli.arguments import place

LAYOUTS = ("videogn", "safetensors", "torchvision", "pyslowfast", "pytorchvideo")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.add_argument("source", metavar="IN", help="a file of any known layout, or a known name")
    parser.add_argument("--to", type=place, required=True, metavar="OUT", help="the file to write")
    parser.add_argument("--layout", choices=LAYOUTS, help="else as the suffix of OUT says")
    parser.add_argument("--cfg", help="videogn: the network's configuration, such as its run's")
    parser.add_argument("--classes", help="videogn: a classes.txt, or kinetics400")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="videogn: overrides")


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
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
