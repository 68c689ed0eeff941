"""PySlowFast's `.pyth` checkpoints of one pathway: C2D, I3D and Slow."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml
from torch import Tensor

from videogn.errors import WeightsError
from videogn.weights.content import Content
from videogn.weights.pixels import KINETICS_MEAN, KINETICS_PIXELS, KINETICS_STD, stem_from_bgr
from videogn.weights.source import RGB, SourceWeights, norm_kind

_BRANCHES = {"a": "1", "b": "2", "c": "3"}
_NAME = re.compile(
    r"s(?P<stage>[2-5])\.pathway0_res(?P<block>\d+)\."
    r"(?:branch2\.(?P<branch>[abc])|branch1)(?P<norm>_bn)?\.(?P<parameter>\w+)"
)
_STEM = {"conv": "conv1", "bn": "norm1"}
_MAX_CFG = 2**20  # characters; the whole of PySlowFast's defaults is 20,000


def is_pyslowfast(content: Content) -> bool:
    """Returns whether it has PySlowFast's names of a ResNet."""
    return any(
        name.startswith(("s1.pathway0_stem.", "s2.pathway0_res")) for name in content.tensors
    )


def read_pyslowfast(content: Content) -> SourceWeights:
    """Returns the weights of a network of PySlowFast of one pathway, for RGB input.

    Where the file holds its `cfg`, that says the pixels, the pools and the stride; else they are
    those of PySlowFast's presets, told by the kernels. The pool after the stem is padded by 1.

    Raises:
        WeightsError: its `cfg` cannot be read, or asks for what no preset here has.
    """
    tensors = {_canonical(name): tensor for name, tensor in content.tensors.items()}
    cfg = _Cfg(content.extras.get("cfg"))
    mean, std = cfg.colors("DATA.MEAN", KINETICS_MEAN), cfg.colors("DATA.STD", KINETICS_STD)
    pixels = KINETICS_PIXELS
    if (mean, std) != (KINETICS_MEAN, KINETICS_STD):
        pixels = f"RGB on [0, 1], mean {mean}, std {std}"
    if cfg.get("DATA.REVERSE_INPUT_CHANNEL", False) and "conv1.weight" in tensors:
        # it is fed B, G, R with the statistics written in that order
        tensors["conv1.weight"] = stem_from_bgr(tensors["conv1.weight"])
        mean, std = (mean[2], mean[1], mean[0]), (std[2], std[1], std[0])
        pixels = pixels.replace("RGB", "BGR")
    return SourceWeights(
        tensors=tensors,
        norm=norm_kind(tensors),
        mean=mean,
        std=std,
        classes=None,
        layout="pyslowfast",
        fingerprint=_fingerprint(cfg, tensors),
        pixels=pixels,
        container=content.container,
    )


def _canonical(name: str) -> str:
    """Returns our name of a tensor, or `name` itself where there is none.

    s1.pathway0_stem.bn.weight -> norm1.weight, head.projection.bias -> fc.bias
    s2.pathway0_res0.branch2.a.weight -> layer1.0.conv1.weight, ....a_bn.bias -> layer1.0.norm1.bias
    s2.pathway0_res0.branch1_bn.weight -> layer1.0.downsample.1.weight
    """
    if name.startswith("head.projection."):
        return "fc." + name.removeprefix("head.projection.")
    stem = re.fullmatch(r"s1\.pathway0_stem\.(conv|bn)\.(\w+)", name)
    if stem:
        return f"{_STEM[stem[1]]}.{stem[2]}"
    match = _NAME.fullmatch(name)
    if match is None:
        return name
    prefix = f"layer{int(match['stage']) - 1}.{match['block']}"
    if match["branch"] is None:
        return f"{prefix}.downsample.{1 if match['norm'] else 0}.{match['parameter']}"
    kind = "norm" if match["norm"] else "conv"
    return f"{prefix}.{kind}{_BRANCHES[match['branch']]}.{match['parameter']}"


def _fingerprint(cfg: _Cfg, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    arch = cfg.get("MODEL.ARCH", None)
    for key, usual in (
        ("RESNET.SPATIAL_STRIDES", [[1], [2], [2], [2]]),
        ("RESNET.SPATIAL_DILATIONS", [[1], [1], [1], [1]]),
    ):
        value = cfg.get(key, usual)
        if value != usual:
            raise WeightsError(f"trained with {key}={str(value)[:60]}; the presets have {usual}")
    shape: dict[str, Any] = {
        "eps": 1e-5,
        "stem_stride_t": 1,
        "pool1_t": 1,
        "pool1_stride_t": 1,
        "stem_pool_padding": 1,
        "stride_1x1": bool(cfg.get("RESNET.STRIDE_1X1", False)),
    }
    pool2_t = _pool2_t(arch, tensors)
    return shape if pool2_t is None else shape | {"pool2_t": pool2_t}


def _pool2_t(arch: object, tensors: Mapping[str, Tensor]) -> int | None:
    """Returns the frames of the pool after the first stage; None for a C2D without a `cfg`.

    C2D and I3D pool 2 frames unless they are called nopool; Slow and the 2-D network do not.
    """
    if isinstance(arch, str):
        return 2 if arch in ("c2d", "i3d") else 1
    frames = {name: tensor.shape[2] for name, tensor in tensors.items() if tensor.ndim == 5}
    if frames.get("conv1.weight") == 5:
        return 2
    return 1 if any(size > 1 for size in frames.values()) else None


class _Cfg:
    """The text under "cfg": a dump of the whole configuration as YAML."""

    def __init__(self, text: object) -> None:
        self.entries: object = {}
        if isinstance(text, str):
            if len(text) > _MAX_CFG:
                raise WeightsError(f"its `cfg` has {len(text)} characters; expected 20,000 or so")
            try:
                self.entries = yaml.safe_load(text)
            except (yaml.YAMLError, RecursionError, ValueError) as error:
                raise WeightsError(f"its `cfg` is not plain YAML ({str(error)[:80]})") from error

    def get(self, dotted: str, default: Any) -> Any:
        """Returns an entry such as DATA.MEAN, or `default`."""
        value: object = self.entries
        for key in dotted.split("."):
            if not isinstance(value, Mapping) or key not in value:
                return default
            value = value[key]
        return value

    def colors(self, dotted: str, default: RGB) -> RGB:
        """Returns an entry of 3 numbers.

        Raises:
            WeightsError: it is something else.
        """
        value = self.get(dotted, list(default))
        match value:
            case [int() | float() as first, int() | float() as second, int() | float() as third]:
                return float(first), float(second), float(third)
        raise WeightsError(f"its `cfg` has {dotted}={str(value)[:40]}; expected 3 numbers")
