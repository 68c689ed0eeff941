"""The training's end of the W&B mirror: it sends, hears, and never waits long."""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from videogn.errors import TrainingDivergedError

log = logging.getLogger(__name__)

_PROGRAM = Path(__file__).with_name("wandb_process.py")
# What of the environment W&B's process sees: what it needs, and no key but its own.
_ENVIRONMENT = {
    *("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "NETRC", "SYSTEMROOT", "VIRTUAL_ENV"),
    *("PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY"),
    *("NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
}


@dataclass(frozen=True)
class Limits:
    """Seconds that W&B may take.

    Attributes:
        start: for the server's first answer; the training goes on meanwhile.
        send: for its process to take a message; the training waits.
        finish: to upload the rest of a finished run.
        leave: the same of a run that failed or was interrupted.
    """

    start: float = 30.0
    send: float = 1.0
    finish: float = 60.0
    leave: float = 5.0


class WandbMirror:
    """A W&B run in a process of its own; whatever becomes of it costs one warning.

    Args:
        folder: of the run; W&B writes to `folder/wandb`.
        mode: "auto" obeys WANDB_MODE, else is online for whoever is logged in and offline
            otherwise, never a prompt; "disabled" starts nothing.
        project: W&B's.
        config: nested plain values, stored with the run; the home folder in them becomes "~".
        wandb_id: of the run to go on with; a new one otherwise.
        group: what the run is shown with.
        tags: to find it by.
        job_type: "train" or "test".
        limits: see there.

    Attributes:
        wandb_id: of the run, at once; None when nothing was started.
    """

    def __init__(
        self,
        folder: Path,
        *,
        mode: str,
        project: str,
        config: Mapping[str, Any],
        wandb_id: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        job_type: str = "train",
        limits: Limits = Limits(),
    ) -> None:
        self.limits, self.wandb_id = limits, wandb_id
        self._socket: socket.socket | None = None
        self._heard = b""
        if mode == "auto":
            mode = os.environ.get("WANDB_MODE") or mode
        if mode == "disabled":
            return
        # The agent of a sweep has chosen an id before.
        self.wandb_id = wandb_id or os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
        options = {
            "project": project,
            "dir": str(folder),
            "id": self.wandb_id,
            "resume": "allow",
            "config": without_home(config),
            "name": f"{folder.parent.name}/{folder.name}",
            "group": group,
            "tags": list(tags),
            "job_type": job_type,
        }
        try:
            self._start(folder / "wandb")
        except OSError as error:
            self._give_up(str(error))
        self._send("start", mode=mode, options=options, limit=limits.start, pid=os.getpid())

    @property
    def alive(self) -> bool:
        """Whether what is sent may still arrive."""
        return self._socket is not None

    def log(self, record: Mapping[str, Any]) -> None:
        """Adds a record of `step`, `epoch`, `split` and values to the curves."""
        self._send("log", values=_curves(record))

    def summarize(self, values: Mapping[str, Any]) -> None:
        """Puts final numbers into the summary."""
        self._send("summarize", values=dict(values))

    def show(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Logs a table; a cell `{"video": path}` is an mp4 file to play, deleted afterwards."""
        self._send("show", name=name, columns=list(columns), rows=[list(row) for row in rows])

    def keep_file(self, path: Path, kind: str, aliases: Sequence[str]) -> None:
        """Stores a file as a version of the run's artifact of a kind."""
        self._send("keep_file", path=str(path), kind=kind, aliases=list(aliases))

    def alert(self, title: str, text: str) -> None:
        """Tells the user by mail or chat."""
        self._send("alert", title=title, text=without_home(text))

    def close(self, exit_code: int = 0) -> None:
        """Ends the run within its limit: `finish` with exit code 0, else `leave`."""
        limit = self.limits.leave if exit_code else self.limits.finish
        # Its own limit is for when this process is killed meanwhile.
        self._send("finish", exit_code=exit_code, limit=limit + 5)
        deadline = time.monotonic() + limit
        while self._socket:
            left = deadline - time.monotonic()
            if left <= 0:
                self._give_up(f"it had not finished after {limit:g} s; wandb sync uploads the rest")
            else:
                self._hear(left)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Ends the run, saying that it failed if it did, and more of a divergence."""
        if isinstance(error, TrainingDivergedError):
            self.alert("Training diverged", str(error))
        self.close(0 if error is None else getattr(error, "exit_code", 1))

    def _start(self, folder: Path) -> None:
        """Starts the process; raises OSError where it cannot write."""
        folder.mkdir(exist_ok=True)
        (folder / ".probe").touch()  # W&B would go to another folder
        (folder / ".probe").unlink()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_PROGRAM), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=_environment(folder),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the training
            )
        self._socket = ours

    def _send(self, command: str, **arguments: Any) -> None:
        """Sends a command after hearing what has come; gives up when it is not taken in time."""
        self._hear(0)
        if self._socket is None:
            return
        line = json.dumps([command, arguments]).encode() + b"\n"
        try:
            self._socket.settimeout(self.limits.send)
            self._socket.sendall(line)
        except TimeoutError:
            self._give_up("its process takes no more messages")
        except OSError:
            self._hear(self.limits.send)  # it has gone, perhaps with a word

    def _hear(self, timeout: float) -> None:
        """Passes on the answers that have come, or come within `timeout` seconds."""
        if self._socket is None:
            return
        self._socket.settimeout(timeout)
        try:
            data = self._socket.recv(1 << 16)
        except (BlockingIOError, TimeoutError):
            return
        except OSError:
            data = b""
        if not data:
            self._give_up("its process has ended")
            return
        *lines, self._heard = (self._heard + data).split(b"\n")
        for line in lines:
            self._obey(json.loads(line))

    def _obey(self, answer: Mapping[str, Any]) -> None:
        if "info" in answer:
            log.info("W&B: %s", without_home(answer["info"]))
        elif "over" in answer:
            self._give_up(answer["over"])
        else:
            self._end()

    def _give_up(self, why: str) -> None:
        log.warning("W&B gave up (%s); metrics.jsonl goes on", without_home(why))
        self._end()

    def _end(self) -> None:
        """Ends the process, if there is one; it has nothing more to do."""
        if self._socket:
            self._socket.close()
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):  # it hangs in the kernel
                self._process.wait(self.limits.send)
        self._socket = None


def without_home(value: Any) -> Any:
    """Returns nested plain values with "~" in the place of the home folder."""
    if isinstance(value, Mapping):
        return {key: without_home(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_home(item) for item in value]
    home = str(Path("~").expanduser())
    return value.replace(home, "~") if isinstance(value, str) and len(home) > 1 else value


def _environment(folder: Path) -> dict[str, str]:
    """Returns the environment of W&B's process, which is to write nowhere but in `folder`."""
    kept = {k: v for k, v in os.environ.items() if k in _ENVIRONMENT or k.startswith("WANDB_")}
    place = str(folder.absolute())
    homes = {"WANDB_CACHE_DIR": f"{place}/cache", "WANDB_DATA_DIR": f"{place}/data"}
    return homes | {"WANDB_ERROR_REPORTING": "false"} | kept


def _curves(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a record with its split before each value, as W&B groups panels."""
    split = record.get("split", "train")
    axes = {key: record[key] for key in ("step", "epoch") if key in record}
    values = {
        key if "/" in key else f"{split}/{key}": value
        for key, value in record.items()
        if key != "split" and key not in axes and value is not None
    }
    return axes | values
