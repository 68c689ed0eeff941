"""Predictions to look through: half the worst mistakes, then a fair sample, each once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from videogn.data.decode import VideoReader, open_video
from videogn.data.synthetic import encode_video
from videogn.report.prediction_table import COLUMNS, Row, choose, read_rows, with_clips


def row(path: str, correct: int, probability: float, failed: str = "") -> Row:
    return {
        "path": path,
        "label": "up",
        "prediction": "" if failed else ("up" if correct else "down"),
        "probability": "" if failed else f"{probability:.6f}",
        "correct": str(correct),
        "top5": "" if failed else "down|up|left",
        "failed": failed,
        "true_probability": "" if failed else "0.250000",
    }


ROWS = [row(f"r{i}", 1, 0.9) for i in range(6)] + [
    row("slip", 0, 0.4),
    row("blunder", 0, 0.99),
    row("mistake", 0, 0.7),
    row("gone", 0, 0.0, failed="no such file"),
]


def chosen(limit: int) -> list[str]:
    return [r["path"] for r in choose(ROWS, limit)]


def test_the_worst_come_first_and_fill_half() -> None:
    assert chosen(4) == ["blunder", "mistake", "r0", "r4"]
    assert chosen(3) == ["blunder", "mistake", "r0"]
    assert chosen(1) == ["blunder"]
    assert chosen(0) == []


def test_fewer_mistakes_leave_room_for_others() -> None:
    assert chosen(9)[:3] == ["blunder", "mistake", "slip"]
    assert len(set(chosen(9))) == 9
    assert sorted(chosen(64)) == sorted(r["path"] for r in ROWS)


def test_a_video_that_could_not_be_read_is_not_among_the_worst() -> None:
    failed = [row(f"f{i}", 0, 0.0, failed="cut short") for i in range(3)]
    assert [r["path"] for r in choose([*failed, row("slip", 0, 0.4)], 2)] == ["slip", "f0"]


def test_no_mistakes_at_all() -> None:
    assert [r["path"] for r in choose(ROWS[:6], 3)] == ["r0", "r2", "r4"]


def test_a_row_has_a_clip_where_the_video_can_be_read(tmp_path: Path) -> None:
    encode_video(tmp_path / "good.mp4", np.zeros((4, 32, 32, 3), np.uint8))
    (tmp_path / "bad.mp4").write_bytes(b"no video")

    def opener(path: str) -> VideoReader:
        return open_video(tmp_path / path)

    rows = [row("good.mp4", 1, 0.8), row("bad.mp4", 0, 0.6), row("gone.mp4", 0, 0, "no file")]
    good, bad, gone = with_clips(rows, opener, tmp_path / "clips")
    clip = tmp_path / "clips" / "000.mp4"
    assert len(good) == len(COLUMNS)
    assert good == ["good.mp4", {"video": str(clip)}, "up", "up", 0.25, "down, up, left", True]
    assert bad == ["bad.mp4", None, "up", "down", 0.25, "down, up, left", False]
    assert gone == ["gone.mp4", None, "up", "", None, "", False]
    assert [p.name for p in (tmp_path / "clips").iterdir()] == ["000.mp4"]
    with open_video(clip) as reader:
        assert reader.num_frames == 2


def test_the_table_of_a_test_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    path.write_text('path,label,failed\n"a, b.mp4",up,\n', encoding="utf-8")
    assert read_rows(path) == [{"path": "a, b.mp4", "label": "up", "failed": ""}]
    with pytest.raises(OSError, match=r"gone\.csv"):
        read_rows(tmp_path / "gone.csv")
