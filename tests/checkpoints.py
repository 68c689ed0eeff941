"""Checkpoints as runs write them, of thin networks filled by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.model.named_weights import named_weights
from videogn import build
from videogn.config import load_config, to_dict
from videogn.engine import checkpoint

CLASSES = [f"class {letter}" for letter in "abcdefg"]
SMALL = [
    "name=thin",
    "device=cpu",
    "model.width=8",
    "data.num_frames=4",
    "data.frame_stride=2",
    "data.crop_size=32",
    "data.short_side=[32,36]",
    "data.num_workers=0",
    "eval.num_clips=2",
    "eval.short_side=32",
]
PYSLOWFAST = ["model.arch=i3d_r50_8x8", "model.norm.kind=bn"]  # what its layout can hold


def write_checkpoint(path: Path, *overrides: str, classes: Sequence[str] = CLASSES) -> Path:
    """Writes the checkpoint of small.yaml with `overrides`, made smaller still; returns `path`."""
    config = load_config("small.yaml", [*SMALL, *overrides])
    model = build.build_model(config, len(classes))
    model.load_state_dict(named_weights(model.state_dict()))
    config = build.resolve(config, len(classes))
    contents = {
        "model": model.state_dict(),
        "optimizer": {"state": {0: model.state_dict()["fc.bias"]}, "param_groups": []},
        "scaler": {},
        "ema": None,
        "step": 6,
        "epoch": 1.5,
        "config": to_dict(config),
        "classes": list(classes),
        "fingerprint": build.fingerprint(config, model),
        "stream": {"num_samples": 8, "global_batch": 2},
        "metrics": {"best_error": 50.0, "losses": [1.5]},
        "wandb_id": None,
    }
    checkpoint.save(path, contents)
    return path
