"""Tests: a checkpoint under any protocol, and the test at the end of a training run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from videogn import advice, build
from videogn.config import Config, config_from, to_dict
from videogn.data.manifest import Manifest
from videogn.engine import checkpoint, memory, watchdog
from videogn.engine.distributed import Ranks, gather, on_main
from videogn.engine.evaluate import ViewAverager, evaluate
from videogn.engine.lock import locked
from videogn.engine.partial import PartialScores
from videogn.engine.progress import log_to_terminal, track
from videogn.engine.signals import noted_signals
from videogn.engine.wandb_mirror import WandbMirror
from videogn.errors import ConfigError, DataError
from videogn.report.prediction_table import COLUMNS, choose, read_rows, with_clips
from videogn.report.predictions import write_predictions
from videogn.restoring import ANYWHERE, require_same_classes, restore_model
from videogn.runs import environment, has_checkpoints, test_folder, write_config, write_json
from videogn.trained import read_trained

log = logging.getLogger(__name__)


def run_test(path: str | Path, overrides: Sequence[str], out: Path | None) -> dict[str, Any]:
    """Tests a checkpoint under the protocol it was trained for, or another; returns `test.json`.

    Args:
        path: the checkpoint.
        overrides: `dotted.key=value`, most often of `eval` or `data.root`.
        out: folder of the results; by default one beside the run's checkpoints, named after the
            protocol, so that the run's own test stays.

    Raises:
        DataError: more videos failed than `data.max_bad_fraction` allows; the result is written.
    """
    contents = read_trained(path)
    config = config_from(contents["config"], [*ANYWHERE, *overrides], where=str(path))
    device = build.pick_device(config)
    with watchdog.together(device, config.rank_timeout) as ranks:
        log_to_terminal(is_main=ranks.is_main)
        build.set_up_torch(config, device)
        manifest = build.build_manifest(config, "val")
        model = restore_model(config, contents, path).to(device)
        require_same_classes(contents["classes"], manifest, path)
        folder = out or test_folder(
            Path(path), contents["step"], to_dict(config), contents["config"]
        )
        source = {
            "checkpoint": Path(path).name,
            "step": contents["step"],
            "clips_per_step": contents["stream"]["global_batch"],
            "weights": "averaged" if contents["ema"] else "last",
        }
        with ExitStack() as stack:
            mirror = None
            on_main(lambda: _take(folder, stack))
            interrupted = stack.enter_context(noted_signals())
            if ranks.is_main:
                write_config(folder, to_dict(config))
                facts = environment() | {"world_size": ranks.world}
                mirror = build.build_mirror(config, folder, facts=facts, job_type="test")
                stack.enter_context(mirror)
            return test_model(
                config,
                model,
                manifest,
                device,
                ranks,
                folder=folder,
                source=source,
                mirror=mirror,
                interrupted=interrupted,
            )


def _take(folder: Path, stack: ExitStack) -> None:
    """Locks the folder of a test, which is this process's until `stack` is closed."""
    stack.enter_context(locked(folder))
    if has_checkpoints(folder):
        raise ConfigError(
            f"--out {folder} holds a run, whose config.yaml and test.json would be overwritten; "
            "choose another folder"
        )


def test_model(
    config: Config,
    model: nn.Module,
    manifest: Manifest,
    device: torch.device,
    ranks: Ranks,
    *,
    folder: Path,
    source: Mapping[str, Any],
    mirror: WandbMirror | None,
    interrupted: Callable[[], bool],
) -> dict[str, Any]:
    """Runs the multi-clip test and writes `test.json` and `predictions.csv`; returns the former.

    Goes on with one of the same weights, videos and views that was broken off in `folder`.

    Raises:
        RunInterruptedError: a signal came; the scores so far are saved.
        DataError: more videos failed than `data.max_bad_fraction` allows, after writing.
    """
    watchdog.now("the beginning of the test")
    protocol = build.build_view_spec(config).describe()
    scores = _score(config, model, manifest, device, ranks, folder / "partial", interrupted)
    result = scores.averager.result()
    failed = {row: why for part in gather(scores.averager.reasons) for row, why in part.items()}
    report = {
        "top1": result.top1,
        "top5": result.top5,
        "top1_decoded": result.top1_decoded,
        "num_videos": result.num_videos,
        "num_decoded": result.num_decoded,
        "failed": [{"path": manifest.paths[row], "reason": failed[row]} for row in sorted(failed)],
        "protocol": protocol,
        **source,
    }

    def write() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_predictions(folder / "predictions.csv", manifest, result, failed)
        write_json(folder / "test.json", report)
        scores.discard()

    on_main(write)  # before any rank ends for what failed, and all others with it
    if ranks.is_main:
        _tell(report)
        if mirror:
            _mirror_test(mirror, config, manifest, report, folder)
    refuse_failures(report, config, folder)
    return report


def _score(
    config: Config,
    model: nn.Module,
    manifest: Manifest,
    device: torch.device,
    ranks: Ranks,
    folder: Path,
    interrupted: Callable[[], bool],
) -> PartialScores:
    """Returns the scores of all videos, summed up on every rank; `folder` keeps those so far."""
    spec = build.build_view_spec(config)
    averager = ViewAverager(len(manifest), spec.num_views, len(manifest.classes))
    identity = on_main(lambda: _identity(config, model, manifest, device))
    scores = PartialScores(folder, identity, averager, ranks, interrupted)
    done = scores.restore()
    rows = [row for row in range(len(manifest)) if row not in done][ranks.rank :: ranks.world]
    scores.expect(len(rows))
    videos = build.build_video_loader(config, manifest, rows)
    if ranks.is_main:
        log.info("testing %d videos: %s", len(manifest), spec.describe())
        videos = track(videos, total=len(rows), what="test", unit="videos")
    with memory.explained(lambda: "the test", device, lambda: advice.for_test_memory(config)):
        evaluate(
            model,
            watchdog.each(videos, "the test", ranks),
            averager,
            to_input=build.build_to_input(config, device),
            device=device,
            views_per_forward=config.eval.views_per_forward,
            after_video=scores.after_video,
        )
    averager.reduce()
    return scores


def _tell(report: Mapping[str, Any]) -> None:
    log.info(
        "top-1 %.2f %%, top-5 %.2f %% over %d videos (%d failed): %s",
        report["top1"],
        report["top5"],
        report["num_videos"],
        len(report["failed"]),
        report["protocol"],
    )
    for entry in report["failed"]:
        log.warning("failed: %s: %s", entry["path"], entry["reason"])


def _identity(config: Config, model: nn.Module, manifest: Manifest, device: torch.device) -> str:
    """Returns the digest of all that decides a score: weights, videos, views, input, arithmetic."""
    return checkpoint.digest(
        {
            "weights": model.state_dict(),
            "videos": [manifest.content_hash, str(manifest.videos), config.data.decoder],
            "views": asdict(build.build_view_spec(config)),
            "input": [list(config.data.mean), list(config.data.std)],
            "arithmetic": [torch.__version__, device.type, build.norm_impl(config, device)],
        }
    )


def _mirror_test(
    mirror: WandbMirror,
    config: Config,
    manifest: Manifest,
    report: Mapping[str, Any],
    folder: Path,
) -> None:
    """Shows W&B the result, and `wandb.predictions` videos with what they were taken for."""
    numbers = {key: report[key] for key in ("top1", "top5", "num_videos", "protocol")}
    numbers["failed"] = len(report["failed"])
    mirror.summarize({f"test/{key}": value for key, value in numbers.items()})
    if not (mirror.alive and config.wandb.predictions):
        return
    rows = choose(read_rows(folder / "predictions.csv"), config.wandb.predictions)
    opener = build.build_opener(config, manifest)
    table = with_clips(rows, partial(opener, index=None), folder / "wandb" / "clips")
    mirror.show("test/predictions", COLUMNS, table)


def refuse_failures(report: Mapping[str, Any], config: Config, folder: Path) -> None:
    """Raises DataError if too many videos of a test failed."""
    failed, num_videos = len(report["failed"]), report["num_videos"]
    if too_many_failed(report, config):
        raise DataError(
            f"{failed} of {num_videos} videos could not be read, more than data.max_bad_fraction="
            f"{config.data.max_bad_fraction} allows; they are listed in {folder / 'test.json'} and "
            "count as wrong"
        )


def too_many_failed(report: Mapping[str, Any], config: Config) -> bool:
    """Returns whether more videos of a test failed than `data.max_bad_fraction` allows."""
    return len(report["failed"]) > config.data.max_bad_fraction * report["num_videos"]
