"""The network of a checkpoint, refused where it is not the one asked for."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from videogn import build
from videogn.config import Config
from videogn.data.manifest import Manifest
from videogn.errors import CheckpointError
from videogn.model.i3d import I3DResNet, complete_fingerprint

log = logging.getLogger(__name__)

# Overrides of a stored config: a checkpoint is used where its run's choice may not run.
ANYWHERE = ("model.norm.impl=auto", "model.compile=none")


def restore_model(
    config: Config, contents: Mapping[str, Any], path: str | Path, *, to_train: bool = False
) -> I3DResNet:
    """Returns the network of a checkpoint with its weights, on the CPU.

    Args:
        config: what to build.
        contents: of the checkpoint.
        path: of the checkpoint.
        to_train: with the weights to train on, where their average is what is used.

    Raises:
        CheckpointError: `config` describes another network or, to train on, another input.
    """
    model = build.build_model(config, len(contents["classes"]))
    _require_same_network(config, model, contents, path, to_train=to_train)
    averaged = None if to_train else contents["ema"]
    if averaged:
        log.info("the weights of %s are the average of its training (optim.ema)", path)
    model.load_state_dict(averaged or contents["model"])
    return model


def _require_same_network(
    config: Config,
    model: I3DResNet,
    contents: Mapping[str, Any],
    path: str | Path,
    *,
    to_train: bool,
) -> None:
    """Raises CheckpointError unless `model` is the network that a checkpoint holds.

    To be used, it may be given another input; to train on, it may not.
    """
    have = complete_fingerprint(contents["fingerprint"])
    wanted = build.fingerprint(config, model)
    keys = wanted if to_train else model.fingerprint().keys() - {"window"}
    differ = [key for key in wanted if key in keys and have.get(key) != wanted[key]]
    differ.sort(key="window".__eq__)  # last: it follows from others, and is no key of a config
    if differ:
        key = differ[0]
        remedy = "start anew with resume=never" if to_train else "leave out the override of it"
        raise CheckpointError(
            f"{path} was trained with {key}={have.get(key)}, not {wanted[key]}; {remedy}"
        )


def require_same_classes(classes: Sequence[str], manifest: Manifest, path: str | Path) -> None:
    """Raises CheckpointError unless the classes of a checkpoint are those of the data, in order."""
    for i, (trained, listed) in enumerate(zip(classes, manifest.classes, strict=False)):
        if trained != listed:
            raise CheckpointError(
                f"class {i} is {trained!r} in {path} but {listed!r} in {manifest.name}; "
                "its classes.txt must be the one trained with"
            )
    if len(classes) != len(manifest.classes):
        raise CheckpointError(
            f"{path} knows {len(classes)} classes, {manifest.name} {len(manifest.classes)}"
        )
