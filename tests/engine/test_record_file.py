"""`metrics.jsonl` holds every record, in whole lines, whatever the disk does."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest

from videogn.engine.record_file import RecordFile

RECORDS = [{"step": step, "loss": 1.0 / step, "split": "train"} for step in range(1, 8)]


def lines(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def test_each_record_is_in_the_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = RecordFile(path)
    for count, record in enumerate(RECORDS, 1):
        file.append(record)
        assert lines(path) == RECORDS[:count]  # a kill loses nothing that was logged
    file.close()


@pytest.mark.parametrize("torn", ['{"step": 2, "lo', "x" * 200_000, "\x00\x00"])
def test_half_a_line_of_a_kill_goes_and_the_rest_is_continued(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n' + torn, encoding="utf-8")
    file = RecordFile(path)
    file.append({"step": 2})
    file.close()
    assert lines(path) == [{"step": 1}, {"step": 2}]


def test_a_file_of_half_a_line_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step"', encoding="utf-8")
    RecordFile(path).close()
    assert path.read_bytes() == b""


def test_what_json_has_no_word_for_is_null(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = RecordFile(path)
    file.append({"step": 1, "grad_norm": math.inf, "loss": math.nan, "lr": 0.5})
    file.close()
    assert path.read_text() == '{"step": 1, "grad_norm": null, "loss": null, "lr": 0.5}\n'


def test_a_full_disk_costs_one_warning_and_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "metrics.jsonl"
    file = RecordFile(path)
    room = [70]  # bytes: one record and a part of the second
    write = os.write

    def limited(descriptor: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = write(descriptor, data[: room[0]])
        room[0] -= done
        return done

    monkeypatch.setattr(os, "write", limited)
    for record in RECORDS[:4]:
        file.append(record)
        assert lines(path) == RECORDS[:1]  # never half a line
        room[0] = 0
    room[0] = 10_000
    for count, record in enumerate(RECORDS[4:], 5):
        file.append(record)
        assert lines(path) == RECORDS[:count]
    file.close()
    assert [r.getMessage() for r in caplog.records] == [
        f"{path} cannot be written (No space left on device); its records wait in memory: "
        "make room",
        f"{path} is complete again",
    ]


def test_a_limit_of_the_system_on_the_size_of_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The same from the kernel: a write over the limit is cut short, the next one refused."""
    path = tmp_path / "metrics.jsonl"
    file = RecordFile(path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (70, before[1]))
        for record in RECORDS:
            file.append(record)
        assert lines(path) == RECORDS[:1]
        file.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert lines(path) == RECORDS[:1]
    messages = [r.getMessage() for r in caplog.records]
    assert len(messages) == 2
    assert messages[1] == f"{path} lacks its last 6 records"
