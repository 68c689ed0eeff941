"""A comparison of two tests in words."""

from __future__ import annotations

from collections.abc import Sequence

from videogn.report.compare import Comparison, Paired
from videogn.report.text import markdown_table, printable

_SHOWN_CLASSES = 10
_SHOWN_VIDEOS = 5


def describe(found: Comparison, a: str, b: str) -> str:
    """Returns the differences, the classes that changed most, and videos only one got right."""
    rows = [_row("top-1", found.top1), _row("top-5", found.top5)]
    header = ["", "A, %", "B, %", "B - A", "95 % interval", "bootstrap"]
    header += ["only A right", "only B right", "p"]
    parts = [
        f"A: {printable(a)}\nB: {printable(b)}\n{_count(found.videos)}{_failed(found)}",
        markdown_table(header, rows),
        "Interval: Bonett and Price's, of pairs; the bootstrap over the videos is too narrow where "
        "few differ. p: McNemar's exact test. All tell how far other videos could change the "
        "difference; how far other seeds of the training could, they do not tell.",
    ]
    changed = [c for c in found.classes if c.change]
    if changed:
        table = [
            [c.label, str(c.videos), f"{c.a:.1f}", f"{c.b:.1f}", f"{c.change:+.1f}"]
            for c in changed[:_SHOWN_CLASSES]
        ]
        parts.append(markdown_table(["class", "videos", "A, %", "B, %", "B - A"], table))
        more = len(changed) - _SHOWN_CLASSES
        if more > 0:
            differ = "class differs" if more == 1 else "classes differ"
            parts.append(f"{more} more {differ}; see --json")
    parts += [_videos("A", found.only_a), _videos("B", found.only_b)]
    return "\n\n".join(part for part in parts if part)


def _count(videos: int) -> str:
    return f"{videos} video{'s' * (videos != 1)}"


def _failed(found: Comparison) -> str:
    """Returns how many videos each could not read; nothing where both read all."""
    if not found.failed_a and not found.failed_b:
        return ""
    return (
        f", of which A could not read {found.failed_a} and B could not read {found.failed_b}: "
        "they count as wrong"
    )


def _row(what: str, one: Paired) -> list[str]:
    return [
        what,
        f"{one.a:.2f}",
        f"{one.b:.2f}",
        f"{one.difference:+.2f}",
        f"{one.low:+.2f} to {one.high:+.2f}",
        f"{one.bootstrap_low:+.2f} to {one.bootstrap_high:+.2f}",
        str(one.only_a),
        str(one.only_b),
        f"{one.p:.2g}",
    ]


def _videos(which: str, paths: Sequence[str]) -> str:
    if not paths:
        return ""
    more = len(paths) - _SHOWN_VIDEOS
    names = [f"  {printable(path)}" for path in paths[:_SHOWN_VIDEOS]]
    names += [f"  and {more} more; see --json"] if more > 0 else []
    return "\n".join([f"Right only in {which}:", *names])
