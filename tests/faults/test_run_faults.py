"""Faults of whole runs: none is lost, and the harness can tell when one is."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoints import write_checkpoint
from tests.faults import __main__ as program
from tests.faults import damage
from tests.faults.jobs import REPOSITORY, Job, _Script, start
from tests.faults.plan import Injection, play
from tests.faults.references import References, expect_same, require_same
from tests.faults.table import Finding, as_markdown, as_text
from tests.faults.waiting import Lost, Waiting, ended, expect, until
from videogn.engine import checkpoint
from videogn.errors import CheckpointError

# The quick faults of runs in one process, which shares the unbroken runs; those of data have tests
# of their own.
QUICK = ["runs", "checkpoints", "processes", "tests", "hangs"]
ROWS = [f"R{n}" for n in range(1, 13)] + [f"K{n}" for n in range(1, 6)]
ROWS += [f"P{n}" for n in range(1, 6)] + ["V1", "V2", "H1", "H2"]


@pytest.mark.slow
def test_a_few_faults_of_every_row_are_survived(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", *QUICK, "--quick", "--out", tmp_path / "table.md"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {line.split()[0] for line in done.stdout.splitlines()}
    assert rows >= {*ROWS, "all"}
    assert "| 0 |\n" in (tmp_path / "table.md").read_text(encoding="utf-8")


def test_an_unknown_group_is_named_with_those_that_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught:
        program.main(["runes"])
    assert caught.value.code == 2
    assert "no group 'runes'; there are data, runs, " in capsys.readouterr().err


def test_the_program_ends_with_1_and_says_what_was_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    groups = {"one": ("x", lambda _: FINDINGS[:1]), "two": ("y", lambda _: FINDINGS[1:])}
    monkeypatch.setattr(program, "GROUPS", groups)
    out = tmp_path / "table.md"
    assert program.main(["one"]) == 0
    assert program.main(["--out", str(out)]) == 1
    assert "LOST: R12 b: y: is | lost\n" in capsys.readouterr().out
    assert f"`python -m tests.faults --out {out}`\n" in out.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_run_that_forgets_its_momentum_is_lost(tmp_path: Path) -> None:
    def forget(_: int) -> None:
        plain = torch.optim.SGD.load_state_dict
        without = {"state": {}}
        torch.optim.SGD.load_state_dict = lambda self, state_dict: plain(self, state_dict | without)

    references = References(tmp_path / "references")

    def with_sabotage(sabotage: Any) -> Callable[[Path], Waiting[None]]:
        def played(folder: Path) -> Waiting[None]:
            unbroken = yield from references.unbroken()
            yield from references.stopped(folder)
            job = start(references.words(), folder, sabotage=sabotage)
            yield from expect_same(job, folder, unbroken)

        return played

    injections = [Injection("R", "whole", with_sabotage(None))]
    injections.append(Injection("R", "forgets", with_sabotage(forget)))
    problems = {f.name: f.problem for f in play(injections, tmp_path / "played", at_once=2)}
    assert problems["whole"] == ""
    assert "another model in last.pt" in problems["forgets"]


# The judges


def write_run(folder: Path) -> Path:
    """Writes what a finished run leaves, in small."""
    contents = {"model": {"w": torch.arange(3.0)}, "optimizer": {"m": torch.ones(3)}, "step": 3}
    checkpoint.save(folder / "checkpoints" / "last.pt", contents)
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 3, "loss": 0.5}) + "\n")
    (folder / "test.json").write_text("{}")
    (folder / "predictions.csv").write_text("path\n")
    return folder


def _another_weight(run: Path) -> None:
    contents = checkpoint.load(run / "checkpoints" / "last.pt")
    contents["model"]["w"][1] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    checkpoint.save(run / "checkpoints" / "last.pt", contents)


def _another_momentum(run: Path) -> None:
    contents = checkpoint.load(run / "checkpoints" / "last.pt")
    contents["optimizer"]["m"][0] = 0
    checkpoint.save(run / "checkpoints" / "last.pt", contents)


def _half_a_checkpoint(run: Path) -> None:
    path = run / "checkpoints" / "last.pt"
    path.write_bytes(path.read_bytes()[:-300])


DIFFERENCES: dict[str, Callable[[Path], object]] = {
    "another model": _another_weight,
    "another optimizer": _another_momentum,
    "cannot be read": _half_a_checkpoint,
    "other records": lambda run: (run / "metrics.jsonl").write_text('{"step": 3, "loss": 0.6}\n'),
    "another test.json": lambda run: (run / "test.json").write_text("{ }"),
    "another predictions.csv": lambda run: (run / "predictions.csv").write_text("path"),
    "predictions.csv cannot be read": lambda run: (run / "predictions.csv").unlink(),
    "left ['step_000000003.pt.7.tmp'] behind": lambda run: (
        run / "checkpoints" / "step_000000003.pt.7.tmp"
    ).touch(),
}


@pytest.mark.parametrize("words", DIFFERENCES)
def test_a_run_with_another_result_is_lost(words: str, tmp_path: Path) -> None:
    unbroken, run = write_run(tmp_path / "unbroken"), write_run(tmp_path / "run")
    require_same(run, unbroken)
    DIFFERENCES[words](run)
    with pytest.raises(Lost) as caught:
        require_same(run, unbroken)
    assert words in str(caught.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_damaged_checkpoints_are_detected_and_one_that_is_not_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = write_checkpoint(tmp_path / "good.pt")
    few = damage.Numbers(cuts=4, flips=6, pages=4)
    found = list(damage.damaged(good, tmp_path / "damaged", few))
    assert [finding.problem for finding in found] == [""] * (2 + 4 + 6 + 4)

    plain = checkpoint.load

    def trusting(path: Path) -> dict[str, Any]:
        try:
            return plain(path)
        except CheckpointError as error:
            if "do not match" not in str(error):
                raise
        return torch.load(path, weights_only=True)

    weight = checkpoint.load(good)["model"]["conv1.weight"].numpy().tobytes()
    place = good.read_bytes().index(weight)

    def flip(data: bytes, _: object) -> tuple[str, bytes]:
        return "a weight's bit", data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]

    monkeypatch.setattr(checkpoint, "load", trusting)
    monkeypatch.setattr(damage, "_flip", flip)
    (lost,) = list(damage.damaged(good, tmp_path / "trusting", damage.Numbers(0, 1, 0)))[2:]
    assert lost.problem == "was loaded with other contents"


class _Ended:
    """A process that is no more."""

    pid = None

    def __init__(self, exitcode: int) -> None:
        self.exitcode = exitcode


def outcome(waiting: Waiting[object]) -> str:
    try:
        for _ in waiting:
            pass
    except Lost as lost:
        return str(lost)
    return ""


def test_another_exit_code_a_traceback_and_other_words_are_lost(tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.write_text("a\nerror: no room\n")
    job = Job([_Ended(2), _Ended(2)], output)
    assert outcome(expect(job, 2, says="no room")) == ""
    assert outcome(expect(job, 0)) == "ended with [2, 2] instead of (0,): error: no room"
    assert "does not say 'memory'" in outcome(expect(job, 2, says="memory"))
    assert "ended with [2, 2] before step 5" in outcome(until(lambda: False, job, "step 5"))
    output.write_text("Traceback (most recent call last):\n  ...\nerror: no room\n")
    assert outcome(expect(job, 2, says="no room")).startswith("a traceback")


def test_what_takes_too_long_is_lost_and_killed(tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.touch()
    process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    job = Job([_Script(process)], output)
    assert "still runs after 0.05 s" in outcome(ended(job, within=0.05))
    assert process.wait(timeout=10) == -signal.SIGKILL


# The table


FINDINGS = [
    Finding("R1 a", "x", ""),
    Finding("R12 b", "y", "is | lost", count=2),
    Finding("R2 c", "w", ""),
    Finding("R1 a", "z", "", count=3),
    Finding("D7 d", "v", ""),
]


def test_the_table_counts_faults_by_row() -> None:
    lines = as_text(FINDINGS).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["R1", "a", "4", "4", "0"],
        ["R2", "c", "1", "1", "0"],
        ["R12", "b", "2", "0", "2"],
        ["D7", "d", "1", "1", "0"],
        ["all", "8", "6", "2"],
    ]


def test_the_markdown_names_where_it_was_measured_and_what_was_lost() -> None:
    text = as_markdown(FINDINGS, 12.3, ["runs"])
    assert (
        "| R2 c | 1 | 1 | 0 |\n| R12 b | 2 | 0 | 2 |\n| D7 d | 1 | 1 | 0 |\n| all | 8 | 6 | 2 |\n"
        in text
    )
    assert "- lost: R12 b: y: is | lost\n" in text
    assert f"torch {metadata.version('torch')}" in text
    assert "cores of" in text
    assert "12 s" in text


def test_injections_wait_beside_each_other_and_each_has_its_folder(tmp_path: Path) -> None:
    met: list[str] = []

    def waits_for_the_other(name: str) -> Callable[[Path], Waiting[None]]:
        def played(folder: Path) -> Waiting[None]:
            (folder / name).touch()
            met.append(name)
            while len(met) < 2:
                yield
            if name == "b":
                raise Lost("on\npurpose")

        return played

    injections = [Injection("R1 x", name, waits_for_the_other(name)) for name in "ab"]
    found = {f.name: f.problem for f in play(injections, tmp_path, at_once=2)}
    assert found == {"a": "", "b": "on purpose"}
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["000 R1", "001 R1", "a", "b"]
