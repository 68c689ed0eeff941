"""`metrics.jsonl` is complete whatever becomes of W&B, which never asks and never ends a run."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
from wandb.errors import UsageError

from videogn.engine.tracking import NullTracker, Tracker

RECORDS = [
    {"step": step, "epoch": step / 4, "split": "train", "loss": 1.0 / step} for step in range(1, 6)
] + [{"step": 5, "epoch": 1.25, "split": "val", "val/error_1clip_aug": 50.0}]


def tracked(folder: Path, mode: str, **options: Any) -> Tracker:
    """Tracks `RECORDS` from beginning to end, looking at the file after each."""
    folder.mkdir(parents=True, exist_ok=True)
    tracker = Tracker(folder, mode=mode, project="p", config={"name": "x"}, **options)
    for count, record in enumerate(RECORDS, 1):
        tracker.log(record)
        assert len(written(folder)) == count  # a kill loses nothing that was logged
    tracker.summarize({"test/top1": 50.0})
    tracker.close()
    assert written(folder) == RECORDS
    return tracker


def written(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


class FakeRun:
    """A W&B run that fails from its `fails_at`-th record on, and remembers what it got."""

    def __init__(self, folder: Path, fails_at: int = 1000) -> None:
        self.id, self.dir, self.fails_at = "abc", str(folder / "wandb" / "run" / "files"), fails_at
        self.logged: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.metrics: dict[str, str] = {}
        self.finished = False

    def define_metric(self, name: str, step_metric: str) -> None:
        self.metrics[name] = step_metric

    def log(self, record: dict[str, Any]) -> None:
        if len(self.logged) + 1 >= self.fails_at:
            raise ConnectionError("the server\nis gone")
        self.logged.append(record)

    def finish(self, **_: Any) -> None:
        self.finished = True


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """Puts a `FakeRun` in the place of W&B's; `.asked` is what `wandb.init` was given."""
    box = SimpleNamespace(run=FakeRun(tmp_path), asked={})

    def init(**options: Any) -> FakeRun:
        box.asked = options
        return box.run

    monkeypatch.setattr(wandb, "init", init)
    return box


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Returns this package's warnings."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and record.name.startswith("videogn")
    ]


def test_disabled_writes_the_record_and_nothing_of_wandb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(**_: Any) -> None:
        raise AssertionError("wandb was started")

    monkeypatch.setattr(wandb, "init", never)
    monkeypatch.chdir(tmp_path)
    tracked(tmp_path / "run", "disabled")
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()] == [
        "run/metrics.jsonl"
    ]


def test_wandb_gets_what_the_record_gets(tmp_path: Path, fake: SimpleNamespace) -> None:
    tracker = tracked(tmp_path / "runs" / "name" / "time", "online")
    assert tracker.wandb_id == "abc"
    assert fake.asked["mode"] == "online"
    assert fake.asked["name"] == "name/time"
    assert fake.asked["dir"] == tmp_path / "runs" / "name" / "time"
    assert fake.run.logged[0] == {"step": 1, "epoch": 0.25, "split": "train", "train/loss": 1.0}
    assert fake.run.logged[-1]["val/error_1clip_aug"] == 50.0
    assert fake.run.summary == {"test/top1": 50.0}
    assert fake.run.metrics == {"train/*": "step", "val/*": "epoch"}
    assert fake.run.finished


def test_a_resumed_run_goes_on_under_its_id(tmp_path: Path, fake: SimpleNamespace) -> None:
    fake.run.id = "former"
    assert tracked(tmp_path, "online", wandb_id="former").wandb_id == "former"
    assert fake.asked["id"] == "former"
    assert fake.asked["resume"] == "allow"


def test_the_record_is_continued_and_not_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n', encoding="utf-8")
    tracker = Tracker(tmp_path, mode="disabled", project="p", config={})
    tracker.log({"step": 1})
    tracker.close()
    assert written(tmp_path) == [{"step": 0}, {"step": 1}]


def test_a_wandb_that_does_not_start_costs_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(**_: Any) -> None:
        raise UsageError("no API key\nconfigured")

    monkeypatch.setattr(wandb, "init", refuse)
    tracker = tracked(tmp_path, "online")
    assert warnings_of(caplog) == [
        "W&B gave up (UsageError: no API key configured); metrics.jsonl goes on"
    ]
    assert tracker.wandb_id is None


@pytest.mark.parametrize("fails_at", [1, 3, 6])
def test_a_wandb_that_dies_midway_costs_one_warning(
    fails_at: int, tmp_path: Path, fake: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    fake.run.fails_at = fails_at
    tracked(tmp_path, "online")
    assert len(fake.run.logged) == fails_at - 1
    assert warnings_of(caplog) == [
        "W&B gave up (ConnectionError: the server is gone); metrics.jsonl goes on"
    ]


def test_a_wandb_that_fails_at_its_end_costs_one_warning(
    tmp_path: Path,
    fake: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(**_: Any) -> None:
        raise TimeoutError("not uploaded")

    monkeypatch.setattr(fake.run, "finish", refuse)
    tracked(tmp_path, "online")
    assert len(warnings_of(caplog)) == 1


def test_other_ranks_track_nothing() -> None:
    tracker = NullTracker()
    tracker.log({"step": 1})
    tracker.summarize({})
    tracker.close()
    assert tracker.wandb_id is None


def test_offline_writes_a_run_to_be_uploaded_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    folder = tmp_path / "name" / "run"
    try:
        tracker = tracked(folder, "offline")
        assert warnings_of(caplog) == []
    finally:
        wandb.finish()
    (stored,) = folder.glob("wandb/offline-run-*")
    (transactions,) = stored.glob("*.wandb")
    deadline = time.monotonic() + 10  # a process of W&B's own writes it
    while transactions.stat().st_size <= 500 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert transactions.stat().st_size > 500
    assert tracker.wandb_id is not None
    assert tracker.wandb_id in transactions.name
    assert tracker.run is not None  # it never gave up


MODE_PROBE = """
import sys, wandb
from pathlib import Path
from videogn.engine.tracking import Tracker
def init(**options):
    print("MODE", options["mode"])
    raise RuntimeError("enough")
wandb.init = init
Tracker(Path(sys.argv[1]), mode="auto", project="p", config={}).close()
"""


def auto_mode(folder: Path, logged_in: bool, **environment: str) -> str:
    """Returns what `auto` becomes in a fresh process of a user who is logged in, or is not."""
    netrc = folder / "netrc"
    if logged_in:  # as `wandb login` leaves it
        netrc.write_text(f"machine api.wandb.ai\n  login user\n  password {'a' * 40}\n")
        netrc.chmod(0o600)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    homes = {f"WANDB_{kind}_DIR": str(folder) for kind in ("CONFIG", "CACHE", "DATA")}
    done = subprocess.run(
        [sys.executable, "-c", MODE_PROBE, str(folder)],
        env=kept | homes | {"HOME": str(folder), "NETRC": str(netrc)} | environment,
        cwd=Path(__file__).parents[2],
        stdin=subprocess.DEVNULL,  # a prompt would end in EOFError
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return next(line.split()[1] for line in done.stdout.splitlines() if line.startswith("MODE"))


def test_auto_without_a_login_is_offline(tmp_path: Path) -> None:
    assert auto_mode(tmp_path, logged_in=False) == "offline"


def test_auto_obeys_wandb_mode_before_anything_else(tmp_path: Path) -> None:
    assert auto_mode(tmp_path, logged_in=True, WANDB_MODE="disabled") == "disabled"
