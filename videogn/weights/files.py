"""Where a file of weights comes from: a path, or a known name that is downloaded once."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import torch

from videogn.errors import WeightsError
from videogn.nearest import nearest

log = logging.getLogger(__name__)

_META = "https://dl.fbaipublicfiles.com"
_TENSORPACK = "http://models.tensorpack.com/FasterRCNN"  # it has no https
_MMACTION_I3D = "i3d_imagenet-pretrained-r50_8xb8-32x2x1-100e_kinetics400-rgb"


@dataclass(frozen=True)
class KnownFile:
    """A published file of weights.

    Attributes:
        origin: its URL, or the name of a weight of torchvision, whose URL torchvision knows.
        note: what it holds.
        top1_error: percent, as published: on ImageNet's validation set with one center crop, or
            on that of Kinetics-400 with 10 x 3 views.
        megabytes: of its weights in fp32; a file with the state of an optimizer is larger.
        options: of the command line, for the network that it fits.
        data: what it was trained on last.
        file: its name in the cache, where that of the URL is not its own.
    """

    origin: str
    note: str
    top1_error: float
    megabytes: int = 102
    options: str = ""
    data: str = "ImageNet"
    file: str = ""

    @property
    def url(self) -> str:
        """The address of the file."""
        if "://" in self.origin:
            return self.origin
        from torchvision.models import get_weight  # a second to import, for two of the names

        return get_weight(self.origin).url

    @property
    def cached(self) -> Path:
        """Where the file is, or will be: in torch.hub's cache."""
        name = self.file or self.url.rsplit("/", 1)[-1]
        return Path(torch.hub.get_dir()).expanduser() / "checkpoints" / name


def _video(origin: str, note: str, top1: float, megabytes: int, options: str) -> KnownFile:
    return KnownFile(origin, note, round(100 - top1, 2), megabytes, options, "Kinetics-400")


_BN = "model.norm.kind=bn"
_MSRA = "model.arch=i3d_r50_stride1x1"
_PADDED = f"{_BN} model.stem_pool_padding=1"
KNOWN: dict[str, KnownFile] = {
    "R-50-GN.pkl": KnownFile(
        f"{_META}/detectron/ImageNetPretrained/47261647/R-50-GN.pkl",
        "Detectron, ResNet-50, 32 groups", 24.0,
    ),
    "R-101-GN.pkl": KnownFile(
        f"{_META}/detectron/ImageNetPretrained/47592356/R-101-GN.pkl",
        "Detectron, ResNet-101, 32 groups", 22.6, 178, "model.arch=i3d_r101",
    ),
    # V1, trained by the plain recipe of the paper's time; V2's 80.9 % would not compare
    "resnet50": KnownFile(
        "ResNet50_Weights.IMAGENET1K_V1", "torchvision, ResNet-50, batch norm", 23.87, 102, _BN
    ),
    "resnet101": KnownFile(
        "ResNet101_Weights.IMAGENET1K_V1", "torchvision, ResNet-101, batch norm", 22.63, 178,
        f"{_BN} model.arch=i3d_r101",
    ),
    "ImageNet-ResNet50-GN.pth": KnownFile(
        "https://github.com/ppwwyyxx/GroupNorm-reproduce/releases/download/v0.1/"
        "ImageNet-ResNet50-GN.pth",
        "GroupNorm-reproduce, ResNet-50, 32 groups (24.1 to 24.3)", 24.2,
    ),
    "resnet50_gn.a1h_in1k": KnownFile(
        "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-rsb-weights/"
        "resnet50_gn_a1h2-8fe6c4d0.pth",
        "timm, ResNet-50, 32 groups, a stronger recipe than the paper's, at 288 pixels", 18.78,
    ),
    "ImageNet-R50-GroupNorm32-AlignPadding.npz": KnownFile(
        f"{_TENSORPACK}/ImageNet-R50-GroupNorm32-AlignPadding.npz",
        "tensorpack, ResNet-50, 32 groups", 24.0,
    ),
    "ImageNet-R101-GroupNorm32-AlignPadding.npz": KnownFile(
        f"{_TENSORPACK}/ImageNet-R101-GroupNorm32-AlignPadding.npz",
        "tensorpack, ResNet-101, 32 groups (22.4 to 22.5)", 22.4, 178, "model.arch=i3d_r101",
    ),
    "detectron-R-50.pkl": KnownFile(
        f"{_META}/detectron/ImageNetPretrained/MSRA/R-50.pkl",
        "MSRA, ResNet-50, batch norm folded, stride in the 1x1", 24.7, 102,
        f"{_MSRA} model.norm.kind=frozen_bn", file="detectron-R-50.pkl",
    ),
    "detectron2-R-50.pkl": KnownFile(
        f"{_META}/detectron2/ImageNetPretrained/MSRA/R-50.pkl",
        "MSRA, ResNet-50, batch norm, stride in the 1x1", 24.7, 102,
        f"{_MSRA} {_BN}", file="detectron2-R-50.pkl",
    ),
    "i3d_baseline_32x2_IN_pretrain_400k.pkl": _video(
        f"{_META}/video-nonlocal/i3d_baseline_32x2_IN_pretrain_400k.pkl",
        "video-nonlocal-net, I3D 32x2: the baseline that Table 8 starts from", 73.6, 112, _BN,
    ),
    "pyslowfast-I3D_8x8_R50.pkl": _video(
        f"{_META}/pyslowfast/model_zoo/kinetics400/I3D_8x8_R50.pkl",
        "PySlowFast, I3D 8x8", 73.5, 112, f"{_PADDED} model.arch=i3d_r50_8x8",
    ),
    "pyslowfast-SLOW_8x8_R50.pkl": _video(
        f"{_META}/pyslowfast/model_zoo/kinetics400/SLOW_8x8_R50.pkl",
        "PySlowFast, Slow 8x8", 74.8, 130, f"{_PADDED} model.arch=slow_r50",
    ),
    "I3D_8x8_R50.pyth": _video(
        f"{_META}/pytorchvideo/model_zoo/kinetics/I3D_8x8_R50.pyth",
        "PyTorchVideo, I3D 8x8", 73.27, 112, f"{_PADDED} model.arch=i3d_r50_8x8",
    ),
    "C2D_8x8_R50.pyth": _video(
        f"{_META}/pytorchvideo/model_zoo/kinetics/C2D_8x8_R50.pyth",
        "PyTorchVideo, C2D 8x8", 71.46, 97, f"{_PADDED} model.arch=c2d_r50",
    ),
    "SLOW_8x8_R50.pyth": _video(
        f"{_META}/pytorchvideo/model_zoo/kinetics/SLOW_8x8_R50.pyth",
        "PyTorchVideo, Slow 8x8", 74.58, 130, f"{_PADDED} model.arch=slow_r50",
    ),
    "mmaction2-i3d_r50": _video(
        "https://download.openmmlab.com/mmaction/v1.0/recognition/i3d/"
        f"{_MMACTION_I3D}/{_MMACTION_I3D}_20220812-e213c223.pth",
        "MMAction2, I3D 32x2", 73.47, 112, f"{_PADDED} model.arch=i3d_r50_mmaction",
    ),
}  # fmt: skip


def find_weights(source: str | Path) -> Path:
    """Returns the path of a file of weights, downloading a known name into torch.hub's cache.

    A known file must have the hash that its publisher put in its name. Where there is none, the
    SHA-256 of the first file seen is printed and written beside it (`.sha256`), and a file that has
    another one later is refused.

    Args:
        source: an existing file, which wins, or a name in `KNOWN`.

    Raises:
        WeightsError: no such file or name, the download failed, or the file is not the one known.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    known = KNOWN.get(str(source))
    if known is None:
        what = "is a folder, not a file" if path.is_dir() else "no such file, and no known name"
        near = nearest(str(source), KNOWN)
        hint = f"did you mean {near}? " if near else ""
        raise WeightsError(f"{source}: {what}; {hint}`run.py weights` lists those known")
    cached = known.cached
    if not cached.is_file():
        _download(str(source), known.url, cached)
    _require_known_hash(cached, _stated_hash(known.url))
    return cached


def _stated_hash(url: str) -> str | None:
    """Returns the beginning of the SHA-256 in a name: resnet50-0676ba61.pth."""
    stated = re.search(r"-([0-9a-f]{8,})\.\w+$", url)
    return stated and stated[1]


def _download(name: str, url: str, target: Path) -> None:
    """Writes `target` whole or not at all; progress goes to stderr."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(target), _stated_hash(url))
    except (OSError, HTTPException, RuntimeError) as error:  # network, disk; protocol; wrong hash
        raise WeightsError(
            f"{name} could not be downloaded ({error}); fetch {url} and put it at {target}, or "
            "give its path as model.init=/path/to/file, or train from scratch with model.init=null"
        ) from error


def _require_known_hash(path: Path, stated: str | None) -> None:
    """Compares a cached file with what its publisher states, or with what it was at first.

    Raises:
        WeightsError: it is another file.
    """
    pin = path.with_name(f"{path.name}.sha256")
    try:
        with path.open("rb") as file:
            have = hashlib.file_digest(file, "sha256").hexdigest()
        if stated is None and not pin.is_file():
            _pin(pin, have, path)
            return
        wanted = stated or pin.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path}: cannot be read ({error})") from error
    if not wanted or not have.startswith(wanted):
        raise WeightsError(
            f"{path} is not the file it should be: its SHA-256 begins {have[:16]}, not "
            f"{wanted[:16]}; delete it"
            + ("" if stated else f", and {pin.name} too if the publisher changed the file")
        )


def _pin(pin: Path, digest: str, path: Path) -> None:
    """Writes the hash of a file seen for the first time; a cache that is read-only stays so."""
    log.info("%s has the SHA-256 %s, which its publisher does not state", path, digest)
    temporary = pin.with_name(f"{pin.name}.{os.getpid()}")  # other ranks do the same
    try:
        temporary.write_text(f"{digest}\n", encoding="ascii")
        temporary.replace(pin)
    except OSError as error:
        log.warning("%s could not be written (%s): the file is not checked later", pin, error)
