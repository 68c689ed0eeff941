"""A study from beginning to end: choose rates, train and test all, write what came out."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from videogn.engine.durable import sync_file
from videogn.engine.lock import locked
from videogn.engine.progress import log_to_terminal, track
from videogn.engine.record_file import RecordFile
from videogn.errors import ConfigError, MemoryExhaustedError
from videogn.runs import environment, read_json, read_records, write_json
from videogn.study.plan import Study, Trial, read_study
from videogn.study.records import Done, as_record, choose_rates, from_record, with_rates
from videogn.study.trial import run_trial

RECORDS, SETTINGS = "trials.jsonl", "study.json"
log = logging.getLogger(__name__)


def run_study(source: str | Path, folder: Path, jobs: int = 1) -> str:
    """Trains and tests what is left to do of a study; returns its tables as text.

    Every trial is a line of `trials.jsonl` as soon as it is done, and is not done again: a study
    that was stopped, or whose grids have grown, goes on.

    Args:
        source: the study's file.
        folder: for all results.
        jobs: processes, of one thread each.

    Raises:
        ConfigError: the file is no study, or `folder` holds another one.
        FolderInUseError: another process is at it.
    """
    from videogn.study.write import write_results  # draws, which the processes need not

    log_to_terminal()
    study = read_study(source)
    with locked(folder):
        _keep_settings(folder, study)
        try:
            _do_all(study, folder, jobs)
        finally:  # what there is can be looked at, however it ended
            text = write_results(folder, read_done(folder), study)
    return text


def read_done(folder: Path) -> list[Done]:
    """Returns the trials on record in `folder`, in the order they ended."""
    path = folder / RECORDS
    return [from_record(each) for each in read_records(path)] if path.is_file() else []


def _do_all(study: Study, folder: Path, jobs: int) -> None:
    done = read_done(folder)
    records = RecordFile(folder / RECORDS)
    try:
        with _workers(jobs) as run:
            work = _work(study, done, run)
            for each in track(work, total=_count_left(study, done), what="study", unit="trials"):
                records.append(as_record(each))
                sync_file(records.path)
                done.append(each)
                _tell(each)
    finally:
        records.close()


def _work(study: Study, done: Sequence[Done], run: _Run) -> Iterator[Done]:
    """Yields the trials left of each part, those that choose its rates first.

    `done` must hold what was yielded before the next is asked for.
    """
    for trials in study.parts.values():
        norms = {trial.norm for trial in trials if trial.rate is None}
        choosing = [trial for trial in study.rates if trial.norm in norms]
        yield from run([(study, trial, False) for trial in _left(choosing, done)])
        rates = choose_rates(done, study)
        tested = with_rates(trials, rates)
        yield from run([(study, trial, True) for trial in _left(tested, done)])


def _count_left(study: Study, done: Sequence[Done]) -> int:
    tested = [each.trial for each in done if each.result["tested"]]
    have = {each.trial for each in done} | {replace(trial, rate=None) for trial in tested}
    wanted = {trial for trials in study.parts.values() for trial in trials}
    norms = {trial.norm for trial in wanted if trial.rate is None}
    return len(wanted.union(t for t in study.rates if t.norm in norms) - have)


def _left(wanted: Sequence[Trial], done: Sequence[Done]) -> list[Trial]:
    """Returns the trials that are not done, each once."""
    have = {each.trial for each in done}
    return [trial for trial in dict.fromkeys(wanted) if trial not in have]


def _tell(done: Done) -> None:
    split = "test" if done.result["tested"] else "val"
    reached = f"{split} {done.result[split]:.1f} %" if split in done.result else "diverged"
    log.info("%s: %s, %.0f s", done.trial, reached, done.result["seconds"])


class _Run:
    """Does work in as many processes as asked for, and yields what comes of it as it comes."""

    def __init__(self, pool: ProcessPoolExecutor | None) -> None:
        self.pool = pool

    def __call__(self, work: Sequence[tuple[Study, Trial, bool]]) -> Iterator[Done]:
        if self.pool is None:
            return map(_one, work)
        answers = [self.pool.submit(_one, each) for each in work]
        return (answer.result() for answer in as_completed(answers))


@contextmanager
def _workers(jobs: int) -> Iterator[_Run]:
    """Yields what does work.

    Raises:
        MemoryExhaustedError: a process was killed; a multiprocessing.Pool would wait for it.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if jobs == 1:
            yield _Run(None)
        else:
            with _processes(jobs) as pool:
                yield _Run(pool)
    except BrokenProcessPool as error:
        raise MemoryExhaustedError(
            "the process of a trial was killed, as the system does when memory runs out; what is "
            "done is on record: run the same again with fewer --jobs"
        ) from error
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _processes(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Yields processes of one thread each; whatever ends the work ends them, in mid-trial."""
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin) as pool:
        try:
            yield pool
        except BaseException:
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _begin() -> None:
    """Prepares a process; Ctrl-C, which a terminal sends to all, is for the first one to heed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process when the first one is gone, which a killed one cannot ask for."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _one(work: tuple[Study, Trial, bool]) -> Done:
    study, trial, tested = work
    return Done(trial, run_trial(study, trial, test=tested))


def _keep_settings(folder: Path, study: Study) -> None:
    """Writes what all trials share beside them, with the machine; or compares."""
    path = folder / SETTINGS
    settings = json.loads(json.dumps(study.settings()))
    have = read_json(path)
    if have is None:
        write_json(path, {"settings": settings, "environment": environment()})
    elif have.get("settings") != settings:
        raise ConfigError(
            f"{folder} holds trials of a study with other settings ({path}); choose another folder"
        )
