"""The whole chain at a size that a laptop runs in minutes, on videos it makes itself.

A thin 2-D network learns what still frames show, is inflated, and as I3D learns what only motion
shows: once with GN, once with BN, in steps of four clips. The test is the full 10-clip one.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from videogn import build
from videogn.config import Config, load_config
from videogn.data.decode import open_video
from videogn.data.manifest import Manifest, read_manifest
from videogn.data.synthetic import write_synthetic
from videogn.data.transforms import to_network, train_crop
from videogn.engine.progress import log_to_terminal, track
from videogn.experiment import run_training
from videogn.model.i3d import ARCHS, I3DResNet
from videogn.runs import read_json, read_records
from videogn.weights.torchvision_layout import IMAGENET_MEAN, IMAGENET_STD, to_torchvision

log = logging.getLogger(__name__)

TRAIN_VIDEOS, VAL_VIDEOS = 480, 96  # 60 and 12 of each motion
IMAGE_STEPS, IMAGE_BATCH, IMAGE_LR = 300, 32, 0.05
FRAMES_PER_VIDEO = 4


def run_demo(folder: Path, seed: int = 0) -> str:
    """Makes data, pre-trains, trains and tests under `folder`; returns the table of results.

    A second call goes on where the first stopped.
    """
    log_to_terminal()
    begin = time.monotonic()
    data = folder / f"videos_{TRAIN_VIDEOS}_{seed}"
    if not (data / "train.csv").is_file():
        total = TRAIN_VIDEOS + VAL_VIDEOS
        log.info(
            "making %d videos in %s: eight motions, any of which any object may make", total, data
        )
        write_synthetic(
            data,
            train=TRAIN_VIDEOS,
            val=VAL_VIDEOS,
            seed=seed,
            progress=lambda items: track(items, total=total, what="encode", unit="videos"),
        )
    rows = []
    for kind in ("gn", "bn"):
        config = load_config(
            "demo.yaml",
            [
                f"name=demo_{kind}",
                f"seed={seed}",
                f"data.root={data}",
                f"run_dir={folder / f'{kind}_{seed}'}",
                f"model.norm.kind={kind}",
                f"model.init={folder / f'image_{kind}_{seed}.pth'}",
            ],
        )
        build.set_up_torch(config, build.pick_device(config))
        pretrain_image_network(config, Path(str(config.model.init)))
        rows.append(_table_row(config, run_training(config)))
    return _format(rows, folder, time.monotonic() - begin)


def pretrain_image_network(config: Config, path: Path) -> None:
    """Trains the 2-D counterpart of the config's network on the appearance of still frames.

    Writes its weights in torchvision's layout to `path`, unless they are there already.
    """
    if path.is_file():
        return
    manifest = read_manifest(Path(config.data.root), "train")
    names = manifest.columns["appearance"]
    appearances = sorted(set(names))
    labels = np.array([appearances.index(name) for name in names]).repeat(FRAMES_PER_VIDEO)
    images = _still_frames(manifest)
    torch.manual_seed(config.seed)
    model = I3DResNet(
        ARCHS[config.model.arch].image(),
        build.build_norm(config),
        num_classes=len(appearances),
        num_frames=1,
        crop_size=config.data.crop_size,
        width=config.model.width,
        dropout=0.0,
        stem_pool_padding=config.model.stem_pool_padding,
        zero_init_residual=False,
    )
    rng = np.random.default_rng(config.seed)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=IMAGE_LR, momentum=0.9, nesterov=True, weight_decay=1e-4
    )
    hits = []
    for step in track(range(IMAGE_STEPS), total=IMAGE_STEPS, what="2-D pre-training", unit="steps"):
        drawn = rng.integers(0, len(images), IMAGE_BATCH)
        crops = [
            train_crop(
                images[i][None],
                short_side=config.data.short_side,
                crop_size=config.data.crop_size,
                flip=0.5,
                rng=rng,
            )
            for i in drawn
        ]
        logits = model(to_network(torch.stack(crops), IMAGENET_MEAN, IMAGENET_STD))
        target = torch.from_numpy(labels[drawn])
        hits.append(float((logits.argmax(1) == target).float().mean()))
        for group in optimizer.param_groups:  # a linear decay to zero
            group["lr"] = IMAGE_LR * (1 - step / IMAGE_STEPS)
        optimizer.zero_grad()
        F.cross_entropy(logits, target).backward()
        optimizer.step()
    log.info(
        "2-D network, %s: %.0f %% of still frames' appearance right over the last 50 steps "
        "(chance %.0f %%)",
        config.model.norm.kind.upper(),
        100 * float(np.mean(hits[-50:])),
        100 / len(appearances),
    )
    torch.save(to_torchvision(model.state_dict()), path)


def _still_frames(manifest: Manifest) -> np.ndarray:
    """Returns a few evenly spaced frames of every video: uint8 (videos * few, H, W, 3)."""
    stills = []
    for path in manifest.paths:
        with open_video(manifest.videos / path, root=manifest.videos) as video:
            last = video.num_frames - 1
            stills.append(video.frames([i * last // 3 for i in range(FRAMES_PER_VIDEO)]))
    return np.concatenate(stills)


def _table_row(config: Config, folder: Path) -> str:
    test = read_json(folder / "test.json")
    monitored = [r for r in read_records(folder / "metrics.jsonl") if r.get("split") == "val"]
    assert test is not None, "a run that has ended has a test.json"
    return (
        f"| {config.data.num_frames} | {config.optim.clips_per_gpu} "
        f"| {config.model.norm.kind.upper()} | {test['top1']:.1f} / {test['top5']:.1f} "
        f"| {monitored[-1]['val/error_1clip_aug']:.1f} | {folder} |"
    )


def _format(rows: list[str], folder: Path, seconds: float) -> str:
    return "\n".join(
        [
            "",
            "A miniature of Table 8, on synthetic motion (8 classes, chance 12.5 %):",
            "",
            "| frames | clips/step | norm | 10-clip top-1 / top-5 | 1-clip error | run |",
            "|---:|---:|---|---:|---:|---|",
            *rows,
            "",
            f"One seed, {VAL_VIDEOS} test videos of {100 / VAL_VIDEOS:.1f} points each: this shows "
            "that the chain works, not that one norm is better.",
            f"{seconds:.0f} s. Try a checkpoint on a video:",
            f"  python run.py predict --ckpt {rows[0].split('|')[-2].strip()}/checkpoints/last.pt "
            "VIDEO.mp4",
            "or see both runs as tables, curves and one page:",
            f"  python run.py report {folder}",
        ]
    )
