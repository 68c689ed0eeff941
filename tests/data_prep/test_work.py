from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from data_prep import crew
from data_prep.journal import (
    Record,
    Records,
    Stamp,
    appending,
    journal_files,
    shard_journal,
    take_shard,
)
from data_prep.progress import Progress, duration
from data_prep.work import BadItemError, StopWorkError, file_stamp, run_all, to_do
from videogn.errors import DataError

ROOT = Path(__file__).parents[2]


def act(item: str, *, log: str = "") -> Mapping[str, Any]:
    """Does what the item's name says, in a worker process."""
    if log:
        with Path(log).open("a", encoding="utf-8") as file:
            file.write(f"{item}\n")
    word = item.partition(".")[0]
    if word == "bad":
        raise BadItemError("cut short", "ends early", {"num_frames": 3})
    if word == "hang":
        time.sleep(60)
    if word == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if word == "leave":
        os._exit(7)
    if word == "denied":
        Path(item).read_bytes()
    if word == "hungry":
        bytearray(1 << 30)
    if word == "slow":
        time.sleep(0.4)
    return {"num_frames": len(item), "pid": os.getpid()}


def lines_of(journal: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in journal.read_text().splitlines()]


def test_every_item_is_recorded_whatever_happens_to_its_process(tmp_path: Path) -> None:
    journal = tmp_path / "work.jsonl"
    items = ["a", "hang.1", "segfault", "bad.1", "b", "leave", "denied", "hungry", "c"]
    records = run_all(
        items, act, journal=journal, jobs=2, timeout=1.5, memory=300_000_000, stamp=no_stamp
    )
    assert {name: (r.ok, r.kind) for name, r in records.items()} == {
        "a": (True, ""),
        "b": (True, ""),
        "c": (True, ""),
        "bad.1": (False, "cut short"),
        "hang.1": (False, "time-out"),
        "segfault": (False, "crash"),
        "leave": (False, "crash"),
        "denied": (False, "unreadable"),
        "hungry": (False, "out of memory"),
    }
    assert records["bad.1"].error == "ends early"
    assert records["bad.1"].values == {"num_frames": 3}
    assert records["hang.1"].error == "took more than 1.5 s"
    assert records["segfault"].error == "its process died of SIGSEGV"
    assert records["leave"].error == "its process died of exit code 7"
    assert records["denied"].error == "cannot be read: No such file or directory"
    assert sorted(line["path"] for line in lines_of(journal)) == sorted(items)


def no_stamp(item: str) -> Stamp | None:
    return Stamp(len(item), 0)


def test_what_is_on_record_is_not_done_again_unless_its_file_changed(tmp_path: Path) -> None:
    journal, log = tmp_path / "work.jsonl", tmp_path / "log"
    for name in "abc":
        (tmp_path / name).write_text(name)
    stamp = partial(file_stamp, root=tmp_path)
    do = partial(
        run_all,
        work=partial(act, log=str(log)),
        journal=journal,
        jobs=1,
        timeout=20,
        stamp=stamp,
    )
    do(["a", "b", "bad.1", "a"])
    assert log.read_text().split() == ["a", "b", "bad.1"]
    do(["a", "b", "bad.1", "c"])
    assert log.read_text().split() == ["a", "b", "bad.1", "c"]
    (tmp_path / "b").write_text("longer")
    (tmp_path / "bad.1").write_text("it was missing")
    records = do(["a", "b", "bad.1", "c"])
    assert log.read_text().split() == ["a", "b", "bad.1", "c", "b", "bad.1"]
    assert records["b"].stamp == Stamp(6, (tmp_path / "b").stat().st_mtime_ns)
    assert len(records) == 4
    do(["a", "bad.1"], redo=is_bad)
    assert log.read_text().split()[6:] == ["bad.1"]


def is_bad(record: Record) -> bool:
    return not record.ok


def test_a_torn_last_line_is_cut_off_and_its_item_done_again(tmp_path: Path) -> None:
    journal = tmp_path / "work.jsonl"
    whole = [Record(name, Stamp(1, 2), time=1.0).to_line() for name in "abc"]
    journal.write_bytes(whole[0] + whole[1] + whole[2][:-10])
    assert list(Records(journal)) == ["a", "b"]
    with appending(journal) as file:
        assert journal.read_bytes() == whole[0] + whole[1]
        file.write(whole[2])
    assert list(Records(journal)) == ["a", "b", "c"]
    journal.write_bytes(b"x" * 200_000)  # no line at all
    with appending(journal):
        assert journal.read_bytes() == b""


def test_a_damaged_line_costs_one_record(tmp_path: Path) -> None:
    journal = tmp_path / "work.jsonl"
    a, b, c = (Record(name, None, time=1.0).to_line() for name in "abc")
    journal.write_bytes(a + b.replace(b'"path"', b'"pa\xff"') + b"[]\n7\n{}\n" + c)
    records = Records(journal)
    assert list(records) == ["a", "c"]
    assert records["c"].item == "c"


def test_a_record_survives_its_line() -> None:
    values = {"num_frames": 3, "fps": 29.97, "codec": "h264"}
    name = "a \u00e9\n\udcff,\"'.mp4"
    record = Record(name, Stamp(5, 10**18), False, "cut", "a\nb", 0.5, 7.25, values)
    line = record.to_line()
    assert line.isascii()
    assert line.count(b"\n") == 1
    assert Record.from_line(line) == record
    assert Record.from_line(Record("a", None).to_line()) == Record("a", None)
    with pytest.raises(ValueError, match="not JSON compliant"):
        Record("a", None, values={"fps": float("nan")}).to_line()


def test_shards_are_a_partition_and_their_journals_are_read_together(tmp_path: Path) -> None:
    items = [f"v{number}.mp4" for number in range(100)]
    parts = [take_shard(items, (number, 3)) for number in (1, 2, 3)]
    assert sorted(item for part in parts for item in part) == sorted(items)
    assert min(map(len, parts)) > 20
    assert take_shard([*items, "new"], (2, 3))[: len(parts[1])] == parts[1]
    assert take_shard(items, (1, 1)) == items

    base = tmp_path / "work.jsonl"
    assert shard_journal(base, (1, 1)) == base
    second = shard_journal(base, (2, 16))
    assert second == tmp_path / "work.2-of-16.jsonl"
    base.write_bytes(Record("a", None, error="old", time=1.0).to_line())
    second.write_bytes(Record("a", None, error="new", time=2.0).to_line())
    shard_journal(base, (1, 3)).write_bytes(Record("b", None, time=1.0).to_line())
    (tmp_path / "other.jsonl").write_bytes(Record("c", None).to_line())
    (tmp_path / "work.x.jsonl").write_bytes(Record("c", None).to_line())
    assert len(journal_files(second)) == 3
    assert {name: record.error for name, record in Records(base).items()} == {"a": "new", "b": ""}
    assert journal_files(tmp_path / "absent" / "work.jsonl") == []


def test_a_second_process_on_a_journal_is_refused(tmp_path: Path) -> None:
    journal = tmp_path / "work.jsonl"
    with appending(journal), pytest.raises(DataError, match=r"work\.jsonl: another process is"):
        run_all(["a"], act, journal=journal, jobs=1, timeout=1)
    with pytest.raises(DataError, match="cannot be written"), appending(tmp_path):
        pass


def test_a_machine_that_kills_every_process_ends_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "_MAX_LOSSES", 3)
    items = [f"leave.{number}" for number in range(9)]
    with pytest.raises(DataError, match="3 processes in a row were lost, the last by exit code 7"):
        run_all(items, act, journal=tmp_path / "w.jsonl", jobs=1, timeout=20)
    assert len(Records(tmp_path / "w.jsonl")) == 2
    items = ["leave.1", "leave.2", "a", "leave.3", "b"]  # not in a row
    records = run_all(items, act, journal=tmp_path / "x.jsonl", jobs=1, timeout=20)
    assert len(records) == 5


SCRIPT = """
import sys
from functools import partial
from pathlib import Path
from data_prep.work import run_all
from tests.data_prep.test_work import act, no_stamp
if __name__ == "__main__":
    items = sys.argv[2].split()
    try:
        run_all(items, act, journal=Path(sys.argv[1]), jobs=2, timeout=30, stamp=no_stamp)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def start(journal: Path, items: Sequence[str]) -> subprocess.Popen[bytes]:
    script = journal.with_suffix(".py")
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, str(script), str(journal), " ".join(items)],
        env=environment,
        start_new_session=True,
        stderr=subprocess.PIPE,
    )


def wait_for(journal: Path, records: int) -> None:
    for _ in range(400):
        if journal.exists() and journal.read_bytes().count(b"\n") >= records:
            return
        time.sleep(0.05)
    raise AssertionError(f"{records} records did not come")


@pytest.mark.parametrize("to_group", [False, True])
def test_a_signal_ends_the_work_after_the_items_in_hand(tmp_path: Path, to_group: bool) -> None:
    journal = tmp_path / "work.jsonl"
    process = start(journal, [f"slow.{number}" for number in range(100)])
    wait_for(journal, 2)
    (os.killpg if to_group else os.kill)(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130, errors.decode()
    assert b"Traceback" not in errors
    lines = lines_of(journal)
    assert 2 <= len(lines) < 10
    assert all(line["ok"] for line in lines)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel kills the workers on Linux only")
def test_workers_die_with_a_killed_parent_and_the_next_goes_on(tmp_path: Path) -> None:
    journal = tmp_path / "work.jsonl"
    process = start(journal, ["slow.0", "slow.1", "hang.0", "hang.1"])
    wait_for(journal, 2)
    workers = {line["pid"] for line in lines_of(journal)}
    process.kill()
    process.wait()
    before = journal.read_bytes()
    for _ in range(60):
        if not any(map(is_running, workers)):
            break
        time.sleep(0.05)
    assert not [pid for pid in workers if is_running(pid)]
    process = start(journal, [f"slow.{number}" for number in range(4)])
    assert process.wait(timeout=30) == 0
    assert journal.read_bytes().startswith(before)
    names = [line["path"] for line in lines_of(journal)]
    assert sorted(names) == [f"slow.{number}" for number in range(4)]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_to_do_asks_for_the_stamp_of_recorded_items_only() -> None:
    asked: list[str] = []

    def stamp(item: str) -> Stamp | None:
        asked.append(item)
        return None

    records = {"b": Record("b", None), "c": Record("c", Stamp(1, 1))}
    assert to_do(["a", "b", "c", "d"], records, stamp=stamp) == ["a", "c", "d"]
    assert sorted(asked) == ["b", "c"]


def test_the_stamp_of_a_member_is_that_of_its_tar(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"12345")
    found = (tmp_path / "a.tar").stat()
    assert file_stamp("a.tar::x/y.mp4", root=tmp_path) == Stamp(5, found.st_mtime_ns)
    assert file_stamp("b.tar", root=tmp_path) is None
    assert file_stamp("a\0b", root=tmp_path) is None


def test_progress_tells_what_is_done_bad_and_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    progress = Progress("verify", total=100, before=40, unit="file")
    for number in range(20):
        progress.add(ok=number > 2, size=1_000_000)
    now = 105.0
    progress.tick()
    assert capsys.readouterr().err == ""
    now = 110.0
    progress.tick()
    assert capsys.readouterr().err == (
        "verify: 60/100 files, 3 bad, 2 files/s, 2 MB/s, 20 s left\n"
    )
    assert [duration(s) for s in (59.4, 200, 7500)] == ["59 s", "3 min 20 s", "2 h 5 min"]


def full(item: str) -> Mapping[str, Any]:
    if item == "c":
        raise StopWorkError("the disk is full; make room")
    return {}


def test_the_work_can_stop_it_all_without_a_record_of_its_item(tmp_path: Path) -> None:
    journal = tmp_path / "work.jsonl"
    with pytest.raises(DataError, match="the disk is full; make room"):
        run_all(["a", "b", "c", "d"], full, journal=journal, jobs=1, timeout=20)
    assert list(Records(journal)) == ["a", "b"]
