"""The story of a training run: data, weights, training, and the test at its end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from videogn import advice, build
from videogn.bad_samples import BadSamples
from videogn.beginning import Beginning, begin
from videogn.config import Config
from videogn.data.manifest import Manifest
from videogn.data.splits import require_disjoint
from videogn.engine import distributed, memory, slurm, watchdog
from videogn.engine.distributed import Ranks
from videogn.engine.pace import WaitingAdvice
from videogn.engine.progress import log_to_terminal, step_bar
from videogn.engine.schedule import Schedule
from videogn.engine.signals import Interruption, noted_signals
from videogn.engine.tracking import NullTracker, Tracker
from videogn.engine.train import Hooks, TrainState, train
from videogn.errors import RunInterruptedError
from videogn.monitoring import Monitor
from videogn.runs import read_json, spelled, write_json
from videogn.saving import Saver, only_a_warning
from videogn.telling import announce, tell_step
from videogn.testing import test_model, too_many_failed

log = logging.getLogger(__name__)


def run_training(config: Config) -> Path:
    """Trains and tests an experiment, going on with an unfinished run of it; returns its folder.

    What is wrong is found in this order, before anything is written: configuration (by the
    caller), data, weights.

    Raises:
        VideognError: see `errors`; its exit code says which kind.
    """
    device = build.pick_device(config)
    with watchdog.together(device, config.rank_timeout) as ranks, ExitStack() as stack:
        log_to_terminal(is_main=ranks.is_main)
        build.set_up_torch(config, device)
        norm_impl = build.norm_impl(config, device)
        data = {split: build.build_manifest(config, split) for split in ("train", "val")}
        train_data, val_data = data["train"], data["val"]
        require_disjoint(train_data, val_data)
        build.require_a_batch(config, len(train_data), ranks.world)
        begun = begin(config, data, device, ranks, stack)
        config, folder = begun.config, begun.folder
        schedule = build.build_schedule(config, len(train_data), ranks.world)
        last = min(schedule.total_steps, config.optim.max_steps or schedule.total_steps)
        if begun.state.step >= last and _is_tested(config, folder):
            return folder
        tracker = stack.enter_context(_track(begun, ranks))
        announce(begun, data, device, ranks, norm_impl, schedule)
        interrupted = stack.enter_context(noted_signals())
        _Run(
            config=config,
            folder=folder,
            train_data=train_data,
            val_data=val_data,
            device=device,
            ranks=ranks,
            schedule=schedule,
            last=last,
            tracker=tracker,
            interrupted=interrupted,
            saver=Saver(folder, config, schedule, train_data, tracker),
            monitor=Monitor(config, train_data, val_data, device, ranks, interrupted),
        ).go(begun.state)
    return folder


def _is_tested(config: Config, folder: Path) -> bool:
    """Returns whether a run has its test, and says so; one with too many failures is no test."""
    report = distributed.on_main(lambda: read_json(folder / "test.json"))
    if not report:
        return False
    if too_many_failed(report, config):
        log.info("%s is tested again: too many videos could not be read", folder)
        return False
    log.info(
        "%s is finished, top-1 %.2f %%; resume=never starts another run", folder, report["top1"]
    )
    return True


def _track(begun: Beginning, ranks: Ranks) -> Tracker | NullTracker:
    if not ranks.is_main:
        return NullTracker()
    facts = read_json(begun.folder / "env.json") or {}
    mirror = build.build_mirror(
        begun.config, begun.folder, facts=facts, job_type="train", wandb_id=begun.wandb_id
    )
    return Tracker(begun.folder, mirror)


@dataclass(frozen=True)
class _Run:
    """What a run works with from its next step to the end of its test.

    Attributes:
        config: resolved.
        folder: where it writes.
        last: the step that it ends with.
        interrupted: whether a signal has come.
    """

    config: Config
    folder: Path
    train_data: Manifest
    val_data: Manifest
    device: torch.device
    ranks: Ranks
    schedule: Schedule
    last: int
    tracker: Tracker | NullTracker
    interrupted: Interruption
    saver: Saver
    monitor: Monitor
    waiting: WaitingAdvice = field(default_factory=WaitingAdvice)

    def go(self, state: TrainState) -> None:
        """Does what is left of the run."""
        with self._gone_on_with():
            if state.unmeasured:
                self._catch_up(state)
            if state.step < self.last:
                self._train(state)
            self._mirror_training(state)
            self._test(state)

    @contextmanager
    def _gone_on_with(self) -> Iterator[None]:
        """Has the run go on after a signal has ended what is within: Slurm, by option, or a person.

        Raises:
            RunInterruptedError: the one of the signal, saying how.
        """
        try:
            yield
        except RunInterruptedError as error:
            by_slurm = self.interrupted.number in slurm.REQUEUED
            if self.config.slurm_requeue and by_slurm and self.ranks.is_main:
                slurm.requeue()
            if self.config.resume == "auto":
                raise
            raise RunInterruptedError(f"{error}, with resume=auto") from error

    def _catch_up(self, state: TrainState) -> None:
        """Measures what a signal broke off, before the next step is taken."""
        self._measure(state)
        if self.schedule.crosses(state.step, self.config.eval.percentiles_every_epochs):
            self._look(state)
        self._save(state)  # with BN's statistics as measured
        if state.unmeasured:
            raise RunInterruptedError(
                f"interrupted at step {state.step} of {self.last}; the checkpoint is saved, and "
                "the same command goes on from it"
            )

    def _train(self, state: TrainState) -> None:
        accumulate = self.config.optim.accumulate
        start = state.step * accumulate
        batches = build.build_train_loader(
            self.config, self.train_data, self.ranks, start=start, stop=self.last * accumulate
        )
        bad = BadSamples(
            self.folder / "bad_samples.jsonl",
            len(self.train_data),
            max_fraction=self.config.data.max_bad_fraction,
            is_main=self.ranks.is_main,
        )
        clips = self.schedule.global_batch
        with (
            step_bar(
                start=state.step, total=self.last, clips_per_step=clips, shown=self.ranks.is_main
            ) as stepped,
            self._memory_explained(lambda: f"step {state.step + 1}"),
        ):
            hooks = Hooks(
                log=self._log,
                bad=lambda videos: bad.note(videos, state.step + 1),
                diverged=self._dump,
                stepped=stepped,
                save=self._save,
                monitor=self._measure,
                interrupted=self.interrupted,
                look=self._look,
            )
            train(
                state,
                batches,
                schedule=self.schedule,
                options=build.build_train_options(self.config),
                to_input=build.build_to_input(self.config, self.device),
                ranks=self.ranks,
                hooks=hooks,
            )

    def _memory_explained(self, doing: Callable[[], str]) -> AbstractContextManager[None]:
        """Says what needs less memory when there is none left while `doing` something."""
        return memory.explained(
            doing, self.device, lambda: advice.for_training_memory(self.config, self.device)
        )

    def _log(self, record: Mapping[str, Any]) -> None:
        self.tracker.log(record)
        left = (self.last - record["step"]) * self.schedule.global_batch / record["clips_per_s"]
        tell_step(record, left, self.config, self.waiting)

    def _dump(self, record: Mapping[str, Any]) -> None:
        """Writes down which videos made the numbers go bad, on all ranks, if there is room."""
        paths = self.train_data.paths
        named = [part | {"paths": [paths[i] for i in part["rows"]]} for part in record["ranks"]]
        epoch = self.schedule.epoch(record["step"])
        if self.ranks.is_main:
            with only_a_warning("what diverged is not written down"):
                dump = spelled({**record, "epoch": epoch, "ranks": named})
                write_json(self.folder / "diverged.json", dump)

    def _measure(self, state: TrainState) -> None:
        """Measures the 1-clip error of Fig. 7 and keeps the best checkpoint for users.

        A signal breaks it off. Then the state is as it was, to be measured on resuming.
        """
        epoch = self.schedule.epoch(state.step)
        with state.averaged(), self._memory_explained(lambda: "the monitoring"):
            errors = self.monitor.measure(state.model, step=state.step, epoch=epoch)
        state.unmeasured = errors is None
        if errors is None:
            return
        error = errors["val/error_1clip_aug"]
        self.tracker.log({"step": state.step, "epoch": epoch, "split": "val", **errors})
        log.info("epoch %.2f: 1-clip error under training augmentation %.2f %%", epoch, error)
        before = state.best_error
        # Equal errors are common with few videos; the later weights saw the lower rates.
        if error <= before:
            state.best_error = error
            if self.saver.save_best(state):
                state.best_error = before

    def _look(self, state: TrainState) -> None:
        """Records how the features are distributed, as in Fig. 6; after resuming if it is late."""
        if not self.ranks.is_main or state.unmeasured:
            return
        with self._memory_explained(lambda: "the percentiles of the features"):
            layers = self.monitor.percentiles(state.model)
        epoch = self.schedule.epoch(state.step)
        record = {"step": state.step, "epoch": epoch, "split": "percentiles", "layers": layers}
        self.tracker.keep(record)

    def _save(self, state: TrainState) -> None:
        """Keeps the state of this moment.

        Raises:
            OSError: there was no room, and no step comes after it.
        """
        error = self.saver.save_step(state)
        if error and (state.step >= self.last or distributed.any_rank(self.interrupted())):
            raise error

    def _mirror_training(self, state: TrainState) -> None:
        """Gives W&B what a finished training leaves: numbers and, if asked, checkpoints."""
        mirror = self.tracker.mirror
        if mirror is None:
            return
        parameters = sum(p.numel() for p in state.model.parameters())
        best = {"val/best_error_1clip_aug": state.best_error}
        mirror.summarize({"parameters": parameters} | best)
        for name in ("best", "last") if self.config.wandb.artifacts else ():
            path = self.folder / "checkpoints" / f"{name}.pt"
            if path.is_file():
                mirror.keep_file(path, "model", [name])

    def _test(self, state: TrainState) -> None:
        """Tests the last weights, the paper's way, with BN measured by the last monitoring."""
        with state.averaged():
            test_model(
                self.config,
                state.model,
                self.val_data,
                self.device,
                self.ranks,
                folder=self.folder,
                source={
                    "checkpoint": "last.pt",
                    "step": state.step,
                    "clips_per_step": self.schedule.global_batch,
                    "weights": "averaged" if state.ema else "last",
                },
                mirror=self.tracker.mirror,
                interrupted=self.interrupted,
            )
