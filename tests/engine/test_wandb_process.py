"""What W&B is told, and that whatever it answers ends in a word to the training."""

from __future__ import annotations

import queue
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from videogn.engine.wandb_process import Feed, serve


class ServerError(Exception):
    """The fake of `wandb.Error`."""


class FakeRun:
    """Remembers what it got; fails at its `fails_at`-th record."""

    id, url = "abc", "https://wandb.test/abc"

    def __init__(self, folder: Path) -> None:
        self.dir = str(folder / "offline-run" / "files")
        self.fails_at = 1000
        self.logged: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.metrics: dict[str, str | None] = {}
        self.exit_code: int | None = None

    def define_metric(
        self, name: str, step_metric: str | None = None, hidden: bool = False
    ) -> None:
        self.metrics[name] = step_metric

    def log(self, values: dict[str, Any]) -> None:
        if len(self.logged) + 1 >= self.fails_at:
            raise ConnectionError("the server\nis gone")
        self.logged.append(values)

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


class FakeWandb:
    """The module; `refuses` are the modes in which `init` fails."""

    Error = ServerError

    def __init__(self, folder: Path) -> None:
        self.run = FakeRun(folder)
        self.refuses: set[str] = set()
        self.modes: list[str] = []
        self.asked: dict[str, Any] = {}
        self.settings: dict[str, Any] = {}
        self.torn_down = 0
        self.logged_in = False

    def login(self, *, prompt: bool, verify: bool) -> bool:
        assert not prompt  # it would wait for a person
        assert not verify  # it would wait for the server
        return self.logged_in

    def Settings(self, **settings: Any) -> SimpleNamespace:  # noqa: N802  W&B's name
        self.settings = settings
        return SimpleNamespace(**settings)

    def init(self, *, mode: str, settings: Any, **options: Any) -> FakeRun:
        self.modes.append(mode)
        self.asked = options
        if mode in self.refuses:
            raise ServerError("no API key\nconfigured")
        return self.run

    def teardown(self) -> None:
        self.torn_down += 1


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    monkeypatch.chdir(tmp_path)
    return FakeWandb(tmp_path)


def answers(wandb: FakeWandb, mode: str, *commands: tuple[str, dict[str, Any]]) -> list[Any]:
    """Returns the answers to a start, the commands and an end."""
    given: list[tuple[str, Any]] = []
    waiting: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()
    waiting.put(("start", {"mode": mode, "options": {"id": "abc"}, "limit": 5.0, "pid": 1}))
    for command in commands:
        waiting.put(command)
    waiting.put(("finish", {"exit_code": 3, "limit": 600.0}))
    serve(Feed(wandb, lambda kind, value: given.append((kind, value))), waiting)
    return given


def test_online_says_where_to_look(wandb: FakeWandb) -> None:
    assert answers(wandb, "online") == [("info", "https://wandb.test/abc"), ("done", True)]
    assert wandb.modes == ["online"]
    assert wandb.asked == {"id": "abc"}
    assert wandb.run.exit_code == 3
    assert wandb.run.metrics == {
        "step": None,
        "train/*": "step",
        "epoch": None,
        "val/*": "epoch",
    }


@pytest.mark.parametrize(("logged_in", "mode"), [(True, "online"), (False, "offline")])
def test_auto_is_online_for_whoever_is_logged_in(
    wandb: FakeWandb, logged_in: bool, mode: str
) -> None:
    wandb.logged_in = logged_in
    answers(wandb, "auto")
    assert wandb.modes == [mode]


def test_without_a_server_the_run_is_kept_for_later(wandb: FakeWandb) -> None:
    wandb.refuses = {"online"}
    values = {"step": 1, "train/loss": 2.0}
    assert answers(wandb, "online", ("log", {"values": values})) == [
        (
            "info",
            "the server cannot be used (ServerError: no API key configured); offline; upload "
            "later with: wandb sync offline-run",
        ),
        ("done", True),
    ]
    assert wandb.modes == ["online", "offline"]
    assert wandb.torn_down == 1
    assert wandb.run.logged == [values]


def test_a_wandb_that_cannot_even_write_is_over(wandb: FakeWandb) -> None:
    wandb.refuses = {"online", "offline"}
    assert answers(wandb, "online") == [("over", "ServerError: no API key configured")]


@pytest.mark.parametrize("fails_at", [1, 3])
def test_a_wandb_that_dies_midway_is_over(wandb: FakeWandb, fails_at: int) -> None:
    wandb.run.fails_at = fails_at
    records = [("log", {"values": {"step": step}}) for step in range(5)]
    assert answers(wandb, "online", *records)[1:] == [
        ("over", "ConnectionError: the server is gone")
    ]
    assert len(wandb.run.logged) == fails_at - 1
    assert wandb.run.exit_code is None


def test_control_c_is_not_swallowed(wandb: FakeWandb, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(wandb.run, "log", interrupt)
    with pytest.raises(KeyboardInterrupt):
        answers(wandb, "online", ("log", {"values": {}}))


def test_nothing_personal_is_asked_for(wandb: FakeWandb) -> None:
    """Each of these, left out, lets W&B write a host, a user, a folder or a command line."""
    answers(wandb, "offline")
    on = ("disable_git", "disable_code", "x_disable_meta", "x_disable_machine_info")
    assert all(wandb.settings[name] is True for name in on)
    assert wandb.settings["save_code"] is False
    assert wandb.settings["x_save_requirements"] is False
    assert wandb.settings["console"] == "off"
    assert [wandb.settings[name] for name in ("host", "username", "email")] == ["", "", ""]
    assert wandb.settings["init_timeout"] == 5.0
