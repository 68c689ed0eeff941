"""The benchmark measures what it says: real footage, every contestant, in turn."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.videos import write_numbered
from videogn.bench import footage
from videogn.bench.rounds import cpu_seconds, environment
from videogn.data.decode import open_video

ROOT = Path(__file__).parents[2]


def test_contestants_run_in_turn_after_one_unmeasured_run() -> None:
    calls: list[str] = []
    times = cpu_seconds({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=3)
    assert "".join(calls) == "ab" * 4
    assert times.keys() == {"a", "b"}
    assert all(seconds >= 0 for seconds in times.values())


def test_a_longer_task_takes_longer() -> None:
    times = cpu_seconds({"short": lambda: sum(range(10)), "long": lambda: sum(range(10**6))}, 3)
    assert times["long"] > times["short"]


def test_the_environment_names_versions_and_what_is_missing() -> None:
    found = environment(["torch", "no_such_package"])
    assert found["versions"]["torch"]
    assert found["versions"]["no_such_package"] is None
    assert found["processor"]
    json.dumps(found)


@pytest.mark.parametrize("made_up", [True, False])
def test_footage_has_its_keyframes_and_pictures(
    made_up: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(footage, "FRAMES", 40)
    source = None if made_up else write_numbered(tmp_path / "source.mp4", 7)
    path = footage.write_footage(tmp_path / "out.mp4", gop=12, source=source)
    with open_video(path) as video:
        assert (video.num_frames, video.fps) == (40, 30)
        assert (video.height, video.width) == (256, 340)
        assert len(video.index.keyframes) >= 4
        first, seventh, eighth = (frame.astype(int) for frame in video.frames([0, 6, 7]))
    assert abs(first - seventh).mean() > 5  # it moves
    if not made_up:
        assert abs(first - eighth).mean() < 3  # begins again


@pytest.mark.slow
def test_the_command_measures_all_and_writes_it_down(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    command = [sys.executable, "run.py", "bench", "decode", "--rounds", "1", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    record = json.loads(out.read_text())
    assert len(record["sections"]) == 9
    for section in record["sections"]:
        assert section["title"] in done.stdout
        assert min(section["ms"].values()) > 0
        assert all(ratio > 0 for _, ratio, _ in section["ratios"])
    clip = record["sections"][0]["ms"]
    assert {"raw, whole file", "ours, index in the manifest", "pytorchvideo EncodedVideo"} <= set(
        clip
    )
