"""A study goes on where it was stopped, does nothing twice, and keeps to one folder."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from tests.study.tiny import SECTION, write_study
from videogn.cli import main
from videogn.errors import ConfigError, MemoryExhaustedError
from videogn.runs import read_records
from videogn.study import run as run_module
from videogn.study import write
from videogn.study.plan import Study, Trial
from videogn.study.run import run_study

VALS = {("gn", 0.1): 50.0, ("gn", 0.2): 60.0, ("bn", 0.1): 60.0, ("bn", 0.2): 50.0}


class FakeTrials:
    """In the place of training: counts, and can be stopped."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.seen: list[Trial] = []
        self.stop_after = stop_after

    def __call__(self, study: Study, trial: Trial, *, test: bool) -> dict:
        if len(self.seen) == self.stop_after:
            raise KeyboardInterrupt
        self.seen.append(trial)
        numbers = {"test": 55.0 + trial.seed, "val": 1.0} if test else {}
        val = {} if test else {"val": VALS[trial.norm, trial.rate or 0]}
        return {"tested": test, "curve": [[1.0, 40.0]], "seconds": 0.1, **numbers, **val}


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the pictures, which take longest."""
    monkeypatch.setattr(write, "draw_curves", lambda _: None)
    monkeypatch.setattr(write, "draw_accuracy", lambda _: None)


def study_of(folder: Path, monkeypatch: pytest.MonkeyPatch, stop: int | None = None) -> FakeTrials:
    """Runs the tiny study in `folder`/out with fake trials, until it is stopped if so asked."""
    fake = FakeTrials(stop)
    monkeypatch.setattr(run_module, "run_trial", fake)
    if stop is None:
        run_study(write_study(folder), folder / "out")
    else:
        with pytest.raises(KeyboardInterrupt):
            run_study(write_study(folder), folder / "out")
    return fake


@pytest.mark.usefixtures("undrawn")
def test_rates_are_chosen_first_and_the_rest_uses_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = study_of(tmp_path, monkeypatch).seen
    assert [(trial.norm, trial.rate) for trial in seen[:4]] == list(VALS)
    assert {(trial.norm, trial.rate) for trial in seen[4:]} == {("gn", 0.2), ("bn", 0.1)}
    assert [(trial.seed, trial.norm, trial.batch) for trial in seen[4:]] == [
        (seed, norm, batch) for seed in (1, 2) for norm in ("gn", "bn") for batch in (8, 4)
    ]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("stop", [0, 2, 4, 7])
def test_a_stopped_study_goes_on_and_does_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    first = study_of(tmp_path, monkeypatch, stop).seen
    with (tmp_path / "out" / "trials.jsonl").open("a") as file:
        file.write('{"trial": {"norm": "gn", "ba')  # as a kill leaves it
    second = study_of(tmp_path, monkeypatch).seen
    assert len(first) == stop
    assert len(set(first + second)) == len(first + second) == 12
    lines = (tmp_path / "out" / "trials.jsonl").read_text().splitlines()
    assert [json.loads(line)["trial"]["seed"] for line in lines].count(0) == 4
    assert len(lines) == 12
    assert study_of(tmp_path, monkeypatch).seen == []


def test_what_there_is_is_written_when_a_study_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study_of(tmp_path, monkeypatch, stop=6)
    out = tmp_path / "out"
    assert "| 4 | 8 | 56.0 |" in (out / "tables.md").read_text()
    study_of(tmp_path, monkeypatch)
    assert (
        "| 4 | 8 | 56.5 ± 0.7 | 56.5 ± 0.7 | 0.0 ± 0.0 |  | 2 |" in (out / "tables.md").read_text()
    )
    names = {"tables.md", "tables.csv", "curves.csv", "study.json", "trials.jsonl"}
    pictures = {f"{stem}.{kind}" for stem in ("curves", "accuracy") for kind in ("png", "svg")}
    assert {path.name for path in out.iterdir()} == names | pictures
    assert json.loads((out / "study.json").read_text())["environment"]["packages"]["torch"]


@pytest.mark.usefixtures("undrawn")
def test_a_grown_study_goes_on_and_another_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study_of(tmp_path, monkeypatch)
    main_part = SECTION["parts"]["main"]
    grown = write_study(tmp_path, parts={"main": main_part | {"seed": [1, 2, 3]}})
    fake = FakeTrials()
    monkeypatch.setattr(run_module, "run_trial", fake)
    run_study(grown, tmp_path / "out")
    assert {trial.seed for trial in fake.seen} == {3}
    other = write_study(tmp_path, clips=SECTION["clips"] | {"val": 17})
    with pytest.raises(ConfigError, match="holds trials of a study with other settings"):
        run_study(other, tmp_path / "out")


@pytest.mark.usefixtures("undrawn")
def test_the_command_trains_and_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grids = {
        "rates": {"all": {"norm": "gn", "batch": 8, "frames": 4, "seed": 0, "rate": [0.1, 0.2]}},
        "parts": {"main": {"norm": "gn", "batch": 8, "frames": 4, "seed": 1}},
    }
    config = write_study(tmp_path, **grids)
    words = ["study", "--cfg", str(config), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    told = capsys.readouterr().out
    records = read_records(tmp_path / "out" / "trials.jsonl")
    assert [record["tested"] for record in records] == [False, False, True]
    assert f"| 4 | 8 | {records[2]['test']:.1f} | 1 |" in told
    assert main(words) == 0
    assert len(read_records(tmp_path / "out" / "trials.jsonl")) == 3
    assert main(["study", "--cfg", "demo.yaml", "--out", str(tmp_path)]) == 2
    assert "is no study" in capsys.readouterr().err


class Fatal:
    """Ends the process that it is sent to, as the system does when memory runs out."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (1,)


@pytest.mark.slow
def test_a_killed_process_ends_the_study_with_a_word() -> None:
    with (
        pytest.raises(MemoryExhaustedError, match=r"was killed, .* with fewer --jobs"),
        run_module._workers(2) as run,
    ):
        list(run([Fatal()]))  # type: ignore[list-item]
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_several_processes_reach_the_same(tmp_path: Path) -> None:
    grids = {"parts": {"main": {"norm": ["gn", "bn"], "batch": 8, "frames": 4, "seed": [1, 2]}}}
    found = []
    for jobs in (1, 2):
        out = tmp_path / str(jobs)
        run_study(write_study(tmp_path, **grids), out, jobs)
        records = read_records(out / "trials.jsonl")
        for record in records:
            del record["cpu_seconds"], record["seconds"]
        found.append(sorted(records, key=lambda record: json.dumps(record["trial"])))
    assert len(found[0]) == 8
    assert found[0] == found[1]
