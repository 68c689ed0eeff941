"""A checkpoint is loaded whole and right, or refused: never a wrong weight, never a lost file."""

from __future__ import annotations

import io
import logging
import math
import os
import random
import resource
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from videogn.engine import checkpoint
from videogn.errors import CheckpointError


def contents(seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "model": {
            "weight": torch.randn(3, 4, generator=generator),
            "half": torch.randn(5, generator=generator).bfloat16(),
            "tracked": torch.tensor(7),
            "empty": torch.empty(0, 2),
            "mask": torch.tensor([True, False]),
        },
        "optimizer": {
            "state": {0: {"momentum_buffer": torch.randn(4)}},
            "param_groups": [{"a": 1}],
        },
        "scaler": {},
        "ema": None,
        "step": 12,
        "epoch": 0.75,
        "config": {"name": "x", "list": [1.5, "zwölf", None, True, {"deep": [[]]}], "lr": 1e-5},
        "metrics": {"best_error": math.inf},
    }


def same(a: Any, b: Any) -> bool:
    """Returns whether two nests of tensors and plain values are equal, types included."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("healthy") / "step_000000012.pt"
    checkpoint.save(path, contents())
    return path.read_bytes()


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.pt"
    saved = contents()
    checkpoint.save(path, saved)
    assert same(checkpoint.load(path), saved)
    assert [p.name for p in path.parent.iterdir()] == ["a.pt"]


def test_an_optimizer_goes_on_from_its_checkpoint_to_the_bit(tmp_path: Path) -> None:
    def stepped(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()

    def made() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = nn.Linear(3, 2)
        return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)

    model, optimizer = made()
    stepped(model, optimizer)
    path = tmp_path / "a.pt"
    checkpoint.save(path, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    stepped(model, optimizer)
    again, its_optimizer = made()
    loaded = checkpoint.load(path)
    again.load_state_dict(loaded["model"])
    its_optimizer.load_state_dict(loaded["optimizer"])
    stepped(again, its_optimizer)
    assert same(dict(model.state_dict()), dict(again.state_dict()))


def test_it_loads_with_weights_only_and_carries_its_digest(healthy: bytes) -> None:
    raw = torch.load(io.BytesIO(healthy), weights_only=True)
    digest = raw.pop("digest")
    assert digest == checkpoint.digest(contents() | {"optimizer": raw["optimizer"]})
    assert len(digest) == 64


def test_the_digest_tells_names_types_shapes_and_values_apart() -> None:
    variants: list[Any] = [
        {"a": 1},
        {"b": 1},
        {"a": 1.0},
        {"a": True},
        {"a": "1"},
        {"a": None},
        {"a": [1]},
        {"a": [[1]]},
        {"a": [1, []]},
        {"a": {"a": 1}},
        {"a": torch.zeros(4)},
        {"a": torch.zeros(2, 2)},
        {"a": torch.zeros(4, dtype=torch.int32)},
        {"a": torch.tensor([0.0, 0, 0, -0.0])},
        {"a": torch.zeros(4).double()},
    ]
    assert len({checkpoint.digest(value) for value in variants}) == len(variants)


def test_the_digest_does_not_depend_on_memory_layout() -> None:
    x = torch.randn(2, 3, 4, 5, 6)
    assert checkpoint.digest(x) == checkpoint.digest(x.to(memory_format=torch.channels_last_3d))
    assert checkpoint.digest(x.transpose(0, 1)) == checkpoint.digest(x.transpose(0, 1).clone())


# Damage


def outcome(path: Path, data: bytes, good: dict[str, Any]) -> str:
    path.write_bytes(data)
    try:
        loaded = checkpoint.load(path)
    except CheckpointError:
        return "detected"
    return "harmless" if same(loaded, good) else "silently wrong"


def test_a_cut_file_is_always_detected(healthy: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(healthy)
    good = checkpoint.load(path)
    lengths = [0, 1, len(healthy) - 1, *range(7, len(healthy), len(healthy) // 18)]
    found = Counter(outcome(path, healthy[:n], good) for n in lengths)
    assert found == {"detected": len(lengths)}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_flipped_bit_is_detected_or_harmless(healthy: bytes, tmp_path: Path) -> None:
    path, rng = tmp_path / "a.pt", random.Random(0)
    path.write_bytes(healthy)
    good = checkpoint.load(path)
    found: Counter[str] = Counter()
    for position in range(3, len(healthy), len(healthy) // 60):
        data = bytearray(healthy)
        data[position] ^= 1 << rng.randrange(8)
        found[outcome(path, bytes(data), good)] += 1
    assert found["silently wrong"] == 0
    assert found["detected"] >= 15
    assert found.total() >= 60


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_whatever_a_damaged_file_raises_becomes_a_checkpoint_error(
    healthy: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(healthy)
    good = checkpoint.load(path)
    first = healthy.index(b"\x80\x02}")  # where the pickle begins, which names everything
    for position in range(first, first + 700, 2):
        data = bytearray(healthy)
        data[position] ^= 0x10
        assert outcome(path, bytes(data), good) != "silently wrong"


def test_a_zeroed_page_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    checkpoint.save(path, {"model": {"w": torch.randn(5000)}})
    data = path.read_bytes()
    for start in (4096, 8192):
        path.write_bytes(data[:start] + bytes(4096) + data[start + 4096 :])
        with pytest.raises(CheckpointError, match=r"do not match|cannot be read"):
            checkpoint.load(path)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="reading it at 0 is an EIO")
def test_a_disk_that_fails_says_nothing_of_the_checkpoint(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    failing = checkpoint.step_file(tmp_path, 2)
    failing.symlink_to("/proc/self/mem")
    for read in (checkpoint.load, lambda path: checkpoint.newest(path.parent)):
        with pytest.raises(OSError, match="Input/output error") as raised:
            read(failing)
        assert raised.value.filename == str(failing)
    fill(tmp_path, 3)
    checkpoint.prune(tmp_path, 2, checkpoint.step_file(tmp_path, 3))
    assert checkpoint.step_file(tmp_path, 1).exists()  # kept in its place


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_memory_that_is_not_there_says_nothing_of_the_checkpoint(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, 1, 2)

    def load(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(type(error)):
        checkpoint.newest(tmp_path)


@pytest.mark.parametrize("data", [b"", b"<html>404</html>", bytes(500)])
def test_a_file_that_is_none_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"a\.pt"):
        checkpoint.load(path)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no checkpoint .*nowhere\.pt; those"):
        checkpoint.load(tmp_path / "nowhere.pt")


@pytest.mark.parametrize("foreign", [{"fc.weight": torch.zeros(2)}, [torch.zeros(2)]])
def test_a_foreign_file_is_refused_with_the_way_to_use_it(foreign: Any, tmp_path: Path) -> None:
    path = tmp_path / "resnet50.pt"
    torch.save(foreign, path)
    with pytest.raises(CheckpointError, match=r"model\.init=.*resnet50\.pt"):
        checkpoint.load(path)


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("executed",))


def test_code_in_a_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": _Evil(), "digest": "0" * 64}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError):
        checkpoint.load(tmp_path / "a.pt")
    assert not (tmp_path / "executed").exists()


# The folder


def test_a_failed_save_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pt"
    checkpoint.save(path, contents(1))

    def full(value: Any, file: Any) -> None:
        file.write(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(path, contents(2))
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]
    monkeypatch.undo()
    assert same(checkpoint.load(path)["model"], contents(1)["model"])


def test_what_cannot_be_serialized_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises((TypeError, AttributeError, RuntimeError)):
        checkpoint.save(tmp_path / "a.pt", {"model": (i for i in range(3))})
    assert list(tmp_path.iterdir()) == []


def fill(folder: Path, *steps: int) -> None:
    for step in steps:
        checkpoint.save(checkpoint.step_file(folder, step), {"step": step})


def damage(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def test_newest_is_the_one_of_the_highest_step(tmp_path: Path) -> None:
    fill(tmp_path, 9, 10, 2)
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert found[0].name == "step_000000010.pt"
    assert found[1] == {"step": 10}


def test_newest_of_nothing_is_none(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) is None
    assert checkpoint.newest(tmp_path / "missing") is None


def test_newest_falls_back_to_an_older_one_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, 1, 2, 3)
    damage(checkpoint.step_file(tmp_path, 3))
    damage(checkpoint.step_file(tmp_path, 2))
    with caplog.at_level(logging.WARNING, logger="videogn"):
        found = checkpoint.newest(tmp_path)
    assert found is not None
    assert found[1] == {"step": 1}
    assert [r.levelname for r in caplog.records] == ["WARNING"] * 2
    assert "step_000000003.pt" in caplog.text
    assert "trying the one before" in caplog.text


def test_all_damaged_is_an_error_and_not_a_start_from_scratch(tmp_path: Path) -> None:
    fill(tmp_path, 1, 2)
    for step in (1, 2):
        damage(checkpoint.step_file(tmp_path, step))
    with pytest.raises(CheckpointError, match=r"all 2 checkpoints .* damaged"):
        checkpoint.newest(tmp_path)


def test_publishing_gives_the_file_a_second_name_without_copying(tmp_path: Path) -> None:
    fill(tmp_path, 1, 2)
    checkpoint.publish(checkpoint.step_file(tmp_path, 1), "last.pt")
    checkpoint.publish(checkpoint.step_file(tmp_path, 2), "last.pt")
    assert checkpoint.load(tmp_path / "last.pt") == {"step": 2}
    assert (tmp_path / "last.pt").samefile(checkpoint.step_file(tmp_path, 2))
    assert len(list(tmp_path.iterdir())) == 3


def test_publishing_copies_where_there_are_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("no links here")

    fill(tmp_path, 1)
    flushed, plain = [], os.fsync

    def flush(descriptor: int) -> None:
        flushed.append(os.fstat(descriptor).st_size)
        plain(descriptor)

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "fsync", flush)
    checkpoint.publish(checkpoint.step_file(tmp_path, 1), "last.pt")
    assert flushed[0] == (tmp_path / "last.pt").stat().st_size  # before the folder is
    assert checkpoint.load(tmp_path / "last.pt") == {"step": 1}
    assert len(list(tmp_path.iterdir())) == 2


def test_publishing_the_same_file_twice_leaves_no_temporary_one(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    for _ in range(2):
        checkpoint.publish(checkpoint.step_file(tmp_path, 1), "last.pt")
    assert len(list(tmp_path.iterdir())) == 2


def test_pruning_keeps_the_newest_and_the_published(tmp_path: Path) -> None:
    fill(tmp_path, 1, 2, 3, 4)
    checkpoint.save(tmp_path / "best.pt", {"step": 1})
    checkpoint.publish(checkpoint.step_file(tmp_path, 4), "last.pt")
    checkpoint.prune(tmp_path, 2, checkpoint.step_file(tmp_path, 4))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "best.pt",
        "last.pt",
        "step_000000003.pt",
        "step_000000004.pt",
    ]
    checkpoint.prune(tmp_path, 5, checkpoint.step_file(tmp_path, 4))
    assert len(list(tmp_path.iterdir())) == 4


def test_going_on_after_a_fall_back_never_deletes_the_file_just_saved(tmp_path: Path) -> None:
    fill(tmp_path, 2, 4)
    damage(checkpoint.step_file(tmp_path, 4))
    assert checkpoint.newest(tmp_path) is not None  # the run goes on from step 2
    fill(tmp_path, 3)  # and saves the next step
    checkpoint.prune(tmp_path, 1, checkpoint.step_file(tmp_path, 3))
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert found[1] == {"step": 3}


def test_one_damaged_since_it_was_written_does_not_count_as_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, 1, 2, 3, 4, 5)
    for step in (3, 4):
        damage(checkpoint.step_file(tmp_path, step))
    with caplog.at_level(logging.WARNING, logger="videogn"):
        checkpoint.prune(tmp_path, 2, checkpoint.step_file(tmp_path, 5))
    left = [int(p.stem.removeprefix("step_")) for p in sorted(tmp_path.iterdir())]
    assert left == [2, 3, 4, 5]
    assert caplog.text.count("older ones are kept in its place") == 2


def test_the_last_good_one_stays_when_the_one_just_written_is_damaged(tmp_path: Path) -> None:
    fill(tmp_path, 1, 2, 3)
    for step in (2, 3):
        damage(checkpoint.step_file(tmp_path, step))
    checkpoint.prune(tmp_path, 1, checkpoint.step_file(tmp_path, 3))
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert found[1] == {"step": 1}


def test_an_undamaged_one_that_cannot_be_used_is_passed_over_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, 1, 2)

    def require_first(path: Path, contents: Any) -> None:
        if contents["step"] > 1:
            raise CheckpointError(f"{path} is of no use")

    with caplog.at_level(logging.WARNING, logger="videogn"):
        found = checkpoint.newest(tmp_path, require_first)
    assert found is not None
    assert found[1] == {"step": 1}
    assert "step_000000002.pt is of no use; trying the one before" in caplog.text


def test_a_full_disk_is_named_and_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    checkpoint.save(path, contents(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="too large") as caught:
            checkpoint.save(path, contents(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.filename == str(path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]
    assert same(checkpoint.load(path)["model"], contents(1)["model"])


def test_what_is_no_checkpoint_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        checkpoint.load(path)
    path.touch()
    with pytest.raises(CheckpointError, match="is empty"):
        checkpoint.load(path)
    path.write_bytes(b"\x1aE\xdf\xa3 a video")
    with pytest.raises(CheckpointError, match=r"is no file of torch\.save"):
        checkpoint.load(path)
    checkpoint.save(path, {"model": {"w": torch.zeros(9)}})
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match="cut short") as caught:
        checkpoint.load(path)
    assert "weights_only" not in str(caught.value)
    with pytest.raises(CheckpointError, match=r"is a folder; give .*/checkpoints/last\.pt"):
        checkpoint.load(tmp_path)
