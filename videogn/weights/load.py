"""Reads a file of weights of any known layout and fills a network with it, strictly."""

from __future__ import annotations

import struct
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videogn.errors import WeightsError, WeightsMismatchError
from videogn.model import I3DResNet, inflate_state_dict
from videogn.model.inflate import Inflation
from videogn.weights.checkpoint_layout import is_checkpoint, read_checkpoint
from videogn.weights.detectron import read_detectron
from videogn.weights.files import find_weights
from videogn.weights.pickles import load_numeric_pickle
from videogn.weights.source import RGB, SourceWeights, is_image, norm_kind
from videogn.weights.torchvision_layout import read_torchvision

_ZIP = b"PK\x03\x04"
_TORCH_BEFORE_1_6 = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # its magic number, pickled
_PICKLES = (b"\x80", b"(d", b"}q")  # a protocol from 2 on; a dict of protocol 0; of protocol 1

# torch has no error of its own for a damaged file: each of these was met in flipping its bytes
_TORCH_LOAD_ERRORS = (
    UnpicklingError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError,
    AssertionError, struct.error,
)  # fmt: skip

_HEAD = ("fc.weight", "fc.bias")
_NORM_NAMES = {"bn": "batch norm", "gn": "group norm"}
_FILES_WITH = {"bn": "resnet50 or resnet101", "gn": "R-50-GN.pkl or R-101-GN.pkl"}
# What of a fingerprint may differ: the head is replaced, its window follows the crop ...
_HEAD_ENTRIES = frozenset(("num_classes", "window"))
# ... and a network trained on images has no time at all.
_TIME_ENTRIES = frozenset(
    ("kernels_t", "stem_kernel_t", "stem_stride_t", "pool1_t", "pool1_stride_t", "pool2_t")
)


@dataclass(frozen=True)
class LoadReport:
    """What was loaded, and what must go with it.

    Attributes:
        file: the name of the file.
        matched: tensors of the network filled from the file.
        total: tensors of the network to fill: all but `num_batches_tracked` and a replaced head.
        head_replaced: (classes of the file, classes of the network) if the network keeps its own
            initial classifier, else None.
        norm: "bn" or "gn".
        mean: to subtract from RGB pixels on the [0, 1] scale.
        std: to divide them by.
        classes: names of the file's classes, where it holds them.
        layout: of the file.
    """

    file: str
    matched: int
    total: int
    head_replaced: tuple[int, int] | None
    norm: str
    mean: RGB
    std: RGB
    classes: tuple[str, ...] | None
    layout: str

    def __str__(self) -> str:
        """Returns one line for the log."""
        head = "head kept"
        if self.head_replaced:
            head = f"head replaced ({self.head_replaced[0]} -> {self.head_replaced[1]})"
        tensors = f"{self.matched} of {self.total} tensors"
        return f"{tensors} from {self.file} ({self.layout}, {self.norm}), {head}"


def read_weights(source: str | Path) -> SourceWeights:
    """Returns the weights in a file, its container and layout told by its content.

    Args:
        source: a path, or a name in `videogn.weights.files.KNOWN`.

    Raises:
        WeightsError: not found, not readable, or of no known layout.
    """
    path = find_weights(source)
    content = _read_container(path)
    try:
        return _read_layout(content)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error


def load_weights(
    model: I3DResNet,
    source: str | Path,
    *,
    inflation: Inflation = "mean",
    classes: Sequence[str] | None = None,
) -> LoadReport:
    """Fills `model` in place from a file of any known layout, and returns what was loaded.

    Strict: every tensor of the network is filled and every tensor of the file used. The one
    exception is the classifier: an image network's, one of another size, or one of our own for
    other class names is left aside, and the network keeps its initial one.

    Args:
        model: the network; its device and dtype stay.
        source: a path, or a name in `videogn.weights.files.KNOWN`.
        inflation: how a 2-D kernel gets its frames, see `inflate_kernel`.
        classes: names of the network's classes, to be compared with those of a checkpoint.

    Raises:
        WeightsError: the file is not found or cannot be read.
        WeightsMismatchError: it does not fit; the message begins with the file's name.
    """
    path = find_weights(source)
    weights = read_weights(path)
    state = model.state_dict()
    wanted = {k: tensor for k, tensor in state.items() if not k.endswith(".num_batches_tracked")}
    try:
        _check_norm(weights.norm, norm_kind(wanted))
        _check_fingerprint(model, weights)
        inflated = weights.is_image and not is_image(wanted)
        keeps_head = not inflated and _same_head(weights, wanted, classes)
        file_classes, shapes = _shapes_to_read(weights, wanted, keeps_head)
        filled = inflate_state_dict(weights.tensors, shapes, inflation)
    except WeightsMismatchError as error:
        raise WeightsMismatchError(f"{path.name}: {error}") from None
    if not keeps_head:
        filled = {name: tensor for name, tensor in filled.items() if name not in _HEAD}
    model.load_state_dict(state | filled)
    return LoadReport(
        file=path.name,
        matched=len(filled),
        total=len(wanted) - (0 if keeps_head else len(_HEAD)),
        head_replaced=None if keeps_head else (file_classes, model.fc.out_features),
        norm=weights.norm,
        mean=weights.mean,
        std=weights.std,
        classes=weights.classes,
        layout=weights.layout,
    )


def _read_container(path: Path) -> Mapping[str, Any]:
    """Returns the dict in a file: of arrays from a pickle, of anything plain from a torch file."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_TORCH_BEFORE_1_6))
        if not start.startswith((_ZIP, _TORCH_BEFORE_1_6)):
            if start.startswith(_PICKLES):
                return load_numeric_pickle(path)
            raise WeightsError(f"{path}: neither a file of torch.save nor a pickle")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error})") from error
    except _TORCH_LOAD_ERRORS as error:
        raise WeightsError(
            f"{path}: damaged, or holds more than tensors and plain values, and is then not opened "
            "because it could run code"
        ) from error
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: holds a {type(content).__name__} instead of a dict of tensors")
    return content


def _read_layout(content: Mapping[str, Any]) -> SourceWeights:
    if not content:
        raise WeightsError("no tensors in it, or not where a layout that is known has them")
    if any(isinstance(value, np.ndarray) for value in content.values()):
        return read_detectron(content)
    if is_checkpoint(content):
        return read_checkpoint(content)
    return read_torchvision(content)


def _check_norm(file: str, here: str) -> None:
    if file != here:
        raise WeightsMismatchError(
            f"trained with {_NORM_NAMES[file]}, but the network has {_NORM_NAMES[here]}; use "
            f"{_FILES_WITH[here]} instead"
        )


def _check_fingerprint(model: I3DResNet, weights: SourceWeights) -> None:
    """Compares all that the file says of the function its weights compute.

    Raises:
        WeightsMismatchError: the network computes another one.
    """
    file, here = weights.fingerprint or {}, model.fingerprint()
    ignored = _HEAD_ENTRIES | (_TIME_ENTRIES if weights.is_image else frozenset())
    values = [
        f"{name} is {_brief(file[name])} in the file and {_brief(here[name])} here"
        for name in sorted((file.keys() & here.keys()) - ignored)
        if file[name] != here[name]
    ]
    if values:
        raise WeightsMismatchError(f"trained as another network: {', '.join(values)}")


def _brief(value: object) -> str:
    """Returns a value for a message; the groups of a ResNet are a list of 53."""
    return textwrap.shorten(str(value), 70, placeholder=" ...")


def _same_head(
    weights: SourceWeights, wanted: Mapping[str, Tensor], classes: Sequence[str] | None
) -> bool:
    if classes is not None and weights.classes is not None and weights.classes != tuple(classes):
        return False
    head = weights.tensors.get("fc.weight")
    return head is None or head.shape == wanted["fc.weight"].shape


def _shapes_to_read(
    weights: SourceWeights, wanted: Mapping[str, Tensor], keeps_head: bool
) -> tuple[int, dict[str, Tensor]]:
    """Returns the file's number of classes, and tensors of the shapes the file must have.

    A classifier that is left aside must still be whole: a damaged one hints at a damaged file.
    """
    head = weights.tensors.get("fc.weight", wanted["fc.weight"])
    file_classes = head.shape[0] if head.ndim else 0
    shapes = dict(wanted)
    if not keeps_head:
        shapes["fc.weight"] = torch.empty(file_classes, wanted["fc.weight"].shape[1], device="meta")
        shapes["fc.bias"] = torch.empty(file_classes, device="meta")
    return file_classes, shapes
