"""The analysis of a checkpoint: what its test, its training, its data and videos say of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from videogn import build
from videogn.analysis.cam_video import no_heat, write_cam
from videogn.analysis.found import Analysis, Cam, Wish
from videogn.analysis.grad_cam import find_layer, heat_of_video
from videogn.analysis.leftovers import cam_names
from videogn.analysis.noise import FEWEST_CLIPS, measure_noise
from videogn.config import Config, config_from
from videogn.data.pyav_reader import PyAVReader
from videogn.engine import memory
from videogn.engine.progress import log_to_terminal, track
from videogn.errors import ConfigError, DataError, RunInterruptedError, VideognError
from videogn.predict.classifier import Classifier
from videogn.report.predictions import read_predictions
from videogn.report.records import is_number
from videogn.restoring import ANYWHERE, restore_model
from videogn.runs import read_json, read_records
from videogn.testing import run_test
from videogn.trained import read_trained


def analyze(wish: Wish) -> Analysis:
    """Returns all that can be found; the videos with heat are then written.

    Raises:
        CheckpointError: no such checkpoint, or a damaged one.
        ConfigError: an override, a class or a layer is unknown.
    """
    log_to_terminal()
    contents = read_trained(wish.checkpoint)
    overrides = [*ANYWHERE, *wish.overrides]
    config = config_from(contents["config"], overrides, where=str(wish.checkpoint))
    device = build.pick_device(config)
    build.set_up_torch(config, device)
    model = restore_model(config, contents, wish.checkpoint).to(device).eval()
    model.requires_grad_(False)  # Grad-CAM needs derivatives by maps, nothing by weights
    classifier = Classifier(
        model,
        contents["classes"],
        build.build_view_spec(config),
        to_input=build.build_to_input(config, device),
        device=device,
        views_per_forward=config.eval.views_per_forward,
    )
    layer = find_layer(model, wish.layer)
    class_id = _class_id(wish.label, classifier.classes)
    run = _run_folder(wish.checkpoint)
    name = f"analysis_{wish.checkpoint.stem}_{contents['step']:09d}"
    found = Analysis(
        folder=wish.out or run / name,
        checkpoint=wish.checkpoint.name,
        step=contents["step"],
        norm=config.model.norm.kind.upper(),
    )
    found.folder.mkdir(parents=True, exist_ok=True)
    _read_test(found, wish, run)
    wanted = config.eval.percentiles_every_epochs > 0
    _read_percentiles(found, run / "metrics.jsonl", wanted=wanted)
    if wish.clips:
        with _noted_if_it_fails(found, "The noise of batches"):
            _add_noise(found, wish, config, model)
    for video, file in zip(wish.videos, cam_names(wish.videos), strict=True):
        with _noted_if_it_fails(found, "Where it looks"):
            _add_cam(found, video, file, classifier, layer, class_id)
    return found


def _class_id(label: str | None, classes: Sequence[str]) -> int | None:
    if label is None:
        return None
    if label not in classes:
        some = ", ".join(classes[:8])
        raise ConfigError(f"--class {label!r} is none of the {len(classes)} classes: {some}, ...")
    return classes.index(label)


def _run_folder(path: Path) -> Path:
    return path.parent.parent if path.parent.name == "checkpoints" else path.parent


def _read_test(found: Analysis, wish: Wish, run: Path) -> None:
    """Makes a test if that is wished; finds it or another of the step, the run's own first."""
    own = found.folder / "test"
    if wish.test:
        with _noted_if_it_fails(found, "The test"):
            run_test(wish.checkpoint, wish.overrides, own)
    for folder in [own, run, *sorted(run.glob("test_*"))]:
        test = read_json(folder / "test.json")
        if test and test.get("step") == found.step and (folder / "predictions.csv").is_file():
            try:
                found.predictions = read_predictions(folder / "predictions.csv")
            except DataError as error:
                found.missing.append(f"The test: {error}.")
                continue
            found.test = test
            return
    if not wish.test:
        found.not_asked.append(
            f"The test: {run} holds no test of {found.checkpoint} at step {found.step}; make one "
            f"with `run.py test --ckpt {wish.checkpoint}`, or add --test here."
        )


def _read_percentiles(found: Analysis, path: Path, *, wanted: bool) -> None:
    """Reads those of the steps up to the checkpoint's, which training recorded if `wanted`."""
    records = read_records(path) if path.is_file() else []
    points = [
        (record["epoch"], record["layers"])
        for record in records
        if record.get("split") == "percentiles"
        and is_number(record.get("epoch"))
        and record["step"] <= found.step
    ]
    found.percentiles = sorted(points, key=lambda point: point[0])
    part = "The features over training (Fig. 6)"
    if not points and wanted:
        found.missing.append(f"{part}: {path} holds none of step {found.step} or before.")
    elif not points:
        found.not_asked.append(
            f"{part}: none were recorded; train with eval.percentiles_every_epochs=1."
        )


def _add_noise(found: Analysis, wish: Wish, config: Config, model: torch.nn.Module) -> None:
    """Measures the noise of batches on clips of the validation videos."""
    device = next(model.parameters()).device
    advice = f"--clips {max(wish.clips // 2, FEWEST_CLIPS)}"  # the largest batch is half of them
    try:
        with memory.explained(lambda: "the noise of batches", device, lambda: [advice]):
            clips = _clips(found, config, wish.clips, device)
            found.noise = measure_noise(model, clips, found.norm, rounds=wish.rounds)
    except DataError as error:
        if wish.needs_clips:
            raise
        found.not_asked.append(f"The noise of batches: {error}.")


@contextmanager
def _noted_if_it_fails(found: Analysis, part: str) -> Iterator[None]:
    """Notes why a part failed, so that what else is found is written all the same."""
    try:
        yield
    except RunInterruptedError:
        raise
    except VideognError as error:
        found.missing.append(f"{part}: {error}.")
        found.exit_code = found.exit_code or error.exit_code


def _clips(found: Analysis, config: Config, count: int, device: torch.device) -> list[Tensor]:
    """Returns one augmented clip of each of `count` validation videos, as BN would see them.

    Videos that cannot be read are left out and named.
    """
    manifest = build.build_manifest(config, "val")
    batches = build.build_sample_loader(config, manifest, count, batch_size=4)
    to_input = build.build_to_input(config, device)
    total = -(-min(count, len(manifest)) // 4)
    read = track(batches, total=total, what="reading clips", unit="batches")
    clips: list[Tensor] = []
    for batch in read:
        if len(batch.clips):
            clips += to_input(batch.clips)
        for bad in batch.bad:
            found.missing.append(f"The noise of batches: without {bad.path}: {bad.reason}.")
            found.exit_code = found.exit_code or DataError.exit_code
    return clips


def _add_cam(
    found: Analysis,
    path: str,
    file: str,
    classifier: Classifier,
    layer: torch.nn.Module,
    wanted: int | None,
) -> None:
    """Writes the heat of one video to `file` in the folder of the analysis."""
    with memory.explained(
        lambda: f"Grad-CAM of {path}", classifier.device, lambda: ["eval.views_per_forward=1"]
    ):
        class_id = int(classifier.probs(path).argmax()) if wanted is None else wanted
        with PyAVReader(path) as video:
            heats = heat_of_video(
                video,
                classifier.model,
                layer,
                class_id,
                classifier.spec,
                to_input=classifier.to_input,
                shown=lambda heats, total: track(heats, total=total, what=path, unit="windows"),
            )
        label = classifier.classes[class_id]
        frames = write_cam(path, found.folder / file, heats, label, class_id)
    if no_heat(heats):
        found.missing.append(f"Where it looks: nothing in {path} speaks for {label}.")
    windows = [(heat.start, heat.end, heat.probability) for heat in heats]
    found.cams.append(Cam(path, file, label, windows, frames))
