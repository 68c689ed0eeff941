"""Row R9: whatever W&B does, the run comes to its end with all of its records.

And those of the hangs that are a server's.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults.jobs import Sabotage, start
from tests.faults.plan import Injection
from tests.faults.references import References, require_same
from tests.faults.sabotage import hang, raises
from tests.faults.waiting import LIMIT, Waiting, expect

ROW, HANGS = "R9 W&B fails", "H3 W&B hangs"
_KEY = "0" * 40  # what a key looks like
_ALONE = {"WANDB_MODE": None, "WANDB_API_KEY": None, "NETRC": "/dev/null"}


def failures(references: References) -> Iterator[Injection]:
    """No key, no server, no folder, and errors of every call."""
    plain: dict[str, Mapping[str, str | None]] = {
        "no key": {},
        "a wrong key": {"WANDB_API_KEY": "short"},
        "a refused port": {"WANDB_API_KEY": _KEY, "WANDB_BASE_URL": "http://127.0.0.1:9"},
        "no such server": {"WANDB_API_KEY": _KEY, "WANDB_BASE_URL": "http://wandb.invalid"},
    }
    for name, environment in plain.items():
        play = partial(_goes_on, references, environment, None, "online")
        yield Injection(ROW, name, play, is_quick=name == "no key")
    for name in ("log", "define_metric", "finish"):
        play = partial(
            _goes_on, references, {}, _spoil_run(name, raises(OSError("gone"))), "offline"
        )
        yield Injection(ROW, f"run.{name} raises", play)
    yield Injection(ROW, "cannot be imported", partial(_goes_on, references, {}, _hide, "offline"))


def hangs(references: References) -> Iterator[Injection]:
    """A server that takes every connection and never answers; calls that do not come back."""
    for number in (1, 2):
        yield Injection(HANGS, f"a silent server ({number})", partial(_silent, references))
    for name in ("log", "finish"):
        play = partial(_goes_on, references, {}, _spoil_run(name, hang), "offline")
        yield Injection(HANGS, f"run.{name} does not come back", play)


def _goes_on(
    references: References,
    environment: Mapping[str, str | None],
    sabotage: Sabotage | None,
    mode: str,
    folder: Path,
) -> Waiting[None]:
    unbroken = yield from references.unbroken()
    words = references.words(f"wandb.mode={mode}")
    job = start(words, folder, sabotage=sabotage, environment={**_ALONE, **environment})
    yield from expect(job, 0, within=LIMIT)
    require_same(folder / "run", unbroken)


def _silent(references: References, folder: Path) -> Waiting[None]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        environment = {"WANDB_API_KEY": _KEY, "WANDB_BASE_URL": address}
        yield from _goes_on(references, environment, None, "online", folder)


def _spoil_run(name: str, instead: Callable[..., Any]) -> Sabotage:
    """Makes a method of W&B's run another one."""

    def spoil(_: int) -> None:
        import wandb

        setattr(wandb.Run, name, instead)

    return spoil


def _hide(_: int) -> None:
    """Takes W&B away."""
    import sys

    sys.modules["wandb"] = None  # type: ignore[assignment]
