"""The committed studies: tables are those of the record, made by the recipe that is shipped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from videogn.runs import read_json
from videogn.study.curves import curves_csv, curves_of
from videogn.study.plan import Study, read_study
from videogn.study.records import Done
from videogn.study.run import read_done
from videogn.study.tables import in_parts, study_tables, table_csv

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
of_each = pytest.mark.parametrize("name", ["cpu", "cpu_long"])


def committed(name: str) -> tuple[Path, Study, list[Done]]:
    """The folder of a study's results, what it was to train, and its record."""
    folder = RESULTS / f"study_{name}"
    return folder, read_study(f"study/{name}.yaml"), read_done(folder)


@of_each
def test_tables_are_those_of_the_record(name: str) -> None:
    folder, study, done = committed(name)
    shown = in_parts(done, study)
    for part, trials in study.parts.items():
        assert len(shown[part]) == len(trials)  # none is missing
    assert (folder / "tables.md").read_text(encoding="utf-8") == study_tables(done, study)
    assert (folder / "tables.csv").read_text(encoding="utf-8") == table_csv(done, study)
    curves = curves_of([each for part in shown.values() for each in part])
    assert (folder / "curves.csv").read_text(encoding="utf-8") == curves_csv(curves)


@of_each
def test_trials_are_of_the_shipped_recipe(name: str) -> None:
    folder, study, _ = committed(name)
    kept = read_json(folder / "study.json")
    assert kept is not None
    assert kept["settings"] == json.loads(json.dumps(study.settings()))
    assert kept["environment"]["git"]["dirty"] is False


@of_each
def test_a_table_of_other_numbers_is_seen(name: str) -> None:
    folder, study, done = committed(name)
    part = in_parts(done, study)["main"]
    part[0].result["test"] += 1.0  # type: ignore[index]
    assert study_tables(done, study) != (folder / "tables.md").read_text(encoding="utf-8")


@of_each
@pytest.mark.parametrize("picture", ["accuracy.png", "accuracy.svg", "curves.png", "curves.svg"])
def test_pictures_are_there(name: str, picture: str) -> None:
    assert 5_000 < (RESULTS / f"study_{name}" / picture).stat().st_size < 500_000
