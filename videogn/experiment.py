"""The story of a training run: data, weights, training, and the test at its end."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from videogn import advice, build
from videogn.bad_samples import BadSamples
from videogn.config import Config, to_dict
from videogn.data.manifest import Manifest
from videogn.data.splits import require_disjoint
from videogn.engine import checkpoint, distributed, durable, memory, slurm, watchdog
from videogn.engine.distributed import Ranks
from videogn.engine.lock import locked
from videogn.engine.pace import WaitingAdvice
from videogn.engine.progress import duration, log_to_file, log_to_terminal, step_bar
from videogn.engine.schedule import Schedule
from videogn.engine.signals import noted_signals
from videogn.engine.tracking import NullTracker, Tracker
from videogn.engine.train import Hooks, TrainState, train
from videogn.errors import (
    ConfigError,
    RunInterruptedError,
    TrainingDivergedError,
    unusable_place,
)
from videogn.model.i3d import I3DResNet
from videogn.monitoring import Monitor
from videogn.resume import (
    folder_to_resume,
    not_finite,
    require_usable,
    restore_state,
    stream_of,
)
from videogn.runs import (
    claim_run_folder,
    has_checkpoints,
    read_json,
    rewind_records,
    spelled,
    write_json,
    write_run_files,
)
from videogn.testing import test_model, too_many_failed
from videogn.weights import load_weights

T = TypeVar("T")

# What a run writes as it goes, beside its checkpoints.
_RECORDS = (
    *("metrics.jsonl", "bad_samples.jsonl", "diverged.json"),
    *("test.json", "predictions.csv"),
)

log = logging.getLogger(__name__)


def run_training(config: Config) -> Path:
    """Trains and tests an experiment, going on with an unfinished run of it; returns its folder.

    What is wrong is found in this order, before anything is written: configuration (by the
    caller), data, weights.

    Raises:
        VideognError: see `errors`; its exit code says which kind.
    """
    device = build.pick_device(config)
    with watchdog.together(device, config.rank_timeout) as ranks:
        log_to_terminal(is_main=ranks.is_main)
        build.set_up_torch(config, device)
        impl = build.norm_impl(config, device)
        data = {split: build.build_manifest(config, split) for split in ("train", "val")}
        require_disjoint(data["train"], data["val"])
        build.require_a_batch(config, len(data["train"]), ranks.world)
        return _Run(config, data["train"], data["val"], device, ranks, impl).go()


@dataclass
class _Run:
    """One run.

    Attributes:
        folder: where it writes, once there is something to write.
        last: the step that it ends with, once its length is known.
        interrupted: whether a signal has come, once there is something to lose.
        unmeasured: whether the measuring due after the last step was broken off by one.
    """

    config: Config
    train_data: Manifest
    val_data: Manifest
    device: torch.device
    ranks: Ranks
    norm_impl: str
    origin: str = "init: random weights"
    unmeasured: bool = False

    def go(self) -> Path:
        """Trains, in the folder of the same experiment or in a new one, and tests; returns it."""
        with ExitStack() as stack:
            folder = distributed.on_main(lambda: self._folder_to_resume(stack))
            if folder and self.ranks.is_main:
                stack.enter_context(log_to_file(folder / "log.txt"))
            found = self._checkpoint(folder)
            state = self._restore(*found) if found else self._start()
            if folder and found:
                self._rewind(folder, state.step)
            # One that goes on in a new folder has a curve of its own.
            wandb_id = found[1]["wandb_id"] if folder and found else None
            self.folder = folder or distributed.on_main(lambda: self._new_folder(stack))
            if not folder and self.ranks.is_main:
                stack.enter_context(log_to_file(self.folder / "log.txt"))
            self._go_on(state, wandb_id, stack)
        return self.folder

    def _go_on(self, state: TrainState, wandb_id: str | None, stack: ExitStack) -> None:
        """Does what is left of the run; `stack` closes its files."""
        schedule = build.build_schedule(self.config, len(self.train_data), self.ranks.world)
        self.last = min(schedule.total_steps, self.config.optim.max_steps or schedule.total_steps)
        report = distributed.on_main(lambda: read_json(self.folder / "test.json"))
        if state.step >= self.last and report:
            if not too_many_failed(report, self.config):
                log.info(
                    "%s is finished, top-1 %.2f %%; resume=never starts another run",
                    self.folder,
                    report["top1"],
                )
                return
            log.info("%s is tested again: too many videos could not be read", self.folder)
        self.bad = BadSamples(
            self.folder / "bad_samples.jsonl",
            len(self.train_data),
            max_fraction=self.config.data.max_bad_fraction,
            is_main=self.ranks.is_main,
        )
        self.tracker = stack.enter_context(self._track(wandb_id))
        self._announce(state, schedule)
        with noted_signals() as self.interrupted, self._gone_on_with():
            self.monitor = Monitor(
                self.config,
                self.train_data,
                self.val_data,
                self.device,
                self.ranks,
                self.interrupted,
            )
            if self.unmeasured:
                self._catch_up(state, schedule)
            if state.step < self.last:
                self._train(state, schedule)
            self._mirror_training(state)
            self._test(state, schedule)

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

    def _folder_to_resume(self, stack: ExitStack) -> Path | None:
        """Returns the folder to go on in, which is this process's until `stack` is closed."""
        folder = folder_to_resume(self.config)
        if folder:
            self._take(folder, stack)
        return folder

    def _take(self, folder: Path, stack: ExitStack) -> None:
        """Locks a run folder, makes sure that it can be written to and sweeps it."""
        stack.enter_context(locked(folder))
        durable.require_writable(folder / "checkpoints")
        for place in (folder, folder / "checkpoints"):
            durable.remove_leftovers(place)

    def _checkpoint(self, folder: Path | None) -> tuple[Path, dict[str, Any]] | None:
        """Returns what to go on from: the newest of the folder, else the checkpoint asked for."""
        if folder:
            path = distributed.on_main(lambda: self._newest(folder / "checkpoints"))
            return (path, checkpoint.load(path)) if path else None
        if self.config.resume in ("auto", "never"):
            return None
        path = Path(self.config.resume)
        contents = checkpoint.load(path)
        require_usable(path, contents)
        return path, contents

    def _newest(self, folder: Path) -> Path | None:
        found = checkpoint.newest(folder, require_usable)
        if found is None:
            return None
        checkpoint.publish(found[0], "last.pt")  # a kill may have come between the two
        return found[0]

    def _new_folder(self, stack: ExitStack) -> Path:
        """Returns the folder of a new run with what describes it; as `_folder_to_resume`."""
        run_dir, base = self.config.run_dir, Path("runs") / self.config.name
        folder = Path(run_dir) if run_dir else claim_run_folder(base)
        self._take(folder, stack)
        if has_checkpoints(folder):
            raise ConfigError(f"run_dir={folder} holds a run by now; give the same command again")
        for name in _RECORDS:  # of a run that was killed before its first checkpoint
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / "partial", ignore_errors=True)
        data = {
            split: {"videos": len(manifest), "sha256": manifest.content_hash}
            for split, manifest in (("train", self.train_data), ("val", self.val_data))
        }
        write_run_files(folder, to_dict(self.config), self.ranks.world, data)
        return folder

    def _start(self) -> TrainState:
        """Returns the state before the first step, with pre-trained weights."""
        classes = self.train_data.classes
        model = build.build_model(self.config, len(classes))
        mean = std = None
        if self.config.model.init:
            report = load_weights(
                model,
                self.config.model.init,
                inflation=self.config.model.inflation,
                allow_norm_mismatch=self.config.model.init_allow_norm_mismatch,
                classes=classes,
            )
            self.origin = f"init: {report}"
            mean, std = report.mean, report.std
        self.config = build.resolve(self.config, len(classes), mean, std)
        return build.build_state(self.config, model, self.device)

    def _restore(self, path: Path, contents: dict[str, Any]) -> TrainState:
        """Returns the state of a checkpoint, everything as it was."""
        self.config, state = restore_state(
            self.config, path, contents, self.train_data, self.device, self.ranks.world
        )
        self.unmeasured = contents["metrics"].get("unmeasured", False)
        self.origin = f"going on with {path}, step {state.step}"
        return state

    def _rewind(self, folder: Path, step: int) -> None:
        """Drops the records of steps after the one that the run in `folder` goes on from."""
        if self.config.resume != "auto":
            self.origin += f" (resume={self.config.resume} was for the job's first start)"
        if self.ranks.is_main:
            rewind_records(folder / "metrics.jsonl", step, measured=not self.unmeasured)
            rewind_records(folder / "bad_samples.jsonl", step)

    def _track(self, wandb_id: str | None) -> Tracker | NullTracker:
        if not self.ranks.is_main:
            return NullTracker()
        facts = read_json(self.folder / "env.json") or {}
        mirror = build.build_mirror(
            self.config, self.folder, facts=facts, job_type="train", wandb_id=wandb_id
        )
        return Tracker(self.folder, mirror)

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

    def _announce(self, state: TrainState, schedule: Schedule) -> None:
        model = state.model
        parameters = sum(p.numel() for p in model.parameters())
        norm, model_config = self.config.model.norm, self.config.model
        log.info("run %s on %s, %d process(es)", self.folder, self.device, self.ranks.world)
        log.info(self.origin)
        log.info(
            "%s, %s norm, %s parameters, %d train and %d val videos of %d classes",
            model_config.arch,
            norm.kind.upper(),
            f"{parameters:,}",
            len(self.train_data),
            len(self.val_data),
            len(self.train_data.classes),
        )
        log.info("norm: %s", self.norm_impl)
        log.info(schedule.describe())
        limit = self.config.optim.max_steps
        if limit and limit < schedule.total_steps:
            log.info("stops after %d of these steps: optim.max_steps", limit)

    def _catch_up(self, state: TrainState, schedule: Schedule) -> None:
        """Measures what a signal broke off, before the next step is taken."""
        self._monitor(state, schedule)
        if schedule.crosses(state.step, self.config.eval.percentiles_every_epochs):
            self._look(state, schedule)
        self._save(state)  # with BN's statistics as measured
        if self.unmeasured:
            raise RunInterruptedError(
                f"interrupted at step {state.step} of {self.last}; the checkpoint is saved, and "
                "the same command goes on from it"
            )

    def _train(self, state: TrainState, schedule: Schedule) -> None:
        accumulate = self.config.optim.accumulate
        start = state.step * accumulate
        batches = build.build_train_loader(
            self.config, self.train_data, self.ranks, start=start, stop=self.last * accumulate
        )
        self.waiting = WaitingAdvice()
        clips = schedule.global_batch
        with (
            step_bar(
                start=state.step, total=self.last, clips_per_step=clips, shown=self.ranks.is_main
            ) as stepped,
            self._memory_explained(lambda: f"step {state.step + 1}"),
        ):
            hooks = Hooks(
                log=lambda record: self._log(record, schedule),
                bad=lambda videos: self.bad.note(videos, state.step + 1),
                diverged=lambda record: self._dump(record, schedule),
                stepped=stepped,
                save=self._save,
                monitor=lambda state: self._monitor(state, schedule),
                interrupted=self.interrupted,
                look=lambda state: self._look(state, schedule),
            )
            train(
                state,
                batches,
                schedule=schedule,
                options=build.build_train_options(self.config),
                to_input=build.build_to_input(self.config, self.device),
                ranks=self.ranks,
                hooks=hooks,
            )

    def _memory_explained(self, doing: Callable[[], str]) -> AbstractContextManager[None]:
        """Says what needs less memory when there is none left while `doing` something."""
        return memory.explained(doing, self.device, advice.for_training_memory(self.config))

    def _log(self, record: Mapping[str, Any], schedule: Schedule) -> None:
        self.tracker.log(record)
        left = (self.last - record["step"]) * schedule.global_batch / record["clips_per_s"]
        log.info(
            "step %d epoch %.2f loss %.4f lr %.3g %.1f clips/s data %.0f %% %s left",
            record["step"],
            record["epoch"],
            record["loss"],
            record["lr"],
            record["clips_per_s"],
            100 * record["data_wait"],
            duration(left),
        )
        if self.waiting.is_due(record["data_wait"]):
            share, words = 100 * record["data_wait"], advice.for_waiting(self.config)
            log.info("%.0f %% of the time went by waiting for data: %s", share, words)

    def _dump(self, record: Mapping[str, Any], schedule: Schedule) -> None:
        """Writes down which videos made the numbers go bad, on all ranks, if there is room."""
        paths = self.train_data.paths
        named = [part | {"paths": [paths[i] for i in part["rows"]]} for part in record["ranks"]]
        epoch = schedule.epoch(record["step"])
        if self.ranks.is_main:
            with _only_a_warning("what diverged is not written down"):
                dump = spelled({**record, "epoch": epoch, "ranks": named})
                write_json(self.folder / "diverged.json", dump)

    def _monitor(self, state: TrainState, schedule: Schedule) -> None:
        """Measures the 1-clip error of Fig. 7 and keeps the best checkpoint for users.

        A signal breaks it off. Then the state is as it was, to be measured on resuming.
        """
        with state.averaged(), self._memory_explained(lambda: "the monitoring"):
            epoch = schedule.epoch(state.step)
            errors = self.monitor.measure(state.model, step=state.step, epoch=epoch)
        self.unmeasured = errors is None
        if errors is None:
            return
        error = errors["val/error_1clip_aug"]
        self.tracker.log({"step": state.step, "epoch": epoch, "split": "val", **errors})
        log.info("epoch %.2f: 1-clip error under training augmentation %.2f %%", epoch, error)
        before = state.best_error
        # Equal errors are common with few videos; the later weights saw the lower rates.
        if error <= before:
            state.best_error = error
            if self._why_not_kept(state, self._save_best):
                state.best_error = before

    def _look(self, state: TrainState, schedule: Schedule) -> None:
        """Records how the features are distributed, as in Fig. 6; after resuming if it is late."""
        if not self.ranks.is_main or self.unmeasured:
            return
        with self._memory_explained(lambda: "the percentiles of the features"):
            layers = self.monitor.percentiles(state.model)
        epoch = schedule.epoch(state.step)
        record = {"step": state.step, "epoch": epoch, "split": "percentiles", "layers": layers}
        self.tracker.keep(record)

    def _test(self, state: TrainState, schedule: Schedule) -> dict[str, Any]:
        """Tests the last weights, the paper's way, with BN measured by the last monitoring."""
        with state.averaged():
            return test_model(
                self.config,
                state.model,
                self.val_data,
                self.device,
                self.ranks,
                folder=self.folder,
                source={
                    "checkpoint": "last.pt",
                    "step": state.step,
                    "clips_per_step": schedule.global_batch,
                    "weights": "averaged" if state.ema else "last",
                },
                mirror=self.tracker.mirror,
                interrupted=self.interrupted,
            )

    def _save(self, state: TrainState) -> None:
        """Keeps the state of this moment.

        Raises:
            OSError: there was no room, and no step comes after it.
        """
        error = self._why_not_kept(state, self._save_step)
        if error and (state.step >= self.last or distributed.any_rank(self.interrupted())):
            raise error

    def _why_not_kept(
        self, state: TrainState, write: Callable[[dict[str, Any]], None]
    ) -> OSError | None:
        """Writes a checkpoint; returns what was in the way, with a warning, None if nothing was.

        Raises:
            TrainingDivergedError: the weights are of no use; those saved before are as they were.
        """
        watchdog.now(f"the saving of step {state.step}")  # monitoring has ended its own
        try:
            distributed.on_main(lambda: write(self._contents(state)))
        except OSError as error:
            log.warning("step %d is not saved: %s", state.step, unusable_place(error))
            return error
        return None

    def _save_step(self, contents: dict[str, Any]) -> None:
        # The records up to here must survive what the checkpoint survives.
        durable.sync_file(self.folder / "metrics.jsonl")
        folder = self.folder / "checkpoints"
        path = checkpoint.step_file(folder, contents["step"])
        _require_finite(contents)
        checkpoint.save(path, contents)
        with _only_a_warning(f"last.pt is not step {contents['step']} yet"):
            checkpoint.publish(path, "last.pt")
        with _only_a_warning("older checkpoints are not removed"):
            checkpoint.prune(folder, self.config.keep_checkpoints, path)

    def _save_best(self, contents: dict[str, Any]) -> None:
        _require_finite(contents)
        checkpoint.save(self.folder / "checkpoints" / "best.pt", contents)

    def _contents(self, state: TrainState) -> dict[str, Any]:
        model = state.model
        assert isinstance(model, I3DResNet)
        schedule = build.build_schedule(self.config, len(self.train_data), self.ranks.world)
        return {
            "model": model.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "scaler": state.scaler.state_dict(),
            "ema": state.ema.state_dict() if state.ema else None,
            "step": state.step,
            "epoch": schedule.epoch(state.step),
            "config": to_dict(self.config),
            "classes": list(self.train_data.classes),
            "fingerprint": build.fingerprint(self.config, model),
            "stream": stream_of(self.config, schedule, self.train_data),
            "metrics": {
                "best_error": state.best_error,
                "losses": list(state.losses),
                "overflows": state.overflows,
                "unmeasured": self.unmeasured,
            },
            "wandb_id": self.tracker.wandb_id,
        }


@contextmanager
def _only_a_warning(what: str) -> Iterator[None]:
    """Says `what` if the disk fails within the context, and no more."""
    try:
        yield
    except OSError as error:
        log.warning("%s: %s", what, unusable_place(error))


def _require_finite(contents: Mapping[str, Any]) -> None:
    """Raises TrainingDivergedError for weights, statistics or momentum with NaN or infinity."""
    bad = not_finite(contents)
    if bad:
        raise TrainingDivergedError(
            f"{len(bad)} tensors of step {contents['step']} are not finite, {bad[0]} first; it is "
            "not saved; lower optim.base_lr"
        )
