"""Files of every layout, made of tensors under our names: each written out as its project does.

Nothing here shares code with the readers: names are made from ours by cutting them at their dots,
and the pixels that a layout's network is fed by writing down what its project feeds it.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.model.named_weights import named_weights
from tests.weights.python2_pickle import python2_pickle
from videogn.model import I3DResNet, norm_factory
from videogn.model.i3d import Arch
from videogn.model.norm import NormKind

Tensors = Mapping[str, Tensor]

NUM_FRAMES, SIZE, CLASSES = 8, 32, 5
ORG = Arch(((3, 1), (3,), (1,), (3,)))  # strides and pools of video-nonlocal-net's I3D
EVERY_FRAME = replace(ORG, stem_stride_t=1, pool1_t=1, pool1_stride_t=1)  # PySlowFast's I3D
C2D = replace(EVERY_FRAME, kernels_t=((1, 1), (1,), (1,), (1,)), stem_kernel_t=1)
SLOW = replace(C2D, kernels_t=((1, 1), (1,), (3,), (3,)), pool2_t=1)
MMACTION = replace(ORG, pool1_t=1)
IMAGE = ORG.image()
MSRA = replace(IMAGE, stride_1x1=True)


def network(arch: Arch, norm: NormKind, *, padding: int = 1, **options: Any) -> I3DResNet:
    """Returns a thin network with its initial weights, in evaluation."""
    return I3DResNet(
        arch,
        norm_factory(norm, num_groups=options.pop("groups", 32), eps=options.pop("eps", 1e-5)),
        num_classes=options.pop("num_classes", CLASSES),
        num_frames=1 if arch == arch.image() else NUM_FRAMES,
        crop_size=SIZE,
        width=32 if norm == "gn" else 8,
        stem_pool_padding=padding,
        **options,
    ).eval()


# ---- names -------------------------------------------------------------------------------------


def parts(name: str) -> tuple[str, str, str, str]:
    """Returns (layer, block, what, parameter): what is conv1..3, norm1..3, skip or skipnorm."""
    cut = name.split(".")
    if cut[0] in ("conv1", "norm1", "fc"):
        return "", "", cut[0], cut[1]
    what = cut[2] if cut[2] != "downsample" else {"0": "skip", "1": "skipnorm"}[cut[3]]
    return cut[0][-1], cut[1], what, cut[-1]


def known(rename: Callable[[str], str]) -> Callable[[str], str]:
    """Leaves names without a dot alone: those that a test adds."""
    return lambda name: rename(name) if "." in name else name


@known
def torchvision_name(name: str) -> str:
    for digit in "123":
        name = name.replace(f"norm{digit}", f"bn{digit}")
    return name


def caffe2_name(name: str, norm: Mapping[str, str], stem_norm: str) -> str:
    """Returns Caffe2's name; `norm` are the ends of a norm's parameters, as in {"weight": "s"}."""
    if "." not in name:
        return name
    layer, block, what, parameter = parts(name)
    if what == "fc":
        return f"pred_{parameter[0]}"
    if not layer:
        return f"{stem_norm}_{norm[parameter]}" if what == "norm1" else f"conv1_{parameter[0]}"
    branch = {"1": "branch2a", "2": "branch2b", "3": "branch2c"}.get(what[-1], "branch1")
    end = norm[parameter] if "norm" in what else parameter[0]
    middle = stem_norm[-3:] if "norm" in what else ""
    return f"res{int(layer) + 1}_{block}_{branch}{middle}_{end}"


GN_ENDS = {"weight": "s", "bias": "b"}
BN_ENDS = GN_ENDS | {"running_mean": "rm", "running_var": "riv"}
D2_ENDS = {"weight": "gamma", "bias": "beta"} | {f"running_{x}": f"running_{x}" for x in ("mean", "var")}  # fmt: skip  # noqa: E501
detectron_gn_name = partial(caffe2_name, norm=GN_ENDS, stem_norm="conv1_gn")
caffe2_bn_name = partial(caffe2_name, norm=BN_ENDS, stem_norm="res_conv1_bn")
caffe2_d2_name = partial(caffe2_name, norm=D2_ENDS, stem_norm="res_conv1_bn")


@known
def detectron2_name(name: str) -> str:
    layer, block, what, parameter = parts(name)
    if what == "fc":
        return f"stem.fc.{parameter}"
    place = f"res{int(layer) + 1}.{block}" if layer else "stem"
    if what.startswith("skip"):
        return f"{place}.shortcut{'.norm' if what == 'skipnorm' else ''}.{parameter}"
    return f"{place}.conv{what[-1]}{'.norm' if 'norm' in what else ''}.{parameter}"


def tensorpack_name(name: str, norm: str) -> str:
    if "." not in name:
        return name
    layer, block, what, parameter = parts(name)
    if what == "fc":
        return {"weight": "linear/W", "bias": "linear/b"}[parameter]
    place = "conv0"
    if layer:
        conv = "shortcut" if what.startswith("skip") else what[-1]
        place = f"group{int(layer) - 1}/block{block}/conv{conv}"
    if "norm" not in what:
        return f"{place}/W"
    ends = {"weight": "gamma", "bias": "beta", "running_mean": "mean/EMA"}
    return f"{place}/{norm}/{ends.get(parameter, 'variance/EMA')}"


@known
def pyslowfast_name(name: str) -> str:
    layer, block, what, parameter = parts(name)
    if what == "fc":
        return f"head.projection.{parameter}"
    if not layer:
        return f"s1.pathway0_stem.{'bn' if what == 'norm1' else 'conv'}.{parameter}"
    branch = "branch1" if what.startswith("skip") else f"branch2.{'abc'[int(what[-1]) - 1]}"
    return f"s{int(layer) + 1}.pathway0_res{block}.{branch}{'_bn' if 'norm' in what else ''}.{parameter}"  # noqa: E501


def pytorchvideo_name(name: str, pool2: bool) -> str:
    if "." not in name:
        return name
    layer, block, what, parameter = parts(name)
    kind = "norm" if "norm" in what else "conv"
    if what == "fc":
        return f"blocks.{6 if pool2 else 5}.proj.{parameter}"
    if not layer:
        return f"blocks.0.{kind}.{parameter}"
    part = int(layer) + (1 if pool2 and layer != "1" else 0)
    branch = f"branch1_{kind}"
    if not what.startswith("skip"):
        branch = f"branch2.{kind}_{'abc'[int(what[-1]) - 1]}"
    return f"blocks.{part}.res_blocks.{block}.{branch}.{parameter}"


@known
def mmaction_name(name: str) -> str:
    layer, block, what, parameter = parts(name)
    if what == "fc":
        return f"cls_head.fc_cls.{parameter}"
    place = f"backbone.layer{layer}.{block}" if layer else "backbone"
    conv = "downsample" if what.startswith("skip") else f"conv{what[-1]}"
    return f"{place}.{conv}.{'bn' if 'norm' in what else 'conv'}.{parameter}"


# ---- containers --------------------------------------------------------------------------------


def torch_bytes(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def counters(tensors: Tensors) -> dict[str, Tensor]:
    """Returns BN's counters, which PyTorch's files have."""
    ends = [name for name in tensors if name.endswith("running_var")]
    return {name.replace("running_var", "num_batches_tracked"): torch.tensor(7) for name in ends}


def renamed(tensors: Tensors, name: Callable[[str], str]) -> dict[str, Tensor]:
    return {name(k): v.contiguous() for k, v in (dict(tensors) | counters(tensors)).items()}


def arrays(tensors: Tensors, name: Callable[[str], str]) -> dict[str, Any]:
    return {name(k): v.contiguous().numpy() for k, v in tensors.items()}


def squeezed(tensors: Tensors) -> dict[str, Tensor]:
    """Returns 2-D kernels for a network of images."""
    return {k: v.squeeze(2) if v.ndim == 5 else v for k, v in tensors.items()}


def as_torch(tensors: Tensors, path: Path, *, name: Any, wrap: Any = lambda state: state) -> None:
    path.write_bytes(torch_bytes(wrap(renamed(tensors, name))))


def as_safetensors(tensors: Tensors, path: Path, *, name: Any) -> None:
    save_file(renamed(tensors, name), path)


def as_caffe2(tensors: Tensors, path: Path, *, name: Any, extra: Any = None) -> None:
    """Writes what Python 2's Caffe2 wrote, with the state of its optimizer."""
    blobs = arrays(tensors, name) | dict(extra or {})
    some = list(blobs.items())[:3]
    momenta = {f"{key}_momentum": np.zeros_like(blob) for key, blob in some}
    state = {"lr": np.float32(0.01), "model_iter": 400_000}
    path.write_bytes(python2_pickle(blobs | momenta | state))


def as_folded(tensors: Tensors, path: Path, *, flat: bool = False) -> None:
    """Writes batch norm as a scale and a shift; Detectron's have biases of convolutions too."""
    blobs: dict[str, Any] = {}
    for name, tensor in tensors.items():
        if not name.endswith(("running_mean", "running_var")):
            blobs[caffe2_bn_name(name)] = tensor.contiguous().numpy()
    if flat:
        path.write_bytes(pickle.dumps(blobs, 2))
        return
    blobs = {key.replace("pred_", "fc1000_"): blob for key, blob in blobs.items()}
    blobs |= {"conv1_b": np.zeros(8, np.float32), "res2_0_branch1_b": np.zeros(32, np.float32)}
    path.write_bytes(pickle.dumps(blobs, 2))


def as_detectron2(tensors: Tensors, path: Path, *, name: Any, author: str) -> None:
    content = {"model": arrays(tensors, name), "__author__": author, "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content))


CONV_BIAS = torch.linspace(-1, 1, 8)


def as_msra_copy(tensors: Tensors, path: Path) -> None:
    """Writes the copy that Detectron2 downloads: its stem has a bias, taken off its mean here."""
    edited = dict(tensors)
    mean = edited.get("norm1.running_mean")
    if mean is not None and mean.shape == CONV_BIAS.shape:
        edited["norm1.running_mean"] = mean + CONV_BIAS
        edited["conv1.bias"] = CONV_BIAS
    as_detectron2(edited, path, name=caffe2_d2_name, author="Caffe2")


def as_tensorpack(tensors: Tensors, path: Path, *, norm: str, end: str = "") -> None:
    variables: dict[str, Any] = {
        "global_step": np.int64(9), "learning_rate": np.float32(0.1), "cost/EMA": np.float32(1),
    }  # fmt: skip
    for name, tensor in tensors.items():
        value = tensor.numpy()
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
        variables[tensorpack_name(name, norm)] = value
    variables["conv0/W/Momentum"] = np.zeros((7, 7, 3, 8), np.float32)
    save = np.savez_compressed if end else np.savez  # tensorpack has done both
    save(path, **{f"{key}{end}": value for key, value in variables.items()})
    path.with_name(f"{path.name}.npz").rename(path)  # which numpy insists on


def as_pyslowfast(tensors: Tensors, path: Path, *, cfg: str | None) -> None:
    content = {"epoch": 196, "model_state": renamed(tensors, pyslowfast_name)}
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    content |= {"optimizer_state": optimizer, "scaler_state": None}
    path.write_bytes(torch_bytes(content if cfg is None else content | {"cfg": cfg}))


def as_mmaction(tensors: Tensors, path: Path) -> None:
    meta = {"epoch": 100, "cfg": "model = dict(type='Recognizer3D')", "dataset_meta": {}}
    path.write_bytes(
        torch_bytes({"meta": meta, "state_dict": renamed(tensors, mmaction_name), "optimizer": {}})
    )


# ---- the layouts -------------------------------------------------------------------------------


def statistics(x: Tensor, mean: list[float], std: list[float]) -> Tensor:
    return (x - torch.tensor(mean).view(3, 1, 1, 1)) / torch.tensor(std).view(3, 1, 1, 1)


def imagenet(rgb: Tensor) -> Tensor:
    return statistics(rgb, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def imagenet_bgr(rgb: Tensor) -> Tensor:
    return statistics(rgb.flip(1), [0.406, 0.456, 0.485], [0.225, 0.224, 0.229])


def kinetics(rgb: Tensor) -> Tensor:
    return (255 * rgb - 114.75) / 57.375


def caffe(rgb: Tensor) -> Tensor:
    """Detectron's: B, G, R of 0..255 minus a mean; the std is absorbed in the weights."""
    return statistics(255 * rgb.flip(1), [102.9801, 115.9465, 122.7717], [1.0, 1.0, 1.0])


def reversed_colors(rgb: Tensor) -> Tensor:
    """PySlowFast's with DATA.REVERSE_INPUT_CHANNEL and statistics of its own, in B, G, R."""
    return statistics(rgb.flip(1), [0.4, 0.45, 0.5], [0.2, 0.225, 0.25])


REVERSED = """
DATA: {MEAN: [0.4, 0.45, 0.5], STD: [0.2, 0.225, 0.25], REVERSE_INPUT_CHANNEL: true}
MODEL: {ARCH: i3d}
RESNET: {STRIDE_1X1: false, SPATIAL_STRIDES: [[1], [2], [2], [2]]}
"""


@dataclass(frozen=True)
class Variant:
    """A file of one layout: the network it is of, what that is fed, and how it is written.

    Attributes:
        layout: the name that the reader gives.
        arch: of the network.
        norm: of the network.
        feed: RGB (N, 3, T, H, W) on [0, 1] -> what the network is fed.
        write: tensors under our names and a path -> a file.
        padding: of the pool after the stem.
        tolerance: of the logits.
    """

    layout: str
    arch: Arch
    norm: NormKind
    feed: Callable[[Tensor], Tensor]
    write: Callable[[Tensors, Path], None]
    padding: int = 1
    tolerance: float = 2e-5

    def network(self, **options: Any) -> I3DResNet:
        """Returns the network with its initial weights."""
        return network(self.arch, self.norm, **({"padding": self.padding} | options))

    def source(self) -> I3DResNet:
        """Returns the network that the file is of."""
        model = self.network()
        model.load_state_dict(_weights(self))
        return model

    def tensors(self) -> dict[str, Tensor]:
        """Returns what is in the file, under our names; 2-D kernels for a network of images."""
        state = _weights(self)
        plain = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
        return squeezed(plain) if self.arch == self.arch.image() else plain

    def file(self, folder: Path, edit: Callable[[dict[str, Tensor]], None] | None = None) -> Path:
        """Returns the path of a file of the network's weights, edited."""
        tensors = self.tensors()
        if edit:
            edit(tensors)
        self.write(tensors, folder / "edited")
        return folder / "edited"


@cache
def _weights(variant: Variant) -> dict[str, Tensor]:
    """Returns the state dict of the network of a file."""
    weights = named_weights(variant.network().state_dict())
    if variant.feed is caffe:
        weights["conv1.weight"] = weights["conv1.weight"] / 57.0  # for pixels of 0..255
    if variant.write in FOLDED:
        for name in weights:
            if name.endswith("running_mean"):
                weights[name] = torch.zeros_like(weights[name])
            elif name.endswith("running_var"):
                weights[name] = torch.full_like(weights[name], 1 - 1e-5)
    return weights


flat_folded = partial(as_folded, flat=True)
FOLDED = (as_folded, flat_folded)
GNR = partial(
    as_torch,
    name=lambda name: f"module.{torchvision_name(name)}",
    wrap=lambda state: {"epoch": 90, "arch": "resnet50", "state_dict": state, "best_acc1": 76.0},
)
PTV = partial(as_torch, wrap=lambda state: {"model_state": state})
pyslowfast = partial(as_pyslowfast, cfg=None)
nonlocal_net = partial(as_caffe2, name=caffe2_bn_name)
pool2 = partial(pytorchvideo_name, pool2=True)
no_pool2 = partial(pytorchvideo_name, pool2=False)
d2 = partial(as_detectron2, name=detectron2_name)

# fmt: off
VARIANTS: dict[str, Variant] = {
    "torchvision": Variant("torchvision", IMAGE, "bn", imagenet,
                           partial(as_torch, name=torchvision_name)),
    "GroupNorm-reproduce": Variant("torchvision", IMAGE, "gn", imagenet, GNR),
    "timm": Variant("torchvision", IMAGE, "gn", imagenet,
                    partial(as_safetensors, name=torchvision_name)),
    "Detectron GN": Variant("detectron", IMAGE, "gn", caffe,
                            partial(as_caffe2, name=detectron_gn_name), tolerance=1e-4),
    "Detectron MSRA": Variant("detectron", MSRA, "frozen_bn", caffe, as_folded, tolerance=1e-4),
    "Detectron2 MSRA": Variant("detectron", MSRA, "bn", caffe, as_msra_copy, tolerance=1e-4),
    "Detectron2 torchvision": Variant("detectron2", IMAGE, "bn", imagenet,
                                      partial(d2, author="torchvision")),
    "Detectron2 GN": Variant("detectron2", IMAGE, "gn", caffe, partial(d2, author="Caffe2"),
                             tolerance=1e-4),
    "tensorpack GN": Variant("tensorpack", IMAGE, "gn", imagenet_bgr,
                             partial(as_tensorpack, norm="gn")),
    "tensorpack BN": Variant("tensorpack", IMAGE, "bn", imagenet_bgr,
                             partial(as_tensorpack, norm="bn", end=":0")),
    "Non-local 2-D": Variant("video-nonlocal-net", IMAGE, "bn", kinetics, nonlocal_net),
    "Non-local I3D": Variant("video-nonlocal-net", ORG, "bn", kinetics, nonlocal_net, padding=0),
    "Non-local affine": Variant("video-nonlocal-net", ORG, "frozen_bn", kinetics, flat_folded,
                                padding=0, tolerance=1e-4),
    "PySlowFast zoo": Variant("video-nonlocal-net", EVERY_FRAME, "bn", kinetics, nonlocal_net),
    "PySlowFast I3D": Variant("pyslowfast", EVERY_FRAME, "bn", kinetics, pyslowfast),
    "PySlowFast C2D": Variant("pyslowfast", C2D, "bn", kinetics,
                              partial(as_pyslowfast, cfg="MODEL: {ARCH: c2d}")),
    "PySlowFast Slow": Variant("pyslowfast", SLOW, "bn", kinetics, pyslowfast),
    "PySlowFast BGR": Variant("pyslowfast", EVERY_FRAME, "bn", reversed_colors,
                              partial(as_pyslowfast, cfg=REVERSED)),
    "PyTorchVideo I3D": Variant("pytorchvideo", EVERY_FRAME, "bn", kinetics,
                                partial(PTV, name=pool2)),
    "PyTorchVideo C2D": Variant("pytorchvideo", C2D, "bn", kinetics, partial(PTV, name=pool2)),
    "PyTorchVideo Slow": Variant("pytorchvideo", SLOW, "bn", kinetics,
                                 partial(PTV, name=no_pool2)),
    "MMAction2 I3D": Variant("mmaction2", MMACTION, "bn", imagenet, as_mmaction),
    "MMAction2 Slow-only": Variant("mmaction2", SLOW, "bn", imagenet, as_mmaction),
}
# fmt: on
