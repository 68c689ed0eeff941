"""What the tests of the command share: a checkpoint, and a folder of videos to work in."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkpoints import write_checkpoint
from tests.videos import write_numbered


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "last.pt"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with videos, one below another folder, and files that are none."""
    monkeypatch.chdir(tmp_path)
    Path("clips/more").mkdir(parents=True)
    write_numbered(Path("clips/one.mp4"), 24)
    write_numbered(Path("clips/more/two.mkv"), 30)
    Path("clips/notes.txt").write_text("no video")
    Path("clips/bad.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(100))
    return tmp_path
