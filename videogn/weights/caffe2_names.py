"""Caffe2's names of a ResNet's blobs, which Detectron, video-nonlocal-net and PySlowFast share."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_BRANCHES = {"a": "1", "b": "2", "c": "3"}
_HEADS = ("pred", "fc1000")
_PARAMETERS = {
    "w": "weight",
    "b": "bias",
    "gn_s": "weight",
    "gn_b": "bias",
    "bn_s": "weight",
    "bn_b": "bias",
    "bn_rm": "running_mean",
    # called an inverse, but video-nonlocal-net's bn_helper writes the variance
    "bn_riv": "running_var",
    # the spelling of the copies that Detectron2 downloads
    "bn_gamma": "weight",
    "bn_beta": "bias",
    "bn_running_mean": "running_mean",
    "bn_running_var": "running_var",
}
_NAME = re.compile(
    rf"(?P<conv1>(res_)?conv1|res(?P<stage>[2-5])_(?P<block>\d+)_branch(?P<branch>1|2[abc]))_"
    rf"(?P<kind>{'|'.join(_PARAMETERS)})"
)
_NOT_WEIGHTS = re.compile(r".*_momentum|lr|model_iter")


def canonical_blobs(blobs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the blobs under our names; those not understood keep theirs.

    conv1_w -> conv1.weight, conv1_gn_s and res_conv1_bn_s -> norm1.weight
    res2_0_branch2a_w -> layer1.0.conv1.weight, res2_0_branch2a_gn_b -> layer1.0.norm1.bias
    res2_0_branch1_w -> layer1.0.downsample.0.weight, ..._gn_s -> layer1.0.downsample.1.weight

    The state of the optimizer is left out.
    """
    return {_canonical(n): blob for n, blob in blobs.items() if not _NOT_WEIGHTS.fullmatch(n)}


def _canonical(name: str) -> str:
    """Returns our name of a blob, or `name` itself where there is none."""
    head, _, parameter = name.rpartition("_")
    if head in _HEADS and parameter in ("w", "b"):
        return f"fc.{_PARAMETERS[parameter]}"
    match = _NAME.fullmatch(name)
    if match is None:
        return name
    kind = match["kind"]
    is_conv, parameter = kind in ("w", "b"), _PARAMETERS[kind]
    if match["stage"] is None:
        if match["conv1"] != ("res_conv1" if kind.startswith("bn") else "conv1"):
            return name
        return f"conv1.{parameter}" if is_conv else f"norm1.{parameter}"
    prefix = f"layer{int(match['stage']) - 1}.{int(match['block'])}"
    if match["branch"] == "1":
        return f"{prefix}.downsample.{0 if is_conv else 1}.{parameter}"
    return f"{prefix}.{'conv' if is_conv else 'norm'}{_BRANCHES[match['branch'][-1]]}.{parameter}"


def without_conv_biases(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns our tensors with `mean - bias` for every mean of a convolution that has a bias.

    MSRA's files have biases, for which our convolutions have no place; batch norm computes with
    `x + bias - mean`. Before a group norm only a bias of zeros can go.
    """
    result = dict(tensors)
    for name, bias in tensors.items():
        if not re.search(r"(^|\.)(conv\d|downsample\.0)\.bias$", name):
            continue
        mean = _norm_of(name.removesuffix(".bias")) + ".running_mean"
        if mean in result and result[mean].shape == bias.shape:
            result[mean] = result[mean] - bias
            del result[name]
        elif not bias.any():
            del result[name]
    return result


def _norm_of(conv: str) -> str:
    """Returns the name of the norm after a convolution: layer1.0.conv2 -> layer1.0.norm2."""
    if conv.endswith("downsample.0"):
        return conv[:-1] + "1"
    return re.sub(r"conv(\d)$", r"norm\1", conv)


def has_caffe2_names(blobs: Mapping[str, Tensor]) -> bool:
    """Returns whether some blob is one of a ResNet."""
    return any(_NAME.fullmatch(name) for name in blobs)


def is_folded(blobs: Mapping[str, Tensor]) -> bool:
    """Returns whether batch norm is folded into a scale and shift: `_bn_s` and no `_bn_rm`."""
    kinds = {match["kind"] for match in map(_NAME.fullmatch, blobs) if match}
    return bool(kinds & {"bn_s", "bn_b"}) and not kinds & {"bn_rm", "bn_riv"}


def with_fixed_statistics(tensors: Mapping[str, Tensor], eps: float) -> dict[str, Tensor]:
    """Returns folded weights with the mean 0 and variance 1 - eps that leave scale and shift be."""
    result = dict(tensors)
    norms = {n.rpartition(".")[0] for n in tensors if re.search(r"(norm\d|downsample\.1)\.\w+$", n)}
    for norm in sorted(norms):
        sizes = [
            tensors[f"{norm}.{parameter}"].shape[:1]
            for parameter in ("weight", "bias")
            if f"{norm}.{parameter}" in tensors
        ]
        conv = norm.replace("downsample.1", "downsample.0").replace("norm", "conv") + ".weight"
        sizes += [tensors[conv].shape[:1]] if conv in tensors else []
        size = max(sizes, key=sizes.count)  # one of them may be damaged, and is to be named alone
        result[f"{norm}.running_mean"] = torch.zeros(size)
        result[f"{norm}.running_var"] = torch.full(size, 1 - eps)
    return result
