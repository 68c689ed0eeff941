"""One file of weights becomes another: any layout that is read into any that can be written."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from videogn.config import Config, config_from, load_config
from videogn.data.kinetics import kinetics400_classes
from videogn.data.tables import read_classes
from videogn.engine import checkpoint
from videogn.errors import ConfigError, WeightsError
from videogn.trained import checkpoint_of, require_undamaged, to_safetensors
from videogn.weights import SourceWeights, find_weights, read_weights
from videogn.weights.content import read_content
from videogn.weights.write import LAYOUTS, presets_of, to_layout

SUFFIXES = {".pt": "videogn", ".pth": "torchvision", ".safetensors": "safetensors"}
ALL_LAYOUTS = ("videogn", "safetensors", *LAYOUTS)
_BASE_CONFIG = "finetune.yaml"  # what a file says nothing of: how to go on training with it


def convert(
    source: str | Path,
    out: Path,
    *,
    layout: str | None = None,
    cfg: str | None = None,
    classes: str | None = None,
    overrides: Sequence[str] = (),
) -> str:
    """Writes the weights of a file in another layout, and returns what was written, in words.

    The numbers stay to the bit, but for a first convolution that takes in another std.

    Args:
        source: a file of any layout that is read, or a name in `videogn.weights.KNOWN`.
        out: the file to write, whole or not at all.
        layout: one of `ALL_LAYOUTS`; without, as the suffix of `out` says.
        cfg: videogn: the configuration of the network; without, what the file says of itself over
            finetune.yaml.
        classes: videogn: a classes.txt, or "kinetics400", for a file without names of classes.
        overrides: videogn: `dotted.key=value` of the configuration.

    Raises:
        WeightsError: `source` cannot be read, or the layout cannot hold it.
        WeightsMismatchError: the network of `cfg` is another.
        ConfigError: the layout is unclear, the configuration is refused, or `out` cannot be
            written.
        CheckpointError: `source` is a checkpoint of ours and damaged.
    """
    layout = layout or _layout_of(out)
    path = find_weights(source)
    if out.exists() and out.samefile(path):
        raise ConfigError(f"{out} is the file to convert; choose another name for the result")
    weights = read_weights(path)
    content = read_content(path)
    extras = content.extras
    if "digest" in extras:
        require_undamaged(path, content)
    if layout == "videogn":
        config = _config(path, out, weights, extras, cfg, overrides)
        contents = checkpoint_of(path, weights, config, _classes(path, weights, classes))
        _written(out, lambda: checkpoint.save(out, contents))
        kept = f"{len(contents['classes'])} classes"
    elif cfg or classes or overrides:
        raise ConfigError(
            f"a configuration and classes go into a checkpoint alone, and {out} is to be "
            f"{layout}; leave them out, or use --layout videogn"
        )
    else:
        data = _bytes_of(path, weights, extras, layout)
        _written(out, lambda: _write_whole(out, data))
        kept = _kept(weights, layout)
    numbers = sum(tensor.numel() for tensor in weights.tensors.values())
    return f"{out}: {layout}, {len(weights.tensors)} tensors, {numbers:,} numbers, {kept}"


def _layout_of(out: Path) -> str:
    if out.suffix not in SUFFIXES:
        known = ", ".join(f"{suffix} is {layout}" for suffix, layout in SUFFIXES.items())
        raise ConfigError(
            f"{out} does not tell its layout ({known}); say --layout {' | '.join(ALL_LAYOUTS)}"
        )
    return SUFFIXES[out.suffix]


def _bytes_of(path: Path, weights: SourceWeights, extras: Mapping[str, Any], layout: str) -> bytes:
    """Returns the content of a file of another layout than our checkpoints'."""
    if layout == "safetensors":
        return to_safetensors(weights, extras["config"] if weights.layout == "videogn" else None)
    try:
        contents = to_layout(weights, layout)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    buffer = BytesIO()
    torch.save(contents, buffer)
    return buffer.getvalue()


def _kept(weights: SourceWeights, layout: str) -> str:
    """Returns what of the file beside its tensors is in the new one, in words."""
    words = "no names of classes"
    if weights.classes:
        words = f"{len(weights.classes)} classes"
        if layout in LAYOUTS:
            words = f"without the names of its {len(weights.classes)} classes"
    target = LAYOUTS.get(layout)
    if target and target.std and tuple(weights.std) != target.std:
        words += f"; the first convolution takes pixels of std {target.std}, not {weights.std}"
    return words


def _config(
    path: Path,
    out: Path,
    weights: SourceWeights,
    extras: Mapping[str, Any],
    cfg: str | None,
    overrides: Sequence[str],
) -> Config:
    """Returns the configuration of the checkpoint: given, the file's own, or made of what it says.

    Raises:
        ConfigError: it is refused, or does not say what the file does not either.
    """
    if cfg:
        return load_config(cfg, overrides)
    own = extras.get("config")
    if weights.layout == "videogn" and isinstance(own, Mapping) and "model" in own:
        return config_from(own, overrides, where=str(path))
    keys = {word.partition("=")[0] for word in overrides}
    needed = [key for key in ("data.num_frames", "data.frame_stride") if key not in keys]
    if needed:
        raise ConfigError(
            f"{path} does not say {' and '.join(needed)}; add them, for example data.num_frames=8 "
            "data.frame_stride=8, or --cfg with the configuration of its run"
        )
    if "model.arch" not in keys:
        overrides = [f"model.arch={_preset(path, weights)}", *overrides]
    said = weights.fingerprint or {}
    stated = {
        "name": out.stem,
        "model.width": weights.width,
        "model.norm.kind": weights.norm,
        "model.norm.eps": said.get("eps", 1e-5),
        "model.stem_pool_padding": said.get("stem_pool_padding", 0),
        "model.init": "null",
    }
    if isinstance(said.get("groups"), int):
        stated["model.norm.num_groups"] = said["groups"]
    words = [f"{key}={value}" for key, value in stated.items() if key not in keys]
    return load_config(_BASE_CONFIG, [*words, *overrides])


def _preset(path: Path, weights: SourceWeights) -> str:
    presets = presets_of(weights)
    if len(presets) == 1:
        return presets[0]
    if weights.is_image and not presets:
        raise WeightsError(
            f"{path} is a network of images, which classifies no videos; train one from it with "
            f"model.init={path}"
        )
    which = f"one of {', '.join(presets)}" if presets else "no preset here"
    raise ConfigError(f"{path} is {which}, as far as it says; say which with model.arch=...")


def _classes(path: Path, weights: SourceWeights, given: str | None) -> Sequence[str]:
    """Returns the names of the classes by class id."""
    if given:
        return kinetics400_classes() if given == "kinetics400" else read_classes(Path(given))
    if not weights.classes:
        raise ConfigError(
            f"{path} does not name its {weights.num_classes} classes; give --classes with a "
            "classes.txt in the order of its class ids, or kinetics400 for the names of "
            "Kinetics-400 in alphabetical order"
        )
    return weights.classes


def _written(out: Path, write: Callable[[], None]) -> None:
    """Calls `write`; ConfigError if the system refuses."""
    try:
        write()
    except OSError as error:
        raise ConfigError(
            f"{out} cannot be written ({error.strerror}); choose another place with --to"
        ) from error


def _write_whole(out: Path, data: bytes) -> None:
    """Writes `data` under `out`, whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f"{out.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
