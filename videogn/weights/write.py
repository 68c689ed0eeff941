"""Our tensors in the layouts of other projects: what each can hold, exactly, or an error.

    torchvision   image networks, BN or GN of 32 groups; RGB, ImageNet's mean and std
    pytorchvideo  i3d_r50_8x8, c2d_r50, slow_r50, BN or GN of 32; RGB, mean 0.45 and std 0.225
    pyslowfast    the same networks, BN; any mean and std, which its `cfg` states

The first two do not say how their input is normalized, so that has to be what their readers take
for granted: another std goes into the first convolution, exactly; another mean cannot, because the
zeros around a frame stand for it. Names of classes have no place in any of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import yaml
from torch import Tensor

from videogn.errors import WeightsError
from videogn.model.i3d import ARCHS
from videogn.weights.pixels import IMAGENET_MEAN, IMAGENET_STD, KINETICS_MEAN, KINETICS_STD
from videogn.weights.source import RGB, SourceWeights
from videogn.weights.torchvision_layout import to_torchvision

EPS = 1e-5  # of the norms of all of them
GROUPS = 32  # of the group norm files of torchvision's layout, which do not say


@dataclass(frozen=True)
class Layout:
    """What files of a layout hold, and how.

    Attributes:
        rename: our tensors -> the layout's; the second argument is whether pool2 has frames.
        wrapper: the entry of the file that the tensors go under, "" for none.
        norms: kinds of normalization.
        archs: names in `ARCHS`; empty for image networks.
        mean: of the input, RGB on [0, 1]; None where the file states it.
        std: the same.
    """

    rename: Callable[[Mapping[str, Tensor], bool], dict[str, Tensor]]
    wrapper: str
    norms: tuple[str, ...]
    archs: tuple[str, ...]
    mean: RGB | None = None
    std: RGB | None = None


def to_layout(weights: SourceWeights, layout: str) -> dict[str, Any]:
    """Returns what `torch.save` is to write for a file of another project's layout.

    Args:
        weights: of any file, for RGB input.
        layout: a name in `LAYOUTS`.

    Raises:
        WeightsError: the layout cannot hold them; the message says why.
    """
    target = LAYOUTS[layout]
    _require_norm(weights, layout)
    arch = _video_arch(weights, layout) if target.archs else _require_image(weights)
    tensors = dict(weights.tensors)
    tensors["conv1.weight"] = _stem_for(weights, layout)
    for name in weights.tensors:
        if name.endswith(".running_var"):  # the readers expect BN's counter, and do not use it
            counter = name.replace("running_var", "num_batches_tracked")
            tensors[counter] = torch.tensor(0)
    pooled = arch in ARCHS and ARCHS[arch].pool2_t > 1
    renamed = {name: t.contiguous() for name, t in target.rename(tensors, pooled).items()}
    contents: dict[str, Any] = {target.wrapper: renamed} if target.wrapper else renamed
    if layout == "pyslowfast":
        contents["cfg"] = _cfg(weights, arch)
    return contents


def _cfg(weights: SourceWeights, arch: str) -> str:
    """Returns what PySlowFast must be told to use the weights, as its `cfg` has it: YAML."""
    cfg = {
        "MODEL": {
            "ARCH": arch.split("_")[0],  # i3d, c2d, slow
            "NUM_CLASSES": weights.tensors["fc.weight"].shape[0],
        },
        "RESNET": {
            "DEPTH": 50,
            "WIDTH_PER_GROUP": weights.tensors["conv1.weight"].shape[0],
            "STRIDE_1X1": False,
        },
        "DATA": {"MEAN": list(weights.mean), "STD": list(weights.std)},
    }
    return yaml.safe_dump(cfg)


def _require_norm(weights: SourceWeights, layout: str) -> None:
    stated = weights.fingerprint or {}
    if weights.norm not in LAYOUTS[layout].norms:
        raise WeightsError(
            f"its norm is {weights.norm}, and the layout {layout} holds "
            f"{' or '.join(LAYOUTS[layout].norms)}; keep it as videogn or safetensors"
        )
    for entry, needed in (("eps", EPS), ("groups", GROUPS)):
        if stated.get(entry, needed) != needed:
            raise WeightsError(
                f"its norms have {entry} {str(stated[entry])[:40]}, and readers of the layout "
                f"{layout} take {needed} for granted; keep it as videogn or safetensors"
            )


def _require_image(weights: SourceWeights) -> str:
    """Returns "image" for a network of single images, as torchvision builds it.

    Raises:
        WeightsError: it is another.
    """
    network = asdict(ARCHS["i3d_r50"].image()) | {"stem_pool_padding": 1}
    del network["kernels_t"]
    differ = [
        f"{name} has {tensor.shape[2]} frames"
        for name, tensor in weights.tensors.items()
        if tensor.ndim == 5 and tensor.shape[2] > 1
    ] or _differences(_stated(weights), network)
    if differ:
        raise WeightsError(
            f"the layout torchvision holds networks of single images, but {differ[0]}; keep it as "
            "videogn or safetensors"
        )
    return "image"


def _video_arch(weights: SourceWeights, layout: str) -> str:
    """Returns the name in `ARCHS` of the network, one of those that the layout is read into.

    Raises:
        WeightsError: it is none of them, or the file does not say.
    """
    stated, found = _stated(weights), {}
    if "kernels_t" not in stated:
        raise WeightsError(
            f"it is a network of images, and the layout {layout} holds those of videos; train one "
            "from it (model.init) and convert that"
        )
    for name in LAYOUTS[layout].archs:
        network = asdict(ARCHS[name]) | {"stem_pool_padding": 1}
        missing = [f"it does not say its {entry}" for entry in network if entry not in stated]
        found[name] = missing + _differences(stated, network)
        if not found[name]:
            return name
    nearest = min(found, key=lambda name: len(found[name]))
    raise WeightsError(
        f"the layout {layout} holds {', '.join(found)}, but of {nearest} it differs: "
        f"{'; '.join(found[nearest])}; keep it as videogn or safetensors"
    )


def presets_of(weights: SourceWeights) -> list[str]:
    """Returns the names in `ARCHS` of what the network may be: nothing that is known differs."""
    stated = _stated(weights)
    if "kernels_t" not in stated:
        return []
    return [name for name, arch in ARCHS.items() if not _differences(stated, asdict(arch))]


def presets_by_inflation(weights: SourceWeights) -> list[str]:
    """Returns the names in `ARCHS` of the networks of videos that an image network begins."""
    blocks = tuple(len(stage) for stage in _blocks(weights))
    halving = (weights.fingerprint or {}).get("stride_1x1", False)
    return [
        name
        for name, arch in ARCHS.items()
        if weights.is_image
        and blocks == tuple(len(stage) for stage in arch.kernels_t)
        and halving == arch.stride_1x1
    ]


def _stated(weights: SourceWeights) -> dict[str, Any]:
    """Returns what the file says of its network, and what the shapes of its kernels say."""
    stated = {k: v for k, v in (weights.fingerprint or {}).items() if k != "kernels_t"}
    stem, blocks = weights.tensors.get("conv1.weight"), _blocks(weights)
    if stem is None or stem.ndim != 5 or any(k.ndim != 5 for stage in blocks for k in stage):
        return stated
    kernels_t = tuple(tuple(kernel.shape[2] for kernel in stage) for stage in blocks)
    return stated | {"kernels_t": kernels_t, "stem_kernel_t": stem.shape[2]}


def _blocks(weights: SourceWeights) -> list[list[Tensor]]:
    """Returns the first convolution of each block, stage by stage."""
    stages: dict[int, dict[int, Tensor]] = {}
    for name, tensor in weights.tensors.items():
        match = re.fullmatch(r"layer(\d+)\.(\d+)\.conv1\.weight", name)
        if match:
            stages.setdefault(int(match[1]), {})[int(match[2])] = tensor
    return [[blocks[i] for i in sorted(blocks)] for _, blocks in sorted(stages.items())]


def _differences(stated: Mapping[str, Any], network: Mapping[str, Any]) -> list[str]:
    return [
        f"its {entry} is {str(stated[entry])[:80]}, not {str(value)[:80]}"
        for entry, value in network.items()
        if entry in stated and stated[entry] != value
    ]


def _stem_for(weights: SourceWeights, layout: str) -> Tensor:
    """Returns the first convolution for the layout's input."""
    target, stem = LAYOUTS[layout], weights.tensors["conv1.weight"]
    if target.mean is None or target.std is None:
        return stem
    if any(abs(a - b) > 1e-9 for a, b in zip(weights.mean, target.mean, strict=True)):
        raise WeightsError(
            f"its input has the mean {weights.mean}, and readers of the layout {layout} take "
            f"{target.mean} for granted, which cannot be made up for exactly; keep it as videogn "
            "or safetensors"
        )
    if tuple(weights.std) == target.std:
        return stem
    scale = torch.tensor(target.std, dtype=torch.float64) / torch.tensor(
        weights.std, dtype=torch.float64
    )
    return (stem.double() * scale.view(1, 3, *[1] * (stem.ndim - 2))).to(stem.dtype)


_TENSOR = re.compile(
    r"(?:layer(?P<stage>\d+)\.(?P<block>\d+)\.)?"
    r"(?:(?P<kind>conv|norm)(?P<branch>\d)|downsample\.(?P<shortcut>[01]))\.(?P<parameter>\w+)"
)
_BRANCHES = {"1": "a", "2": "b", "3": "c"}


def _to_pyslowfast(tensors: Mapping[str, Tensor], _: bool) -> dict[str, Tensor]:
    return {_pyslowfast_name(name): tensor for name, tensor in tensors.items()}


def _pyslowfast_name(name: str) -> str:
    """Returns PySlowFast's name of a tensor of ours.

    conv1.weight -> s1.pathway0_stem.conv.weight, norm1.bias -> s1.pathway0_stem.bn.bias
    layer1.0.conv2.weight -> s2.pathway0_res0.branch2.b.weight, norm2.bias -> ...b_bn.bias
    layer1.0.downsample.0.weight -> s2.pathway0_res0.branch1.weight, .1.bias -> .branch1_bn.bias
    """
    part = _part(name)
    if part is None:
        return name.replace("fc.", "head.projection.")
    parameter, is_norm = part["parameter"], "norm" in (part["kind"], _of_shortcut(part))
    if part["stage"] is None:
        return f"s1.pathway0_stem.{'bn' if is_norm else 'conv'}.{parameter}"
    block = f"s{int(part['stage']) + 1}.pathway0_res{part['block']}"
    branch = "branch1" if part["branch"] is None else f"branch2.{_BRANCHES[part['branch']]}"
    return f"{block}.{branch}{'_bn' if is_norm else ''}.{parameter}"


def _to_pytorchvideo(tensors: Mapping[str, Tensor], pooled: bool) -> dict[str, Tensor]:
    return {_pytorchvideo_name(name, pooled): tensor for name, tensor in tensors.items()}


def _pytorchvideo_name(name: str, pooled: bool) -> str:
    """Returns PyTorchVideo's name of a tensor of ours; pool2, where there is one, is blocks.2.

    conv1.weight -> blocks.0.conv.weight, norm1.bias -> blocks.0.norm.bias
    layer1.0.conv2.weight -> blocks.1.res_blocks.0.branch2.conv_b.weight
    layer2.0.downsample.1.bias -> blocks.3.res_blocks.0.branch1_norm.bias
    """
    part = _part(name)
    if part is None:
        return name.replace("fc.", f"blocks.{5 + pooled}.proj.")
    parameter, kind = part["parameter"], part["kind"] or _of_shortcut(part)
    if part["stage"] is None:
        return f"blocks.0.{kind}.{parameter}"
    stage = int(part["stage"])
    block = f"blocks.{stage + (pooled and stage > 1)}.res_blocks.{part['block']}"
    if part["branch"] is None:
        return f"{block}.branch1_{kind}.{parameter}"
    return f"{block}.branch2.{kind}_{_BRANCHES[part['branch']]}.{parameter}"


def _part(name: str) -> dict[str, str] | None:
    """Returns which tensor of the network a name is, None for the classifier's."""
    if name.startswith("fc."):
        return None
    match = _TENSOR.fullmatch(name)
    if match is None:
        raise WeightsError(
            f"{name} is no tensor of a ResNet, and no other layout has a place for it"
        )
    return match.groupdict()


def _of_shortcut(part: Mapping[str, str]) -> str:
    return {"0": "conv", "1": "norm"}.get(part["shortcut"], "")


_VIDEO_ARCHS = ("i3d_r50_8x8", "c2d_r50", "slow_r50")
LAYOUTS: dict[str, Layout] = {
    "torchvision": Layout(
        lambda tensors, _: to_torchvision(tensors),
        wrapper="",
        norms=("bn", "gn"),
        archs=(),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    ),
    "pytorchvideo": Layout(
        _to_pytorchvideo,
        wrapper="model_state",
        norms=("bn", "gn"),
        archs=_VIDEO_ARCHS,
        mean=KINETICS_MEAN,
        std=KINETICS_STD,
    ),
    # without "epoch": with it PySlowFast would look for the state of an optimizer
    "pyslowfast": Layout(_to_pyslowfast, wrapper="model_state", norms=("bn",), archs=_VIDEO_ARCHS),
}
