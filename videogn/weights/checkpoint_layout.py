"""Our own checkpoints as a source of weights for another run."""

from __future__ import annotations

from collections.abc import Mapping

from videogn.errors import WeightsError
from videogn.model.i3d import complete_fingerprint
from videogn.weights.content import Content
from videogn.weights.source import RGB, SourceNorm, SourceWeights, norm_kind

_BESIDE = frozenset(("fingerprint", "config", "classes"))


def is_checkpoint(content: Content) -> bool:
    """Returns whether beside the weights lies what a checkpoint of ours has there."""
    return content.extras.keys() >= _BESIDE


def read_checkpoint(content: Content) -> SourceWeights:
    """Returns the weights, the classes and the normalization of pixels of a checkpoint.

    A safetensors file of ours has the same entries in its metadata. `config["data"]` has `mean` and
    `std` as 3 floats, RGB.

    Raises:
        WeightsError: an entry is not what a run writes.
    """
    fingerprint, classes = content.extras["fingerprint"], content.extras["classes"]
    if not isinstance(fingerprint, dict):
        raise WeightsError("the checkpoint's `fingerprint` is not a dict")
    if not isinstance(classes, list | tuple) or not all(isinstance(c, str) for c in classes):
        raise WeightsError("the checkpoint's `classes` is not a list of names")
    norm: SourceNorm = norm_kind(content.tensors)
    if norm == "bn" and fingerprint.get("norm") == "FrozenBatchNorm3d":
        norm = "frozen_bn"
    mean, std = _rgb(content.extras["config"], "mean"), _rgb(content.extras["config"], "std")
    return SourceWeights(
        tensors=dict(content.tensors),
        norm=norm,
        mean=mean,
        std=std,
        classes=tuple(classes) or None,  # none in a safetensors file made of nameless weights
        layout="videogn",
        fingerprint=complete_fingerprint(fingerprint),
        pixels=f"RGB on [0, 1], mean {mean}, std {std}",
        container=content.container,
    )


def _rgb(config: object, key: str) -> RGB:
    data = config.get("data") if isinstance(config, Mapping) else None
    value = data.get(key) if isinstance(data, Mapping) else None
    match value:
        case [int() | float() as r, int() | float() as g, int() | float() as b]:
            return float(r), float(g), float(b)
    raise WeightsError(f"the checkpoint's config has data.{key} = {value!r}; expected 3 numbers")
