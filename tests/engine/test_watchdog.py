"""Ranks end together, whatever one of them does, and say why."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from tests.engine.forked_ranks import run_ranks
from videogn.engine import watchdog
from videogn.engine.distributed import Ranks, all_sum
from videogn.errors import DataError, MemoryExhaustedError


def fail_on_rank_1(ranks: Ranks, error: Exception) -> None:
    if ranks.rank == 1:
        raise error


def wait_in_a_collective(ranks: Ranks) -> None:
    fail_on_rank_1(ranks, DataError("no such video"))
    all_sum(torch.ones(1))


def wait_elsewhere(ranks: Ranks) -> None:
    """As in a collective of NCCL, which does not see that the other side is gone."""
    fail_on_rank_1(ranks, MemoryExhaustedError("no memory"))
    time.sleep(60)


def raise_a_defect(ranks: Ranks) -> None:
    fail_on_rank_1(ranks, ZeroDivisionError("a defect"))
    time.sleep(60)


@pytest.mark.parametrize(
    ("work", "code", "why"),
    [
        (wait_in_a_collective, 3, "rank 1 ended the run: no such video"),
        (wait_elsewhere, 5, "rank 1 ended the run: no memory"),
        (raise_a_defect, 1, "rank 1 ended the run: a defect"),
    ],
)
def test_an_error_of_one_rank_ends_the_other_with_its_reason_and_exit_code(
    work: Callable[[Ranks], None], code: int, why: str, tmp_path: Path
) -> None:
    other, failed = run_ranks(tmp_path, work, limit=600)
    assert (failed.code, other.code) == (code, code), other.output
    assert why in other.output
    assert "Traceback" not in other.output
    assert other.seconds < 40  # and it would sleep for 60


def hang_on_rank_1(ranks: Ranks) -> None:
    watchdog.now("step 7")
    if ranks.rank == 1:
        a_decoder_that_never_returns()
    all_sum(torch.ones(1))


def a_decoder_that_never_returns() -> None:
    time.sleep(60)


def test_a_rank_that_hangs_prints_where_and_all_end_within_the_limit(tmp_path: Path) -> None:
    waiting, hung = run_ranks(tmp_path, hang_on_rank_1, limit=2)
    assert waiting.code == hung.code == 1
    assert max(waiting.seconds, hung.seconds) < 40
    assert "rank 1: step 7 has taken 2 s so far" in hung.output
    assert "in a_decoder_that_never_returns" in hung.output
    assert "a_decoder_that_never_returns" not in waiting.output
    stacks, end = re.search("has taken", hung.output), re.search("rank_timeout=2 s", hung.output)
    assert stacks
    assert end
    assert stacks.start() < end.start()


def wait_long(ranks: Ranks) -> None:
    all_sum(torch.ones(1))
    time.sleep(60)


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)]
)
def test_a_rank_that_is_killed_or_stopped_ends_the_other(
    number: signal.Signals, tmp_path: Path
) -> None:
    def disturb(processes: list[BaseProcess]) -> None:
        time.sleep(1)
        assert processes[1].pid
        os.kill(processes[1].pid, number)

    other = run_ranks(tmp_path, wait_long, limit=2, disturb=disturb)[0]
    assert other.code == 1
    assert "rank 1 has shown no life for rank_timeout=2 s" in other.output
    assert other.seconds < 40


def uneven_shares(ranks: Ranks) -> None:
    """Rank 1 has work for longer than a collective would be waited for."""
    count = 12 if ranks.rank else 0
    for _ in watchdog.each(range(count), "the test", ranks):
        time.sleep(0.2)
    assert all_sum(torch.ones(1)) == 2


def test_shares_of_unequal_length_are_waited_for_beyond_the_limit(tmp_path: Path) -> None:
    ended = run_ranks(tmp_path, uneven_shares, limit=1)
    assert [rank.code for rank in ended] == [0, 0], ended
    assert ended[0].seconds > 2.4


def leave_one_after_the_other(ranks: Ranks) -> None:
    time.sleep(2.5 * ranks.rank)


@pytest.mark.slow
def test_a_rank_that_has_left_is_not_missed(tmp_path: Path) -> None:
    ended = run_ranks(tmp_path, leave_one_after_the_other, limit=1)
    assert [rank.code for rank in ended] == [0, 0], ended


def test_a_single_process_prints_its_stacks_and_goes_on(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watchdog, "POLL", 0.05)
        patch.delenv("RANK", raising=False)
        with watchdog.together(torch.device("cpu"), 0.2) as ranks:
            for _ in watchdog.each([1], "the monitoring", ranks):
                time.sleep(0.6)
    assert caplog.text.count("rank 0: the monitoring has taken") == 1
    assert "test_a_single_process_prints_its_stacks_and_goes_on" in caplog.text
