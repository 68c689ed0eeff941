"""tensorpack's npz files: TensorFlow's layout of kernels, of group norm and batch norm ResNets."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from videogn.weights.content import Content
from videogn.weights.pixels import IMAGENET_MEAN, IMAGENET_STD, stem_from_bgr
from videogn.weights.source import SourceWeights, norm_kind

_PARAMETERS = {
    "gamma": "weight",
    "beta": "bias",
    "mean/EMA": "running_mean",
    "variance/EMA": "running_var",
}
_NAME = re.compile(
    r"(?:conv0|group(?P<group>[0-3])/block(?P<block>\d+)/conv(?P<conv>[123]|shortcut))/"
    rf"(?:W|(?:gn|bn)/(?P<norm>{'|'.join(_PARAMETERS)}))"
)
_HEAD = {"linear/W": "fc.weight", "linear/b": "fc.bias"}
_STATE = re.compile(
    r".*/(Momentum|AccumGrad)|global_step|learning_rate|EMA/.*|(?!.*/(mean|variance)/).*/EMA"
)


def is_tensorpack(content: Content) -> bool:
    """Returns whether it has tensorpack's names of a ResNet."""
    return any(_NAME.fullmatch(name.removesuffix(":0")) for name in content.tensors)


def read_tensorpack(content: Content) -> SourceWeights:
    """Returns the weights of a ResNet of tensorpack, for RGB input.

    They take BGR of [0, 1] with ImageNet's statistics; their stride is in the 3x3 convolution, a
    group norm has 32 groups. The state of the optimizer and the averages of summaries are left out.
    Names that are not understood are kept, so that loading reports them.

    Raises:
        WeightsError: the first convolution does not take colors.
    """
    plain = {name.removesuffix(":0"): tensor for name, tensor in content.tensors.items()}
    tensors = _canonical_tensors(plain)
    norm = norm_kind(tensors)
    if "conv1.weight" in tensors:
        tensors["conv1.weight"] = stem_from_bgr(tensors["conv1.weight"])
    fingerprint = {"eps": 1e-5, "stride_1x1": False, "stem_pool_padding": 1}
    return SourceWeights(
        tensors=tensors,
        norm=norm,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        classes=None,
        layout="tensorpack",
        fingerprint=fingerprint | ({"groups": 32} if norm == "gn" else {}),
        pixels="BGR on [0, 1], ImageNet's mean and std",
        container=content.container,
        notes=(
            "the layout does not tell the padding: files called AlignPadding were trained with "
            "PyTorch's, as here; others with TensorFlow's, which is another function",
        ),
    )


def _canonical_tensors(plain: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the weights under our names, kernels (h, w, I, O) as (O, I, h, w)."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in plain.items():
        if _STATE.fullmatch(name):
            continue
        canonical, kernel = _canonical(name), tensor
        if tensor.ndim == 4:
            kernel = tensor.permute(3, 2, 0, 1)
        elif canonical == "fc.weight" and tensor.ndim == 2:
            kernel = tensor.T
        tensors[canonical] = kernel.contiguous()
    return tensors


def _canonical(name: str) -> str:
    """Returns our name of a variable, or `name` itself where there is none.

    conv0/W -> conv1.weight, conv0/gn/gamma -> norm1.weight
    group0/block1/conv2/bn/mean/EMA -> layer1.1.norm2.running_mean
    group1/block0/convshortcut/W -> layer2.0.downsample.0.weight
    """
    if name in _HEAD:
        return _HEAD[name]
    match = _NAME.fullmatch(name)
    if match is None:
        return name
    parameter = _PARAMETERS.get(match["norm"], "weight")
    kind = "norm" if match["norm"] else "conv"
    if match["group"] is None:
        return f"{kind}1.{parameter}"
    prefix = f"layer{int(match['group']) + 1}.{match['block']}"
    if match["conv"] == "shortcut":
        return f"{prefix}.downsample.{1 if match['norm'] else 0}.{parameter}"
    return f"{prefix}.{kind}{match['conv']}.{parameter}"
