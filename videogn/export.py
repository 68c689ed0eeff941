"""A checkpoint as a program for other runtimes: ONNX, or torch.export."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from videogn.config import Config, config_from
from videogn.errors import ConfigError, ExportError
from videogn.model.i3d import I3DResNet
from videogn.restoring import ANYWHERE, restore_model
from videogn.trained import read_trained

FORMATS = ("onnx", "torch_export")
ATOL = 1e-4  # of logits, in fp32: other kernels add in another order
_BATCHES = (1, 3)  # of the check; neither is the one traced with
_TRACED_BATCH = 2  # torch.export takes a batch of 1 for a constant
_OPSET = 18

Run = Callable[[Tensor], Tensor]


def export_checkpoint(
    path: str | Path,
    out: Path,
    *,
    kind: str,
    num_frames: int | None = None,
    size: tuple[int, int] | None = None,
    check: bool = False,
) -> str:
    """Writes a checkpoint's network as a program and returns a line about it.

    The program takes normalized clips, float32 (N, 3, T, H, W) with any N and the T, H, W given
    here, and returns logits (N, K), averaged over the positions of the head where the clip is
    larger than a training clip. What goes with it (mean, std, classes, frames and their stride) is
    in the file: in `metadata_props` of ONNX, in the extra file `videogn.json` of torch.export.

    Args:
        path: a checkpoint of a run.
        out: the file, written whole or not at all.
        kind: "onnx" or "torch_export".
        num_frames: T; that of training without.
        size: (H, W) in pixels; the training crop without.
        check: run the file on noise, and compare.

    Raises:
        CheckpointError: no such file, damaged, or not a checkpoint.
        ConfigError: a package that it needs is missing, the clip is too small, or `out` cannot be
            written.
        ExportError: the program's logits are not those of the network.
    """
    if kind == "onnx":
        _require_packages(["onnx", "onnxscript", *(["onnxruntime"] if check else [])])
    contents = read_trained(path)
    config = config_from(contents["config"], [*ANYWHERE, "device=cpu"], where=str(path))
    model = restore_model(config, contents, path).eval()
    height, width = size or (config.data.crop_size, config.data.crop_size)
    shape = (3, num_frames or config.data.num_frames, height, width)
    _require_size(model, shape)
    about = _about(config, contents, shape)
    temporary = out.with_name(f"{out.name}.{os.getpid()}.tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _WRITERS[kind](model, shape, about, temporary)
        checked = _check(model, _READERS[kind](temporary), shape) if check else "not checked"
        temporary.replace(out)
    except OSError as error:
        raise ConfigError(
            f"{out} cannot be written ({error.strerror}); choose another place with --out"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    clip = "x".join(map(str, shape))
    return f"{out}: {kind}, clips (N, {clip.replace('x', ', ')}) -> logits, {checked}"


def _require_packages(names: Sequence[str]) -> None:
    missing = [name for name in names if not find_spec(name)]
    if missing:
        raise ConfigError(
            f"format onnx needs {', '.join(missing)}; install them with pip install "
            "'videogn[export]', or use --format torch_export"
        )


def _require_size(model: I3DResNet, shape: tuple[int, ...]) -> None:
    have = model.feature_size(*shape[1:])
    if any(a < b for a, b in zip(have, model.window, strict=True)):
        clip, side = "x".join(map(str, shape[1:])), model.crop_size
        raise ConfigError(
            f"a clip of {clip} (T, H, W) is smaller than the {model.num_frames}x{side}x{side} that "
            "the network was trained with; give at least that"
        )


def _about(config: Config, contents: Mapping[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
    """Returns what a user of the program must know, as plain values."""
    return {
        "input": "RGB, (pixels / 255 - mean) / std, float32 (N, 3, T, H, W)",
        "clip": list(shape),
        "output": "logits (N, K)",
        "mean": list(config.data.mean),
        "std": list(config.data.std),
        "frame_stride": config.data.frame_stride,
        "short_side": config.eval.short_side,
        "classes": list(contents["classes"]),
        "fingerprint": contents["fingerprint"],
    }


def _traced(model: nn.Module, shape: tuple[int, ...]) -> torch.export.ExportedProgram:
    clips = torch.zeros(_TRACED_BATCH, *shape)
    batch = torch.export.Dim("N", min=1)
    return torch.export.export(model, (clips,), dynamic_shapes=({0: batch},))


def _write_onnx(
    model: nn.Module, shape: tuple[int, ...], about: Mapping[str, Any], path: Path
) -> None:
    program = torch.onnx.export(
        _traced(model, shape),
        input_names=["clips"],
        output_names=["logits"],
        opset_version=_OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    properties = program.model.metadata_props
    properties.update({f"videogn.{key}": json.dumps(value) for key, value in about.items()})
    program.save(str(path), external_data=False)


def _read_onnx(path: Path) -> Run:
    import onnxruntime  # an optional extra

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda clips: torch.from_numpy(session.run(None, {"clips": clips.numpy()})[0])


def _write_torch_export(
    model: nn.Module, shape: tuple[int, ...], about: Mapping[str, Any], path: Path
) -> None:
    with path.open("wb") as file:
        torch.export.save(
            _traced(model, shape), file, extra_files={"videogn.json": json.dumps(about)}
        )


def _read_torch_export(path: Path) -> Run:
    with path.open("rb") as file:
        return torch.export.load(file).module()


_WRITERS = {"onnx": _write_onnx, "torch_export": _write_torch_export}
_READERS = {"onnx": _read_onnx, "torch_export": _read_torch_export}


@torch.inference_mode()
def _check(model: nn.Module, run: Run, shape: tuple[int, ...]) -> str:
    """Returns how near the file's logits are to the model's, in words.

    Raises:
        ExportError: not near enough.
    """
    random = torch.Generator().manual_seed(0)
    worst, same = torch.zeros(()), True
    for batch in _BATCHES:
        clips = torch.randn(batch, *shape, generator=random)
        expected, found = model(clips), run(clips)
        worst = torch.maximum(worst, (found - expected).abs().max())  # a NaN stays
        best = min(5, expected.shape[1])
        same = same and torch.equal(found.topk(best).indices, expected.topk(best).indices)
    if not worst <= ATOL:
        raise ExportError(
            f"the exported program gives logits that differ by {worst:.2g} from the network's, and "
            f"{ATOL:g} is all that rounding explains; nothing was written"
        )
    ranks = "same top 5" if same else "same top 5 but for ties"
    return f"checked: {ranks}, logits within {worst:.1g}"
