"""Say what is in a data root: counts by class and split, what is missing or bad, lengths, sizes."""

from __future__ import annotations

import argparse

from data_prep.progress import length_text, number_of, size_text
from data_prep.root_stats import Stats, read_stats, remarks, spread
from data_prep.roots import read_root
from data_prep.stats_page import write_page
from videogn.cli.arguments import count, place


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add = parser.add_argument
    add("root", metavar="ROOT", type=place, help="the data root")
    add("--out", metavar="FILE", type=place, help="the page to write (ROOT/stats.html)")
    add("--videos", metavar="DIR", type=place, help="where the videos are, instead of source.txt")
    add(
        "--frames",
        metavar="T",
        type=count,
        default=64,
        help="of a clip; shorter videos are counted (64)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Prints a summary and writes the page."""
    stats = read_stats(read_root(arguments.root, arguments.videos), short_below=arguments.frames)
    print("\n".join(text_lines(stats)))
    out = arguments.out or arguments.root / "stats.html"
    write_page(stats, out)
    print(f"\n{out}: the same with every class and histograms")


def text_lines(stats: Stats) -> list[str]:
    """The summary for a terminal."""
    classes = number_of(len(stats.classes), "class", "classes")
    lines = [f"{stats.root}: {classes}, videos under {stats.videos}", ""]
    table = [
        ["split", "rows", "videos", "missing", "bad", "short", "length", "size", "a class has"]
    ]
    for name, split in stats.splits.items():
        short = sum(bool(v.num_frames and v.num_frames < stats.short_below) for v in split.videos)
        known = stats.is_verified
        table.append(
            [
                name,
                str(split.rows),
                str(len(split.videos)),
                str(len(split.missing)),
                str(len(split.bad)) if known else "?",
                str(short) if known else "?",
                length_text(split.seconds) if known else "?",
                size_text(split.num_bytes),
                spread([split.by_class[label] for label in stats.classes]),
            ]
        )
    widths = [max(len(row[at]) for row in table) for at in range(len(table[0]))]
    for row in table:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  " + "  ".join(cells))
    lines += ["", *(f"  {line}" for line in remarks(stats))]
    return lines
