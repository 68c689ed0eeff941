"""What a training would do, worked out without doing it: `run.py train --dry-run`."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from pathlib import Path

import torch

from videogn import build, fit
from videogn.config import Config
from videogn.config.explain import columns
from videogn.data.manifest import Manifest
from videogn.data.splits import require_disjoint
from videogn.data.tar import split_member
from videogn.engine import checkpoint
from videogn.engine.schedule import Schedule
from videogn.errors import DataError
from videogn.resume import folder_to_resume
from videogn.runs import has_checkpoints
from videogn.weights import KNOWN, find_weights, load_weights

_LOOKED_FOR = 1000  # videos of a split; a network file system takes a second for as many
_CROPS = {"full": 1, "center": 1, "three": 3}


def plan(config: Config, world: int) -> str:
    """Returns what training on `world` processes would do, a line for each part of it.

    Nothing is written, downloaded or run. What would be refused is, in the order of a training:
    data, then weights.

    Raises:
        VideognError: see `errors`.
    """
    device = build.pick_device(config)
    impl = build.norm_impl(config, device)
    train, val = (build.build_manifest(config, split) for split in ("train", "val"))
    require_disjoint(train, val)
    build.require_a_batch(config, len(train), world)
    schedule = build.build_schedule(config, len(train), world)
    folder = folder_to_resume(config)
    rows = [
        ("run", _run(config, folder)),
        ("device", f"{device}, {world} process(es); norms by {impl}"),
        ("data", f"{len(train)} train and {len(val)} val videos of {len(train.classes)} classes"),
        ("", f"{_found(train, 'train')}; {_found(val, 'val')}"),
        ("network", f"{config.model.arch}, {config.model.norm.kind.upper()} norm"),
        ("weights", _weights(config, train.classes, folder)),
        *_steps(config, schedule, world),
        *_memory(build.resolve(config, len(train.classes)), schedule, device),
        ("test", _test(config, len(val))),
    ]
    return columns(rows)


def _run(config: Config, folder: Path | None) -> str:
    if config.resume not in ("auto", "never"):
        step = checkpoint.load(config.resume)["step"]
        return f"a new one, from step {step} of {config.resume}"
    if folder is None:
        return f"a new one, in {config.run_dir or f'runs/{config.name}/<time>'}"
    if not has_checkpoints(folder):
        return f"{folder} again, from the first step"
    newest = max((folder / "checkpoints").glob("step_*.pt"))
    return f"goes on with {folder}, from step {int(newest.stem.removeprefix('step_'))}"


def _found(manifest: Manifest, split: str) -> str:
    """Returns how many of the videos lie where the list says.

    Raises:
        DataError: none of them does.
    """
    stride = ceil(len(manifest) / _LOOKED_FOR)
    paths = [manifest.paths[row] for row in range(0, len(manifest), stride)]
    files = [manifest.videos / (split_member(path) or (path,))[0] for path in paths]
    missing = [file for file in files if not file.is_file()]
    if len(missing) == len(files):
        raise DataError(
            f"{manifest.name}: none of {len(files)} videos is there, as {missing[0]}; data.videos "
            "names the folder they lie in"
        )
    some = "" if stride == 1 else f" looked for, of {len(manifest)},"
    said = f"{len(files) - len(missing)} of {len(files)} {split} videos{some} are there"
    return said + (f" (missing: {missing[0]})" if missing else "")


def _weights(config: Config, classes: tuple[str, ...], folder: Path | None) -> str:
    """Returns what the network starts from; a file that is here is loaded, to see that it fits."""
    init = config.model.init
    if folder is not None or config.resume not in ("auto", "never"):
        return "those of the run"
    if init is None:
        return "random"
    known = KNOWN.get(init)
    if known and not Path(init).is_file() and not known.cached.is_file():
        return f"{init}, to be downloaded from {known.url} ({known.megabytes} MB)"
    report = load_weights(
        build.build_model(config, len(classes)),
        find_weights(init),
        inflation=config.model.inflation,
        allow_norm_mismatch=config.model.init_allow_norm_mismatch,
        classes=classes,
    )
    return str(report)


def _steps(config: Config, schedule: Schedule, world: int) -> Iterator[tuple[str, str]]:
    optim = config.optim
    yield (
        "a step",
        f"{schedule.global_batch} clips = {optim.clips_per_gpu} clips x {optim.accumulate} "
        f"batch(es) x {world} process(es)",
    )
    yield "steps", schedule.describe()
    last = _last_step(config, schedule)
    if last < schedule.total_steps:
        yield "", f"stopped after {last} by optim.max_steps"
    if optim.warmup_epochs:
        risen = _step(schedule, optim.warmup_epochs)
        end = f"step {risen}" if risen < last else f"the end, to {schedule.lr(last - 1):g}"
        yield "", f"the rate rises until {end}"
    for epoch in optim.milestones:
        step = _step(schedule, epoch)
        if step < last:
            yield "", f"from step {step} (epoch {epoch:g}) on the rate is {schedule.lr(step):g}"
    every = config.eval.monitor_every_epochs
    rounds = min(int(schedule.epoch(last - 1) / every + 1e-9), last - 1) + 1
    yield "monitoring", f"{rounds} time(s): every {every:g} epochs and after the last step"


def _last_step(config: Config, schedule: Schedule) -> int:
    return min(schedule.total_steps, config.optim.max_steps or schedule.total_steps)


def _step(schedule: Schedule, epoch: float) -> int:
    """Returns the first step that begins at `epoch` or later."""
    return ceil(epoch * schedule.num_samples / schedule.global_batch - 1e-9)


def _memory(config: Config, schedule: Schedule, device: torch.device) -> Iterator[tuple[str, str]]:
    footprint = fit.predict(config, device="cpu" if device.type == "cpu" else "cuda")
    saved = ceil(_last_step(config, schedule) / config.save_every_steps)
    kept = min(saved, config.keep_checkpoints)
    yield (
        "checkpoints",
        f"{saved}: every {config.save_every_steps} steps and after the last, "
        f"{_size(footprint.state)} each; the last {kept} and the best are kept: "
        f"{_size((kept + 1) * footprint.state)} of disk",
    )
    memory = fit.device_memory(device)
    said = (
        f"{_size(footprint.total)} predicted for the tensors of a step in each process, without "
        f"Python, torch and the loader's workers; {_size(memory)} on this {device}"
    )
    if footprint.total > fit.USABLE * memory:
        said += ": too much; run.py fit shows what would fit"
    yield "memory", said


def _size(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _test(config: Config, num_videos: int) -> str:
    clips, crops = config.eval.num_clips, _CROPS[config.eval.crops]
    views = num_videos * clips * crops
    return f"{num_videos} videos x {clips} clips x {crops} crop(s) = {views} views"
