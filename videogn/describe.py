"""What a file of weights is: its layout, its network, its input, and the command that uses it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from videogn.engine.checkpoint import digest
from videogn.weights import KNOWN, SourceWeights, find_weights, read_weights
from videogn.weights.write import presets_by_inflation, presets_of

_SHOWN_CLASSES = 5
# what the shipped experiments have, which need not be said again
_USUAL = {"model.width": 64, "model.norm.num_groups": 32, "model.arch": "i3d_r50"}
# theirs by norm; frozen BN has none of its own
_CONFIGS = {"gn": "i3d_gn_32f.yaml", "bn": "i3d_bn_32f.yaml", "frozen_bn": "i3d_bn_32f.yaml"}


def describe(source: str | Path, *, tensors: bool = False) -> str:
    """Returns what is known of a file of weights, a line each.

    `digest` is the SHA-256 of the names and numbers as they are read, the same for the same
    weights in any layout.

    Args:
        source: a path, or a name in `videogn.weights.KNOWN`.
        tensors: list all tensors with their shapes, under our names.

    Raises:
        WeightsError: it cannot be read.
    """
    path = find_weights(source)
    weights = read_weights(path)
    stored = dict(sorted(weights.tensors.items()))
    numbers = sum(tensor.numel() for tensor in stored.values())
    lines = {
        "container": weights.container,
        "layout": weights.layout,
        "norm": weights.norm,
        "trained on": weights.pixels,
        "fed here": f"RGB on [0, 1], mean {_rounded(weights.mean)}, std {_rounded(weights.std)}",
        "classes": _classes(weights),
        "tensors": f"{len(stored)}, {numbers:,} numbers",
        "fingerprint": _fingerprint(weights.fingerprint or {}),
        "digest": digest(stored),
        "network": _network(weights),
        "use": _command(source, weights),
    }
    text = [str(path), *(f"  {name:<12}{value}" for name, value in lines.items() if value)]
    text += [f"  {'note':<12}{note}" for note in weights.notes]
    if tensors:
        text += [f"    {name}  {_shape(tensor)}" for name, tensor in stored.items()]
    return "\n".join(text)


def known_files() -> str:
    """Returns the table of published files: the name that stands for each, and what it is.

    The errors are top-1 in percent, as published. The second line of an entry has the options that
    fit the network to the file.
    """
    rows = [("name", "MB", "trained on", "error", "what it is", "")]
    rows += [
        (name, str(known.megabytes), known.data, f"{known.top1_error:g}", known.note, known.options)
        for name, known in KNOWN.items()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = []
    for *row, note, options in rows:
        lines.append("  ".join([*map(str.ljust, row, widths), note]))
        lines += [f"    {options}"] if options else []
    use = "python run.py --cfg i3d_gn_32f.yaml data.root=DATA model.init=NAME and its options"
    return "\n".join([*lines, "", f"use one: {use}"])


def _rounded(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"


def _classes(weights: SourceWeights) -> str:
    head = weights.tensors.get("fc.weight")
    if not weights.classes:
        return f"{head.shape[0]}, without names" if head is not None else "no classifier"
    names = ", ".join(weights.classes[:_SHOWN_CLASSES])
    more = ", ..." if len(weights.classes) > _SHOWN_CLASSES else ""
    return f"{len(weights.classes)}: {names}{more}"


def _fingerprint(stated: Mapping[str, Any]) -> str:
    """Returns the entries on one line; the kernels are in the tensors, and long."""
    return ", ".join(f"{k} {v}" for k, v in stated.items() if k != "kernels_t")


def _network(weights: SourceWeights) -> str:
    presets, inflatable = presets_of(weights), presets_by_inflation(weights)
    words = [" or ".join(presets)] if presets else []
    if inflatable:
        words.append(f"one of images, inflated into {', '.join(inflatable)}")
    return "; ".join(words) or "none of the presets"


def _command(path: str | Path, weights: SourceWeights) -> str:
    """Returns the one command that uses the file, empty if none does."""
    presets, inflatable = presets_of(weights), presets_by_inflation(weights)
    if weights.layout == "videogn" and presets and weights.classes:
        return f"python run.py predict --ckpt {path} VIDEO"
    said = weights.fingerprint or {}
    network = {
        "model.width": weights.tensors["conv1.weight"].shape[0],
        "model.norm.num_groups": said.get("groups", 32),
    }
    if presets:
        words = ["--cfg finetune.yaml", "data.root=DATA", f"model.init={path}"]
        words += ["data.num_frames=8", "data.frame_stride=8"]
        network["model.arch"] = presets[0]
        network["model.norm.kind"] = weights.norm
        network["model.stem_pool_padding"] = said.get("stem_pool_padding", 0)
    elif inflatable:
        words = [f"--cfg {_CONFIGS[weights.norm]}", "data.root=DATA", f"model.init={path}"]
        network["model.arch"] = inflatable[0]
        network["model.norm.kind"] = weights.norm
    else:
        return ""
    words += [f"{key}={value}" for key, value in network.items() if value != _USUAL.get(key)]
    return f"python run.py {' '.join(words)}"
