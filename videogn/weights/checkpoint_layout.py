"""Our own checkpoints as a source of weights for another run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from videogn.errors import WeightsError
from videogn.model.i3d import complete_fingerprint
from videogn.weights.source import RGB, SourceWeights, float_tensors, norm_kind

_KEYS = frozenset(("model", "fingerprint", "config", "classes"))


def is_checkpoint(state: Mapping[str, Any]) -> bool:
    """Returns whether a loaded file has the entries of a checkpoint of ours."""
    return state.keys() >= _KEYS


def read_checkpoint(state: Mapping[str, Any]) -> SourceWeights:
    """Returns the weights, the classes and the normalization of pixels of a checkpoint.

    Args:
        state: the dict of the file; `config["data"]` has `mean` and `std` as 3 floats, RGB.

    Raises:
        WeightsError: an entry is not what a run writes.
    """
    model, fingerprint, classes = state["model"], state["fingerprint"], state["classes"]
    if not isinstance(model, Mapping) or not isinstance(fingerprint, dict):
        raise WeightsError("the checkpoint's `model` or `fingerprint` is not a dict")
    if not isinstance(classes, list | tuple) or not all(isinstance(c, str) for c in classes):
        raise WeightsError("the checkpoint's `classes` is not a list of names")
    tensors = float_tensors(model)
    return SourceWeights(
        tensors=tensors,
        norm=norm_kind(tensors),
        mean=_rgb(state["config"], "mean"),
        std=_rgb(state["config"], "std"),
        classes=tuple(classes),
        layout="videogn",
        fingerprint=complete_fingerprint(fingerprint),
    )


def _rgb(config: object, key: str) -> RGB:
    data = config.get("data") if isinstance(config, Mapping) else None
    value = data.get(key) if isinstance(data, Mapping) else None
    match value:
        case [int() | float() as r, int() | float() as g, int() | float() as b]:
            return float(r), float(g), float(b)
    raise WeightsError(f"the checkpoint's config has data.{key} = {value!r}; expected 3 numbers")
