"""Table 8 of the paper beside what the runs of a folder reached."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import isnan
from pathlib import PurePath
from typing import Any

from videogn.config import CONFIG_DIR, load_config, scientific, to_dict
from videogn.report.records import Run
from videogn.report.settings import NOT_COMPARED, Spread, difference, one_per_seed, result
from videogn.report.text import markdown_table

TITLE = "Table 8 (arXiv:1803.08494), Kinetics-400, 10-clip accuracy in percent:"


@dataclass(frozen=True)
class Cell:
    """One number of Table 8 (arXiv:1803.08494): top-1 and top-5 accuracy in percent.

    Attributes:
        name: of the experiment and its config.
        norm: "BN" or "GN".
        frames: of a clip.
        clips_per_gpu: the batch that BN sees.
        top1: the paper's.
        top5: the paper's.
    """

    name: str
    norm: str
    frames: int
    clips_per_gpu: int
    top1: float
    top5: float


TABLE8 = (
    Cell("i3d_bn_32f", "BN", 32, 8, 73.3, 90.7),
    Cell("i3d_gn_32f", "GN", 32, 8, 73.0, 90.6),
    Cell("i3d_bn_32f_bs4", "BN", 32, 4, 72.1, 90.0),
    Cell("i3d_gn_32f_bs4", "GN", 32, 4, 72.8, 90.6),
    Cell("i3d_bn_64f", "BN", 64, 4, 73.3, 90.8),
    Cell("i3d_gn_64f", "GN", 64, 4, 74.5, 91.7),
)

# What the paper concludes from: the change from one cell to another.
CHANGES = (
    ("64 frames instead of 32, at 4 clips", "i3d_bn_32f_bs4", "i3d_bn_64f"),
    ("64 frames instead of 32, at 4 clips", "i3d_gn_32f_bs4", "i3d_gn_64f"),
    ("4 clips instead of 8, of 32 frames", "i3d_bn_32f", "i3d_bn_32f_bs4"),
    ("4 clips instead of 8, of 32 frames", "i3d_gn_32f", "i3d_gn_32f_bs4"),
)


@dataclass(frozen=True)
class Row:
    """A cell with the runs that fill it, one a seed; none if nobody made it."""

    cell: Cell
    runs: tuple[Run, ...]

    @property
    def top1(self) -> Spread | None:
        """Ours, in percent."""
        return result(self.runs, "top1")

    @property
    def top5(self) -> Spread | None:
        """Ours, in percent."""
        return result(self.runs, "top5")


@dataclass(frozen=True)
class Change:
    """A difference between two cells, in points of top-1 and top-5.

    Attributes:
        what: in words.
        norm: of both.
        ours: with its spread over seeds; None unless both cells are filled.
        paper: the paper's.
    """

    what: str
    norm: str
    ours: tuple[Spread, Spread] | None
    paper: tuple[float, float]


def table8_rows(runs: Sequence[Run]) -> list[Row]:
    """Returns each cell of the table with the trainings that fill it.

    Args:
        runs: those whose test ended first come first; of equal runs of one seed the last counts.
    """
    rows = []
    for cell in TABLE8:
        found = [
            run
            for run in runs
            if run.is_training and run.test and fills(run.config, _experiment(cell.name))
        ]
        rows.append(Row(cell, tuple(one_per_seed(found))))
    return rows


def fills(values: Mapping[str, Any], experiment: Mapping[str, Any]) -> bool:
    """Returns whether a run with `values` is that experiment: equal in every scientific value.

    An `auto` of the experiment agrees with what it became, except that there must be the 400
    classes of Kinetics; a file of initial weights is told by its name, wherever it lies.
    """
    for key in experiment.keys() - NOT_COMPARED:
        wanted, have = experiment[key], values.get(key)
        if key == "model.num_classes":
            wanted = 400
        if key == "model.init" and isinstance(have, str) and isinstance(wanted, str):
            wanted, have = PurePath(wanted).name, PurePath(have).name
        if wanted not in ("auto", have):
            return False
    return True


def changes(rows: Sequence[Row]) -> list[Change]:
    """Returns what 64 frames gain over 32, and what 4 clips lose against 8, for BN and GN."""
    of_name = {row.cell.name: row for row in rows}
    found = []
    for what, before, after in CHANGES:
        a, b = of_name[before], of_name[after]
        ours = None
        if a.top1 and b.top1 and a.top5 and b.top5:
            ours = (difference(b.top1, a.top1), difference(b.top5, a.top5))
        paper = (round(b.cell.top1 - a.cell.top1, 1), round(b.cell.top5 - a.cell.top5, 1))
        found.append(Change(what, a.cell.norm, ours, paper))
    return found


HEADER = (
    *("frames", "clips/GPU", "norm", "ours top-1 / top-5", "paper top-1 / top-5", "difference"),
    *("seeds", "videos (failed)", "clips/step"),
)
CHANGES_HEADER = ("change", "norm", "ours top-1 / top-5", "paper top-1 / top-5")


def cells_of(row: Row) -> list[str]:
    """Returns a row of the table as text, under `HEADER`."""
    cell = row.cell
    ours = difference = seeds = ""
    if row.top1 and row.top5:
        ours = f"{row.top1} / {row.top5}"
        difference = points((row.top1.mean - cell.top1, row.top5.mean - cell.top5))
        seeds = str(row.top1.seeds)
    tests = [run.test for run in row.runs if run.test]
    videos = _distinct(f"{test['num_videos']} ({len(test['failed'])})" for test in tests)
    batch = _distinct(str(test.get("clips_per_step", "?")) for test in tests)
    paper = f"{cell.top1:.1f} / {cell.top5:.1f}"
    names = [str(cell.frames), str(cell.clips_per_gpu), cell.norm]
    return [*names, ours, paper, difference, seeds, videos, batch]


def cells_of_change(change: Change) -> list[str]:
    """Returns a change as text, under `CHANGES_HEADER`."""
    ours = " / ".join(_signed(one) for one in change.ours or ())
    return [change.what, change.norm, ours, points(change.paper)]


def _signed(change: Spread) -> str:
    """Returns a change with its sign and, of several seeds, its spread: "+1.2 ± 0.5"."""
    sign = f"{round(change.mean, 1) + 0.0:+.1f}"  # + 0.0: never "-0.0"
    return sign if isnan(change.deviation) else f"{sign} ± {change.deviation:.1f}"


def points(pair: tuple[float, float]) -> str:
    """Returns a difference of top-1 and top-5 with signs: "+1.2 / -0.7"."""
    return " / ".join(f"{round(value, 1) + 0.0:+.1f}" for value in pair)  # + 0.0: never "-0.0"


def protocols(rows: Sequence[Row]) -> list[str]:
    """Returns the test protocols of the runs in the table, each once."""
    found = [str(run.test["protocol"]) for row in rows for run in row.runs if run.test]
    return list(dict.fromkeys(found))


def format_table8(rows: Sequence[Row]) -> str:
    """Returns the table in markdown, with the changes and the protocols beneath it."""
    parts = [
        TITLE,
        markdown_table(HEADER, [cells_of(row) for row in rows], words=0),
        markdown_table(CHANGES_HEADER, [cells_of_change(c) for c in changes(rows)], words=2),
    ]
    parts += [f"Protocol: {protocol}." for protocol in protocols(rows)]
    return "\n\n".join(parts)


def table8_csv(rows: Sequence[Row]) -> str:
    """Returns the table and the changes as csv, every number in full."""
    file = io.StringIO()
    columns = ["name", "norm", "frames", "clips_per_gpu", "top1", "top1_deviation", "top5"]
    columns += ["top5_deviation", "seeds", "paper_top1", "paper_top5", "videos", "failed"]
    columns += ["clips_per_step", "protocol", "runs"]
    writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cell = row.cell
        known: dict[str, Any] = {
            **{"name": cell.name, "norm": cell.norm, "frames": cell.frames},
            **{"clips_per_gpu": cell.clips_per_gpu, "seeds": len(row.runs)},
            **{"paper_top1": cell.top1, "paper_top5": cell.top5},
        }
        for key, ours in (("top1", row.top1), ("top5", row.top5)):
            known |= _columns(key, ours) if ours else {}
        tests = [run.test for run in row.runs if run.test]
        known["videos"] = _distinct(str(test["num_videos"]) for test in tests)
        known["failed"] = _distinct(str(len(test["failed"])) for test in tests)
        known["clips_per_step"] = _distinct(str(test.get("clips_per_step", "?")) for test in tests)
        known["protocol"] = _distinct(str(test["protocol"]) for test in tests)
        known["runs"] = " ".join(run.name for run in row.runs)
        writer.writerow(known)
    for change in changes(rows):
        known = {"name": change.what, "norm": change.norm}
        for key, ours in zip(("top1", "top5"), change.ours or (), strict=False):
            known |= _columns(key, ours)
        paper = dict(zip(("paper_top1", "paper_top5"), change.paper, strict=True))
        writer.writerow(known | paper)
    return file.getvalue()


def _columns(key: str, ours: Spread) -> dict[str, Any]:
    """Returns a number of ours and its deviation, which one seed has none of."""
    return {key: ours.mean, f"{key}_deviation": ours.deviation if ours.seeds > 1 else ""}


def _distinct(texts: Any) -> str:
    """Returns what differs among the seeds of a row, each text once."""
    return ", ".join(dict.fromkeys(texts))


@cache
def _experiment(name: str) -> dict[str, Any]:
    """Returns the scientific values of a cell's config."""
    return scientific(to_dict(load_config(CONFIG_DIR / f"{name}.yaml")))
