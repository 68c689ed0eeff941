"""The page that `stats` writes: one HTML file that needs nothing else, for any screen."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path

import numpy as np

from data_prep.progress import length_text, size_text
from data_prep.root_stats import Stats, Video, bad_kinds, remarks, spread
from videogn.data.tables import write_text
from videogn.report.text import printable

_BINS = 14  # about; the edges are round numbers
_GAP = 3  # empty bins in a row that are drawn as one
_COMMON_SIZES = 8
_LISTED_BAD = 100  # the rest is in bad.csv
_LISTED_COPIES = 5  # of a group
_COMMAND = re.compile(r"`(python -m data_prep [^`<>]*)`")  # other backticks are of file names

_STYLE = """
:root { color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1b1f24; --soft: #5b6470; --line: #dfe3e8;
  --bar: #2f6fb5; --bar2: #c2703d; --alarm: #b3261e; }
@media (prefers-color-scheme: dark) { :root {
  --page: #14171b; --card: #1d2126; --ink: #e8eaed; --soft: #9aa4b0; --line: #343a42;
  --bar: #6ea8e0; --bar2: #e0955f; --alarm: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 0 0 .75rem; }
p { margin: .25rem 0; } .soft { color: var(--soft); overflow-wrap: anywhere; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 1rem 1.1rem; margin-top: 1rem; }
.tiles { display: grid; gap: .75rem; margin-top: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: .7rem 1rem; }
.tile b { display: block; font-size: 1.45rem; line-height: 1.25; font-weight: 600;
  font-variant-numeric: tabular-nums; }
.alarm b, b.alarm, td.alarm { color: var(--alarm); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 500; font-size: .85rem; white-space: nowrap; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td:first-child { overflow-wrap: break-word; min-width: 5rem; }
tr:last-child td { border-bottom: 0; }
.text td { text-align: left; overflow-wrap: anywhere; vertical-align: top; }
.text th { text-align: left; }
.charts { display: grid; gap: 1rem; margin-top: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); }
.charts section { margin: 0; }
.bars { display: grid; grid-template-columns: max-content 1fr max-content; gap: .2rem .6rem;
  align-items: center; font-variant-numeric: tabular-nums; font-size: .88rem; }
.bars .number { text-align: right; }
.bars .name { text-align: right; color: var(--soft); white-space: nowrap; }
.track { height: .8rem; }
.fill { display: block; height: 100%; min-width: 1px; background: var(--bar);
  border-radius: 0 3px 3px 0; }
.fill.none { min-width: 0; } .fill.second { background: var(--bar2); }
td .track { width: 100%; min-width: 4rem; height: .7rem; }
td.cell { width: 28%; }
ul { margin: 0; padding-left: 1.1rem; } li { overflow-wrap: anywhere; }
details summary { cursor: pointer; color: var(--soft); }
@media (max-width: 34rem) { body { font-size: 14px; } section { padding: .8rem; }
  th, td { padding: .3rem .35rem; } }
"""


def write_page(stats: Stats, path: Path) -> None:
    """Writes the page of `stats` to the file `path`."""
    parts = [
        f"<h1>{_safe(stats.root.resolve().name)}</h1>",
        f'<p class="soft">Videos under {_safe(str(stats.videos))}</p>',
        _tiles(stats),
        _section("Remarks", _list(remarks(stats))),
        _section("Splits", _splits(stats)),
        _charts(stats),
        _faults(stats),
        _copies(stats),
        _section("Classes", _classes(stats)),
    ]
    title = f"{_safe(stats.root.resolve().name)}: data root"
    write_text(
        path,
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style></head>\n<body><main>\n" + "\n".join(parts) + "\n</main></body>"
        "</html>\n",
    )


def histogram(values: Sequence[float]) -> list[tuple[str, int]]:
    """Bins with round edges, as (from-to, count); the last one holds the rarest, longest values.

    One value alone is a bin of its own. Empty bins at the ends are left out, and many between two
    others are one.
    """
    if not values:
        return []
    if min(values) == max(values):
        return [(_short(values[0]), len(values))]
    low, high = min(values), float(np.percentile(values, 99, method="higher"))
    step = _round_step((high - low) / _BINS)
    edges = np.arange(np.floor(low / step), np.floor(high / step) + 2) * step
    counts, _ = np.histogram(np.minimum(values, np.nextafter(edges[-1], 0)), edges)
    names = [f"{_short(low)} to {_short(high)}" for low, high in pairwise(edges)]
    if max(values) >= edges[-1]:
        names[-1] = f"{_short(edges[-2])} and more"
    return _without_gaps(list(zip(names, counts.tolist(), strict=True)))


def _without_gaps(bins: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """The bins without empty ones at the ends, and one "..." for three or more within."""
    filled = [at for at, (_, number) in enumerate(bins) if number]
    kept: list[tuple[str, int]] = []
    for at, after in pairwise([*filled, len(bins)]):
        kept.append(bins[at])
        gap = bins[at + 1 : after] if after < len(bins) else []
        kept += gap if len(gap) < _GAP else [("...", 0)]
    return kept


def _round_step(step: float) -> float:
    """The least of 1, 2, 5, 10, 20, 50, ... (and their tenths, ...) that is not below `step`."""
    if step <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(step))
    return float(next(power * k for k in (1, 2, 5, 10) if power * k >= step * (1 - 1e-9)))


def _short(value: float) -> str:
    return f"{value:,.10g}"


def _tiles(stats: Stats) -> str:
    videos = stats.seen_once
    missing = sum(video.is_missing for video in videos)
    bad = sum(video.ok is False and not video.is_missing for video in videos)
    known = stats.is_verified
    length = length_text(sum(video.duration or 0.0 for video in videos))
    size, size_unit = size_text(sum(video.num_bytes or 0 for video in videos)).split()
    tiles = [
        ("videos", f"{len(videos):,}", False),
        ("classes", f"{len(stats.classes):,}", False),
        ("length", length if known else "?", False),
        (size_unit, size, False),
        ("missing", f"{missing:,}", missing > 0),
        ("bad", f"{bad:,}" if known else "?", bad > 0),
        (f"under {stats.short_below} frames", f"{len(stats.short):,}" if known else "?", False),
    ]
    cells = "".join(
        f'<div class="tile{" alarm" if alarm else ""}"><b>{value}</b>{name}</div>'
        for name, value, alarm in tiles
    )
    return f'<div class="tiles">{cells}</div>'


def _splits(stats: Stats) -> str:
    """A column a split: three of them fit on a telephone, nine columns of numbers do not."""
    known = stats.is_verified
    columns = [
        [
            f"{split.rows:,}",
            f"{len(split.videos):,}",
            f"{len(split.missing):,}",
            f"{len(split.bad):,}" if known else "?",
            f"{split.unverified:,}",
            length_text(split.seconds) if known else "?",
            size_text(split.num_bytes),
            spread([split.by_class[label] for label in stats.classes]),
        ]
        for split in stats.splits.values()
    ]
    names = ["rows", "videos", "missing", "bad", "unverified", "length", "size"]
    names.append("a class has (least / median / most)")
    return _table(["", *stats.splits], list(zip(names, *columns, strict=True)))


def _charts(stats: Stats) -> str:
    videos = stats.seen_once
    charts = [
        ("Length, seconds", histogram([v.duration for v in videos if v.duration])),
        ("Length, frames", histogram([v.num_frames for v in videos if v.num_frames])),
        ("Short side, pixels", histogram([min(v.size) for v in videos if v.size])),
        ("File size, MB", histogram([v.num_bytes / 1e6 for v in videos if v.num_bytes])),
        ("Width x height", _common_sizes(videos)),
    ]
    cells = [_section(name, _bars(bins)) for name, bins in charts if bins]
    return f'<div class="charts">{"".join(cells)}</div>'


def _common_sizes(videos: Iterable[Video]) -> list[tuple[str, int]]:
    sizes = Counter(video.size for video in videos if video.size)
    common = [(f"{w}x{h}", number) for (w, h), number in sizes.most_common(_COMMON_SIZES)]
    rest = sum(sizes.values()) - sum(number for _, number in common)
    return [*common, (f"{len(sizes) - len(common)} others", rest)] if rest else common


def _faults(stats: Stats) -> str:
    kinds = bad_kinds(stats)
    if not kinds:
        return ""
    listed = [video for video in stats.seen_once if video.kind]
    rows = [[video.path, video.kind, video.error or "no such file"] for video in listed]
    table = _table(["video", "fault", "exactly"], rows[:_LISTED_BAD], kind="text")
    more = len(rows) - _LISTED_BAD
    rest = f'<p class="soft">and {more:,} more, in bad.csv</p>' if more > 0 else ""
    count = f"{min(len(rows), _LISTED_BAD):,} of {len(rows):,}"
    return _section(
        "Missing and bad videos",
        _bars(kinds.most_common())
        + f"<p></p><details{' open' if len(rows) <= 10 else ''}>"
        + f"<summary>{count} by name</summary>{table}{rest}</details>",
    )


def _copies(stats: Stats) -> str:
    if not stats.twins:
        return ""
    across = {group[0] for group in stats.twins_across}
    rows = [
        [", ".join(group[:_LISTED_COPIES]), f"{len(group):,}", "yes" if group[0] in across else ""]
        for group in sorted(stats.twins, key=lambda group: (group[0] not in across, -len(group)))
    ]
    table = _table(["files", "number", "across splits"], rows[:_LISTED_BAD], kind="text")
    count = f"{min(len(rows), _LISTED_BAD):,} of {len(rows):,} groups"
    return _section(
        "Files with the same content", f"<details><summary>{count}</summary>{table}</details>"
    )


def _classes(stats: Stats) -> str:
    """A row a class, a bar a split, the rarest class in training last."""
    names = list(stats.splits)
    most = {name: max(split.by_class.values(), default=1) for name, split in stats.splits.items()}
    known = set(stats.classes)
    others = {c for split in stats.splits.values() for c in split.by_class if c and c not in known}
    first = stats.splits[names[0]].by_class
    rows = []
    for label in sorted([*stats.classes, *others], key=lambda label: (-first[label], label)):
        cells = [f"<td>{_safe(label)}</td>"]
        for number, name in enumerate(names):
            value = stats.splits[name].by_class[label]
            bar = _bar(value, most[name], second=number > 0)
            alarm = "" if value else ' class="alarm"'
            cells.append(f'<td{alarm}>{value:,}</td><td class="cell">{bar}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    header = "".join(f"<th>{_safe(name)}</th><th></th>" for name in names)
    return f'<div class="wide"><table><tr><th>class</th>{header}</tr>{"".join(rows)}</table></div>'


def _bars(bins: Sequence[tuple[str, int]]) -> str:
    most = max(number for _, number in bins)
    rows = "".join(
        f'<span class="name">{_safe(name)}</span>{_bar(number, most)}'
        f'<span class="number">{number:,}</span>'
        for name, number in bins
    )
    return f'<div class="bars">{rows}</div>'


def _bar(value: int, most: int, *, second: bool = False) -> str:
    kind = "fill" + (" second" if second else "") + ("" if value else " none")
    share = 100 * value / max(most, 1)
    return f'<div class="track"><span class="{kind}" style="width:{share:.1f}%"></span></div>'


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    head = "".join(f"<th>{_safe(name)}</th>" for name in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{_safe(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table class="{kind}"><tr>{head}</tr>{body}</table></div>'


def _list(lines: Sequence[str]) -> str:
    if not lines:
        return '<p class="soft">none</p>'
    texts = [_COMMAND.sub(r"<code>\1</code>", _safe(line)) for line in lines]
    return f"<ul>{''.join(f'<li>{text}</li>' for text in texts)}</ul>"


def _section(title: str, content: str) -> str:
    return f"<section><h2>{_safe(title)}</h2>{content}</section>"


def _safe(text: str) -> str:
    """`text` for HTML: names come from anywhere; what cannot be shown is written as an escape."""
    return escape(printable(text))
