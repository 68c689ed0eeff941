"""Table 8 of the paper beside what the runs of a folder reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from videogn.config import CONFIG_DIR, load_config, scientific, to_dict
from videogn.errors import DataError
from videogn.runs import read_config, read_json


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

# Where the data lie and which of several equal runs this is does not change the experiment.
NOT_COMPARED = frozenset({"name", "seed", "data.root", "data.videos"})


@dataclass(frozen=True)
class TestedRun:
    """A run folder with a finished test.

    Attributes:
        folder: of the run.
        values: scientific values of its resolved config, by dotted key.
        test: contents of `test.json`.
    """

    folder: Path
    values: Mapping[str, Any]
    test: Mapping[str, Any]


def write_report(folder: Path) -> str:
    """Returns Table 8 and the other tested runs under `folder`; writes the table there too.

    Raises:
        DataError: there is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder of runs; train one, or run the demo")
    runs = find_tested_runs(folder)
    experiments = {
        cell.name: scientific(to_dict(load_config(CONFIG_DIR / f"{cell.name}.yaml")))
        for cell in TABLE8
    }
    rows = table8_rows(runs, experiments)
    text = "Table 8 (arXiv:1803.08494), Kinetics-400, 10-clip accuracy in percent:\n\n"
    text += format_table8(rows)
    (folder / "table8.md").write_text(text + "\n", encoding="utf-8")
    placed = {id(run) for _, run in rows if run}
    others = [run for run in runs if id(run) not in placed]
    if others:
        text += "\n\nOther tested runs:\n\n" + format_others(others)
    return text


def find_tested_runs(folder: Path) -> list[TestedRun]:
    """Returns the runs at any depth under `folder` that hold a finished test, oldest first."""
    found = []
    for path in folder.rglob("test.json"):
        config, test = read_config(path.parent), read_json(path)
        if config is not None and test is not None and _is_whole(test):
            run = TestedRun(path.parent, scientific(config), test)
            found.append((path.stat().st_mtime, str(path), run))
    return [run for _, _, run in sorted(found, key=lambda entry: entry[:2])]


def _is_whole(test: Mapping[str, Any]) -> bool:
    """Returns whether a `test.json` holds all that a table shows."""
    numbers = [test.get(key) for key in ("top1", "top5", "num_videos")]
    return (
        all(isinstance(number, int | float) for number in numbers)
        and isinstance(test.get("failed"), list)
        and "protocol" in test
    )


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


def table8_rows(
    runs: Sequence[TestedRun], experiments: Mapping[str, Mapping[str, Any]]
) -> list[tuple[Cell, TestedRun | None]]:
    """Returns each cell of the table with the newest run that fills it, or None.

    Args:
        runs: tested runs, oldest first.
        experiments: scientific values of each cell's config, by its name.
    """
    rows = []
    for cell in TABLE8:
        found = [run for run in runs if fills(run.values, experiments[cell.name])]
        rows.append((cell, found[-1] if found else None))
    return rows


def format_table8(rows: Sequence[tuple[Cell, TestedRun | None]]) -> str:
    """Returns the table as markdown: ours, the paper's, and the difference."""
    lines = [
        "| frames | clips/GPU | norm | ours top-1 / top-5 | paper top-1 / top-5 | difference "
        "| videos (failed) | clips/step |",
        "|---:|---:|---|---:|---:|---:|---:|---:|",
    ]
    for cell, run in rows:
        ours = difference = videos = batch = ""
        if run:
            top1, top5 = run.test["top1"], run.test["top5"]
            ours = f"{top1:.1f} / {top5:.1f}"
            difference = f"{top1 - cell.top1:+.1f} / {top5 - cell.top5:+.1f}"
            videos = f"{run.test['num_videos']} ({len(run.test['failed'])})"
            batch = run.test.get("clips_per_step", "")
        paper = f"{cell.top1:.1f} / {cell.top5:.1f}"
        lines.append(
            f"| {cell.frames} | {cell.clips_per_gpu} | {cell.norm} | {ours} | {paper} "
            f"| {difference} | {videos} | {batch} |"
        )
    return "\n".join(lines)


def format_others(runs: Sequence[TestedRun]) -> str:
    """Returns the runs that are no cell of the table, as a markdown table of their own."""
    lines = [
        "| run | norm | top-1 / top-5 | videos (failed) | protocol |",
        "|---|---|---:|---:|---|",
    ]
    for run in runs:
        test = run.test
        lines.append(
            f"| {run.folder.parent.name}/{run.folder.name} "
            f"| {str(run.values.get('model.norm.kind', '')).upper()} "
            f"| {test['top1']:.1f} / {test['top5']:.1f} "
            f"| {test['num_videos']} ({len(test['failed'])}) | {test['protocol']} |"
        )
    return "\n".join(lines)
