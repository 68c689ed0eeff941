"""The report of a folder of runs: tables, pictures and the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from videogn.data.tables import write_text
from videogn.errors import DataError
from videogn.report.explorer import Thumbnails
from videogn.report.figures import draw_fig7, draw_table8, save_figure
from videogn.report.page import write_page
from videogn.report.records import Found, Run, find_runs
from videogn.report.settings import Group, by_data_set
from videogn.report.table8 import Row, format_table8, table8_csv, table8_rows
from videogn.report.text import markdown_table, printable

# Videos of each kind (right, wrong) that the page shows of a run.
THUMBNAILS = 6


def write_report(folder: Path, *, thumbnails: int = THUMBNAILS) -> str:
    """Returns the tables of the runs under `folder` as text; writes them, figures and page there.

    Args:
        folder: of the runs; report.html, table8.{md,csv,png,svg} and fig7.{png,svg} go there.
        thumbnails: videos of each kind that the page shows of a run; 0 opens no video.

    Raises:
        DataError: there is no such folder, or nothing in it was measured yet.
    """
    found = find_runs(folder)
    _require_results(folder, found)
    rows = table8_rows(found.runs)
    groups = _groups(found.runs, rows)
    text = format_table8(rows)
    write_text(folder / "table8.md", text + "\n")
    write_text(folder / "table8.csv", table8_csv(rows))
    written = [folder / "table8.md", folder / "table8.csv"]
    written += save_figure(draw_table8(rows), folder / "table8")
    fig7 = draw_fig7([(group.title, group.runs) for group in groups])
    if fig7:
        written += save_figure(fig7, folder / "fig7")
    write_page(
        folder / "report.html",
        title=f"Report on {folder.resolve().name}/",
        rows=rows,
        groups=groups,
        problems=found.problems,
        thumbnails=Thumbnails(thumbnails),
    )
    written.append(folder / "report.html")
    placed = {run.name for row in rows for run in row.runs}
    others = [run for run in found.runs if run.name not in placed]
    heading = "Other tested runs:" if placed else "Tested runs:"
    parts = [text if placed else "", _tested([run for run in others if run.test], heading)]
    parts.append(_untested([run for run in others if not run.test]))
    parts.append("\n".join(f"warning: {printable(problem)}" for problem in found.problems))
    if not placed:
        parts.append("No run here is of the paper's Table 8; table8.md holds the paper's numbers.")
    parts.append("Written: " + ", ".join(printable(str(path)) for path in written))
    return "\n\n".join(part for part in parts if part)


def _require_results(folder: Path, found: Found) -> None:
    """Refuses runs of which no table, curve or page would tell anything.

    Raises:
        DataError: none of them was tested or monitored.
    """
    if any(run.test or run.curve for run in found.runs):
        return
    why = f" ({printable(found.problems[0])})" if found.problems else ""
    raise DataError(
        f"{folder} holds no run that was tested or monitored{why}; train one, or name the folder "
        "that the runs lie in"
    )


def _groups(runs: Sequence[Run], rows: Sequence[Row]) -> list[Group]:
    """Returns the data sets, that of Table 8 under its own name and first."""
    placed = {run.name for row in rows for run in row.runs}
    groups = []
    for group in by_data_set(runs):
        is_kinetics = any(run.name in placed for run in group.runs)
        title = "Kinetics-400" if is_kinetics else group.title
        groups.append((not is_kinetics, Group(title, group.runs)))
    return [group for _, group in sorted(groups, key=lambda entry: entry[0])]


def _tested(runs: Sequence[Run], heading: str) -> str:
    """Returns the tests that are no cell of Table 8, as a table of their own."""
    if not runs:
        return ""
    protocols = list(dict.fromkeys(str(run.test["protocol"]) for run in runs if run.test))
    header = ["run", "norm", "top-1 / top-5", "videos (failed)", "protocol"]
    rows = []
    for run in runs:
        test = run.test or {}
        result = f"{test['top1']:.1f} / {test['top5']:.1f}"
        videos = f"{test['num_videos']} ({len(test['failed'])})"
        kind = "" if run.is_training else " (test)"
        protocol = str(protocols.index(test["protocol"]) + 1)
        rows.append([run.name + kind, run.norm, result, videos, protocol])
    table = markdown_table(header, rows, words=2)
    notes = [f"Protocol {n}: {printable(text)}." for n, text in enumerate(protocols, start=1)]
    return "\n\n".join([heading, table, "\n".join(notes)])


def _untested(runs: Sequence[Run]) -> str:
    names = [
        f"{run.name} (epoch {run.curve[-1][0]:.4g})" if run.curve else run.name for run in runs
    ]
    return f"Not tested yet: {printable(', '.join(names))}" if names else ""
