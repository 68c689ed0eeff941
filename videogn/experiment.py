"""The story of a training run: data, weights, training, and the test at its end."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import torch

from videogn import build
from videogn.config import Config, to_dict
from videogn.data.dataset import BadVideo, ClipBatch
from videogn.data.manifest import Manifest
from videogn.data.splits import require_disjoint
from videogn.engine import checkpoint, distributed
from videogn.engine.distributed import Ranks
from videogn.engine.evaluate import clip_error
from videogn.engine.precise_bn import average_bn, batch_norms, precise_bn
from videogn.engine.progress import log_to_file, log_to_terminal, track
from videogn.engine.schedule import Schedule
from videogn.engine.signals import noted_signals
from videogn.engine.tracking import NullTracker, Tracker
from videogn.engine.train import Hooks, TrainState, train
from videogn.errors import CheckpointError, ConfigError, DataError
from videogn.model.i3d import I3DResNet, complete_fingerprint
from videogn.runs import (
    claim_run_folder,
    differing_keys,
    find_resumable,
    read_config,
    read_json,
    read_records,
    rewind_records,
    write_run_files,
)
from videogn.testing import refuse_failures, require_same_classes, restore_model, test_model
from videogn.weights import load_weights

log = logging.getLogger(__name__)


def run_training(config: Config) -> Path:
    """Trains and tests an experiment, going on with an unfinished run of it; returns its folder.

    What is wrong is found in this order, before anything is written: configuration (by the
    caller), data, weights.

    Raises:
        VideognError: see `errors`; its exit code says which kind.
    """
    device = build.pick_device(config)
    ranks = distributed.join(device)
    log_to_terminal(is_main=ranks.is_main)
    build.set_up_torch(config, device)
    impl = build.norm_impl(config, device)
    try:
        data = {split: build.build_manifest(config, split) for split in ("train", "val")}
        require_disjoint(data["train"], data["val"])
        build.require_a_batch(config, len(data["train"]), ranks.world)
        return _Run(config, data["train"], data["val"], device, ranks, impl).go()
    finally:
        distributed.leave()


@dataclass
class _Run:
    """One run; `folder` is where it writes, once there is something to write."""

    config: Config
    train_data: Manifest
    val_data: Manifest
    device: torch.device
    ranks: Ranks
    norm_impl: str
    origin: str = "init: random weights"

    def go(self, folder: Path | None) -> Path:
        """Trains, on in `folder` or in a new one, and tests; returns the folder."""
        with ExitStack() as stack:
            if folder and self.ranks.is_main:
                stack.enter_context(log_to_file(folder / "log.txt"))
            found = self._checkpoint(folder)
            state, wandb_id = self._restore(*found) if found else (self._start(), None)
            self.folder = folder or self._new_folder()
            if not folder and self.ranks.is_main:
                stack.enter_context(log_to_file(self.folder / "log.txt"))
            self._go_on(state, wandb_id, stack)
        return self.folder

    def _go_on(self, state: TrainState, wandb_id: str | None, stack: ExitStack) -> None:
        """Does what is left of the run; `stack` closes its files."""
        schedule = build.build_schedule(self.config, len(self.train_data), self.ranks.world)
        last = min(schedule.total_steps, self.config.optim.max_steps or schedule.total_steps)
        report = read_json(self.folder / "test.json")
        if state.step >= last and report:
            log.info("%s is finished; resume=never starts another run", self.folder)
            refuse_failures(report, self.config, self.folder)
            return
        self.bad = _BadSamples(self.folder, len(self.train_data), self.config)
        self.tracker = stack.enter_context(self._track(wandb_id))
        self._announce(state, schedule)
        if state.step < last:
            with noted_signals() as interrupted:
                self._train(state, schedule, last, interrupted)
        self._mirror_training(state)
        self._test(state, schedule)

    def _checkpoint(self, folder: Path | None) -> tuple[Path, dict[str, Any]] | None:
        """Returns what to go on from: the checkpoint asked for, else the folder's newest."""
        if self.config.resume not in ("auto", "never"):
            path = Path(self.config.resume)
            return path, checkpoint.load(path)
        return checkpoint.newest(folder / "checkpoints") if folder else None

    def _new_folder(self) -> Path:
        """Returns the folder of a new run, the same on all ranks, with what describes it."""
        folder = ""
        if self.ranks.is_main:
            base = Path("runs") / self.config.name
            made = Path(self.config.run_dir) if self.config.run_dir else claim_run_folder(base)
            data = {
                split: {"videos": len(manifest), "sha256": manifest.content_hash()}
                for split, manifest in (("train", self.train_data), ("val", self.val_data))
            }
            write_run_files(made, to_dict(self.config), self.ranks.world, data)
            folder = str(made)
        return Path(distributed.from_main(folder))

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

    def _restore(self, path: Path, contents: dict[str, Any]) -> tuple[TrainState, str | None]:
        """Returns the state of a checkpoint and its W&B id, everything as it was."""
        stored = contents["config"]["data"]
        self.config = build.resolve(
            self.config, len(contents["classes"]), stored["mean"], stored["std"]
        )
        model = restore_model(self.config, contents, path)
        have = complete_fingerprint(contents["fingerprint"])
        wanted = build.fingerprint(self.config, model)
        differ = [key for key in wanted if have.get(key) != wanted[key]]
        if differ:
            raise CheckpointError(
                f"{path} was trained with {differ[0]}={have.get(differ[0])}, not "
                f"{wanted[differ[0]]}; start anew with resume=never"
            )
        require_same_classes(contents["classes"], self.train_data, path)
        schedule = build.build_schedule(self.config, len(self.train_data), self.ranks.world)
        for key, value in self._stream(schedule).items():
            if contents["stream"][key] != value:
                raise CheckpointError(
                    f"{path} was trained with {key}={contents['stream'][key]}, not {value}: its "
                    "steps would mean other places in the data; change data.clips_per_decode, "
                    "optim.accumulate or the number of processes to match, or start anew with "
                    "resume=never"
                )
        state = build.build_state(self.config, model, self.device)
        # The momentum buffers are the checkpoint's; the recipe is the config's, which resume=path
        # may have changed.
        recipe = {"param_groups": state.optimizer.state_dict()["param_groups"]}
        state.optimizer.load_state_dict(contents["optimizer"] | recipe)
        state.scaler.load_state_dict(contents["scaler"])
        state.step, metrics = contents["step"], contents["metrics"]
        state.best_error, state.losses = metrics["best_error"], list(metrics["losses"])
        self.origin = f"going on with {path}, step {state.step}"
        if self.config.resume not in ("auto", "never"):
            return state, None  # a new run, with a curve of its own
        if self.ranks.is_main:
            rewind_records(path.parent.parent / "metrics.jsonl", state.step)
        return state, contents["wandb_id"]

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

    def _train(self, state: TrainState, schedule: Schedule, last: int, interrupted: Any) -> None:
        accumulate = self.config.optim.accumulate
        start = state.step * accumulate
        batches = build.build_train_loader(
            self.config, self.train_data, self.ranks, start=start, stop=last * accumulate
        )
        if self.ranks.is_main:
            batches = track(
                batches, total=last * accumulate, what="train", unit="batches", start=start
            )
        hooks = Hooks(
            log=self._log,
            bad=self.bad.note,
            save=self._save,
            monitor=lambda state: self._monitor(state, schedule),
            interrupted=interrupted,
        )
        train(
            state,
            iter(batches),
            schedule=schedule,
            options=build.build_train_options(self.config),
            to_input=build.build_to_input(self.config, self.device),
            ranks=self.ranks,
            hooks=hooks,
        )

    def _log(self, record: Mapping[str, Any]) -> None:
        self.tracker.log(record)
        log.info(
            "step %d epoch %.2f loss %.4f lr %.3g %.1f clips/s data %.0f %%",
            record["step"],
            record["epoch"],
            record["loss"],
            record["lr"],
            record["clips_per_s"],
            100 * record["data_wait"],
        )

    def _monitor(self, state: TrainState, schedule: Schedule) -> None:
        """Measures the 1-clip error of Fig. 7 and keeps the best checkpoint for users."""
        self._measure_bn(state)
        epoch = schedule.epoch(state.step)
        batches = build.build_monitor_loader(
            self.config, self.val_data, self.ranks, epoch=round(epoch)
        )
        to_input = build.build_to_input(self.config, self.device)
        errors = clip_error(state.model, _named(batches), len(self.val_data), to_input=to_input)
        self.tracker.log({"step": state.step, "epoch": epoch, "split": "val", **errors})
        error = errors["val/error_1clip_aug"]
        log.info("epoch %.2f: 1-clip error under training augmentation %.2f %%", epoch, error)
        if error < state.best_error:
            state.best_error = error
            if self.ranks.is_main:
                checkpoint.save(self.folder / "checkpoints" / "best.pt", self._contents(state))

    def _measure_bn(self, state: TrainState) -> None:
        """Measures BN's population statistics on coming training batches, at most an epoch's."""
        if not self.config.eval.precise_bn_batches:
            average_bn(state.model)
            return
        if not batch_norms(state.model):
            return
        per_rank = self.config.optim.clips_per_gpu * self.ranks.world
        count = min(self.config.eval.precise_bn_batches, ceil(len(self.train_data) / per_rank))
        start = state.step * self.config.optim.accumulate
        batches = build.build_train_loader(
            self.config, self.train_data, self.ranks, start=start, stop=start + count
        )
        to_input = build.build_to_input(self.config, self.device)
        precise_bn(state.model, batches, to_input=to_input)

    def _test(self, state: TrainState, schedule: Schedule) -> dict[str, Any]:
        """Tests the last weights, the paper's way, with BN measured by the last monitoring."""
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
            },
            mirror=self.tracker.mirror,
        )

    def _save(self, state: TrainState) -> None:
        if self.ranks.is_main:
            folder = self.folder / "checkpoints"
            path = checkpoint.step_file(folder, state.step)
            checkpoint.save(path, self._contents(state))
            checkpoint.publish(path, "last.pt")
            checkpoint.prune(folder, self.config.keep_checkpoints, path)
        distributed.barrier()

    def _contents(self, state: TrainState) -> dict[str, Any]:
        model = state.model
        assert isinstance(model, I3DResNet)
        schedule = build.build_schedule(self.config, len(self.train_data), self.ranks.world)
        return {
            "model": model.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "scaler": state.scaler.state_dict(),
            "ema": None,
            "step": state.step,
            "epoch": schedule.epoch(state.step),
            "config": to_dict(self.config),
            "classes": list(self.train_data.classes),
            "fingerprint": build.fingerprint(self.config, model),
            "stream": self._stream(schedule),
            "metrics": {"best_error": state.best_error, "losses": list(state.losses)},
            "wandb_id": self.tracker.wandb_id,
        }

    def _stream(self, schedule: Schedule) -> dict[str, int]:
        """Returns what must stay the same for a step to mean the same place in the data."""
        return {
            "num_samples": schedule.num_samples,
            "global_batch": schedule.global_batch,
            "clips_per_decode": self.config.data.clips_per_decode,
        }


def _named(batches: Iterable[ClipBatch]) -> Iterator[ClipBatch]:
    """Yields `batches`, naming the videos of each that could not be read."""
    for batch in batches:
        for video in batch.bad:
            log.warning("counts as an error: %s: %s", video.path, video.reason)
        yield batch


class _BadSamples:
    """The training videos that were replaced: counted, listed once each, and not too many."""

    def __init__(self, folder: Path, num_videos: int, config: Config) -> None:
        self.path, self.num_videos = folder / "bad_samples.jsonl", num_videos
        self.max_fraction = config.data.max_bad_fraction
        self.rows: set[int] = set()
        if self.path.is_file():
            self.rows = {record["row"] for record in read_records(self.path)}

    def note(self, bad: Sequence[BadVideo]) -> None:
        """Lists the new ones among `bad`.

        Raises:
            DataError: too large a share of the data is bad.
        """
        for video in bad:
            if video.row in self.rows:
                continue
            self.rows.add(video.row)
            log.warning("bad video, another takes its place: %s: %s", video.path, video.reason)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(video._asdict()) + "\n")
        if len(self.rows) > self.max_fraction * self.num_videos:
            raise DataError(
                f"{len(self.rows)} of {self.num_videos} training videos cannot be read, more than "
                f"data.max_bad_fraction={self.max_fraction} allows; see {self.path}"
            )


def _folder_to_resume(config: Config) -> Path | None:
    """Returns the folder of a run of the same experiment to go on with, None for a new one.

    Raises:
        ConfigError: `run_dir` holds a run that must not be gone on with.
    """
    if not config.run_dir:
        base = Path("runs") / config.name
        return find_resumable(base, to_dict(config)) if config.resume == "auto" else None
    folder = Path(config.run_dir)
    if not any((folder / "checkpoints").glob("step_*.pt")):
        return None
    if config.resume != "auto":
        raise ConfigError(f"run_dir={folder} holds a run already; choose another, or resume=auto")
    differ = differing_keys(to_dict(config), read_config(folder) or {})
    if differ:
        raise ConfigError(
            f"run_dir={folder} holds a run of another experiment ({', '.join(differ[:5])} differ); "
            "choose another folder"
        )
    return folder
