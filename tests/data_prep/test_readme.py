"""data_prep/README.md: its commands run, and it names every command, option and column."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from data_prep.__main__ import COMMANDS, main
from tests.data_prep.kinetics_copy import digests, write_copy
from tests.videos import write_numbered
from videogn.data.decode import open_video
from videogn.data.manifest import read_manifest

README = (Path(__file__).parents[2] / "data_prep" / "README.md").read_text(encoding="utf-8")


def documented_commands() -> list[str]:
    """The commands that data_prep/README.md marks as ones that run, in its order."""
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", README, flags=re.MULTILINE | re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines()]


def test_the_documented_commands_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_numbered(tmp_path / "clip.mp4", 3).read_bytes()
    write_copy(tmp_path / "raw/k400", clip)
    before = digests(tmp_path / "raw")
    monkeypatch.chdir(tmp_path)
    commands = documented_commands()
    assert {shlex.split(line)[3] for line in commands} == set(COMMANDS)
    for line in commands:
        words = shlex.split(line, comments=True)
        assert words[:3] == ["python", "-m", "data_prep"]
        assert main(words[3:]) == 0, line
    assert digests(tmp_path / "raw") == before
    for root in ("k400-full", "kinetics400", "k400-tars"):
        manifest = read_manifest(tmp_path / "data" / root, "val")
        assert manifest.columns["ok"] == ["1"] * 4
        assert manifest.index(3) is not None
        for path in manifest.paths:
            with open_video(manifest.videos / path, root=manifest.videos) as video:
                assert video.num_frames == 3


def test_every_option_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("k400", "verify", "reencode", "export"):
        with pytest.raises(SystemExit):
            main([name, "--help"])
        options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
        lacking = {option for option in options if option not in README}
        assert lacking <= {"--debug", "--help", "--format"}, name
