"""The committed study: its tables are those of its record, made by the recipe that is shipped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from videogn.runs import read_json
from videogn.study.curves import curves_csv, curves_of
from videogn.study.plan import read_study
from videogn.study.run import read_done
from videogn.study.tables import in_parts, study_tables, table_csv

FOLDER = Path(__file__).parents[2] / "benchmarks" / "results" / "study_cpu"


def test_tables_are_those_of_the_record() -> None:
    study, done = read_study("study/cpu.yaml"), read_done(FOLDER)
    main = in_parts(done, study)["main"]
    assert len(main) == len(study.parts["main"])  # none is missing
    assert (FOLDER / "tables.md").read_text(encoding="utf-8") == study_tables(done, study)
    assert (FOLDER / "tables.csv").read_text(encoding="utf-8") == table_csv(done, study)
    shown = [each for part in in_parts(done, study).values() for each in part]
    assert (FOLDER / "curves.csv").read_text(encoding="utf-8") == curves_csv(curves_of(shown))


def test_trials_are_of_the_shipped_recipe() -> None:
    kept = read_json(FOLDER / "study.json")
    assert kept is not None
    assert kept["settings"] == json.loads(json.dumps(read_study("study/cpu.yaml").settings()))
    assert kept["environment"]["git"]["dirty"] is False


def test_a_table_of_other_numbers_is_seen() -> None:
    study, done = read_study("study/cpu.yaml"), read_done(FOLDER)
    part = in_parts(done, study)["main"]
    part[0].result["test"] += 1.0  # type: ignore[index]
    assert study_tables(done, study) != (FOLDER / "tables.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["accuracy.png", "accuracy.svg", "curves.png", "curves.svg"])
def test_pictures_are_there(name: str) -> None:
    assert 5_000 < (FOLDER / name).stat().st_size < 500_000
