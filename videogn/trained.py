"""A trained network with all it needs in one file: a checkpoint, or safetensors made of one.

A safetensors file of ours has our names, and in its metadata what a checkpoint says beside them,
with a digest over both: the format has no checksum of its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from videogn import build
from videogn.config import Config, config_from, to_dict
from videogn.engine import checkpoint
from videogn.errors import CheckpointError, ConfigError, WeightsError, WeightsMismatchError
from videogn.weights import SourceWeights, load_weights, read_weights
from videogn.weights.content import METADATA_KEY, Content, begins_safetensors, read_content

_NORM_CLASSES = {"bn": "BatchNorm3d", "gn": "GroupNorm", "frozen_bn": "FrozenBatchNorm3d"}


def read_trained(path: str | Path) -> dict[str, Any]:
    """Returns the contents of a checkpoint; of a safetensors file, those of the one made of it.

    Raises:
        CheckpointError: there is no such file, it is damaged, or says too little for a checkpoint.
        WeightsError: a safetensors file cannot be read, or its tensors are not those of the network
            that it describes.
        ConfigError: the configuration in a safetensors file is refused.
    """
    path = Path(path)
    if not _is_safetensors(path):
        return checkpoint.load(path)
    content = read_content(path)
    config, classes = content.extras.get("config"), content.extras.get("classes")
    if not (isinstance(config, Mapping) and "model" in config and classes):
        raise CheckpointError(
            f"{path} holds weights without the configuration and classes of a run; make a "
            f"checkpoint of it with run.py convert {path} --to {path.stem}.pt"
        )
    require_undamaged(path, content)
    weights = read_weights(path)
    return checkpoint_of(path, weights, config_from(config, where=str(path)), weights.classes or ())


def _is_safetensors(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return begins_safetensors(file.read(32))


def require_undamaged(path: Path, content: Content) -> None:
    """Raises CheckpointError unless the digest in a file of ours is that of the rest of it."""
    if content.container != "safetensors":
        checkpoint.load(path)  # which compares
        return
    about = dict(content.extras)
    stated = about.pop("digest", None)
    if stated is None:
        raise CheckpointError(
            f"{path} holds no digest, which would show damage; write it again with run.py convert"
        )
    if stated != _digest(about, content.tensors):
        raise CheckpointError(
            f"{path} is damaged: its contents do not match the digest inside it; write it again "
            "with run.py convert"
        )


def _digest(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    stored = dict(sorted(tensors.items()))
    return checkpoint.digest({"about": json.dumps(about, sort_keys=True), "tensors": stored})


def to_safetensors(weights: SourceWeights, config: Mapping[str, Any] | None) -> bytes:
    """Returns a safetensors file of weights: the same bytes for the same weights.

    Args:
        weights: of any layout.
        config: of the run, where they are of one of ours.
    """
    from safetensors.torch import save

    about = {
        "config": config or {"data": {"mean": list(weights.mean), "std": list(weights.std)}},
        "classes": list(weights.classes or ()),
        "fingerprint": {**(weights.fingerprint or {}), "norm": _NORM_CLASSES[weights.norm]}
        if weights.layout != "videogn"
        else weights.fingerprint,
    }
    tensors = {name: tensor.contiguous() for name, tensor in weights.tensors.items()}
    about["digest"] = _digest(about, tensors)
    # one entry: of several, safetensors shuffles the order, and the file would not repeat
    return save(tensors, {METADATA_KEY: json.dumps(about, sort_keys=True)})


def checkpoint_of(
    path: Path, weights: SourceWeights, config: Config, classes: Sequence[str]
) -> dict[str, Any]:
    """Returns the contents of a checkpoint: to test, predict and start from, not to go on with.

    Args:
        path: of the weights.
        weights: read from it.
        config: of the network and its input.
        classes: names by class id.

    Raises:
        ConfigError: the classes are not as many as those of the file, or its input is another.
        WeightsError: the network of `config` is another, or would get a new classifier.
    """
    _require_size(path, weights, config.model.width, len(classes))
    model = build.build_model(config, len(classes))
    report = load_weights(model, path)
    if report.head_replaced:
        raise WeightsError(
            f"{path} classifies images, {report.head_replaced[0]} classes, and the network videos; "
            f"train one from it with model.init={path}"
        )
    resolved = build.resolve(config, len(classes), report.mean, report.std)
    for key in ("mean", "std"):
        wanted, have = getattr(report, key), getattr(resolved.data, key)
        if list(have) != list(wanted):
            raise ConfigError(
                f"data.{key}={list(have)}, but the weights of {path} are for {list(wanted)}; leave "
                "it auto"
            )
    return {
        "model": model.state_dict(),
        "optimizer": {"state": {}, "param_groups": []},
        "scaler": {},
        "ema": None,
        "step": 0,
        "epoch": 0.0,
        "config": to_dict(resolved),
        "classes": list(classes),
        "fingerprint": build.fingerprint(resolved, model),
        "stream": {"num_samples": 0, "global_batch": 0},  # no run's, so that none goes on from it
        "metrics": {"best_error": math.inf, "losses": []},
        "wandb_id": None,
    }


def _require_size(path: Path, weights: SourceWeights, width: int, num_classes: int) -> None:
    """Refuses a network that the file's own size does not vouch for, before memory goes to it."""
    if num_classes != weights.num_classes:
        raise ConfigError(
            f"{path} has a classifier of {weights.num_classes} classes, but {num_classes} names "
            "come with it; give one for each, in the order of its class ids"
        )
    if width != weights.width:
        raise WeightsMismatchError(
            f"{path} has a first convolution of {weights.width} channels, but model.width is "
            f"{width}; give the one of the file"
        )
