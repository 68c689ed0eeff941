"""W&B in a process of its own: what arrives there, and that nothing it does is waited for."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.engine.wandb_files import read_run
from videogn.engine import wandb_mirror
from videogn.engine.tracking import NullTracker, Tracker
from videogn.engine.wandb_mirror import Limits, WandbMirror, without_home
from videogn.errors import TrainingDivergedError

PATIENT = Limits(finish=30.0, leave=30.0)
RECORDS: list[dict[str, Any]] = [
    {"step": step, "epoch": step / 4, "split": "train", "loss": 1.0 / step} for step in range(1, 6)
] + [{"step": 5, "epoch": 1.25, "split": "val", "val/error_1clip_aug": 50.0}]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """Nobody is logged in, nothing is set, and the run lies in the working folder."""
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO, logger="videogn")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "name" / "run"
    made.mkdir(parents=True)
    return made


def mirror(
    folder: Path, mode: str = "offline", *, limits: Limits = PATIENT, **options: Any
) -> WandbMirror:
    return WandbMirror(
        folder, mode=mode, project="p", config={"a": {"b": 1}}, limits=limits, **options
    )


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Returns what was said of W&B."""
    return [text for text in caplog.messages if text.startswith("W&B")]


def written(folder: Path) -> list[str]:
    return (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()


# What arrives


def test_an_offline_run_holds_all_and_can_be_uploaded(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"wandb_id": "former", "group": "g", "tags": ["gn", "mine"], "job_type": "test"}
    with Tracker(folder, mirror(folder, **options)) as tracker:
        assert tracker.wandb_id == "former"
        for record in RECORDS:
            tracker.log(record)
        tracker.mirror.summarize({"test/top1": 12.5})
    (text,) = lines(caplog)
    (stored_in,) = Path("name/run/wandb").glob("offline-run-*")
    assert text == f"W&B: offline; upload later with: wandb sync {stored_in}"

    stored = read_run(folder)
    assert stored.run["id"] == "former"
    assert (stored.run["project"], stored.run["group"]) == ("p", "g")
    assert (stored.run["tags"], stored.run["job_type"]) == (["gn", "mine"], "test")
    assert stored.run["name"] == "name/run"
    assert stored.run["config"]["a"] == {"b": 1}
    assert stored.history[0] == {"step": 1, "epoch": 0.25, "train/loss": 1.0}
    assert stored.history[-1] == {"step": 5, "epoch": 1.25, "val/error_1clip_aug": 50.0}
    assert len(stored.history) == len(RECORDS) == len(written(folder))
    axes = {name: axis for name, axis in stored.axes.items() if axis}
    assert axes == {"train/*": "step", "val/*": "epoch"}
    assert stored.summary["test/top1"] == 12.5
    assert stored.exit_code == 0


def diverge(folder: Path) -> None:
    with Tracker(folder, mirror(folder)) as tracker:
        tracker.log(RECORDS[0])
        raise TrainingDivergedError("the loss of step 7 is nan")


def test_a_divergence_is_told_and_the_run_has_failed(folder: Path) -> None:
    with pytest.raises(TrainingDivergedError):
        diverge(folder)
    stored = read_run(folder)
    assert stored.alerts == [("Training diverged", "the loss of step 7 is nan")]
    assert stored.exit_code == 4


def test_the_config_does_not_tell_the_home_folder(folder: Path, tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    nested = {"data": {"root": f"{home}/k400"}, "tags": [home], "lr": 0.1}
    assert without_home(nested) == {"data": {"root": "~/k400"}, "tags": ["~"], "lr": 0.1}


def test_its_process_knows_no_secret_but_wandbs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "c" * 40)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    tracked = mirror(folder, limits=Limits(finish=0.0))
    names: set[str] = set()
    deadline = time.monotonic() + 20
    while "PATH" not in names and time.monotonic() < deadline:  # not there at once
        entries = Path(f"/proc/{tracked._process.pid}/environ").read_text().split("\0")
        names = {entry.split("=")[0] for entry in entries}
    tracked.close()
    assert {"WANDB_API_KEY", "HOME", "PATH"} <= names
    assert "AWS_SECRET_ACCESS_KEY" not in names


def test_a_sweep_has_chosen_the_id(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "chosen")
    monkeypatch.setattr(WandbMirror, "_start", lambda *_: None)
    assert mirror(folder).wandb_id == "chosen"
    assert mirror(folder, wandb_id="former").wandb_id == "former"  # a resume is the same run


# Nothing is started


@pytest.mark.parametrize(("mode", "variable"), [("disabled", ""), ("auto", "disabled")])
def test_disabled_starts_and_writes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, mode: str, variable: str
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("W&B was started")

    monkeypatch.setenv("WANDB_MODE", variable)
    monkeypatch.setattr(wandb_mirror.subprocess, "Popen", never)
    with Tracker(folder, mirror(folder, mode, wandb_id="former")) as tracker:
        tracker.log(RECORDS[0])
        assert tracker.wandb_id == "former"  # for whoever turns it on again
    assert [path.name for path in folder.rglob("*")] == ["metrics.jsonl"]


def test_other_ranks_track_nothing() -> None:
    with NullTracker() as tracker:
        tracker.log({"step": 1})
        assert tracker.wandb_id is None
        assert tracker.mirror is None


# What goes wrong


@contextmanager
def server(kind: str) -> Iterator[str]:
    """Yields the address of a server that refuses, never answers, or fails on every request."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        kept: list[socket.socket] = []

        def fail(connection: socket.socket) -> None:
            while connection.recv(1 << 16):
                connection.sendall(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")

        def accept() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                kept.append(connection)
                if kind == "failing":
                    threading.Thread(target=fail, args=(connection,), daemon=True).start()

        if kind != "refusing":
            listening.listen()
            threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.close()
        for connection in kept:
            connection.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["refusing", "silent", "failing"])
def test_a_server_that_is_not_there_costs_nothing_but_a_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    with server(kind) as address:
        monkeypatch.setenv("WANDB_BASE_URL", address)
        monkeypatch.setenv("WANDB_API_KEY", "c" * 40)
        begin = time.monotonic()
        limits = Limits(start=2.0, finish=30.0)
        with Tracker(folder, mirror(folder, "online", limits=limits)) as tracker:
            for record in RECORDS:
                tracker.log(record)
            assert time.monotonic() - begin < 1.0  # the training did not wait
            assert len(written(folder)) == len(RECORDS)
    (text,) = lines(caplog)
    assert text.startswith("W&B: the server cannot be used (CommError: ")
    assert "upload later with: wandb sync name/run/wandb/offline-run-" in text
    assert len(read_run(folder).history) == len(RECORDS)  # nothing of it is lost


@pytest.mark.slow
def test_no_key_costs_nothing_but_a_line(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Tracker(folder, mirror(folder, "online")) as tracker:
        tracker.log(RECORDS[0])
    (text,) = lines(caplog)
    assert text.startswith("W&B: the server cannot be used (UsageError: ")
    assert len(read_run(folder).history) == 1


def test_a_folder_that_cannot_be_written_costs_one_warning(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "wandb").write_text("a file")
    with Tracker(folder, mirror(folder)) as tracker:
        assert not tracker.mirror.alive
        tracker.log(RECORDS[0])
    (text,) = lines(caplog)
    assert text.startswith("W&B gave up ([Errno 17] File exists")
    assert text.endswith("metrics.jsonl goes on")
    assert len(written(folder)) == 1


def children(pid: int) -> list[int]:
    done = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(word) for word in done.stdout.split()]


def kill_core(process: int) -> None:
    """Kills W&B's own service, the child of our W&B process."""
    deadline = time.monotonic() + 20
    while not (found := children(process)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for pid in found:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("whom", "why"),
    [("core", "W&B gave up ("), ("process", "W&B gave up (its process has ended)")],
)
def test_a_killed_wandb_costs_one_warning(
    folder: Path, caplog: pytest.LogCaptureFixture, whom: str, why: str
) -> None:
    with Tracker(folder, mirror(folder)) as tracker:
        process = tracker.mirror._process
        tracker.log(RECORDS[0])
        if whom == "core":
            kill_core(process.pid)
        else:
            process.kill()
        deadline = time.monotonic() + 20
        count = 1
        while tracker.mirror.alive and time.monotonic() < deadline:
            tracker.log(RECORDS[1])
            count += 1
            time.sleep(0.05)
        tracker.log(RECORDS[2])
    warnings = [text for text in lines(caplog) if "gave up" in text]
    assert len(warnings) == 1
    assert warnings[0].startswith(why)
    assert len(written(folder)) == count + 1
    assert process.returncode is not None  # nothing is left behind


def test_a_wandb_that_hangs_is_ended_at_its_limit(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limits = Limits(finish=0.5)
    with Tracker(folder, mirror(folder, limits=limits)) as tracker:
        process = tracker.mirror._process
        os.kill(process.pid, signal.SIGSTOP)
        tracker.log(RECORDS[0])
        begin = time.monotonic()
    assert 0.5 <= time.monotonic() - begin < 20
    assert lines(caplog) == [
        "W&B gave up (it had not finished after 0.5 s; wandb sync uploads the rest); metrics.jsonl "
        "goes on"
    ]
    assert process.returncode == -signal.SIGKILL


def test_a_wandb_that_takes_nothing_is_not_waited_for(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Tracker(folder, mirror(folder, limits=Limits(send=0.2))) as tracker:
        os.kill(tracker.mirror._process.pid, signal.SIGSTOP)
        count, begin = 0, time.monotonic()
        while tracker.mirror.alive:
            tracker.log(RECORDS[0] | {"note": "x" * 20_000})
            count += 1
        assert time.monotonic() - begin < 20
    assert len(written(folder)) == count
    assert lines(caplog) == [
        "W&B gave up (its process takes no more messages); metrics.jsonl goes on"
    ]


@pytest.mark.slow
def test_the_signals_of_a_group_do_not_reach_it(folder: Path) -> None:
    with Tracker(folder, mirror(folder)) as tracker:
        process = tracker.mirror._process
        assert os.getpgid(process.pid) != os.getpgid(0)
        tracker.log(RECORDS[0])
        time.sleep(0.5)  # by then it ignores them
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(process.pid, number)
        tracker.log(RECORDS[1])
    assert len(read_run(folder).history) == 2


@pytest.mark.slow
def test_auto_without_a_login_is_offline(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Tracker(folder, mirror(folder, "auto")):
        pass
    (text,) = lines(caplog)
    assert text.startswith("W&B: offline;")
