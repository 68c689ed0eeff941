"""The program that feeds one run to W&B; `videogn.engine.wandb_mirror` starts and commands it.

W&B may hang, crash or leave threads and processes behind: here, none of that reaches the training.
Commands come over a socket as json lines `[method of Feed, keyword arguments]`, in order; answers
go back as `{"info": text}`, `{"over": why}` when W&B cannot go on, `{"done": true}` at the end.

It is run as a file and imports nothing of the package, so that it starts without torch.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

# Seconds W&B has to finish when the training ended without a word.
ORPHAN_LIMIT = 30.0

Answer = Callable[[str, Any], None]


class Feed:
    """One W&B run; each public method is a command.

    Args:
        wandb: the module.
        answer: sends a kind and its text back.
    """

    def __init__(self, wandb: Any, answer: Answer) -> None:
        self.wandb, self.answer = wandb, answer
        self.run: Any = None

    def start(self, *, mode: str, options: Mapping[str, Any], limit: float, pid: int) -> None:
        """Begins the run, offline where it cannot be online.

        Args:
            mode: "auto" is online for whoever is logged in, else offline; never a prompt.
            options: for `wandb.init`.
            limit: seconds the server has to answer.
            pid: the process whose use of the machine W&B shows.
        """
        if mode == "auto":
            # Without asking the server whether the key is right: that may take minutes, or fail.
            logged_in = self.wandb.login(prompt=False, verify=False)
            mode = "online" if logged_in else "offline"
        settings = _settings(self.wandb, limit, pid)
        problem = ""
        try:
            self.run = self.wandb.init(**options, mode=mode, settings=settings)
        except self.wandb.Error as error:
            if mode == "offline":
                raise
            problem = f"the server cannot be used ({describe(error)}); "
            self.wandb.teardown()  # else the id is "in use" in this process
            mode = "offline"
            self.run = self.wandb.init(**options, mode=mode, settings=settings)
        for prefix, axis in (("train", "step"), ("val", "epoch")):
            self.run.define_metric(axis, hidden=True)
            self.run.define_metric(f"{prefix}/*", step_metric=axis)
        if mode == "offline":
            place = Path(self.run.dir).parent
            if place.is_relative_to(Path.cwd()):
                place = place.relative_to(Path.cwd())
            self.answer("info", f"{problem}offline; upload later with: wandb sync {place}")
        elif mode == "online":
            self.answer("info", str(self.run.url))

    def log(self, *, values: Mapping[str, Any]) -> None:
        """Adds a point to the curves.

        No `step=`: after a resume W&B counts anew; curves go over our own step and epoch.
        """
        self.run.log(dict(values))

    def summarize(self, *, values: Mapping[str, Any]) -> None:
        """Puts final numbers into the summary."""
        self.run.summary.update(dict(values))

    def show(self, *, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Logs a table; a cell `{"video": path}` becomes a player, and its file is deleted."""
        table = self.wandb.Table(columns=list(columns))
        videos = []
        for row in rows:
            cells = [self._cell(cell) for cell in row]
            videos += [cell["video"] for cell in row if isinstance(cell, dict)]
            table.add_data(*cells)
        self.run.log({name: table})  # copies the files
        for path in videos:
            Path(path).unlink(missing_ok=True)

    def keep_file(self, *, path: str, kind: str, aliases: Sequence[str]) -> None:
        """Stores a file as a version of this run's artifact of a kind."""
        artifact = self.wandb.Artifact(f"{kind}-{self.run.id}", type=kind)
        artifact.add_file(path)
        self.run.log_artifact(artifact, aliases=list(aliases))

    def alert(self, *, title: str, text: str) -> None:
        """Tells the user by mail or chat, as they chose with W&B."""
        self.run.alert(title=title, text=text, level=self.wandb.AlertLevel.ERROR)

    def finish(self, *, exit_code: int, limit: float) -> None:
        """Ends the run; after `limit` seconds the process, whatever W&B still does."""
        timer = threading.Timer(limit, os._exit, (1,))
        timer.daemon = True
        timer.start()
        if self.run is not None:
            self.run.finish(exit_code=exit_code)

    def _cell(self, cell: Any) -> Any:
        if isinstance(cell, dict):
            return self.wandb.Video(cell["video"], format="mp4")
        return cell


def serve(feed: Feed, commands: queue.SimpleQueue[tuple[str, dict[str, Any]]]) -> None:
    """Obeys commands until `finish`, or until W&B fails."""
    try:
        command = ""
        while command != "finish":
            command, arguments = commands.get()
            getattr(feed, command)(**arguments)
    except Exception as error:  # noqa: BLE001  whatever it is, the training only wants a word of it
        feed.answer("over", describe(error))
        return
    feed.answer("done", True)


def describe(error: BaseException) -> str:
    """Returns the kind of an error and the beginning of what it says, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _settings(wandb: Any, limit: float, pid: int) -> Any:
    """Returns settings that write nothing of who runs this, where, and with which words."""
    return wandb.Settings(
        silent=True,
        console="off",
        init_timeout=limit,
        symlink=False,
        # Where the code lies, what it says, and what else is installed:
        disable_git=True,
        disable_code=True,
        disable_job_creation=True,
        save_code=False,
        x_save_requirements=False,
        # Host, user, program, arguments, folders; versions and hardware are in the config.
        x_disable_meta=True,
        x_disable_machine_info=True,
        host="",
        username="",
        email="",
        x_stats_pid=pid,
    )


def _read(
    connection: socket.socket, commands: queue.SimpleQueue[tuple[str, dict[str, Any]]]
) -> None:
    """Passes commands on as they come, so that the sender never waits for W&B."""
    with connection.makefile("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):  # else the sender was killed
                command, arguments = json.loads(line)
                commands.put((command, arguments))
    commands.put(("finish", {"exit_code": 1, "limit": ORPHAN_LIMIT}))


def main(descriptor: int) -> None:
    """Serves the socket with this number until the run ends, then leaves at once."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # the training says when it ends
    connection = socket.socket(fileno=descriptor)
    connection.set_inheritable(False)

    def answer(kind: str, value: Any) -> None:
        connection.sendall(json.dumps({kind: value}).encode() + b"\n")

    commands: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(connection, commands), daemon=True).start()
    try:
        import wandb  # here: a broken installation must be told, not only end this
    except Exception as error:  # noqa: BLE001
        answer("over", describe(error))
    else:
        serve(Feed(wandb, answer), commands)
    os._exit(0)  # W&B's own way out would wait for its uploads


if __name__ == "__main__":
    main(int(sys.argv[1]))
