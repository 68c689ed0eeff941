"""The files of a study's results."""

from __future__ import annotations

from pathlib import Path

from videogn.engine.durable import replacing
from videogn.report.figures import save_figure
from videogn.study.curves import curves_csv, curves_of
from videogn.study.figures import draw_accuracy, draw_curves
from videogn.study.plan import Study
from videogn.study.records import Done
from videogn.study.tables import in_parts, study_tables, table_csv


def write_results(folder: Path, done: list[Done], study: Study) -> str:
    """Writes what trials reached into `folder`; returns the tables as markdown.

    The files are `tables.md`, `tables.csv`, `curves.csv`, and as PNG and SVG `curves` and
    `accuracy`.
    """
    shown = list(
        {each.trial: each for part in in_parts(done, study).values() for each in part}.values()
    )
    tables, curves = study_tables(done, study), curves_of(shown)
    texts = {
        "tables.md": tables,
        "tables.csv": table_csv(done, study),
        "curves.csv": curves_csv(curves),
    }
    for name, text in texts.items():
        with replacing(folder / name) as file:
            file.write(text.encode())
    for name, figure in (("curves", draw_curves(curves)), ("accuracy", draw_accuracy(shown))):
        if figure is not None:
            save_figure(figure, folder / name)
    return tables
