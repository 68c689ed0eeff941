"""The four containers that weights come in: torch.save, pickle, npz and safetensors.

Which one a file is, its first bytes tell. Nothing in any of them is run, and none makes us
allocate much more than the file's own size.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videogn.errors import WeightsError
from videogn.weights.npz import load_npz
from videogn.weights.pickles import MAX_FILE_BYTES, read_numeric_pickle
from videogn.weights.torch_files import is_torch_file, load_torch_file

_ZIP = b"PK\x03\x04"
_PICKLES = (b"\x80", b"(d", b"}q")  # a protocol from 2 on; a dict of protocol 0; of protocol 1
_WRAPPERS = ("state_dict", "model", "model_state")  # what training scripts put weights under
_MAX_HEADER = 2**24  # bytes of safetensors' header; a ResNet-101's is 60 kB
METADATA_KEY = "videogn"  # of a safetensors file of ours: JSON of a dict, see videogn/trained.py


@dataclass(frozen=True)
class Content:
    """What a file holds, whatever its container.

    Attributes:
        container: "torch", "pickle", "npz" or "safetensors".
        tensors: the names of the file, without a `module.` that they all begin with -> float32;
            no `num_batches_tracked`.
        extras: what lies beside the weights, plain values under names.
    """

    container: str
    tensors: dict[str, Tensor]
    extras: Mapping[str, Any]


def read_content(path: Path) -> Content:
    """Returns the tensors in a file and what lies beside them.

    Raises:
        WeightsError: it cannot be read, is in none of the containers, or holds no tensors.
    """
    try:
        container, tensors, extras = _read(path)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error})") from error
    if not tensors:
        raise WeightsError(
            f"{path}: no tensors in it, or not where a layout that is known has them"
        )
    if all(name.startswith("module.") for name in tensors):  # DataParallel, DDP
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return Content(container, tensors, extras)


def _read(path: Path) -> tuple[str, dict[str, Tensor], Mapping[str, Any]]:
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise WeightsError(f"{path}: larger than the {MAX_FILE_BYTES} bytes read of weights")
    with path.open("rb") as file:
        start = file.read(32)
    if start.startswith(_ZIP) and not is_torch_file(path, start):
        return "npz", _from_arrays(load_npz(path)), {}
    if is_torch_file(path, start):
        state, extras = _unwrap(path, load_torch_file(path))
        return "torch", float_tensors(path, state, max_bytes=16 * size + 2**26), extras
    if begins_safetensors(start):  # before pickles, whose first byte a length may have too
        return "safetensors", *_load_safetensors(path, size, start)
    if start.startswith(_PICKLES):
        arrays, texts = read_numeric_pickle(path)
        return "pickle", _from_arrays(arrays), texts
    raise WeightsError(
        f"{path}: neither a file of torch.save nor a pickle, an npz or a safetensors file"
    )


def begins_safetensors(start: bytes) -> bool:
    """Returns whether a file with this `start` is one: a header below 4 GiB, and its JSON."""
    return start[4:9] == b"\0\0\0\0{"


def _unwrap(path: Path, top: Mapping[Any, Any]) -> tuple[Mapping[Any, Any], Mapping[str, Any]]:
    """Returns the state dict in what was saved, and the rest."""
    inner = [key for key in _WRAPPERS if isinstance(top.get(key), Mapping)]
    if "fingerprint" in top and isinstance(top.get("ema"), Mapping):
        inner = ["ema"]  # of our own whose training averaged its weights: what was tested
    if len(inner) > 1:
        raise WeightsError(f"{path}: ambiguous: a state dict under each of {', '.join(inner)}")
    if not inner:
        return top, {}
    return top[inner[0]], {k: v for k, v in top.items() if isinstance(k, str) and k != inner[0]}


def float_tensors(path: Path, state: Mapping[Any, Any], *, max_bytes: int) -> dict[str, Tensor]:
    """Returns a state dict as float32, without the counters `num_batches_tracked`.

    Raises:
        WeightsError: something in it is not an array of numbers under a name, or they would take
            more than `max_bytes`: a file can give few bytes any shape.
    """
    odd = [k for k, v in state.items() if not isinstance(k, str) or not _is_plain(v)]
    if odd:
        raise WeightsError(
            f"{path}: not a state dict: {str(odd[0])[:80]!r} is no tensor of numbers with a name"
        )
    if sum(4 * tensor.numel() for tensor in state.values()) > max_bytes:
        raise WeightsError(f"{path}: its tensors are said to be far larger than the file")
    kept = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    return {name: tensor.detach().float() for name, tensor in kept.items()}


def _is_plain(value: object) -> bool:
    return (
        type(value) in (Tensor, torch.nn.Parameter)
        and isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and not value.is_complex()
    )


def _from_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    return {
        name: torch.from_numpy(array.astype(np.float32))
        for name, array in arrays.items()
        if not name.endswith("num_batches_tracked")
    }


def _load_safetensors(
    path: Path, size: int, start: bytes
) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    from safetensors import SafetensorError, safe_open  # needed by few

    (header,) = struct.unpack("<Q", start[:8])
    if header > min(size - 8, _MAX_HEADER):  # the library reads it whole, and trusts up to 100 MB
        raise WeightsError(f"{path}: damaged; its header is said to have {header} bytes")
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (SafetensorError, ValueError, TypeError, AttributeError) as error:  # a dtype of none
        raise WeightsError(
            f"{path}: not a safetensors file, or damaged ({error}); copy or write it again"
        ) from error
    try:
        extras = json.loads(metadata.get(METADATA_KEY, "{}"))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: its metadata {METADATA_KEY!r} is not JSON") from error
    tensors = float_tensors(path, state, max_bytes=16 * size + 2**26)
    return tensors, extras if isinstance(extras, dict) else {}
