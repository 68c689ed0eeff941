"""Data to train on, unbroken runs, and whether a broken one came to the same result."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.faults.jobs import Job, start
from tests.faults.waiting import Lost, Waiting, expect, until
from tests.test_experiment import make_root, records, words
from videogn.engine import checkpoint
from videogn.errors import CheckpointError

# 24 steps with one real loader worker, 8 checkpoints, 3 monitorings, a test of 5 videos.
RUN = (
    "run_dir=run",
    "optim.epochs=6",
    "optim.milestones=[4]",
    "eval.monitor_every_epochs=2",
    "save_every_steps=3",
    "keep_checkpoints=3",
    "data.num_workers=1",
    "data.timeout=60",
)
STEPS = 24  # on one rank
BN = "model.norm.kind=bn"
# What a step has computed, and what it went on from.
_STATE = ("model", "optimizer", "scaler", "ema", "step", "epoch", "metrics", "classes")


class References:
    """Makes what injections share, once each.

    Args:
        folder: to make it in.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._roots: dict[tuple[int, int], Path] = {}
        self._begun: set[object] = set()
        self._made: set[object] = set()

    def root(self, train: int = 8, val: int = 5) -> Path:
        """A data root of its own with so many videos of six classes."""
        if (train, val) not in self._roots:
            path = self._folder / f"root {train} {val}"
            self._roots[train, val] = make_root(path, train=train, val=val)
        return self._roots[train, val]

    def words(self, *overrides: str) -> list[str]:
        """The command line of the run that is `RUN`, with `overrides`."""
        return words(self.root(), *RUN, *overrides)

    def unbroken(self, *overrides: str, world: int = 1) -> Waiting[Path]:
        """The folder of the finished run of `overrides`; not to be written to."""
        return (yield from self._run(overrides, world, stop_at=None))

    def stopped(self, to: Path, *overrides: str, world: int = 1) -> Waiting[Path]:
        """A copy under `to` of the folder of a run that was stopped in its middle.

        It holds the checkpoints of steps 9 and 12, and of the step that it was stopped at.
        """
        made = yield from self._run(overrides, world, stop_at=13)
        to.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copytree(made, to / "run"))

    def once(self, key: object, make: Callable[[], Waiting[None]]) -> Waiting[None]:
        """Does `make` unless that has been done under the same `key`, and waits for its end."""
        while key not in self._made:
            if key in self._begun:  # by another injection
                yield
                continue
            self._begun.add(key)
            try:
                yield from make()
                self._made.add(key)
            finally:
                self._begun.discard(key)

    def _run(self, overrides: Sequence[str], world: int, stop_at: int | None) -> Waiting[Path]:
        words = "_".join(overrides).replace("/", " ")
        folder = self._folder / f"run on {world} until {stop_at} {words}"

        def make() -> Waiting[None]:
            job = start(self.words(*overrides), folder, world=world)
            if stop_at is not None:
                steps = stop_at
                yield from until(lambda: logged(folder / "run") >= steps, job, f"step {steps}")
                job.send(signal.SIGTERM)
            yield from expect(job, 130 if stop_at else 0)

        yield from self.once(folder, make)
        return folder / "run"


def logged(run: Path) -> int:
    """The last step that a run has written a record of, 0 before the first."""
    try:
        whole, _, _ = (run / "metrics.jsonl").read_text(encoding="utf-8").rpartition("\n")
        return json.loads(whole.rpartition("\n")[2])["step"] if whole else 0
    except (OSError, ValueError):  # not there, or being written
        return 0


def expect_same(job: Job, folder: Path, unbroken: Path) -> Waiting[None]:
    """Waits for the end of a run, which must be 0 and with the result of the unbroken run.

    Raises:
        Lost: it is not.
    """
    yield from expect(job, 0)
    require_same(folder / "run", unbroken)


def require_same(run: Path, unbroken: Path) -> None:
    """Raises Lost unless weights, momentum, records and test are the same to the bit."""
    found, wanted = (_state(folder) for folder in (run, unbroken))
    for key in _STATE:
        if checkpoint.digest(found.get(key)) != checkpoint.digest(wanted.get(key)):
            raise Lost(f"another {key} in last.pt than without the fault")
    if _records(run) != _records(unbroken):
        raise Lost("other records in metrics.jsonl than without the fault")
    for name in ("test.json", "predictions.csv"):
        if _bytes(run / name) != _bytes(unbroken / name):
            raise Lost(f"another {name} than without the fault")
    left = [path.name for path in run.rglob("*.tmp")]
    if left:
        raise Lost(f"left {left} behind")


def require_good(run: Path, step: int) -> None:
    """Raises Lost unless the newest checkpoint of a run is whole and not older than `step`."""
    try:
        found = checkpoint.newest(run / "checkpoints")
    except CheckpointError as error:
        raise Lost(str(error)) from error
    if found is None or found[1]["step"] < step:
        raise Lost(f"the newest good checkpoint is {found and found[0].name}, older than {step}")


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but the log, to which each start adds a line."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != "log.txt")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def _state(run: Path) -> Mapping[str, Any]:
    try:
        return checkpoint.load(run / "checkpoints" / "last.pt")
    except CheckpointError as error:
        raise Lost(str(error)) from error


def _records(run: Path) -> list[dict[str, Any]]:
    try:
        return records(run)
    except (OSError, json.JSONDecodeError) as error:
        raise Lost(f"metrics.jsonl cannot be read: {error}") from error


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Lost(f"{path.name} cannot be read: {error.strerror}") from error
