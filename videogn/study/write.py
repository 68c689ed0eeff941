"""The files of a study's results."""

from __future__ import annotations

from pathlib import Path

from videogn.study.plan import Study
from videogn.study.tables import study_tables, table_csv


def write_results(folder: Path, study: Study) -> str:
    """Writes `tables.md` and `tables.csv` of the trials in `folder`; returns the tables."""
    from videogn.study.run import read_done

    done = read_done(folder)
    text = study_tables(done, study)
    (folder / "tables.md").write_text(text, encoding="utf-8")
    (folder / "tables.csv").write_text(table_csv(done, study), encoding="utf-8")
    return text
