"""A test that was broken off goes on with what was scored, and comes to the unbroken result."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from videogn.engine import checkpoint, partial
from videogn.engine.distributed import Ranks
from videogn.engine.evaluate import EvalResult, ViewAverager, evaluate
from videogn.engine.partial import PartialScores
from videogn.engine.signals import Interruption
from videogn.errors import RunInterruptedError

N, V, K = 9, 3, 7
FAILED = 4


class Noise(nn.Module):
    def probs(self, clips: Tensor) -> Tensor:
        return clips.flatten(1)[:, :K].softmax(1)


def video(row: int) -> SimpleNamespace:
    generator = torch.Generator().manual_seed(row)
    frames = torch.randint(256, (V, 4, 4, 3), generator=generator, dtype=torch.uint8)
    good = row != FAILED
    return SimpleNamespace(
        row=row,
        label=row % K,
        frames=frames if good else None,
        clips=torch.arange(V)[:, None],
        boxes=[(0, 0, 4, 4)],
        failure="" if good else "no video stream",
    )


def score(
    folder: Path, *, world: int = 1, stop_after: int = N + 1, identity: str = "a"
) -> tuple[EvalResult | None, list[int]]:
    """Tests the videos on `world` ranks, one after the other, each of which a signal may end.

    Returns the result, None if broken off, and the rows that were scored now.
    """
    averagers = [ViewAverager(N, V, K) for _ in range(world)]
    scored: list[int] = []
    broken = False
    done: set[int] = set()
    for rank in range(world):
        signalled = Interruption()
        scores = PartialScores(folder, identity, averagers[rank], Ranks(rank, world), signalled)
        if rank == 0:
            done = scores.restore()
        rows = [row for row in range(N) if row not in done][rank::world]
        scores.expect(len(rows))
        before = len(scored)

        def videos(
            rows: list[int] = rows, before: int = before, signalled: Interruption = signalled
        ) -> Iterator[SimpleNamespace]:
            for row in rows:
                scored.append(row)
                if len(scored) - before == stop_after:
                    signalled.number = signal.SIGTERM
                yield video(row)

        try:
            evaluate(
                Noise(),
                videos(),
                averagers[rank],
                to_input=lambda clips: clips.float() / 255,
                device=torch.device("cpu"),
                views_per_forward=2,
                after_video=scores.after_video,
            )
        except RunInterruptedError:
            broken = True
    if broken:
        return None, scored
    for other in averagers[1:]:
        averagers[0].restore(other.scored())
    return averagers[0].result(), scored


def same(one: EvalResult | None, other: EvalResult | None) -> bool:
    assert one is not None
    assert other is not None
    return (
        torch.equal(one.probs, other.probs)
        and torch.equal(one.correct, other.correct)
        and (one.top1, one.top5, one.num_decoded) == (other.top1, other.top5, other.num_decoded)
    )


@pytest.mark.parametrize("worlds", [(1, 1), (1, 3), (3, 1), (2, 2), (3, 2), (2, 1, 3)])
def test_a_test_broken_off_scores_each_video_once_whatever_the_ranks(
    worlds: tuple[int, ...], tmp_path: Path
) -> None:
    unbroken, _ = score(tmp_path / "unbroken")
    seen: list[int] = []
    for world in worlds[:-1]:
        result, rows = score(tmp_path / "x", world=world, stop_after=2)
        assert result is None
        seen += rows
    result, rows = score(tmp_path / "x", world=worlds[-1])
    assert sorted(seen + rows) == list(range(N))
    assert seen
    assert rows
    assert same(result, unbroken)


def test_the_reason_of_a_failed_video_is_kept_too(tmp_path: Path) -> None:
    score(tmp_path, stop_after=FAILED + 1)
    averager = ViewAverager(N, V, K)
    done = PartialScores(tmp_path, "a", averager, Ranks(), lambda: False).restore()
    assert done == set(range(FAILED + 1))
    assert averager.reasons == {FAILED: "no video stream"}


@pytest.mark.parametrize("how", ["damaged", "of another test"])
def test_scores_that_cannot_be_used_are_scored_again(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    score(tmp_path, stop_after=3)
    (path,) = tmp_path.iterdir()
    if how == "damaged":
        path.write_bytes(path.read_bytes()[:-300])
    with caplog.at_level(logging.INFO, logger="videogn"):
        result, rows = score(tmp_path, identity="a" if how == "damaged" else "b")
    assert rows == list(range(N))
    assert same(result, score(tmp_path / "unbroken")[0])
    assert ("are scored again" in caplog.text) == (how == "damaged")


def test_a_kill_while_the_files_of_ranks_become_one_scores_nothing_twice(tmp_path: Path) -> None:
    score(tmp_path, world=3, stop_after=2)
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    averager = ViewAverager(N, V, K)
    PartialScores(tmp_path, "a", averager, Ranks(), lambda: False).restore()
    assert [path.name for path in tmp_path.iterdir()] == ["rank_00000.pt"]
    for path, data in files.items():  # as if the old ones had not been removed yet
        if path.name != "rank_00000.pt":
            path.write_bytes(data)
    result, rows = score(tmp_path)
    assert len(rows) == N - 6
    assert same(result, score(tmp_path / "unbroken")[0])


def test_scores_are_saved_every_so_many_seconds_and_at_the_end_of_a_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []

    def save(path: Path, contents: dict) -> None:
        saved.append(len(contents["rows"]))

    monkeypatch.setattr(checkpoint, "save", save)
    score(tmp_path)
    assert saved == [N]  # 30 s have not gone by
    monkeypatch.setattr(partial, "SAVE_EVERY", 0.0)
    saved.clear()
    score(tmp_path)
    assert saved == list(range(1, N + 1))


def test_no_room_for_the_scores_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    result, _ = score(tmp_path / "file" / "x")
    assert same(result, score(tmp_path / "unbroken")[0])
    assert "the scores so far are not saved: " in caplog.text


def test_without_room_to_bring_scores_together_those_of_each_rank_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score(tmp_path, world=3, stop_after=2)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(path: Path, _: dict) -> None:
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", full)
        scores = PartialScores(tmp_path, "a", ViewAverager(N, V, K), Ranks(), lambda: False)
        assert len(scores.restore()) == 6
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert len(before) == 3


def test_what_is_discarded_is_gone(tmp_path: Path) -> None:
    score(tmp_path / "x", stop_after=2)
    assert (tmp_path / "x").is_dir()
    PartialScores(tmp_path / "x", "a", ViewAverager(N, V, K), Ranks(), lambda: False).discard()
    assert not (tmp_path / "x").exists()
