"""Reads a file of weights of any known layout and fills a network with it, strictly."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from videogn.errors import WeightsError, WeightsMismatchError
from videogn.model import I3DResNet, inflate_state_dict
from videogn.model.inflate import Inflation
from videogn.weights.content import read_content
from videogn.weights.files import find_weights
from videogn.weights.layouts import read_layout
from videogn.weights.source import RGB, SourceNorm, SourceWeights, is_image, norm_kind

_HEAD = ("fc.weight", "fc.bias")
_NORM_NAMES = {
    "bn": "batch norm",
    "gn": "group norm",
    "frozen_bn": "batch norm folded into a fixed scale and shift",
}
_FILES_WITH = {
    "bn": "resnet50 or resnet101",
    "gn": "R-50-GN.pkl or R-101-GN.pkl",
    "frozen_bn": "a file with batch norm",
}
# A file of batch norm fills a frozen one too: fixed statistics are what frozen means.
_FITS = {("bn", "bn"), ("gn", "gn"), ("frozen_bn", "frozen_bn"), ("bn", "frozen_bn")}
_KINDS: dict[str, SourceNorm] = {"FrozenBatchNorm3d": "frozen_bn", "GroupNorm": "gn"}
# What of a fingerprint may differ: the norm is compared by kind, the head is replaced, its window
# follows the crop ...
_NOT_COMPARED = frozenset(("norm", "num_classes", "window"))
# ... a network trained on images has no time at all ...
_TIME_STRIDES = ("stem_stride_t", "pool1_t", "pool2_t")
_TIME_ENTRIES = frozenset((*_TIME_STRIDES, "pool1_stride_t", "kernels_t", "stem_kernel_t"))
# ... and was inflated by the paper, from its pad of 1, into a network with 0.
_PADDING = "stem_pool_padding"
_NORM_ENTRIES = frozenset(("eps", "groups"))  # of the norm that is not loaded
_UNNAMED_CLASSES = "the file does not name its classes: their order is taken to be that of the data"
_MAX_LINES = 60  # of a message; a file of another depth does not fit in 200 ways


@dataclass(frozen=True)
class LoadReport:
    """What was loaded, and what must go with it.

    Attributes:
        file: the name of the file.
        matched: tensors of the network filled from the file.
        total: tensors of the network to fill: all but `num_batches_tracked` and a replaced head.
        head_replaced: (classes of the file, classes of the network) if the network keeps its own
            initial classifier, else None.
        norm: of the file: "bn", "gn" or "frozen_bn".
        mean: to subtract from RGB pixels on the [0, 1] scale.
        std: to divide them by.
        classes: names of the file's classes, where it holds them.
        layout: of the file.
        notes: in what the network differs from the one that the file was trained as.
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
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Returns one line for the log."""
        head = "head kept"
        if self.head_replaced:
            head = f"head replaced ({self.head_replaced[0]} -> {self.head_replaced[1]})"
        tensors = f"{self.matched} of {self.total} tensors"
        line = f"{tensors} from {self.file} ({self.layout}, {self.norm}), {head}"
        return "; ".join((line, *self.notes))


def read_weights(source: str | Path) -> SourceWeights:
    """Returns the weights in a file, its container and layout told by its content.

    Args:
        source: a path, or a name in `videogn.weights.files.KNOWN`.

    Raises:
        WeightsError: not found, not readable, or of no known layout.
    """
    path = find_weights(source)
    content = read_content(path)
    try:
        return read_layout(content)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error


def load_weights(
    model: I3DResNet,
    source: str | Path,
    *,
    inflation: Inflation = "mean",
    classes: Sequence[str] | None = None,
    allow_norm_mismatch: bool = False,
) -> LoadReport:
    """Fills `model` in place from a file of any known layout, and returns what was loaded.

    Strict: every tensor of the network is filled and every tensor of the file used. The one
    exception is the classifier: an image network's, one of another size, or one of our own for
    other class names is left aside, and the network keeps its initial one. What the file or its
    layout tells of the network trained (strides, pools, groups, eps) must be so in `model`; what
    time does, and the padding of the first pool, may differ when images are inflated.

    Args:
        model: the network; its device and dtype stay.
        source: a path, or a name in `videogn.weights.files.KNOWN`.
        inflation: how a 2-D kernel gets its frames, see `inflate_kernel`.
        classes: names of the network's classes, to be compared with those of a checkpoint.
        allow_norm_mismatch: let batch norm's gamma and beta fill a group norm; its running
            statistics are dropped. Not what the paper does.

    Raises:
        WeightsError: the file is not found or cannot be read.
        WeightsMismatchError: it does not fit; the message begins with the file's name.
    """
    path = find_weights(source)
    weights = read_weights(path)
    state = model.state_dict()
    wanted = {k: tensor for k, tensor in state.items() if not k.endswith(".num_batches_tracked")}
    try:
        tensors, notes = _for_norm(weights, _norm_of(model), allow_norm_mismatch)
        notes += _check_fingerprint(model, weights, compare_norm=not notes)
        inflated = weights.is_image and not is_image(wanted)
        keeps_head = not inflated and _same_head(weights, wanted, classes)
        file_classes, shapes = _shapes_to_read(weights, wanted, keeps_head)
        filled = inflate_state_dict(tensors, shapes, inflation)
    except WeightsMismatchError as error:
        raise WeightsMismatchError(f"{path.name}: {_capped(str(error))}") from None
    if keeps_head and classes is not None and weights.classes is None:
        notes += (_UNNAMED_CLASSES,)
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
        notes=notes,
    )


def _norm_of(model: I3DResNet) -> SourceNorm:
    return _KINDS.get(type(model.norm1).__name__) or norm_kind(model.state_dict())


def _for_norm(
    weights: SourceWeights, here: SourceNorm, allow_mismatch: bool
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Returns the tensors for a network with the norm `here`, and what to say of it.

    Raises:
        WeightsMismatchError: the file's norm cannot fill it.
    """
    if (weights.norm, here) in _FITS:
        return weights.tensors, ()
    if (weights.norm, here) == ("bn", "gn") and allow_mismatch:
        kept = {k: v for k, v in weights.tensors.items() if ".running_" not in k}
        return kept, ("gamma and beta are those of batch norm, whose statistics were dropped",)
    advice = f"use {_FILES_WITH[here]} instead"
    if (weights.norm, here) == ("bn", "gn"):
        advice += ", or keep its gamma and beta with model.init_allow_norm_mismatch=true"
    if weights.norm == "frozen_bn":
        advice = "train with model.norm.kind=frozen_bn"
    raise WeightsMismatchError(
        f"trained with {_NORM_NAMES[weights.norm]}, but the network has {_NORM_NAMES[here]}; "
        f"{advice}"
    )


def _check_fingerprint(
    model: I3DResNet, weights: SourceWeights, *, compare_norm: bool
) -> tuple[str, ...]:
    """Compares all that the file says of the function its weights compute; returns what to say.

    Raises:
        WeightsMismatchError: the network computes another one.
    """
    file, here = weights.fingerprint or {}, model.fingerprint()
    ignored = _NOT_COMPARED | (frozenset() if compare_norm else _NORM_ENTRIES)
    notes: tuple[str, ...] = ()
    inflated = weights.is_image and not is_image(model.state_dict())
    if inflated or (weights.is_image and all(file.get(name) == 1 for name in _TIME_STRIDES)):
        ignored |= _TIME_ENTRIES
    differ = [name for name in sorted((file.keys() & here.keys()) - ignored)
              if file[name] != here[name]]  # fmt: skip
    if inflated and _PADDING in differ:
        differ.remove(_PADDING)
        notes = (_difference(_PADDING, file, here),)
    if differ:
        listed = ", ".join(_difference(name, file, here) for name in differ)
        raise WeightsMismatchError(f"trained as another network: {listed}")
    return notes


def _difference(name: str, file: Mapping[str, object], here: Mapping[str, object]) -> str:
    return f"{name} is {_brief(file[name])} in the file and {_brief(here[name])} here"


def _brief(value: object) -> str:
    """Returns a value for a message; the groups of a ResNet are a list of 53."""
    return textwrap.shorten(str(value), 70, placeholder=" ...")


def _capped(message: str) -> str:
    """Returns the first lines of a message and how many are left out."""
    lines = message.split("\n")
    if len(lines) <= _MAX_LINES:
        return message
    return "\n".join([*lines[:_MAX_LINES], f"  and {len(lines) - _MAX_LINES} more"])


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
